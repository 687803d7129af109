"""The overview: arrays and their pools as bars, channels, alarms, copies with progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from mgmt.station import alarms
from mgmt.station.context import Station
from mgmt.web.bars import pool_bar
from mgmt.web.commands import get
from mgmt.web.copies import RUNNING
from mgmt.web.face import Face
from mgmt.web.reading import Row, lenient, table
from mgmt.web.table import Wish

#: Pools, channels and copies shown before "all of them".
POOLS, CHANNELS, COPIES, ALARMS = 20, 8, 6, 5

_TROUBLES = ("short", "stale")


def add(router: APIRouter, face: Face) -> None:
    """The route."""

    @router.get("/")
    def overview(request: Request) -> Response:
        wish = Wish.of(request.query_params)
        base = str(request.base_url).rstrip("/")
        return face.page(
            request,
            "overview.html",
            commands=tuple(get(base, name) for name in ("arrays", "pools")),
            cancelled="cancelled" in request.query_params,
            wish=wish,
            **_shown(face.station, wish),
        )


def _shown(station: Station, wish: Wish) -> dict[str, Any]:
    arrays, pools = table(station, "arrays").rows, table(station, "pools")
    pairs, copies = table(station, "pairs").rows, table(station, "copies").rows
    lines = _pool_lines(arrays, pools.rows, wish.query)
    ports = _ports(table(station, "ports").rows)
    pages = max(1, -(-len(lines) // POOLS))
    page = min(max(1, wish.page), pages)
    running = [row for row in copies if row.get("state") in RUNNING]
    return {
        "now": station.utc_now().isoformat(),
        "arrays": arrays,
        "up": sum(row.get("state") == "up" for row in arrays),
        "down": pools.down,
        "lines": [
            (
                lenient(array),
                lenient(pool),
                pool_bar(pool),
                ports.get((array.get("array"), pool.get("interface"))) or array.get("ports") or [],
            )
            for array, pool in lines[(page - 1) * POOLS : page * POOLS]
        ],
        "found": len(lines),
        "page": page,
        "pages": pages,
        "totals": _totals(pools.rows),
        "pairs": lenient(sorted(pairs, key=_urgency)[:CHANNELS]),
        "pair_count": len(pairs),
        "pair_state": pair_state,
        "troubled": sum(pair_state(row) in _TROUBLES for row in pairs),
        "copies": lenient(sorted(copies, key=lambda row: row.get("state") not in RUNNING)[:COPIES]),
        "copy_count": len(copies),
        "running": len(running),
        "alarms": [alarms.row(alarm) for alarm in alarms.listed(station, limit=ALARMS + 1)],
        "alarm_limit": ALARMS,
    }


def _ports(rows: Sequence[Row]) -> dict[tuple[Any, Any], list[str]]:
    """(array, interface) → the addresses of its ports."""
    found: dict[tuple[Any, Any], list[str]] = {}
    for row in rows:
        if row.get("address") and row.get("interface") is not None:
            found.setdefault((row.get("array"), row["interface"]), []).append(str(row["address"]))
    return found


def _pool_lines(arrays: Sequence[Row], pools: Sequence[Row], query: str) -> list[tuple[Row, Row]]:
    """(array, pool) of every pool and of every array without one, those that are down first."""
    by_array: dict[Any, list[Row]] = {}
    for pool in pools:
        by_array.setdefault(pool.get("array"), []).append(pool)
    lines: list[tuple[Row, Row]] = []
    for array in sorted(arrays, key=lambda row: (row.get("state") == "up", str(row.get("array")))):
        lines += [(array, pool) for pool in by_array.get(array.get("array"), [{}])]
    if query:
        needle = query.casefold()
        lines = [
            (array, pool)
            for array, pool in lines
            if needle in f"{array.get('array')} {' '.join(map(str, array.get('ports') or ()))}".casefold()
        ]
    return lines


def _totals(pools: Sequence[Row]) -> list[dict[str, Any]]:
    """Sums over the pools of one kind and unit size, which alone may be added up."""
    sums: dict[tuple[str, int], dict[str, Any]] = {}
    for pool in pools:
        kind, unit = str(pool.get("kind")), pool.get("unit_bytes")
        if type(unit) is not int:
            continue
        total = sums.setdefault((kind, unit), {"kind": kind, "unit_bytes": unit, "pools": 0})
        total["pools"] += 1
        for name in ("free_units", "reserved_idle_units", "in_use_units", "draining_units", "total_units"):
            value = pool.get(name)
            total[name] = total.get(name, 0) + (value if type(value) is int else 0)
    return [total | {"bar": pool_bar(total)} for _, total in sorted(sums.items())]


def pair_state(row: Mapping[str, Any]) -> str:
    """``short`` where less is reserved than recommended, ``stale``, ``unreserved``, else ``ok``."""
    recommended, reserved = row.get("recommended_bytes"), row.get("reserved_bytes")
    if type(recommended) is int and type(reserved) is int and 0 < reserved < recommended:
        return "short"
    if row.get("stale") or recommended is None:
        return "stale"
    return "ok" if reserved else "unreserved"


def _urgency(row: Row) -> tuple[bool, str, str]:
    return pair_state(row) not in _TROUBLES, str(row.get("local_port")), str(row.get("remote_port"))
