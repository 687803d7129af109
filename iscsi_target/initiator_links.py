# SPDX-License-Identifier: Apache-2.0
"""The connections of one initiator session: who waits for what, and what happens when a connection breaks."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any

from iscsi_target.errors import ConnectionLost, IscsiError, TaskAborted
from iscsi_target.initiator_link import ConnectionFactory, Link
from iscsi_target.plain_connection import PlainConnection
from iscsi_target.reconnection import Reconnection
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
from iscsi_target.wire.opcodes import (
    AsyncEvent,
    LogoutReason,
    LogoutResponseCode,
    RejectReason,
    TaskFunction,
)
from iscsi_target.wire.requests import LogoutRequest, SnackRequest, TaskManagementRequest, TextRequest
from iscsi_target.wire.responses import LogoutResponse
from iscsi_target.wire.text import decode_text, encode_text

_GRACE = 0.5
"""Part of the time a target grants before a logout that may be spent waiting for commands to end."""
_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Place:
    """Where a connection leads, and what makes its byte stream (None: plain TCP)."""

    host: str
    port: int
    connect: ConnectionFactory | None = None

    def open(self) -> Coroutine[Any, Any, Any]:
        """The byte stream."""
        return (self.connect or PlainConnection.open)(self.host, self.port)  # type: ignore[return-value]


class Links:
    """The shell around an :class:`InitiatorSession`: links, futures, recovery of connections and of the session."""

    def __init__(self, wish: LoginWish, *, timeout_s: float, policy: Reconnection) -> None:
        self.wish = wish
        self.timeout_s = timeout_s
        self.policy = policy
        self.session = InitiatorSession()
        self.links: dict[int, Link] = {}
        self.lost: str | None = None
        self.leaving = False
        self.async_messages: list[AsyncReceived] = []
        self._places: dict[int, Place] = {}
        self._futures: dict[int, asyncio.Future[object]] = {}
        self._logins: dict[int, asyncio.Future[object]] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._up = asyncio.Event()
        """Clear while the session is being made anew."""
        self._up.set()
        self._leave_in_turn = asyncio.Lock()

    # -- logging in ---------------------------------------------------------------------------------------------

    async def log_in(self, cid: int, place: Place) -> None:
        """Make one connection: the leading one of a session that has no TSIH yet."""
        session = self.session
        wish = replace(self.wish, tsih=session.tsih, cid=cid)
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self.timeout_s):
                stream = await place.open()
                core = InitiatorConnection(session, wish, random_bytes=os.urandom)
                self._logins[cid] = future
                link = Link(self, core, stream, future)
                self.links[cid] = link
                core.start()
                link.start()
                await future
        except TimeoutError:
            await self._drop_link(cid)
            raise ConnectionLost(
                f"no login to {place.host}:{place.port} within {self.timeout_s:g} s"
            ) from None
        except BaseException:
            await self._drop_link(cid)
            raise
        finally:
            self._logins.pop(cid, None)
        self._places[cid] = place

    def leading_place(self) -> tuple[str, int]:
        """Host and port of the connection that was made first."""
        place = next(iter(self._places.values()))
        return place.host, place.port

    async def _drop_link(self, cid: int) -> None:
        link = self.links.pop(cid, None)
        self.session.connections.pop(cid, None)
        if link is not None:
            await link.stop(abort=True)

    # -- asking -------------------------------------------------------------------------------------------------

    async def ready(self) -> None:
        """Wait while the session is being made anew. Raises ConnectionLost."""
        if not self._up.is_set() and self.lost is None:
            try:
                await asyncio.wait_for(self._up.wait(), self.timeout_s)
            except TimeoutError:
                raise ConnectionLost(f"no new session within {self.timeout_s:g} s") from None
        self.check()

    def check(self) -> None:
        """Raises ConnectionLost when the session is gone."""
        if self.lost is not None:
            raise ConnectionLost(self.lost)

    def pick(self, cid: int | None) -> InitiatorConnection:
        """The connection with a CID, or the least busy one. Raises ValueError, ConnectionLost."""
        self.check()
        connections = self.session.connections
        if cid is not None:
            if cid not in connections:
                raise ValueError(f"there is no connection {cid}")
            return connections[cid]
        if not connections:
            raise ConnectionLost("no connection is left")
        return min(connections.values(), key=self._how_busy)

    def _how_busy(self, core: InitiatorConnection) -> tuple[bool, bool, int]:
        link = self.links.get(core.cid)
        return (not core.full_feature, link is not None and link.leaving, core.outstanding)

    async def ask(self, carrier: InitiatorConnection, kind: type, **fields: object) -> object:
        """A request other than a SCSI command; returns the PDU or the text that answers it."""
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        tag = carrier.request(kind, **fields)
        self._futures[tag] = future
        self.wake()
        try:
            async with asyncio.timeout(self.timeout_s):
                return await future
        except TimeoutError:
            raise ConnectionLost(f"no answer to a {kind.__name__} within {self.timeout_s:g} s") from None
        finally:
            self._futures.pop(tag, None)

    async def run(self, task: InitiatorTask, timeout_s: float) -> CommandEnded:
        """Send a command and wait for its status; one that takes too long is aborted at the target."""
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        tag = task.initiator_task_tag
        self._futures[tag] = future
        task.connection.submit(task)
        self.wake()
        try:
            async with asyncio.timeout(timeout_s):
                ended = await future
        except (TimeoutError, asyncio.CancelledError):
            self._give_up(task)
            raise
        finally:
            self._futures.pop(tag, None)
        assert isinstance(ended, CommandEnded)
        return ended

    def _give_up(self, task: InitiatorTask) -> None:
        """Nobody waits for the task any more: forget it here and abort it at the target."""
        session = self.session
        if session.tasks.pop(task.initiator_task_tag, None) is None:
            return
        task.connection.forget(task)
        if self.lost is None and task.cmd_sn_assigned:
            task.connection.request(
                TaskManagementRequest,
                immediate=True,
                function=TaskFunction.ABORT_TASK,
                lun=task.lun_field,
                referenced_task_tag=task.initiator_task_tag,
                ref_cmd_sn=task.cmd_sn,
            )
            self.wake()

    async def negotiate_segments(self, carrier: InitiatorConnection, length: int) -> None:
        """Declare MaxRecvDataSegmentLength anew in full-feature phase (section 13.12)."""
        carrier.expect_segments(length)
        text = encode_text([("MaxRecvDataSegmentLength", str(length))])
        answer = await self.ask(carrier, TextRequest, data=text)
        assert isinstance(answer, TextAnswered)
        carrier.segments_declared(length, decode_text(answer.data))

    # -- what came ----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Let the links write what the cores have for them."""
        touched = self.session.touched
        while touched:
            link = self.links.get(touched.pop().cid)
            if link is not None:
                link.wake()

    def dispatch(self) -> None:
        """Hand the events of the cores to those who wait (called by the links)."""
        events = self.session.events
        while events:
            event = events.popleft()
            if isinstance(event, LoggedIn):
                _settle(self._logins.get(event.cid), event)
            elif isinstance(event, CommandEnded | TextAnswered):
                _settle(self._futures.get(event.initiator_task_tag), event)
            elif isinstance(event, Answered):
                _settle(self._futures.get(event.initiator_task_tag), event.pdu)
            elif isinstance(event, Rejected):
                self._rejected(event)
            elif isinstance(event, TaskGone):
                _refuse(self._futures.get(event.initiator_task_tag), TaskAborted(event.text))
            else:
                self.async_messages = [*self.async_messages[-99:], event]
                self._heed(event)
        self.wake()

    def _rejected(self, event: Rejected) -> None:
        """A request was rejected; a command ends with it, at the target too when it was running there."""
        task = self.session.tasks.get(event.initiator_task_tag)
        if task is not None:
            rejected_opcode = event.pdu.data[0] & 0x3F if event.pdu.data else 0
            if rejected_opcode == SnackRequest.OPCODE:
                self._give_up(task)  # what was lost cannot be had again
            elif event.pdu.reason != RejectReason.DATA_DIGEST_ERROR:
                del self.session.tasks[event.initiator_task_tag]
                task.connection.forget(task)
        text = f"rejected, reason {event.pdu.reason:#04x}"
        _refuse(self._futures.get(event.initiator_task_tag), TaskAborted(text))

    # -- asynchronous messages (section 11.9.1) -----------------------------------------------------------------

    def _heed(self, event: AsyncReceived) -> None:
        pdu = event.pdu
        if pdu.async_event == AsyncEvent.LOGOUT_REQUESTED:
            self._start(self._leave(event.cid, pdu.parameter_3))
        elif pdu.async_event == AsyncEvent.CONNECTION_DROPPED:
            self.connection_lost(self.links.get(pdu.parameter_1), "the target dropped the connection")
        elif pdu.async_event == AsyncEvent.SESSION_DROPPED:
            self._session_lost("the target dropped the session", wait_s=pdu.parameter_2)
        elif pdu.async_event == AsyncEvent.NEGOTIATION_REQUESTED:
            core = self.session.connections.get(event.cid)
            if core is not None:
                self._start(self._renegotiate(core))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _renegotiate(self, core: InitiatorConnection) -> None:
        length = self.wish.parameters.max_recv_data_segment_length
        with contextlib.suppress(IscsiError):  # who does not answer is found out by the commands
            await self.negotiate_segments(core, length)

    async def _leave(self, cid: int, time_s: int) -> None:
        """The target wants this connection logged out within `time_s`: let its commands end, then go."""
        link = self.links.get(cid)
        if link is None or link.leaving:
            return
        link.leaving = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + time_s * _GRACE
        async with self._leave_in_turn:
            while link.core.outstanding and loop.time() < deadline:
                await asyncio.sleep(_POLL_S)
            if self.lost is not None or cid not in self.links:
                return
            alone = all(other.leaving for other in self.links.values())
            with contextlib.suppress(ConnectionLost, TaskAborted):
                if len(self.links) > 1 and not alone:
                    await self.log_out(LogoutReason.CLOSE_CONNECTION, cid, link.core)
                    return
                await self.ask(link.core, LogoutRequest, reason=LogoutReason.CLOSE_SESSION, cid=cid)
        self._session_lost("the target asked for the logout", wait_s=self.session.agreed.default_time2wait)

    async def log_out(self, reason: LogoutReason, cid: int, carrier: InitiatorConnection) -> int:
        """Log one connection out through `carrier`; returns the response code. On success it is gone."""
        link = self.links.get(cid)
        if link is not None:
            link.leaving = True
        answer = await self.ask(carrier, LogoutRequest, reason=reason, cid=cid)
        assert isinstance(answer, LogoutResponse)
        if answer.response != LogoutResponseCode.SUCCESS:
            if link is not None:
                link.leaving = False
        elif reason == LogoutReason.CLOSE_CONNECTION and link is not None:
            self.links.pop(cid, None)
            core = self.session.connections.pop(cid, None)
            if core is not None:
                for task in [task for task in self.session.tasks.values() if task.connection is core]:
                    self.session.drop(task, "its connection was logged out")
                self.dispatch()
            await link.stop(abort=False)
        return answer.response

    # -- when connections break ---------------------------------------------------------------------------------

    def connection_lost(self, link: Link | None, text: str) -> None:
        """A connection ended (called by the links): recover it, make the session anew, or give up."""
        if link is not None and (link.leaving or not link.core.full_feature):
            return
        recoverable = link is not None and self.session.agreed.error_recovery_level == 2
        if link is not None and recoverable and self.policy.connections and self._alive:
            link.core.full_feature = False
            self._start(self._recover(link, text))
            return
        self._session_lost(text, wait_s=self.session.agreed.default_time2wait)

    @property
    def _alive(self) -> bool:
        return self.lost is None and not self.leaving and self._up.is_set()

    async def _recover(self, link: Link, text: str) -> None:
        """Go on with what was under way on a lost connection: on another one, or on itself made anew."""
        loop = asyncio.get_running_loop()
        agreed, old, cid = self.session.agreed, link.core, link.core.cid
        deadline = loop.time() + agreed.default_time2wait + agreed.default_time2retain
        await link.stop(abort=True)
        await asyncio.sleep(agreed.default_time2wait)
        if self.policy.to_another and await self._move(old):
            return
        for delay_s in self.policy.delays():
            try:
                await self.log_in(cid, self._places[cid])
            except (ConnectionLost, OSError):
                self.session.connections[cid] = old
                if loop.time() >= deadline:
                    self._session_lost(text, wait_s=0)
                    return
                await asyncio.sleep(delay_s)
            except IscsiError as error:
                self._session_lost(f"{text}; not recovered: {error}", wait_s=0)
                return
            else:
                self.session.connections[cid].take_over(old)
                self.dispatch()
                return

    async def _move(self, old: InitiatorConnection) -> bool:
        """Remove a lost connection for recovery and reassign its tasks to one that is left (section 11.14)."""
        session = self.session
        for survivor in list(session.connections.values()):
            if not survivor.full_feature or survivor is old:
                continue
            try:
                code = await self.log_out(LogoutReason.REMOVE_FOR_RECOVERY, old.cid, survivor)
            except (ConnectionLost, TaskAborted):
                continue
            if code == LogoutResponseCode.SUCCESS and survivor.full_feature:
                session.connections.pop(old.cid, None)
                self.links.pop(old.cid, None)
                survivor.take_over(old)
                self.dispatch()
                return True
        return False

    def _session_lost(self, text: str, *, wait_s: int) -> None:
        """Nothing of the session is left to recover: make a new one, or tell everybody."""
        if not (self.policy.sessions and self._alive):
            if self._up.is_set() or self.leaving:
                self.give_up(text)
            return
        self._up.clear()
        kept: list[InitiatorTask] = []
        for task in list(self.session.tasks.values()):
            if self.policy.retry_commands and task.initiator_task_tag in self._futures:
                kept.append(task)
        keep = {task.initiator_task_tag for task in kept}
        for tag, future in list(self._futures.items()):
            if tag not in keep:
                _refuse(future, ConnectionLost(text))
        self._start(self._reinstate(text, kept, wait_s))

    async def _reinstate(self, text: str, kept: list[InitiatorTask], wait_s: int) -> None:
        """Session reinstatement (section 6.3.5), then what was kept once more."""
        places = {cid: self._places[cid] for cid in self.links if cid in self._places}
        links, self.links = list(self.links.values()), {}
        for link in links:
            await link.stop(abort=True)
        leading = min(places, default=self.wish.cid)
        await asyncio.sleep(wait_s)
        problem: Exception | None = None
        for _, delay_s in zip(range(self.policy.attempts), self.policy.delays(), strict=False):
            self.session = InitiatorSession(first_task_tag=self.session.last_task_tag)
            try:
                await self.log_in(leading, places[leading])
            except (IscsiError, OSError) as error:
                problem = error
                await asyncio.sleep(delay_s)
                continue
            for cid in sorted(set(places) - {leading}):
                with contextlib.suppress(IscsiError, OSError):  # one connection is a session already
                    await self.log_in(cid, places[cid])
            self._up.set()
            for task in kept:
                if task.initiator_task_tag in self._futures:
                    task.restart()
                    task.cmd_sn_assigned = False
                    task.connection = self.pick(None)
                    task.connection.submit(task)
            self.wake()
            return
        self.give_up(f"{text}; no new session: {problem}")

    def give_up(self, text: str) -> None:
        """The session is gone for good: everybody who waits hears why."""
        if self.lost is None:
            self.lost = text
        self._up.set()
        for future in list(self._futures.values()):
            _refuse(future, ConnectionLost(self.lost))
        if self.links:
            self._start(self._hang_up())

    async def _hang_up(self) -> None:
        """Close what is left of a session that is gone: the target shall not keep it for us."""
        for link in list(self.links.values()):
            await link.stop(abort=True)

    async def shut(self, text: str, *, abort: bool) -> None:
        """End everything."""
        if self.lost is None:
            self.lost = text
        self.leaving = True
        current = asyncio.current_task()
        work = [task for task in self._work if task is not current]
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        links, self.links = list(self.links.values()), {}
        self.session.connections.clear()
        for link in links:
            await link.stop(abort=abort)
        self.give_up(text)


def _settle(future: asyncio.Future[object] | None, value: object) -> None:
    if future is not None and not future.done():
        future.set_result(value)


def _refuse(future: asyncio.Future[object] | None, error: Exception) -> None:
    if future is not None and not future.done():
        future.set_exception(error)
