# SPDX-License-Identifier: Apache-2.0
"""Every command of the device server, once. Dispatch and REPORT SUPPORTED OPERATION CODES both read this table."""

from __future__ import annotations

from dataclasses import dataclass

from iscsi_target.scsi import (
    alua,
    atomic,
    capacity,
    defect_data,
    extended_copy,
    inquiry,
    log_sense,
    medium,
    mode,
    multimedia,
    provisioning,
    read_write,
    report_luns,
    reservation_in,
    reservation_out,
    reserve_release,
    sanitize,
    self_test,
    supported,
    verify,
)
from iscsi_target.scsi.logical_unit import LogicalUnit
from iscsi_target.scsi.operation import Operation

OPERATIONS: tuple[Operation, ...] = (
    *inquiry.OPERATIONS,
    *report_luns.OPERATIONS,
    *medium.OPERATIONS,
    *capacity.OPERATIONS,
    *mode.OPERATIONS,
    *log_sense.OPERATIONS,
    *read_write.OPERATIONS,
    *verify.OPERATIONS,
    *atomic.OPERATIONS,
    *provisioning.OPERATIONS,
    *defect_data.OPERATIONS,
    *supported.OPERATIONS,
    *alua.OPERATIONS,
    *reservation_in.OPERATIONS,
    *reservation_out.OPERATIONS,
    *reserve_release.OPERATIONS,
    *extended_copy.OPERATIONS,
    *sanitize.OPERATIONS,
    *self_test.OPERATIONS,
    *multimedia.OPERATIONS,
)


@dataclass(frozen=True, slots=True)
class Dispatch:
    """The commands of one logical unit, by opcode: `single` without service actions, `families` with."""

    single: tuple[Operation | None, ...]
    families: tuple[dict[int, Operation] | None, ...]
    operations: tuple[Operation, ...]


def dispatch_for(unit: LogicalUnit, operations: tuple[Operation, ...] = OPERATIONS) -> Dispatch:
    """The dispatch table of a logical unit; ValueError when two rows claim the same command."""
    single: list[Operation | None] = [None] * 256
    families: list[dict[int, Operation] | None] = [None] * 256
    mine = tuple(
        operation
        for operation in operations
        if unit.config.device_type in operation.device_types
        and (operation.available is None or operation.available(unit))
    )
    for operation in mine:
        code, action = operation.opcode, operation.service_action
        family = families[code]
        if single[code] is not None or (action is None and family is not None):
            raise ValueError(f"{operation.name}: opcode {code:02x}h is taken")
        if action is None:
            single[code] = operation
            continue
        if family is None:
            family = families[code] = {}
        if action in family:
            raise ValueError(f"{operation.name}: service action {action:02x}h of {code:02x}h is taken")
        family[action] = operation
    return Dispatch(tuple(single), tuple(families), mine)
