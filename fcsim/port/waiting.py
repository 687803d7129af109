"""Time without credit: exact picoseconds, the 2.5 µs ticks that switches print, and shares of recent time.

FOS counts ``tim_txcrd_z``, NX-OS ``TxWait``, both in ticks of 2.5 µs during which frames waited and no credit was
there, and both print a raw number; the share of 1 s, 1 min, 1 h and 72 h says what it means.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

TICK_PS = 2_500_000
SECOND_PS = 10**12
_WINDOWS = ((SECOND_PS, 60), (60 * SECOND_PS, 60), (3600 * SECOND_PS, 72))
"""Length of a bucket and how many are kept: seconds of a minute, minutes of an hour, hours of three days."""


@dataclass(frozen=True, slots=True)
class WaitShares:
    """Share of time, 0 to 1, in the last whole second, and the last minute, hour and 72 hours as far as they go."""

    last_1s: float
    last_1m: float
    last_1h: float
    last_72h: float


class WaitHistory:
    """Accumulates intervals and forgets what is older than 72 hours: at most 192 numbers, whatever the traffic."""

    __slots__ = ("_began_ps", "_buckets", "_last_second_ps", "total_ps")

    def __init__(self, now_ps: int = 0) -> None:
        self.total_ps = 0
        self._began_ps = now_ps
        self._last_second_ps = 0
        self._buckets: tuple[deque[tuple[int, int]], ...] = tuple(deque(maxlen=kept) for _, kept in _WINDOWS)

    @property
    def ticks(self) -> int:
        """Whole ticks of 2.5 µs, as a switch counts them."""
        return self.total_ps // TICK_PS

    def add(self, from_ps: int, to_ps: int) -> None:
        """Waiting lasted from one moment to another; intervals come in order."""
        self.total_ps += to_ps - from_ps
        for (length, _), buckets in zip(_WINDOWS, self._buckets, strict=True):
            # A wait of days fills only as many buckets as are kept.
            start = max(from_ps, to_ps - length * (buckets.maxlen or 0))
            while start < to_ps:
                number = start // length
                end = min((number + 1) * length, to_ps)
                if buckets and buckets[-1][0] == number:
                    buckets[-1] = (number, buckets[-1][1] + end - start)
                else:
                    buckets.append((number, end - start))
                start = end

    def shares(self, now_ps: int) -> WaitShares:
        """The shares as they are at ``now_ps``."""
        seconds, minutes, hours = self._buckets
        last_second = now_ps // SECOND_PS - 1
        whole = next((waited for number, waited in seconds if number == last_second), 0)
        return WaitShares(
            whole / SECOND_PS,
            self._share(seconds, SECOND_PS, 60, now_ps),
            self._share(minutes, 60 * SECOND_PS, 60, now_ps),
            self._share(hours, 3600 * SECOND_PS, 72, now_ps),
        )

    def _share(self, buckets: deque[tuple[int, int]], length: int, kept: int, now_ps: int) -> float:
        """Over the current bucket and the ``kept - 1`` before it, from the beginning at the earliest."""
        first = now_ps // length - kept + 1
        span = now_ps - max(first * length, self._began_ps)
        if span <= 0:
            return 0.0
        return sum(waited for number, waited in buckets if number >= first) / span


class _Stretch:
    """One condition that comes and goes, with its history."""

    __slots__ = ("_booked_ps", "history", "since_ps")

    def __init__(self, now_ps: int) -> None:
        self.history = WaitHistory(now_ps)
        self.since_ps: int | None = None
        self._booked_ps = 0

    def see(self, holds: bool, now_ps: int) -> bool:
        """Whether the condition holds from ``now_ps`` on; returns True when it has just begun."""
        if holds == (self.since_ps is not None):
            return False
        if holds:
            self.since_ps = self._booked_ps = now_ps
        else:
            self.settle(now_ps)
            self.since_ps = None
        return holds

    def settle(self, now_ps: int) -> None:
        """Book what is under way, so that the totals hold for ``now_ps``."""
        if self.since_ps is not None:
            self.history.add(self._booked_ps, now_ps)
            self._booked_ps = now_ps


class CreditClock:
    """Watches one credit count: how long it is zero, how long frames wait for it, how often it falls to zero."""

    __slots__ = ("_wait", "_zero", "zero_transitions")

    def __init__(self, now_ps: int = 0) -> None:
        self._zero = _Stretch(now_ps)
        self._wait = _Stretch(now_ps)
        self.zero_transitions = 0

    @property
    def zero(self) -> WaitHistory:
        """Credit was zero, whether or not a frame wanted it."""
        return self._zero.history

    @property
    def tx_wait(self) -> WaitHistory:
        """Credit was zero and a frame waited."""
        return self._wait.history

    @property
    def zero_since_ps(self) -> int | None:
        """Since when credit has been zero without a break; None: there is some."""
        return self._zero.since_ps

    @property
    def waiting_since_ps(self) -> int | None:
        """Since when a frame has been waiting for credit without a break; None: none does."""
        return self._wait.since_ps

    def see(self, available: int, waiting: int, now_ps: int) -> None:
        """The count and the queue as they are from ``now_ps`` on."""
        self.zero_transitions += self._zero.see(not available, now_ps)
        self._wait.see(bool(waiting) and not available, now_ps)

    def settle(self, now_ps: int) -> None:
        """Book what is under way, so that the totals hold for ``now_ps``."""
        self._zero.settle(now_ps)
        self._wait.settle(now_ps)
