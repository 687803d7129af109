"""Tables 101, 108, 109 and 1500, the pools and the rest, drawn by tabulate with the document's column names.

Rows are the JSON objects of the API (base units); a :class:`Layout` says which of their values become which column,
and how they read: sizes, rates and delays in the units people use, addresses in hex. ``wide`` adds the columns that a
terminal of 80 has no room for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from credits.quantities import format_delay, format_rate, format_size

Row = Mapping[str, Any]
#: Longest exact text of a size, rate or delay; longer ones are rounded to three decimals.
_EXACT_WIDTH = 9


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its heading, where its value is in a row, how it reads."""

    heading: str
    value: Callable[[Row], Any]
    text: Callable[[Any], str] = str
    numeric: bool = False
    wide: bool = False
    optional: bool = False
    """Left out where no row has it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One table: its name in the document (or ours), and its columns."""

    title: str
    columns: tuple[Column, ...]


def size(value: int) -> str:
    """``2.1MB``, ``64KiB``: exact where that is short, else rounded to three decimals of a binary unit."""
    return _readable(format_size(value), value, "B", (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)))


def rate(value: int) -> str:
    """``100Mbit``: exact where that is short, else rounded to three decimals."""
    return _readable(format_rate(value), value, "bit", (("Gbit", 10**9), ("Mbit", 10**6), ("kbit", 10**3)))


def delay(value: int) -> str:
    """``20ms``: exact where that is short, else rounded to three decimals."""
    return _readable(format_delay(value), value, "ns", (("s", 10**9), ("ms", 10**6), ("us", 10**3)))


def address(value: int) -> str:
    """A buffer address (303) in hex; ``-`` for 0, which is none (GAP-27)."""
    return f"0x{value:X}" if value else "-"


def percent(value: float) -> str:
    """A share as ``37.5 %``."""
    return f"{100 * value:.1f} %"


def yes(value: object) -> str:
    """``yes`` or ``no``."""
    return "yes" if value else "no"


def _readable(exact: str, value: int, base: str, units: Sequence[tuple[str, int]]) -> str:
    """``exact`` where it is short and in a scaled unit, else rounded to three decimals of the largest unit."""
    if value < 1000 or (len(exact) <= _EXACT_WIDTH and exact.lstrip("0123456789.") != base):
        return exact
    unit, factor = next((pair for pair in units if value >= pair[1]), units[-1])
    return f"{value / factor:.3f}".rstrip("0").rstrip(".") + unit


def _at(*names: str) -> Callable[[Row], Any]:
    """The first of the values at ``names`` (``a.b`` reaches into an object), or ``None``."""

    def value(row: Row) -> Any:
        for name in names:
            found: Any = row
            for part in name.split("."):
                found = found.get(part) if isinstance(found, Mapping) else None
            if found is not None:
                return found
        return None

    return value


def _kind(row: Row) -> str | None:
    target = row.get("target")
    return str(target.get("kind")).replace("_", " ") if isinstance(target, Mapping) else None


_MASTER = Column("MASTER PORT", _at("target.local_port", "local_port"))
_REMOTE = Column("REMOTE PORT", _at("target.remote_port", "remote_port"))
_NUMBER = Column(
    "PORT NO", _at("target.remote_port_number", "remote_port_number"), numeric=True, optional=True
)
_BUFFER_ID = Column("BUFFER ID", _at("target.buffer_id", "buffer_id"), numeric=True, optional=True)
_ARRAY = Column("ARRAY", _at("array"), optional=True)

#: The tables by the name that ``sancredit get`` has for them.
LAYOUTS: Mapping[str, Layout] = {
    "reservations": Layout(
        "Table 101: reserved-buffer information",
        (
            _ARRAY,
            Column("INTERFACE", _at("interface"), wide=True),
            Column("TARGET", _kind, wide=True),
            _MASTER,
            _REMOTE,
            _NUMBER,
            _BUFFER_ID,
            Column("NAME", _at("target.name"), wide=True, optional=True),
            Column("BUFFER ADDRESS", _at("buffer_address"), address, numeric=True),
            Column("RESERVED SIZE", _at("reserved_bytes"), size, numeric=True),
            Column("REQUESTED", _at("requested_bytes"), size, numeric=True, wide=True),
            Column("UNITS", _at("reserved_units"), numeric=True),
            Column("IN USE", _at("in_use_units"), numeric=True),
            Column("STATE", _at("state")),
        ),
    ),
    "channels": Layout(
        "Table 108: channel information",
        (
            _MASTER,
            _REMOTE,
            _NUMBER,
            Column("BANDWIDTH", _at("bandwidth_bps"), rate, numeric=True),
            Column("DELAY", _at("rtt_ns"), delay, numeric=True),
            Column("SESSIONS", _at("sessions"), numeric=True),
            Column("CONNECTIONS", _at("connections_per_session"), numeric=True),
            Column("MEASURED AT", _at("measured_at")),
            Column("METHOD", _at("method"), wide=True),
            Column("STALE", _at("stale"), yes),
        ),
    ),
    "allocations": Layout(
        "Table 109: allocated-buffer information",
        (
            _ARRAY,
            Column("INTERFACE", _at("interface"), wide=True),
            Column("TARGET", _kind, wide=True),
            _MASTER,
            _REMOTE,
            _NUMBER,
            _BUFFER_ID,
            Column("BUFFER ADDRESS", _at("buffer_address"), address, numeric=True),
            Column("ALLOCATED SIZE", _at("allocated_bytes"), size, numeric=True),
            Column("UNITS", _at("allocated_units"), numeric=True),
        ),
    ),
    "buffer-ids": Layout(
        "Table 1500: reserved-buffer IDs",
        (_ARRAY, _MASTER, _REMOTE, Column("BUFFER ID", _at("buffer_id"), numeric=True)),
    ),
    "pools": Layout(
        "Area 100: communication memory",
        (
            _ARRAY,
            Column("INTERFACE", _at("interface")),
            Column("KIND", _at("kind")),
            Column("UNIT", _at("unit_bytes"), size, numeric=True),
            Column("TOTAL", _at("total_units"), numeric=True),
            Column("FREE", _at("free_units"), numeric=True),
            Column("RESERVED IDLE", _at("reserved_idle_units"), numeric=True),
            Column("IN USE", _at("in_use_units"), numeric=True),
            Column("DRAINING", _at("draining_units"), numeric=True),
            Column("EXPANDABLE", _at("expandable_units"), numeric=True),
        ),
    ),
    "arrays": Layout(
        "Storage arrays",
        (
            _ARRAY,
            Column("STATE", _at("state")),
            Column("PORTS", _at("ports"), lambda ports: ", ".join(map(str, ports))),
            Column(
                "VOLUMES",
                _at("volumes"),
                lambda volumes: ", ".join(str(volume.get("name")) for volume in volumes),
            ),
            Column("ADDRESS", _at("address")),
            Column("DETAIL", _at("detail"), wide=True),
        ),
    ),
    "ports": Layout(
        "Ports",
        (
            _ARRAY,
            Column("PORT", _at("address")),
            Column("ISCSI PORT", _at("iscsi_port"), numeric=True),
            Column("IQN", _at("iqn")),
        ),
    ),
    "pairs": Layout(
        "Port pairs",
        (
            _MASTER,
            _REMOTE,
            _NUMBER,
            _ARRAY,
            Column("REMOTE ARRAY", _at("remote_array")),
            Column("SESSIONS", _at("sessions"), numeric=True),
            Column("CONNECTIONS", _at("connections_per_session"), numeric=True),
            Column("RECOMMENDED", _at("recommended_bytes"), size, numeric=True),
            Column("RESERVED", _at("reserved_bytes"), size, numeric=True),
            Column("STALE", _at("stale"), yes, wide=True),
        ),
    ),
    "copies": Layout(
        "Remote copies",
        (
            Column("COPY", _at("copy_id")),
            _ARRAY,
            Column("PAIR", _at("pair"), lambda pair: pair if isinstance(pair, str) else json.dumps(pair)),
            Column("VOLUME", _at("volume"), wide=True),
            Column("MODE", _at("mode")),
            Column("STATE", _at("state")),
            Column("PROGRESS", _at("progress"), percent, numeric=True),
            Column("RESERVED", _at("reserved_bytes"), size, numeric=True),
            Column("IN FLIGHT", _at("in_flight_bytes"), size, numeric=True),
            Column("RPO", _at("rpo_ns"), delay, numeric=True, wide=True),
            Column("RPO SIZE", _at("rpo_bytes"), size, numeric=True, wide=True),
            Column("ERROR", _at("error"), wide=True),
        ),
    ),
    "recommend": Layout(
        "Recommended size",
        (
            Column("POLICY", _at("policy")),
            Column("RECOMMENDED", _at("bytes"), size, numeric=True),
            Column("UNITS", _at("units"), numeric=True),
            Column("UNIT", _at("unit_bytes"), size, numeric=True),
            Column("AVAILABLE", _at("available_bytes"), size, numeric=True, optional=True),
            Column("RESERVED UNITS", _at("reserved_units"), numeric=True, optional=True),
            Column("SHORT UNITS", _at("short_units"), numeric=True, optional=True),
            Column("MEASURED AT", _at("measured_at"), wide=True, optional=True),
            Column("STALE", _at("stale"), yes, wide=True, optional=True),
        ),
    ),
    "terms": Layout(
        "Terms",
        (
            Column("TERM", _at("term")),
            Column("VALUE", _at("value"), numeric=True),
            Column("MEANING", _at("meaning")),
        ),
    ),
}


def draw(
    name: str, rows: Iterable[Row], *, wide: bool = False, headers: bool = True, style: str = "plain"
) -> str:
    """The table ``name`` of :data:`LAYOUTS` as text, without a final newline.

    Optional columns that are empty in every row are left out. ``style`` is a tabulate format.
    """
    from tabulate import tabulate

    shown = list(rows)
    columns = [column for column in LAYOUTS[name].columns if wide or not column.wide]
    cells = [[_cell(column, row) for column in columns] for row in shown]
    used = [
        n for n, column in enumerate(columns) if not column.optional or any(line[n] != "-" for line in cells)
    ]
    return tabulate(
        [[line[n] for n in used] for line in cells],
        headers=[columns[n].heading for n in used] if headers else (),
        tablefmt=style,
        disable_numparse=True,
        colalign=["right" if columns[n].numeric else "left" for n in used] if cells else None,
    )


def _cell(column: Column, row: Row) -> str:
    value = column.value(row)
    if value is None:
        return "-"
    try:
        text = column.text(value)
    except (TypeError, ValueError, AttributeError):
        text = str(value)  # a row from an array that is not of our version: shown as it came
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text) or "-"
