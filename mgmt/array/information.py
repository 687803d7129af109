"""Information acquisition 210: what of the memory area is available (steps 806, 1203). It changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from credits.config import PoolConfig
from credits.results import PoolStatistics
from credits.tables import AllocationRow, ReservationRow
from credits.targets import RANK, Target, check_target
from mgmt.messages import InterfaceInfoGetRequest, InterfaceInfoGetResponse


class InformedPool(Protocol):
    """What 210 asks of the memory area 100 and its tables 101 and 109."""

    @property
    def config(self) -> PoolConfig:
        """Unit, size, and what has to stay free."""
        ...

    def statistics(self) -> PoolStatistics:
        """The area's numbers."""
        ...

    def reservation_table(self) -> Sequence[ReservationRow]:
        """Table 101."""
        ...

    def allocation_table(self) -> Sequence[AllocationRow]:
        """Table 109."""
        ...


class InformationAcquisition:
    """The answers of 210 about one pool."""

    def __init__(self, pool: InformedPool) -> None:
        self._pool = pool

    def information(self, request: InterfaceInfoGetRequest) -> InterfaceInfoGetResponse:
        """M4: what is available to the target, reserved for it and in use by it (GAP-6)."""
        check_target(request.target)
        config = self._pool.config
        statistics = self._pool.statistics()
        available = max(0, statistics.free_units - config.min_free_units)
        allocated = sum(
            row.allocated_units for row in self._pool.allocation_table() if row.target == request.target
        )
        return InterfaceInfoGetResponse(
            unit_bytes=config.unit_bytes,
            available_bytes=available * config.unit_bytes,
            available_units=available,
            expandable_units=statistics.expandable_units,
            allocated_units=allocated,
            reserved_units=self.reserved_units((request.target,)),
            revision=statistics.revision,
        )

    def reserved_units(self, claims: Sequence[Target]) -> int:
        """Units of the reservation that would serve ``claims``; 0 when there is none."""
        reserved = {row.target.key: row.reserved_units for row in self._pool.reservation_table()}
        for claim in sorted(claims, key=lambda claim: RANK[claim.kind]):
            if units := reserved.get(claim.key, 0):
                return units
        return 0
