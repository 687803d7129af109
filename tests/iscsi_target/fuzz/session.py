"""Fuzz target: whole sessions against the real target core with the real SCSI layer behind it.

Input: one byte of options, then records: a head byte, a 16-bit length, that many bytes. The head says on which of
three connections something happens, and what: bytes as they are, one PDU with right lengths and digests, the same
with the numbers the target waits for, the end of the stream, a new connection, time, the end of slow commands.
What the target sends is taken apart and checked; in the end everything is closed and nothing may be left.
"""

from __future__ import annotations

import enum
import random
from collections import deque
from collections.abc import Iterator
from typing import Any

from iscsi_target.executor import ScsiCommand, ScsiResult
from iscsi_target.scsi.logical_unit import LogicalUnit, derive_identity
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.target_device import TargetDevice
from iscsi_target.session.limits import Limits
from iscsi_target.session.node import Portal, Target, TargetNode
from iscsi_target.session.serial import before
from iscsi_target.session.target_connection import TargetConnection
from iscsi_target.session.target_output import Phase
from iscsi_target.session.target_session import TargetSession
from iscsi_target.session.task import Task, TaskState
from iscsi_target.wire.codec import CODECS, decode_pdu, encode_pdu
from iscsi_target.wire.digest import digest_of
from iscsi_target.wire.framing import Framer
from iscsi_target.wire.opcodes import RESERVED_TAG, Opcode
from iscsi_target.wire.requests import (
    DataOut,
    LoginRequest,
    LogoutRequest,
    NopOut,
    SnackRequest,
    TaskManagementRequest,
    TextRequest,
)
from iscsi_target.wire.responses import R2T, DataIn, LoginResponse, NopIn
from iscsi_target.wire.text import encode_text
from tests.iscsi_target.fuzz.mutation import mutate_bytes
from tests.iscsi_target.fuzz.seeds import CDBS, command
from tests.iscsi_target.imaginary_wire import HOST, ISID, TARGET

LIMITS = Limits(
    retained_bytes=1 << 15,
    queued_commands=8,
    transfer_bytes=1 << 16,
    solicited_bytes=1 << 17,
    login_text_bytes=2000,
    sessions=4,
)
_SECOND = 1_000_000_000
_OUTPUT_LIMIT_BYTES = 8 << 20
_NAMES = [("InitiatorName", HOST), ("TargetName", TARGET), ("SessionType", "Normal")]
_FAST = [
    ("InitialR2T", "No"),
    ("MaxConnections", "3"),
    ("MaxOutstandingR2T", "4"),
    ("FirstBurstLength", "2048"),
]
_FAST += [("MaxBurstLength", "4096")]
_SMALL = ("MaxRecvDataSegmentLength", "512")
LOGINS = (
    None,
    [*_NAMES],
    [*_NAMES, *_FAST, _SMALL, ("ErrorRecoveryLevel", "2")],
    [*_NAMES, *_FAST, ("ErrorRecoveryLevel", "1"), ("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")],
    [("InitiatorName", HOST), ("SessionType", "Discovery")],
    [*_NAMES, *_FAST, ("iSCSIProtocolLevel", "2"), ("TaskReporting", "FastAbort")],
)
"""What connection 0 logs in with before the records begin; None: the records log in."""
_SLOW = 0x80
"""Option: commands stay in the device server until a record says that they are done."""


class Do(enum.IntEnum):
    """What a record does (three bits of its head; two bits are the connection)."""

    PDU = 0
    NUMBERED = 1
    BYTES = 2
    END = 3
    CONNECT = 4
    TIME = 5
    COMPLETE = 6
    EXECUTE_LATER = 7


def record(do: Do, payload: bytes = b"", connection: int = 0) -> bytes:
    """One record."""
    return bytes((do << 2 | connection,)) + len(payload).to_bytes(2, "big") + payload


def records(data: bytes) -> Iterator[bytes]:
    """Cut an input into its records; the last may be short."""
    start = 0
    while start < len(data):
        end = start + 3 + int.from_bytes(data[start + 1 : start + 3], "big")
        yield data[start:end]
        start = end


class SessionTarget:
    """See the module."""

    name = "session"
    size_limit_bytes = 6000
    peak_limit_bytes = 32 << 20

    def seeds(self) -> list[bytes]:
        return list(_seeds())

    def mutate(self, rng: random.Random, data: bytes, other: bytes) -> bytes:
        options, items = data[:1], list(records(data[1:]))
        if not items or rng.random() < 0.1:
            return mutate_bytes(rng, data, (), other)
        others = list(records(other[1:])) or items
        for _ in range(rng.choice((1, 1, 2, 4))):
            where = rng.randrange(len(items) + 1)
            match rng.randrange(8):
                case 0:
                    items[where:where] = [rng.choice(others)]
                case 1 if len(items) > 1:
                    del items[where % len(items)]
                case 2:
                    items[where:where] = items[max(where - rng.randint(1, 4), 0) : where]
                case 3:
                    items[where:where] = [
                        record(Do(rng.randrange(3, 8)), bytes((rng.randrange(256),)), rng.randrange(3))
                    ]
                case 4:
                    one = items[where % len(items)]
                    items[where % len(items)] = bytes((rng.randrange(32),)) + one[1:]
                case 5:
                    first, second = rng.randrange(len(items)), rng.randrange(len(items))
                    items[first], items[second] = items[second], items[first]
                case _:
                    one = items[where % len(items)]
                    payload = mutate_bytes(rng, one[3:], _TOKENS, rng.choice(others)[3:])[:4000]
                    items[where % len(items)] = one[:1] + len(payload).to_bytes(2, "big") + payload
        if rng.random() < 0.05:
            options = bytes((rng.randrange(len(LOGINS)) | rng.choice((0, _SLOW)),))
        return options + b"".join(items)

    def pieces(self, data: bytes) -> list[bytes]:
        return [data[:1], *records(data[1:])]

    def run(self, data: bytes) -> None:
        if data:
            run = _Run(data[0])
            for one in list(records(data[1:]))[:120]:
                run.do(one[0], one[3:])
            run.finish()


class _Wire:
    """One connection and what its initiator has seen of it."""

    def __init__(self, core: TargetConnection) -> None:
        self.core = core
        self.framer = Framer(1 << 24)
        self.next_stat_sn: int | None = None
        self.max_cmd_sn: int | None = None
        self.r2ts: deque[R2T] = deque(maxlen=8)
        self.largest_data = 8192


class _Run:
    """One input's world."""

    def __init__(self, options: int) -> None:
        unit = LogicalUnit(MemoryStore(1 << 16), derive_identity(TARGET, 0))
        self.device = TargetDevice(TARGET, {0: unit})
        self.node = TargetNode([Target(name=TARGET, logical_units=self.device)], LIMITS)
        self.node.portals = (Portal("192.0.2.1", 3260, 1),)
        self.now_ns = 0
        self.slow = bool(options & _SLOW)
        self.executing: deque[tuple[TargetSession, Task]] = deque()
        self.wires = [self.connect() for _ in range(3)]
        self.sent_bytes = 0
        pairs = LOGINS[(options & 0x7F) % len(LOGINS)]
        if pairs is not None:
            request = LoginRequest(
                transit=True, csg=1, nsg=3, isid=ISID, initiator_task_tag=7, cmd_sn=1, data=encode_text(pairs)
            )
            self.feed(self.wires[0], encode_pdu(request))
            assert self.wires[0].core.phase is Phase.FULL_FEATURE

    def connect(self) -> _Wire:
        return _Wire(
            TargetConnection(
                self.node,
                peer="192.0.2.9:40000",
                local_host="192.0.2.1",
                portal_group_tag=1,
                random_bytes=random.Random(1).randbytes,
                now_ns=self.now_ns,
                fast_path=True,
            )
        )

    def do(self, head: int, payload: bytes) -> None:
        wire = self.wires[(head & 3) % 3]
        match Do(head >> 2 & 7):
            case Do.BYTES:
                self.feed(wire, payload)
            case Do.PDU if len(payload) >= 48:
                self.feed(wire, _whole(wire, payload))
            case Do.NUMBERED if len(payload) >= 48:
                self.feed(wire, _whole(wire, _numbered(wire, payload)))
            case Do.END:
                wire.core.eof()
                self.turn()
            case Do.CONNECT:
                wire.core.eof()
                self.wires[self.wires.index(wire)] = self.connect()
                self.turn()
            case Do.TIME:
                self.pass_time((payload[0] if payload else 1) * _SECOND)
            case Do.COMPLETE:
                self.complete(payload[0] if payload else 255)
            case Do.EXECUTE_LATER:
                self.slow = not self.slow
            case _:
                self.feed(wire, payload)

    def feed(self, wire: _Wire, data: bytes) -> None:
        wire.core.receive(data, self.now_ns)
        self.turn()

    def pass_time(self, time_ns: int) -> None:
        self.now_ns += time_ns
        for wire in self.wires:
            if wire.core.next_deadline() <= self.now_ns:
                wire.core.handle_timer(self.now_ns)
        self.node.handle_timer(self.now_ns)
        self.turn()

    def turn(self) -> None:
        """Be the shell: execute, make Data-In, take what is to be written, until nothing moves."""
        moved = True
        while moved:
            moved = False
            for wire in self.wires:
                core = wire.core
                if core.fast is not None and core.fast.taken:
                    moved = True
                    if not self.slow:
                        core.run_fast(LIMITS.data_in_chunk_bytes)
                    core.give_up_fast()
                while core.ready and core.session is not None:
                    moved = True
                    self.execute(core.session, core.ready.popleft())
                while core.data_in_bytes:
                    core.emit_data_in(LIMITS.data_in_chunk_bytes)
                output = core.take_output()
                if output:
                    moved = True
                    self.take(wire, b"".join(bytes(buffer) for buffer in output))
        self.node.touched.clear()
        self.node.events.clear()
        self.check_bounds()

    def execute(self, session: TargetSession, task: Task) -> None:
        if self.slow:
            task.state = TaskState.EXECUTING
            self.executing.append((session, task))
            return
        session.complete(task, self.result(task.command))

    def result(self, scsi_command: ScsiCommand) -> ScsiResult:
        return self.device.execute(scsi_command)

    def complete(self, count: int) -> None:
        while self.executing and count:
            count -= 1
            session, task = self.executing.popleft()
            session.complete(task, self.result(task.command))
        self.turn()

    def take(self, wire: _Wire, data: bytes) -> None:
        """What an initiator sees: well-formed PDUs, numbers that do not jump, nothing larger than it declared."""
        self.sent_bytes += len(data)
        core = wire.core
        wire.largest_data = max(wire.largest_data, core.max_send)
        for frame in wire.framer.receive(data):
            assert frame.data_digest_ok
            pdu = decode_pdu(frame.whole())
            assert len(frame.data) <= wire.largest_data, "a data segment longer than the initiator declared"
            if isinstance(pdu, LoginResponse):
                if pdu.transit and pdu.nsg == 3 and not pdu.status_class:
                    wire.framer.header_digest = core._header_digest
                    wire.framer.data_digest = core._data_digest
                    wire.next_stat_sn = pdu.stat_sn + 1
                continue
            session = core.session
            assert session is not None, "a PDU of full-feature phase before the login"
            if isinstance(pdu, R2T):
                wire.r2ts.append(pdu)
            self.check_numbers(wire, session, pdu)

    def check_numbers(self, wire: _Wire, session: TargetSession, pdu: object) -> None:
        if not session.agreed.error_recovery_level:  # PDUs that are sent again have old numbers
            numbered = not isinstance(pdu, R2T) and not (isinstance(pdu, DataIn) and not pdu.status_present)
            if isinstance(pdu, NopIn) and pdu.initiator_task_tag == RESERVED_TAG:
                numbered = False
            if numbered and wire.next_stat_sn is not None:
                assert pdu.stat_sn == wire.next_stat_sn, "StatSN jumps"  # type: ignore[attr-defined]
                wire.next_stat_sn = pdu.stat_sn + 1 & 0xFFFFFFFF  # type: ignore[attr-defined]
        last = wire.max_cmd_sn
        seen: int = pdu.max_cmd_sn  # type: ignore[attr-defined]
        if last is not None and not session.agreed.error_recovery_level:
            assert not before(seen, last), "MaxCmdSN goes back"
        wire.max_cmd_sn = seen

    def check_bounds(self) -> None:
        for session in self.node.sessions.values():
            assert len(session.tasks) <= 2 * LIMITS.queued_commands, "more tasks than the window has room for"
            assert len(session.held_commands()) <= LIMITS.queued_commands
            assert 0 <= session.solicited_bytes <= LIMITS.solicited_bytes
            assert len(session.waiting_for_budget) <= 2 * LIMITS.queued_commands
            management = session.management
            assert len(management.early) <= LIMITS.queued_commands
            assert len(management.pending) <= 3 * LIMITS.queued_commands + len(management.still_executing)
            assert len(session.allegiance.suspended) <= session.agreed.max_connections
            assert len(session.allegiance.answered) <= 4 * LIMITS.queued_commands * (
                1 + session.agreed.max_connections
            )
            for connection in session.connections.values():
                if connection.retention is not None:
                    assert 0 <= connection.retention.kept_bytes <= LIMITS.retained_bytes
        assert self.sent_bytes <= _OUTPUT_LIMIT_BYTES, "far more is sent than was asked for"

    def finish(self) -> None:
        """Everything goes away; nothing may be left of it."""
        sessions = list(self.node.sessions.values())
        while self.executing:
            self.complete(1 << 30)
        for session in sessions:
            if not session.ended:
                _assert_window_open(session)
        for wire in self.wires:
            wire.core.eof()
        self.turn()
        self.node.handle_timer(self.now_ns)
        self.node.handle_timer(self.now_ns + 10_000 * _SECOND)
        self.turn()
        while self.executing:
            self.complete(1 << 30)
        assert not self.node.sessions, "a session outlived its connections"
        for session in sessions:
            assert not session.tasks
            assert session.solicited_bytes == 0, "Data-Out stays accounted"
            assert not session.management.pending
            assert not session.management.still_executing
            assert not session.task_set.still_executing
            assert not session.task_set.waiting
            assert not session.task_set.bars
            assert not session.held_commands()
        assert not self.device.units[0].nexuses, "a nexus outlived its session"
        self.device.interrupt()
        self.device.close()


def _assert_window_open(session: TargetSession) -> None:
    """The window is as wide as promised, less the numbered commands that are not answered."""
    taken = sum(not task.immediate and not task.released for task in session.tasks.values())
    width = (session.max_cmd_sn - session.exp_cmd_sn + 1) & 0xFFFFFFFF
    assert width + taken == LIMITS.queued_commands, f"the command window is {width}, {taken} tasks are open"


def _whole(wire: _Wire, payload: bytes) -> bytes:
    """One PDU with right lengths, and digests where they are agreed."""
    ahs_end = min(48 + payload[4] * 4, len(payload) // 4 * 4)
    data = payload[ahs_end:]
    header = payload[:4] + bytes(((ahs_end - 48) // 4,)) + len(data).to_bytes(3, "big") + payload[8:ahs_end]
    if wire.core._header_digest:
        header += digest_of((header,))
    data += bytes(-len(data) % 4)
    if data and wire.core._data_digest:
        data += digest_of((data,))
    return header + data


def _numbered(wire: _Wire, payload: bytes) -> bytes:
    """The numbers that the target waits for: CmdSN, ExpStatSN; tags and place of the oldest R2T in a Data-Out."""
    session = wire.core.session
    if session is None:
        return payload
    out = bytearray(payload)
    opcode = out[0] & 0x3F
    out[28:32] = wire.core._stat_sn.to_bytes(4, "big")
    if opcode == Opcode.DATA_OUT:
        if out[20:24] != b"\xff" * 4 and wire.r2ts:
            r2t = wire.r2ts.popleft()
            out[16:24] = r2t.initiator_task_tag.to_bytes(4, "big") + r2t.target_transfer_tag.to_bytes(
                4, "big"
            )
            out[36:40] = bytes(4)
            out[40:44] = r2t.buffer_offset.to_bytes(4, "big")
            out[48:] = bytes(out[48:]).ljust(1, b"d") * r2t.desired_data_transfer_length
            del out[48 + r2t.desired_data_transfer_length :]
        return bytes(out)
    if opcode not in (Opcode.SNACK_REQUEST, Opcode.LOGIN_REQUEST):
        out[24:28] = session.exp_cmd_sn.to_bytes(4, "big")
    return bytes(out)


_TOKENS = [bytes((opcode,)) for opcode in CODECS] + [bytes((opcode | 0x40,)) for opcode in CODECS]
_TOKENS += [b"\xff" * 4, bytes(4), b"\0\0\0\1", *CDBS]


def _pdu(pdu: object, connection: int = 0, do: Do = Do.NUMBERED) -> bytes:
    return record(do, encode_pdu(pdu), connection)  # type: ignore[arg-type]


def _seeds() -> Iterator[bytes]:
    numbers: dict[str, Any] = {"cmd_sn": 0, "exp_stat_sn": 0}
    data = [
        _pdu(
            DataOut(
                final=True,
                initiator_task_tag=0,
                target_transfer_tag=0,
                data_sn=0,
                buffer_offset=0,
                exp_stat_sn=0,
            )
        )
    ]
    logins = range(1, len(LOGINS))
    for login in logins:
        for slow in (0, _SLOW):
            for first in range(0, len(CDBS), 6):
                some = CDBS[first : first + 6]
                body = b"".join(
                    _pdu(command(cdb, tag=tag, **numbers)) + b"".join(data) for tag, cdb in enumerate(some)
                )
                yield bytes((login | slow,)) + body + record(Do.COMPLETE)
    for login in logins:
        functions = b"".join(
            _pdu(command(CDBS[0], tag=number, **numbers))
            + _pdu(
                TaskManagementRequest(
                    immediate=bool(number % 2),
                    function=number,
                    initiator_task_tag=99,
                    referenced_task_tag=number,
                    **numbers,
                )
            )
            for number in range(1, 13)
        )
        yield bytes((login | _SLOW,)) + functions + record(Do.COMPLETE)
        snacks = b"".join(
            _pdu(command(CDBS[1], tag=number, **numbers))
            + _pdu(
                SnackRequest(
                    type_=number,
                    initiator_task_tag=number if number != 1 else RESERVED_TAG,
                    exp_stat_sn=0,
                    beg_run=0,
                    run_length=0,
                )
            )
            for number in range(4)
        )
        yield bytes((login,)) + snacks
        texts = [
            [("SendTargets", "All")],
            [("SendTargets", "")],
            [("MaxRecvDataSegmentLength", "4096"), ("X-a", "b")],
        ]
        yield bytes((login,)) + b"".join(
            _pdu(TextRequest(final=True, initiator_task_tag=5, data=encode_text(pairs), **numbers))
            + _pdu(TextRequest(final=False, continue_=True, initiator_task_tag=6, data=b"SendTar", **numbers))
            + _pdu(NopOut(immediate=True, initiator_task_tag=8, data=b"ping", **numbers))
            for pairs in texts
        )
        for reason in range(4):
            yield (
                bytes((login | _SLOW,))
                + _pdu(command(CDBS[0], tag=1, **numbers))
                + _pdu(LogoutRequest(reason=reason, initiator_task_tag=4, **numbers))
            )
        yield bytes((login,)) + _recovery(numbers, login)
    for chap in (False, True):
        opening = [*_NAMES, ("AuthMethod", "CHAP,None" if chap else "None")]
        yield (
            b"\0"
            + b"".join(
                _pdu(
                    LoginRequest(
                        transit=True,
                        csg=stage,
                        nsg=nsg,
                        isid=ISID,
                        initiator_task_tag=7,
                        cmd_sn=1,
                        data=encode_text(pairs),
                    ),
                    do=Do.PDU,
                )
                for stage, nsg, pairs in ((0, 1, opening), (1, 3, [*_FAST, ("HeaderDigest", "CRC32C")]))
            )
            + _pdu(command(CDBS[0], tag=1, **numbers))
            + record(Do.BYTES, b"GET / HTTP/1.1\r\n" * 4, 1)
        )


def _recovery(numbers: dict[str, Any], login: int) -> bytes:
    """A write is under way, its connection goes, another one joins the session and takes the task."""
    names: list[tuple[str, str]] = list(_NAMES)
    joining = LoginRequest(
        transit=True,
        csg=1,
        nsg=3,
        isid=ISID,
        tsih=1,
        cid=login,
        initiator_task_tag=7,
        cmd_sn=1,
        data=encode_text(names),
    )
    reassign = TaskManagementRequest(
        immediate=True, function=8, initiator_task_tag=9, referenced_task_tag=2, **numbers
    )
    write = command(CDBS[2], tag=2, **numbers)
    data = DataOut(
        final=True, initiator_task_tag=0, target_transfer_tag=0, data_sn=0, buffer_offset=0, exp_stat_sn=0
    )
    return b"".join(
        (
            _pdu(joining, 1, Do.PDU),
            _pdu(write),
            record(Do.END),
            record(Do.TIME, b"\1"),
            _pdu(reassign, 1),
            _pdu(data, 1),
            _pdu(command(CDBS[1], tag=3, **numbers), 1),
            record(Do.CONNECT, b"", 0),
            _pdu(joining, 0, Do.PDU),
            record(Do.TIME, b"\x20"),
        )
    )
