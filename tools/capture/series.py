"""Peaks over time in a bounded number of steps, however long a capture turns out to be."""

from __future__ import annotations

from typing import Any

STEPS = 1024


class Peaks:
    """The largest value in each step. When time runs out of steps, they become twice as long."""

    def __init__(self, steps: int = STEPS) -> None:
        import numpy as np

        self._np = np
        self._values = np.full(steps, -1, dtype=np.int64)
        self._start: int | None = None
        self._width = 1_000

    def add(self, times_ns: Any, values: Any) -> None:
        """Values at their times, both numpy arrays of the same length."""
        if len(times_ns) == 0:
            return
        np = self._np
        if self._start is None:
            self._start = int(times_ns[0])
        at = np.maximum(times_ns - self._start, 0)
        last = int(at.max())
        while last // self._width >= len(self._values):
            half = self._values.reshape(-1, 2).max(axis=1)
            self._values = np.concatenate([half, np.full(len(half), -1, dtype=np.int64)])
            self._width *= 2
        np.maximum.at(self._values, at // self._width, values)

    def points(self) -> list[tuple[int, int]]:
        """(time since the first, largest value) of each step in which anything happened."""
        return [(n * self._width, int(value)) for n, value in enumerate(self._values) if value >= 0]

    @property
    def start_ns(self) -> int:
        """When the first value was; 0: there was none."""
        return self._start or 0
