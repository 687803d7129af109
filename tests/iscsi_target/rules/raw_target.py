"""A scripted target for the real initiator: an asyncio TCP server and PDUs made by hand.

It answers whatever a test tells it, also what no target may send, and checks of everything that comes in what holds
for every PDU of an initiator: digests, CmdSN without gaps over all connections, an ExpStatSN that is never ahead.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, TypeVar

from iscsi_target.initiator import Initiator
from iscsi_target.session.serial import before
from iscsi_target.wire.codec import Pdu, decode_pdu, encode_pdu
from iscsi_target.wire.digest import digest
from iscsi_target.wire.opcodes import RESERVED_TAG, AsyncEvent, Stage
from iscsi_target.wire.requests import (
    DataOut,
    LoginRequest,
    LogoutRequest,
    NopOut,
    ScsiCommandPdu,
    SnackRequest,
    TaskManagementRequest,
    TextRequest,
)
from iscsi_target.wire.responses import (
    R2T,
    AsyncMessage,
    DataIn,
    LoginResponse,
    LogoutResponse,
    NopIn,
    Reject,
    ScsiResponse,
    TaskManagementResponse,
    TextResponse,
)
from iscsi_target.wire.text import Pair, decode_text, encode_text
from tests.iscsi_target.rules.raw_initiator import BLOCK

Kind = TypeVar("Kind", bound=Pdu)
_PATIENCE_S = 60
_UNNUMBERED = (DataOut, SnackRequest)
_DECLARED = ("InitiatorName", "TargetName", "SessionType", "InitiatorAlias")


@dataclass
class TargetSession:
    """What the connections of a session share: the command window."""

    exp_cmd_sn: int = 0
    max_cmd_sn: int = 0
    window: int = 32

    def move(self) -> None:
        """Keep the window as wide as it is."""
        self.max_cmd_sn = (self.exp_cmd_sn + self.window - 1) & 0xFFFFFFFF


class RawTarget:
    """One connection of the initiator. `checked`: insist on CmdSN in order (not so when commands come again)."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, session: TargetSession
    ) -> None:
        self._reader, self._writer = reader, writer
        self.session = session
        self.stat_sn = 0x100
        self.checked = True
        self.header_digest = self.data_digest = False
        self.offered: dict[str, str] = {}

    # -- bytes --------------------------------------------------------------------------------------------------

    async def receive(self) -> Pdu:
        """The next PDU. Raises IncompleteReadError when the initiator closes."""
        async with asyncio.timeout(_PATIENCE_S):
            header = await self._reader.readexactly(48)
            header += await self._reader.readexactly(header[4] * 4)
            if self.header_digest:
                assert await self._reader.readexactly(4) == digest(header), "a wrong header digest"
            size = int.from_bytes(header[5:8], "big")
            data = await self._reader.readexactly(size + 3 & ~3)
            if self.data_digest and size:
                assert await self._reader.readexactly(4) == digest(data), "a wrong data digest"
        pdu = decode_pdu(header + data)
        self._check(pdu)
        return pdu

    def _check(self, pdu: Any) -> None:
        if isinstance(pdu, LoginRequest):
            return
        assert not before(self.stat_sn, pdu.exp_stat_sn), f"ExpStatSN is ahead of what was sent: {pdu}"
        if isinstance(pdu, _UNNUMBERED):
            return
        session = self.session
        if self.checked:
            assert pdu.cmd_sn == session.exp_cmd_sn, f"CmdSN {pdu.cmd_sn}, not {session.exp_cmd_sn}: {pdu}"
            if not pdu.immediate:
                assert not before(session.max_cmd_sn, pdu.cmd_sn), f"beyond the window: {pdu}"
        if not pdu.immediate and pdu.cmd_sn == session.exp_cmd_sn:
            session.exp_cmd_sn = (session.exp_cmd_sn + 1) & 0xFFFFFFFF
            if session.window:
                session.move()

    async def expect(self, kind: type[Kind], **fields: Any) -> Kind:
        """The next PDU, which has to be a `kind` with these fields."""
        pdu = await self.receive()
        assert isinstance(pdu, kind), f"a {kind.__name__} was expected, this came: {pdu}"
        assert {name: getattr(pdu, name) for name in fields} == fields, f"in {pdu}"
        return pdu

    async def expect_closed(self) -> None:
        """Nothing more comes and the initiator closes the connection."""
        async with asyncio.timeout(_PATIENCE_S):
            try:
                assert await self._reader.read(1) == b""
            except ConnectionResetError:
                return

    async def send(self, *pdus: Pdu, spoil: str = "") -> None:
        """Send PDUs in one write; `spoil` ("header" or "data") makes a digest wrong."""
        for pdu in pdus:
            whole = encode_pdu(pdu)
            header, data = whole[: 48 + len(pdu.ahs)], whole[48 + len(pdu.ahs) :]
            if self.header_digest:
                header += _digest(header, wrong=spoil == "header")
            if self.data_digest and data:
                data += _digest(data, wrong=spoil == "data")
            self._writer.write(header + data)
        await self._writer.drain()

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        """Close the TCP connection without a word."""
        self._writer.close()

    # -- PDUs ---------------------------------------------------------------------------------------------------

    def numbers(self, *, status: bool = True) -> dict[str, Any]:
        """StatSN (used up by a status) and the command window."""
        stat_sn = self.stat_sn
        if status:
            self.stat_sn = (stat_sn + 1) & 0xFFFFFFFF
        return {
            "stat_sn": stat_sn,
            "exp_cmd_sn": self.session.exp_cmd_sn,
            "max_cmd_sn": self.session.max_cmd_sn,
        }

    def response(self, command: ScsiCommandPdu, **fields: Any) -> ScsiResponse:
        """A SCSI Response, GOOD unless `fields` say otherwise."""
        values = self.numbers() | {"initiator_task_tag": command.initiator_task_tag}
        return ScsiResponse(**(values | fields))

    def data_in(
        self,
        command: ScsiCommandPdu,
        data: bytes,
        data_sn: int = 0,
        offset: int = 0,
        *,
        last: bool = False,
        **fields: Any,
    ) -> DataIn:
        """Data-In; with `last` it has F and S and bears the status."""
        values: dict[str, Any] = self.numbers(status=last) | {
            "final": last,
            "status_present": last,
            "initiator_task_tag": command.initiator_task_tag,
            "lun": command.lun if fields.get("acknowledge") else bytes(8),
            "data_sn": data_sn,
            "buffer_offset": offset,
            "data": data,
        }
        if not last:
            values["stat_sn"] = 0
        return DataIn(**(values | fields))

    def r2t(
        self, command: ScsiCommandPdu, offset: int, length: int, *, r2t_sn: int = 0, tag: int = 0x77
    ) -> R2T:
        """An R2T."""
        return R2T(
            lun=command.lun,
            initiator_task_tag=command.initiator_task_tag,
            target_transfer_tag=tag,
            r2t_sn=r2t_sn,
            buffer_offset=offset,
            desired_data_transfer_length=length,
            **self.numbers(status=False),
        )

    def nop_in(self, answers: NopOut | None = None, **fields: Any) -> NopIn:
        """The answer to a ping; without one a PDU that only tells the window."""
        values: dict[str, Any] = self.numbers(status=answers is not None)
        if answers is not None:
            values |= {"initiator_task_tag": answers.initiator_task_tag, "data": answers.data}
        return NopIn(**(values | fields))

    def text_response(self, request: TextRequest, *pairs: Pair, **fields: Any) -> TextResponse:
        values = self.numbers() | {"initiator_task_tag": request.initiator_task_tag}
        return TextResponse(**({"data": encode_text(pairs)} | values | fields))

    def reject(self, pdu: Pdu, reason: int) -> Reject:
        return Reject(reason=reason, data=encode_pdu(pdu)[:48], **self.numbers())

    def async_message(self, event: AsyncEvent, *parameters: int) -> AsyncMessage:
        one, two, three = (*parameters, 0, 0, 0)[:3]
        return AsyncMessage(
            async_event=event, parameter_1=one, parameter_2=two, parameter_3=three, **self.numbers()
        )

    def task_management_response(
        self, request: TaskManagementRequest, response: int = 0
    ) -> TaskManagementResponse:
        return TaskManagementResponse(
            response=response, initiator_task_tag=request.initiator_task_tag, **self.numbers()
        )

    def logout_response(self, request: LogoutRequest, response: int = 0) -> LogoutResponse:
        return LogoutResponse(
            response=response, initiator_task_tag=request.initiator_task_tag, **self.numbers()
        )

    # -- conversations ------------------------------------------------------------------------------------------

    def login_response(self, request: LoginRequest, *pairs: Pair, **fields: Any) -> LoginResponse:
        """A Login Response that goes along with the transition the request asks for."""
        values: dict[str, Any] = self.numbers() | {
            "transit": request.transit,
            "csg": request.csg,
            "nsg": request.nsg,
            "isid": request.isid,
            "tsih": 1 if request.nsg == Stage.FULL_FEATURE_PHASE and request.transit else request.tsih,
            "initiator_task_tag": request.initiator_task_tag,
            "data": encode_text(pairs),
        }
        return LoginResponse(**(values | fields))

    def answers(self, request: LoginRequest, **keys: str) -> list[Pair]:
        """What a complaisant target says to the keys offered; `keys` are answered as told instead."""
        self.offered = dict(decode_text(request.data))
        told = {
            key: value.partition(",")[0] for key, value in self.offered.items() if key not in _DECLARED
        } | {"MaxRecvDataSegmentLength": "8192"}
        if not request.tsih:
            told["TargetPortalGroupTag"] = "1"
        return list((told | keys).items())

    async def log_in(self, **keys: str) -> LoginRequest:
        """Take the initiator to full-feature phase with one exchange."""
        request = await self.expect(LoginRequest, transit=True, csg=Stage.LOGIN_OPERATIONAL_NEGOTIATION)
        if not request.tsih:
            self.session.exp_cmd_sn = request.cmd_sn
            if self.session.window:
                self.session.move()
        pairs = self.answers(request, **keys)
        await self.send(self.login_response(request, *pairs))
        told = dict(pairs)
        self.header_digest = told.get("HeaderDigest") == "CRC32C"
        self.data_digest = told.get("DataDigest") == "CRC32C"
        return request

    async def log_out(self, reason: int = 0) -> None:
        """Answer the initiator's logout."""
        await self.send(self.logout_response(await self.expect(LogoutRequest, reason=reason)))

    async def assert_alive(self, session: Initiator) -> None:
        """The initiator's session goes on: a ping of its, a ping of ours, and a command."""
        async with asyncio.TaskGroup() as group:
            ping = group.create_task(session.nop(b"still alive?"))
            await self.send(self.nop_in(await self.expect(NopOut, data=b"still alive?")))
        assert ping.result() == b"still alive?"
        await self.send(self.nop_in(target_transfer_tag=0x4321, data=b"and you?"))
        await self.expect(
            NopOut, initiator_task_tag=RESERVED_TAG, target_transfer_tag=0x4321, data=b"and you?"
        )
        reading = asyncio.ensure_future(session.execute(0, READ_ONE, data_in_length=BLOCK))
        command = await self.expect(ScsiCommandPdu, read=True)
        await self.send(self.data_in(command, b"x" * BLOCK, last=True))
        assert bytes((await reading).data_in) == b"x" * BLOCK


READ_ONE = bytes((0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0))


def _digest(buffer: bytes, *, wrong: bool) -> bytes:
    right = digest(buffer)
    return bytes((right[0] ^ 1,)) + right[1:] if wrong else right
