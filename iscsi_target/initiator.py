# SPDX-License-Identifier: Apache-2.0
"""An asyncio iSCSI initiator: sessions with several connections over any byte stream.

>>> session = await Initiator.login("127.0.0.1", 3260, "iqn.2026-11.example:disk")
>>> await session.write(0, lba=8, data=bytes(4096))
>>> await session.logout()
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, replace

from iscsi_target.errors import CommandFailed, ConnectionLost, IscsiError, TaskAborted
from iscsi_target.executor import Buffer
from iscsi_target.initiator_link import ConnectionFactory, Link
from iscsi_target.plain_connection import PlainConnection
from iscsi_target.scsi_commands import ScsiAnswer, ScsiCommands
from iscsi_target.session.chap import Chap
from iscsi_target.session.initiator_connection import InitiatorConnection
from iscsi_target.session.initiator_events import (
    Answered,
    AsyncReceived,
    CommandEnded,
    LoggedIn,
    Rejected,
    TaskGone,
    TextAnswered,
)
from iscsi_target.session.initiator_login import LoginWish
from iscsi_target.session.initiator_session import InitiatorSession, InitiatorTask
from iscsi_target.session.parameters import Agreed, Parameters
from iscsi_target.wire.lun import lun_to_bytes
from iscsi_target.wire.opcodes import ISCSI_PORT, AsyncEvent, LogoutReason, LogoutResponseCode
from iscsi_target.wire.requests import LogoutRequest, NopOut, TaskManagementRequest, TextRequest
from iscsi_target.wire.responses import LogoutResponse, NopIn, TaskManagementResponse
from iscsi_target.wire.text import decode_text, encode_text

__all__ = ["DiscoveredTarget", "Initiator", "ScsiAnswer", "discover", "random_isid"]

DEFAULT_INITIATOR_IQN = "iqn.2026-11.net.example.sancredit:initiator"

_RECONNECT_S = 0.2


def random_isid() -> bytes:
    """An ISID of the random format (RFC 7143 section 11.12.5)."""
    return bytes((0x80,)) + os.urandom(5)


@dataclass(frozen=True, slots=True)
class DiscoveredTarget:
    """One target of a SendTargets answer; `addresses` as ``host:port,portal group tag``."""

    name: str
    addresses: tuple[str, ...]


class Initiator(ScsiCommands):
    """A logged-in session. Commands may be issued concurrently; they wait for the command window.

    After the loss of any connection every outstanding and later call raises ConnectionLost. At error recovery level 2
    the connection is made anew instead and everything under way goes on, unless that fails for longer than the target
    keeps the tasks (DefaultTime2Wait + DefaultTime2Retain).
    """

    def __init__(self, wish: LoginWish, host: str, port: int, *, timeout_s: float) -> None:
        self._wish = wish
        self._host = host
        self._port = port
        self._timeout_s = timeout_s
        self._session = InitiatorSession()
        self._links: dict[int, Link] = {}
        self._futures: dict[int, asyncio.Future[object]] = {}
        self._logins: dict[int, asyncio.Future[object]] = {}
        self._lost: str | None = None
        self._logging_out = False
        self._recoveries: set[asyncio.Task[None]] = set()
        self.async_messages: list[AsyncReceived] = []
        """Asynchronous messages received, the latest 100."""

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
    ) -> Initiator:
        """Log in with one connection. Raises LoginFailed, ConnectionLost, NegotiationError.

        `target_iqn` empty starts a discovery session. `connect` makes the byte stream (default: plain TCP).
        `timeout_s` bounds the login and every later command.
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
        session = cls(wish, host, port, timeout_s=timeout_s)
        await session._log_in(wish, connect)
        return session

    async def add_connection(self, cid: int, *, connect: ConnectionFactory | None = None) -> None:
        """Add a connection to the session. Raises as `login`; ValueError when `cid` is in use."""
        if cid in self._links:
            raise ValueError(f"connection {cid} exists")
        self._check()
        await self._log_in(replace(self._wish, tsih=self._session.tsih, cid=cid), connect)

    @property
    def agreed(self) -> Agreed:
        """The negotiated parameters of the leading connection."""
        return self._session.agreed

    @property
    def tsih(self) -> int:
        """The target's handle of the session."""
        return self._session.tsih

    @property
    def connections(self) -> tuple[int, ...]:
        """The CIDs of the connections."""
        return tuple(self._session.connections)

    @property
    def lost(self) -> str | None:
        """Why the session is gone; None while it lives."""
        return self._lost

    async def logout(self) -> None:
        """End the session in order and close all connections; safe to call when it is lost already."""
        self._logging_out = True
        connection = next((core for core in self._session.connections.values() if core.full_feature), None)
        if self._lost is None and connection is not None:
            with contextlib.suppress(ConnectionLost, TaskAborted):
                await self._ask(
                    connection, LogoutRequest, reason=LogoutReason.CLOSE_SESSION, cid=connection.cid
                )
        await self._shut("logged out", abort=False)

    async def logout_connection(self, cid: int, *, through: int | None = None) -> int:
        """Close one connection of the session; returns the logout response code."""
        carrier = self._pick(cid if through is None else through)
        self._links[cid].leaving = True
        answer = await self._ask(carrier, LogoutRequest, reason=LogoutReason.CLOSE_CONNECTION, cid=cid)
        assert isinstance(answer, LogoutResponse)
        if answer.response == LogoutResponseCode.SUCCESS:
            link = self._links.pop(cid)
            self._session.connections.pop(cid, None)
            await link.stop(abort=False)
        else:
            self._links[cid].leaving = False
        return answer.response

    async def abort(self) -> None:
        """Drop all connections without a word."""
        await self._shut("aborted", abort=True)

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
    ) -> ScsiAnswer:
        """Run one SCSI command. `connection`: the CID to use (default: the least busy).

        Raises CommandFailed for a status other than GOOD (with `check`), TaskAborted, ConnectionLost; TimeoutError
        after `timeout_s`, when the task is aborted.
        """
        if data_in_length and len(data_out):
            raise ValueError("bidirectional commands are not supported by this initiator")
        if not 0 < len(cdb) <= 16:
            raise ValueError("a CDB has 1 to 16 bytes")
        carrier = self._pick(connection)
        tag = self._session.new_task_tag()
        data_in = memoryview(bytearray(data_in_length)) if data_in_length else None
        task = InitiatorTask(
            carrier,
            tag,
            lun_to_bytes(lun),
            cdb.ljust(16, b"\0"),
            data_out=data_out,
            data_in=data_in,
            attr=attr,
        )
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._futures[tag] = future
        carrier.submit(task)
        self._wake()
        try:
            async with asyncio.timeout(self._timeout_s if timeout_s is None else timeout_s):
                ended = await future
        except (TimeoutError, asyncio.CancelledError):
            self._give_up(task)
            raise
        finally:
            self._futures.pop(tag, None)
        assert isinstance(ended, CommandEnded)
        if ended.response:
            raise TaskAborted(f"iSCSI service response {ended.response:#04x}")
        if check and ended.status:
            raise CommandFailed(ended.status, ended.sense, ended.residual_count)
        return ScsiAnswer(
            ended.status, ended.data_in, ended.sense, ended.overflow, ended.underflow, ended.residual_count
        )

    async def nop(self, data: bytes = b"", *, connection: int | None = None) -> bytes:
        """NOP-Out ping; returns the echo."""
        answer = await self._ask(self._pick(connection), NopOut, data=data)
        assert isinstance(answer, NopIn)
        return answer.data

    async def text(self, *pairs: tuple[str, str]) -> list[tuple[str, str]]:
        """A text request in full-feature phase; returns all pairs of the answer."""
        answer = await self._ask(self._pick(None), TextRequest, data=encode_text(pairs))
        assert isinstance(answer, TextAnswered)
        return decode_text(answer.data)

    async def task_management(
        self, function: int, lun: int = 0, *, referenced_task_tag: int = 0xFFFFFFFF, ref_cmd_sn: int = 0
    ) -> int:
        """A task management function; returns the response code."""
        answer = await self._ask(
            self._pick(None),
            TaskManagementRequest,
            immediate=True,
            function=function,
            lun=lun_to_bytes(lun),
            referenced_task_tag=referenced_task_tag,
            ref_cmd_sn=ref_cmd_sn,
        )
        assert isinstance(answer, TaskManagementResponse)
        return answer.response

    # -- inside -------------------------------------------------------------------------------------------------

    async def _log_in(self, wish: LoginWish, connect: ConnectionFactory | None) -> None:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._timeout_s):
                stream = await (connect or PlainConnection.open)(self._host, self._port)
                core = InitiatorConnection(self._session, wish, random_bytes=os.urandom)
                self._logins[wish.cid] = future
                link = Link(self, core, stream, future, connect)
                self._links[wish.cid] = link
                core.start()
                link.start()
                await future
        except TimeoutError:
            await self._drop_link(wish.cid)
            raise ConnectionLost(
                f"no login to {self._host}:{self._port} within {self._timeout_s:g} s"
            ) from None
        except BaseException:
            await self._drop_link(wish.cid)
            raise
        finally:
            self._logins.pop(wish.cid, None)

    async def _drop_link(self, cid: int) -> None:
        link = self._links.pop(cid, None)
        self._session.connections.pop(cid, None)
        if link is not None:
            await link.stop(abort=True)

    async def _ask(self, carrier: InitiatorConnection, kind: type, **fields: object) -> object:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        tag = carrier.request(kind, **fields)
        self._futures[tag] = future
        self._wake()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await future
        except TimeoutError:
            raise ConnectionLost(f"no answer to a {kind.__name__} within {self._timeout_s:g} s") from None
        finally:
            self._futures.pop(tag, None)

    def _pick(self, cid: int | None) -> InitiatorConnection:
        self._check()
        connections = self._session.connections
        if cid is not None:
            if cid not in connections:
                raise ValueError(f"there is no connection {cid}")
            return connections[cid]
        return min(connections.values(), key=lambda core: (not core.full_feature, core.outstanding))

    def _check(self) -> None:
        if self._lost is not None:
            raise ConnectionLost(self._lost)

    def _give_up(self, task: InitiatorTask) -> None:
        """Nobody waits for the task any more: forget it here and abort it at the target."""
        if self._session.tasks.pop(task.initiator_task_tag, None) is None:
            return
        task.connection.outstanding -= 1
        if self._lost is None and task.cmd_sn_assigned:
            task.connection.request(
                TaskManagementRequest,
                immediate=True,
                function=1,
                lun=task.lun_field,
                referenced_task_tag=task.initiator_task_tag,
                ref_cmd_sn=task.cmd_sn,
            )
            self._wake()

    def _wake(self) -> None:
        touched = self._session.touched
        while touched:
            link = self._links.get(touched.pop().cid)
            if link is not None:
                link.wake()

    def dispatch(self) -> None:
        """Hand the events of the cores to those who wait (called by the links)."""
        events = self._session.events
        while events:
            event = events.popleft()
            if isinstance(event, LoggedIn):
                self._settle(self._logins.get(event.cid), event)
            elif isinstance(event, CommandEnded | TextAnswered):
                self._settle(self._futures.get(event.initiator_task_tag), event)
            elif isinstance(event, Answered):
                self._settle(self._futures.get(event.initiator_task_tag), event.pdu)
            elif isinstance(event, Rejected):
                future = self._futures.get(event.initiator_task_tag)
                task = self._session.tasks.pop(event.initiator_task_tag, None)
                if task is not None:
                    task.connection.outstanding -= 1
                if future is not None and not future.done():
                    future.set_exception(TaskAborted(f"rejected, reason {event.pdu.reason:#04x}"))
            elif isinstance(event, TaskGone):
                future = self._futures.get(event.initiator_task_tag)
                if future is not None and not future.done():
                    future.set_exception(
                        TaskAborted("the connection was lost and the target knows nothing of it")
                    )
            else:
                self.async_messages = [*self.async_messages[-99:], event]
                if event.pdu.async_event in (AsyncEvent.SESSION_DROPPED, AsyncEvent.CONNECTION_DROPPED):
                    self.connection_lost(self._links.get(event.cid), "the target dropped the session")
        self._wake()

    @staticmethod
    def _settle(future: asyncio.Future[object] | None, value: object) -> None:
        if future is not None and not future.done():
            future.set_result(value)

    def connection_lost(self, link: Link | None, text: str) -> None:
        """A connection ended (called by the links): fail its login, or the whole session."""
        if link is not None and link.leaving:
            return
        if link is not None and not link.core.full_feature:
            return
        alive = self._lost is None and not self._logging_out
        if link is not None and alive and self._session.agreed.error_recovery_level == 2:
            link.core.full_feature = False
            task = asyncio.get_running_loop().create_task(self._recover(link, text))
            self._recoveries.add(task)
            task.add_done_callback(self._recoveries.discard)
            return
        self._give_up_session(text)

    def _give_up_session(self, text: str) -> None:
        if self._lost is None:
            self._lost = text
        for future in list(self._futures.values()):
            if not future.done():
                future.set_exception(ConnectionLost(self._lost))

    async def _recover(self, link: Link, text: str) -> None:
        """Make a lost connection anew (connection reinstatement) and go on with what was under way on it."""
        loop = asyncio.get_running_loop()
        agreed, old, cid = self._session.agreed, link.core, link.core.cid
        deadline = loop.time() + agreed.default_time2wait + agreed.default_time2retain
        await link.stop(abort=True)
        await asyncio.sleep(agreed.default_time2wait)
        while True:
            try:
                await self._log_in(replace(self._wish, tsih=self._session.tsih, cid=cid), link.connect)
            except (ConnectionLost, OSError):
                self._session.connections[cid] = old
                if loop.time() >= deadline:
                    self._give_up_session(text)
                    return
                await asyncio.sleep(_RECONNECT_S)
            except IscsiError as error:
                self._give_up_session(f"{text}; not recovered: {error}")
                return
            else:
                self._session.connections[cid].take_over(old)
                self.dispatch()
                return

    async def _shut(self, text: str, *, abort: bool) -> None:
        if self._lost is None:
            self._lost = text
        for recovery in list(self._recoveries):
            recovery.cancel()
        await asyncio.gather(*self._recoveries, return_exceptions=True)
        links, self._links = list(self._links.values()), {}
        self._session.connections.clear()
        for link in links:
            await link.stop(abort=abort)
        for future in list(self._futures.values()):
            if not future.done():
                future.set_exception(ConnectionLost(self._lost))


async def discover(
    host: str,
    port: int = ISCSI_PORT,
    *,
    initiator_iqn: str = DEFAULT_INITIATOR_IQN,
    chap: Chap | None = None,
    connect: ConnectionFactory | None = None,
    timeout_s: float = 10.0,
) -> list[DiscoveredTarget]:
    """A discovery session: SendTargets=All. Raises as `Initiator.login`."""
    session = await Initiator.login(
        host, port, "", initiator_iqn=initiator_iqn, chap=chap, connect=connect, timeout_s=timeout_s
    )
    try:
        found: list[tuple[str, list[str]]] = []
        for key, value in await session.text(("SendTargets", "All")):
            if key == "TargetName":
                found.append((value, []))
            elif key == "TargetAddress" and found:
                found[-1][1].append(value)
    finally:
        await session.logout()
    return [DiscoveredTarget(name, tuple(addresses)) for name, addresses in found]
