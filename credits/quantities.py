"""Sizes, rates, delays and distances as people write them, exact in both directions.

Base units are integers: bytes, bit/s, nanoseconds, metres. A text is a decimal number and a unit
(``0.5MiB``, ``100Mbit``, ``2.8us``, ``10km``); it must denote a whole number of base units, so nothing is ever
rounded. Each ``format_*`` gives the shortest text that its ``parse_*`` reads back as the same integer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

LIMIT = 2**63 - 1
_TEXT_LIMIT = 40
_DECIMALS = 3
_PATTERN = re.compile(r"([0-9]+)(?:\.([0-9]+))?\s*([A-Za-zµμ/]*)", re.ASCII)

SIZE_UNITS: Mapping[str, int] = {
    "TiB": 1024**4,
    "GiB": 1024**3,
    "MiB": 1024**2,
    "KiB": 1024,
    "TB": 10**12,
    "GB": 10**9,
    "MB": 10**6,
    "kB": 10**3,
    "B": 1,
}
RATE_UNITS: Mapping[str, int] = {"Tbit": 10**12, "Gbit": 10**9, "Mbit": 10**6, "kbit": 10**3, "bit": 1}
DELAY_UNITS: Mapping[str, int] = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
DISTANCE_UNITS: Mapping[str, int] = {"km": 1000, "m": 1}

# Also read, never written: the document's bare "M" (paragraph 25), the µ of its table 108, "Mbit/s" and "Mbps".
_SIZE_ALIASES: Mapping[str, str] = {
    "": "B",
    "k": "kB",
    "K": "kB",
    "KB": "kB",
    "M": "MB",
    "G": "GB",
    "T": "TB",
    "Ki": "KiB",
    "Mi": "MiB",
    "Gi": "GiB",
    "Ti": "TiB",
}
_RATE_ALIASES: Mapping[str, str] = {
    "": "bit",
    "bps": "bit",
    "kbps": "kbit",
    "Mbps": "Mbit",
    "Gbps": "Gbit",
    "Tbps": "Tbit",
} | {f"{unit}/s": unit for unit in RATE_UNITS}
_DELAY_ALIASES: Mapping[str, str] = {"µs": "us", "μs": "us"}


def parse_size(text: str) -> int:
    """Bytes of ``64MiB``, ``64MB``, ``2.1M``, ``123``. Raises :class:`ValueError` with one clear line."""
    return _parse(text, "size", SIZE_UNITS, _SIZE_ALIASES, "bytes", "64MiB")


def parse_rate(text: str) -> int:
    """Bit/s of ``100Mbit``, ``1.5Gbit``, ``45000000``. Raises :class:`ValueError` with one clear line."""
    return _parse(text, "rate", RATE_UNITS, _RATE_ALIASES, "bit/s", "100Mbit")


def parse_delay(text: str) -> int:
    """Nanoseconds of ``20ms``, ``2.8us``, ``1s``. Raises :class:`ValueError` with one clear line."""
    return _parse(text, "delay", DELAY_UNITS, _DELAY_ALIASES, "nanoseconds", "20ms")


def parse_distance(text: str) -> int:
    """Metres of ``10km``, ``0.5km``, ``300m``. Raises :class:`ValueError` with one clear line."""
    return _parse(text, "distance", DISTANCE_UNITS, {}, "metres", "10km")


def format_size(size_bytes: int) -> str:
    """The shortest exact text of a size: ``64MiB``, ``350kB``, ``2101249B``."""
    return _format(size_bytes, SIZE_UNITS)


def format_rate(rate_bps: int) -> str:
    """The shortest exact text of a rate: ``100Mbit``, ``1.5Gbit``."""
    return _format(rate_bps, RATE_UNITS)


def format_delay(delay_ns: int) -> str:
    """The shortest exact text of a delay: ``20ms``, ``2.8us``."""
    return _format(delay_ns, DELAY_UNITS)


def format_distance(distance_m: int) -> str:
    """The shortest exact text of a distance: ``10km``, ``1234m``."""
    return _format(distance_m, DISTANCE_UNITS)


def _parse(
    text: str, what: str, units: Mapping[str, int], aliases: Mapping[str, str], base: str, example: str
) -> int:
    match = _PATTERN.fullmatch(text.strip()) if len(text) <= _TEXT_LIMIT else None
    if match is None:
        shown = text if len(text) <= _TEXT_LIMIT else text[:_TEXT_LIMIT] + "…"
        raise ValueError(f"{shown!r} is not a {what}; write a number and a unit, such as {example}")
    whole, fraction, unit = match[1], match[2] or "", match[3]
    factor = units.get(aliases.get(unit, unit))
    if factor is None:
        known = " ".join(reversed(list(units)))
        raise ValueError(f"{text!r}: the unit of a {what} is one of {known}, not {unit!r}")
    decimals: int = 10 ** len(fraction)
    value, rest = divmod(int(whole + fraction) * factor, decimals)
    if rest:
        raise ValueError(f"{text!r} is not a whole number of {base}")
    if value > LIMIT:
        raise ValueError(f"{text!r} is more than the largest {what}, {LIMIT} {base}")
    return value


def _format(value: int, units: Mapping[str, int]) -> str:
    if value < 0:
        raise ValueError(f"{value} is negative")
    candidates = []
    for unit, factor in units.items():
        scaled, rest = divmod(value * 10**_DECIMALS, factor)
        if rest == 0 and (scaled >= 10**_DECIMALS or factor == 1):
            whole, thousandths = divmod(scaled, 10**_DECIMALS)
            decimals = f".{thousandths:0{_DECIMALS}}".rstrip("0").rstrip(".")
            candidates.append(f"{whole}{decimals}{unit}")
    return min(candidates, key=len)
