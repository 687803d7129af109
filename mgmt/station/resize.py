"""What to do about sizes that a channel's values call for: pure decisions, shared by figure 9 and by what-if views.

:func:`plan` puts the wishes of targets in order and counts the room on each interface down; :meth:`Memory.due` decides
when a wish is acted on (GAP-12: grow at once, shrink once the channel has settled, never in small steps).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from credits.sizing import ceil_div
from credits.targets import Target
from mgmt.station.records import Policy, Sizing

#: Targets whose wishes are remembered; nobody can fill the memory by making policies.
_REMEMBERED_LIMIT = 20_000


class Action(StrEnum):
    """What is done about one target."""

    KEEP = "keep"
    """Its size is right, or the change would be too small (GAP-12)."""
    GROW = "grow"
    SHRINK = "shrink"
    PARTIAL = "partial"
    """It grows as far as there is room, because its policy allows that (GAP-13)."""
    SHORT = "short"
    """It wants to grow and there is no room: it stays as it is (step 1309)."""
    FIXED = "fixed"
    """Its size is set by hand; ``short_units`` says by how much it is too small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What one target has, and what its channel calls for (step 903), before its policy's floor and ceiling."""

    target: Target
    array: str
    pool: str
    """Whose room it takes: the array's interface."""
    policy: Policy
    unit_bytes: int
    reserved_units: int
    recommended_bytes: int

    @property
    def wanted_bytes(self) -> int:
        """The size within the policy's floor and ceiling."""
        size = max(self.recommended_bytes, self.policy.min_bytes)
        return size if self.policy.max_bytes is None else min(size, self.policy.max_bytes)

    @property
    def wanted_units(self) -> int:
        """``wanted_bytes`` in units (GAP-2)."""
        return max(1, ceil_div(self.wanted_bytes, self.unit_bytes))

    @property
    def is_small(self) -> bool:
        """Whether the change is below what the policy acts on."""
        change = abs(self.wanted_units - self.reserved_units)
        return change * 100 < self.policy.min_change_percent * self.reserved_units


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is done about one wish; ``size_bytes`` is what to ask the array for, ``free_units`` what it leaves."""

    wish: Wish
    action: Action
    size_bytes: int
    units: int
    short_units: int
    free_units: int


def plan(wishes: Iterable[Wish], free_units: Mapping[str, int]) -> tuple[Step, ...]:
    """The steps in the order in which they are made; ``free_units`` is the room of each pool, free or still to split.

    Shrinking comes first, since it makes room; then who has the lower priority number, then who asks for less.
    """
    room = dict(free_units)
    steps = []
    for wish in sorted(wishes, key=_turn):
        step = _step(wish, room.get(wish.pool, 0))
        room[wish.pool] = step.free_units
        steps.append(step)
    return tuple(steps)


def _turn(wish: Wish) -> tuple[bool, int, int, str]:
    growth = wish.wanted_units - wish.reserved_units
    return growth > 0, wish.policy.priority, growth, wish.target.key


def _step(wish: Wish, free: int) -> Step:
    growth = wish.wanted_units - wish.reserved_units
    kept = {"size_bytes": wish.reserved_units * wish.unit_bytes, "units": wish.reserved_units}
    if wish.policy.sizing is Sizing.MANUAL:
        return Step(wish=wish, action=Action.FIXED, short_units=max(0, growth), free_units=free, **kept)
    if growth == 0 or (wish.is_small and wish.reserved_units > 0):
        return Step(wish=wish, action=Action.KEEP, short_units=0, free_units=free, **kept)
    if growth <= free:
        action = Action.GROW if growth > 0 else Action.SHRINK
        # The bytes themselves, unless they are less than a unit for the minimum: the array rounds up (INC-22).
        size = wish.wanted_bytes if wish.wanted_bytes > 0 else wish.unit_bytes
        return Step(
            wish=wish,
            action=action,
            size_bytes=size,
            units=wish.wanted_units,
            short_units=0,
            free_units=free - growth,
        )
    if wish.policy.allow_partial and free > 0:
        units = wish.reserved_units + free
        return Step(
            wish=wish,
            action=Action.PARTIAL,
            size_bytes=units * wish.unit_bytes,
            units=units,
            short_units=growth - free,
            free_units=0,
        )
    return Step(wish=wish, action=Action.SHORT, short_units=growth - free, free_units=free, **kept)


@dataclass(slots=True)
class _Waiting:
    """A target that wants to shrink: to how many units, since when, and how many samples say so."""

    units: int
    since_s: float
    samples: int


@dataclass(slots=True)
class Memory:
    """What has to be remembered of earlier wishes to decide when to act; it begins anew with the process."""

    changed_s: dict[str, float] = field(default_factory=dict)
    shrinking: dict[str, _Waiting] = field(default_factory=dict)
    at_once: dict[str, None] = field(default_factory=dict)
    """Targets whose policy somebody has just changed: their next wish waits for nothing."""

    def wish_now(self, target: Target) -> None:
        """The next wish of this target is acted on at once."""
        self.at_once[target.key] = None
        _bound(self.at_once)

    def due(self, step: Step, now_s: float, *, sample: bool) -> bool:
        """Whether to act on ``step`` at ``now_s``; ``sample`` says that the channel has just been measured anew."""
        key = step.wish.target.key
        asked_for = key in self.at_once
        self.at_once.pop(key, None)
        if step.action in (Action.GROW, Action.PARTIAL):
            self.shrinking.pop(key, None)
            return True
        if step.action is not Action.SHRINK:
            self.shrinking.pop(key, None)
            return False
        policy = step.wish.policy
        waiting = self.shrinking.get(key)
        if waiting is None or abs(waiting.units - step.units) * 10 > waiting.units:
            waiting = self.shrinking[key] = _Waiting(step.units, now_s, 0)
            _bound(self.shrinking)
        waiting.samples += sample
        if asked_for:
            return True
        settled = waiting.samples >= policy.shrink_samples or now_s - waiting.since_s >= policy.shrink_after_s
        last_s = self.changed_s.get(key)
        return settled and (last_s is None or now_s - last_s >= policy.min_interval_s)

    def acted(self, target: Target, now_s: float) -> None:
        """The target's reservation has been changed."""
        self.shrinking.pop(target.key, None)
        self.changed_s[target.key] = now_s
        _bound(self.changed_s)

    @property
    def is_waiting(self) -> bool:
        """Whether a target waits for its shrink."""
        return bool(self.shrinking)


def _bound(remembered: dict[str, None] | dict[str, float] | dict[str, _Waiting]) -> None:
    while len(remembered) > _REMEMBERED_LIMIT:
        del remembered[next(iter(remembered))]
