# SPDX-License-Identifier: Apache-2.0
"""The sanitize operation itself (SBC-3 4.11), which outlives the command that began it.

It goes through the medium in steps, in a thread of its own, which is this module's shell.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from iscsi_target.executor import ScsiCommand
from iscsi_target.scsi.errors import CheckCondition, StoreError, check
from iscsi_target.scsi.logical_unit import LogicalUnit
from iscsi_target.scsi.sanitize_file import SanitizePlan
from iscsi_target.scsi.sense import Condition, SenseData

STEP_BYTES = 1 << 20


class SanitizeJob:
    """One sanitize operation, step by step; admission refuses other commands while it is in `unit.sanitize`."""

    running: ClassVar[bool] = True

    def __init__(self, unit: LogicalUnit, plan: SanitizePlan, command: ScsiCommand | None = None) -> None:
        """`command` is the one that waits for the end (:meth:`outcome`); None: nobody does."""
        self._unit = unit
        self._plan = plan
        self._command = command
        self._size_bytes = unit.blocks * unit.block_length
        self._total_bytes = self._size_bytes * plan.passes
        self._step = _overwriting(unit, plan) if plan.pattern else unit.store.discard
        self._done_bytes = 0
        self._succeeded: bool | None = None
        self._answer_due = threading.Event()
        self._stopped = threading.Event()
        self._finished = threading.Event()

    def sense(self) -> SenseData:
        """NOT READY, SANITIZE IN PROGRESS, with the progress in 65536ths (SPC-4 4.5.2.4.4)."""
        progress = self._done_bytes * 0x10000 // self._total_bytes
        return SenseData(Condition.NOT_READY_SANITIZE_IN_PROGRESS, progress=min(progress, 0xFFFF))

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; False when it still runs."""
        return self._finished.wait(timeout_s)

    def stop(self) -> None:
        """End soon, and wait for it: the store is about to be closed."""
        self._stopped.set()
        self._finished.wait()

    def abandon(self, command: ScsiCommand) -> None:
        """The command is not waited for any more: let it return, and go on."""
        if command is self._command:
            self._answer_due.set()

    def outcome(self) -> bool | None:
        """Wait for the end or for being abandoned: whether all was sanitized, None when abandoned before the end."""
        self._answer_due.wait()
        return self._succeeded

    def run(self) -> None:
        """Run to the end, or until stopped or the store fails; what is not finished stays written down."""
        unit, rate = self._unit, self._unit.config.sanitize_bytes_per_s
        succeeded = False
        try:
            with suppress(StoreError, ValueError):  # ValueError: the store was closed meanwhile
                while self._done_bytes < self._total_bytes and not self._stopped.is_set():
                    # A step never crosses from one pass into the next.
                    offset = self._done_bytes % self._size_bytes
                    length = min(STEP_BYTES, self._size_bytes - offset)
                    self._step(self._done_bytes if self._plan.pattern else offset, length)
                    self._done_bytes += length
                    if rate:
                        self._stopped.wait(length / rate)
                if not self._stopped.is_set():
                    unit.store.flush()
                    write_down(unit, None)
                    succeeded = True
        finally:
            with unit.lock:
                unit.sanitize = None if succeeded else SanitizeFailure(self._plan.unrestricted)
            self._succeeded = succeeded
            self._finished.set()
            self._answer_due.set()


@dataclass(frozen=True, slots=True)
class SanitizeFailure:
    """What a sanitize operation that failed leaves in `unit.sanitize`: the medium is neither what it was nor clean,
    and commands are refused (SBC-3 4.11.4). `unrestricted` (AUSE = 1): EXIT FAILURE MODE ends that; else only a
    sanitize operation that succeeds does."""

    unrestricted: bool
    running: ClassVar[bool] = False

    def sense(self) -> SenseData:
        """MEDIUM ERROR, SANITIZE COMMAND FAILED."""
        return SenseData(Condition.SANITIZE_COMMAND_FAILED)

    def wait(self, timeout_s: float) -> bool:
        """It has ended."""
        return True

    def stop(self) -> None:
        """It has ended."""

    def abandon(self, command: ScsiCommand) -> None:
        """No command waits for it."""


def _overwriting(unit: LogicalUnit, plan: SanitizePlan) -> Callable[[int, int], None]:
    """Writes one piece of one pass; positions count through all passes."""
    repeated = plan.pattern * (-(-unit.block_length // len(plan.pattern)))
    pattern = repeated[: unit.block_length] * (STEP_BYTES // unit.block_length)
    inverted = bytes(byte ^ 0xFF for byte in pattern[: unit.block_length]) * (STEP_BYTES // unit.block_length)
    size = unit.blocks * unit.block_length

    def step(position: int, length: int) -> None:
        turn, offset = divmod(position, size)
        unit.store.write(offset, memoryview(inverted if plan.invert and turn % 2 else pattern)[:length])

    return step


def write_down(unit: LogicalUnit, plan: SanitizePlan | None) -> None:
    """Remember an operation that begins, or with None that there is none any more. Raises StoreError."""
    if unit.sanitize_memory is not None:
        unit.sanitize_memory.save(plan)


def refuse_while_one_runs(unit: LogicalUnit) -> None:
    """Admission lets SANITIZE through, since a failed one is answered with another; not while one runs."""
    if unit.sanitize is not None and unit.sanitize.running:
        raise CheckCondition(unit.sanitize.sense())


def start(unit: LogicalUnit, plan: SanitizePlan, command: ScsiCommand | None) -> SanitizeJob:
    """Begin an operation, when the commands that were admitted before it have ended. Raises CheckCondition."""
    job = SanitizeJob(unit, plan, command)
    with unit.lock:
        refuse_while_one_runs(unit)
        try:
            write_down(unit, plan)
        except StoreError:
            raise check(Condition.SANITIZE_COMMAND_FAILED) from None
        unit.sanitize = job
    with unit.ranges.atomic(0, unit.store.size_bytes):
        pass
    threading.Thread(target=job.run, name="sanitize", daemon=True).start()
    return job


def resume(unit: LogicalUnit) -> None:
    """Begin again with what a power loss interrupted, if anything. Raises StoreError when that cannot be read."""
    plan = unit.sanitize_memory.load() if unit.sanitize_memory is not None else None
    if plan is not None and unit.sanitize is None:
        unit.sanitize = job = SanitizeJob(unit, plan)
        threading.Thread(target=job.run, name="sanitize", daemon=True).start()
