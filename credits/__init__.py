"""The shared reservation core: who may use how many units, and how they come back.

Two worlds stand on it: TCP memory buffers and Fibre Channel buffer-to-buffer credits. Start with
:class:`Pool` (in memory) or :class:`DurablePool` (thread-safe, with a journal); the law they keep is
*free + reserved idle + in use + draining = total*, every unit in exactly one place.

The names are loaded when first used: who only names a target or reads a size waits for no database.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from credits.allocation import Allocation
    from credits.config import PoolConfig, UnitKind
    from credits.durable import DurablePool
    from credits.errors import (
        Code,
        CreditError,
        Holder,
        InvalidRequest,
        LawBroken,
        Refused,
        Shortage,
        StoreError,
    )
    from credits.pool import Pool
    from credits.results import (
        HoldResult,
        Information,
        PoolStatistics,
        ReleaseResult,
        ReserveResult,
        UpdateResult,
    )
    from credits.sharing import Sharing
    from credits.tables import AllocationRow, BufferIdRow, ReservationRow
    from credits.targets import (
        PRECEDENCE,
        Target,
        TargetKind,
        application,
        by_precedence,
        check_target,
        connection,
        new_connection,
        port_pair,
        port_pair_number,
        volume_group_pair,
        volume_pair,
    )

__all__ = [
    "PRECEDENCE",
    "Allocation",
    "AllocationRow",
    "BufferIdRow",
    "Code",
    "CreditError",
    "DurablePool",
    "HoldResult",
    "Holder",
    "Information",
    "InvalidRequest",
    "LawBroken",
    "Pool",
    "PoolConfig",
    "PoolStatistics",
    "Refused",
    "ReleaseResult",
    "ReservationRow",
    "ReserveResult",
    "Sharing",
    "Shortage",
    "StoreError",
    "Target",
    "TargetKind",
    "UnitKind",
    "UpdateResult",
    "application",
    "by_precedence",
    "check_target",
    "connection",
    "new_connection",
    "port_pair",
    "port_pair_number",
    "volume_group_pair",
    "volume_pair",
]

_WHERE = {
    "Allocation": "credits.allocation",
    "PoolConfig": "credits.config",
    "UnitKind": "credits.config",
    "DurablePool": "credits.durable",
    "Code": "credits.errors",
    "CreditError": "credits.errors",
    "Holder": "credits.errors",
    "InvalidRequest": "credits.errors",
    "LawBroken": "credits.errors",
    "Refused": "credits.errors",
    "Shortage": "credits.errors",
    "StoreError": "credits.errors",
    "Pool": "credits.pool",
    "HoldResult": "credits.results",
    "Information": "credits.results",
    "PoolStatistics": "credits.results",
    "ReleaseResult": "credits.results",
    "ReserveResult": "credits.results",
    "UpdateResult": "credits.results",
    "Sharing": "credits.sharing",
    "AllocationRow": "credits.tables",
    "BufferIdRow": "credits.tables",
    "ReservationRow": "credits.tables",
    "PRECEDENCE": "credits.targets",
    "Target": "credits.targets",
    "TargetKind": "credits.targets",
    "application": "credits.targets",
    "by_precedence": "credits.targets",
    "check_target": "credits.targets",
    "connection": "credits.targets",
    "new_connection": "credits.targets",
    "port_pair": "credits.targets",
    "port_pair_number": "credits.targets",
    "volume_group_pair": "credits.targets",
    "volume_pair": "credits.targets",
}


def __getattr__(name: str) -> Any:
    if module := _WHERE.get(name):
        return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
