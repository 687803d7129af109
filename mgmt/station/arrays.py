"""The arrays of a station: who has which port, and the same question to all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from credits.errors import Code, InvalidRequest
from mgmt.http import Peer, PeerRefused, PeerUnreachable

T = TypeVar("T")

#: Requests under way at once, over all arrays.
_WORKERS = 32
#: Rows taken over from one array for one table.
_ROW_LIMIT = 100_000
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
        self._peers = dict(peers)
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="arrays")

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

    def gather(self, path: str) -> Gathered:
        """The rows at ``path`` of every array; an array that is down is reported beside them."""
        return self._collect(path, lambda value: value)

    def arrays(self) -> list[dict[str, Any]]:
        """One row for each array, up or down."""
        names = list(self._peers)
        rows = []
        for name, info in zip(names, self._infos(), strict=True):
            row: dict[str, Any] = {"array": name, "address": str(self._peers[name].address)}
            if isinstance(info, PeerRefused | PeerUnreachable):
                row |= {"state": "down", "ports": [], "volumes": [], "detail": info.detail}
            elif not isinstance(info, dict):
                row |= {"state": "down", "ports": [], "volumes": [], "detail": _NOT_OURS}
            else:
                ports = [str(port.get("address")) for port in _dicts(info.get("ports"))]
                row |= {"state": "up", "ports": ports, "volumes": _dicts(info.get("volumes")), "detail": ""}
            rows.append(row)
        return rows

    def ports(self) -> Gathered:
        """One row for each port: ``{array, address, iscsi_port, iqn}``."""
        return self._collect("/v1/info", lambda info: info.get("ports") if isinstance(info, dict) else None)

    def with_port(self, address: str) -> Site:
        """The array that has the port ``address``.

        Raises :class:`InvalidRequest` (no array has it) and :class:`PeerUnreachable` (none that answers has it, and
        some do not answer).
        """
        known: list[str] = []
        silent: PeerUnreachable | None = None
        for (name, peer), info in zip(self._peers.items(), self._infos(), strict=True):
            if isinstance(info, PeerUnreachable):
                silent = silent or info
            elif isinstance(info, dict):
                for port in _dicts(info.get("ports")):
                    known.append(f"{port.get('address')} ({name})")
                    if port.get("address") == address:
                        return Site(name, peer, port, _dicts(info.get("volumes")))
        if silent is not None:
            raise silent
        ports = ", ".join(known[:16]) or "none"
        raise InvalidRequest(Code.INVALID_TARGET, f"no array has the port {address}; the ports: {ports}")

    def _infos(self) -> list[Any]:
        return self.concurrently([partial(peer.get, "/v1/info") for peer in self._peers.values()])

    def _collect(self, path: str, rows_of: Callable[[Any], Any]) -> Gathered:
        names = list(self._peers)
        answers = self.concurrently([partial(peer.get, path) for peer in self._peers.values()])
        rows: list[dict[str, Any]] = []
        down = []
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, PeerRefused | PeerUnreachable):
                detail = answer.detail or str(answer)
                down.append(Down(name, str(self._peers[name].address), detail))
            elif not isinstance(found := rows_of(answer), list):
                down.append(Down(name, str(self._peers[name].address), _NOT_OURS))
            else:
                rows += [{"array": name} | row | {"array": name} for row in _dicts(found)]
        return Gathered(rows, down)


def _dicts(value: Any) -> list[dict[str, Any]]:
    """The objects in a list that a peer sent; nothing else is taken over."""
    if not isinstance(value, list):
        return []
    return [item for item in value[:_ROW_LIMIT] if isinstance(item, dict)]
