"""Live events to many clients: each event is put into words once, and nobody is waited for.

A client that has not taken :data:`BACKLOG` events is cut off; it comes back with ``Last-Event-ID`` and misses nothing.
The hub belongs to the server's event loop; :meth:`Hub.hear` may be called from any thread.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from mgmt.station import events
from mgmt.station.records import Event

#: Streams at the same time, and events that wait for one client.
CLIENT_LIMIT = 256
BACKLOG = 256
#: A line of nothing keeps proxies and clients sure that the stream lives.
PING_S = 15.0
#: How long a client waits before it comes back, in milliseconds.
RETRY_MS = 1000
_HELLO = f"retry: {RETRY_MS}\n\n".encode()
_PING = b": still here\n\n"


@dataclass(eq=False, slots=True)
class Subscriber:
    """One client: the events that wait for it."""

    kinds: frozenset[str]
    abort: Callable[[], None]
    waiting: deque[tuple[int, bytes]] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False


@dataclass(frozen=True, slots=True)
class StreamCounts:
    """What has become of the clients."""

    clients: int
    delivered: int
    dropped: int


class Hub:
    """The clients of one server."""

    def __init__(self, *, clients: int = CLIENT_LIMIT, backlog: int = BACKLOG) -> None:
        self._clients = clients
        self._backlog = backlog
        self._loop: asyncio.AbstractEventLoop | None = None
        self._subscribers: set[Subscriber] = set()
        self._delivered = 0
        self._dropped = 0

    @property
    def counts(self) -> StreamCounts:
        """How many clients there are, and what was delivered and dropped."""
        return StreamCounts(len(self._subscribers), self._delivered, self._dropped)

    def hear(self, event: Event) -> None:
        """An event has happened. Does not block; from any thread."""
        loop = self._loop
        if loop is None or not self._subscribers:
            return
        try:
            loop.call_soon_threadsafe(self._deliver, event.number, event.kind, encode_event(event))
        except RuntimeError:  # the loop has ended with its server
            self._loop = None

    def subscribe(self, kinds: frozenset[str], abort: Callable[[], None]) -> Subscriber | None:
        """A new client, or ``None`` where there are too many. ``abort`` ends its connection at once."""
        if len(self._subscribers) >= self._clients:
            return None
        self._loop = asyncio.get_running_loop()
        subscriber = Subscriber(kinds, abort)
        self._subscribers.add(subscriber)
        return subscriber

    def leave(self, subscriber: Subscriber) -> None:
        """The client has gone."""
        self._subscribers.discard(subscriber)

    def close(self) -> None:
        """End every stream; in the loop."""
        for subscriber in self._subscribers:
            subscriber.ended = True
            subscriber.news.set()

    def _deliver(self, number: int, kind: str, line: bytes) -> None:
        for subscriber in list(self._subscribers):
            if subscriber.kinds and kind not in subscriber.kinds:
                continue
            if len(subscriber.waiting) >= self._backlog:
                self._dropped += 1
                subscriber.ended = True
                subscriber.waiting.clear()
                self._subscribers.discard(subscriber)
                subscriber.abort()
            else:
                self._delivered += 1
                subscriber.waiting.append((number, line))
            subscriber.news.set()

    async def lines(
        self, subscriber: Subscriber, missed: Callable[[int], Any], after: int | None
    ) -> AsyncIterator[bytes]:
        """The stream of one client: what it ``missed`` since event ``after`` first, then what happens.

        ``missed(after)`` awaits the next events after a number, oldest first, as ``(number, line)``; empty: none.
        """
        try:
            yield _HELLO
            last = after or 0
            while after is not None and (found := await missed(last)):
                last = found[-1][0]
                yield b"".join(line for _, line in found)
            while True:
                fresh = [line for number, line in subscriber.waiting if number > last]
                subscriber.waiting.clear()
                subscriber.news.clear()
                if fresh:
                    yield b"".join(fresh)
                elif subscriber.ended:
                    return
                else:
                    try:
                        async with asyncio.timeout(PING_S):
                            await subscriber.news.wait()
                    except TimeoutError:
                        yield _PING
        finally:
            self.leave(subscriber)


def encode_event(event: Event) -> bytes:
    """One event as server-sent events have it (WHATWG HTML, section 9.2)."""
    row = events.row(event)
    data = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    kind = "".join(sign for sign in str(row["kind"]) if sign.isprintable())
    return f"id: {row['number']}\nevent: {kind}\ndata: {data}\n\n".encode()
