# SPDX-License-Identifier: Apache-2.0
"""RESERVE (6) and RELEASE (6) (SPC-2 7.16, 7.21)."""

from __future__ import annotations

from typing import NamedTuple

from iscsi_target.executor import ScsiResult
from iscsi_target.scsi.errors import invalid_field_in_cdb
from iscsi_target.scsi.layout import CdbLayout, bits, control, opcode, reserved
from iscsi_target.scsi.operation import DISK_ONLY, GOOD, Access, Operation, Task, Traits


class ReserveUnit(NamedTuple):
    """Fields of RESERVE (6) and RELEASE (6); extents and third parties are obsolete."""

    third_party: int
    extent: int


def _unit(code: int) -> CdbLayout[ReserveUnit]:
    return CdbLayout(
        ReserveUnit,
        opcode(code),
        reserved(3),
        bits("third_party", 1),
        reserved(3),
        bits("extent", 1),
        reserved(24),
        control(),
    )


RESERVE_6, RELEASE_6 = _unit(0x16), _unit(0x17)


def _check_unit(cdb: ReserveUnit) -> None:
    if cdb.third_party:
        raise invalid_field_in_cdb(1, 4)
    if cdb.extent:
        raise invalid_field_in_cdb(1, 0)


def reserve_6(task: Task, cdb: ReserveUnit) -> ScsiResult:
    """RESERVE (6)."""
    _check_unit(cdb)
    with task.unit.lock:
        task.unit.reservations.reserve_unit(task.nexus)
    return GOOD


def release_6(task: Task, cdb: ReserveUnit) -> ScsiResult:
    """RELEASE (6)."""
    _check_unit(cdb)
    with task.unit.lock:
        task.unit.reservations.release_unit(task.nexus)
    return GOOD


OPERATIONS = (
    Operation("RESERVE (6)", RESERVE_6, reserve_6, access=Access.RESERVATION, device_types=DISK_ONLY),
    Operation(
        "RELEASE (6)",
        RELEASE_6,
        release_6,
        traits=Traits.DESPITE_RESERVE,
        access=Access.RESERVATION,
        device_types=DISK_ONLY,
    ),
)
