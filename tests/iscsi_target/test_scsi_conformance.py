# SPDX-License-Identifier: Apache-2.0
"""libiscsi's conformance suite (iscsi-test-cu of Debian's libiscsi-bin) against units of each kind.

Every test of the suite runs in a process of its own. What may not pass is listed here with the reason, and a test of
the list that begins to pass is a failure too: the list never holds more than is true.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from iscsi_target.scsi.build import target_device
from iscsi_target.scsi.logical_unit import LogicalUnitConfig
from iscsi_target.server import Portal, Target, TargetServer
from tools.conformance import listed, run_one

NAME = "iqn.2026-11.org.example:conformance"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        shutil.which("iscsi-test-cu") is None,
        reason="iscsi-test-cu is missing: install the package libiscsi-bin",
    ),
]

NOT_REMOVABLE = frozenset(
    f"PreventAllow.{name}"
    for name in (
        "Simple",
        "Eject",
        "ITNexusLoss",
        "Logout",
        "WarmReset",
        "ColdReset",
        "LUNReset",
        "2ITNexuses",
    )
) | {"StartStopUnit.Simple"}
NOT_READ_ONLY = frozenset(("ReadOnly.ReadOnlySBC",))
ONE_BLOCK_PER_PHYSICAL_BLOCK = frozenset(
    (
        "CompareAndWrite.InvalidDataOutSize",
        "WriteSame10.UnmapUnaligned",
        "WriteSame10.InvalidDataOutSize",
        "WriteSame16.UnmapUnaligned",
        "WriteSame16.InvalidDataOutSize",
    )
)
TOOL_IS_WRONG = {
    # It asserts a variable that only a later callback sets, and then corrupts its own heap; so it does with tgt and
    # istgt. A recorded run on LIO passed.
    "iSCSITMF.LUNResetSimpleAsync",
}
TOOL_IS_WRONG_WITH_PHYSICAL_BLOCKS = {
    # With several logical blocks per physical block it asks for LBA i + 1 and wants a descriptor that begins at the
    # next physical block; SBC-3 5.3.2 has the first descriptor begin at the LBA asked for. tgt fails it too.
    "GetLBAStatus.UnmapSingle",
}
NEEDS_A_SLOW_MEDIUM = {
    # Wants a SANITIZE that goes on for more than five seconds, through the abortion of its command.
    "Sanitize.Reset",
}


@contextmanager
def _served(luns: Sequence[str], config: LogicalUnitConfig) -> Iterator[tuple[str, str]]:
    """The URLs of LUN 0 through two portals of different groups."""
    device = target_device(NAME, luns, config, target_ports=(1, 2))
    server = TargetServer(
        [Target(name=NAME, logical_units=device)],
        [Portal("127.0.0.1", 0, portal_group_tag=1), Portal("127.0.0.1", 0, portal_group_tag=2)],
    )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
        one, two = (f"iscsi://127.0.0.1:{portal.port}/{NAME}/0" for portal in server.portals)
        yield one, two
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        device.close()


def _hold(urls: tuple[str, str], names: Sequence[str], *, skips: frozenset[str], fails: set[str]) -> None:
    assert names
    results = {name: run_one(urls, name) for name in names}
    expected = {name: "skip" if name in skips else "fail" if name in fails else "pass" for name in names}
    wrong = {
        name: result
        for name, result in results.items()
        if result.partition(":")[0].partition(",")[0] != expected[name]
        and not (expected[name] == "fail" and result.startswith("no verdict"))
    }
    assert wrong == {}


@pytest.fixture(scope="module")
def names() -> list[str]:
    found = listed()
    assert len(found) >= 200
    return found


def _chosen(names: list[str], pattern: str) -> list[str]:
    return [name for name in names if re.match(pattern, name)]


@pytest.mark.parametrize("half", [0, 1])
def test_a_thin_disk_in_memory_passes(names: list[str], half: int) -> None:
    chosen = [name for name in names if name not in NEEDS_A_SLOW_MEDIUM and "Multipath" not in name][half::2]
    with _served(["64MiB"], LogicalUnitConfig()) as urls:
        _hold(
            urls,
            chosen,
            skips=NOT_REMOVABLE | NOT_READ_ONLY,
            fails=TOOL_IS_WRONG | TOOL_IS_WRONG_WITH_PHYSICAL_BLOCKS,
        )


def test_two_paths_to_a_fresh_disk_pass(names: list[str]) -> None:
    """Fresh, because MultipathIO.CompareAndWrite counts on LBA 256 being zeros, and does not see to it."""
    with _served(["64MiB"], LogicalUnitConfig()) as urls:
        _hold(urls, _chosen(names, "MultipathIO"), skips=frozenset(), fails=set())


def test_a_removable_disk_without_physical_blocks_passes(names: list[str]) -> None:
    chosen = _chosen(
        names, r"PreventAllow|StartStop|NoMedia|GetLBAStatus|CompareAndWrite|WriteSame|Inquiry|Mode"
    )
    with _served(["64MiB"], LogicalUnitConfig(removable=True, physical_block_exponent=0)) as urls:
        _hold(urls, chosen, skips=ONE_BLOCK_PER_PHYSICAL_BLOCK, fails=set())


def test_a_read_only_disk_passes(names: list[str]) -> None:
    chosen = _chosen(names, r"ReadOnly|Inquiry|ReadCapacity|Read10|Mandatory")
    with _served(["64MiB"], LogicalUnitConfig(read_only=True)) as urls:
        _hold(urls, chosen, skips=frozenset(), fails=set())


def test_a_disk_in_a_sparse_file_passes(names: list[str], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    chosen = [
        name
        for name in _chosen(
            names, r"Sanitize|Unmap|WriteSame|CompareAndWrite|Prout|Read16|Write16|OrWrite|Extended"
        )
        if name not in NEEDS_A_SLOW_MEDIUM
    ]
    with _served([str(disk)], LogicalUnitConfig()) as urls:
        _hold(urls, chosen, skips=frozenset(), fails=set())
