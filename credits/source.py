"""Where allocations come from and go home to: a list of idle units and what is in use out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from credits.sharing import SharedUse, Sharing
from credits.targets import RANK, Target
from credits.units import UnitList, UnitMap

if TYPE_CHECKING:
    from credits.allocation import Allocation
    from credits.config import PoolConfig

_FREE_RANK = len(RANK)


class Source:
    """The free list 35 with the normal area's buffers in use, or one reservation with its reserved list 33.

    ``idle`` is the list; ``in_use`` counts the units of ``live``, the allocations; of those, ``pending``
    units go to the free list instead of home when they are freed (a shrink below what is in use, GAP-3).
    ``rank`` is the precedence of the target's kind; ``target`` is ``None`` for the free list. ``owner`` is the
    pool's own token: an allocation is only taken back by the pool that gave it. ``shared`` keeps the minima of
    the connections that share a buffer ID, where there are any (GAP-18).
    """

    __slots__ = ("config", "idle", "in_use", "live", "owner", "pending", "rank", "shared", "target")

    def __init__(self, target: Target | None, unit_map: UnitMap, config: PoolConfig, owner: object) -> None:
        self.target = target
        self.config = config
        self.owner = owner
        self.rank = _FREE_RANK if target is None else RANK[target.kind]
        self.idle = UnitList(unit_map)
        self.in_use = 0
        self.pending = 0
        self.shared: SharedUse | None = None
        self.live: set[Allocation] = set()

    def take_after(self, original: Source, unit_map: UnitMap) -> None:
        """Become a copy of ``original`` in a copied map, without its allocations."""
        self.idle = original.idle.copy(unit_map)
        self.in_use, self.pending = original.in_use, original.pending
        self.shared = original.shared.copy() if original.shared else None

    def spare_units(self, holder: str) -> int:
        """How many idle units ``holder`` may take: all, unless others that share them are sure of some."""
        idle = self.idle.units
        if self.shared is None:
            return idle
        return self.shared.spare_units(holder, idle, idle + self.in_use - self.pending)


@dataclass(slots=True)
class Grant:
    """What was promised to a target: the durable part of a reservation.

    ``units`` is the promise (column 304 as a ceiling, INC-9), ``requested_bytes`` what was asked before
    rounding (INC-22). ``lease_ns`` is the lease's duration or ``None`` (GAP-10), ``epoch`` the fencing number of
    who manages it. ``order`` is the revision at which it was first made. ``sharing`` is the minimum of each
    connection that shares it (GAP-18).
    """

    units: int
    requested_bytes: int
    order: int
    lease_ns: int | None = None
    epoch: int = 0
    sharing: Sharing | None = None


class Reservation(Source):
    """A reservation: its source of units and its grant.

    ``idle + in_use - pending`` is what it really has; less than ``grant.units`` means degraded: the pool became
    too small across a restart (GAP-7). ``expires_at_ns`` is the end of its lease, on the pool's clock.
    """

    __slots__ = ("expires_at_ns", "grant")

    target: Target

    def __init__(
        self, target: Target, unit_map: UnitMap, config: PoolConfig, owner: object, grant: Grant
    ) -> None:
        super().__init__(target, unit_map, config, owner)
        self.grant = grant
        if grant.sharing is not None:
            self.shared = SharedUse(grant.sharing, config.units_for(grant.sharing.minimum_bytes))
        self.expires_at_ns: int | None = None

    def copy(self, unit_map: UnitMap, owner: object) -> Reservation:
        """The same reservation in a copied map, for another pool; without its allocations."""
        grant = self.grant
        twin = Reservation.__new__(Reservation)  # a pool may have very many, so no list is made in vain
        twin.target, twin.config, twin.owner, twin.rank = self.target, self.config, owner, self.rank
        twin.live = set()
        twin.take_after(self, unit_map)
        twin.grant = Grant(
            grant.units, grant.requested_bytes, grant.order, grant.lease_ns, grant.epoch, grant.sharing
        )
        twin.expires_at_ns = self.expires_at_ns
        return twin

    @property
    def backed_units(self) -> int:
        """Units it really has, idle or in use, without those that are draining away."""
        return self.idle.units + self.in_use - self.pending

    @property
    def missing_units(self) -> int:
        """How many promised units the pool could not provide."""
        return self.grant.units - self.backed_units

    @property
    def state(self) -> str:
        """``degraded``, ``draining`` (a shrink is pending), ``in_use``, or ``reserved``."""
        if self.missing_units > 0:
            return "degraded"
        if self.pending:
            return "draining"
        return "in_use" if self.in_use else "reserved"
