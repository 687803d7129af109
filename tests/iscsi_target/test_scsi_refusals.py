# SPDX-License-Identifier: Apache-2.0
"""Fields that have no meaning here, command by command: refused with the right sense data, and nothing is changed."""

from __future__ import annotations

import pytest

from iscsi_target.scsi.errors import StoreError
from iscsi_target.scsi.logical_unit import LogicalUnitConfig, cdrom_config
from iscsi_target.scsi.stores.memory import MemoryStore
from tests.iscsi_target.scsi_rig import BLOCK, rig

IN_CDB, IN_LIST, LIST_LENGTH, LBA = (5, 0x24, 0x00), (5, 0x26, 0x00), (5, 0x1A, 0x00), (5, 0x21, 0x00)
LBA_0 = "00" * 8


@pytest.mark.parametrize(
    ("cdb", "data", "sense"),
    [
        # protection information: there is none
        (f"89 20 {LBA_0} 00 00 00 01 00 00", 1024, IN_CDB),  # COMPARE AND WRITE
        (f"8b 20 {LBA_0} 00 00 00 01 00 00", 512, IN_CDB),  # ORWRITE
        (f"9c 20 {LBA_0} 00 00 00 01 00 00", 512, IN_CDB),  # WRITE ATOMIC (16)
        (f"8e 20 {LBA_0} 00 00 00 01 00 00", 512, IN_CDB),  # WRITE AND VERIFY (16)
        (f"8f 22 {LBA_0} 00 00 00 01 00 00", 512, IN_CDB),  # VERIFY (16)
        # COMPARE AND WRITE: two instances, exactly
        (f"89 00 {LBA_0} 00 00 00 01 00 00", 512, IN_CDB),
        # WRITE ATOMIC: no boundary (SBC-4 5.46); bounded
        (f"9c 00 {LBA_0} 00 01 00 01 00 00", 512, IN_CDB),
        # READ CAPACITY: an LBA without PMI
        ("25 00 00 00 00 01 00 00 00 00", 0, IN_CDB),
        ("9e 10 00 00 00 00 00 00 00 01 00 00 00 20 00 00", 0, IN_CDB),
        # PREVENT ALLOW: 10b and 11b are obsolete
        ("1e 00 00 00 02 00", 0, IN_CDB),
        # START STOP UNIT: LOEJ on a medium that is fixed
        ("1b 00 00 00 02 00", 0, IN_CDB),
        # MODE SELECT: not in page format; saving; a list longer than there are pages; a page cut short
        ("55 00 00 00 00 00 00 00 08 00", 8, IN_CDB),
        ("55 11 00 00 00 00 00 00 08 00", 8, IN_CDB),
        ("55 10 00 00 00 00 00 20 00 00", 8192, LIST_LENGTH),
        ("55 10 00 00 00 00 00 00 09 00", 9, LIST_LENGTH),
        ("15 10 00 00 04 00", 3, LIST_LENGTH),
        # REPORT LUNS: no such selection; too short an allocation length (SPC-4 6.33)
        ("a0 00 03 00 00 00 00 00 00 ff 00 00", 0, IN_CDB),
        ("a0 00 00 00 00 00 00 00 00 0f 00 00", 0, IN_CDB),
        # EXTENDED COPY: a list over the limit; one that is cut short
        ("83 00 00 00 00 00 00 00 00 00 00 10 00 00 00 00", 16, LIST_LENGTH),
        ("83 00 00 00 00 00 00 00 00 00 00 00 00 14 00 00", 16, LIST_LENGTH),
        # PERSISTENT RESERVE OUT: a list of the wrong length; SPEC_I_PT where it may not be; APTPL without a memory
        ("5f 00 00 00 00 00 00 00 17 00", 23, LIST_LENGTH),
        ("5f 00 00 00 00 00 00 00 18 00", 16, LIST_LENGTH),
        ("5f 01 01 00 00 00 00 00 1c 00", 28, LIST_LENGTH),
        # SEND DIAGNOSTIC: only the default self-test
        ("1d 20 00 00 00 00", 0, IN_CDB),
        ("1d 10 00 00 08 00", 8, IN_CDB),
        # NACA: there is no auto contingent allegiance here (NormACA = 0; SAM-5 5.2)
        ("00 00 00 00 00 04", 0, IN_CDB),
        (f"88 00 {LBA_0} 00 00 00 01 00 04", 0, IN_CDB),
        ("12 00 00 00 ff 04", 0, IN_CDB),
        # past the end, also where a sum would wrap
        ("88 00 ff ff ff ff ff ff ff ff 00 00 00 01 00 00", 0, LBA),
        ("8f 00 ff ff ff ff ff ff ff ff 00 00 00 01 00 00", 0, LBA),
        ("91 00 ff ff ff ff ff ff ff ff 00 00 00 01 00 00", 0, LBA),
        ("90 00 ff ff ff ff ff ff ff ff 00 00 00 01 00 00", 0, LBA),
        ("9e 12 ff ff ff ff ff ff ff ff 00 00 00 18 00 00", 0, LBA),
        ("93 01 ff ff ff ff ff ff ff ff 00 00 00 01 00 00", 0, LBA),
    ],
)
def test_a_command_without_meaning_is_refused_and_changes_nothing(
    cdb: str, data: int, sense: tuple[int, int, int]
) -> None:
    lab = rig()
    lab.unit().store.write(0, b"k" * BLOCK)
    host = lab.initiator()
    assert host.send(cdb, b"\0" * data).sense == sense
    assert bytes(lab.unit().store.read(0, BLOCK)[0]) == b"k" * BLOCK
    assert host.send("00" * 6).status == 0


@pytest.mark.parametrize("cdb", ["46 03 00 00 00 00 00 00 08 00", "51 01 00 00 00 00 00 00 08 00"])
def test_a_cdrom_drive_refuses_what_it_does_not_know(cdb: str) -> None:
    """GET CONFIGURATION with a reserved RT, READ DISC INFORMATION of another type."""
    assert rig(cdrom_config()).initiator().send(cdb).sense == IN_CDB


def test_a_unit_without_its_medium_starts_only_by_loading_it() -> None:
    """SBC-3 5.25: START without LOEJ finds no medium; nor does a self-test."""
    host = rig(LogicalUnitConfig(removable=True)).initiator()
    assert host.send("1b 00 00 00 02 00").status == 0
    for cdb in ("1b 00 00 00 01 00", "1d 04 00 00 00 00", "00" * 6):
        assert host.send(cdb).sense == (2, 0x3A, 0x02)
    assert host.send("1d 00 00 00 00 00").status == 0
    assert host.send("1b 00 00 00 03 00").status == 0
    assert host.send("1d 04 00 00 00 00").status == 0


def test_the_default_self_test_finds_a_medium_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """SEND DIAGNOSTIC, SELFTEST = 1 (SPC-4 6.42)."""
    lab = rig(store=MemoryStore(BLOCK))
    host = lab.initiator()
    assert host.send("1d 04 00 00 00 00").status == 0

    def fail(*_: object) -> None:
        raise StoreError("the disk is gone")

    monkeypatch.setattr(lab.unit().store, "read", fail)
    assert host.send("1d 04 00 00 00 00").sense == (3, 0x11, 0x00)
