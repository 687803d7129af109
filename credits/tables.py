"""Tables 101, 109 and 1500 as frozen read models, with the document's columns (spec C.2, C.4, C.5).

Rows are snapshots: they do not change when the pool does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from credits.errors import Holder
from credits.sharing import Sharing
from credits.source import Source
from credits.targets import Target, TargetKind, by_precedence

if TYPE_CHECKING:
    from credits.area import MemoryArea


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationRow:
    """A row of table 101, the reserved-buffer information.

    ``buffer_address`` (303) is the head of list 33, 0 while the list is empty. ``reserved_bytes`` (304) is the
    whole grant, idle and in use (INC-9), or list 33 alone in strict-document mode. ``backed_units`` is less
    than ``reserved_units`` where ``state`` is ``degraded``; other states are ``reserved``, ``in_use``,
    ``draining`` (a shrink is pending) and ``released`` (gone, but units of it are still in use).
    ``sharing`` is the minimum of each connection that shares a buffer ID, if there is one (GAP-18).
    """

    target: Target
    buffer_address: int
    reserved_units: int
    reserved_bytes: int
    requested_bytes: int
    in_use_units: int
    state: str
    idle_units: int
    pending_shrink_units: int
    backed_units: int
    epoch: int
    lease_ns: int | None
    expires_at_ns: int | None
    sharing: Sharing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationRow:
    """A row of table 109, the allocated-buffer information: the buffers in use of one target.

    Where no reservation serves (``reserved`` is false) the row stands under the port pair that was asked with,
    or the most specific claim otherwise; ``None`` if nothing was claimed.
    """

    target: Target | None
    buffer_address: int
    allocated_units: int
    allocated_bytes: int
    reserved: bool
    holders: tuple[Holder, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferIdRow:
    """A row of table 1500: a buffer ID and the port pair it was issued for."""

    local_port: str
    remote_port: str
    buffer_id: int


def reservation_table(area: MemoryArea) -> tuple[ReservationRow, ...]:
    """Table 101, in the order the reservations were first made; released ones that still drain come last."""
    config = area.config
    rows = []
    for reservation in sorted(area.reservations(), key=lambda reservation: reservation.grant.order):
        grant, idle = reservation.grant, reservation.idle
        shown = idle.units if config.strict_document else grant.units
        rows.append(
            ReservationRow(
                target=reservation.target,
                buffer_address=config.address(idle.head) if idle.units else 0,
                reserved_units=shown,
                reserved_bytes=shown * config.unit_bytes,
                requested_bytes=grant.requested_bytes,
                in_use_units=reservation.in_use,
                state=reservation.state,
                idle_units=idle.units,
                pending_shrink_units=reservation.pending,
                backed_units=reservation.backed_units,
                epoch=grant.epoch,
                lease_ns=grant.lease_ns,
                expires_at_ns=reservation.expires_at_ns,
                sharing=grant.sharing,
            )
        )
    for source in sorted(area.leaving(), key=lambda reservation: reservation.grant.order):
        rows.append(
            ReservationRow(
                target=source.target,
                buffer_address=0,
                reserved_units=0,
                reserved_bytes=0,
                requested_bytes=0,
                in_use_units=source.in_use,
                state="released",
                idle_units=0,
                pending_shrink_units=source.pending,
                backed_units=0,
                epoch=source.grant.epoch,
                lease_ns=None,
                expires_at_ns=None,
            )
        )
    return tuple(rows)


def allocation_table(area: MemoryArea) -> tuple[AllocationRow, ...]:
    """Table 109: one row per reservation in use, then one per target served from the free list."""
    rows = []
    for source in area.sources():
        groups: dict[Target | None, list[tuple[int, int, str]]] = {}
        for allocation in source.live:
            target = source.target or _shown(allocation.claims)
            entry = (allocation.address, allocation.units, allocation.holder)
            groups.setdefault(target, []).append(entry)
        rows += [_allocation_row(area, source, target, entries) for target, entries in groups.items()]
    rows.sort(key=lambda row: (not row.reserved, row.target.key if row.target else ""))
    return tuple(rows)


def buffer_id_table(area: MemoryArea) -> tuple[BufferIdRow, ...]:
    """Table 1500, by buffer ID."""
    rows = []
    for reservation in area.reservations():
        target = reservation.target
        if target.kind is TargetKind.CONNECTION and target.buffer_id is not None:
            rows.append(
                BufferIdRow(
                    local_port=target.local_port or "",
                    remote_port=target.remote_port or "",
                    buffer_id=target.buffer_id,
                )
            )
    return tuple(sorted(rows, key=lambda row: row.buffer_id))


def _shown(claims: Sequence[Target]) -> Target | None:
    for claim in claims:
        if claim.kind is TargetKind.PORT_PAIR:
            return claim
    return by_precedence(claims)[0] if claims else None


def _allocation_row(
    area: MemoryArea, source: Source, target: Target | None, entries: list[tuple[int, int, str]]
) -> AllocationRow:
    units = sum(count for _, count, _ in entries)
    held: dict[str, int] = {}
    for _, count, holder in entries:
        held[holder] = held.get(holder, 0) + count
    return AllocationRow(
        target=target,
        buffer_address=min(address for address, _, _ in entries),
        allocated_units=units,
        allocated_bytes=units * area.config.unit_bytes,
        reserved=source.target is not None,
        holders=tuple(Holder(name, held[name]) for name in sorted(held)),
    )
