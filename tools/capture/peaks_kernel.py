# cython: boundscheck=True, wraparound=False, cdivision=False, initializedcheck=False, annotation_typing=False
# cython: infer_types=True, language_level=3
"""Peaks of a value over time in a bounded number of steps, one value at a time.

Compiled by Cython where a compiler is at hand (types in the .pxd beside), plain Python where not; the same code.
"""

from __future__ import annotations

from array import array

COMPILED = not __file__.endswith(".py")

STEPS = 512
FIRST_STEP_NS = 1000


class PeakSteps:
    """The largest value in each step. When time runs out of steps, they become twice as long."""

    def __init__(self) -> None:
        self.words = array("q", (-1,)) * STEPS
        self.values = self.words
        self.start_ns = self.largest = -1
        self.width_ns = FIRST_STEP_NS

    def add(self, now: int, value: int) -> int:
        """A value at this time; one from before the first counts as at the first."""
        values = self.values
        if self.start_ns < 0:
            self.start_ns = now
        at = now - self.start_ns
        at = max(at, 0)
        while at >= self.width_ns * STEPS:
            for i in range(STEPS // 2):
                values[i] = max(values[2 * i], values[2 * i + 1])
            for i in range(STEPS // 2, STEPS):
                values[i] = -1
            self.width_ns *= 2
        step = at // self.width_ns
        values[step] = max(values[step], value)
        self.largest = max(self.largest, value)
        return 0

    def points(self) -> list[tuple[int, int]]:
        """(nanoseconds since 1970, largest value) of each step that has one."""
        return [
            (self.start_ns + n * self.width_ns, value) for n, value in enumerate(self.words) if value >= 0
        ]
