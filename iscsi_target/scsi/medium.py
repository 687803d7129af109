# SPDX-License-Identifier: Apache-2.0
"""The unit and its medium: TEST UNIT READY, REQUEST SENSE, START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL."""

from __future__ import annotations

from typing import NamedTuple

from iscsi_target.executor import ScsiResult
from iscsi_target.scsi.errors import check, invalid_field_in_cdb
from iscsi_target.scsi.layout import CdbLayout, bits, control, flag, opcode, reserved
from iscsi_target.scsi.logical_unit import LogicalUnit, Medium
from iscsi_target.scsi.operation import ALWAYS, GOOD, Access, Operation, Task, Traits, cut
from iscsi_target.scsi.sense import Condition, SenseData


class NoFields(NamedTuple):
    """A CDB without fields."""


class RequestSense(NamedTuple):
    """Fields of the REQUEST SENSE CDB (SPC-4 6.39)."""

    desc: int
    allocation_length: int


class StartStopUnit(NamedTuple):
    """Fields of the START STOP UNIT CDB (SBC-3 5.25)."""

    immed: int
    power_condition: int
    no_flush: int
    loej: int
    start: int


class PreventAllow(NamedTuple):
    """Fields of the PREVENT ALLOW MEDIUM REMOVAL CDB (SBC-3 5.13)."""

    prevent: int


TEST_UNIT_READY = CdbLayout(NoFields, opcode(0x00), reserved(32), control())
REQUEST_SENSE = CdbLayout(
    RequestSense,
    opcode(0x03),
    reserved(7),
    flag("desc"),
    reserved(16),
    bits("allocation_length", 8),
    control(),
)
START_STOP_UNIT = CdbLayout(
    StartStopUnit,
    opcode(0x1B),
    reserved(7),
    flag("immed"),
    reserved(16),
    bits("power_condition", 4),
    reserved(1),
    flag("no_flush"),
    flag("loej"),
    flag("start"),
    control(),
)
PREVENT_ALLOW = CdbLayout(PreventAllow, opcode(0x1E), reserved(30), bits("prevent", 2), control())


def not_ready(unit: LogicalUnit) -> Condition | None:
    """Why a command that needs the medium cannot have it, or None."""
    if unit.medium is Medium.EJECTED:
        return Condition.MEDIUM_NOT_PRESENT_TRAY_OPEN
    return None


def test_unit_ready(task: Task, cdb: NoFields) -> ScsiResult:
    """TEST UNIT READY (SPC-4 6.47): admission has looked at the medium already."""
    return GOOD


def request_sense(task: Task, cdb: RequestSense) -> ScsiResult:
    """Sense data as parameter data: a unit attention, which is thereby cleared, or the state of the medium.

    While a SANITIZE runs it gives its progress (SBC-3 4.11.3).
    """
    unit = task.unit
    attention, sanitize = unit.attentions.take(task.nexus), unit.sanitize
    if attention is None and sanitize is not None:
        sense = sanitize.sense()
    else:
        sense = SenseData(attention or not_ready(unit) or Condition.NO_ADDITIONAL_SENSE)
    return cut(sense.encode(descriptor_format=bool(cdb.desc)), cdb.allocation_length)


def start_stop_unit(task: Task, cdb: StartStopUnit) -> ScsiResult:
    """Load or eject the medium; stopping flushes, and power conditions change nothing: there is no spindle."""
    unit = task.unit
    if cdb.power_condition:
        return GOOD
    if cdb.loej and not unit.config.removable:
        raise invalid_field_in_cdb(4, 1)
    if cdb.loej and unit.preventing:
        raise check(Condition.MEDIUM_REMOVAL_PREVENTED)
    if not cdb.start and not cdb.no_flush and not unit.read_only and unit.medium is Medium.READY:
        unit.store.flush()
    if cdb.loej and not cdb.start:
        unit.medium = Medium.EJECTED
    elif cdb.loej and unit.medium is Medium.EJECTED:
        unit.medium = Medium.READY
        unit.attention(Condition.NOT_READY_TO_READY_CHANGE, unit.nexuses, but=task.nexus)
    elif cdb.start and unit.medium is Medium.EJECTED:
        raise check(Condition.MEDIUM_NOT_PRESENT_TRAY_OPEN)
    return GOOD


def _start_stop_access(cdb: StartStopUnit) -> Access:
    """Starting disturbs nobody (SBC-3 table 15)."""
    return Access.ALLOWED if cdb.start and not cdb.power_condition else Access.WRITE


def _prevent_access(cdb: PreventAllow) -> Access:
    """Allowing removal disturbs nobody (SPC-4 table 67)."""
    return Access.WRITE if cdb.prevent else Access.ALLOWED


def prevent_allow(task: Task, cdb: PreventAllow) -> ScsiResult:
    """Each nexus prevents and allows for itself (SBC-3 5.13)."""
    if cdb.prevent > 1:
        raise invalid_field_in_cdb(4, 1)
    if cdb.prevent:
        task.unit.preventing.add(task.nexus)
    else:
        task.unit.preventing.discard(task.nexus)
    return GOOD


OPERATIONS = (
    Operation("TEST UNIT READY", TEST_UNIT_READY, test_unit_ready, traits=Traits.MEDIUM),
    Operation(
        "REQUEST SENSE",
        REQUEST_SENSE,
        request_sense,
        traits=ALWAYS,
    ),
    Operation(
        "START STOP UNIT", START_STOP_UNIT, start_stop_unit, traits=Traits.STORE, access=_start_stop_access
    ),
    Operation("PREVENT ALLOW MEDIUM REMOVAL", PREVENT_ALLOW, prevent_allow, access=_prevent_access),
)
