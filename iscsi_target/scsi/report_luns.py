# SPDX-License-Identifier: Apache-2.0
"""REPORT LUNS (SPC-4 6.33) and the representation of LUNs (SAM-5 4.7)."""

from __future__ import annotations

from typing import NamedTuple

from iscsi_target.executor import ScsiCommand, ScsiResult
from iscsi_target.scsi.errors import invalid_field_in_cdb
from iscsi_target.scsi.layout import CdbLayout, bits, control, opcode, reserved
from iscsi_target.scsi.operation import ALWAYS, Operation, TargetView, Task, cut
from iscsi_target.scsi.sense import Condition

MAX_LUN = 0x3FFF


class ReportLuns(NamedTuple):
    """Fields of the REPORT LUNS CDB."""

    select_report: int
    allocation_length: int


LAYOUT = CdbLayout(
    ReportLuns,
    opcode(0xA0),
    reserved(8),
    bits("select_report", 8),
    reserved(24),
    bits("allocation_length", 32),
    reserved(8),
    control(),
)

_SELECT_PRESENT, _SELECT_WELL_KNOWN, _SELECT_ALL = 0x00, 0x01, 0x02


def lun_bytes(lun: int) -> bytes:
    """The eight bytes of a LUN: peripheral device addressing to 255, flat space above (SAM-5 4.7.7)."""
    if not 0 <= lun <= MAX_LUN:
        raise ValueError(f"LUN {lun} is not 0 to {MAX_LUN}")
    return (lun if lun < 256 else 0x4000 | lun).to_bytes(2, "big") + bytes(6)


def report(command: ScsiCommand, target: TargetView) -> ScsiResult:
    """The list for the initiator that asks; also answered where LUN 0 has no unit (SPC-4 6.33.1)."""
    cdb = LAYOUT.parse(command.cdb)
    if cdb.select_report not in (_SELECT_PRESENT, _SELECT_WELL_KNOWN, _SELECT_ALL):
        raise invalid_field_in_cdb(2)
    if cdb.allocation_length < 16:
        raise invalid_field_in_cdb(6)
    luns = () if cdb.select_report == _SELECT_WELL_KNOWN else target.luns_for(command.initiator_name)
    listed = b"".join(lun_bytes(lun) for lun in luns)
    return cut(len(listed).to_bytes(4, "big") + bytes(4) + listed, cdb.allocation_length)


def report_luns(task: Task, cdb: ReportLuns) -> ScsiResult:
    """REPORT LUNS on a unit; takes away REPORTED LUNS DATA HAS CHANGED (SPC-4 6.33.1)."""
    result = report(task.command, task.target)
    task.unit.attentions.take_one(task.nexus, Condition.REPORTED_LUNS_DATA_HAS_CHANGED)
    return result


OPERATIONS = (
    Operation(
        "REPORT LUNS",
        LAYOUT,
        report_luns,
        traits=ALWAYS,
    ),
)
