"""Options and interface descriptions of pcapng, and times at any resolution: the seldom parts of the walk."""

from __future__ import annotations

import struct
from typing import NamedTuple

from iscsi_target.trace.pcapng import IF_NAME, IF_TSOFFSET, IF_TSRESOL, OPT_END

_NS_PER_S = 1_000_000_000
_LAST_NS = (1 << 62) - 1


class Interface(NamedTuple):
    """One interface description block: ``units_per_s`` is its time resolution."""

    link_type: int
    snap_bytes: int
    units_per_s: int
    offset_s: int
    name: str


def options_of(data: bytes, order: str) -> dict[int, bytes]:
    """Options by code, the first of each; up to the first that reaches beyond its block."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        code, length = struct.unpack_from(order + "HH", data, at)
        if code == OPT_END or at + 4 + length > len(data):
            break
        found.setdefault(code, data[at + 4 : at + 4 + length])
        at += 4 + length + -length % 4
    return found


def describe(body: bytes, order: str) -> Interface | None:
    """An interface description block without its frame; None where it cannot be one."""
    if len(body) < 8:
        return None
    link_type, _reserved, snap_bytes = struct.unpack_from(order + "HHI", body)
    options = options_of(body[8:], order)
    resolution = (options.get(IF_TSRESOL) or b"\x06")[0]
    power = resolution & 0x7F
    if power > 63:
        return None
    units_per_s = 2**power if resolution & 0x80 else 10**power
    offset = options.get(IF_TSOFFSET, b"")
    offset_s = struct.unpack(order + "q", offset)[0] if len(offset) == 8 else 0
    name = options.get(IF_NAME, b"").decode(errors="replace")[:255]
    return Interface(link_type, snap_bytes, units_per_s, offset_s, name)


def exact_time_ns(high: int, low: int, times: tuple[int, int] | None) -> int:
    """Nanoseconds since 1970 UTC of a timestamp, within 62 bits: a damaged one counts as the end of time."""
    units_per_s, offset_s = times or (1_000_000, 0)
    seconds, fraction = divmod((high << 32) | low, units_per_s)
    time_ns = (seconds + offset_s) * _NS_PER_S + fraction * _NS_PER_S // units_per_s
    return min(max(time_ns, 0), _LAST_NS)
