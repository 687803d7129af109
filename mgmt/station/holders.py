"""Which array holds the reservation of a target, and the port pair of a buffer ID (tables 101 and 1500)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from credits.errors import Code, InvalidRequest
from credits.targets import Target, TargetKind
from mgmt.http import Peer, PeerUnreachable
from mgmt.station.channels import Pair, over
from mgmt.station.context import Station


def holder(station: Station, target: Target, via: Pair | None = None) -> tuple[str, Peer]:
    """The array that serves ``target``: by its local port, or that of ``via``, or by who has reserved for it already.

    A buffer ID alone, and the open kinds, are looked up in the arrays' tables 101 and 1500.
    """
    local_port = over(target, via).local_port
    if local_port is not None:
        site = station.arrays.with_port(local_port)
        return site.array, site.peer
    if target.kind is TargetKind.CONNECTION:
        gathered = station.arrays.gather("/v1/buffer-ids")
        found = [row for row in gathered.rows if row.get("buffer_id") == target.buffer_id]
    else:
        gathered = station.arrays.gather("/v1/reservations")
        found = [row for row in gathered.rows if _same(row.get("target"), target)]
    names = sorted({str(row.get("array")) for row in found})
    if len(names) == 1:
        return names[0], station.arrays[names[0]]
    if len(names) > 1:
        raise InvalidRequest(
            Code.INVALID_TARGET,
            f"{target} is on several arrays ({', '.join(names)}): name its port pair too (--port-pair A,B)",
        )
    if gathered.down:
        down = gathered.down[0]
        raise PeerUnreachable(f"array {down.array} at {down.address}", down.detail)
    raise InvalidRequest(Code.NOT_RESERVED, f"no array has a reservation for {target}")


def with_pair(station: Station, target: Target) -> Target:
    """``target`` with the port pair that table 1500 has for its buffer ID, where it came without one."""
    if target.kind is not TargetKind.CONNECTION or target.local_port is not None:
        return target
    name, _ = holder(station, target)
    for row in station.arrays.gather("/v1/buffer-ids").rows:
        if row.get("array") == name and row.get("buffer_id") == target.buffer_id:
            return replace(target, local_port=row.get("local_port"), remote_port=row.get("remote_port"))
    raise InvalidRequest(Code.NOT_RESERVED, f"table 1500 has no {target}")


def _same(plain: Any, target: Target) -> bool:
    return (
        isinstance(plain, dict)
        and plain.get("kind") == target.kind.value
        and plain.get("name") == target.name
    )
