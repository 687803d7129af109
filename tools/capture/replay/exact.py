"""PDU-exact replay: what an initiator sent on one connection, byte for byte, to a target under test (RFC 7143).

The login is our own, with the names and operational keys of the captured one. After it every PDU of the initiator is
sent as it was, reserved bits and mistakes included, each when as many PDUs of the target have come as had come before
it in the capture. Only these fields are written anew: CmdSN (counted on from this session's first), ExpStatSN (what
this target has sent) and, in Data-Out, the Target Transfer Tag (that of this target's R2T). Digests are not used.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from iscsi_target.errors import ConnectionLost
from iscsi_target.initiator import DEFAULT_INITIATOR_IQN, random_isid
from iscsi_target.plain_connection import PlainConnection
from iscsi_target.wire.codec import encode_pdu
from iscsi_target.wire.framing import Framer
from iscsi_target.wire.lun import lun_to_bytes
from iscsi_target.wire.requests import LoginRequest, NopOut
from iscsi_target.wire.text import encode_text
from tools.capture.pdu_parts import parts_of
from tools.capture.replay.plan import PlanError
from tools.capture.rows import Note, RowKind
from tools.capture.scan import Scan
from tools.capture.sessions import Login, Sessions, Unwatched, lun_text

_MASK = 0xFFFFFFFF
_IMMEDIATE = 0x40
#: Positions that all requests share (section 11.2.1): LUN, tags, CmdSN and ExpStatSN.
_LUN, _ITT, _TTT, _CMD_SN, _EXP_STAT_SN, _R2TSN = (
    slice(8, 16),
    slice(16, 20),
    slice(20, 24),
    slice(24, 28),
    slice(28, 32),
    slice(36, 40),
)
_NOP_OUT, _SCSI_COMMAND, _LOGIN, _DATA_OUT, _LOGOUT = 0x00, 0x01, 0x03, 0x05, 0x06
_NOP_IN, _SCSI_RESPONSE, _LOGIN_RESPONSE, _DATA_IN, _LOGOUT_RESPONSE, _R2T, _REJECT = (
    *(0x20, 0x21, 0x23, 0x25, 0x26, 0x31, 0x3F),
)
_RESERVED_TAG = b"\xff\xff\xff\xff"
#: Keys of the operational stage that are offered as they were captured (section 13).
_KEYS = frozenset(
    (
        *("MaxRecvDataSegmentLength", "MaxBurstLength", "FirstBurstLength", "InitialR2T", "ImmediateData"),
        *("MaxOutstandingR2T", "DefaultTime2Wait", "DefaultTime2Retain", "DataPDUInOrder"),
        *("DataSequenceInOrder", "ErrorRecoveryLevel"),
    )
)
_MOST_PDUS = 1_000_000
_LOGIN_TURNS = 16


@dataclass(frozen=True, slots=True)
class CapturedPdu:
    """One PDU without digests; ``after``: so many of the target's had come before (of the full-feature phase)."""

    data: bytes
    packet: int
    after: int


@dataclass(frozen=True, slots=True)
class CapturedConnection:
    """What one connection of a capture sent, and what answers came. ``first_cmd_sn`` is that of its first command."""

    requests: tuple[CapturedPdu, ...]
    answers: tuple[bytes, ...]
    login: Login | None
    first_cmd_sn: int


@dataclass(slots=True)
class Difference:
    """Where this target answered otherwise: the captured answer's tag and kind, and what came instead."""

    tag: int
    what: str


@dataclass(slots=True)
class ExactOutcome:
    """How far the replay got. ``ended`` says why it ended before all was sent; empty: it did not."""

    sent: int = 0
    total: int = 0
    received: int = 0
    ended: str = ""
    differences: list[Difference] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """All was sent, and answered as in the capture."""
        return not self.ended and not self.differences


def captured_connection(paths: Sequence[Path | str], *, ports: Sequence[int] = ()) -> CapturedConnection:
    """The first connection with SCSI commands. Raises :class:`PlanError`: there is none, or it is not whole."""
    scan = Scan(paths, ports=ports, keep_all=True)
    logins = Sessions()
    flow: int | None = None
    requests: list[CapturedPdu] = []
    answers: list[bytes] = []
    connections: dict[int, Unwatched] = {}
    for part in scan.parts():
        for row in part.rows():
            if row.kind != RowKind.ISCSI:
                continue
            opcode, pdu = row.header[0] & 0x3F, part.whole(row)
            if opcode in (_LOGIN, _LOGIN_RESPONSE):
                if pdu is not None:
                    noted = connections.setdefault(row.flow >> 1, Unwatched(row.flow >> 1))
                    logins.login(noted, opcode, row.packet, pdu)
                continue
            if flow is None and opcode == _SCSI_COMMAND:
                flow = row.flow >> 1
            if row.flow >> 1 != flow:
                continue
            if pdu is None or row.notes & Note.CUT:
                raise PlanError(f"packet {row.packet}: a PDU is not whole in the capture")
            if len(requests) + len(answers) >= _MOST_PDUS:
                raise PlanError(f"a connection of more than {_MOST_PDUS} PDUs is not played exactly")
            plain = _without_digests(pdu, row.notes)
            if opcode < 0x20:
                requests.append(CapturedPdu(plain, row.packet, len(answers)))
            else:
                answers.append(plain)
    if flow is None:
        raise PlanError("the capture has no iSCSI connection with SCSI commands")
    first = next(one for one in requests if one.data[0] & 0x3F == _SCSI_COMMAND)
    sequence = int.from_bytes(first.data[_CMD_SN], "big")
    return CapturedConnection(tuple(requests), tuple(answers), logins.logins.get(flow), sequence)


def _without_digests(pdu: bytes, notes: int) -> bytes:
    if not notes & (Note.HEADER_DIGEST | Note.DATA_DIGEST):
        return pdu
    head, start, length = parts_of(pdu, notes)
    return pdu[:head] + pdu[start : start + -(-length // 4) * 4]


class ExactReplay:
    """One exact replay over a connection of its own. ``luns`` as in :class:`~tools.capture.replay.plan.PlanConfig`."""

    def __init__(
        self,
        captured: CapturedConnection,
        target_iqn: str,
        *,
        luns: dict[str, int] | None = None,
        initiator_iqn: str | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        self._captured = captured
        self._target_iqn = target_iqn
        self._luns = luns or {}
        login = captured.login
        named = login.initiator.get("InitiatorName") if login is not None else None
        self._initiator_iqn = initiator_iqn or named or DEFAULT_INITIATOR_IQN
        self._timeout_s = timeout_s
        # A captured initiator took segments as long as it said; this one takes any that a target may send.
        self._framer = Framer(0xFFFFFF)
        self._exp_stat_sn = 0
        self._answers: list[bytes] = []
        self._tags: dict[tuple[bytes, bytes], bytes] = {}
        self._captured_tags = {
            (answer[_ITT], answer[_TTT]): answer[_R2TSN]
            for answer in captured.answers
            if answer[0] & 0x3F == _R2T
        }
        self._arrived: deque[bytes] = deque()

    async def run(self, host: str, port: int) -> ExactOutcome:
        """Play it. Raises ConnectionLost when nobody listens there, :class:`PlanError` when the login is refused."""
        connection = await PlainConnection.open(host, port, timeout_s=self._timeout_s)
        outcome = ExactOutcome(total=len(self._captured.requests))
        try:
            first_cmd_sn = await self._log_in(connection)
            await self._send_all(connection, outcome, first_cmd_sn)
            await self._wait_for(connection, len(self._captured.answers))
        except ConnectionLost as error:
            outcome.ended = f"after {outcome.sent} PDUs: {error}"
        except TimeoutError:
            outcome.ended = (
                f"after {outcome.sent} PDUs: {len(self._answers)} answers in {self._timeout_s:g} s, "
                f"captured {len(self._captured.answers)}"
            )
        finally:
            connection.abort()
        outcome.received = len(self._answers)
        outcome.differences = differences(self._captured.answers, self._answers)
        return outcome

    async def _log_in(self, connection: PlainConnection) -> int:
        """One stage, with what was captured; returns the first CmdSN of the full-feature phase."""
        said = self._captured.login.initiator if self._captured.login is not None else {}
        pairs = [
            ("InitiatorName", self._initiator_iqn),
            ("TargetName", self._target_iqn),
            ("SessionType", "Normal"),
            ("HeaderDigest", "None"),
            ("DataDigest", "None"),
            *((key, value) for key, value in said.items() if key in _KEYS),
        ]
        data, isid = encode_text(pairs), random_isid()
        for _ in range(_LOGIN_TURNS):
            request = LoginRequest(
                transit=True,
                csg=1,
                nsg=3,
                isid=isid,
                initiator_task_tag=0,
                cmd_sn=1,
                exp_stat_sn=self._exp_stat_sn,
                data=data,
            )
            await connection.write([encode_pdu(request)])
            answer = await self._next(connection)
            if answer[0] & 0x3F != _LOGIN_RESPONSE:
                raise PlanError(f"the target answered the login with opcode {answer[0] & 0x3F:#04x}")
            if answer[36]:
                raise PlanError(
                    f"the target refused the login: status {answer[36]:#04x} {answer[37]:#04x} "
                    "(exact replay has no CHAP)"
                )
            self._exp_stat_sn = (int.from_bytes(answer[24:28], "big") + 1) & _MASK
            if answer[1] & 0x83 == 0x83:
                self._answers.clear()
                return int.from_bytes(answer[28:32], "big")
            data = b""
        raise PlanError("the login does not end")

    async def _send_all(self, connection: PlainConnection, outcome: ExactOutcome, first_cmd_sn: int) -> None:
        shift = first_cmd_sn - self._captured.first_cmd_sn
        for captured in self._captured.requests:
            await self._wait_for(connection, captured.after)
            opcode = captured.data[0] & 0x3F
            if opcode == _NOP_OUT and captured.data[_TTT] != _RESERVED_TAG:
                outcome.sent += (
                    1  # answered a ping of the captured target; this one's are answered as they come
                )
                continue
            await connection.write([await self._rewritten(connection, captured.data, opcode, shift)])
            outcome.sent += 1

    async def _rewritten(self, connection: PlainConnection, data: bytes, opcode: int, shift: int) -> bytes:
        pdu = bytearray(data)
        pdu[_EXP_STAT_SN] = self._exp_stat_sn.to_bytes(4, "big")
        if opcode != _DATA_OUT:
            pdu[_CMD_SN] = ((int.from_bytes(data[_CMD_SN], "big") + shift) & _MASK).to_bytes(4, "big")
        elif data[_TTT] != _RESERVED_TAG:
            number = self._captured_tags.get((data[_ITT], data[_TTT]))
            if number is not None:
                await self._wait_for_r2t(connection, data[_ITT], number)
                pdu[_TTT] = self._tags[data[_ITT], number]
        if opcode in (_SCSI_COMMAND, _DATA_OUT) and (lun := self._luns.get(lun_text(data[_LUN]))) is not None:
            pdu[_LUN] = lun_to_bytes(lun)
        return bytes(pdu)

    async def _wait_for(self, connection: PlainConnection, answers: int) -> None:
        """Until the target has sent so many PDUs. TimeoutError, ConnectionLost."""
        async with asyncio.timeout(self._timeout_s):
            while len(self._answers) < answers:
                await self._next(connection)

    async def _wait_for_r2t(self, connection: PlainConnection, tag: bytes, number: bytes) -> None:
        async with asyncio.timeout(self._timeout_s):
            while (tag, number) not in self._tags:
                await self._next(connection)

    async def _next(self, connection: PlainConnection) -> bytes:
        """The target's next PDU, noted. Pings are answered; they count as no answer."""
        while True:
            while not self._arrived:
                chunk = await connection.read()
                if not chunk:
                    raise ConnectionLost("the target closed the connection")
                self._arrived += [frame.whole() for frame in self._framer.receive(chunk)]
            pdu = self._arrived.popleft()
            opcode = pdu[0] & 0x3F
            if opcode == _NOP_IN and pdu[_TTT] != _RESERVED_TAG:
                await self._answer_ping(connection, pdu)
                continue
            self._note(pdu, opcode)
            return pdu

    async def _answer_ping(self, connection: PlainConnection, ping: bytes) -> None:
        answer = NopOut(
            immediate=True,
            lun=ping[_LUN],
            target_transfer_tag=int.from_bytes(ping[_TTT], "big"),
            cmd_sn=int.from_bytes(ping[28:32], "big"),
            exp_stat_sn=self._exp_stat_sn,
        )
        await connection.write([encode_pdu(answer)])

    def _note(self, pdu: bytes, opcode: int) -> None:
        self._answers.append(pdu)
        if opcode == _R2T:
            self._tags[pdu[_ITT], pdu[_R2TSN]] = pdu[_TTT]
        elif opcode != _DATA_IN or pdu[1] & 0x01:  # Data-In without status has no StatSN (section 11.7.4)
            self._exp_stat_sn = (int.from_bytes(pdu[24:28], "big") + 1) & _MASK


def differences(captured: Sequence[bytes], answered: Sequence[bytes]) -> list[Difference]:
    """Tasks that ended otherwise: by tag, the kind and status of what ended them and the data they read."""
    wanted, found = _endings(captured), _endings(answered)
    made = []
    for tag, ending in wanted.items():
        other = found.get(tag)
        if other is None:
            made.append(Difference(tag, f"captured {_said(ending)}, not answered"))
        elif other[:2] != ending[:2]:
            made.append(Difference(tag, f"captured {_said(ending)}, answered {_said(other)}"))
        elif other[2] != ending[2]:
            made.append(Difference(tag, "read other data"))
    refused = (
        Counter(pdu[0] & 0x3F for pdu in answered)[_REJECT]
        - Counter(pdu[0] & 0x3F for pdu in captured)[_REJECT]
    )
    if refused > 0:
        made.append(Difference(0xFFFFFFFF, f"{refused} more PDUs were rejected"))
    return made


def _endings(pdus: Sequence[bytes]) -> dict[int, tuple[int, int, bytes]]:
    """By tag (the last task that had it): how it ended, and the data it read."""
    data: dict[int, dict[int, bytes]] = {}
    ended: dict[int, tuple[int, int, bytes]] = {}
    for pdu in pdus:
        opcode, tag = pdu[0] & 0x3F, int.from_bytes(pdu[_ITT], "big")
        _, start, length = parts_of(pdu, 0)
        if opcode == _DATA_IN:
            data.setdefault(tag, {})[int.from_bytes(pdu[40:44], "big")] = pdu[start : start + length]
            if not pdu[1] & 0x01:
                continue
        elif opcode not in (_SCSI_RESPONSE, _LOGOUT_RESPONSE, 0x22, 0x24):
            continue
        pieces = data.pop(tag, {})
        kind = _SCSI_RESPONSE if opcode == _DATA_IN else opcode
        status = pdu[3] if kind == _SCSI_RESPONSE else pdu[2]
        ended[tag] = (kind, status, b"".join(pieces[offset] for offset in sorted(pieces)))
    return ended


def _said(ending: tuple[int, int, bytes]) -> str:
    kind, status, _ = ending
    return f"opcode {kind:#04x} with {'status' if kind == _SCSI_RESPONSE else 'response'} {status:#04x}"
