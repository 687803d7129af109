"""A pool as a stacked bar: reserved and idle, in use, draining, free; and what a reservation would change of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mgmt.web.language import mark


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a bar; ``start`` and ``width`` are percentages of the bar. ``always`` names it even when empty."""

    name: str
    label: str
    units: int
    start: float
    width: float
    pattern: str = ""
    always: bool = False


#: Part → (label, pattern, named even when empty). The field of a pool's row is the key in :func:`pool_bar`.
_LOOK: Mapping[str, tuple[str, str, bool]] = {
    "reserved": (mark("reserved, idle"), "hatch", True),
    "in-use": (mark("in use"), "", True),
    "draining": (mark("draining"), "dots", False),
    "others": (mark("others"), "", True),
    "request": (mark("this reservation"), "cross", True),
    "free": (mark("free"), "", True),
}


def stacked(units: Mapping[str, int], total: int | None = None) -> tuple[Part, ...]:
    """Parts in the order given; of ``total`` units, or of their sum."""
    whole = total or sum(max(0, count) for count in units.values())
    parts = []
    start = 0.0
    for name, count in units.items():
        label, pattern, always = _LOOK[name]
        width = round(100 * max(0, count) / whole, 3) if whole else 0.0
        parts.append(Part(name, label, count, round(start, 3), width, pattern, always))
        start += width
    return tuple(parts)


def pool_bar(pool: Mapping[str, Any]) -> tuple[Part, ...]:
    """Of a row of ``get pools``; what is no whole number there counts as none."""
    fields = {
        "reserved": "reserved_idle_units",
        "in-use": "in_use_units",
        "draining": "draining_units",
        "free": "free_units",
    }
    units = {name: pool.get(field) for name, field in fields.items()}
    return stacked({name: count if type(count) is int else 0 for name, count in units.items()})


def change_bars(total: int, before: tuple[int, int], after: tuple[int, int]) -> dict[str, tuple[Part, ...]]:
    """A pool of ``total`` units ``before`` and ``after`` a change; each is (units of the reservation, free units)."""
    whole = {"before": total, "after": max(total, total + after[0] + after[1] - before[0] - before[1])}
    longest = max(whole.values())
    return {
        name: stacked({"others": max(0, whole[name] - own - free), "request": own, "free": free}, longest)
        for name, (own, free) in (("before", before), ("after", after))
    }
