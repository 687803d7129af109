"""What every use case of the station works on."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from ipaddress import ip_address

from credits.errors import Code, InvalidRequest
from credits.targets import Target, check_target
from mgmt.http import Address, Peer
from mgmt.station.arrays import Arrays
from mgmt.station.events import Feed
from mgmt.station.inventory import Inventory
from mgmt.station.resize import Memory
from mgmt.station.store import Store
from mgmt.station.turns import Turns

#: Who asks without a name of their own: everything that reaches a socket only its owner can.
LOCAL_USER = "local"


class Attempts:
    """The attempts that this process is working on, so that nobody settles one while it is still being made."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: set[str] = set()

    def under_way(self) -> frozenset[str]:
        """What is being worked on now."""
        with self._lock:
            return frozenset(self._under_way)

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


class Settled:
    """Up to which record of the audit trail everything that was asked is known to have an end."""

    def __init__(self) -> None:
        self.number = 0


class Due:
    """Port pairs whose channel has changed, for which figure 9 is due; each is in it once, however often it changes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pairs: dict[tuple[str, str], None] = {}

    def add(self, local_port: str, remote_port: str) -> None:
        """The channel of a registered pair has changed."""
        with self._changed:
            self._pairs[local_port, remote_port] = None
            self._changed.notify_all()

    def take(self, timeout_s: float = 0.0) -> tuple[str, str] | None:
        """The pair that has waited longest; ``None`` where none comes in time."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._pairs), timeout_s)
            pair = next(iter(self._pairs), None)
            if pair is not None:
                del self._pairs[pair]
            return pair


def connect(name: str, address: Address) -> Peer:
    """A client of an array."""
    return Peer(address, name=f"array {name}")


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
    turns: Turns = field(default_factory=Turns)
    feed: Feed = field(default_factory=Feed)
    due: Due = field(default_factory=Due)
    low_caches: set[str] = field(default_factory=set)
    """Arrays whose cache is low, until it is well above the threshold."""
    renewed: dict[str, float] = field(default_factory=dict)
    """When each lease was last renewed, in seconds of UTC."""
    settled: Settled = field(default_factory=Settled)
    connect: Callable[[str, Address], Peer] = connect
    memory: Memory = field(default_factory=Memory)
    inventory: Inventory = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inventory", Inventory(self.arrays, self.utc_now))

    def close(self) -> None:
        """Close the connections and the store."""
        self.arrays.close()
        for probe in self.probes:
            probe.close()
        self.store.close()


_WWPN = re.compile(r"[0-9a-f]{16}|[0-9a-f]{2}(:[0-9a-f]{2}){7}", re.IGNORECASE)


def canonical_port(address: str) -> str:
    """The address of a port in its one usual spelling: an IP address, or a WWPN with colons in lower case.

    Raises :class:`credits.errors.InvalidRequest` for anything else (section F of the specification).
    """
    if _WWPN.fullmatch(address):
        digits = address.replace(":", "").lower()
        return ":".join(digits[at : at + 2] for at in range(0, 16, 2))
    try:
        return str(ip_address(address))
    except ValueError:
        raise InvalidRequest(
            Code.INVALID_TARGET,
            f"{address!r:.80} is no port: write an IP address, or a WWPN of 16 hex digits, such as "
            "50:06:01:60:3b:a0:11:22",
        ) from None


def canonical_pair(local_port: str, remote_port: str) -> tuple[str, str]:
    """Two ports in their usual spelling. Raises :class:`credits.errors.InvalidRequest`: equal, or of two sorts."""
    local, remote = canonical_port(local_port), canonical_port(remote_port)
    if local == remote:
        raise InvalidRequest(Code.INVALID_TARGET, f"the two ports of a pair differ; both are {local}")
    if _sort(local) != _sort(remote):
        raise InvalidRequest(
            Code.INVALID_TARGET,
            f"the two ports of a pair are of one sort; {local} is {_sort(local)}, {remote} is {_sort(remote)}",
        )
    return local, remote


def is_wwpn(port: str) -> bool:
    """Whether a port in its usual spelling is a Fibre Channel port."""
    return _WWPN.fullmatch(port) is not None


def _sort(port: str) -> str:
    return "a WWPN" if is_wwpn(port) else f"an IPv{ip_address(port).version} address"


def canonical(target: Target) -> Target:
    """``target`` with its addresses in their usual spelling. Raises :class:`credits.errors.InvalidRequest`."""
    check_target(target)
    if target.local_port is None or target.remote_port is None:
        return target
    local_port, remote_port = canonical_pair(target.local_port, target.remote_port)
    return replace(target, local_port=local_port, remote_port=remote_port)
