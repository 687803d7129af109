# SPDX-License-Identifier: Apache-2.0
"""Asymmetric logical unit access: REPORT and SET TARGET PORT GROUPS (SPC-4 5.15, 6.37, 6.45).

Each target portal group is one target port and one target port group, whose number is its tag. States are kept per
logical unit; a group without an entry is active/optimized. They change by command (explicitly) or by whoever runs the
target (implicitly, :meth:`LogicalUnit.set_port_states`), who alone can make a transition last.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import construct as c

from iscsi_target.executor import ScsiResult
from iscsi_target.scsi.errors import check, invalid_field_in_cdb, invalid_field_in_parameter_list
from iscsi_target.scsi.layout import CdbLayout, bits, control, opcode, reserved, service_action
from iscsi_target.scsi.logical_unit import LogicalUnit
from iscsi_target.scsi.operation import GOOD, Access, Operation, Task, Traits, cut
from iscsi_target.scsi.sense import Condition

MAX_PARAMETER_LIST_LENGTH = 4096


class AccessState(IntEnum):
    """ASYMMETRIC ACCESS STATE (SPC-4 table 297)."""

    ACTIVE_OPTIMIZED = 0x0
    ACTIVE_NON_OPTIMIZED = 0x1
    STANDBY = 0x2
    UNAVAILABLE = 0x3
    TRANSITIONING = 0xF


class ReportGroups(NamedTuple):
    """Fields of the REPORT TARGET PORT GROUPS CDB."""

    parameter_data_format: int
    allocation_length: int


class SetGroups(NamedTuple):
    """Fields of the SET TARGET PORT GROUPS CDB."""

    parameter_list_length: int


REPORT_GROUPS = CdbLayout(
    ReportGroups,
    opcode(0xA3),
    bits("parameter_data_format", 3),
    service_action(0x0A),
    reserved(32),
    bits("allocation_length", 32),
    reserved(8),
    control(),
)
SET_GROUPS = CdbLayout(
    SetGroups,
    opcode(0xA4),
    reserved(3),
    service_action(0x0A),
    reserved(32),
    bits("parameter_list_length", 32),
    reserved(8),
    control(),
)

GROUP_DESCRIPTOR = c.Struct(
    "state" / c.BitStruct("pref" / c.Flag, c.Padding(3), "asymmetric_access_state" / c.BitsInteger(4)),
    "supported"
    / c.BitStruct(
        "t_sup" / c.Flag,
        "o_sup" / c.Flag,
        c.Padding(1),
        "lbd_sup" / c.Flag,
        "u_sup" / c.Flag,
        "s_sup" / c.Flag,
        "an_sup" / c.Flag,
        "ao_sup" / c.Flag,
    ),
    "target_port_group" / c.Int16ub,
    c.Padding(1),
    "status_code" / c.Int8ub,
    c.Padding(1),
    "ports" / c.PrefixedArray(c.Int8ub, c.Struct(c.Padding(2), "relative_target_port" / c.Int16ub)),
)
"""Target port group descriptor, SPC-4 table 296."""

SET_DESCRIPTOR = c.Struct(
    "state" / c.BitStruct(c.Padding(4), "asymmetric_access_state" / c.BitsInteger(4)),
    c.Padding(1),
    "target_port_group" / c.Int16ub,
)
"""Set target port group descriptor, SPC-4 table 318."""

_SET_BY_COMMAND, _SET_IMPLICITLY = 0x01, 0x02
"""STATUS CODE, SPC-4 table 298."""
_BY_COMMAND = frozenset(AccessState) - {AccessState.TRANSITIONING}
"""What SET TARGET PORT GROUPS may ask for."""


def refusal(unit: LogicalUnit, target_port: int, *, standby_works: bool) -> Condition | None:
    """Why a command that came through this port is not run, or None (SPC-4 5.15.2.4)."""
    state = unit.port_states.get(target_port, AccessState.ACTIVE_OPTIMIZED)
    if state == AccessState.TRANSITIONING:
        return Condition.NOT_READY_ASYMMETRIC_ACCESS_STATE_TRANSITION
    if state == AccessState.UNAVAILABLE:
        return Condition.NOT_READY_UNAVAILABLE_STATE
    if state == AccessState.STANDBY and not standby_works:
        return Condition.NOT_READY_STANDBY_STATE
    return None


def _status_code(unit: LogicalUnit, port: int) -> int:
    if port not in unit.port_states:
        return 0
    return _SET_IMPLICITLY if port in unit.implicit_port_states else _SET_BY_COMMAND


def report_groups(task: Task, cdb: ReportGroups) -> ScsiResult:
    """REPORT TARGET PORT GROUPS, with the length only or the extended header (SPC-4 tables 294, 295)."""
    if cdb.parameter_data_format > 1:
        raise invalid_field_in_cdb(1, 7)
    groups = b"".join(
        GROUP_DESCRIPTOR.build(
            {
                "state": {"pref": False, "asymmetric_access_state": task.unit.port_states.get(port, 0)},
                "supported": {
                    "t_sup": True,
                    "o_sup": False,
                    "lbd_sup": False,
                    "u_sup": True,
                    "s_sup": True,
                    "an_sup": True,
                    "ao_sup": True,
                },
                "target_port_group": port & 0xFFFF,
                "status_code": _status_code(task.unit, port),
                "ports": [{"relative_target_port": port & 0xFFFF}],
            }
        )
        for port in task.target.target_ports
    )
    header = bytes((0x10, 0, 0, 0)) if cdb.parameter_data_format else b""
    body = header + groups
    return cut(len(body).to_bytes(4, "big") + body, cdb.allocation_length)


def _list_length(unit: LogicalUnit, cdb: SetGroups) -> int:
    if cdb.parameter_list_length > MAX_PARAMETER_LIST_LENGTH:
        raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
    return cdb.parameter_list_length


def set_groups(task: Task, cdb: SetGroups) -> ScsiResult:
    """SET TARGET PORT GROUPS: all descriptors are sound, or no state changes; not while this port is in transition."""
    if task.unit.port_states.get(task.nexus.target_port) == AccessState.TRANSITIONING:
        raise check(Condition.NOT_READY_ASYMMETRIC_ACCESS_STATE_TRANSITION)
    length = _list_length(task.unit, cdb)
    data = bytes(task.data_out)
    if not length:
        return GOOD
    size = SET_DESCRIPTOR.sizeof()
    if len(data) < length or length < 4 or (length - 4) % size:
        raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
    wanted: dict[int, int] = {}
    for at in range(4, length, size):
        descriptor = SET_DESCRIPTOR.parse(data[at : at + size])
        state = descriptor.state.asymmetric_access_state
        if state not in _BY_COMMAND:
            raise invalid_field_in_parameter_list(at, 3)
        if descriptor.target_port_group not in task.target.target_ports:
            raise invalid_field_in_parameter_list(at + 2)
        wanted[descriptor.target_port_group] = state
    task.unit.set_port_states(wanted, by=task.nexus)
    return GOOD


OPERATIONS = (
    Operation("REPORT TARGET PORT GROUPS", REPORT_GROUPS, report_groups, traits=Traits.ANY_ACCESS_STATE),
    Operation(
        "SET TARGET PORT GROUPS",
        SET_GROUPS,
        set_groups,
        traits=Traits.ANY_ACCESS_STATE,
        access=Access.WRITE,
        data_out_length=_list_length,
    ),
)
