"""The HTTP/1.1 connection of a server, with the bounds that uvicorn's own has not.

What a peer can make a connection cost is limited in time as well as in size: a request's head arrives within
:data:`HEAD_TIMEOUT_S`, an answer is read on within :data:`STALL_TIMEOUT_S`, and a connection that is closed while its
peer does not read is cut off. One address has at most :data:`CONNECTIONS_OF_ONE_ADDRESS` connections, loopback apart.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mgmt.http.tls import certified_name

#: How long a client may take to send the head of its first or next request, once it has begun.
HEAD_TIMEOUT_S = 10.0
#: How long a client may leave an answer unread while more of it waits.
STALL_TIMEOUT_S = 10.0
#: Connections of one address that is not this machine.
CONNECTIONS_OF_ONE_ADDRESS = 128
#: So often at most a server's log has the same warning, in seconds.
WARNING_EVERY_S = 60.0
_OURS: Mapping[object, str] = {
    "Exceeded concurrency limit.": (
        "all connections are taken: requests on more of them get the answer 503 until some end"
    )
}
#: Bytes of an answer that wait for a client before its sender does.
UNREAD_BYTES = 64 * 1024
#: What a scope's state calls the :class:`mgmt.http.tls.CertifiedName` of a client.
CERTIFIED = "certified"
#: And what ends the connection at once, whether its client reads or not.
ABORT = "abort"


class ConnectionCounts:
    """Connections by remote address, for one server; loopback and Unix sockets are not counted."""

    def __init__(self, limit: int = CONNECTIONS_OF_ONE_ADDRESS) -> None:
        self._limit = limit
        self._open: Counter[str] = Counter()

    def admit(self, host: str) -> bool:
        """Whether one more connection of ``host`` is welcome; it is then counted until :meth:`leave`."""
        if not host or _is_loopback(host):
            return True
        if self._open[host] >= self._limit:
            return False
        self._open[host] += 1
        return True

    def leave(self, host: str) -> None:
        """One admitted connection of ``host`` has ended."""
        if self._open[host] > 1:
            self._open[host] -= 1
        else:
            self._open.pop(host, None)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class SparingLog(logging.LoggerAdapter[logging.Logger]):
    """The log of one server: what uvicorn warns of for each request that a peer sends wrong comes once a minute."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logger)
        self._next_s: dict[object, float] = {}

    @property
    def level(self) -> int:
        """What uvicorn looks at."""
        return self.logger.level

    def log(self, level: int, msg: object, *arguments: Any, **keywords: Any) -> None:
        """Log, in words of ours where all connections are taken."""
        if level == logging.WARNING:  # one of a handful of sentences; errors are not of a peer's making
            now_s = time.monotonic()
            if now_s < self._next_s.get(msg, 0.0):
                return
            self._next_s[msg] = now_s + WARNING_EVERY_S
        super().log(level, _OURS.get(msg, msg), *arguments, **keywords)


class BoundedProtocol(H11Protocol):
    """One connection. Made by :func:`bounded` with the counts and the log of its server."""

    counts: ConnectionCounts
    log: SparingLog

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The connection is there: its client's certificate is noted, and the clock of its first request runs."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=UNREAD_BYTES)
        self.logger = self.log  # type: ignore[assignment]
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._host = str(self.client[0]) if self.client else ""
        self._admitted = self.counts.admit(self._host)
        if not self._admitted:
            transport.abort()
            return
        self.app_state = self.app_state | {ABORT: transport.abort}
        shown = certified_name(transport.get_extra_info("peercert"))
        if shown is not None:
            self.app_state[CERTIFIED] = shown
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, and its timers with it."""
        for timer in (self._head_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        if self._admitted:
            self._admitted = False
            self.counts.leave(self._host)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come: a head that is begun has to be completed in time."""
        super().data_received(data)
        self._await_head()

    def on_response_complete(self) -> None:
        """An answer is on its way; a pipelined request's head may have begun already."""
        super().on_response_complete()
        self._await_head()
        if self.transport.is_closing():
            self._cut_off_later()

    def _await_head(self) -> None:
        """Arm the timer while a head is wanted and not complete, and disarm it once there is a request."""
        fresh = self.cycle is None
        begun = bool(self.conn.trailing_data[0]) and self.conn.their_state is h11.IDLE
        if not (fresh or begun):
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.abort)

    def pause_writing(self) -> None:
        """The client does not read fast enough."""
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(STALL_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read on."""
        super().resume_writing()
        if self._stall_timer is not None and not self.transport.is_closing():
            self._stall_timer.cancel()
            self._stall_timer = None

    def timeout_keep_alive_handler(self) -> None:
        """An idle connection is closed, and cut off where its client does not even read what it was sent."""
        super().timeout_keep_alive_handler()
        self._cut_off_later()

    def shutdown(self) -> None:
        """The server stops."""
        super().shutdown()
        if self.transport.is_closing():
            self._cut_off_later()

    def _cut_off_later(self) -> None:
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(STALL_TIMEOUT_S, self.transport.abort)


def bounded(counts: ConnectionCounts) -> type[asyncio.Protocol]:
    """The protocol class of one server, which knows that server's ``counts`` and has a log of its own."""
    own = {"counts": counts, "log": SparingLog(logging.getLogger("uvicorn.error"))}
    return cast("type[asyncio.Protocol]", type("ServersProtocol", (BoundedProtocol,), own))


def certified_of(scope: Any) -> Any:
    """The :class:`mgmt.http.tls.CertifiedName` of the client of an ASGI ``scope``, or ``None``."""
    return scope.get("state", {}).get(CERTIFIED)
