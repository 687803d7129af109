# SPDX-License-Identifier: Apache-2.0
"""libiscsi's conformance suite (iscsi-test-cu of Debian's libiscsi-bin) against our target, tgtd, or any other.

Every test of the suite runs in a process of its own, so that one that breaks the tool ends nothing else. Our target is
served as the kinds of logical unit in :data:`KINDS`, since no single unit can be removable and fixed, writable and
read-only; what each kind is expected to give is said there too, and the tests hold it to that.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from iscsi_target.scsi.build import target_device
from iscsi_target.scsi.logical_unit import LogicalUnitConfig
from iscsi_target.server import Portal, Target, TargetServer
from iscsi_target.session.limits import Limits
from tools.libiscsi_recorded import Recorded
from tools.ports import free_port

NAME = "iqn.2026-11.org.example:conformance"
LUN_BYTES = 64 << 20
ONE_TEST_S = 30
PASS, FAIL, SKIP = "pass", "fail", "skip"
_FAILED = re.compile(r"^\s+tests\s+1\s+1\s+\d+\s+1\s", re.M)
_PASSED = re.compile(r"^\s+tests\s+1\s+1\s+1\s+0\s", re.M)


class Missing(Exception):
    """What is needed is not here; the text says what, and how to get it."""


# -- the suite --------------------------------------------------------------------------------------------------------


def suite() -> str:
    """The tool's path. Raises Missing with the package to install."""
    found = shutil.which("iscsi-test-cu")
    if found is None:
        raise Missing("iscsi-test-cu is missing: apt-get install libiscsi-bin")
    return found


def listed() -> list[str]:
    """The tests of family ALL, as Suite.Test."""
    listing = subprocess.run([suite(), "-l"], capture_output=True, text=True, check=True, timeout=ONE_TEST_S)
    return sorted(set(re.findall(r"\bALL\.(\w+\.[\w-]+)", listing.stdout)))


def run_one(urls: Sequence[str], name: str, timeout_s: float = ONE_TEST_S) -> str:
    """One test (Suite.Test): "pass", "skip", "time-out", "fail: …" or "no verdict…" with the tool's complaint.

    `urls`: the logical unit, and where there is one its second path. DESTROYS what is on the unit.
    """
    argv = [suite(), "-v", "-d", "-S", "-t", f"ALL.{name}", *urls]
    try:
        ran = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return "time-out"
    output = ran.stdout + ran.stderr
    if _FAILED.search(output):
        complaint = re.search(r"\[FAILED\].*|^\s+1\. .*", output, re.M)
        return f"fail: {complaint[0].strip() if complaint else output[-300:]}"
    if not _PASSED.search(output):
        complaint = re.search(r"^\s+1\. .*", output, re.M)
        said = complaint[0] if complaint else output[-300:]
        return f"no verdict, exit {ran.returncode}: {said.strip()}"
    return SKIP if "[SKIPPED]" in output else PASS


def verdict_of(result: str) -> str:
    """ "pass", "skip" or "fail" of what :func:`run_one` gave; a test without a verdict has not passed."""
    return result if result in (PASS, SKIP) else FAIL


# -- our target -------------------------------------------------------------------------------------------------------

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

EXCEPTIONS = frozenset(
    (
        # It asserts a variable that only the callback of the answer sets, before it has sent the request; then it
        # frees the task that is under way. libiscsi's commit 5553d6b ("This patch fixes a race condition") mends it.
        "iSCSITMF.LUNResetSimpleAsync",
    )
)
"""What passes on no unit of ours: the tool is wrong. docs/conformance.md says more."""

SLOW_SANITIZE = frozenset(("Sanitize.Reset",))
"""Wants a SANITIZE that goes on for more than five seconds, through the abortion of its command and every reset."""
ASKS_BESIDE = frozenset(("GetLBAStatus.UnmapSingle",))
"""With n logical blocks per physical block it asks for LBA i + 1 and wants a descriptor that begins at LBA i + n;
SBC-3 5.3.2 has the first descriptor begin at the LBA asked for. With n = 1 they are the same."""
COUNTS_ON_ZEROS = frozenset(("MultipathIO.CompareAndWrite",))
"""It zeros LBA 0 to 255 and then counts on LBA 256 being zeros; libiscsi's commit 33c66f2 mends it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of logical unit and what the suite is to give on it."""

    name: str
    config: LogicalUnitConfig
    tests: str = ""
    """A regular expression that begins the names of the tests to run; all of them by default."""
    without: frozenset[str] = frozenset()
    """Tests that are left out here, since a unit of another kind is made for them."""
    skips: frozenset[str] = frozenset()
    fails: frozenset[str] = EXCEPTIONS
    lun: str = str(LUN_BYTES)
    """What it lives in, as open_store takes it; `{disk}` becomes the path of a sparse file."""
    limits: Limits | None = None
    one_test_s: float = 3 * ONE_TEST_S
    """Ours may take its time on a busy machine; of tgtd, some tests are never over."""

    def expected(self, names: Sequence[str]) -> dict[str, str]:
        """The verdict by test, of those that run on this kind."""
        return {
            name: SKIP if name in self.skips else FAIL if name in self.fails else PASS
            for name in names
            if re.match(self.tests, name) and name not in self.without
        }


_MULTIPATH = "MultipathIO"
KINDS = (
    Kind(
        "thin disk",
        LogicalUnitConfig(),
        tests=f"(?!{_MULTIPATH})",
        without=SLOW_SANITIZE,
        skips=NOT_REMOVABLE | NOT_READ_ONLY,
        fails=EXCEPTIONS | ASKS_BESIDE,
    ),
    Kind("two paths to a fresh disk", LogicalUnitConfig(), tests=_MULTIPATH),
    Kind(
        "removable, one block per physical block",
        LogicalUnitConfig(removable=True, physical_block_exponent=0),
        tests="PreventAllow|StartStop|NoMedia|GetLBAStatus|CompareAndWrite|WriteSame|Inquiry|Mode",
        skips=ONE_BLOCK_PER_PHYSICAL_BLOCK,
    ),
    Kind(
        "read-only disk",
        LogicalUnitConfig(read_only=True),
        tests="ReadOnly|Inquiry|ReadCapacity|Read10|Mandatory",
    ),
    Kind(
        "disk in a sparse file",
        LogicalUnitConfig(),
        tests="Sanitize|Unmap|WriteSame|CompareAndWrite|Prout|Read16|Write16|OrWrite|Extended",
        without=SLOW_SANITIZE,
        lun="{disk}",
    ),
    Kind(
        "snapshot whose changes live in a file",
        LogicalUnitConfig(),
        tests="Sanitize|Unmap|WriteSame16|CompareAndWrite|Read16|Write16|WriteAtomic|OrWrite|Verify16",
        without=SLOW_SANITIZE,
        lun="snapshot:{disk},overlay={disk}.overlay",
    ),
    Kind(
        "disk that takes 8 seconds for a SANITIZE",
        LogicalUnitConfig(sanitize_bytes_per_s=LUN_BYTES // 8),
        tests="Sanitize.Reset",
        # The tool sleeps for a minute, and answers no ping while it does.
        limits=Limits(idle_ping_ns=180_000_000_000),
        one_test_s=150,
    ),
)


def merged(by_kind: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """One verdict by test: passed when it passed on some kind of unit, else failed when it failed on some."""
    together: dict[str, str] = {}
    for verdicts in by_kind:
        for name, verdict in verdicts.items():
            together[name] = min(together.get(name, SKIP), verdict, key=(PASS, FAIL, SKIP).index)
    return dict(sorted(together.items()))


@contextmanager
def served(kind: Kind, folder: Path) -> Iterator[tuple[str, str]]:
    """A target of ours in this process with one unit of a kind: its URLs through two portal groups."""
    disk = folder / "disk"
    if "{disk}" in kind.lun:
        with disk.open("wb") as file:
            file.truncate(LUN_BYTES)
    device = target_device(NAME, [kind.lun.format(disk=disk)], kind.config, target_ports=(1, 2))
    server = TargetServer(
        [Target(name=NAME, logical_units=device)],
        [Portal("127.0.0.1", 0, portal_group_tag=1), Portal("127.0.0.1", 0, portal_group_tag=2)],
        limits=kind.limits,
    )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(60)
        one, two = (f"iscsi://127.0.0.1:{portal.port}/{NAME}/0" for portal in server.portals)
        yield one, two
    finally:
        device.interrupt()
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        device.close()


def run_kind(kind: Kind, names: Sequence[str], folder: Path) -> dict[str, str]:
    """Results (as of :func:`run_one`) by test, of those of `names` that run on a kind, on a fresh unit."""
    chosen = kind.expected(names)
    with served(kind, folder) as urls:
        return {name: run_one(urls, name, kind.one_test_s) for name in chosen}


# -- tgtd -------------------------------------------------------------------------------------------------------------


def tgtd_version() -> str:
    """What `tgtd --version` says. Raises Missing with the package to install."""
    daemon = shutil.which("tgtd") or shutil.which("tgtd", path="/usr/sbin:/sbin")
    if daemon is None:
        raise Missing("tgtd is missing: apt-get install tgt")
    said = subprocess.run([daemon, "--version"], capture_output=True, text=True, check=False, timeout=60)
    return said.stdout.strip().splitlines()[0].strip() if said.stdout.strip() else "of unknown version"


@contextmanager
def tgtd(folder: Path) -> Iterator[str]:
    """A tgtd of our own with one thin unit of 64 MiB: its URL.

    It has a port, a control port and a control socket to itself; it is ended by its process number. Raises Missing
    without tgtd or without root.
    """
    tgtd_version()
    daemon, admin = (
        shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin") for name in ("tgtd", "tgtadm")
    )
    if daemon is None or admin is None:
        raise Missing("tgtadm is missing: apt-get install tgt")
    if os.geteuid() != 0:
        raise Missing("tgtd runs as root only")
    port = free_port()
    control = str(31_000 + os.getpid() % 1_700)  # a short in tgtd; apart from those of other tests
    disk = folder / "tgtd-disk"
    with disk.open("wb") as file:
        file.truncate(LUN_BYTES)
    environment = os.environ | {
        "TGT_IPC_SOCKET": str(folder / "tgtd-socket")
    }  # else it stays behind in /var/run
    process = subprocess.Popen(
        [daemon, "-f", "-C", control, "--iscsi", f"portal=127.0.0.1:{port}"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def tell(*words: str) -> int:
        argv = [admin, "-C", control, "--lld", "iscsi", *words]
        return subprocess.run(argv, capture_output=True, timeout=60, env=environment, check=False).returncode

    try:
        deadline = time.monotonic() + 60
        while tell("--mode", "target", "--op", "new", "--tid", "1", "-T", NAME):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Missing(f"tgtd does not answer (exit status {process.poll()})")
            time.sleep(0.05)
        for words in (
            ("logicalunit", "--op", "new", "--tid", "1", "--lun", "1", "-b", str(disk)),
            ("logicalunit", "--op", "update", "--tid", "1", "--lun", "1", "-P", "thin_provisioning=1"),
            ("target", "--op", "bind", "--tid", "1", "-I", "ALL"),
        ):
            if tell("--mode", *words):
                raise Missing(f"tgtadm refuses {' '.join(words)}")
        yield f"iscsi://127.0.0.1:{port}/{NAME}/1"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(60)


# -- the table --------------------------------------------------------------------------------------------------------


def cell(verdicts: Mapping[str, str], names: Collection[str]) -> str:
    """Passed / failed / skipped of these tests; empty when none of them ran."""
    ran = [verdicts[name] for name in names if name in verdicts]
    return " / ".join(str(ran.count(kind)) for kind in (PASS, FAIL, SKIP)) if ran else ""


def table(columns: Mapping[str, Mapping[str, str]], peers: Sequence[Recorded] = ()) -> list[list[str]]:
    """Header, a row for each family of the suite, and the sums. `columns`: verdicts by test, by column title."""
    names = sorted({name for verdicts in columns.values() for name in verdicts})
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(name.partition(".")[0], []).append(name)
    rows = [["suite", *columns, *(f"{peer.name} (recorded)" for peer in peers)]]
    rows += [
        [
            family,
            *(cell(verdicts, of) for verdicts in columns.values()),
            *(peer.cell(of) for peer in peers),
        ]
        for family, of in sorted(families.items(), key=lambda item: item[0].lower())
    ]
    rows.append(
        [
            "**all**",
            *(cell(verdicts, names) for verdicts in columns.values()),
            *(peer.totals for peer in peers),
        ]
    )
    return rows
