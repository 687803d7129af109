"""The shared reservation core: who may use how many units, and how they come back.

Two worlds stand on it: TCP memory buffers and Fibre Channel buffer-to-buffer credits. Start with
:class:`Pool` (in memory) or :class:`DurablePool` (thread-safe, with a journal); the law they keep is
*free + reserved idle + in use + draining = total*, every unit in exactly one place.
"""

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
