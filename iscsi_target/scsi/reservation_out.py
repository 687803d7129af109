# SPDX-License-Identifier: Apache-2.0
"""PERSISTENT RESERVE OUT (SPC-4 6.16)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import construct as c

from iscsi_target.executor import PreemptingResult, ScsiResult
from iscsi_target.scsi import transport_id
from iscsi_target.scsi.errors import StoreError, check, invalid_field_in_cdb, invalid_field_in_parameter_list
from iscsi_target.scsi.layout import CdbLayout, bits, control, opcode, reserved, service_action
from iscsi_target.scsi.logical_unit import LogicalUnit
from iscsi_target.scsi.operation import DISK_ONLY, GOOD, Access, Operation, Task, Traits
from iscsi_target.scsi.reservations import Outcome, ReservationType
from iscsi_target.scsi.sense import Condition
from iscsi_target.scsi.status import Status
from iscsi_target.scsi.unit_attention import Nexus

MAX_PARAMETER_LIST_LENGTH = 8192


class ReserveOut(NamedTuple):
    """Fields of the PERSISTENT RESERVE OUT CDB."""

    scope: int
    type: int
    parameter_list_length: int


def _out(action: int) -> CdbLayout[ReserveOut]:
    return CdbLayout(
        ReserveOut,
        opcode(0x5F),
        reserved(3),
        service_action(action),
        bits("scope", 4),
        bits("type", 4),
        reserved(16),
        bits("parameter_list_length", 32),
        control(),
    )


REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT, REGISTER_AND_IGNORE, REGISTER_AND_MOVE = (
    _out(action) for action in range(8)
)

PARAMETER_LIST = c.Struct(
    "reservation_key" / c.Int64ub,
    "service_action_reservation_key" / c.Int64ub,
    c.Padding(4),
    "flags"
    / c.BitStruct(c.Padding(4), "spec_i_pt" / c.Flag, "all_tg_pt" / c.Flag, c.Padding(1), "aptpl" / c.Flag),
    c.Padding(3),
)
"""PERSISTENT RESERVE OUT parameter list, SPC-4 table 230: 24 bytes, then TransportIDs with SPEC_I_PT."""

MOVE_PARAMETER_LIST = c.Struct(
    "reservation_key" / c.Int64ub,
    "service_action_reservation_key" / c.Int64ub,
    c.Padding(1),
    "flags" / c.BitStruct(c.Padding(6), "unreg" / c.Flag, "aptpl" / c.Flag),
    "relative_target_port" / c.Int16ub,
    "transport_id_length" / c.Int32ub,
)
"""REGISTER AND MOVE parameter list before its TransportID, SPC-4 table 232."""


def _type_of(cdb: ReserveOut) -> ReservationType:
    """SCOPE must be LU_SCOPE and TYPE one of the six (SPC-4 6.15.3.3, 6.15.3.4)."""
    if cdb.scope:
        raise invalid_field_in_cdb(2, 7)
    try:
        return ReservationType(cdb.type)
    except ValueError:
        raise invalid_field_in_cdb(2, 3) from None


def _list_length(unit: LogicalUnit, cdb: ReserveOut) -> int:
    if not 24 <= cdb.parameter_list_length <= MAX_PARAMETER_LIST_LENGTH:
        raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
    return cdb.parameter_list_length


def _received(task: Task, cdb: ReserveOut) -> bytes:
    """The parameter list, whole (SPC-4 6.16.1)."""
    length = _list_length(task.unit, cdb)
    data = bytes(task.data_out)
    if len(data) != length:
        raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
    return data


def _plain(task: Task, cdb: ReserveOut) -> Any:
    """The parameter list of the service actions that take exactly 24 bytes."""
    data = _received(task, cdb)
    parsed = PARAMETER_LIST.parse(data)
    if parsed.flags.spec_i_pt:
        raise invalid_field_in_parameter_list(20, 3)
    if len(data) != 24:
        raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
    return parsed


def _change(task: Task, action: Callable[[], Outcome]) -> ScsiResult:
    """Run one change under the unit's lock; durable before it is answered, or undone (SPC-4 5.12.5)."""
    unit = task.unit
    with unit.lock:
        before = unit.reservations.state()
        outcome = action()
        try:
            _remember(unit, was_durable=before.aptpl)
        except StoreError:
            unit.reservations.restore(before)
            raise check(Condition.INSUFFICIENT_REGISTRATION_RESOURCES) from None
        unit.apply(outcome)
    if not outcome.aborted:
        return GOOD
    # Whatever the preempted nexuses still have running ends before this command does; the session layer ends the rest.
    with unit.ranges.atomic(0, unit.store.size_bytes):
        pass
    return PreemptingResult(
        Status.GOOD,
        preempted=tuple(
            (*nexus, lun)
            for nexus in outcome.aborted
            for lun in task.target.luns_of(unit, unit.nexuses.get(nexus, ""))
        ),
    )


def _remember(unit: LogicalUnit, *, was_durable: bool) -> None:
    if unit.reservation_memory is None:
        return
    state = unit.reservations.state()
    if state.aptpl:
        unit.reservation_memory.save(state)
    elif was_durable:
        unit.reservation_memory.save(type(state)())


def _check_aptpl(unit: LogicalUnit, aptpl: bool, byte: int) -> None:
    if aptpl and unit.reservation_memory is None:
        raise invalid_field_in_parameter_list(byte, 0)


def _also(task: Task, data: bytes, parsed: Any) -> tuple[Nexus, ...]:
    """The nexuses of SPEC_I_PT and ALL_TG_PT (SPC-4 6.16.3)."""
    ports = task.target.target_ports if parsed.flags.all_tg_pt else (task.nexus.target_port,)
    initiators = [task.nexus.initiator_port]
    if parsed.flags.spec_i_pt:
        if len(data) < 28:
            raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
        position, end = 28, 28 + int.from_bytes(data[24:28], "big")
        if end != len(data):
            raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
        while position < end:
            name, names_port, length = transport_id.parse(data, position)
            if names_port:
                initiators.append(name)
            else:
                known = sorted(
                    {nexus.initiator_port for nexus, of in task.unit.nexuses.items() if of == name}
                )
                if not known:
                    raise invalid_field_in_parameter_list(position)
                initiators.extend(known)
            position += length
    return tuple(Nexus(initiator, port) for initiator in initiators for port in ports)


def register(task: Task, cdb: ReserveOut) -> ScsiResult:
    """REGISTER."""
    data = _received(task, cdb)
    parsed = PARAMETER_LIST.parse(data)
    state, nexus = task.unit.reservations, task.nexus
    if not parsed.flags.spec_i_pt and len(data) != 24:
        raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
    if parsed.flags.spec_i_pt and nexus in state.registrations:
        raise invalid_field_in_cdb(1, 4)
    _check_aptpl(task.unit, parsed.flags.aptpl, 20)
    also = _also(task, data, parsed)
    return _change(
        task,
        lambda: state.register(
            nexus,
            parsed.reservation_key,
            parsed.service_action_reservation_key,
            aptpl=parsed.flags.aptpl,
            also=also,
        ),
    )


def register_and_ignore(task: Task, cdb: ReserveOut) -> ScsiResult:
    """REGISTER AND IGNORE EXISTING KEY."""
    parsed = _plain(task, cdb)
    _check_aptpl(task.unit, parsed.flags.aptpl, 20)
    also = _also(task, b"", parsed)
    return _change(
        task,
        lambda: task.unit.reservations.register(
            task.nexus,
            0,
            parsed.service_action_reservation_key,
            aptpl=parsed.flags.aptpl,
            also=also,
            ignore=True,
        ),
    )


def reserve(task: Task, cdb: ReserveOut) -> ScsiResult:
    """RESERVE."""
    kind, parsed = _type_of(cdb), _plain(task, cdb)
    return _change(task, lambda: task.unit.reservations.reserve(task.nexus, parsed.reservation_key, kind))


def release(task: Task, cdb: ReserveOut) -> ScsiResult:
    """RELEASE."""
    kind, parsed = _type_of(cdb), _plain(task, cdb)
    return _change(task, lambda: task.unit.reservations.release(task.nexus, parsed.reservation_key, kind))


def clear(task: Task, cdb: ReserveOut) -> ScsiResult:
    """CLEAR."""
    parsed = _plain(task, cdb)
    return _change(task, lambda: task.unit.reservations.clear(task.nexus, parsed.reservation_key))


def _preempt(task: Task, cdb: ReserveOut, *, abort: bool) -> ScsiResult:
    kind, parsed = _type_of(cdb), _plain(task, cdb)
    return _change(
        task,
        lambda: task.unit.reservations.preempt(
            task.nexus, parsed.reservation_key, parsed.service_action_reservation_key, kind, abort=abort
        ),
    )


def preempt(task: Task, cdb: ReserveOut) -> ScsiResult:
    """PREEMPT."""
    return _preempt(task, cdb, abort=False)


def preempt_and_abort(task: Task, cdb: ReserveOut) -> ScsiResult:
    """PREEMPT AND ABORT: the tasks of the preempted nexuses end (SPC-4 5.13.11.2.6)."""
    return _preempt(task, cdb, abort=True)


def register_and_move(task: Task, cdb: ReserveOut) -> ScsiResult:
    """REGISTER AND MOVE."""
    _type_of(cdb)
    data = _received(task, cdb)
    parsed = MOVE_PARAMETER_LIST.parse(data)
    if len(data) != 24 + parsed.transport_id_length:
        raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
    _check_aptpl(task.unit, parsed.flags.aptpl, 17)
    name, names_port, length = transport_id.parse(data, 24)
    if not names_port or length != parsed.transport_id_length:
        raise invalid_field_in_parameter_list(24)
    if parsed.relative_target_port not in task.target.target_ports:
        raise invalid_field_in_parameter_list(18)
    to = Nexus(name, parsed.relative_target_port)
    return _change(
        task,
        lambda: task.unit.reservations.move(
            task.nexus,
            parsed.reservation_key,
            parsed.service_action_reservation_key,
            to,
            unregister=parsed.flags.unreg,
            aptpl=parsed.flags.aptpl,
        ),
    )


def _out_operation(
    name: str, layout: CdbLayout[ReserveOut], handler: Callable[[Task, ReserveOut], ScsiResult]
) -> Operation:
    return Operation(
        f"PERSISTENT RESERVE OUT, {name}",
        layout,
        handler,
        traits=Traits.STORE | Traits.SAVES | Traits.STANDBY,
        access=Access.RESERVATION,
        data_out_length=_list_length,
        device_types=DISK_ONLY,
    )


OPERATIONS = (
    _out_operation("REGISTER", REGISTER, register),
    _out_operation("RESERVE", RESERVE, reserve),
    _out_operation("RELEASE", RELEASE, release),
    _out_operation("CLEAR", CLEAR, clear),
    _out_operation("PREEMPT", PREEMPT, preempt),
    _out_operation("PREEMPT AND ABORT", PREEMPT_AND_ABORT, preempt_and_abort),
    _out_operation("REGISTER AND IGNORE EXISTING KEY", REGISTER_AND_IGNORE, register_and_ignore),
    _out_operation("REGISTER AND MOVE", REGISTER_AND_MOVE, register_and_move),
)
