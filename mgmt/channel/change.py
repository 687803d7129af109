"""When a channel has changed: a two-sided cumulative sum with a dead band and a hold time (sans-IO; GAP-12).

Page's test on the logarithm of a value: what lies outside the dead band around the reference adds up, in either
direction, until the sum passes the threshold; what lies inside takes the sum down again. A change is reported with the
median of the last samples, so that one sample that is far off reports nothing; and not before the hold time since the
last report is over.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median_low


@dataclass(frozen=True, slots=True)
class ChangeConfig:
    """``dead_band``: which part of the reference is no change; ``threshold``: how much of it has to add up over
    samples; ``settle``: how many samples make the new value."""

    dead_band: float = 0.1
    threshold: float = 0.3
    settle: int = 3
    hold_ns: int = 1_000_000_000

    def __post_init__(self) -> None:
        if not (0 < self.dead_band < 1 and self.threshold > 0 and self.settle >= 1 and self.hold_ns >= 0):
            raise ValueError("a dead band is a part of one, thresholds and counts are positive")


class ChangeDetector:
    """Watches one value that is never 0 or less. The first ``settle`` samples make the reference."""

    def __init__(self, config: ChangeConfig | None = None) -> None:
        self._config = config or ChangeConfig()
        self._recent: deque[int] = deque(maxlen=self._config.settle)
        self._reference: int | None = None
        self._above = 0.0
        self._below = 0.0
        self._reported_at_ns: int | None = None

    @property
    def reference(self) -> int | None:
        """The value of which everything since was no change; None before there is one."""
        return self._reference

    def observe(self, value: int, now_ns: int) -> int | None:
        """A sample; returns the new value when it has changed.

        Raises :class:`ValueError` for 0 and less, of which nothing may ever be computed (GAP-11).
        """
        if value <= 0:
            raise ValueError(f"{value} is no measured value")
        config = self._config
        self._recent.append(value)
        if self._reference is None:
            if len(self._recent) == config.settle:
                self._reference = median_low(self._recent)
            return None
        ratio = math.log(value / self._reference)
        band = math.log1p(config.dead_band)
        # Half the band on each side of it is drift: a value at its edge adds as much as one inside takes away.
        self._above = max(0.0, self._above + min(ratio - band, config.threshold * 0.75))
        self._below = max(0.0, self._below + min(-ratio - band, config.threshold * 0.75))
        if max(self._above, self._below) < config.threshold:
            return None
        if self._reported_at_ns is not None and now_ns - self._reported_at_ns < config.hold_ns:
            return None
        found = median_low(self._recent)
        if abs(math.log(found / self._reference)) <= band:
            return None
        self._reference = found
        self._above = self._below = 0.0
        self._reported_at_ns = now_ns
        return found
