"""What every use case of the station works on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from ipaddress import ip_address

from credits.targets import Target, check_target
from mgmt.http import Peer
from mgmt.station.arrays import Arrays
from mgmt.station.store import Store


class Attempts:
    """The attempts that this process is working on, so that nobody settles one while it is still being made."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: set[str] = set()

    @contextmanager
    def work_on(self, attempt: str) -> Iterator[bool]:
        """Whether the attempt is the caller's alone inside the block."""
        with self._lock:
            mine = attempt not in self._under_way
            self._under_way.add(attempt)
        try:
            yield mine
        finally:
            if mine:
                with self._lock:
                    self._under_way.discard(attempt)


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
    attempts: Attempts = field(default_factory=Attempts)

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
