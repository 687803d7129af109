"""Putting a station together: its store, its arrays, its measuring devices, the clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from mgmt.http import Address, Peer
from mgmt.http.credentials import ClientCredentials
from mgmt.station.arrays import Arrays
from mgmt.station.context import Station
from mgmt.station.registry import check_name, remembered
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
    store_url: str | None = None,
    store_password: str | None = None,
    credentials: ClientCredentials | None = None,
    utc_now: Callable[[], datetime] = _utc_now,
) -> Station:
    """A station with its state in the directory ``state`` (in memory: ``None``) or at ``store_url``; close it.

    Its arrays are ``arrays`` and those that have been added while it ran; the address given here counts where a name is
    in both. ``credentials`` are what it shows arrays and devices, and whom it trusts there. Raises
    :class:`mgmt.station.database.StationStoreError`. No array needs to be up.
    """

    def connect(name: str, address: Address) -> Peer:
        return Peer(address, ARRAY_TIMEOUT_S, name=f"array {name}", credentials=credentials)

    store = open_store(state, store_url, password=store_password)
    try:
        named = {**remembered(store), **{check_name(name): address for name, address in arrays.items()}}
        return Station(
            store=store,
            arrays=Arrays({name: connect(name, address) for name, address in named.items()}),
            probes=tuple(
                Peer(
                    address, PROBE_TIMEOUT_S, retries=0, name="the measuring device", credentials=credentials
                )
                for address in probes
            ),
            utc_now=utc_now,
            connect=connect,
        )
    except BaseException:
        store.close()
        raise
