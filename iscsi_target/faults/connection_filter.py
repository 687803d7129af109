# SPDX-License-Identifier: Apache-2.0
"""Faults, log and capture on one connection: a :class:`~iscsi_target.wire_filter.WireFilter`. Sans-IO.

Bytes are cut into PDUs while somebody watches (a rule, a hook, the log, a capture) and during the login; otherwise they
pass as they come, and only the boundaries are followed, so that watching can begin at any PDU.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from iscsi_target.buffers import ConnectionInfo
from iscsi_target.executor import Buffer
from iscsi_target.faults import core_actions
from iscsi_target.faults.edits import can_act_on
from iscsi_target.faults.hook import HookContext, actions_of
from iscsi_target.faults.lane import Item, Lane
from iscsi_target.faults.login_phase import LoginPhase
from iscsi_target.faults.matching import Direction, Subject
from iscsi_target.faults.narrowed_window import NarrowedWindow
from iscsi_target.faults.pdu_stream import PduStream
from iscsi_target.faults.rules import ActiveRule
from iscsi_target.faults.verdict import Verdict
from iscsi_target.faults.wire_pdu import WirePdu
from iscsi_target.session.target_connection import TargetConnection
from iscsi_target.session.target_output import Phase
from iscsi_target.trace.stream import TcpStream
from iscsi_target.wire.lun import lun_from_bytes
from iscsi_target.wire.opcodes import BHS_BYTES, RESERVED_TAG, Opcode
from iscsi_target.wire_filter import Closing

if TYPE_CHECKING:
    from iscsi_target.instruments import Instruments

_log = logging.getLogger(__name__)
_MAX_TASKS = 4096
_LARGEST_RESPONSE_BYTES = (1 << 24) + 4096
_WITH_LUN = frozenset({Opcode.SCSI_COMMAND, Opcode.TASK_MANAGEMENT_REQUEST})


class PduSubject:
    """A PDU as rules see it."""

    __slots__ = ("cdb", "direction", "filter", "initiator_task_tag", "lun", "opcode", "pdu")

    def __init__(
        self, owner: ConnectionFilter, pdu: WirePdu, direction: Direction, lun: int | None, cdb: bytes
    ) -> None:
        self.filter = owner
        self.pdu = pdu
        self.direction = direction
        self.opcode = pdu.opcode
        self.initiator_task_tag = pdu.initiator_task_tag
        self.lun = lun
        self.cdb = cdb

    @property
    def initiator_name(self) -> str:
        """The iSCSI name from the login."""
        return self.filter.login.initiator_name

    @property
    def target_name(self) -> str:
        """The iSCSI name from the login; empty in a discovery session."""
        return self.filter.login.target_name

    @property
    def tsih(self) -> int:
        """0 before the login is complete."""
        return self.filter.tsih

    @property
    def cid(self) -> int:
        """The connection ID of the login."""
        return self.filter.login.cid

    @property
    def connection(self) -> int:
        """The connection's number."""
        return self.filter.number


class ConnectionFilter:
    """See the module. `number`: the connections of a target are numbered from 1 in the order of their coming."""

    def __init__(
        self, instruments: Instruments, number: int, info: ConnectionInfo, core: TargetConnection
    ) -> None:
        self.closing: Closing | None = None
        self._over: Closing | None = None
        """How the connection ends: nothing more goes out, and after a close or reset nothing more comes in."""
        self.number = number
        self.info = info
        self.core = core
        self.login = LoginPhase()
        self.stream = TcpStream(info)
        self.pdus = 0
        """PDUs seen, both directions."""
        self._instruments = instruments
        self._in = PduStream(self.login.limit_bytes)
        self._out = PduStream(_LARGEST_RESPONSE_BYTES)
        self._inward = Lane()
        self._outward = Lane()
        self._resume = False
        self._steps: list[Callable[[], None]] = []
        self.narrowed = NarrowedWindow()
        self._tasks: OrderedDict[int, tuple[int, bytes]] = OrderedDict()
        self._failed_hooks: set[str] = set()
        self._hook_random = Random(f"{instruments.faults.seed}/hook/{number}")

    @property
    def tsih(self) -> int:
        """The session; 0 before the login is complete."""
        session = self.core.session
        return session.tsih if session is not None else 0

    @property
    def released_early(self) -> int:
        """PDUs that went on before their time because too much was held."""
        return self._inward.released_early + self._outward.released_early

    @property
    def _idle(self) -> bool:
        """Nobody watches, and the login is over: bytes may pass as they come."""
        return self.login.over and not self._instruments.watching

    # -- the wire filter ----------------------------------------------------------------------------------------

    def incoming(self, chunk: bytes, now_ns: int) -> bytes:
        """What one read brought; what the target is to receive now."""
        if self._over in ("close", "reset"):
            return b""
        if self._idle and not self._in.held_bytes and self._inward.empty:
            self._in.skip((chunk,))
            self.stream.passed(Direction.TO_TARGET, len(chunk))
            return chunk
        self._in.feed((chunk,))
        self._cut_incoming(now_ns)
        return self._take_incoming(now_ns)

    def outgoing(self, buffers: list[Buffer], now_ns: int) -> list[Buffer]:
        """What the target wants to send; what is to be written now."""
        if self._over is not None:
            return []
        if self._idle and not self._out.held_bytes and self._outward.empty:
            self._out.skip(buffers)
            self.stream.passed(Direction.TO_INITIATOR, sum(map(len, buffers)))
            return buffers
        self._out.feed(buffers)
        while self._over is None and (piece := self._out.next_piece()) is not None:
            self._outgoing_piece(*piece, now_ns)
        return self._take_outgoing(now_ns)

    def next_deadline(self) -> int | None:
        """When something that is held back becomes due."""
        if self._resume or self._steps:
            return 0
        times = [
            time
            for time in (
                self._inward.next_deadline(),
                self._outward.next_deadline(),
                self.narrowed.deadline_ns,
            )
            if time is not None
        ]
        return min(times) if times else None

    def handle_timer(self, now_ns: int) -> None:
        """The moment has come."""
        self._now_ns = now_ns
        steps, self._steps = self._steps, []
        for step in steps:
            step()
        if self.narrowed.over(now_ns, self.rules) and self.full_feature:
            self.core.ping()  # a NOP-In: it says ExpCmdSN and MaxCmdSN as they are
        if self._resume:
            self._resume = False
            self._cut_incoming(now_ns)

    def take_incoming(self) -> bytes:
        """Held back, and due."""
        return self._take_incoming(self._now_ns)

    def take_outgoing(self) -> list[Buffer]:
        """Held back, and due."""
        return self._take_outgoing(self._now_ns)

    def ended(self, now_ns: int) -> None:
        """The socket is closed."""
        for direction, stream in ((Direction.TO_TARGET, self._in), (Direction.TO_INITIATOR, self._out)):
            rest = stream.drain()
            if rest and direction is Direction.TO_TARGET:
                self._instruments.capture(self, direction, rest, now_ns, "")
        self._instruments.connection_ended(self, now_ns)

    # -- inside -------------------------------------------------------------------------------------------------

    _now_ns = 0

    def _take_incoming(self, now_ns: int) -> bytes:
        """Bytes up to the next step; a step is taken when the core has had all that came before it."""
        self._now_ns = max(self._now_ns, now_ns)
        pieces: list[bytes] = []
        items = self._inward.take(now_ns)
        for at, item in enumerate(items):
            if item.step is None:
                pieces.append(item.raw)
            elif pieces:
                self._inward.put_back(items[at:])
                break
            else:
                item.step()
        return b"".join(pieces)

    def _take_outgoing(self, now_ns: int) -> list[Buffer]:
        self._now_ns = max(self._now_ns, now_ns)
        buffers: list[Buffer] = []
        for item in self._outward.take(now_ns):
            if item.on_release is not None:
                item.on_release(now_ns)
            if item.raw:
                buffers.append(item.raw)
            if item.step is not None:
                # The core is just being asked for what it has to send: it gets more to send a moment later.
                self._steps.append(item.step)
        return buffers

    def _cut_incoming(self, now_ns: int) -> None:
        while self._over not in ("close", "reset") and not self.login.waiting:
            piece = self._in.next_piece()
            if piece is None:
                return
            self._incoming_piece(*piece, now_ns)

    def _incoming_piece(self, raw: bytes, whole: bool, now_ns: int) -> None:
        direction = Direction.TO_TARGET
        if not whole:
            self._instruments.capture(self, direction, raw, now_ns, "")
            self._inward.push(Item(raw))
            return
        pdu = WirePdu(raw, header_digest=self._in.header_digest, data_digest=self._in.data_digest)
        if not self.login.over:
            self.login.request(pdu)
        subject = self._subject(pdu, direction)
        if pdu.opcode == Opcode.SCSI_COMMAND and subject.lun is not None:
            self._remember(pdu.initiator_task_tag, subject.lun, subject.cdb)
        verdict = self._judge(subject, now_ns)
        self._instruments.record(subject, pdu, verdict.names, verdict.fate, now_ns, on_wire=True)
        self._instruments.capture(self, direction, raw, now_ns, verdict.comment)
        if not self.login.over and pdu.opcode == Opcode.LOGIN_REQUEST and not verdict.drop:
            self.login.waiting = True
        self._hand_on(self._inward, verdict, now_ns)

    def _outgoing_piece(self, raw: bytes, whole: bool, now_ns: int) -> None:
        direction = Direction.TO_INITIATOR
        if not whole:
            self._outward.push(Item(raw, on_release=self._captured(raw)))
            return
        pdu = WirePdu(raw, header_digest=self._out.header_digest, data_digest=self._out.data_digest)
        subject = self._subject(pdu, direction)
        verdict = self._judge(subject, now_ns)
        if verdict.drop:
            self._instruments.record(subject, pdu, verdict.names, verdict.fate, now_ns, on_wire=False)
            self.stream.remark(verdict.comment)
        else:
            verdict.on_release = self._sent(subject, verdict)
        if not self.login.over:
            self._login_response(pdu)
        if pdu.number("status") is not None and (pdu.opcode == Opcode.SCSI_RESPONSE or pdu.raw[1] & 1):
            self._tasks.pop(pdu.initiator_task_tag, None)
        self._hand_on(self._outward, verdict, now_ns)

    def _login_response(self, pdu: WirePdu) -> None:
        self.login.response(pdu)
        if self.login.over:
            self._in.limit_bytes = self.login.limit_bytes
            for stream in (self._in, self._out):
                stream.header_digest = self.login.header_digest
                stream.data_digest = self.login.data_digest
        if not self.login.waiting and self._in.held_bytes:
            self._resume = True

    def _hand_on(self, lane: Lane, verdict: Verdict, now_ns: int) -> None:
        """Give the PDU, or what became of it, to its lane; then what the rules want besides."""
        items = verdict.items()
        if verdict.behind:
            for item in items:
                lane.push_behind(item, verdict.behind, now_ns + verdict.within_ns)
        else:
            due_ns = now_ns + verdict.delay_ns if verdict.delay_ns else 0
            for item in items:
                lane.push(item, due_ns, overtaken=verdict.overtaken)
        for step in verdict.steps:
            lane.push(Item(step=step))
        if verdict.closing is not None:
            self._over = verdict.closing
            if verdict.closing == "close":
                # The core closes in order: FIN, and no reset that would overtake what is on its way.
                lane.push(Item(step=self._close))
            else:
                self.closing = verdict.closing

    def _close(self) -> None:
        self.core.fail("a fault rule closed the connection")

    def forge(self, raw: bytes, comment: str) -> None:
        """Send a PDU of the filter's own."""
        self._outward.push(Item(raw, on_release=self._captured(raw, comment)))

    def _captured(self, raw: bytes, comment: str = "") -> Callable[[int], None]:
        return lambda now_ns: self._instruments.capture(self, Direction.TO_INITIATOR, raw, now_ns, comment)

    def _sent(self, subject: PduSubject, verdict: Verdict) -> Callable[[int, bytes], None]:
        def sent(now_ns: int, raw: bytes) -> None:
            pdu = WirePdu(raw) if len(raw) >= BHS_BYTES else subject.pdu
            self._instruments.record(subject, pdu, verdict.names, verdict.fate, now_ns, on_wire=True)
            self._instruments.capture(self, Direction.TO_INITIATOR, raw, now_ns, verdict.comment)

        return sent

    def _subject(self, pdu: WirePdu, direction: Direction) -> PduSubject:
        lun: int | None = None
        cdb = b""
        if direction is Direction.TO_TARGET and pdu.opcode in _WITH_LUN:
            lun = lun_from_bytes(pdu.lun_field)
            if pdu.opcode == Opcode.SCSI_COMMAND:
                cdb = pdu.raw[32:48]
        elif pdu.initiator_task_tag != RESERVED_TAG:
            lun, cdb = self._tasks.get(pdu.initiator_task_tag, (None, b""))
        return PduSubject(self, pdu, direction, lun, cdb)

    def _remember(self, initiator_task_tag: int, lun: int, cdb: bytes) -> None:
        self._tasks.pop(initiator_task_tag, None)
        self._tasks[initiator_task_tag] = (lun, cdb)
        if len(self._tasks) > _MAX_TASKS:
            self._tasks.popitem(last=False)

    def _judge(self, subject: PduSubject, now_ns: int) -> Verdict:
        """Try every rule, then the hooks; each finds the PDU as the one before left it."""
        self.pdus += 1
        verdict = Verdict(subject.pdu)
        faults = self._instruments.faults
        if faults.on_pdus:
            for active, random in faults.firing(faults.on_pdus, subject, self._applies):
                core_actions.apply(
                    self, subject, verdict, active.rule.action, active.rule.name, random, now_ns
                )
        for name, hook in self._instruments.hooks:
            context = HookContext(
                subject.direction,
                self.number,
                self.tsih,
                self.login.cid,
                subject.initiator_name,
                subject.target_name,
                subject.lun,
                subject.cdb,
                self.pdus,
                now_ns,
                self._hook_random,
            )
            try:
                actions = actions_of(hook(verdict.pdu, context))
            except Exception:  # noqa: BLE001 - a defect of the hook costs one line in the log, not the connection
                if name not in self._failed_hooks:
                    self._failed_hooks.add(name)
                    _log.exception("the hook %s failed on a PDU of connection %d", name, self.number)
                continue
            for action in actions:
                if isinstance(action, self._instruments.command_kinds):
                    self._instruments.promise(subject, action)
                    verdict.say(name, "for the logical unit")
                elif can_act_on(action, verdict.pdu, subject.direction, full_feature=self.full_feature):
                    core_actions.apply(self, subject, verdict, action, name, self._hook_random, now_ns)
        return verdict

    @property
    def rules(self) -> tuple[ActiveRule, ...]:
        """The rules for PDUs that are in force."""
        return self._instruments.faults.on_pdus

    @property
    def full_feature(self) -> bool:
        """Whether the core is in full-feature phase, and can answer."""
        return self.core.phase is Phase.FULL_FEATURE

    def _applies(self, active: ActiveRule, subject: Subject) -> bool:
        assert isinstance(subject, PduSubject)
        action = active.rule.action
        return can_act_on(action, subject.pdu, subject.direction, full_feature=self.full_feature)
