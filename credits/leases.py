"""Leases: reservations that lapse unless renewed (GAP-10). A heap of deadlines over the reservations."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from credits.source import Reservation


class LeaseBook:
    """The deadlines of the reservations that have a lease.

    A renewed or replaced lease leaves its old entry in the heap; entries are believed only when they agree with
    the reservation. A lease without a deadline (restored from the journal) starts at the next look.
    """

    def __init__(self, reservations: Mapping[str, Reservation]) -> None:
        self._reservations = reservations
        self._heap: list[tuple[int, str]] = []
        self._unstarted: list[str] = []
        self._overdue: set[str] = set()

    def restored(self, reservation: Reservation) -> None:
        """A reservation has come back from the journal; its lease starts afresh."""
        if reservation.grant.lease_ns is not None:
            self._unstarted.append(reservation.target.key)

    def start(self, reservation: Reservation, now_ns: int) -> int | None:
        """Begin, or begin again, the reservation's lease; returns its end, ``None`` without a lease."""
        self._overdue.discard(reservation.target.key)
        lease_ns = reservation.grant.lease_ns
        reservation.expires_at_ns = None if lease_ns is None else now_ns + lease_ns
        if reservation.expires_at_ns is not None:
            heapq.heappush(self._heap, (reservation.expires_at_ns, reservation.target.key))
            if len(self._heap) > 64 + 2 * len(self._reservations):
                self._compact()
        return reservation.expires_at_ns

    def due(self, now_ns: int) -> list[Reservation]:
        """Reservations whose lease has run out and that have nothing in use; others stay due until then."""
        for key in self._unstarted:
            reservation = self._reservations.get(key)
            if reservation is not None and reservation.expires_at_ns is None:
                self.start(reservation, now_ns)
        self._unstarted.clear()
        while self._heap and self._heap[0][0] <= now_ns:
            expires_at_ns, key = heapq.heappop(self._heap)
            reservation = self._reservations.get(key)
            if reservation is not None and reservation.expires_at_ns == expires_at_ns:
                self._overdue.add(key)
        self._overdue.intersection_update(self._reservations)
        return [
            self._reservations[key] for key in sorted(self._overdue) if not self._reservations[key].in_use
        ]

    def next_deadline(self) -> int | None:
        """When the next lease ends; those already overdue are looked at by every :meth:`due`."""
        while self._heap:
            expires_at_ns, key = self._heap[0]
            reservation = self._reservations.get(key)
            if reservation is not None and reservation.expires_at_ns == expires_at_ns:
                return expires_at_ns
            heapq.heappop(self._heap)
        return None

    def _compact(self) -> None:
        valid = {
            (reservation.expires_at_ns, key)
            for expires_at_ns, key in self._heap
            if (reservation := self._reservations.get(key)) is not None
            and reservation.expires_at_ns == expires_at_ns
        }
        self._heap = [(expires, key) for expires, key in valid if expires is not None]
        heapq.heapify(self._heap)
