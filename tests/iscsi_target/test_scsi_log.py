# SPDX-License-Identifier: Apache-2.0
"""LOG SENSE: the pages there are, and that they say what is so."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from iscsi_target.scsi.logical_unit import cdrom_config
from iscsi_target.scsi.stores.file import FileStore
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.stores.null import NullStore
from iscsi_target.scsi.stores.store import BackingStore
from tests.iscsi_target.scsi_rig import BLOCK, Answer, Initiator, rig

SIZE = 64 << 20


def _log(host: Initiator, page: int, subpage: int = 0, *, control: int = 1, length: int = 512) -> Answer:
    return host.send(struct.pack(">BBBBxHHB", 0x4D, 0, control << 6 | page, subpage, 0, length, 0))


def _resources(host: Initiator) -> dict[int, int]:
    """Parameter code → threshold sets, of the logical block provisioning page (SBC-3 6.4.5)."""
    data = _log(host, 0x0C).data
    assert data[0] == 0x8C
    assert int.from_bytes(data[2:4], "big") == len(data) - 4
    counts = {}
    for at in range(4, len(data), 12):
        code, control, length, count = struct.unpack_from(">HBBI", data, at)
        assert (control, length) == (0x03, 8)
        counts[code] = count
    return counts


def test_the_supported_pages_are_those_that_are_answered() -> None:
    host = rig().initiator()
    listed = _log(host, 0x00).data
    assert listed == bytes.fromhex("80 00 00 03 00 0c 2f")
    for page in range(0x40):
        assert (_log(host, page).status == 0) is (page in listed[4:])


def test_the_pages_with_subpages_are_listed_too() -> None:
    assert _log(rig().initiator(), 0x00, 0xFF).data == bytes.fromhex("c0 ff 00 08 00 00 00 ff 0c 00 2f 00")


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_the_resources_of_a_thin_unit_follow_what_is_written_and_unmapped(kind: str, tmp_path: Path) -> None:
    store: BackingStore = MemoryStore(SIZE) if kind == "memory" else FileStore(tmp_path / "disk", SIZE)
    host = rig(store=store).initiator()
    assert host.send("12 01 b2 00 ff 00").data[4] == 11  # threshold sets of 2**11 blocks: 1 MiB
    before = _resources(host)
    assert before[2] == 0
    assert 0 < before[1] <= 64
    for mebibyte in range(3):
        cdb = struct.pack(">BBIxHB", 0x2A, 8, mebibyte * 2048, 2048, 0)
        assert host.send(cdb, b"x" * (2048 * BLOCK)).status == 0
    assert _resources(host)[2] == 3
    data = struct.pack(">HH4xQI4x", 22, 16, 2048, 2048)
    assert host.send("42 00 00 00 00 00 00 00 18 00", data).status == 0
    assert _resources(host)[2] == 2
    store.close()


def test_a_unit_that_knows_nothing_of_its_space_has_no_such_page() -> None:
    host = rig(store=NullStore(SIZE)).initiator()
    assert _log(host, 0x00).data[4:] == bytes.fromhex("00 2f")
    assert host.send("12 01 b2 00 ff 00").data[4] == 0
    assert _log(host, 0x0C).sense == (5, 0x24, 0x00)


def test_there_are_no_informational_exceptions_and_no_temperature() -> None:
    assert _log(rig().initiator(), 0x2F).data == bytes.fromhex("af 00 00 08 0000 03 04 00 00 ff ff")


@pytest.mark.parametrize(
    "cdb",
    [
        "4d 01 40 00 00 00 00 02 00 00",  # SP: nothing is saved
        "4d 02 40 00 00 00 00 02 00 00",  # PPC is obsolete
        "4d 00 6f 01 00 00 00 02 00 00",  # no such subpage
        "4d 00 4d 00 00 00 00 02 00 00",  # no temperature
        "4d 00 2f 00 00 00 00 02 00 00",  # threshold values
        "4d 00 6f 00 00 00 01 02 00 00",  # a parameter pointer
    ],
)
def test_what_there_is_not_is_refused(cdb: str) -> None:
    assert rig().initiator().send(cdb).sense == (5, 0x24, 0x00)


def test_the_allocation_length_cuts() -> None:
    host = rig().initiator()
    assert _log(host, 0x00, length=5).data == bytes.fromhex("80 00 00 03 00")
    assert _log(host, 0x00, length=0).data == b""


def test_a_cdrom_drive_keeps_no_log() -> None:
    assert _log(rig(cdrom_config()).initiator(), 0x00).sense == (5, 0x20, 0x00)
