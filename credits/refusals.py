"""The texts and numbers of refusals: asked, free, expandable, grantable, who holds the rest, the next step."""

from __future__ import annotations

import heapq
from collections import Counter
from typing import TYPE_CHECKING

from credits.errors import Code, Holder, Refused, Shortage

if TYPE_CHECKING:
    from credits.area import MemoryArea
    from credits.source import Source

#: So many holders are named, the largest first.
NAMED_HOLDERS = 5


def allocation_refused(area: MemoryArea, source: Source, units: int, holder: str) -> Refused:
    """An allocation by ``holder`` that its source cannot serve (paragraph 49; GAP-15, GAP-16, GAP-18)."""
    free, expandable = area.free_units, area.expandable_units
    if source.target is None:
        holders = _largest(holders_of_units(area))
        shortage = Shortage(units, free, expandable, free + expandable, holders)
        text = (
            f"no memory: asked for {units} units, {free} are free and {expandable} more could be split from "
            f"pages, so at most {free + expandable} would be granted now{_said(holders)}; "
            "free units, reserve them beforehand, or give the pool more"
        )
        return Refused(Code.NO_MEMORY, text, shortage)
    idle, spare = source.idle.units, source.spare_units(holder)
    kept = f" ({idle - spare} of them kept for other connections that share it)" if spare < idle else ""
    holders = _largest(units_by_holder(source))
    shortage = Shortage(units, free, expandable, spare, holders)
    text = (
        f"beyond the reservation: asked for {units} units of {source.target}, of which {idle} are left{kept}, so "
        f"at most {spare} would be granted now (free list: {free}, expandable: {expandable}){_said(holders)}; "
        "wait for units to be freed, or update the reservation"
    )
    return Refused(Code.OVER_RESERVATION, text, shortage)


def reservation_refused(area: MemoryArea, what: str, asked: int, grantable: int) -> Refused:
    """A reserve or update that needs ``asked`` more units than it has, where ``grantable`` would pass."""
    free, expandable = area.free_units, area.expandable_units
    floor = area.config.min_free_units
    holders = _largest(holders_of_units(area))
    kept = f" ({floor} of them kept for unreserved use)" if floor else ""
    text = (
        f"no memory: {what} needs {asked} more units; {free} are free{kept} and {expandable} more could be split "
        f"from pages, so it could get at most {grantable} more now{_said(holders)}; "
        "ask for less, release a reservation, or give the pool more"
    )
    return Refused(Code.NO_MEMORY, text, Shortage(asked, free, expandable, grantable, holders))


def holders_of_units(area: MemoryArea) -> Counter[str]:
    """Units by holder: each reservation under its target, unreserved use under the connection's name."""
    held: Counter[str] = Counter()
    for source in area.sources():
        if source.target is None:
            held.update(units_by_holder(source))
        else:
            held[str(source.target)] += source.idle.units + source.in_use
    return held


def units_by_holder(source: Source) -> Counter[str]:
    """Units in use out of a source, by holder."""
    held: Counter[str] = Counter()
    for allocation in source.live:
        held[allocation.holder] += allocation.units
    return held


def _largest(held: Counter[str]) -> tuple[Holder, ...]:
    largest = heapq.nsmallest(NAMED_HOLDERS, held.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Holder(name, units) for name, units in largest if units)


def _said(holders: tuple[Holder, ...]) -> str:
    if not holders:
        return ""
    return "; held by " + ", ".join(f"{holder.name} ({holder.units})" for holder in holders)
