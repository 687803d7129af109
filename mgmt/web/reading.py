"""What the pages show, read from the station's use cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from credits.targets import Target
from mgmt.station import channels, policies, sizes
from mgmt.station.arrays import Gathered, Site
from mgmt.station.canonical_json import target_in
from mgmt.station.context import Station

Row = Mapping[str, Any]
#: Ports offered to choose from at most.
_CHOICES = 1000
#: Holders named where there is a shortage.
_HOLDERS = 8
#: What the station has from its arrays.
_OF_ARRAYS = ("arrays", "ports", "pools", "reservations", "allocations", "buffer-ids", "copies", "groups")


class Lenient(dict[str, Any]):
    """A row in which everything that it lacks is ``None``: arrays of other versions send other fields."""

    def __missing__(self, name: str) -> None:
        return None


def lenient(value: Any) -> Any:
    """``value`` with every object in it :class:`Lenient`; a copy, since the station's own rows are shared."""
    if isinstance(value, dict):
        return Lenient({name: lenient(item) for name, item in value.items()})
    return [lenient(item) for item in value] if isinstance(value, list) else value


def table(station: Station, name: str) -> Gathered:
    """The rows of the table ``name`` of :data:`mgmt.layouts.LAYOUTS`, and the arrays that are down.

    The rows are the station's own: do not change them, and make those :func:`lenient` that a template shows.
    """
    if name in _OF_ARRAYS:
        kept = station.inventory.table(name)
        return Gathered(list(kept.rows), list(kept.down))
    match name:
        case "pairs":
            return sizes.pairs(station)
        case "channels":
            return Gathered([channels.row(station, row) for row in station.store.channels()], [])
        case "policies":
            return Gathered([policies.row(policy) for policy in policies.listed(station)], [])
        case _:
            raise KeyError(name)


def port_addresses(station: Station) -> list[tuple[str, str]]:
    """(address, array) of every port, to choose from; an array that is down has none."""
    rows = table(station, "ports").rows
    return [(str(row["address"]), str(row.get("array"))) for row in rows if row.get("address")][:_CHOICES]


def known_pairs(station: Station) -> list[tuple[str, str]]:
    """The port pairs of table 108, each once."""
    return list(dict.fromkeys((row.local_port, row.remote_port) for row in station.store.channels()))


def pool_of(site: Site) -> Row | None:
    """The pool that the port of ``site`` draws on, where its array says one."""
    rows = [row for row in site.peer.get("/v1/pools") if isinstance(row, dict)]
    interface = site.port.get("interface")
    mine = [row for row in rows if row.get("interface") == interface]
    return next(iter(mine or rows), None)


def reservation_of(station: Station, target: Target) -> Row | None:
    """The row of table 101 of ``target``."""
    for row in table(station, "reservations").rows:
        if target_in(row.get("target")) == target:
            found: Row = lenient(row)
            return found
    return None


def holders(station: Station, array: str, but: Target) -> Sequence[tuple[Target, Row]]:
    """Who holds what of the array's buffers, the largest first: (target, row of table 101), without ``but``."""
    found = [
        (target, lenient(row))
        for row in table(station, "reservations").rows
        if row.get("array") == array
        and (target := target_in(row.get("target"))) is not None
        and target != but
    ]
    found.sort(key=lambda held: -_units(held[1]))
    return found[:_HOLDERS]


def _units(row: Row) -> int:
    value = row.get("reserved_units")
    return value if type(value) is int else 0
