"""What a table is made of, and how its values read: memory in binary units, rates and delays as people say them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Row = Mapping[str, Any]
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


def at(*names: str) -> Callable[[Row], Any]:
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


def size(value: int) -> str:
    """``2.003MiB``, ``64KiB``, ``2148B``: memory in binary units; few bytes exactly, else four digits that count."""
    return f"{value}B" if value < 10 * 1024 and value % 1024 else _readable(value, "B", _BINARY)


def rate(value: int) -> str:
    """``100Mbit``, ``99.99Mbit``: four digits that count."""
    return _readable(value, "bit", _RATES)


def delay(value: int) -> str:
    """``20ms``, ``20.13ms``: four digits that count."""
    return _readable(value, "ns", _DELAYS)


def picoseconds(value: int) -> str:
    """``3.4ms``: simulated time, in nanoseconds at the finest."""
    return delay(value // 1000)


def address(value: int) -> str:
    """A buffer address (303) in hex; ``-`` for 0, which is none (GAP-27)."""
    return f"0x{value:X}" if value else "-"


def megabytes(value: int) -> str:
    """``826.5MB``: bytes in the decimal megabytes in which links are sold."""
    return f"{value / 10**6:.1f}MB"


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
