# SPDX-License-Identifier: Apache-2.0
"""SANITIZE: overwrite, block erase, cryptographic erase (SBC-3 4.11, 5.24).

A sanitize operation goes through the medium in steps. With IMMED = 0 the command itself runs it (in a thread of the
session's pool: the command is marked SLOW); with IMMED = 1 a thread of its own does, which is this module's shell.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

import construct as c

from iscsi_target.executor import ScsiResult
from iscsi_target.scsi.errors import StoreError, check, invalid_field_in_cdb, invalid_field_in_parameter_list
from iscsi_target.scsi.layout import CdbLayout, bits, control, flag, opcode, reserved, service_action
from iscsi_target.scsi.logical_unit import LogicalUnit
from iscsi_target.scsi.operation import DISK_ONLY, GOOD, Access, Operation, Task, Traits
from iscsi_target.scsi.sense import Condition, SenseData

STEP_BYTES = 1 << 20


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


class SanitizeJob:
    """One sanitize operation, step by step; admission refuses other commands while it is in `unit.sanitize`."""

    def __init__(self, unit: LogicalUnit, total_bytes: int, step: Callable[[int, int], None]) -> None:
        """`step(offset, length)` sanitizes one piece; offsets run from 0 to `total_bytes`."""
        self._unit = unit
        self._total_bytes = total_bytes
        self._step = step
        self._done_bytes = 0
        self._stopped = threading.Event()
        self._finished = threading.Event()

    def sense(self) -> SenseData:
        """NOT READY, SANITIZE IN PROGRESS, with the progress in 65536ths (SPC-4 4.5.2.4.4)."""
        progress = self._done_bytes * 0x10000 // max(1, self._total_bytes)
        return SenseData(Condition.NOT_READY_SANITIZE_IN_PROGRESS, progress=min(progress, 0xFFFF))

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; False when it still runs."""
        return self._finished.wait(timeout_s)

    def stop(self) -> None:
        """End soon, and wait for it: the store is about to be closed."""
        self._stopped.set()
        self._finished.wait()

    def run(self) -> bool:
        """Run to the end; False when it was stopped or the store failed. Leaves `unit.sanitize` empty."""
        rate = self._unit.config.sanitize_bytes_per_s
        store = self._unit.store
        try:
            while self._done_bytes < self._total_bytes and not self._stopped.is_set():
                length = min(STEP_BYTES, self._total_bytes - self._done_bytes)
                self._step(self._done_bytes, length)
                self._done_bytes += length
                if rate:
                    self._stopped.wait(length / rate)
            store.flush()
        except (StoreError, ValueError):  # ValueError: the store was closed meanwhile
            return False
        finally:
            with self._unit.lock:
                self._unit.sanitize = None
            self._finished.set()
        return not self._stopped.is_set()


def _pattern(task: Task, cdb: Sanitize) -> tuple[bytes, bool, int]:
    """(initialization pattern repeated to a step, invert, count) of an OVERWRITE."""
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
    block = (pattern * (-(-unit.block_length // len(pattern))))[: unit.block_length]
    return block * (STEP_BYTES // unit.block_length), parsed.flags.invert, parsed.flags.overwrite_count


def _overwrite_length(unit: LogicalUnit, cdb: Sanitize) -> int:
    if not 5 <= cdb.parameter_list_length <= unit.block_length + 4:
        raise invalid_field_in_cdb(7)
    return cdb.parameter_list_length


def _check_reserved(task: Task) -> None:
    """What is destroyed cannot be brought back, so reserved fields are checked here (SBC-3 5.24.1)."""
    cdb = task.command.cdb
    if cdb[1] & 0x40:
        raise invalid_field_in_cdb(1, 6)
    for byte in range(2, 7):
        if cdb[byte]:
            raise invalid_field_in_cdb(byte)


def _start(task: Task, cdb: Sanitize, total_bytes: int, step: Callable[[int, int], None]) -> ScsiResult:
    unit = task.unit
    with unit.lock:
        if unit.sanitize is not None:
            raise check(Condition.NOT_READY_SANITIZE_IN_PROGRESS)
        job = SanitizeJob(unit, total_bytes, step)
        unit.sanitize = job
    with unit.ranges.atomic(0, unit.store.size_bytes):
        pass  # commands that were admitted before end first
    if cdb.immed:
        threading.Thread(target=job.run, name="sanitize", daemon=True).start()
        return GOOD
    if not job.run():
        raise check(Condition.SANITIZE_COMMAND_FAILED)
    return GOOD


def overwrite(task: Task, cdb: Sanitize) -> ScsiResult:
    """OVERWRITE: the pattern into every block, so many times, inverted in turn with INVERT."""
    _check_reserved(task)
    unit = task.unit
    _overwrite_length(unit, cdb)
    pattern, invert, count = _pattern(task, cdb)
    inverted = bytes(byte ^ 0xFF for byte in pattern[: unit.block_length]) * (STEP_BYTES // unit.block_length)
    size = unit.blocks * unit.block_length

    def step(position: int, length: int) -> None:
        # A step never crosses from one pass into the next: passes are whole, steps are cut at their end.
        turn, offset = divmod(position, size)
        first = min(length, size - offset)
        for start, span, of_pass in ((offset, first, turn), (0, length - first, turn + 1)):
            if span:
                data = inverted if invert and of_pass % 2 else pattern
                unit.store.write(start, memoryview(data)[:span])

    return _start(task, cdb, size * count, step)


def _erase(task: Task, cdb: Sanitize) -> ScsiResult:
    _check_reserved(task)
    if cdb.parameter_list_length:
        raise invalid_field_in_cdb(7)
    unit = task.unit
    return _start(task, cdb, unit.blocks * unit.block_length, unit.store.discard)


def block_erase(task: Task, cdb: Sanitize) -> ScsiResult:
    """BLOCK ERASE: every block is deallocated and reads as zeros (WABEREQ = 01b)."""
    return _erase(task, cdb)


def cryptographic_erase(task: Task, cdb: Sanitize) -> ScsiResult:
    """CRYPTOGRAPHIC ERASE: nothing here is encrypted, so the data themselves go (WACEREQ = 01b)."""
    return _erase(task, cdb)


def exit_failure_mode(task: Task, cdb: Sanitize) -> ScsiResult:
    """EXIT FAILURE MODE: a failed sanitize leaves no failure mode here, so there is none to leave."""
    _check_reserved(task)
    if cdb.parameter_list_length:
        raise invalid_field_in_cdb(7)
    return GOOD


_TRAITS = Traits.MEDIUM | Traits.WRITES | Traits.STORE | Traits.SLOW
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
        Traits.MEDIUM | Traits.WRITES,
        Access.WRITE,
        device_types=DISK_ONLY,
    ),
)
