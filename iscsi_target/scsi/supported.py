# SPDX-License-Identifier: Apache-2.0
"""REPORT SUPPORTED OPERATION CODES and REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 6.29, 6.30).

Both are read from tables: the codes from the opcode table through the device server's dispatch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import construct as c

from iscsi_target.executor import ScsiResult
from iscsi_target.scsi.errors import invalid_field_in_cdb
from iscsi_target.scsi.layout import CdbLayout, bits, control, flag, opcode, reserved, service_action
from iscsi_target.scsi.operation import Access, Operation, Task, Traits, cut


class ReportOpcodes(NamedTuple):
    """Fields of the REPORT SUPPORTED OPERATION CODES CDB."""

    rctd: int
    reporting_options: int
    requested_opcode: int
    requested_service_action: int
    allocation_length: int


class ReportFunctions(NamedTuple):
    """Fields of the REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS CDB."""

    repd: int
    allocation_length: int


REPORT_OPCODES = CdbLayout(
    ReportOpcodes,
    opcode(0xA3),
    reserved(3),
    service_action(0x0C),
    flag("rctd"),
    reserved(4),
    bits("reporting_options", 3),
    bits("requested_opcode", 8),
    bits("requested_service_action", 16),
    bits("allocation_length", 32),
    reserved(8),
    control(),
)
REPORT_FUNCTIONS = CdbLayout(
    ReportFunctions,
    opcode(0xA3),
    reserved(3),
    service_action(0x0D),
    flag("repd"),
    reserved(7),
    reserved(24),
    bits("allocation_length", 32),
    reserved(8),
    control(),
)

COMMAND_DESCRIPTOR = c.Struct(
    "opcode" / c.Int8ub,
    c.Padding(1),
    "service_action" / c.Int16ub,
    c.Padding(1),
    "flags" / c.BitStruct(c.Padding(6), "ctdp" / c.Flag, "servactv" / c.Flag),
    "cdb_length" / c.Int16ub,
)
"""SPC-4 table 279."""

TIMEOUTS_DESCRIPTOR = c.Struct(
    "length" / c.Const(0x0A, c.Int16ub),
    c.Padding(1),
    "command_specific" / c.Const(0, c.Int8ub),
    "nominal_s" / c.Int32ub,
    "recommended_s" / c.Int32ub,
)
"""SPC-4 table 281."""

ONE_COMMAND = c.Struct(
    c.Padding(1),
    "flags" / c.BitStruct("ctdp" / c.Flag, c.Padding(4), "support" / c.BitsInteger(3)),
    "usage" / c.Prefixed(c.Int16ub, c.GreedyBytes),
)
"""SPC-4 table 280, before the timeouts descriptor."""

_NOT_SUPPORTED, _SUPPORTED = 1, 3
_ALL, _OPCODE, _OPCODE_AND_ACTION, _EITHER = 0, 1, 2, 3

TASK_MANAGEMENT_FUNCTIONS = bytes((0xDE, 0x07))
"""What the session layer has: ABORT TASK (80h), ABORT TASK SET (40h), CLEAR TASK SET (10h), LOGICAL UNIT RESET (08h),
QUERY TASK (04h), TARGET RESET (02h); QUERY ASYNCHRONOUS EVENT (04h), QUERY TASK SET (02h), I_T NEXUS RESET (01h)
(SPC-4 table 285)."""


def _timeouts(operation: Operation) -> bytes:
    built: bytes = TIMEOUTS_DESCRIPTOR.build({"nominal_s": 0, "recommended_s": operation.timeout_s})
    return built


def _all_commands(operations: Sequence[Operation], rctd: int) -> bytes:
    descriptors = b""
    for operation in sorted(operations, key=lambda each: (each.opcode, each.service_action or 0)):
        action = operation.service_action
        descriptors += COMMAND_DESCRIPTOR.build(
            {
                "opcode": operation.opcode,
                "service_action": action or 0,
                "flags": {"ctdp": bool(rctd), "servactv": action is not None},
                "cdb_length": operation.layout.length,
            }
        )
        if rctd:
            descriptors += _timeouts(operation)
    return len(descriptors).to_bytes(4, "big") + descriptors


def _one_command(operations: Sequence[Operation], cdb: ReportOpcodes) -> bytes:
    family = {each.service_action: each for each in operations if each.opcode == cdb.requested_opcode}
    has_actions = bool(family) and None not in family
    if (
        family
        and cdb.reporting_options != _EITHER
        and has_actions is not (cdb.reporting_options == _OPCODE_AND_ACTION)
    ):
        raise invalid_field_in_cdb(2, 2)
    found = family.get(cdb.requested_service_action if has_actions else None)
    if cdb.reporting_options == _EITHER and not has_actions and cdb.requested_service_action:
        found = None
    ctdp = bool(cdb.rctd and found)
    built: bytes = ONE_COMMAND.build(
        {
            "flags": {"ctdp": ctdp, "support": _NOT_SUPPORTED if found is None else _SUPPORTED},
            "usage": b"" if found is None else found.layout.usage,
        }
    )
    return built + (_timeouts(found) if ctdp and found is not None else b"")


def report_opcodes(task: Task, cdb: ReportOpcodes) -> ScsiResult:
    """REPORT SUPPORTED OPERATION CODES."""
    if cdb.reporting_options > _EITHER:
        raise invalid_field_in_cdb(2, 2)
    if cdb.reporting_options == _ALL:
        return cut(_all_commands(task.operations, cdb.rctd), cdb.allocation_length)
    return cut(_one_command(task.operations, cdb), cdb.allocation_length)


def report_functions(task: Task, cdb: ReportFunctions) -> ScsiResult:
    """REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS."""
    if cdb.allocation_length < 4:
        raise invalid_field_in_cdb(6)
    if cdb.repd:
        return cut(TASK_MANAGEMENT_FUNCTIONS + bytes((0, 12)) + bytes(12), cdb.allocation_length)
    return cut(TASK_MANAGEMENT_FUNCTIONS + bytes(2), cdb.allocation_length)


OPERATIONS = (
    Operation(
        "REPORT SUPPORTED OPERATION CODES",
        REPORT_OPCODES,
        report_opcodes,
        traits=Traits.ANY_ACCESS_STATE,
        access=Access.READ,
    ),
    Operation(
        "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
        REPORT_FUNCTIONS,
        report_functions,
        traits=Traits.ANY_ACCESS_STATE,
        access=Access.READ,
    ),
)
