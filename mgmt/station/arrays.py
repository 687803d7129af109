"""The arrays of a station: who has which port, and the same question to all of them at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from credits.errors import Code, InvalidRequest
from mgmt.http import Peer, PeerRefused, PeerUnreachable

T = TypeVar("T")

#: Where an array says what it is.
INFO = "/v1/info"

#: Requests under way at once, over all arrays.
_WORKERS = 32
#: Rows taken over from one array for one table.
_ROW_LIMIT = 100_000
#: Arrays of one station.
ARRAY_LIMIT = 1000
#: Ports of one array that are taken over.
_PORT_LIMIT = 1024
_NOT_OURS = "its answer is not what was asked for: is it an array of this version?"


@dataclass(frozen=True, slots=True)
class Down:
    """An array that did not answer, and why."""

    array: str
    address: str
    detail: str


@dataclass(frozen=True, slots=True)
class Gathered:
    """Rows of all arrays that answered, and the arrays that did not."""

    rows: list[dict[str, Any]]
    down: list[Down]


@dataclass(frozen=True, slots=True)
class Site:
    """An array found by one of its ports."""

    array: str
    peer: Peer
    port: Mapping[str, Any]
    """``{address, iscsi_port, iqn}``"""
    volumes: Sequence[Mapping[str, Any]]
    """``{name, lun, size_bytes}``"""

    def volume(self, name: str) -> Mapping[str, Any]:
        """The volume ``name``. Raises :class:`InvalidRequest`."""
        for volume in self.volumes:
            if volume.get("name") == name:
                return volume
        known = ", ".join(str(volume.get("name")) for volume in self.volumes) or "none"
        raise InvalidRequest(
            Code.INVALID_TARGET, f"array {self.array} has no volume {name!r}; its volumes: {known}"
        )

    @property
    def iscsi_port(self) -> int:
        """The TCP port of the array's iSCSI target. Raises :class:`PeerUnreachable` where it says none."""
        return self._whole(self.port, "iscsi_port", "port")

    def lun(self, volume: Mapping[str, Any]) -> int:
        """The LUN of a volume of this array. Raises :class:`PeerUnreachable` where it says none."""
        return self._whole(volume, "lun", "volume")

    def _whole(self, row: Mapping[str, Any], name: str, of: str) -> int:
        value = row.get(name)
        if type(value) is not int:
            raise PeerUnreachable(self.peer.who, f"its {of} has no {name}: is it an array of this version?")
        return value


class Arrays:
    """The arrays by name. Thread-safe; close it."""

    def __init__(self, peers: Mapping[str, Peer]) -> None:
        #: Never changed, only replaced: who goes through it needs no lock.
        self._peers: Mapping[str, Peer] = dict(peers)
        self._changing = threading.Lock()
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="arrays")
        #: Where each port was last seen; a port stays with its array.
        self._sites: dict[str, Site] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def names(self) -> list[str]:
        """The names of the arrays."""
        return list(self._peers)

    def add(self, name: str, peer: Peer) -> Peer | None:
        """Have one more array, or the array ``name`` at another address: then its client so far, for closing.

        Raises :class:`InvalidRequest` when there are too many.
        """
        with self._changing:
            if name not in self._peers and len(self._peers) >= ARRAY_LIMIT:
                raise InvalidRequest(Code.INVALID_TARGET, f"a station has at most {ARRAY_LIMIT} arrays")
            before = self._peers.get(name)
            self._peers = {**self._peers, name: peer}
            self._forget_sites(name)
            return before

    def remove(self, name: str) -> Peer:
        """Have one array less; its client, for closing. Raises :class:`InvalidRequest` for an unknown one."""
        with self._changing:
            peer = self[name]
            self._peers = {other: peer for other, peer in self._peers.items() if other != name}
            self._forget_sites(name)
            return peer

    def _forget_sites(self, name: str) -> None:
        self._sites = {port: site for port, site in self._sites.items() if site.array != name}

    def close(self) -> None:
        """Close the connections to the arrays; requests still under way are not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for peer in self._peers.values():
            peer.close()

    def __getitem__(self, name: str) -> Peer:
        if name not in self._peers:
            raise InvalidRequest(Code.INVALID_TARGET, f"this station has no array {name!r}; {self._known()}")
        return self._peers[name]

    def _known(self) -> str:
        return f"its arrays: {', '.join(self._peers) or 'none'}"

    def concurrently(self, calls: Sequence[Callable[[], T]]) -> list[T | PeerRefused | PeerUnreachable]:
        """Make all calls at once; the answers, or what the peer's client raised, in the order of the calls."""

        def attempt(call: Callable[[], T]) -> T | PeerRefused | PeerUnreachable:
            try:
                return call()
            except (PeerRefused, PeerUnreachable) as error:
                return error

        return list(self._pool.map(attempt, calls))

    def later(self, call: Callable[[], object]) -> None:
        """Have something done on another thread, after what waits there already; it may not raise."""
        self._pool.submit(call)

    def gather(self, path: str) -> Gathered:
        """The rows at ``path`` of every array; an array that is down is reported beside them."""
        rows: list[dict[str, Any]] = []
        down = []
        for answer in self.ask(self.names(), path).values():
            if isinstance(answer, Down):
                down.append(answer)
            else:
                rows += answer
        return Gathered(rows, down)

    def ask(self, names: Sequence[str], path: str) -> dict[str, Any]:
        """What each of these arrays says at ``path``, or that it is down: all asked at once.

        Rows that have the array's name; of ``/v1/info`` an object ``{address, ports, volumes}``.
        """
        peers = [(name, peer) for name in names if (peer := self._peers.get(name)) is not None]
        answers = self.concurrently([partial(peer.get, path) for _, peer in peers])
        return {
            name: self._read(name, peer, path, answer)
            for (name, peer), answer in zip(peers, answers, strict=True)
        }

    def _read(self, name: str, peer: Peer, path: str, answer: Any) -> Any:
        address = str(peer.address)
        if isinstance(answer, PeerRefused | PeerUnreachable):
            return Down(name, address, answer.detail or str(answer))
        if path == INFO:
            if not isinstance(answer, dict) or not isinstance(answer.get("ports"), list):
                return Down(name, address, _NOT_OURS)
            for known, site in list(self._sites.items()):
                if site.array == name:
                    self._site(name, peer, answer, known)
            return {"address": address, "ports": _ports(answer), "volumes": _dicts(answer.get("volumes"))}
        if not isinstance(answer, list):
            return Down(name, address, _NOT_OURS)
        return [{"array": name} | row | {"array": name} for row in _dicts(answer)]

    def with_port(self, address: str, *, again: bool = False) -> Site:
        """The array that has the port ``address``; with ``again`` its volumes and listening ports as they are now.

        Raises :class:`InvalidRequest` (no array has it) and :class:`PeerUnreachable` (none that answers has it, and
        some do not answer).
        """
        site = self._sites.get(address)
        peers = self._peers
        if site is not None:
            if not again:
                return site
            (info,) = self._infos({site.array: site.peer})
            if isinstance(info, PeerUnreachable):
                raise info
            if found := self._site(site.array, site.peer, info, address):
                return found
        found, silent = None, None
        known: list[str] = []
        for (name, peer), info in zip(peers.items(), self._infos(peers), strict=True):
            if isinstance(info, PeerUnreachable):
                silent = silent or info
                continue
            known += [f"{port.get('address')} ({name})" for port in _ports(info)]
            found = found or self._site(name, peer, info, address)
        if found is not None:
            return found
        if silent is not None:
            raise silent
        ports = ", ".join(known[:16]) or "none"
        raise InvalidRequest(Code.INVALID_TARGET, f"no array has the port {address}; the ports: {ports}")

    def _site(self, name: str, peer: Peer, info: Any, address: str) -> Site | None:
        """The port in what an array said of itself; it is remembered, or forgotten where it is not there any more."""
        for port in _ports(info):
            if port.get("address") == address:
                site = Site(name, peer, port, _dicts(info.get("volumes")))
                with self._changing:
                    if self._peers.get(name) is peer:
                        self._sites = {**self._sites, address: site}
                return site
        with self._changing:
            if (known := self._sites.get(address)) is not None and known.array == name:
                self._sites = {port: site for port, site in self._sites.items() if port != address}
        return None

    def _infos(self, peers: Mapping[str, Peer]) -> list[Any]:
        return self.concurrently([partial(peer.get, INFO) for peer in peers.values()])


def _ports(info: Any) -> list[dict[str, Any]]:
    return _dicts(info.get("ports"))[:_PORT_LIMIT] if isinstance(info, dict) else []


def _dicts(value: Any) -> list[dict[str, Any]]:
    """The objects in a list that a peer sent; nothing else is taken over."""
    if not isinstance(value, list):
        return []
    return [item for item in value[:_ROW_LIMIT] if isinstance(item, dict)]
