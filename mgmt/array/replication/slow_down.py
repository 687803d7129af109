"""Whose hosts wait when the cache runs low, and how long (embodiment 5, after the reservation has grown). Sans-IO.

First the asynchronous groups, those of the lowest priority (the highest number) before the others; synchronous groups
last. Each has a fill of its own at which its hosts begin to wait, and from there the wait grows until the cache is
full; then a write waits for room. Nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Standing:
    """One group: who is first in this order is slowed down first."""

    synchronous: bool
    minus_priority: int
    name: str


def standing(name: str, priority: int, *, synchronous: bool) -> Standing:
    """The place of a group; ``priority`` 0 is the highest."""
    return Standing(synchronous, -priority, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowDownPolicy:
    """``begin`` is the fill (0 to 1) at which the first group's hosts wait; ``slowest_ns`` the wait when it is full."""

    begin: float = 0.6
    slowest_ns: int = 50_000_000


def begins(policy: SlowDownPolicy, groups: Iterable[Standing]) -> dict[str, float]:
    """The fill at which each group's hosts begin to wait."""
    ordered = sorted(groups)
    step = (1.0 - policy.begin) / max(1, len(ordered))
    return {group.name: policy.begin + number * step for number, group in enumerate(ordered)}


def delay_ns(policy: SlowDownPolicy, begin: float, fill: float) -> int:
    """How long the answer to a write is held back at this fill."""
    if fill <= begin:
        return 0
    return int(policy.slowest_ns * min(1.0, (fill - begin) / (1.0 - begin)))
