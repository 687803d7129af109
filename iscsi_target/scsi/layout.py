# SPDX-License-Identifier: Apache-2.0
"""CDB layouts: declared once with construct, and the fast codecs derived from that declaration.

A layout gives four things from one description: the construct format (`CdbLayout.construct`), a parser without
construct (`parse`), a builder (`build`) and the CDB usage data of REPORT SUPPORTED OPERATION CODES (`usage`,
SPC-4 6.29.3). `fast_struct` derives a :class:`struct.Struct` for the few commands of the hot path. Whatever the
deriver does not know raises :class:`TypeError` when the module is imported.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import construct as c

F = TypeVar("F", bound=tuple[Any, ...])


def bits(name: str, width: int) -> c.Construct:
    """A named field of `width` bits."""
    return name / c.BitsInteger(width)


def flag(name: str) -> c.Construct:
    """A named field of one bit."""
    return name / c.BitsInteger(1)


def reserved(width: int) -> c.Construct:
    """`width` bits without meaning here: reserved, obsolete, or ignored by this device server."""
    return c.Padding(width)


def opcode(code: int) -> c.Construct:
    """The OPERATION CODE byte."""
    return "opcode" / c.Const(code, c.BitsInteger(8))


def service_action(code: int, width: int = 5) -> c.Construct:
    """The SERVICE ACTION field, in the low bits of byte 1 (SPC-4 4.2.2)."""
    return "service_action" / c.Const(code, c.BitsInteger(width))


def control() -> c.Construct:
    """The CONTROL byte (SAM-5 5.2); only NACA has a meaning, and the device server looks at it itself."""
    return "control" / c.BitsInteger(8)


class BitField(NamedTuple):
    """One run of bits of a layout, counted from the most significant bit of byte 0."""

    name: str | None
    first_bit: int
    width: int
    constant: int | None


def bit_fields(fields: tuple[c.Construct, ...]) -> Iterator[BitField]:
    """Walk construct bit fields and give position and width of each; TypeError for what is not a bit field."""
    position = 0
    for declared in fields:
        name, subcon = None, declared
        if isinstance(subcon, c.Renamed):
            name, subcon = subcon.name, subcon.subcon
        constant = None
        if isinstance(subcon, c.Const):
            constant, subcon = subcon.value, subcon.subcon
        if isinstance(subcon, c.BitsInteger) and isinstance(subcon.length, int) and not subcon.signed:
            width = subcon.length
        elif isinstance(subcon, c.Padded) and isinstance(subcon.length, int):
            width, name = subcon.length, None
        else:
            raise TypeError(f"no fast codec is known for the construct {declared!r}")
        yield BitField(name, position, width, constant)
        position += width


_OWN_NAMES = ("opcode", "service_action", "control")


class CdbLayout(Generic[F]):
    """The layout of one command's CDB; `into` is the NamedTuple that `parse` returns.

    Every named field except opcode, service_action and control must be a field of `into`; a field of `into` that
    the layout lacks (READ(6) has no FUA) must have the default 0.
    """

    def __init__(self, into: type[F], *fields: c.Construct) -> None:
        self.into = into
        self._make: Callable[[list[int]], F] = into._make  # type: ignore[attr-defined]
        self.construct = c.BitStruct(*fields)
        self.fields = tuple(bit_fields(fields))
        total_bits = sum(field.width for field in self.fields)
        if total_bits % 8:
            raise TypeError(f"a CDB of {total_bits} bits is not whole bytes")
        self.length = total_bits // 8
        by_name = {field.name: field for field in self.fields if field.name is not None}
        names: tuple[str, ...] = into._fields  # type: ignore[attr-defined]
        defaults: dict[str, Any] = into._field_defaults  # type: ignore[attr-defined]
        unknown = set(by_name) - set(names) - set(_OWN_NAMES)
        missing = {name for name in names if name not in by_name and defaults.get(name) != 0}
        if unknown or missing:
            raise TypeError(f"layout and {into.__name__} differ: unknown {unknown}, missing {missing}")
        self._extract = tuple(
            (total_bits - field.first_bit - field.width, (1 << field.width) - 1)
            if (field := by_name.get(name)) is not None
            else (0, 0)
            for name in names
        )
        self.opcode = self._constant(by_name, "opcode")
        self.service_action = self._constant(by_name, "service_action")
        self._positions = {
            name: (field.first_bit // 8, 7 - field.first_bit % 8) for name, field in by_name.items()
        }

    @staticmethod
    def _constant(by_name: dict[str, BitField], name: str) -> int | None:
        field = by_name.get(name)
        return None if field is None else field.constant

    def parse(self, cdb: bytes) -> F:
        """The fields of `cdb`, which holds at least `length` bytes."""
        number = int.from_bytes(cdb[: self.length], "big")
        return self._make([(number >> shift) & mask for shift, mask in self._extract])

    def build(self, **values: int) -> bytes:
        """A CDB with these field values, everything else 0."""
        every = {field.name: 0 for field in self.fields if field.name is not None and field.constant is None}
        built: bytes = self.construct.build(every | values)
        return built

    def position(self, name: str) -> tuple[int, int]:
        """(byte, bit) of the most significant bit of a field, for sense data's field pointer."""
        return self._positions[name]

    @property
    def usage(self) -> bytes:
        """CDB USAGE DATA (SPC-4 6.29.3): the opcode and service action as they are, ones for every bit evaluated."""
        number = 0
        for field in self.fields:
            value = 0
            if field.constant is not None:
                value = field.constant
            elif field.name is not None:
                # Of CONTROL only NACA (bit 2) is evaluated.
                value = 0x04 if field.name == "control" else (1 << field.width) - 1
            number = number << field.width | value
        return number.to_bytes(self.length, "big")


_FORMATS = {8: "B", 16: "H", 32: "I", 64: "Q"}


class FastStruct(NamedTuple):
    """A struct that unpacks the bytes of a CDB, and where each named field is in what it gives."""

    unpack: struct.Struct
    where: dict[str, tuple[int, int, int]]
    """name → (index in the unpacked tuple, shift, mask)."""


def fast_struct(layout: CdbLayout[Any]) -> FastStruct:
    """Derive a big-endian struct from a layout: whole-byte fields as integers, runs of bits as one byte each."""
    form, where, index = ">", {}, 0
    run: list[BitField] = []
    for field in layout.fields:
        if not run and field.first_bit % 8 == 0 and field.width in _FORMATS:
            form += _FORMATS[field.width]
            if field.name is not None:
                where[field.name] = (index, 0, (1 << field.width) - 1)
            index += 1
            continue
        run.append(field)
        run_bits = sum(part.width for part in run)
        if (run[0].first_bit + run_bits) % 8:
            continue
        if run_bits not in _FORMATS:
            raise TypeError(f"no struct code for a run of {run_bits} bits")
        form += _FORMATS[run_bits]
        for part in run:
            if part.name is not None:
                shift = run[0].first_bit + run_bits - part.first_bit - part.width
                where[part.name] = (index, shift, (1 << part.width) - 1)
        index += 1
        run = []
    return FastStruct(struct.Struct(form), where)
