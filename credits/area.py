"""The communication memory area 100: its units, who uses them, and how they come home.

This is the data path: allocate, grow, free, and the expansion from unsplit pages. Reservations are made,
resized and released by :class:`credits.pool.Pool`, which builds on it. Nothing here is thread-safe; the shell
(:class:`credits.durable.DurablePool`) holds one lock per pool (GAP-5).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from credits.allocation import Allocation
from credits.config import PoolConfig
from credits.errors import Code, InvalidRequest, LawBroken
from credits.refusals import allocation_refused, units_by_holder
from credits.results import PoolStatistics
from credits.source import Reservation, Source
from credits.targets import Target, TargetKind
from credits.units import Runs, UnitMap


class MemoryArea:
    """Units in lists: free list 35, reserved lists 33, buffers in use 34.

    The law, checked after every verb: *free + reserved idle + in use + draining = total*; every unit is in
    exactly one place. :meth:`audit` proves the second half by walking everything.
    """

    def __init__(self, config: PoolConfig) -> None:
        self.config = config
        self.revision = 0
        self._owner = object()
        self._map = UnitMap(config.total_units)
        self._total = config.total_units
        self._pages_left = config.unsplit_pages
        self._free = self._new_free_source()
        self._free.idle.put(0, config.total_units)
        self._by_key: dict[str, Reservation] = {}
        #: The connections reserved on each port pair, in the order they were reserved.
        self._connections: dict[tuple[str | None, str | None], dict[str, Reservation]] = {}
        #: Released reservations with units still in use.
        self._leaving: set[Reservation] = set()
        # Three of the law's four terms; the fourth is counted by the free list itself.
        self._reserved_idle = 0
        self._in_use = 0
        self._draining = 0
        #: Units taken out of every list by plans that are neither confirmed nor voided; part of reserved idle.
        self._held = 0
        #: Reservations that lack units since a restart with a smaller pool.
        self._degraded_keys: set[str] = set()

    def _new_free_source(self) -> Source:
        return Source(None, self._map, self.config, self._owner)

    # -- the data path -------------------------------------------------------------------------------------

    def allocate(
        self, claims: Sequence[Target], units: int, *, holder: str, at_most: bool = False
    ) -> Allocation:
        """Units for ``holder`` (figure 8): from the first reservation among ``claims``, else from the free list.

        Of the claims the most specific kind that has a reservation serves (GAP-24); a reservation that cannot
        is refused and never spills into the free list, and keeps what other connections that share it are sure
        of (GAP-18). The free list splits unsplit pages when it runs short
        (GAP-15). With ``at_most`` less than asked is granted when less is there, but at least one unit (GAP-16).

        Raises :class:`Refused` (OVER_RESERVATION, NO_MEMORY) with the numbers, and :class:`InvalidRequest`;
        either way nothing has changed.
        """
        allocation = self.try_allocate(claims, units, holder, at_most)
        if allocation is None:
            raise allocation_refused(self, self.serving(claims), units, holder)
        return allocation

    def try_allocate(
        self, claims: Sequence[Target], units: int, holder: str, at_most: bool = False
    ) -> Allocation | None:
        """:meth:`allocate` for those who ask often: ``None`` where that would refuse."""
        source = self._free
        get = self._by_key.get
        for claim in claims:
            reservation = get(claim.key)
            if reservation is not None and reservation.rank < source.rank:
                source = reservation
        idle = source.idle
        if not 0 < units <= idle.units or source.shared is not None:
            if units < 1:
                raise InvalidRequest(Code.INVALID_SIZE, f"an allocation has at least 1 unit, not {units}")
            units = self._make_available(source, units, at_most, holder)
            if not units:
                return None
        runs = idle.take(units)
        allocation = Allocation(source, claims, holder, runs, units)
        source.live.add(allocation)
        source.in_use += units
        if source.shared is not None:
            source.shared.took(holder, units)
        self._in_use += units
        if source is not self._free:
            self._reserved_idle -= units
        if self._free.idle.units + self._reserved_idle + self._in_use + self._draining != self._total:
            raise LawBroken(self._law_text())
        return allocation

    def grow(self, allocation: Allocation, units: int) -> None:
        """Give an allocation ``units`` more from its own source ("update 109" of step 1103).

        Raises like :meth:`allocate`; the allocation is then as before.
        """
        source = allocation.source
        self._check_own(allocation)
        if units < 1:
            raise InvalidRequest(Code.INVALID_SIZE, f"an allocation grows by at least 1 unit, not {units}")
        alive = source is self._free or self._by_key.get(source.target.key if source.target else "") is source
        if not alive or not self._make_available(source, units, False, allocation.holder):
            raise allocation_refused(self, source, units, allocation.holder)
        allocation.runs = _joined(allocation.runs, source.idle.take(units))
        allocation.units += units
        source.in_use += units
        if source.shared is not None:
            source.shared.took(allocation.holder, units)
        self._in_use += units
        if source is not self._free:
            self._reserved_idle -= units
        self._check_law()

    def free(self, allocation: Allocation, units: int | None = None) -> None:
        """Take back ``units`` of an allocation, oldest first, or all of it: home to the list of origin.

        Where a shrink is pending the units drain to the free list first (GAP-3). Raises
        :class:`InvalidRequest` for an allocation of another pool, one that is freed already, or more units
        than it has.
        """
        source = allocation.source
        held = allocation.units
        if units is None:
            units = held
        if not 0 < units <= held or source.owner is not self._owner:
            raise self._bad_free(allocation, units)
        if units == held:
            runs = allocation.runs
            allocation.runs = ()
            source.live.discard(allocation)
        else:
            runs, allocation.runs = _split(allocation.runs, units)
        allocation.units = held - units
        source.in_use -= units
        if source.shared is not None:
            source.shared.gave(allocation.holder, units)
        if source.pending:
            self._drain(source, runs, units)
        else:
            self._in_use -= units
            if source is not self._free:
                self._reserved_idle += units
            put = source.idle.put
            for first, count in runs:
                put(first, count)
        if self._free.idle.units + self._reserved_idle + self._in_use + self._draining != self._total:
            raise LawBroken(self._law_text())

    # -- what is behind it ---------------------------------------------------------------------------------

    def serving(self, claims: Sequence[Target]) -> Source:
        """The source that an allocation with these claims is served from."""
        found = [self._by_key[claim.key] for claim in claims if claim.key in self._by_key]
        return min(found, key=lambda reservation: reservation.rank, default=self._free)

    def _enlist(self, reservation: Reservation) -> None:
        """Put a reservation in service: allocations find it from now on."""
        target = reservation.target
        self._by_key[target.key] = reservation
        if target.kind is TargetKind.CONNECTION:
            self._connections.setdefault((target.local_port, target.remote_port), {})[target.key] = (
                reservation
            )

    def _delist(self, reservation: Reservation) -> None:
        """Take a reservation out of service."""
        target = reservation.target
        del self._by_key[target.key]
        if target.kind is TargetKind.CONNECTION:
            pair = target.local_port, target.remote_port
            del self._connections[pair][target.key]
            if not self._connections[pair]:
                del self._connections[pair]

    def _make_available(self, source: Source, units: int, at_most: bool, holder: str) -> int:
        """How many of ``units`` the source can give after splitting pages; 0 refuses, with nothing split."""
        spare = source.spare_units(holder)
        if units <= spare:
            return units
        if source is not self._free:
            return spare if at_most else 0
        idle = source.idle
        short = units - idle.units
        pages = -(-short // self.config.units_per_page)
        if pages > self._pages_left:
            if not at_most:
                return 0
            pages = self._pages_left
        self._split_pages(pages)
        return min(units, idle.units)

    def _split_pages(self, pages: int) -> None:
        """Split pages, or borrow blocks, into units of the free list (step 1005)."""
        if not pages:
            return
        units = pages * self.config.units_per_page
        self._pages_left -= pages
        self._map.extend(units)
        self._free.idle.put(self._total, units)
        self._total += units

    def _drain(self, source: Source, runs: Runs, units: int) -> None:
        """Freed units of a shrunk or released reservation: to the free list as far as a shrink is pending."""
        leaving = min(source.pending, units)
        away, home = (runs, ()) if leaving == units else _split(runs, leaving)
        source.pending -= leaving
        self._draining -= leaving
        self._in_use -= units - leaving
        self._reserved_idle += units - leaving
        for first, count in away:
            self._free.idle.put(first, count)
        for first, count in home:
            source.idle.put(first, count)
        if not source.in_use and isinstance(source, Reservation):
            self._leaving.discard(source)
        self._units_came_free()

    def _units_came_free(self) -> None:
        """Reserved units have gone to the free list; :class:`credits.pool.Pool` serves who waits for them."""

    def _check_own(self, allocation: Allocation) -> None:
        if allocation.source.owner is not self._owner:
            raise InvalidRequest(Code.INVALID_TARGET, "this allocation belongs to another pool")
        if not allocation.units:
            raise InvalidRequest(Code.INVALID_SIZE, "this allocation has been freed")

    def _bad_free(self, allocation: Allocation, units: int) -> InvalidRequest:
        self._check_own(allocation)
        return InvalidRequest(
            Code.INVALID_SIZE, f"cannot free {units} units of an allocation that has {allocation.units}"
        )

    def _check_law(self) -> None:
        if self._free.idle.units + self._reserved_idle + self._in_use + self._draining != self._total:
            raise LawBroken(self._law_text())

    def _law_text(self) -> str:
        return (
            f"free {self._free.idle.units} + reserved idle {self._reserved_idle} + in use {self._in_use}"
            f" + draining {self._draining} is not the total {self._total}"
        )

    def copy_into(self, twin: MemoryArea) -> None:
        """Make ``twin``, new and of the same config, a copy; its sources count what is in use without having it."""
        twin.revision, twin._total, twin._pages_left = self.revision, self._total, self._pages_left
        twin._reserved_idle, twin._in_use, twin._draining = self._reserved_idle, self._in_use, self._draining
        twin._held, twin._degraded_keys = self._held, set(self._degraded_keys)
        twin._map = self._map.copy()
        twin._free = twin._new_free_source()
        twin._free.take_after(self._free, twin._map)
        for reservation in self._by_key.values():
            twin._enlist(reservation.copy(twin._map, twin._owner))
        twin._leaving = {reservation.copy(twin._map, twin._owner) for reservation in self._leaving}

    # -- looking at it -------------------------------------------------------------------------------------

    @property
    def free_units(self) -> int:
        """Units of the free list 35: the available size."""
        return self._free.idle.units

    @property
    def expandable_units(self) -> int:
        """Units that the unsplit pages would give."""
        return self._pages_left * self.config.units_per_page

    def statistics(self) -> PoolStatistics:
        """A frozen snapshot; constant time but for the number of degraded reservations."""
        return PoolStatistics(
            name=self.config.name,
            kind=self.config.kind,
            unit_bytes=self.config.unit_bytes,
            total_units=self._total,
            free_units=self._free.idle.units,
            reserved_idle_units=self._reserved_idle,
            in_use_units=self._in_use,
            draining_units=self._draining,
            expandable_units=self.expandable_units,
            revision=self.revision,
            held_units=self._held,
            degraded_units=sum(
                max(0, self._by_key[key].missing_units) for key in self._degraded_keys if key in self._by_key
            ),
            reservations=len(self._by_key),
        )

    def reservations(self) -> Iterator[Reservation]:
        """The reservations in force."""
        return iter(self._by_key.values())

    def leaving(self) -> Iterator[Reservation]:
        """Released reservations that still have units in use."""
        return iter(self._leaving)

    def audit(self) -> None:
        """Walk every list and allocation and prove the law; raises :class:`LawBroken`. For tests and doctors.

        Units set aside by open plans are in no list; only their number is compared.
        """
        seen = bytearray(self._total)
        reserved_idle = in_use = draining = 0
        for source in self.sources():
            idle = _mark(seen, source.idle.runs())
            used = sum(_mark(seen, allocation.runs) for allocation in source.live)
            counted = (source.idle.units, source.in_use)
            if (idle, used) != counted or not 0 <= source.pending <= used:
                raise LawBroken(
                    f"{source.target or 'the free list'} counts {counted}, but has {(idle, used)}"
                )
            if source.shared is not None and not source.shared.agrees(units_by_holder(source)):
                raise LawBroken(f"the connections that share {source.target} have other units than counted")
            in_use += used - source.pending
            draining += source.pending
            reserved_idle += idle if source is not self._free else 0
        if (reserved_idle + self._held, in_use, draining) != (
            self._reserved_idle,
            self._in_use,
            self._draining,
        ):
            raise LawBroken(f"walked {reserved_idle}, {in_use}, {draining}, counted {self._law_text()}")
        if seen.count(1) + self._held != self._total:
            raise LawBroken(f"{seen.count(1)} units are somewhere, {self._held} held, of {self._total}")
        self._check_law()

    def sources(self) -> Iterator[Source]:
        """The free list, the reservations, and the released ones that still drain."""
        yield self._free
        yield from self._by_key.values()
        yield from self._leaving


def _mark(seen: bytearray, runs: Iterable[tuple[int, int]]) -> int:
    """Mark the units of ``runs`` as seen and count them; :class:`LawBroken` for a unit seen before."""
    units = 0
    for first, count in runs:
        if count < 1 or first < 0 or first + count > len(seen) or any(seen[first : first + count]):
            raise LawBroken(f"units {first} to {first + count - 1} are in two places, or nowhere")
        seen[first : first + count] = b"\1" * count
        units += count
    return units


def _split(runs: Runs, units: int) -> tuple[Runs, Runs]:
    """The first ``units`` units of ``runs``, and the rest."""
    for position, (first, count) in enumerate(runs):
        if count > units:
            head = (*runs[:position], (first, units)) if units else runs[:position]
            return head, ((first + units, count - units), *runs[position + 1 :])
        units -= count
    return runs, ()


def _joined(runs: Runs, more: Runs) -> Runs:
    """``runs`` and then ``more``; one run where they touch."""
    (last, count), (first, added) = runs[-1], more[0]
    if last + count == first:
        return (*runs[:-1], (last, count + added), *more[1:])
    return runs + more
