"""Tables 101, 108, 109 and 1500, the pools and the rest, drawn by tabulate with the document's column names.

Rows are the JSON objects of the API (base units); a :class:`Layout` says which of their values become which column,
and how they read: memory in binary units, rates and delays in the units people use, addresses in hex. ``wide`` adds
the columns that a terminal of 80 has no room for; CSV has all fields of a row, always the same ones.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

Row = Mapping[str, Any]
#: The narrowest terminal that the default tables are made for.
_TERMINAL_COLUMNS = 80
#: A column of sentences is never narrower than this, however much stands before it.
_NARROWEST_SENTENCE = 24
_BINARY = (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024))
_RATES = (("Gbit", 10**9), ("Mbit", 10**6), ("kbit", 10**3))
_DELAYS = (("s", 10**9), ("ms", 10**6), ("us", 10**3))


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its heading, where its value is in a row, how it reads."""

    heading: str
    value: Callable[[Row], Any]
    text: Callable[[Any], str] = str
    numeric: bool = False
    wide: bool = False
    optional: bool = False
    """Left out where there are rows and none has it."""
    sentence: bool = False
    """Wrapped where the table would be too wide otherwise, unless ``wide``; the last column."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One table: its name in the document (or ours), its columns, and the JSON ``fields`` of a row, which CSV has."""

    title: str
    columns: tuple[Column, ...]
    fields: tuple[str, ...]


def size(value: int) -> str:
    """``2.003MiB``, ``64KiB``, ``2148B``: memory in binary units; few bytes exactly, else four digits that count."""
    return f"{value}B" if value < 10 * 1024 and value % 1024 else _readable(value, "B", _BINARY)


def rate(value: int) -> str:
    """``100Mbit``, ``99.99Mbit``: four digits that count."""
    return _readable(value, "bit", _RATES)


def delay(value: int) -> str:
    """``20ms``, ``20.13ms``: four digits that count."""
    return _readable(value, "ns", _DELAYS)


def address(value: int) -> str:
    """A buffer address (303) in hex; ``-`` for 0, which is none (GAP-27)."""
    return f"0x{value:X}" if value else "-"


def percent(value: float) -> str:
    """A share as ``37.5 %``."""
    return f"{100 * value:.1f} %"


def yes(value: object) -> str:
    """``yes`` or ``no``."""
    return "yes" if value else "no"


def time_of_day(value: str) -> str:
    """``18:18:02Z`` of a UTC time as ISO 8601 writes it."""
    return datetime.fromisoformat(value).astimezone(UTC).strftime("%H:%M:%SZ")


def _readable(value: int, base: str, units: Sequence[tuple[str, int]]) -> str:
    """``value`` in the largest unit that it reaches, with at most three decimals and four digits in all."""
    unit, factor = next((pair for pair in units if value >= pair[1]), (base, 1))
    whole = len(str(value // factor))
    text = f"{value / factor:.{max(0, 4 - whole)}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + unit


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


def _open_name(row: Row) -> str | None:
    """What a reservation without ports is for: ``application remote-copy``."""
    name = _at("target.name")(row)
    return None if name is None else f"{_kind(row)} {name}"


def _share_in_use(row: Row) -> str | None:
    """How much of a reservation is in use; with the size beside it, all that one needs to know of its units."""
    reserved, used = row.get("reserved_units"), row.get("in_use_units")
    if type(reserved) is not int or type(used) is not int or reserved <= 0:
        return None
    return f"{100 * used // reserved} %"


def _measured(row: Row) -> Any:
    """When a channel was measured, or that its values are stale; ``wide`` has both."""
    return "stale" if row.get("stale") and row.get("measured_at") else row.get("measured_at")


def _measured_text(value: str) -> str:
    return value if value == "stale" else time_of_day(value)


_MASTER = Column("MASTER PORT", _at("target.local_port", "local_port"))
_REMOTE = Column("REMOTE PORT", _at("target.remote_port", "remote_port"))
_NUMBER = Column("PORT", _at("target.remote_port_number", "remote_port_number"), numeric=True, optional=True)
_BUFFER_ID = Column("ID", _at("target.buffer_id", "buffer_id"), numeric=True, optional=True)
_NAME = Column("NAME", _open_name, optional=True)
_ARRAY = Column("ARRAY", _at("array"), optional=True)
_TARGET_FIELDS = (
    "target.kind",
    "target.local_port",
    "target.remote_port",
    "target.remote_port_number",
    "target.buffer_id",
    "target.name",
)

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
            _NAME,
            Column("ADDRESS", _at("buffer_address"), address, numeric=True),
            Column("RESERVED", _at("reserved_bytes"), size, numeric=True),
            Column("REQUESTED", _at("requested_bytes"), size, numeric=True, wide=True),
            Column("UNITS", _at("reserved_units"), numeric=True, wide=True),
            Column("UNITS IN USE", _at("in_use_units"), numeric=True, wide=True),
            Column("IN USE", _share_in_use, numeric=True),
            Column("STATE", _at("state")),
        ),
        (
            "array",
            "interface",
            *_TARGET_FIELDS,
            "buffer_address",
            "reserved_units",
            "reserved_bytes",
            "requested_bytes",
            "in_use_units",
            "state",
            "idle_units",
            "pending_shrink_units",
            "backed_units",
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
            Column("CONNS", _at("connections_per_session"), numeric=True),
            Column("MEASURED", _measured, _measured_text),
            Column("MEASURED AT", _at("measured_at"), wide=True),
            Column("STALE", _at("stale"), yes, wide=True),
            Column("METHOD", _at("method"), wide=True),
        ),
        (
            "local_port",
            "remote_port",
            "remote_port_number",
            "bandwidth_bps",
            "rtt_ns",
            "sessions",
            "connections_per_session",
            "measured_at",
            "method",
            "stale",
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
            _NAME,
            Column("ADDRESS", _at("buffer_address"), address, numeric=True),
            Column("ALLOCATED", _at("allocated_bytes"), size, numeric=True),
            Column("UNITS", _at("allocated_units"), numeric=True),
        ),
        (
            "array",
            "interface",
            *_TARGET_FIELDS,
            "buffer_address",
            "allocated_units",
            "allocated_bytes",
            "reserved",
            "holders",
        ),
    ),
    "buffer-ids": Layout(
        "Table 1500: reserved-buffer IDs",
        (_ARRAY, _MASTER, _REMOTE, Column("BUFFER ID", _at("buffer_id"), numeric=True)),
        ("array", "local_port", "remote_port", "buffer_id"),
    ),
    "pools": Layout(
        "Area 100: communication memory",
        (
            _ARRAY,
            Column("IFACE", _at("interface")),
            Column("KIND", _at("kind")),
            Column("UNIT", _at("unit_bytes"), size, numeric=True),
            Column("TOTAL", _at("total_units"), numeric=True),
            Column("FREE", _at("free_units"), numeric=True),
            Column("RESERVED", _at("reserved_idle_units"), numeric=True),
            Column("IN USE", _at("in_use_units"), numeric=True),
            Column("DRAINING", _at("draining_units"), numeric=True),
            Column("EXPANDABLE", _at("expandable_units"), numeric=True),
            Column("HELD", _at("held_units"), numeric=True, wide=True, optional=True),
            Column("DEGRADED", _at("degraded_units"), numeric=True, wide=True, optional=True),
        ),
        (
            "array",
            "interface",
            "kind",
            "unit_bytes",
            "total_units",
            "free_units",
            "reserved_idle_units",
            "in_use_units",
            "draining_units",
            "expandable_units",
            "held_units",
            "degraded_units",
            "revision",
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
            Column("ADDRESS", _at("address"), wide=True),
            Column("DETAIL", _at("detail"), wide=True),
        ),
        ("array", "state", "ports", "volumes", "address", "detail"),
    ),
    "ports": Layout(
        "Ports",
        (
            _ARRAY,
            Column("PORT", _at("address")),
            Column("ISCSI PORT", _at("iscsi_port"), numeric=True),
            Column("IQN", _at("iqn")),
        ),
        ("array", "address", "iscsi_port", "iqn"),
    ),
    "pairs": Layout(
        "Port pairs",
        (
            _ARRAY,
            _MASTER,
            _REMOTE,
            _NUMBER,
            Column("REMOTE ARRAY", _at("remote_array"), wide=True),
            Column("SESSIONS", _at("sessions"), numeric=True),
            Column("CONNS", _at("connections_per_session"), numeric=True),
            Column("RECOMMENDED", _at("recommended_bytes"), size, numeric=True),
            Column("RESERVED", _at("reserved_bytes"), size, numeric=True),
            Column("STALE", _at("stale"), yes, wide=True),
        ),
        (
            "array",
            "local_port",
            "remote_port",
            "remote_port_number",
            "remote_array",
            "sessions",
            "connections_per_session",
            "recommended_bytes",
            "reserved_bytes",
            "stale",
        ),
    ),
    "copies": Layout(
        "Remote copies",
        (
            Column("COPY", _at("copy_id")),
            Column("ARRAY", _at("array"), wide=True),
            Column("PAIR", _at("pair"), lambda pair: pair if isinstance(pair, str) else json.dumps(pair)),
            Column("VOLUME", _at("volume"), wide=True),
            Column("MODE", _at("mode"), wide=True),
            Column("STATE", _at("state")),
            Column("PROGRESS", _at("progress"), percent, numeric=True),
            Column("RESERVED", _at("reserved_bytes"), size, numeric=True, wide=True),
            Column("IN FLIGHT", _at("in_flight_bytes"), size, numeric=True),
            Column("RPO", _at("rpo_ns"), delay, numeric=True, wide=True),
            Column("RPO SIZE", _at("rpo_bytes"), size, numeric=True, wide=True),
            Column("ERROR", _at("error"), wide=True),
        ),
        (
            "copy_id",
            "array",
            "pair",
            "local_port",
            "remote_port",
            "volume",
            "mode",
            "state",
            "connections",
            "total_bytes",
            "copied_bytes",
            "acknowledged_bytes",
            "progress",
            "reserved_bytes",
            "in_flight_bytes",
            "max_in_flight_bytes",
            "rpo_ns",
            "rpo_bytes",
            "seconds",
            "goodput_bps",
            "links",
            "error",
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
            Column("RESERVED", _at("reserved_units"), numeric=True, optional=True),
            Column("SHORT", _at("short_units"), numeric=True, optional=True),
            Column("MEASURED AT", _at("measured_at"), wide=True, optional=True),
            Column("STALE", _at("stale"), yes, wide=True, optional=True),
        ),
        (
            "policy",
            "bytes",
            "units",
            "unit_bytes",
            *_TARGET_FIELDS,
            "available_units",
            "available_bytes",
            "expandable_units",
            "reserved_units",
            "allocated_units",
            "short_units",
            "measured_at",
            "stale",
            "terms",
            "explanations",
        ),
    ),
    "terms": Layout(
        "Terms",
        (
            Column("TERM", _at("term")),
            Column("VALUE", _at("value"), numeric=True),
            Column("MEANING", _at("meaning"), sentence=True),
        ),
        ("term", "value", "meaning"),
    ),
}


def draw(
    name: str,
    rows: Iterable[Row],
    *,
    wide: bool = False,
    headers: bool = True,
    style: Literal["plain", "simple"] = "plain",
) -> str:
    """The table ``name`` of :data:`LAYOUTS` as text, without a final newline; ``simple`` has a rule under the headings.

    Optional columns that are empty in every row are left out; a table without rows has all its headings.
    """
    from tabulate import SEPARATING_LINE, tabulate

    columns = [column for column in LAYOUTS[name].columns if wide or not column.wide]
    cells = [[_cell(column, row) for column in columns] for row in rows]
    used = [
        n
        for n, column in enumerate(columns)
        if not column.optional or not cells or any(line[n] != "-" for line in cells)
    ]
    table: list[Any] = [[line[n] for n in used] for line in cells]
    if not wide and columns[used[-1]].sentence:
        _wrap_last(table)
    if headers:  # as a row like the others: tabulate pads real headings by two columns each
        table = [
            [columns[n].heading for n in used],
            *([SEPARATING_LINE] if style == "simple" else []),
            *table,
        ]
    if not table:
        return ""
    text = tabulate(
        table,
        tablefmt=style,
        disable_numparse=True,
        colalign=["right" if columns[n].numeric else "left" for n in used],
    )
    return text if style == "plain" else "\n".join(text.splitlines()[1:-1])


def _wrap_last(table: list[list[str]]) -> None:
    """Break the last cell of each line into lines that leave the table as wide as the terminal."""
    before = (
        sum(max((len(line[n]) for line in table), default=0) + 2 for n in range(len(table[0]) - 1))
        if table
        else 0
    )
    width = max(_NARROWEST_SENTENCE, _TERMINAL_COLUMNS - before)
    for line in table:
        line[-1] = textwrap.fill(line[-1], width)


def _cell(column: Column, row: Row) -> str:
    value = column.value(row)
    if value is None:
        return "-"
    try:
        text = column.text(value)
    except (TypeError, ValueError, AttributeError):
        text = str(value)  # a row from an array that is not of our version: shown as it came
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text) or "-"
