"""Windowed extremes and averages of what is measured (sans-IO).

The bandwidth of a channel is the largest delivery rate of a while, since everything but the channel only takes from
it; the delay is the smallest of a while, since queues only add to it.
"""

from __future__ import annotations

from collections import deque


class WindowedExtreme:
    """The largest (``sign`` 1) or smallest (``sign`` -1) sample of the last ``window_ns``; constant time on average."""

    def __init__(self, window_ns: int, sign: int, *, most: int = 4096) -> None:
        self._window_ns = window_ns
        self._sign = sign
        self._kept: deque[tuple[int, int]] = deque(maxlen=most)

    def observe(self, value: int, now_ns: int) -> int:
        """A sample; returns the extreme with it."""
        while self._kept and self._sign * (self._kept[-1][1] - value) <= 0:
            self._kept.pop()
        self._kept.append((now_ns, value))
        found = self.value(now_ns)
        return value if found is None else found

    def value(self, now_ns: int) -> int | None:
        """The extreme of the window that ends now; None when nothing was seen in it."""
        while self._kept and now_ns - self._kept[0][0] > self._window_ns:
            self._kept.popleft()
        return self._kept[0][1] if self._kept else None


class Average:
    """An exponentially weighted moving average, for display only; each sample has ``weight``, a part of one."""

    def __init__(self, weight: float = 0.125) -> None:
        self._weight = weight
        self._value: float | None = None

    @property
    def value(self) -> int | None:
        """The average; None before the first sample."""
        return None if self._value is None else round(self._value)

    def observe(self, value: int) -> None:
        """A sample."""
        self._value = value if self._value is None else self._value + (value - self._value) * self._weight
