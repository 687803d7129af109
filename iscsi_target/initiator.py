# SPDX-License-Identifier: Apache-2.0
"""An asyncio iSCSI initiator: sessions with several connections over any byte stream.

>>> session = await Initiator.login("127.0.0.1", 3260, "iqn.2026-11.example:disk")
>>> await session.write(0, lba=8, data=bytes(4096))
>>> await session.logout()
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace

from iscsi_target.errors import CommandFailed, ConnectionLost, LoginFailed, TaskAborted
from iscsi_target.executor import Buffer
from iscsi_target.initiator_link import ConnectionFactory
from iscsi_target.initiator_links import Links, Place
from iscsi_target.reconnection import Reconnection
from iscsi_target.scsi_commands import ScsiAnswer, ScsiCommands
from iscsi_target.session.chap import Chap
from iscsi_target.session.initiator_events import AsyncReceived, TextAnswered
from iscsi_target.session.initiator_login import LoginWish
from iscsi_target.session.initiator_session import InitiatorTask
from iscsi_target.session.parameters import Agreed, Parameters
from iscsi_target.wire.ahs import CDB_LIMIT_BYTES
from iscsi_target.wire.lun import lun_to_bytes
from iscsi_target.wire.opcodes import RESERVED_TAG, LogoutReason, TaskFunction, TaskResponse
from iscsi_target.wire.requests import LogoutRequest, NopOut, TaskManagementRequest, TextRequest
from iscsi_target.wire.responses import NopIn, TaskManagementResponse
from iscsi_target.wire.target_address import parse_target_address
from iscsi_target.wire.text import decode_text, encode_text

__all__ = ["AttentionReport", "Initiator", "Reconnection", "ScsiAnswer", "random_isid"]

DEFAULT_INITIATOR_IQN = "iqn.2026-11.net.example.sancredit:initiator"

_REDIRECTS = 4


def random_isid() -> bytes:
    """An ISID of the random format (RFC 7143 section 11.12.5)."""
    return bytes((0x80,)) + os.urandom(5)


@dataclass(frozen=True, slots=True)
class AttentionReport:
    """The answer to QUERY ASYNCHRONOUS EVENT (RFC 7144; SAM-5 7.10): a unit attention waits."""

    depth: int
    """UADE DEPTH: 0 not said, 1 this one only, 2 more than one."""
    sense_key: int
    additional_sense_code: int
    additional_sense_code_qualifier: int


class Initiator(ScsiCommands):
    """A logged-in session. Commands may be issued concurrently; they wait for the command window.

    What the loss of a connection means is the policy's business (:class:`~iscsi_target.reconnection.Reconnection`): by
    default every outstanding and later call raises ConnectionLost, but at error recovery level 2 the connection is
    made anew and everything under way goes on, unless that fails for longer than the target keeps the tasks
    (DefaultTime2Wait + DefaultTime2Retain).

    Asynchronous messages of the target are heeded: a requested logout is made in time, a dropped connection or session
    is treated as lost, a requested negotiation is held.
    """

    def __init__(self, links: Links) -> None:
        self._shell = links

    # -- sessions -----------------------------------------------------------------------------------------------

    @classmethod
    async def login(
        cls,
        host: str,
        port: int,
        target_iqn: str,
        *,
        initiator_iqn: str = DEFAULT_INITIATOR_IQN,
        isid: bytes | None = None,
        cid: int = 0,
        max_connections: int = 1,
        parameters: Parameters | None = None,
        chap: Chap | None = None,
        connect: ConnectionFactory | None = None,
        timeout_s: float = 30.0,
        reconnection: Reconnection | None = None,
        redirects: int | None = None,
    ) -> Initiator:
        """Log in with one connection. Raises LoginFailed, ConnectionLost, NegotiationError.

        `target_iqn` empty starts a discovery session. `connect` makes the byte stream (default: plain TCP).
        `timeout_s` bounds the login and every later command. A target that has moved is followed `redirects` times
        (section 11.13.5); unless told, 4 times with plain TCP and never with a `connect` of the caller's.
        """
        parameters = parameters or Parameters(max_connections=max_connections)
        wish = LoginWish(
            initiator_name=initiator_iqn,
            target_name=target_iqn,
            isid=isid or random_isid(),
            cid=cid,
            parameters=parameters,
            chap=chap,
        )
        place = Place(host, port, connect)
        left = redirects if redirects is not None else _REDIRECTS if connect is None else 0
        while True:
            links = Links(wish, timeout_s=timeout_s, policy=reconnection or Reconnection())
            try:
                await links.log_in(cid, place)
            except LoginFailed as moved:
                if not moved.target_addresses or not left:
                    raise
                left -= 1
                address = parse_target_address(moved.target_addresses[0])
                place = replace(place, host=address.host, port=address.port)
            else:
                return cls(links)

    async def add_connection(
        self,
        cid: int,
        *,
        connect: ConnectionFactory | None = None,
        portal: tuple[str, int] | None = None,
    ) -> None:
        """Add a connection to the session, at another `portal` (host, port) of the same portal group if given.

        Raises as `login`; ValueError when `cid` is in use.
        """
        shell = self._shell
        if cid in shell.links:
            raise ValueError(f"connection {cid} exists")
        await shell.ready()
        host, port = portal or shell.leading_place()
        await shell.log_in(cid, Place(host, port, connect))

    @property
    def agreed(self) -> Agreed:
        """The negotiated parameters of the leading connection."""
        return self._shell.session.agreed

    @property
    def tsih(self) -> int:
        """The target's handle of the session."""
        return self._shell.session.tsih

    @property
    def connections(self) -> tuple[int, ...]:
        """The CIDs of the connections."""
        return tuple(self._shell.session.connections)

    @property
    def lost(self) -> str | None:
        """Why the session is gone; None while it lives."""
        return self._shell.lost

    @property
    def async_messages(self) -> list[AsyncReceived]:
        """Asynchronous messages received, the latest 100."""
        return self._shell.async_messages

    async def logout(self) -> None:
        """End the session in order and close all connections; safe to call when it is lost already."""
        shell = self._shell
        shell.leaving = True
        connection = next((core for core in shell.session.connections.values() if core.full_feature), None)
        if shell.lost is None and connection is not None:
            with contextlib.suppress(ConnectionLost, TaskAborted):
                await shell.ask(
                    connection, LogoutRequest, reason=LogoutReason.CLOSE_SESSION, cid=connection.cid
                )
        await shell.shut("logged out", abort=False)

    async def logout_connection(self, cid: int, *, through: int | None = None) -> int:
        """Close one connection of the session; returns the logout response code."""
        carrier = self._shell.pick(cid if through is None else through)
        return await self._shell.log_out(LogoutReason.CLOSE_CONNECTION, cid, carrier)

    async def abort(self) -> None:
        """Drop all connections without a word."""
        await self._shell.shut("aborted", abort=True)

    async def __aenter__(self) -> Initiator:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.logout()

    # -- commands -----------------------------------------------------------------------------------------------

    async def execute(
        self,
        lun: int,
        cdb: bytes,
        *,
        data_out: Buffer = b"",
        data_in_length: int = 0,
        connection: int | None = None,
        check: bool = True,
        attr: int = 1,
        timeout_s: float | None = None,
        immediate: bool = False,
    ) -> ScsiAnswer:
        """Run one SCSI command. `connection`: the CID to use (default: the least busy); `attr`: the task attribute.

        With both `data_out` and `data_in_length` it is bidirectional. A CDB has up to 260 bytes.

        Raises CommandFailed for a status other than GOOD (with `check`), TaskAborted, ConnectionLost; TimeoutError
        after `timeout_s`, when the task is aborted.
        """
        if not 0 < len(cdb) <= CDB_LIMIT_BYTES:
            raise ValueError(f"a CDB has 1 to {CDB_LIMIT_BYTES} bytes")
        shell = self._shell
        await shell.ready()
        task = InitiatorTask(
            shell.pick(connection),
            shell.session.new_task_tag(),
            lun_to_bytes(lun),
            cdb,
            data_out=data_out,
            data_in=memoryview(bytearray(data_in_length)) if data_in_length else None,
            attr=attr,
            immediate=immediate,
        )
        ended = await shell.run(task, shell.timeout_s if timeout_s is None else timeout_s)
        if ended.response:
            raise TaskAborted(f"iSCSI service response {ended.response:#04x}")
        if check and ended.status:
            raise CommandFailed(ended.status, ended.sense, ended.residual_count)
        return ScsiAnswer(
            ended.status,
            ended.data_in,
            ended.sense,
            ended.overflow,
            ended.underflow,
            ended.residual_count,
            ended.read_overflow,
            ended.read_underflow,
            ended.read_residual_count,
        )

    async def nop(self, data: bytes = b"", *, connection: int | None = None) -> bytes:
        """NOP-Out ping; returns the echo."""
        answer = await self._ask(connection, NopOut, data=data)
        assert isinstance(answer, NopIn)
        return answer.data

    async def text(self, *pairs: tuple[str, str]) -> list[tuple[str, str]]:
        """A text request in full-feature phase; returns all pairs of the answer."""
        answer = await self._ask(None, TextRequest, data=encode_text(pairs))
        assert isinstance(answer, TextAnswered)
        return decode_text(answer.data)

    async def declare_segment_length(self, length: int, *, connection: int | None = None) -> None:
        """Declare another MaxRecvDataSegmentLength on a connection (section 13.12), in bytes."""
        if not 512 <= length <= 0xFFFFFF:
            raise ValueError("MaxRecvDataSegmentLength is 512 to 2**24 - 1")
        await self._shell.ready()
        await self._shell.negotiate_segments(self._shell.pick(connection), length)

    async def task_management(
        self, function: int, lun: int = 0, *, referenced_task_tag: int = RESERVED_TAG, ref_cmd_sn: int = 0
    ) -> int:
        """A task management function; returns the response code. Commands that it ended raise TaskAborted."""
        answer = await self._manage(
            function, lun, referenced_task_tag=referenced_task_tag, ref_cmd_sn=ref_cmd_sn
        )
        return answer.response

    async def query_asynchronous_event(self, lun: int = 0) -> AttentionReport | None:
        """Whether a unit attention waits for this session at a logical unit, without clearing it (RFC 7144).

        Raises TaskAborted when the target does not support the question.
        """
        answer = await self._manage(TaskFunction.QUERY_ASYNC_EVENT, lun)
        if answer.response == TaskResponse.FUNCTION_COMPLETE:
            return None
        if answer.response != TaskResponse.FUNCTION_SUCCEEDED:
            raise TaskAborted(f"task management response {answer.response}")
        depth_and_key, code, qualifier = answer.additional_response_information
        return AttentionReport(depth_and_key >> 4 & 3, depth_and_key & 0x0F, code, qualifier)

    async def _manage(self, function: int, lun: int, **fields: int) -> TaskManagementResponse:
        answer = await self._ask(
            None, TaskManagementRequest, immediate=True, function=function, lun=lun_to_bytes(lun), **fields
        )
        assert isinstance(answer, TaskManagementResponse)
        return answer

    async def _ask(self, cid: int | None, kind: type, **fields: object) -> object:
        await self._shell.ready()
        return await self._shell.ask(self._shell.pick(cid), kind, **fields)
