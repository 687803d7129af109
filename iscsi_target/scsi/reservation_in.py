# SPDX-License-Identifier: Apache-2.0
"""PERSISTENT RESERVE IN (SPC-4 6.15)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import construct as c

from iscsi_target.executor import ScsiResult
from iscsi_target.scsi import transport_id
from iscsi_target.scsi.layout import CdbLayout, bits, control, opcode, reserved, service_action
from iscsi_target.scsi.operation import DISK_ONLY, Access, Operation, Task, Traits, cut


class ReserveIn(NamedTuple):
    """Fields of the PERSISTENT RESERVE IN CDB."""

    allocation_length: int


def _in(action: int) -> CdbLayout[ReserveIn]:
    return CdbLayout(
        ReserveIn,
        opcode(0x5E),
        reserved(3),
        service_action(action),
        reserved(40),
        bits("allocation_length", 16),
        control(),
    )


READ_KEYS, READ_RESERVATION, REPORT_CAPABILITIES, READ_FULL_STATUS = (_in(action) for action in range(4))

CAPABILITIES = c.Struct(
    "length" / c.Const(8, c.Int16ub),
    "flags"
    / c.BitStruct(
        "rlr_c" / c.Flag,
        c.Padding(2),
        "crh" / c.Flag,
        "sip_c" / c.Flag,
        "atp_c" / c.Flag,
        c.Padding(1),
        "ptpl_c" / c.Flag,
        "tmv" / c.Flag,
        "allow_commands" / c.BitsInteger(3),
        c.Padding(3),
        "ptpl_a" / c.Flag,
    ),
    "type_mask"
    / c.BitStruct(
        "wr_ex_ar" / c.Flag,
        "ex_ac_ro" / c.Flag,
        "wr_ex_ro" / c.Flag,
        c.Padding(1),
        "ex_ac" / c.Flag,
        c.Padding(1),
        "wr_ex" / c.Flag,
        c.Padding(1),
        c.Padding(7),
        "ex_ac_ar" / c.Flag,
    ),
    c.Padding(2),
)
"""REPORT CAPABILITIES parameter data, SPC-4 table 220."""

RESERVATION_DESCRIPTOR = c.Struct(
    "reservation_key" / c.Int64ub,
    c.Padding(5),
    "scope_type" / c.BitStruct("scope" / c.BitsInteger(4), "type" / c.BitsInteger(4)),
    c.Padding(2),
)
"""READ RESERVATION descriptor, SPC-4 table 218."""

FULL_STATUS_DESCRIPTOR = c.Struct(
    "reservation_key" / c.Int64ub,
    c.Padding(4),
    "flags" / c.BitStruct(c.Padding(6), "all_tg_pt" / c.Flag, "r_holder" / c.Flag),
    "scope_type" / c.BitStruct("scope" / c.BitsInteger(4), "type" / c.BitsInteger(4)),
    c.Padding(4),
    "relative_target_port" / c.Int16ub,
    "transport_id" / c.Prefixed(c.Int32ub, c.GreedyBytes),
)
"""Full status descriptor, SPC-4 table 226."""


def _answer(task: Task, additional: bytes, allocation_length: int) -> ScsiResult:
    generation = task.unit.reservations.generation
    return cut(
        generation.to_bytes(4, "big") + len(additional).to_bytes(4, "big") + additional, allocation_length
    )


def read_keys(task: Task, cdb: ReserveIn) -> ScsiResult:
    """READ KEYS: one key per registered nexus."""
    keys = b"".join(key.to_bytes(8, "big") for key in task.unit.reservations.registrations.values())
    return _answer(task, keys, cdb.allocation_length)


def read_reservation(task: Task, cdb: ReserveIn) -> ScsiResult:
    """READ RESERVATION: the reservation, if any; key 0 for the all-registrants types."""
    state = task.unit.reservations
    held = state.reservation
    if held is None:
        return _answer(task, b"", cdb.allocation_length)
    key = 0 if held.holder is None else state.registrations[held.holder]
    descriptor = RESERVATION_DESCRIPTOR.build(
        {"reservation_key": key, "scope_type": {"scope": 0, "type": held.kind}}
    )
    return _answer(task, descriptor, cdb.allocation_length)


def report_capabilities(task: Task, cdb: ReserveIn) -> ScsiResult:
    """REPORT CAPABILITIES."""
    durable = task.unit.reservation_memory is not None
    data = CAPABILITIES.build(
        {
            "flags": {
                "rlr_c": False,
                "crh": False,
                "sip_c": True,
                "atp_c": True,
                "ptpl_c": durable,
                "tmv": True,
                "allow_commands": 0,
                "ptpl_a": durable and task.unit.reservations.aptpl,
            },
            "type_mask": {
                "wr_ex_ar": True,
                "ex_ac_ro": True,
                "wr_ex_ro": True,
                "ex_ac": True,
                "wr_ex": True,
                "ex_ac_ar": True,
            },
        }
    )
    return cut(data, cdb.allocation_length)


def read_full_status(task: Task, cdb: ReserveIn) -> ScsiResult:
    """READ FULL STATUS: every registration with its nexus."""
    state = task.unit.reservations
    descriptors = b""
    for nexus, key in state.registrations.items():
        holder = state.holds(nexus)
        descriptors += FULL_STATUS_DESCRIPTOR.build(
            {
                "reservation_key": key,
                "flags": {"all_tg_pt": False, "r_holder": holder},
                "scope_type": {
                    "scope": 0,
                    "type": state.reservation.kind if holder and state.reservation is not None else 0,
                },
                "relative_target_port": nexus.target_port & 0xFFFF,
                "transport_id": transport_id.build(nexus.initiator_port),
            }
        )
    return _answer(task, descriptors, cdb.allocation_length)


def _in_operation(
    name: str, layout: CdbLayout[ReserveIn], handler: Callable[[Task, ReserveIn], ScsiResult]
) -> Operation:
    return Operation(
        f"PERSISTENT RESERVE IN, {name}",
        layout,
        handler,
        Traits.STANDBY,
        Access.RESERVATION,
        device_types=DISK_ONLY,
    )


OPERATIONS = (
    _in_operation("READ KEYS", READ_KEYS, read_keys),
    _in_operation("READ RESERVATION", READ_RESERVATION, read_reservation),
    _in_operation("REPORT CAPABILITIES", REPORT_CAPABILITIES, report_capabilities),
    _in_operation("READ FULL STATUS", READ_FULL_STATUS, read_full_status),
)
