"""The usage-rate controller inside a reservation (paragraphs 8 and 51, GAP-17): how many units a connection keeps.

The prior art the document builds on: a connection has a buffer between a least and a largest size; when its
average usage rate exceeds the upper rate the buffer grows, below the lower rate it shrinks. Here the largest
size is the reservation. A core without clock or pool: facts go in, the wanted size comes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from credits.allocation import Allocation
from credits.errors import Code, InvalidRequest, Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class UsagePolicy:
    """Bounds in units, rates in percent of the present size, and the time over which usage is averaged.

    Above ``upper_percent`` the size grows by ``grow_percent`` of itself, below ``lower_percent`` it shrinks by
    ``shrink_percent``; by at least one unit.
    """

    max_units: int
    min_units: int = 1
    upper_percent: int = 80
    lower_percent: int = 30
    grow_percent: int = 50
    shrink_percent: int = 25
    period_ns: int = 100_000_000

    def __post_init__(self) -> None:
        sound = (
            1 <= self.min_units <= self.max_units
            and 0 <= self.lower_percent < self.upper_percent <= 100
            and self.grow_percent > 0
            and 0 < self.shrink_percent <= 100
            and self.period_ns > 0
        )
        if not sound:
            raise InvalidRequest(
                Code.INVALID_SIZE,
                "a usage policy has 1 <= min_units <= max_units, 0 <= lower < upper <= 100 percent, "
                "and steps and a period above 0",
            )


class UsageRateController:
    """Follows one connection's usage: :meth:`receive` at each send or acknowledgement, :meth:`handle_timer`
    when :meth:`next_deadline` has come; ``size_units`` is what the connection should hold.
    """

    def __init__(self, policy: UsagePolicy, size_units: int, now_ns: int) -> None:
        self.policy = policy
        self.size_units = min(max(size_units, policy.min_units), policy.max_units)
        self._used = 0
        self._since_ns = self._seen_ns = now_ns
        self._unit_ns = 0

    def receive(self, used_units: int, now_ns: int) -> None:
        """So many units are in use from now on."""
        self._unit_ns += self._used * (now_ns - self._seen_ns)
        self._used, self._seen_ns = used_units, now_ns

    def next_deadline(self) -> int:
        """When the average over the period is due."""
        return self._since_ns + self.policy.period_ns

    def handle_timer(self, now_ns: int) -> int:
        """Judge the period that has passed; returns the wanted size. Never below what is in use."""
        self.receive(self._used, now_ns)
        elapsed_ns = now_ns - self._since_ns
        if elapsed_ns <= 0:
            return self.size_units
        policy, size = self.policy, self.size_units
        usage = 100 * self._unit_ns
        if usage > policy.upper_percent * size * elapsed_ns:
            size += max(1, size * policy.grow_percent // 100)
        elif usage < policy.lower_percent * size * elapsed_ns:
            size -= max(1, size * policy.shrink_percent // 100)
        self.size_units = min(max(size, self._used, policy.min_units), policy.max_units)
        self._since_ns, self._unit_ns = now_ns, 0
        return self.size_units


class _Resizing(Protocol):
    def grow(self, allocation: Allocation, units: int) -> None: ...

    def free(self, allocation: Allocation, units: int | None = None) -> None: ...


def follow(pool: _Resizing, allocation: Allocation, size_units: int) -> int:
    """Bring an allocation to the wanted size, as far as its source can give; returns the size it has now."""
    surplus = allocation.units - size_units
    if surplus > 0:
        pool.free(allocation, surplus)
    elif surplus < 0:
        try:
            pool.grow(allocation, -surplus)
        except Refused as refusal:
            remainder = refusal.shortage.grantable_units if refusal.shortage else 0
            if remainder:
                pool.grow(allocation, remainder)
    return allocation.units
