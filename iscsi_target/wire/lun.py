# SPDX-License-Identifier: Apache-2.0
"""The eight bytes of a logical unit number (SAM-5 4.7; RFC 7143 section 11.2.1.7)."""

from __future__ import annotations

MAX_LUN = 0x3FFF
"""The largest LUN that flat space addressing can hold."""


def lun_to_bytes(lun: int) -> bytes:
    """Encode: peripheral device addressing below 256, flat space addressing up to 16383. Raises ValueError."""
    if 0 <= lun < 256:
        return bytes((0, lun, 0, 0, 0, 0, 0, 0))
    if lun <= MAX_LUN and lun >= 0:
        return bytes((0x40 | lun >> 8, lun & 0xFF, 0, 0, 0, 0, 0, 0))
    raise ValueError(f"LUN {lun} is not between 0 and {MAX_LUN}")


def lun_from_bytes(field: bytes) -> int:
    """Decode; a field in another form, or of several levels, becomes the value of its eight bytes, with the
    uppermost bit set where that would be a LUN of ours."""
    first = field[0]
    if field[2:] == b"\0\0\0\0\0\0":
        if first == 0:
            return field[1]
        if first & 0xC0 == 0x40:
            return (first & 0x3F) << 8 | field[1]
    value = int.from_bytes(field, "big")
    return value if value > MAX_LUN else 1 << 63 | value  # 00 00 00 00 00 00 00 05 is not LUN 5
