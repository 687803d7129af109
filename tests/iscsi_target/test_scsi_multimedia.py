# SPDX-License-Identifier: Apache-2.0
"""What a host asks a CD-ROM drive, with answers written down from MMC-6."""

from __future__ import annotations

import pytest

from iscsi_target.scsi.logical_unit import cdrom_config
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.stores.null import NullStore
from tests.iscsi_target.scsi_rig import Initiator, rig

BLOCKS = 1000


def _drive() -> Initiator:
    return rig(cdrom_config(), store=MemoryStore(BLOCKS * 2048)).initiator()


@pytest.mark.parametrize(
    ("cdb", "expected"),
    [
        ("43 00 00 00 00 00 00 00 ff 00", "0012 01 01  00 14 01 00 00000000  00 14 aa 00 000003e8"),
        # 1000 blocks and the pregap of 150 are 15 seconds and 25 frames
        ("43 02 00 00 00 00 00 00 ff 00", "0012 01 01  00 14 01 00 00000200  00 14 aa 00 00000f19"),
        ("43 00 00 00 00 00 aa 00 ff 00", "000a 01 01  00 14 aa 00 000003e8"),
        ("43 00 01 00 00 00 00 00 ff 00", "000a 01 01  00 14 01 00 00000000"),
        ("43 00 00 00 00 00 00 00 04 00", "0012 01 01"),
    ],
)
def test_the_table_of_contents_has_one_data_track(cdb: str, expected: str) -> None:
    assert _drive().send(cdb).data == bytes.fromhex(expected)


@pytest.mark.parametrize(
    "cdb", ["43 00 05 00 00 00 00 00 ff 00", "43 00 00 00 00 00 02 00 ff 00", "4a" + "00" * 9]
)
def test_what_the_drive_does_not_have_is_refused(cdb: str) -> None:
    assert _drive().send(cdb).sense == (5, 0x24, 0x00)


@pytest.mark.parametrize(("size", "profile"), [(700 << 20, "0008"), (4 << 30, "0010")])
def test_the_profile_follows_the_size_of_the_image(size: int, profile: str) -> None:
    drive = rig(cdrom_config(), store=NullStore(size)).initiator()
    data = drive.send("46 00 00 00 00 00 00 00 ff 00").data
    assert data[6:8] == bytes.fromhex(profile)
    assert int.from_bytes(data[:4], "big") == len(data) - 4


def test_features_are_listed_and_can_be_asked_for_one_by_one() -> None:
    drive = _drive()
    data, codes, at = drive.send("46 00 00 00 00 00 00 01 ff 00").data, [], 8
    while at < len(data):
        codes.append(int.from_bytes(data[at : at + 2], "big"))
        at += 4 + data[at + 3]
    assert codes == [0x0000, 0x0001, 0x0003, 0x0010, 0x001E, 0x001F]
    assert drive.send("46 02 00 03 00 00 00 00 ff 00").data[8:] == bytes.fromhex("0003 07 04 29000000")
    assert b"\x00\x1f" not in drive.send("46 01 00 10 00 00 00 00 ff 00").data[8:]


def test_media_events_tell_whether_a_medium_is_there() -> None:
    drive = _drive()
    ask = "4a 01 00 00 10 00 00 00 ff 00"
    assert drive.send(ask).data == bytes.fromhex("0006 04 10 00 02 00 00")
    drive.send("1b 00 00 00 02 00")
    assert drive.send(ask).data == bytes.fromhex("0006 04 10 00 01 00 00")
    assert drive.send("4a 01 00 00 02 00 00 00 ff 00").data == bytes.fromhex("0002 80 10")
    assert drive.send("43 00 00 00 00 00 00 00 ff 00").sense == (2, 0x3A, 0x02)
    assert drive.send("46 00 00 00 00 00 00 00 ff 00").data[6:8] == bytes(2)


def test_the_disc_is_finalized() -> None:
    data = _drive().send("51 00 00 00 00 00 00 00 ff 00").data
    assert data[:8] == bytes.fromhex("0020 0e 01 01 01 01 20")
    assert len(data) == 34


def test_a_disk_has_none_of_it() -> None:
    for code in (0x43, 0x46, 0x4A, 0x51):
        assert rig().initiator().send(bytes((code,))).sense == (5, 0x20, 0x00)
