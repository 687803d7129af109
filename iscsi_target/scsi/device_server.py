# SPDX-License-Identifier: Apache-2.0
"""The device server of one logical unit: admission, dispatch, and results (SAM-5 4.6.9, 5).

Order of admission: is the command there at all; reservation conflict, which goes before every other status
(SAM-5 5.3.3); unit attention; sanitize; readiness; write protection; then the handler's own checks.
"""

from __future__ import annotations

from typing import Any

from iscsi_target.executor import ScsiCommand, ScsiResult
from iscsi_target.scsi import alua
from iscsi_target.scsi.errors import CheckCondition, StatusOnly, StoreError, check, invalid_field_in_cdb
from iscsi_target.scsi.hot_path import fast_disk, hot_commands
from iscsi_target.scsi.logical_unit import LogicalUnit
from iscsi_target.scsi.medium import not_ready
from iscsi_target.scsi.opcode_table import Dispatch, dispatch_for
from iscsi_target.scsi.operation import Operation, TargetView, Task, Traits
from iscsi_target.scsi.reservations import Access
from iscsi_target.scsi.sense import Condition, SenseData
from iscsi_target.scsi.status import Status
from iscsi_target.scsi.unit_attention import Nexus

_NACA = 0x04
_HOT_CDB_BYTES = 16


class DeviceServer:
    """Runs commands on one logical unit; with `read_only` for initiators that may only read it."""

    def __init__(self, unit: LogicalUnit, *, read_only: bool = False) -> None:
        self.unit = unit
        self.read_only = read_only
        self.dispatch: Dispatch = dispatch_for(unit)
        self._hot, self._hot_lengths = hot_commands(unit, read_only=read_only)
        self.fast = fast_disk(unit, read_only=read_only)
        self._waits = tuple(
            None if family is not None else operation is not None and self._may_wait(operation)
            for operation, family in zip(self.dispatch.single, self.dispatch.families, strict=True)
        )

    def operation(self, cdb: bytes) -> Operation:
        """The row of the opcode table for a CDB; CheckCondition when there is none."""
        if not cdb:
            raise check(Condition.INVALID_COMMAND_OPERATION_CODE)
        operation = self.dispatch.single[cdb[0]]
        if operation is None:
            family = self.dispatch.families[cdb[0]]
            if family is None:
                raise check(Condition.INVALID_COMMAND_OPERATION_CODE)
            operation = family.get(cdb[1] & 0x1F) if len(cdb) > 1 else None
            if operation is None:
                raise invalid_field_in_cdb(1, 4)
        if len(cdb) < operation.layout.length:
            raise invalid_field_in_cdb(len(cdb))
        if cdb[operation.layout.length - 1] & _NACA:
            raise invalid_field_in_cdb(operation.layout.length - 1, 2)
        return operation

    def _admit(self, operation: Operation, cdb: Any, nexus: Nexus) -> None:
        unit, traits = self.unit, operation.traits
        if not unit.reservations.idle:
            access = operation.access if isinstance(operation.access, Access) else operation.access(cdb)
            despite = bool(traits & Traits.DESPITE_RESERVE)
            if unit.reservations.conflicts(nexus, access, despite_reserve=despite):
                raise StatusOnly(Status.RESERVATION_CONFLICT)
        if unit.attentions.pending and not traits & Traits.IGNORES_ATTENTION:
            condition = unit.attentions.take(nexus)
            if condition is not None:
                raise check(condition)
        if unit.sanitize is not None and not traits & Traits.DURING_SANITIZE:
            raise CheckCondition(unit.sanitize.sense())
        if unit.port_states and not traits & Traits.ANY_ACCESS_STATE:
            refusal = alua.refusal(unit, nexus.target_port, standby_works=bool(traits & Traits.STANDBY))
            if refusal is not None:
                raise check(refusal)
        self._ready(operation)

    def _ready(self, operation: Operation) -> None:
        unit, traits = self.unit, operation.traits
        if traits & Traits.MEDIUM:
            why = not_ready(unit)
            if why is not None:
                raise check(why)
        if traits & Traits.WRITES:
            protected = Condition.WRITE_PROTECTED if self.read_only else unit.write_protect
            if protected is not None:
                raise check(protected)

    def data_out_length(self, command: ScsiCommand) -> int:
        """Bytes of Data-Out to ask for; 0 when the command takes none or cannot succeed."""
        cdb = command.cdb
        hot = self._hot_lengths[cdb[0]] if len(cdb) >= _HOT_CDB_BYTES else None
        if hot is not None:
            known = hot(command)
            if known is not None:
                return known
        try:
            operation = self.operation(cdb)
            if operation.data_out_length is None:
                return 0
            length = operation.data_out_length(self.unit, operation.layout.parse(cdb))
            self._ready(operation)
        except (CheckCondition, StatusOnly):
            return 0
        return length

    def _may_wait(self, operation: Operation) -> bool:
        """Whether an operation may wait: for the store, for a file of the unit's state, or because it takes long."""
        traits = operation.traits
        return (
            (self.unit.store.blocking and bool(traits & Traits.STORE))
            or (self.unit.reservation_memory is not None and bool(traits & Traits.SAVES))
            or bool(traits & Traits.SLOW)
        )

    def blocking(self, command: ScsiCommand) -> bool:
        """Whether the command may wait."""
        cdb = command.cdb
        if not cdb:
            return False
        waits = self._waits[cdb[0]]
        if waits is not None:
            return waits
        family = self.dispatch.families[cdb[0]] or {}
        operation = family.get(cdb[1] & 0x1F) if len(cdb) > 1 else None
        return operation is not None and self._may_wait(operation)

    def execute(self, command: ScsiCommand, target: TargetView) -> ScsiResult:
        """Run a command; what is wrong with it or with the medium comes back as sense data."""
        try:
            hot = self._hot[command.cdb[0]] if len(command.cdb) >= _HOT_CDB_BYTES else None
            if hot is not None:
                result = hot(command)
                if result is not None:
                    return result
            nexus = Nexus(command.initiator_port, command.target_port)
            operation = self.operation(command.cdb)
            cdb: Any = operation.layout.parse(command.cdb)
            with self.unit.lock:
                self._admit(operation, cdb, nexus)
            task = Task(self.unit, command, nexus, target, self.dispatch.operations, self.read_only)
            return operation.handler(task, cdb)
        except CheckCondition as stopped:
            return self.check_condition(stopped.sense)
        except StatusOnly as stopped:
            return ScsiResult(stopped.status)
        except StoreError as failed:
            writing = command.write and not command.read
            condition = Condition.WRITE_ERROR if writing else Condition.UNRECOVERED_READ_ERROR
            if failed.full:
                condition = Condition.SPACE_ALLOCATION_FAILED_WRITE_PROTECT  # SBC-3 4.7.3.6
            return self.check_condition(SenseData(condition))

    def check_condition(self, sense: SenseData) -> ScsiResult:
        """A CHECK CONDITION in the format that the control mode page asks for."""
        return ScsiResult(
            Status.CHECK_CONDITION, sense=sense.encode(descriptor_format=self.unit.mode.d_sense)
        )
