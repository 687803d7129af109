"""What every use case of the station works on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import ip_address

from credits.targets import Target, check_target
from mgmt.http import Peer
from mgmt.station.arrays import Arrays
from mgmt.station.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """The management station: its table 108, its arrays, its measuring devices, its clock.

    Values measured within ``fresh_s`` are used as they are. Older ones are measured again, and serve, marked stale,
    when that fails; those older than ``stale_after_s`` are not used for sizing any more (GAP-11).
    """

    store: Store
    arrays: Arrays
    probes: Sequence[Peer]
    utc_now: Callable[[], datetime]
    fresh_s: float = 600.0
    stale_after_s: float = 24 * 3600.0

    def close(self) -> None:
        """Close the connections and the store."""
        self.arrays.close()
        for probe in self.probes:
            probe.close()
        self.store.close()


def canonical_port(address: str) -> str:
    """An IP address in its one usual spelling; other addresses (a WWPN) as they are."""
    try:
        return str(ip_address(address))
    except ValueError:
        return address


def canonical(target: Target) -> Target:
    """``target`` with its addresses in their usual spelling. Raises :class:`credits.errors.InvalidRequest`."""
    check_target(target)
    return replace(
        target,
        local_port=canonical_port(target.local_port) if target.local_port is not None else None,
        remote_port=canonical_port(target.remote_port) if target.remote_port is not None else None,
    )
