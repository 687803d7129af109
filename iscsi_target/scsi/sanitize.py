# SPDX-License-Identifier: Apache-2.0
"""SANITIZE: overwrite, block erase, cryptographic erase (SBC-3 4.11, 5.24).

With IMMED = 0 the command waits for the end of the operation (in a thread of the session's pool: the command is marked
SLOW). A command that is aborted while it waits does not take the operation with it, nor does any reset.
"""

from __future__ import annotations

from typing import NamedTuple

import construct as c

from iscsi_target.executor import ScsiResult
from iscsi_target.scsi.errors import (
    StatusOnly,
    StoreError,
    check,
    invalid_field_in_cdb,
    invalid_field_in_parameter_list,
)
from iscsi_target.scsi.layout import CdbLayout, bits, control, flag, opcode, reserved, service_action
from iscsi_target.scsi.logical_unit import LogicalUnit
from iscsi_target.scsi.operation import DISK_ONLY, GOOD, Access, Operation, Task, Traits
from iscsi_target.scsi.sanitize_file import SanitizePlan
from iscsi_target.scsi.sanitize_job import SanitizeFailure, refuse_while_one_runs, start, write_down
from iscsi_target.scsi.sense import Condition
from iscsi_target.scsi.status import Status


class Sanitize(NamedTuple):
    """Fields of the SANITIZE CDB."""

    immed: int
    ause: int
    parameter_list_length: int


def _layout(action: int) -> CdbLayout[Sanitize]:
    return CdbLayout(
        Sanitize,
        opcode(0x48),
        flag("immed"),
        reserved(1),
        flag("ause"),
        service_action(action),
        reserved(40),
        bits("parameter_list_length", 16),
        control(),
    )


OVERWRITE, BLOCK_ERASE, CRYPTOGRAPHIC_ERASE, EXIT_FAILURE_MODE = (
    _layout(action) for action in (0x01, 0x02, 0x03, 0x1F)
)

OVERWRITE_PARAMETER_LIST = c.Struct(
    "flags" / c.BitStruct("invert" / c.Flag, "test" / c.BitsInteger(2), "overwrite_count" / c.BitsInteger(5)),
    c.Padding(1),
    "initialization_pattern" / c.Prefixed(c.Int16ub, c.GreedyBytes),
)
"""SBC-3 table 84."""


def _overwriting(task: Task, cdb: Sanitize) -> SanitizePlan:
    """What an OVERWRITE is to do."""
    unit, data = task.unit, bytes(task.data_out)
    if len(data) != cdb.parameter_list_length:
        raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
    try:
        parsed = OVERWRITE_PARAMETER_LIST.parse(data)
    except c.ConstructError:
        raise invalid_field_in_parameter_list(2) from None
    pattern: bytes = parsed.initialization_pattern
    if not 1 <= parsed.flags.overwrite_count <= 0x1F:
        raise invalid_field_in_parameter_list(0, 4)
    if parsed.flags.test:
        raise invalid_field_in_parameter_list(0, 6)
    if not 1 <= len(pattern) <= unit.block_length or len(data) != 4 + len(pattern):
        raise invalid_field_in_parameter_list(2)
    return SanitizePlan(
        pattern, parsed.flags.overwrite_count, invert=parsed.flags.invert, unrestricted=bool(cdb.ause)
    )


def _overwrite_length(unit: LogicalUnit, cdb: Sanitize) -> int:
    if not 5 <= cdb.parameter_list_length <= unit.block_length + 4:
        raise invalid_field_in_cdb(7)
    return cdb.parameter_list_length


def _check_reserved(task: Task) -> None:
    """What is destroyed cannot be brought back, so reserved fields are checked here (SBC-3 5.24.1)."""
    refuse_while_one_runs(task.unit)
    cdb = task.command.cdb
    if cdb[1] & 0x40:
        raise invalid_field_in_cdb(1, 6)
    for byte in range(2, 7):
        if cdb[byte]:
            raise invalid_field_in_cdb(byte)


def _sanitize(task: Task, cdb: Sanitize, plan: SanitizePlan) -> ScsiResult:
    job = start(task.unit, plan, None if cdb.immed else task.command)
    if cdb.immed:
        return GOOD
    succeeded = job.outcome()
    if succeeded is None:
        raise StatusOnly(Status.TASK_ABORTED)  # to nobody: the session layer has ended the task
    if not succeeded:
        raise check(Condition.SANITIZE_COMMAND_FAILED)
    return GOOD


def overwrite(task: Task, cdb: Sanitize) -> ScsiResult:
    """OVERWRITE: the pattern into every block, so many times, inverted in turn with INVERT."""
    _check_reserved(task)
    _overwrite_length(task.unit, cdb)
    return _sanitize(task, cdb, _overwriting(task, cdb))


def _erase(task: Task, cdb: Sanitize) -> ScsiResult:
    _check_reserved(task)
    if cdb.parameter_list_length:
        raise invalid_field_in_cdb(7)
    return _sanitize(task, cdb, SanitizePlan(unrestricted=bool(cdb.ause)))


def block_erase(task: Task, cdb: Sanitize) -> ScsiResult:
    """BLOCK ERASE: every block is deallocated and reads as zeros (WABEREQ = 01b)."""
    return _erase(task, cdb)


def cryptographic_erase(task: Task, cdb: Sanitize) -> ScsiResult:
    """CRYPTOGRAPHIC ERASE: nothing here is encrypted, so the data themselves go (WACEREQ = 01b)."""
    return _erase(task, cdb)


def exit_failure_mode(task: Task, cdb: Sanitize) -> ScsiResult:
    """EXIT FAILURE MODE: use the medium as a failed sanitize left it, where that one said AUSE (SBC-3 5.24.2.5)."""
    _check_reserved(task)
    if cdb.parameter_list_length:
        raise invalid_field_in_cdb(7)
    unit = task.unit
    with unit.lock:
        failure = unit.sanitize
        if isinstance(failure, SanitizeFailure):
            if not failure.unrestricted:
                raise invalid_field_in_cdb(1, 4)
            try:
                write_down(unit, None)
            except StoreError:
                raise check(Condition.SANITIZE_COMMAND_FAILED) from None
            unit.sanitize = None
    return GOOD


_TRAITS = Traits.MEDIUM | Traits.WRITES | Traits.STORE | Traits.SLOW | Traits.DURING_SANITIZE
_TIMEOUT_S = 3600

OPERATIONS = (
    Operation(
        "SANITIZE, OVERWRITE",
        OVERWRITE,
        overwrite,
        _TRAITS,
        Access.WRITE,
        _overwrite_length,
        DISK_ONLY,
        timeout_s=_TIMEOUT_S,
    ),
    Operation(
        "SANITIZE, BLOCK ERASE",
        BLOCK_ERASE,
        block_erase,
        _TRAITS,
        Access.WRITE,
        device_types=DISK_ONLY,
        timeout_s=_TIMEOUT_S,
    ),
    Operation(
        "SANITIZE, CRYPTOGRAPHIC ERASE",
        CRYPTOGRAPHIC_ERASE,
        cryptographic_erase,
        _TRAITS,
        Access.WRITE,
        device_types=DISK_ONLY,
        timeout_s=_TIMEOUT_S,
    ),
    Operation(
        "SANITIZE, EXIT FAILURE MODE",
        EXIT_FAILURE_MODE,
        exit_failure_mode,
        Traits.MEDIUM | Traits.WRITES | Traits.DURING_SANITIZE,
        Access.WRITE,
        device_types=DISK_ONLY,
    ),
)
