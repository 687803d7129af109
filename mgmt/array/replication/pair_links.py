"""The connections of a group: which reservation they live on (M8, one request for each), and what carries them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from credits.allocation import Allocation
from credits.targets import Target, application, by_precedence, port_pair, port_pair_number, volume_pair
from mgmt.array.replication.engine import share
from mgmt.array.replication.group_record import GroupRecord
from mgmt.array.replication.job import Slot
from mgmt.array.replication.link_set import LinkSet
from mgmt.array.replication.remote_copy import UNRESERVED_UNITS, CopyBuffers
from mgmt.array.replication.transport import CopyTransport

#: One command of a group may take so long; a synchronous write has its own, shorter limit.
COMMAND_TIMEOUT_S = 60.0
APPLICATION = "remote-copy"

MakeTransport = Callable[[GroupRecord], CopyTransport]


def claims_of(record: GroupRecord) -> tuple[Target, ...]:
    """Everything that a group's connections match, the most specific first (GAP-24)."""
    assert record.remote is not None
    local, host = record.local_port, record.remote.host
    claims = [port_pair(local, host), application(APPLICATION)]
    if record.remote.port:
        claims.append(port_pair_number(local, host, record.remote.port))
    claims += [volume_pair(pair.volume, pair.volume) for pair in record.pairs[:1]]
    return by_precedence(claims)


def slots_of(record: GroupRecord) -> Sequence[Slot]:
    """Every connection of every session."""
    return [
        Slot(session, connection)
        for session in range(record.sessions)
        for connection in range(record.connections_per_session)
    ]


class PairLinks:
    """Makes a group's links, anew each time they are needed."""

    def __init__(
        self, buffers: Callable[[], CopyBuffers], transport: MakeTransport, allocation_units: int | None
    ) -> None:
        self._buffers = buffers
        self._transport = transport
        self._allocation_units = allocation_units

    def reserved_bytes(self, record: GroupRecord) -> int:
        """Bytes of the reservation that serves the group; 0 where there is none."""
        return 0 if record.remote is None else self._buffers().reserved_bytes(claims_of(record))

    def __call__(self, record: GroupRecord) -> LinkSet:
        """Links that are not open yet."""
        claims, slots = claims_of(record), slots_of(record)

        def allocate(slot: Slot) -> Allocation:
            number = slot.session * record.connections_per_session + slot.connection
            units = self._units(claims, number, len(slots))
            return self._buffers().allocate(claims, units, holder=f"copy {record.name} {slot}", at_most=True)

        return LinkSet(
            self._transport(record),
            slots,
            allocate,
            timeout_s=COMMAND_TIMEOUT_S,
            unmap=record.self_applying,
        )

    def _units(self, claims: Sequence[Target], number: int, count: int) -> int:
        """The setting, or an even share of the reservation (GAP-16)."""
        if self._allocation_units is not None:
            return self._allocation_units
        reserved = self._buffers().reserved_units(claims)
        return max(1, share(reserved, number, count)) if reserved else UNRESERVED_UNITS
