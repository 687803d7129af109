"""Putting a station together: its store, its arrays, its measuring devices, the clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from mgmt.http import Address, Peer
from mgmt.station.arrays import Arrays
from mgmt.station.context import Station
from mgmt.station.store import open_store

#: An array answers from memory and a journal; a device sends probes for some seconds.
ARRAY_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 30.0


def _utc_now() -> datetime:
    return datetime.now(UTC)


def assemble(
    state: Path | None,
    arrays: Mapping[str, Address],
    probes: Sequence[Address],
    *,
    utc_now: Callable[[], datetime] = _utc_now,
) -> Station:
    """A station with its state in the directory ``state`` (in memory: ``None``); close it.

    Raises :class:`mgmt.station.store.StationStoreError`. No array needs to be up.
    """
    return Station(
        store=open_store(state),
        arrays=Arrays(
            {name: Peer(address, ARRAY_TIMEOUT_S, name=f"array {name}") for name, address in arrays.items()}
        ),
        probes=tuple(
            Peer(address, PROBE_TIMEOUT_S, retries=0, name="the measuring device") for address in probes
        ),
        utc_now=utc_now,
    )
