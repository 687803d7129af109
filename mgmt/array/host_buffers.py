"""Host I/O through the communication interface: Data-In is charged to the same pool that remote copy lives in.

The bytes themselves go straight from the disk to the socket; what is taken from the pool is the right to have
them unacknowledged. A host's port pair may have a reservation like any other (paragraph 29); without one its
units come from the free list 35, which is what a storm of hosts uses up.
"""

from __future__ import annotations

from functools import lru_cache

from credits.allocation import Allocation
from credits.durable import DurablePool
from credits.targets import Target, port_pair, port_pair_number
from iscsi_target.buffers import ConnectionInfo, Grant

_CONNECTIONS_REMEMBERED = 4096


class HostBuffers:
    """Implements :class:`iscsi_target.buffers.SendBuffers` on a pool; called on the data loop, never waits."""

    def __init__(self, pool: DurablePool) -> None:
        self._pool = pool
        self._unit_bytes = pool.config.unit_bytes

    def acquire(self, connection: ConnectionInfo, size_bytes: int) -> Grant | None:
        """Units for ``size_bytes`` of Data-In, or ``None`` while there are not enough."""
        claims, holder = _claims_and_holder(connection)
        units = -(-size_bytes // self._unit_bytes)
        allocation = self._pool.try_allocate(claims, units, holder)
        return None if allocation is None else Grant(size_bytes, units, allocation)

    def release(self, connection: ConnectionInfo, grant: Grant) -> None:
        """The peer's TCP has the bytes of ``grant``, or the connection is gone."""
        if isinstance(grant.tag, Allocation):
            self._pool.free(grant.tag)


@lru_cache(_CONNECTIONS_REMEMBERED)
def _claims_and_holder(connection: ConnectionInfo) -> tuple[tuple[Target, ...], str]:
    """The connection's port pair with and without its port number, and its name in the tables."""
    local, peer = connection.local_host, connection.peer_host
    who = connection.initiator_name or "login"
    claims = (port_pair_number(local, peer, connection.peer_port), port_pair(local, peer))
    return claims, f"host {peer}:{connection.peer_port} {who}"
