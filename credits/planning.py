"""Preparing, confirming and voiding plans: the arithmetic of figures 7 and 10, all or nothing.

The order inside a plan is fixed: shrinks give first, then the free list, then unsplit pages; growth takes last.
So several reservations hit by one request all fit or none changes (INC-17).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from credits.area import MemoryArea
from credits.errors import Code, Refused
from credits.plan import Change, Plan, Verb
from credits.refusals import reservation_refused
from credits.source import Grant, Reservation
from credits.targets import Target


class PlanningArea(MemoryArea):
    """A memory area whose reservations change by plans."""

    def prepare_changes(
        self,
        verb: Verb,
        target: Target,
        requested_bytes: int,
        wanted: Sequence[tuple[Target, Reservation | None, Grant]],
        *,
        may_split: bool,
        equality_passes: bool = True,
        partial: bool = False,
    ) -> Plan:
        """Set aside what every wanted promise needs; :class:`Refused` and nothing changed if they do not all fit.

        ``equality_passes`` off is paragraph 62 to the letter: growth by exactly the free units is refused.
        ``partial`` lets a single promise grow as far as it can (GAP-13).
        """
        changes = [Change(target_, reservation, grant) for target_, reservation, grant in wanted]
        gives = 0
        for change in changes:
            gives += _work_out(change)
        asked = sum(change.lacking for change in changes)
        available = max(0, self._free.idle.units - self.config.min_free_units)
        splittable = self.expandable_units if may_split else 0
        grantable = gives + available + splittable
        if asked > grantable or (asked and asked == gives + available and not equality_passes):
            if not equality_passes:
                grantable = max(0, grantable - 1)
            if all(_is_within_promise(change) for change in changes):
                # A smaller promise to a degraded reservation: it keeps what it has and gets what there is.
                self._ration(changes, grantable)
            elif partial and grantable and len(changes) == 1:
                self._promise_less(changes[0], asked - grantable)
            else:
                raise reservation_refused(self, str(target), asked, grantable)
            asked = sum(change.lacking for change in changes)
        from_free = min(max(0, asked - gives), available)
        pages = -(-max(0, asked - gives - from_free) // self.config.units_per_page)
        plan = Plan(verb, target, requested_bytes, self._next_revision(), changes, pages=pages)
        self._pages_left -= pages
        if from_free:
            plan.held = self._free.idle.take(from_free)
        self._reserved_idle += from_free
        for change in changes:
            self._set_aside(change)
        self._held += plan.held_units
        self._check_law()
        return plan

    def prepare_removal(self, target: Target, reservations: Sequence[Reservation]) -> Plan:
        """Take reservations out of service; allocations no longer find them."""
        changes = [Change(reservation.target, reservation, None) for reservation in reservations]
        for reservation in reservations:
            self._delist(reservation)
            self._leaving.add(reservation)
        return Plan(Verb.RELEASE, target, 0, self._next_revision(), changes)

    def void(self, plan: Plan) -> None:
        """Undo a prepared plan: everything set aside goes back where it was."""
        self._close(plan)
        self._pages_left += plan.pages
        for first, count in plan.held:
            self._free.idle.put(first, count)
            self._reserved_idle -= count
        for change in plan.changes:
            reservation = change.reservation
            if reservation is None:
                continue
            for first, count in change.taken:
                reservation.idle.put(first, count)
            if change.grant is None:
                self._leaving.discard(reservation)
                self._enlist(reservation)
            else:
                self._give_up(reservation, change.kept)
        self._check_law()

    def carry_out(self, plan: Plan) -> None:
        """Bring a prepared plan into force."""
        self._close(plan)
        self._pages_left += plan.pages
        self._split_pages(plan.pages)
        free = self._free.idle
        for first, count in plan.held:
            free.put(first, count)
            self._reserved_idle -= count
        for change in plan.changes:
            for first, count in change.taken:
                free.put(first, count)
                self._reserved_idle -= count
        for change in plan.changes:
            if change.grant is None:
                self._remove(change)
            else:
                self._resize(change, change.grant)
        self._check_law()
        self._units_came_free()

    def restore_reservation(self, target: Target, grant: Grant) -> Reservation:
        """Put one promise back, with as many units as there are (GAP-7)."""
        pages = -(-max(0, grant.units - self._free.idle.units) // self.config.units_per_page)
        self._split_pages(min(pages, self._pages_left))
        reservation = Reservation(target, self._map, self.config, self._owner, grant)
        self._enlist(reservation)
        units = min(grant.units, self._free.idle.units)
        if units:
            self._reserved_idle += units
            for first, count in self._free.idle.take(units):
                reservation.idle.put(first, count)
        if units < grant.units:
            self._degraded_keys.add(target.key)
        self._check_law()
        return reservation

    # -- details -------------------------------------------------------------------------------------------

    def _next_revision(self) -> int:
        self.revision += 1
        return self.revision

    def _set_aside(self, change: Change) -> None:
        reservation = change.reservation
        if reservation is None:
            return
        now_idle = min(change.surplus, reservation.idle.units)
        if now_idle:
            change.taken = reservation.idle.take(now_idle)
        if change.kept:
            reservation.pending -= change.kept
            self._draining -= change.kept
            self._in_use += change.kept

    def _close(self, plan: Plan) -> None:
        if not plan.open:
            raise Refused(Code.STALE, "this plan has been confirmed or voided before")
        plan.open = False
        self._held -= plan.held_units

    def _resize(self, change: Change, grant: Grant) -> None:
        reservation = change.reservation
        if reservation is None:
            reservation = Reservation(change.target, self._map, self.config, self._owner, grant)
            self._enlist(reservation)
        else:
            grant = replace(grant, order=reservation.grant.order)
            reservation.grant = grant
        if change.lacking:
            self._reserved_idle += change.lacking
            for first, count in self._free.idle.take(change.lacking):
                reservation.idle.put(first, count)
        self._give_up(reservation, reservation.backed_units - grant.units)

    def _remove(self, change: Change) -> None:
        reservation = change.reservation
        if reservation is None:
            return
        self._give_up(reservation, reservation.backed_units)
        if not reservation.in_use:
            self._leaving.discard(reservation)

    def _give_up(self, reservation: Reservation, units: int) -> None:
        """Take ``units`` from a reservation: idle ones at once, the rest as they are freed (GAP-3)."""
        if units <= 0:
            return
        at_once = min(units, reservation.idle.units)
        if at_once:
            self._reserved_idle -= at_once
            for first, count in reservation.idle.take(at_once):
                self._free.idle.put(first, count)
        later = units - at_once
        reservation.pending += later
        self._draining += later
        self._in_use -= later

    def _units_came_free(self) -> None:
        """Serve degraded reservations, the oldest promise first (GAP-7)."""
        if not self._degraded_keys:
            return
        waiting = sorted(
            (self._by_key[key] for key in self._degraded_keys if key in self._by_key),
            key=lambda reservation: reservation.grant.order,
        )
        for reservation in waiting:
            units = min(reservation.missing_units, self._free.idle.units)
            if units > 0:
                self._reserved_idle += units
                for first, count in self._free.idle.take(units):
                    reservation.idle.put(first, count)
        self._degraded_keys = {r.target.key for r in waiting if r.missing_units > 0}

    def _promise_less(self, change: Change, units: int) -> None:
        change.lacking -= units
        grant = change.grant
        if grant is not None:
            grant.units -= units
            grant.requested_bytes = grant.units * self.config.unit_bytes

    def _ration(self, changes: list[Change], units: int) -> None:
        for change in changes:
            change.lacking = min(change.lacking, units)
            units -= change.lacking


def _work_out(change: Change) -> int:
    """Fill in what a change lacks, keeps or has too much of; returns what it gives up at once."""
    reservation, grant = change.reservation, change.grant
    if grant is None:
        return 0
    if reservation is None:
        change.lacking = grant.units
        return 0
    delta = grant.units - reservation.backed_units
    if delta > 0:
        change.kept = min(delta, reservation.pending)
        change.lacking = delta - change.kept
        return 0
    change.surplus = -delta
    return min(-delta, reservation.idle.units)


def _is_within_promise(change: Change) -> bool:
    return change.grant is not None and change.grant.units <= change.previous_units
