# SPDX-License-Identifier: Apache-2.0
"""LUNs: which there are, who sees which, and what is answered where there is none."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from iscsi_target.executor import LogicalUnits
from iscsi_target.scsi.build import target_device
from iscsi_target.scsi.errors import InvalidConfiguration, StoreError
from iscsi_target.scsi.logical_unit import LogicalUnitConfig
from iscsi_target.scsi.report_luns import lun_bytes
from iscsi_target.scsi.sense import Condition
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.stores.store import BackingStore
from iscsi_target.scsi.target_device import LunMap
from tests.iscsi_target.scsi_rig import TARGET, Initiator, rig

REPORT_LUNS = "a0 00 00 00 00 00 00 00 10 00 00 00"
ALICE, BOB = "iqn.2026-11.org.example:alice", "iqn.2026-11.org.example:bob"


def _stores(*luns: int) -> dict[int, BackingStore]:
    return {lun: MemoryStore(1 << 20) for lun in luns}


def test_report_luns_lists_what_is_there_in_order() -> None:
    data = rig(stores=_stores(0, 300, 1)).initiator().send(REPORT_LUNS).data
    assert data == bytes.fromhex("00000018 00000000") + bytes.fromhex(
        "0000000000000000 0001000000000000 412c000000000000"
    )


@pytest.mark.parametrize(("lun", "expected"), [(0, "0000"), (255, "00ff"), (256, "4100"), (0x3FFF, "7fff")])
def test_a_lun_is_written_as_sam_5_has_it(lun: int, expected: str) -> None:
    assert lun_bytes(lun) == bytes.fromhex(expected) + bytes(6)


@pytest.mark.parametrize(
    "cdb", ["a0 00 03 00 00 00 00 00 10 00 00 00", "a0 00 00 00 00 00 00 00 00 0f 00 00"]
)
def test_report_luns_refuses_what_it_does_not_know(cdb: str) -> None:
    assert rig().initiator().send(cdb).sense == (5, 0x24, 0x00)


def test_no_well_known_logical_units_are_reported() -> None:
    assert rig().initiator().send("a0 00 01 00 00 00 00 00 10 00 00 00").data == bytes(8)


def test_where_there_is_no_unit_only_that_is_said() -> None:
    host = rig().initiator()
    missing = (5, 0x25, 0x00)
    assert host.send("12 00 00 00 ff 00", lun=5).data[0] == 0x7F
    assert len(host.send("12 00 00 00 ff 00", lun=5).data) == 36
    assert host.send("12 01 00 00 ff 00", lun=5).data == bytes.fromhex("7f 00 00 01 00")
    assert host.send("12 01 83 00 ff 00", lun=5).status == 2
    assert host.send("00" * 6, lun=5).sense == missing
    assert host.send("03 00 00 00 ff 00", lun=5).data[12] == 0x25
    answer = host.send("2a 00 00 00 00 00 00 00 01 00", b"x" * 512, lun=5)
    assert (answer.sense, answer.asked_bytes) == (missing, 0)
    assert host.send("a0 00 00 00 00 00 00 00 10 00 00 00", lun=5).sense == missing
    assert host.send("", lun=1 << 63).sense == missing


def test_lun_0_lists_the_others_even_when_nothing_is_there() -> None:
    host = rig(stores=_stores(3)).initiator()
    assert host.send(REPORT_LUNS).data[8:] == lun_bytes(3)
    assert host.send("12 00 00 00 ff 00").data[0] == 0x7F


def test_each_initiator_sees_its_own_map_and_nobody_else_sees_anything() -> None:
    lab = rig(
        stores=_stores(0, 1, 2),
        lun_maps={ALICE: LunMap({0: 2}), BOB: LunMap({0: 0, 5: 1})},
        masked=True,
    )
    alice, bob, mallory = lab.initiator(ALICE), lab.initiator(BOB), lab.initiator()
    assert [lab.device.luns_for(host.name) for host in (alice, bob, mallory)] == [(0,), (0, 5), ()]
    alice.send("2a 00 00 00 00 00 00 00 01 00", b"a" * 512)
    assert bytes(lab.unit(2).store.read(0, 1)[0]) == b"a"
    assert bob.send("28 00 00 00 00 00 00 00 01 00", lun=5).data == bytes(512)
    assert alice.send("00" * 6, lun=1).sense == (5, 0x25, 0x00)
    assert mallory.send("12 00 00 00 ff 00").data[0] == 0x7F


def test_an_initiator_that_may_only_read_does_not_write_by_any_way() -> None:
    lab = rig(
        stores=_stores(0, 1), lun_maps={ALICE: LunMap({0: 0, 1: 1}, read_only=frozenset((0,)))}, masked=False
    )
    alice, bob = lab.initiator(ALICE), lab.initiator(BOB)
    bob.send("2a 00 00 00 00 00 00 00 01 00", b"b" * 512)
    for cdb, data in (
        ("2a 00 00 00 00 00 00 00 01 00", b"a" * 512),
        ("8a 00" + "00" * 11 + "01 00 00", b"a" * 512),
        ("41 00 00 00 00 00 00 00 01 00", b"a" * 512),
        ("48 02 00 00 00 00 00 00 00 00", b""),
    ):
        answer = alice.send(cdb, data)
        assert (answer.sense, answer.asked_bytes) == ((7, 0x27, 0x00), 0)
    assert alice.send("1a 08 0a 00 ff 00").data[2] & 0x80
    naa = [b"\x01\x03\x00\x08" + lab.unit(lun).identity.naa for lun in (0, 1)]
    targets = b"".join(bytes((0xE4, 0, 0, 0)) + each + bytes(13) + b"\0\x02\0" for each in naa)
    segment = bytes.fromhex("02 00 0018 0001 0000 0000 0001") + bytes(16)
    data = bytes((1, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 0)) + targets + segment
    assert alice.send(bytes((0x83,)) + bytes(12) + bytes((len(data), 0, 0)), data, lun=1).sense == (
        0xA,
        0x0D,
        0x01,
    )
    assert alice.send("28 00 00 00 00 00 00 00 01 00").data == b"b" * 512
    assert bob.send("2a 00 00 00 00 00 00 00 01 00", b"c" * 512).status == 0


def test_one_unit_under_two_luns_is_one_unit() -> None:
    lab = rig(stores=_stores(0), lun_maps={ALICE: LunMap({0: 0, 7: 0})})
    alice = lab.initiator(ALICE)
    alice.send("2a 00 00 00 00 00 00 00 01 00", b"s" * 512, lun=7)
    assert alice.send("28 00 00 00 00 00 00 00 01 00").data == b"s" * 512


@pytest.mark.parametrize(
    ("luns", "says"), [({0: 9}, "maps to 9"), ({-1: 0}, "is not 0"), ({0x4000: 0}, "is not 0")]
)
def test_a_map_without_meaning_is_refused(luns: dict[int, int], says: str) -> None:
    with pytest.raises(InvalidConfiguration, match=says):
        rig(stores=_stores(0), lun_maps={ALICE: LunMap(luns)})


def test_a_target_is_built_from_descriptions(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"\x42" * 4096)
    device = target_device(TARGET, ["1MiB", str(tmp_path / "disk"), "null:1TiB"])
    assert isinstance(device, LogicalUnits)
    host = Initiator(device, ALICE, f"{ALICE},i,0x000000000001").log_in()
    assert device.luns_for(ALICE) == (0, 1, 2)
    assert host.send("28 00 00 00 00 00 00 00 01 00", lun=1).data == b"\x42" * 512
    device.close()


def open_files() -> list[str]:
    """What the descriptors of this process lead to."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # another thread closed it, or it was that of the listing
            found.append(str(descriptor.readlink()))
    return found


def test_a_target_that_cannot_be_built_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(4096))
    with pytest.raises(StoreError, match="missing does not exist"):
        target_device(TARGET, [str(tmp_path / "disk"), str(tmp_path / "missing")])
    assert str(tmp_path / "disk") not in open_files()


def test_a_read_only_target_opens_its_files_for_reading(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    disk.chmod(0o400)
    device = target_device(TARGET, [str(disk)], LogicalUnitConfig(read_only=True))
    host = Initiator(device, ALICE, f"{ALICE},i,0x000000000001").log_in()
    assert host.send("2a 00 00 00 00 00 00 00 01 00", b"x" * 512).sense == (7, 0x27, 0x00)
    device.close()


def test_a_lost_nexus_leaves_nothing_behind() -> None:
    lab = rig()
    for _ in range(100):
        host = lab.initiator()
        lab.unit().attention(Condition.MODE_PARAMETERS_CHANGED, lab.unit().nexuses)
        host.log_out()
    unit = lab.unit()
    assert (unit.nexuses, unit.attentions.pending, unit.preventing) == ({}, {}, set())
