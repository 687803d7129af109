# SPDX-License-Identifier: Apache-2.0
"""A live link's end on a local socket: asyncio around :class:`~fcsim.live.live_end.LiveEnd`, and nothing else.

The listening end decides speed, distance, time scale and epoch; the connecting end adopts them from its greeting.
Both need the same monotonic clock, so both run on one machine.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

from fcsim.errors import ExchangeLost, FibreChannelError, MalformedFrame, PeerViolation
from fcsim.fcp.initiator import CommandCompleted, ExchangeFailed
from fcsim.live.echo import EchoFailed, RoundTripMeasured
from fcsim.live.framing import HELLO_BYTES, Hello
from fcsim.live.link_clock import WAKE_UP_NS, LinkClock, choose_time_scale, keeps_promises
from fcsim.live.live_end import EndConfig, LiveEnd, LiveEvent
from fcsim.live.measure import frame_cost_ns
from fcsim.live.n_port import LoginFailed, PortLoggedOut, ProcessLoggedIn
from fcsim.port.login import Offer

__all__ = ["Address", "LiveLink", "LiveListener", "connect", "listen"]

Address = Path | tuple[str, int]
"""A Unix socket's path, or host and TCP port; port 0 takes a free one."""
#: Link time begins so long after the listening end's greeting, for both ends to be ready.
START_DELAY_NS = 20_000_000
GREETING_PATIENCE_S = 10.0
#: How long a peer may take for its part, beside what the link takes; and the flights in which a link comes up.
PEER_PATIENCE_S, LINK_UP_FLIGHTS = 30.0, 100
#: An end that waits for its peer's promise goes on without it after so long, and two flights; what then comes late is
#: counted. It looks that often in the meantime: what it slept through, with the whole machine, was no silence.
SILENCE_S, SILENCE_LOOKS = 5.0, 8
_EVENTS_KEPT = 4096
#: Bytes that a peer may leave unread; a link never has more than this on its way (live_end.INBOX_LIMIT_BYTES).
UNREAD_LIMIT_BYTES = 64 << 20

T = TypeVar("T")
MakeEnd = Callable[[EndConfig, int], LiveEnd]
"""Makes the end when the greetings have decided the link: from its configuration and the peer's port name."""


class LiveLink(asyncio.Protocol):
    """One end, running. Made by :func:`connect` and :func:`listen`; :meth:`close` it, or use it with ``async with``.

    What it holds is bounded by the credits that either side granted, so it needs no flow control of its own.
    """

    def __init__(self, config: EndConfig, make_end: MakeEnd, hello: Hello | None) -> None:
        self._config, self._make_end = config, make_end
        self._hello = hello
        self._listens = hello is not None
        self._greeting = bytearray()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._end: LiveEnd | None = None
        self._clock: LinkClock | None = None
        self._watchers: list[asyncio.Event] = []
        self._commands: dict[int, asyncio.Future[CommandCompleted]] = {}
        self._echoes: dict[int, asyncio.Future[RoundTripMeasured]] = {}
        self._logged_in = False
        self._keeps_promises = False
        self._silence_limit_ns = self._silent_ns = self._looked_ns = 0
        self.greeted: asyncio.Future[None] = self._loop.create_future()
        """Done when both greetings are here, or never will be; never an error."""
        self.closed: asyncio.Future[None] = self._loop.create_future()
        """Done when the socket is closed; never an error."""
        self.error: str | None = None
        """Why the link ended, one line; None while it runs, or when it was closed here or there."""
        self.events: deque[LiveEvent] = deque(maxlen=_EVENTS_KEPT)
        """What happened at this end, the newest 4096; take from the left."""

    # -- looking at it ------------------------------------------------------------------------------------------

    @property
    def end(self) -> LiveEnd:
        """The end itself. Raises PeerViolation before the greetings were exchanged."""
        if self._end is None:
            raise PeerViolation("the link has no end yet: the greetings were not exchanged")
        return self._end

    @property
    def clock(self) -> LinkClock:
        """Link time. Raises PeerViolation before the greetings were exchanged."""
        if self._clock is None:
            raise PeerViolation("the link has no time yet: the greetings were not exchanged")
        return self._clock

    @property
    def now_ps(self) -> int:
        """Link time now: by the clock, or as far as the peer has promised that nothing more will come."""
        return max(self._horizon(time.monotonic_ns())[0], 0)

    def __str__(self) -> str:
        end = self.end
        where = f"{end.config.speed.name}, {end.config.distance_m} m"
        return f"{end.config.name}: {where}, link time {self.clock.time_scale} times slower; {end.lateness}"

    def check(self) -> None:
        """Raises MalformedFrame, with the reason, where the greetings led to no link."""
        if self._end is None:
            raise MalformedFrame(self.error or "the greetings were not exchanged")

    # -- doing something ----------------------------------------------------------------------------------------

    def call(self, action: Callable[[LiveEnd, int], T]) -> T:
        """Run something on the end at link time now, and let its effects leave."""
        now_ps = self.now_ps
        self.end.run_until(now_ps)
        try:
            return action(self.end, now_ps)
        finally:
            self._pump()

    async def wait_for(self, condition: Callable[[LiveEnd], bool]) -> None:
        """Until something is true of the end. Raises PeerViolation when the link ends before."""
        changed = asyncio.Event()
        self._watchers.append(changed)
        try:
            while not condition(self.end):
                if self.closed.done():
                    raise PeerViolation(self.error or "the link was closed")
                changed.clear()
                await changed.wait()
        finally:
            self._watchers.remove(changed)

    async def wait_logged_in(self) -> None:
        """Until the process login between the ends is done. Raises PeerViolation when the link ends before, and
        where the peer does not do its part: the link comes up in the time of some flights, and then the login has as
        long as it may be asked again, all of it as slow as this link's time."""
        n_port = self.end.config.n_port
        up_ps = LINK_UP_FLIGHTS * (self.end.flight_ps + 10**9)
        login_ps = n_port.tries * n_port.e_d_tov_ps
        await self._within(up_ps, lambda end: end.active or self._logged_in, "the link did not come up")
        await self._within(login_ps, lambda _: self._logged_in, "the peer has not logged in")

    async def _within(self, link_ps: int, reached: Callable[[LiveEnd], bool], otherwise: str) -> None:
        patience_s = PEER_PATIENCE_S + link_ps * self.clock.time_scale / 1e12
        try:
            async with asyncio.timeout(patience_s):
                await self.wait_for(reached)
        except TimeoutError:
            raise PeerViolation(f"{otherwise} within {patience_s:.0f} s") from None

    async def log_in_again(self, offer: Offer) -> None:
        """Log in anew with another offer (:meth:`LiveEnd.log_in_again`). Raises PeerViolation when the link ends."""
        self.call(lambda end, now_ps: end.log_in_again(offer, now_ps))
        await self.wait_logged_in()

    async def command(
        self, lun: bytes, cdb: bytes, *, data_out: bytes = b"", data_in_length: int = 0
    ) -> CommandCompleted:
        """A SCSI command to the target at the other end. Raises PeerViolation when it ends without a response,
        ExchangeLost where it may be sent again."""
        ox_id = self.call(
            lambda end, now_ps: end.command(
                lun, cdb, now_ps, data_out=data_out, data_in_length=data_in_length
            )
        )
        answer = self._commands[ox_id] = self._loop.create_future()
        try:
            completed: CommandCompleted = await answer
            return completed
        finally:
            self._commands.pop(ox_id, None)

    async def echo(self, payload_bytes: int = 0) -> RoundTripMeasured:
        """ECHO to the other end's link services, and back (:meth:`LiveEnd.echo`). Raises ExchangeLost when it does not
        come back in time, PeerViolation when the link ends."""
        ox_id = self.call(lambda end, now_ps: end.echo(payload_bytes, now_ps))
        answer = self._echoes[ox_id] = self._loop.create_future()
        try:
            measured: RoundTripMeasured = await answer
            return measured
        finally:
            self._echoes.pop(ox_id, None)

    async def close(self) -> None:
        """Close the socket; the peer sees loss of signal."""
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()
            await asyncio.wait([self.closed])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Greet, when this end listens."""
        self._transport = transport
        if self._hello is not None:
            self._timer = self._loop.call_later(GREETING_PATIENCE_S, self._no_greeting)
            self._hello = replace(self._hello, epoch_ns=time.monotonic_ns() + START_DELAY_NS)
            transport.write(self._hello.encode())

    def data_received(self, data: bytes) -> None:
        """The greeting, then records."""
        try:
            if self._end is None:
                self._greeting += data
                Hello.check_start(bytes(self._greeting))
                if len(self._greeting) < HELLO_BYTES:
                    return
                self._greet(Hello.decode(bytes(self._greeting[:HELLO_BYTES])))
                data = bytes(self._greeting[HELLO_BYTES:])
            self._silent_ns, self._looked_ns = 0, time.monotonic_ns()
            self.end.receive_data(data)
            self._pump()
        except FibreChannelError as error:
            self._fail(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        """Loss of signal."""
        if self._timer is not None:
            self._timer.cancel()
        if self._end is not None:
            self._end.lose_signal(self.now_ps)
            self._take_events(self._end)
        # A peer that closes while something is on its way to it breaks the pipe: no other end than a clean one.
        broken = isinstance(exc, BrokenPipeError | ConnectionResetError) and self._end is not None
        if exc is not None and not broken and self.error is None:
            self.error = f"the connection broke: {exc}"
        self._give_up(self.error or "the link was closed")
        if not self.greeted.done():
            self.error = self.error or "the peer closed before its greeting"
            self.greeted.set_result(None)
        if not self.closed.done():
            self.closed.set_result(None)
        self._wake()

    # -- inside -------------------------------------------------------------------------------------------------

    def _greet(self, peers: Hello) -> None:
        config = self._config
        mine = self._hello
        if mine is None:
            mine = replace(peers, port_name=config.n_port.port_name, node_name=config.n_port.node_name)
        elif mine != replace(peers, port_name=mine.port_name, node_name=mine.node_name):
            raise MalformedFrame("the peer's greeting does not repeat this link's speed, distance and time")
        end = self._make_end(replace(config, speed=mine.speed, distance_m=mine.distance_m), peers.port_name)
        end.lateness.patience_ps = WAKE_UP_NS * 1000 // mine.time_scale
        self._end, self._clock = end, LinkClock(mine.epoch_ns, mine.time_scale)
        self._keeps_promises = keeps_promises(mine.distance_m, mine.time_scale)
        self._silence_limit_ns = int(SILENCE_S * 1e9) + 2 * end.flight_ps * mine.time_scale // 1000
        if not self._listens and self._transport is not None:
            self._transport.write(mine.encode())
        if not self.greeted.done():
            self.greeted.set_result(None)

    def _no_greeting(self) -> None:
        self._timer = None
        self._fail(f"the peer sent no greeting within {GREETING_PATIENCE_S:.0f} s")

    def _fail(self, text: str) -> None:
        self.error = text
        if self._transport is not None:
            self._transport.abort()

    def _on_timer(self) -> None:
        self._timer = None
        try:
            self._pump()
        except FibreChannelError as error:
            self._fail(str(error))

    def _pump(self) -> None:
        """Let happen what is due, send what came of it, and ask to be woken for what comes next."""
        end, clock = self.end, self.clock
        now_ns = time.monotonic_ns()
        self._silent_ns += min(now_ns - self._looked_ns, self._silence_limit_ns // SILENCE_LOOKS)
        self._looked_ns = now_ns
        horizon_ps, clock_ps = self._horizon(now_ns)
        end.run_until(horizon_ps, clock_ps)
        if self._keeps_promises:
            end.promise(horizon_ps)
        data = end.data_to_send()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
            if self._transport.get_write_buffer_size() > UNREAD_LIMIT_BYTES:
                self._fail(f"the peer has left more than {UNREAD_LIMIT_BYTES} bytes unread")
        self._take_events(end)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake_ns = self._wake_up_ns(end, clock, horizon_ps, held=horizon_ps < clock_ps)
        if wake_ns is not None and not self.closed.done():
            delay_s = max(wake_ns - time.monotonic_ns(), 0) / 1e9
            self._timer = self._loop.call_later(delay_s, self._on_timer)
        self._wake()

    def _horizon(self, now_ns: int) -> tuple[int, int]:
        """How far this end may go, and link time by the clock."""
        clock_ps = self.clock.link_ps(now_ns)
        if not self._keeps_promises or self._silent_ns >= self._silence_limit_ns:
            return clock_ps, clock_ps
        return self.end.horizon(clock_ps), clock_ps

    def _wake_up_ns(self, end: LiveEnd, clock: LinkClock, horizon_ps: int, *, held: bool) -> int | None:
        """When the loop has to come back without being told something; None: never."""
        if held:  # by the peer, whose next promise wakes this end
            return self._looked_ns + self._silence_limit_ns // SILENCE_LOOKS + 1
        moment = end.next_moment()
        if self._keeps_promises:
            due = horizon_ps + end.flight_ps // 2
            moment = due if moment is None else min(moment, due)
        return None if moment is None else clock.wall_ns(moment)

    def _take_events(self, end: LiveEnd) -> None:
        for event in end.events():
            if isinstance(event, CommandCompleted | ExchangeFailed):
                _settle(self._commands.get(event.ox_id), event)
            elif isinstance(event, RoundTripMeasured | EchoFailed):
                _settle(self._echoes.get(event.ox_id), event)
            elif isinstance(event, ProcessLoggedIn):
                self._logged_in = True
            elif isinstance(event, PortLoggedOut):
                self._logged_in = False
                self._give_up(f"the target is gone: {event.reason}")
            elif isinstance(event, LoginFailed):
                self._fail(f"login failed: {event.reason}")
            self.events.append(event)

    def _give_up(self, reason: str) -> None:
        """Nothing that was asked will be answered."""
        asked: list[asyncio.Future[Any]] = [*self._commands.values(), *self._echoes.values()]
        for answer in asked:
            if not answer.done():
                answer.set_exception(PeerViolation(reason))

    def _wake(self) -> None:
        for watcher in self._watchers:
            watcher.set()


def _settle(answer: asyncio.Future[Any] | None, event: Any) -> None:
    """Hand an answer to whoever waits for it, or that there will be none."""
    if answer is None or answer.done():
        return
    if isinstance(event, ExchangeFailed | EchoFailed):
        answer.set_exception(ExchangeLost(event.reason))
    else:
        answer.set_result(event)


class LiveListener:
    """Waits for the other end: one link with one peer at a time; when it has ended, the next may come.

    An asynchronous context manager. A peer that comes while a link runs is turned away.
    """

    def __init__(self, make_link: Callable[[], LiveLink], time_scale: int) -> None:
        self._make_link = make_link
        self.time_scale = time_scale
        self._server: asyncio.Server | None = None
        self._link: LiveLink | None = None
        self._came = asyncio.Event()

    def started(self, server: asyncio.Server) -> None:
        """It listens with ``server``, whose connections :meth:`protocol` makes."""
        self._server = server

    def protocol(self) -> asyncio.Protocol:
        """For a peer that has come."""
        if self._link is not None and not self._link.closed.done():
            return _Busy()
        self._link = self._make_link()
        self._came.set()
        return self._link

    @property
    def address(self) -> Any:
        """Where it listens, as the socket says it."""
        assert self._server is not None
        return self._server.sockets[0].getsockname()

    async def accept(self) -> LiveLink:
        """The next link, when a peer has come and greeted. Raises MalformedFrame for one that is no such peer; then
        accept again."""
        await self._came.wait()
        self._came.clear()
        link = self._link
        assert link is not None
        await asyncio.shield(link.greeted)
        link.check()
        return link

    async def close(self) -> None:
        """Wait no longer, and end the link that runs."""
        if self._server is not None:
            self._server.close()
        if self._link is not None:
            await self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _Busy(asyncio.Protocol):
    """A link has two ends: a third is turned away."""

    def connection_made(self, transport: Any) -> None:
        transport.abort()


async def listen(
    address: Address, config: EndConfig, make_end: MakeEnd = LiveEnd, *, time_scale: int | None = None
) -> LiveListener:
    """Listen for the other end of the link that ``config`` describes.

    ``time_scale`` None: measured (some tens of milliseconds), see :func:`choose_time_scale`. Raises OSError where
    the address is taken.
    """
    if time_scale is None:
        time_scale = choose_time_scale(config.speed, config.distance_m, frame_cost_ns())
    hello = Hello(
        speed_name=config.speed.name.encode("ascii").ljust(8, b"\0"),
        distance_m=config.distance_m,
        time_scale=time_scale,
        epoch_ns=0,
        port_name=config.n_port.port_name,
        node_name=config.n_port.node_name,
    )
    listener = LiveListener(lambda: LiveLink(config, make_end, hello), time_scale)
    loop = asyncio.get_running_loop()
    if isinstance(address, Path):
        server = await loop.create_unix_server(listener.protocol, address)
    else:
        server = await loop.create_server(listener.protocol, *address)
    listener.started(server)
    return listener


async def connect(address: Address, config: EndConfig, make_end: MakeEnd = LiveEnd) -> LiveLink:
    """Connect to the listening end; its greeting says speed and distance, whatever ``config`` has.

    Raises OSError where nobody listens, MalformedFrame for a peer that is no end of a live link, TimeoutError for
    one that says nothing within ten seconds.
    """
    loop = asyncio.get_running_loop()
    link = LiveLink(config, make_end, None)
    if isinstance(address, Path):
        await loop.create_unix_connection(lambda: link, str(address))
    else:
        await loop.create_connection(lambda: link, *address)
    try:
        async with asyncio.timeout(GREETING_PATIENCE_S):
            await asyncio.shield(link.greeted)
        link.check()
    except BaseException:
        await link.close()
        raise
    return link
