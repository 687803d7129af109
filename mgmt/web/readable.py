"""How values read on a page: memory in binary units, rates and delays as people say them, and counts with commas."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from credits.quantities import format_distance
from mgmt import columns

_UNIT = re.compile(r"(?<=\d)(?=[A-Za-z])")
DASH = "–"


_FOUR_DIGITS = re.compile(r"^(\d)(\d{3})(?!\d)")


def _spaced(text: str) -> str:
    """``2.003MiB`` as ``2.003 MiB``, with a space that does not break; ``1000KiB`` as ``1,000 KiB``."""
    return _FOUR_DIGITS.sub(r"\1,\2", _UNIT.sub("\N{NO-BREAK SPACE}", text, count=1))


def size(value: Any) -> str:
    """``2.003 MiB`` of a number of bytes."""
    return _spaced(columns.size(value)) if type(value) is int else DASH


def rate(value: Any) -> str:
    """``99.99 Mbit/s`` of bit/s."""
    return _spaced(columns.rate(value)) + "/s" if type(value) is int else DASH


def delay(value: Any) -> str:
    """``20.13 ms`` of nanoseconds."""
    if value == 0 and type(value) is int:
        return "0\N{NO-BREAK SPACE}s"
    return _spaced(columns.delay(value)).replace("us", "µs") if type(value) is int else DASH


def count(value: Any) -> str:
    """``10,000``."""
    return f"{value:,}" if type(value) is int else DASH


def signed(value: Any) -> str:
    """``+1,026``, ``−3`` or ``±0``."""
    if type(value) is not int:
        return DASH
    return f"±{value}" if value == 0 else f"{value:+,}".replace("-", "\N{MINUS SIGN}")


def share(value: Any) -> str:
    """``37.5 %`` of 0.375."""
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%" if isinstance(value, int | float) else DASH


def moment(value: Any) -> str:
    """``2026-01-01 12:00:00 UTC`` of a time as ISO 8601 writes it; what is no time is shown as it came."""
    try:
        at = datetime.fromisoformat(value).astimezone(UTC)
    except (TypeError, ValueError):
        return DASH if value is None else str(value)
    return at.strftime("%Y-%m-%d\N{NO-BREAK SPACE}%H:%M:%S\N{NO-BREAK SPACE}UTC")


def distance(value: Any) -> str:
    """``10 km`` of metres."""
    return _spaced(format_distance(value)) if type(value) is int and value >= 0 else DASH


def seconds(value: Any) -> str:
    """``12.3 s``."""
    return f"{value:.1f}\N{NO-BREAK SPACE}s" if isinstance(value, int | float) else DASH


def whole(value: Any) -> int:
    """For arithmetic: what an array sent that is no whole number counts as none."""
    return value if type(value) is int else 0


def fraction(value: Any) -> float:
    """A share from 0 to 1, whatever an array sent."""
    return min(1.0, max(0.0, float(value))) if isinstance(value, int | float) and value == value else 0.0


def several(value: Any) -> list[Any]:
    """The objects of a list that an array sent."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


#: The templates' filters.
FILTERS: Mapping[str, Any] = {
    "whole": whole,
    "fraction": fraction,
    "several": several,
    "size": size,
    "rate": rate,
    "delay": delay,
    "count": count,
    "signed": signed,
    "share": share,
    "moment": moment,
    "seconds": seconds,
    "distance": distance,
}

#: Ending of a term's or a field's name → how its value reads.
_BY_UNIT: Mapping[str, Any] = {"bytes": size, "bps": rate, "ns": delay, "percent": lambda value: f"{value} %"}


def term(name: str, value: Any) -> str:
    """The value of a formula's term in the unit that its name ends with."""
    return str(_BY_UNIT.get(name.rpartition("_")[2], count)(value))
