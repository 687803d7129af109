"""The link and the fabric once more, as SimPy processes: slow, written another way, and so a judge of the engine.

Needs simpy (extra ``test``). Times are ticks, whole numbers. No losses, no hold time, one virtual channel.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy

from fcsim.engine.fabric_state import RANDOM_LIMIT

Process = Generator[Any, Any, None]


class Credit:
    """Credits of one direction of a link, counted as a port counts them."""

    def __init__(self, environment: simpy.Environment, granted: int) -> None:
        self.environment, self.level, self.granted = environment, granted, granted
        self.zero_transitions = self.zero_ticks = self.peak = 0
        self._zero_since = 0
        self._awaited: Any = None

    def take(self) -> Process:
        """Wait for a credit and use it; one process at a time."""
        if not self.level:
            self._awaited = self.environment.event()
            yield self._awaited
        self.level -= 1
        self.peak = max(self.peak, self.granted - self.level)
        if not self.level:
            self.zero_transitions += 1
            self._zero_since = int(self.environment.now)

    def give(self) -> None:
        """An R_RDY came."""
        if not self.level:
            self.zero_ticks += int(self.environment.now) - self._zero_since
        self.level += 1
        if self._awaited is not None:
            self._awaited.succeed()
            self._awaited = None


@dataclass(slots=True)
class LinkOutcome:
    """When each frame began to leave, and when its buffer was free."""

    sent: list[int] = field(default_factory=list)
    drained: list[int] = field(default_factory=list)


def run_link(
    ready: Sequence[int],
    payload: Sequence[int],
    *,
    credits: int,
    byte: int,
    around: int,
    propagation: int,
    drain: int,
    r_rdy: int,
) -> LinkOutcome:
    """One link, one process for the sender and one for each frame on its way."""
    environment = simpy.Environment()
    credit = Credit(environment, credits)
    receiver = simpy.Resource(environment, capacity=1)
    outcome = LinkOutcome()

    def sender() -> Process:
        for when, size in zip(ready, payload, strict=True):
            if environment.now < when:
                yield environment.timeout(when - environment.now)
            yield from credit.take()
            outcome.sent.append(int(environment.now))
            yield environment.timeout((size + around) * byte)
            environment.process(frame())

    def frame() -> Process:
        yield environment.timeout(propagation)
        with receiver.request() as turn:
            yield turn
            yield environment.timeout(drain)
        outcome.drained.append(int(environment.now))
        yield environment.timeout(r_rdy + propagation)
        credit.give()

    environment.process(sender())
    environment.run()
    return outcome


@dataclass(frozen=True, slots=True)
class Star:
    """Hosts around one switch; each sends ``frames`` as fast as it may, one of ``hot_chance`` to host 0.

    ``drain``: ticks that each host takes for a frame. ``start``: when each begins. ``random``: first state of the
    generator of each host's link; ``hot_chance`` in parts of RANDOM_LIMIT.
    """

    hosts: int
    credits: int
    frames: int
    byte: int
    propagation: int
    overhead: int
    low_bytes: int
    high_bytes: int
    hot_chance: int
    drain: tuple[int, ...]
    start: tuple[int, ...]
    random: tuple[int, ...]


class StarRun:
    """Runs a :class:`Star`; then the counters can be read. Link n goes from host n, link hosts + n to host n."""

    def __init__(self, star: Star) -> None:
        self.star = star
        self.environment = simpy.Environment()
        links = range(2 * star.hosts)
        self.credit = [Credit(self.environment, star.credits) for _ in links]
        self.tx_frames, self.tx_bytes = [0 for _ in links], [0 for _ in links]
        self.delivered, self.latency, self.worst = ([0] * star.hosts for _ in range(3))
        self._queues: list[list[deque[tuple[int, int, int]]]] = [
            [deque() for _ in range(star.hosts)] for _ in range(star.hosts)
        ]
        self._active = [simpy.Store(self.environment) for _ in range(star.hosts)]
        self._sinks = [simpy.Resource(self.environment, capacity=1) for _ in range(star.hosts)]
        self._random = list(star.random)
        for host in range(star.hosts):
            self.environment.process(self._source(host))
            self.environment.process(self._output(host))

    def run(self) -> int:
        """The moment of the last event."""
        self.environment.run()
        return int(self.environment.now)

    def _chance(self, host: int) -> int:
        self._random[host] = self._random[host] * 48271 % RANDOM_LIMIT
        return self._random[host]

    def _source(self, host: int) -> Process:
        star = self.star
        yield self.environment.timeout(star.start[host])
        for _ in range(star.frames):
            yield from self.credit[host].take()
            to = 0
            if self._chance(host) >= star.hot_chance:
                to = self._chance(host) * (star.hosts - 1) >> 31
                to += to >= host
            size = star.low_bytes
            if star.high_bytes > size:
                size += self._chance(host) * (star.high_bytes - size + 1) >> 31
            born = int(self.environment.now)
            yield from self._line(host, size)
            self.environment.process(self._to_switch(host, to, size, born))

    def _line(self, link: int, size: int) -> Process:
        self.tx_frames[link] += 1
        self.tx_bytes[link] += size
        yield self.environment.timeout((size + self.star.overhead) * self.star.byte)

    def _to_switch(self, host: int, to: int, size: int, born: int) -> Process:
        yield self.environment.timeout(self.star.propagation)
        queue = self._queues[to][host]
        queue.append((host, size, born))
        if len(queue) == 1:
            self._active[to].put(host)

    def _output(self, to: int) -> Process:
        link = self.star.hosts + to
        while True:
            came = yield self._active[to].get()
            yield from self.credit[link].take()
            queue = self._queues[to][came]
            source, size, born = queue.popleft()
            if queue:
                self._active[to].put(came)
            yield from self._line(link, size)
            self.environment.process(self._r_rdy(came))
            self.environment.process(self._to_host(to, source, born))

    def _to_host(self, to: int, source: int, born: int) -> Process:
        yield self.environment.timeout(self.star.propagation)
        with self._sinks[to].request() as turn:
            yield turn
            yield self.environment.timeout(self.star.drain[to])
        latency = int(self.environment.now) - born
        self.delivered[source] += 1
        self.latency[source] += latency
        self.worst[source] = max(self.worst[source], latency)
        yield from self._r_rdy(self.star.hosts + to)

    def _r_rdy(self, link: int) -> Process:
        yield self.environment.timeout(4 * self.star.byte + self.star.propagation)
        self.credit[link].give()
