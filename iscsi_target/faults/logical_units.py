# SPDX-License-Identifier: Apache-2.0
"""Faults on SCSI commands: logical units around logical units.

A command that no rule is for costs one test. Rules see commands when they are executed, after their Data-Out has come;
chosen answers, medium errors, latency and rates are given here, and an answer that is due later is a
:class:`~iscsi_target.executor.Deferred`, so that no thread waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING

from iscsi_target.executor import Deferred, LogicalUnits, ResetKind, ScsiCommand, ScsiResult
from iscsi_target.fast_units import FastCdbs, offers_fast_path
from iscsi_target.faults.actions import (
    Answer,
    CommandAction,
    Latency,
    MediumAccess,
    MediumError,
    Rate,
    Sense,
)
from iscsi_target.faults.bad_blocks import BadBlocks
from iscsi_target.faults.extents import BlockAccess, block_access
from iscsi_target.faults.matching import Direction, Subject
from iscsi_target.faults.rules import ActiveRule
from iscsi_target.faults.sense_data import fixed_sense_data
from iscsi_target.scsi.sense import SenseKey
from iscsi_target.scsi.status import Status
from iscsi_target.session.task import Task
from iscsi_target.session.task_management import ReportsAttentions
from iscsi_target.session.task_set import MapsUnits
from iscsi_target.wire.opcodes import RESERVED_TAG, Opcode

if TYPE_CHECKING:
    from iscsi_target.fast_path_kernel import FastDisk
    from iscsi_target.instruments import Instruments

_NOT_FAST = FastCdbs((None,) * 256, (None,) * 256)
_SECOND_NS = 1_000_000_000
_UNRECOVERED_READ_ERROR, _WRITE_ERROR = 0x11, 0x0C


class CommandSubject:
    """A SCSI command as rules see it. What the command does not say itself is looked up when a rule asks."""

    direction = Direction.TO_TARGET
    opcode = int(Opcode.SCSI_COMMAND)

    def __init__(self, instruments: Instruments, target_name: str, command: ScsiCommand) -> None:
        self._instruments = instruments
        self.command = command
        self.target_name = target_name

    @property
    def lun(self) -> int:
        """The LUN as the initiator counts."""
        return self.command.lun

    @property
    def cdb(self) -> bytes:
        """The whole CDB."""
        return self.command.cdb

    @property
    def initiator_name(self) -> str:
        """The initiator's iSCSI name (that in the command may be the name of an access rule)."""
        return self.command.initiator_port.partition(",i,0x")[0]

    @cached_property
    def _task(self) -> Task | None:
        return self._instruments.task_of(self.command)

    @property
    def initiator_task_tag(self) -> int:
        """The reserved tag for a command that was aborted meanwhile."""
        return RESERVED_TAG if self._task is None else self._task.initiator_task_tag

    @property
    def tsih(self) -> int:
        """0 for a command that was aborted meanwhile."""
        session = None if self._task is None else self._task.connection.session
        return 0 if session is None else session.tsih

    @property
    def cid(self) -> int:
        """The connection ID; 0 for a command that was aborted meanwhile."""
        return 0 if self._task is None else self._task.connection.cid

    @property
    def connection(self) -> int:
        """The connection's number; 0 for a command that was aborted meanwhile."""
        return 0 if self._task is None else self._instruments.number_of(self._task.connection)

    @cached_property
    def access(self) -> BlockAccess | None:
        """The blocks the command touches."""
        return block_access(self.cdb)


class FaultyLogicalUnits:
    """Implements :class:`iscsi_target.executor.LogicalUnits` around `inner`. `clock` is monotonic, in nanoseconds."""

    def __init__(
        self, inner: LogicalUnits, instruments: Instruments, target_name: str, clock: Callable[[], int]
    ) -> None:
        self.inner = inner
        self._instruments = instruments
        self._faults = instruments.faults
        self._target_name = target_name
        self._clock = clock

    def execute(self, command: ScsiCommand) -> ScsiResult | Deferred:
        rules = self._faults.on_commands
        if not rules and not self._instruments.promised:
            return self.inner.execute(command)
        subject = CommandSubject(self._instruments, self._target_name, command)
        fired: list[tuple[CommandAction, ActiveRule | None, Random]] = []
        for active, random in self._faults.firing(rules, subject, self._applies):
            action = active.rule.action
            assert isinstance(action, Answer | Sense | MediumError | Latency | Rate)
            fired.append((action, active, random))
        fired += [(action, None, random) for action, random in self._instruments.redeem(subject)]
        return self._executed(command, subject, rules, fired)

    def _executed(
        self,
        command: ScsiCommand,
        subject: CommandSubject,
        rules: tuple[ActiveRule, ...],
        fired: list[tuple[CommandAction, ActiveRule | None, Random]],
    ) -> ScsiResult | Deferred:
        instead = next(
            (given for action, active, _ in fired if (given := self._instead(action, active, subject))), None
        )
        result: ScsiResult | Deferred
        due_ns = 0
        if instead is not None and not instead[1]:
            result = instead[0]
        else:
            result = self.inner.execute(command)
            if isinstance(result, Deferred):
                due_ns, result = result.due_ns, result.result
            if result.status == Status.GOOD:
                self._mend(rules, subject)
            if instead is not None:
                result = instead[0]
        for action, active, random in fired:
            if isinstance(action, Latency):
                due_ns = max(due_ns, self._clock()) + action.delay.draw_ns(random)
            elif isinstance(action, Rate):
                due_ns = max(due_ns, self._turn(action, active, subject, result))
        return Deferred(due_ns, result) if due_ns else result

    def _applies(self, active: ActiveRule, subject: Subject) -> bool:
        action = active.rule.action
        if not isinstance(action, MediumError):
            return True
        assert isinstance(subject, CommandSubject)
        return self._first_bad(action, active, subject) is not None

    def _first_bad(
        self, action: MediumError, active: ActiveRule | None, subject: CommandSubject
    ) -> int | None:
        access = subject.access
        if access is None or (action.access is MediumAccess.WRITE) > access.writes:
            return None
        if action.access is MediumAccess.READ and access.writes:
            return None
        with self._faults.lock:
            return _bad_blocks(action, active, subject.lun).first_in(access.lba, access.blocks)

    def _instead(
        self, action: CommandAction, active: ActiveRule | None, subject: CommandSubject
    ) -> tuple[ScsiResult, bool] | None:
        """What the action answers, and whether the command is executed all the same; None: the unit answers."""
        match action:
            case Answer(status, execute):
                return ScsiResult(status, transfer_length=0), execute
            case Sense(key, asc, ascq, information, execute):
                return _check_condition(fixed_sense_data(key, asc, ascq, information)), execute
            case MediumError():
                lba = self._first_bad(action, active, subject)
                if lba is None or subject.access is None:
                    return None
                asc = _WRITE_ERROR if subject.access.writes else _UNRECOVERED_READ_ERROR
                return _check_condition(fixed_sense_data(SenseKey.MEDIUM_ERROR, asc, 0, lba)), False
            case _:
                return None

    def _mend(self, rules: tuple[ActiveRule, ...], subject: CommandSubject) -> None:
        """Blocks were written: those of medium errors that last until rewritten are good again."""
        for active in rules:
            action = active.rule.action
            luns = active.rule.match.luns
            if (
                isinstance(action, MediumError)
                and action.until_rewritten
                and (not luns or subject.lun in luns)
            ):
                access = subject.access
                if access is not None and access.writes:
                    with self._faults.lock:
                        _bad_blocks(action, active, subject.lun).rewritten(access.lba, access.blocks)

    def _turn(
        self, action: Rate, active: ActiveRule | None, subject: CommandSubject, result: ScsiResult
    ) -> int:
        """When the command's turn is over, in nanoseconds. Commands of one LUN queue up behind one another."""
        size = len(subject.command.data_out) + sum(map(len, result.data_in))
        cost_ns = 0
        if action.bytes_per_s is not None:
            cost_ns = size * _SECOND_NS // action.bytes_per_s
        if action.iops is not None:
            cost_ns = max(cost_ns, int(_SECOND_NS / action.iops))
        now_ns = self._clock()
        if active is None:
            return now_ns + cost_ns
        with self._faults.lock:
            due_ns = max(now_ns, active.free_ns.get(subject.lun, 0)) + cost_ns
            active.free_ns[subject.lun] = due_ns
        return due_ns

    # -- the fast path ------------------------------------------------------------------------------------------

    @property
    def fast_cdbs(self) -> FastCdbs:
        """The CDBs that the disks inside take on the fast path (:class:`iscsi_target.fast_units.FastUnits`)."""
        return self.inner.fast_cdbs if offers_fast_path(self.inner) else _NOT_FAST

    def fast_disk(self, initiator_name: str, lun: int) -> FastDisk | None:
        """The disk inside, while no rule is for SCSI commands."""
        if self._faults.on_commands or self._instruments.promised or not offers_fast_path(self.inner):
            return None
        return self.inner.fast_disk(initiator_name, lun)

    # -- what passes through ------------------------------------------------------------------------------------

    def data_out_length(self, command: ScsiCommand) -> int:
        return self.inner.data_out_length(command)

    def blocking(self, command: ScsiCommand) -> bool:
        return self.inner.blocking(command)

    def abandon(self, command: ScsiCommand) -> None:
        self.inner.abandon(command)

    def luns_for(self, initiator_name: str) -> Sequence[int]:
        return self.inner.luns_for(initiator_name)

    def unit_for(self, initiator_name: str, lun: int) -> Hashable | None:
        return self.inner.unit_for(initiator_name, lun) if isinstance(self.inner, MapsUnits) else None

    def attention_report(self, lun: int, initiator_port: str, target_port: int) -> bytes | None:
        if not isinstance(self.inner, ReportsAttentions):
            return None
        return self.inner.attention_report(lun, initiator_port, target_port)

    def i_t_nexus_established(self, initiator_name: str, initiator_port: str, target_port: int) -> None:
        self.inner.i_t_nexus_established(initiator_name, initiator_port, target_port)

    def i_t_nexus_loss(self, initiator_port: str, target_port: int) -> None:
        self.inner.i_t_nexus_loss(initiator_port, target_port)

    def reset(self, kind: ResetKind, lun: int | None, initiator_port: str, target_port: int) -> bool:
        return self.inner.reset(kind, lun, initiator_port, target_port)


def _check_condition(sense: bytes) -> ScsiResult:
    return ScsiResult(Status.CHECK_CONDITION, sense=sense, transfer_length=0)


def _bad_blocks(action: MediumError, active: ActiveRule | None, lun: int) -> BadBlocks:
    """The bad blocks of a LUN; every LUN that a rule is for has its own."""
    if active is None:
        return BadBlocks(action.lba, action.blocks)
    bad = active.bad_blocks.get(lun)
    if bad is None:
        bad = active.bad_blocks[lun] = BadBlocks(action.lba, action.blocks)
    return bad
