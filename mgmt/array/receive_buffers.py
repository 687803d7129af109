"""The receive side of a reservation: Data-Out of a reserved port pair lies in its units until it is written (GAP-26).

What is reserved for a pair at the receiving array bounds what that array has accepted of the pair's Data-Out
and not yet written, over all connections together, and each connection's receive window. Pairs without a
reservation are not bounded.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from credits.allocation import Allocation
from credits.config import PoolConfig
from credits.errors import Refused
from credits.tables import ReservationRow
from credits.targets import Target, TargetKind, port_pair
from iscsi_target.buffers import ConnectionInfo

_log = logging.getLogger(__name__)

#: Kept back for one connection, so that a command that has begun to come can come whole; and a unit for its headers.
MARGIN_BYTES = 256 * 1024


class ReceivePool(Protocol):
    """What of a pool Data-Out needs; :class:`credits.durable.DurablePool` has it."""

    @property
    def config(self) -> PoolConfig:
        """The unit."""
        ...

    def reservation_table(self) -> tuple[ReservationRow, ...]:
        """Table 101."""
        ...

    def try_allocate(
        self, claims: tuple[Target, ...], units: int, holder: str, at_most: bool = False
    ) -> Allocation | None:
        """Units for ``claims``, or ``None``."""
        ...

    def grow(self, allocation: Allocation, units: int) -> None:
        """More units from the same list. Raises Refused."""
        ...

    def free(self, allocation: Allocation, units: int | None = None) -> None:
        """Give units back."""
        ...


@dataclass(slots=True)
class _Pair:
    """One reserved port pair: who of its connections holds how much, and who may use the margin."""

    reserved_bytes: int
    held: dict[ConnectionInfo, tuple[int, int]] = field(default_factory=dict)
    total: int = 0
    whole: int = 0
    lane: ConnectionInfo | None = None
    waiting: set[ConnectionInfo] = field(default_factory=set)
    """Who would read, and must not because of the lane."""


class ReceiveReservations:
    """Implements :class:`iscsi_target.buffers.ReceiveBuffers` on the pool of one interface; lives on the data loop."""

    def __init__(self, pool: ReceivePool) -> None:
        self._pool = pool
        self._unit_bytes = pool.config.unit_bytes
        self._pairs: dict[tuple[str, str], _Pair] = {}
        self._allocations: dict[ConnectionInfo, Allocation] = {}
        self.reservations_changed()

    def reservations_changed(self) -> None:
        """Look at table 101 again: from now on the new sizes hold."""
        sizes = _sizes(self._pool.reservation_table())
        for key, pair in self._pairs.items():
            pair.reserved_bytes = sizes.get(key, 0)
        for key, size in sizes.items():
            self._pairs.setdefault(key, _Pair(size))

    def window_bytes(self, connection: ConnectionInfo) -> int | None:
        """The whole reservation: each connection of the pair may have all of it under way (GAP-19)."""
        pair = self._pairs.get(_key(connection))
        return pair.reserved_bytes if pair is not None and pair.reserved_bytes else None

    def room(self, connection: ConnectionInfo) -> int | None:
        """What is left of the reservation, less the margin, which the connection in the lane may use.

        Whoever has the lane keeps it until nothing of theirs lies in the margin that has not come whole, so the next
        finds it free; where others wait it takes in one command. While no command of the pair has come whole, so that
        nothing is being written that would make room, it may go on beyond the reservation: by what a command lacks
        that is longer than the margin.
        """
        pair = self._pairs.get(_key(connection))
        if pair is None or not pair.reserved_bytes:
            return None
        left, margin = pair.reserved_bytes - pair.total, self._margin(pair)
        me = _anonymous(connection)
        pair.waiting.discard(me)
        if left > margin:
            return left - margin
        if pair.lane not in pair.held:
            pair.lane = me
        if pair.lane != me:
            pair.waiting.add(me)
            return 0
        if pair.waiting and pair.held.get(me, (0, 0))[1]:
            return 0  # what is being written gives the lane back
        return max(left, 0 if pair.whole else self._unit_bytes)

    def hold(self, connection: ConnectionInfo, size_bytes: int, whole_bytes: int) -> bool:
        """Charge what the connection holds to the pair's units."""
        key = _key(connection)
        pair = self._pairs.get(key)
        if pair is None:
            return False
        me = _anonymous(connection)
        before, whole_before = pair.held.get(me, (0, 0))
        pair.total += size_bytes - before
        pair.whole += whole_bytes - whole_before
        if size_bytes:
            pair.held[me] = size_bytes, whole_bytes
        else:
            pair.held.pop(me, None)
            pair.waiting.discard(me)
        if pair.lane == me and whole_bytes < whole_before:
            left = pair.reserved_bytes - pair.total
            if size_bytes == whole_bytes or left >= self._margin(pair):
                pair.lane = None  # a command of it was written: now somebody else's turn
        if pair.reserved_bytes or me in self._allocations:
            self._charge(me, key, size_bytes)
        return size_bytes < before

    def held_bytes(self) -> Mapping[tuple[str, str], int]:
        """Data-Out accepted and not yet written, by local and remote port."""
        return {key: pair.total for key, pair in self._pairs.items() if pair.total}

    def _margin(self, pair: _Pair) -> int:
        return min(MARGIN_BYTES, pair.reserved_bytes // 2) + self._unit_bytes

    def _charge(self, me: ConnectionInfo, key: tuple[str, str], size_bytes: int) -> None:
        """Have as many units in use as the bytes need, as far as the reservation has them."""
        units = -(-size_bytes // self._unit_bytes)
        allocation = self._allocations.get(me)
        if allocation is None:
            if units:
                claims = (port_pair(*key),)
                allocation = self._pool.try_allocate(claims, units, f"data-out {key[1]}:{me.peer_port}", True)
                if allocation is not None:
                    self._allocations[me] = allocation
        elif not units:
            self._pool.free(self._allocations.pop(me))
        elif units < allocation.units:
            self._pool.free(allocation, allocation.units - units)
        elif units > allocation.units:
            try:
                self._pool.grow(allocation, units - allocation.units)
            except Refused as refusal:
                _log.debug("%s: %s", me.peer_host, refusal)


def _sizes(rows: tuple[ReservationRow, ...]) -> dict[tuple[str, str], int]:
    return {
        (row.target.local_port, row.target.remote_port): row.reserved_bytes
        for row in rows
        if row.target.kind is TargetKind.PORT_PAIR
        and row.target.local_port is not None
        and row.target.remote_port is not None
        and row.state != "released"
    }


def _key(connection: ConnectionInfo) -> tuple[str, str]:
    return connection.local_host, connection.peer_host


def _anonymous(connection: ConnectionInfo) -> ConnectionInfo:
    """The connection by its addresses alone: its names are not known before the login is complete."""
    return ConnectionInfo(
        connection.local_host, connection.local_port, connection.peer_host, connection.peer_port
    )
