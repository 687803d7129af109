# SPDX-License-Identifier: Apache-2.0
"""Serial number arithmetic of RFC 1982 with 32 bits, as RFC 7143 section 4.2.2.1 requires of every SN.

:class:`SerialNumber` is the type for code that is not hot; the plain functions do the same on bare integers.
"""

from __future__ import annotations

from dataclasses import dataclass

_MASK = 0xFFFFFFFF
_HALF = 0x80000000


def add(serial: int, count: int) -> int:
    """`serial` advanced by `count` (which may be negative), modulo 2**32."""
    return (serial + count) & _MASK


def distance(start: int, end: int) -> int:
    """How far `end` lies ahead of `start`: -2**31 .. 2**31 - 1."""
    difference = (end - start) & _MASK
    return difference - (1 << 32) if difference >= _HALF else difference


def before(a: int, b: int) -> bool:
    """True when `a` comes before `b`. Undefined (False) at the distance of exactly 2**31 (RFC 1982 3.2)."""
    return 0 < ((b - a) & _MASK) < _HALF


@dataclass(frozen=True, slots=True)
class SerialNumber:
    """A 32-bit serial number; comparisons follow RFC 1982 section 3.2."""

    value: int

    def __post_init__(self) -> None:
        if not 0 <= self.value <= _MASK:
            raise ValueError(f"{self.value} is no 32-bit serial number")

    def __add__(self, count: int) -> SerialNumber:
        if not 0 <= count < _HALF:
            raise ValueError("RFC 1982 section 3.1 defines addition for 0 .. 2**31 - 1")
        return SerialNumber(add(self.value, count))

    def __sub__(self, other: SerialNumber) -> int:
        return distance(other.value, self.value)

    def __lt__(self, other: SerialNumber) -> bool:
        return before(self.value, other.value)

    def __le__(self, other: SerialNumber) -> bool:
        return self == other or self < other

    def __gt__(self, other: SerialNumber) -> bool:
        return other < self

    def __ge__(self, other: SerialNumber) -> bool:
        return self == other or other < self
