# SPDX-License-Identifier: Apache-2.0
"""A struct for a few fields of a header, derived from its construct description: what the fast path reads and writes.

The bytes of all other fields are skipped on reading and zero on writing.
"""

from __future__ import annotations

import struct
from typing import Any

from construct import Struct

from iscsi_target.wire.derive import UnknownConstruct
from iscsi_target.wire.layout import TAIL
from iscsi_target.wire.opcodes import BHS_BYTES

_FORMATS = {1: "B", 2: "H", 4: "I", 8: "Q"}

Wanted = str | tuple[str, ...]
"""A field, or neighbours that are read as one integer."""


def partial_format(pdu: type[Any], *wanted: Wanted, until: str | None = None) -> str:
    """The struct format (without byte order, which is big-endian) for the fields `wanted`, in wire order.

    Named are the parts of the description: ``byte_0`` and ``flags`` are whole bytes, whatever bits they hold. The
    format ends with the header, or before the field `until`. Raises :class:`UnknownConstruct` for fields that
    are not there, not neighbours, in another order, or no 1, 2, 4 or 8 bytes.
    """
    layout: Struct = pdu.LAYOUT
    parts: list[tuple[str | None, int]] = []
    for part in layout.subcons:
        if part.name in TAIL:
            break
        parts.append((part.name, part.sizeof()))
    names = [name for name, _ in parts]
    end = len(names) if until is None else names.index(until)
    made, position = "", 0
    for one in wanted:
        group = (one,) if isinstance(one, str) else one
        first = names.index(group[0]) if group[0] in names else -1
        size = sum(size for _, size in parts[first : first + len(group)])
        if (
            first < position
            or tuple(names[first : first + len(group)]) != group
            or size not in _FORMATS
            or first + len(group) > end
        ):
            raise UnknownConstruct(f"{pdu.__name__} has no {one} to be read as one integer at this place")
        made += _skip(parts[position:first]) + _FORMATS[size]
        position = first + len(group)
    made += _skip(parts[position:end])
    if until is None and struct.calcsize(">" + made) != BHS_BYTES:
        raise UnknownConstruct(f"{pdu.__name__}: {made} is not {BHS_BYTES} bytes")
    return made


def _skip(parts: list[tuple[str | None, int]]) -> str:
    size = sum(size for _, size in parts)
    return f"{size}x" if size else ""
