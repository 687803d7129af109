# SPDX-License-Identifier: Apache-2.0
"""Derive fast codecs from the construct descriptions.

construct takes some 20 µs for one PDU; the code generated here from the same description takes well under one.
The deriver knows exactly the constructs that the descriptions use and raises :class:`UnknownConstruct` on any
other, so a description can never be half-derived in silence.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Any, Generic, TypeVar

from construct import (
    BitsInteger,
    Bytes,
    BytesInteger,
    Const,
    Construct,
    Flag,
    FormatField,
    Padded,
    Rebuild,
    Struct,
)
from construct.core import FormatFieldError, Renamed, Restreamed, StreamError, Transformed

from iscsi_target.wire.layout import TAIL
from iscsi_target.wire.opcodes import BHS_BYTES

__all__ = ["Codec", "MalformedPdu", "UnknownConstruct", "derive"]

PduT = TypeVar("PduT")
_LENGTHS = ("total_ahs_length", "data_segment_length")
_CONSTRUCT_ERRORS = (FormatFieldError, StreamError)


class UnknownConstruct(TypeError):
    """The description uses a construct that the deriver does not know."""


class MalformedPdu(ValueError):
    """The bytes are too short for a PDU, or a fixed part (the opcode) has another value."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A run of bits inside one struct item: ``name`` is None for padding and constants."""

    name: str | None
    shift: int
    bits: int
    constant: int | None = None
    flag: bool = False


@dataclass(frozen=True, slots=True)
class _Item:
    """One item of the struct format, or two ('BH') for a three-byte integer."""

    format: str
    pieces: tuple[_Piece, ...] = ()
    raw: bool = False


@dataclass(frozen=True, slots=True)
class Codec(Generic[PduT]):
    """The derived codec of one PDU.

    ``names`` are the header fields in wire order, the two lengths included; `unpack` returns their values and `pack`
    takes them, positionally, without checks beyond those of :mod:`struct`: these two are the hot path.
    `decode` and `encode` convert whole PDUs (header, additional headers, data, padding; no digests).
    """

    pdu: type[PduT]
    names: tuple[str, ...]
    unpack: Callable[[Any, int], tuple[Any, ...]]
    pack: Callable[..., bytes]
    bits: dict[str, int]
    constants: tuple[tuple[int, int, int], ...]
    """(byte offset, mask, value) of every fixed part."""

    def decode(self, buffer: bytes | memoryview, offset: int = 0) -> PduT:
        """Decode one whole PDU that starts at `offset`. Raises :class:`MalformedPdu`."""
        if len(buffer) - offset < BHS_BYTES:
            raise MalformedPdu(f"{len(buffer) - offset} bytes are no basic header segment")
        for position, mask, value in self.constants:
            if buffer[offset + position] & mask != value:
                raise MalformedPdu(
                    f"byte {position} of a {self.pdu.__name__} has to be {value:#x} under {mask:#x}"
                )
        values = dict(zip(self.names, self.unpack(buffer, offset), strict=True))
        data_start = offset + BHS_BYTES + values.pop("total_ahs_length") * 4
        data_end = data_start + values.pop("data_segment_length")
        if data_end + (-data_end + data_start) % 4 > len(buffer):
            raise MalformedPdu(
                f"{self.pdu.__name__} announces more bytes than the {len(buffer) - offset} there are"
            )
        values["ahs"] = bytes(buffer[offset + BHS_BYTES : data_start])
        values["data"] = bytes(buffer[data_start:data_end])
        return self.pdu(**values)

    def header(self, pdu: PduT) -> bytes:
        """Encode the basic header segment of `pdu`. Raises ValueError when a field does not fit."""
        values: list[Any] = []
        for name in self.names:
            value: Any
            if name == "total_ahs_length":
                value = len(pdu.ahs) // 4  # type: ignore[attr-defined]
            elif name == "data_segment_length":
                value = len(pdu.data)  # type: ignore[attr-defined]
            else:
                value = getattr(pdu, name)
            limit = self.bits.get(name)
            if limit is not None and not 0 <= value < 1 << limit:
                raise ValueError(f"{self.pdu.__name__}.{name} = {value!r} does not fit {limit} bits")
            if limit is None and len(value) != struct.calcsize(_bytes_format(self, name)):
                raise ValueError(f"{self.pdu.__name__}.{name} has the wrong length: {value!r}")
            values.append(value)
        return self.pack(*values)

    def encode(self, pdu: PduT) -> bytes:
        """Encode the whole PDU: header, additional headers, data, padding to four bytes."""
        data: bytes = pdu.data  # type: ignore[attr-defined]
        ahs: bytes = pdu.ahs  # type: ignore[attr-defined]
        if len(ahs) % 4:
            raise ValueError(f"additional header segments are padded to four bytes, these have {len(ahs)}")
        return b"".join((self.header(pdu), ahs, data, bytes(-len(data) % 4)))


def _bytes_format(codec: Codec[Any], name: str) -> str:
    for part in codec.pdu.LAYOUT.subcons:
        if part.name == name:
            return f"{part.sizeof()}s"
    raise UnknownConstruct(name)


def derive(pdu: type[PduT]) -> Codec[PduT]:
    """Derive the codec of `pdu` from its LAYOUT.

    Raises :class:`UnknownConstruct` for a construct it does not know, or when the dataclass and the description
    do not have the same fields in the same order.
    """
    layout: Construct = pdu.LAYOUT  # type: ignore[attr-defined]
    if not isinstance(layout, Struct):
        raise UnknownConstruct(f"{pdu.__name__}.LAYOUT is a {type(layout).__name__}, not a Struct")
    items: list[_Item] = []
    tail: list[str] = []
    for part in layout.subcons:
        if part.name in TAIL:
            tail.append(part.name)
        elif tail and part.name is None:
            continue  # the padding of the data segment, which has no fixed size
        elif tail:
            raise UnknownConstruct(f"{pdu.__name__}: header field {part.name} after the variable part")
        else:
            items.append(_item(part, pdu.__name__))
    if tuple(tail) != TAIL:
        raise UnknownConstruct(f"{pdu.__name__} ends with {tail}, not with {TAIL}")
    format_ = ">" + "".join(item.format for item in items)
    if struct.calcsize(format_) != BHS_BYTES:
        raise UnknownConstruct(f"{pdu.__name__}: {format_} is not {BHS_BYTES} bytes")
    names = tuple(piece.name for item in items for piece in item.pieces if piece.name is not None)
    declared = tuple(field.name for field in fields(pdu))  # type: ignore[arg-type]
    wanted = tuple(name for name in names if name not in _LENGTHS) + TAIL
    if declared != wanted:
        raise UnknownConstruct(f"{pdu.__name__} declares {declared}, its description has {wanted}")
    namespace: dict[str, Any] = {}
    compiled = struct.Struct(format_)
    exec(_source(items, names), {"_unpack": compiled.unpack_from, "_pack": compiled.pack}, namespace)
    bits = {p.name: p.bits for item in items if not item.raw for p in item.pieces if p.name is not None}
    return Codec(pdu, names, namespace["unpack"], namespace["pack"], bits, _constants(items))


def _constants(items: list[_Item]) -> tuple[tuple[int, int, int], ...]:
    """Only the opcode is checked on receipt; other fixed bits are sent so and ignored (RFC 7143 section 11.1)."""
    piece = next(piece for piece in items[0].pieces if piece.constant is not None)
    mask = (1 << piece.bits) - 1
    assert piece.constant is not None
    return ((0, mask << piece.shift, piece.constant << piece.shift),)


def _item(part: Construct, owner: str) -> _Item:
    name, inner, constant = part.name, part, None
    while isinstance(inner, Renamed):
        inner = inner.subcon
    if isinstance(inner, Const):
        constant, inner, name = inner.value, inner.subcon, None
    if isinstance(inner, Rebuild):
        inner = inner.subcon
    if isinstance(inner, Padded):
        return _Item(f"{inner.sizeof()}x")
    if isinstance(inner, FormatField) and inner.fmtstr in (">B", ">H", ">L", ">I", ">Q"):
        size = inner.sizeof()
        return _Item({1: "B", 2: "H", 4: "I", 8: "Q"}[size], (_Piece(name, 0, size * 8, constant),))
    if isinstance(inner, BytesInteger) and inner.length == 3 and not inner.signed and not inner.swapped:
        return _Item("BH", (_Piece(name, 0, 24, constant),))
    if isinstance(inner, Bytes) and isinstance(inner.length, int) and constant is None:
        return _Item(f"{inner.length}s", (_Piece(name, 0, 0),), raw=True)
    if isinstance(inner, Transformed | Restreamed) and isinstance(inner.subcon, Struct):
        return _bit_item(inner.subcon, inner.sizeof(), owner)
    raise UnknownConstruct(f"{owner}.{part.name}: cannot derive {inner!r}")


def _bit_item(bit_struct: Struct, size: int, owner: str) -> _Item:
    if size != 1:
        raise UnknownConstruct(f"{owner}: bit fields of {size} bytes")
    pieces: list[_Piece] = []
    left = 8
    for part in bit_struct.subcons:
        name, inner, constant = part.name, part, None
        while isinstance(inner, Renamed):
            inner = inner.subcon
        if isinstance(inner, Const):
            constant, inner, name = inner.value, inner.subcon, None
        flag = inner is Flag or type(inner) is type(Flag)
        if flag:
            bits = 1
        elif isinstance(inner, BitsInteger) and isinstance(inner.length, int) and not inner.signed:
            bits = inner.length
        elif isinstance(inner, Padded):
            bits, name = inner.sizeof(), None
        else:
            raise UnknownConstruct(f"{owner}.{part.name}: cannot derive {inner!r}")
        left -= bits
        pieces.append(_Piece(name, left, bits, constant, flag))
    return _Item("B", tuple(pieces))


def _source(items: list[_Item], names: tuple[str, ...]) -> str:
    """Python source of ``unpack(buffer, offset)`` and ``pack(*values)``."""
    variables: list[str] = []
    reads: dict[str, str] = {}
    writes: list[str] = []
    for number, item in enumerate(items):
        if item.format.endswith("x"):
            continue
        variable = f"v{number}"
        if item.format == "BH":
            piece = item.pieces[0]
            variables += [f"{variable}h", f"{variable}l"]
            reads[str(piece.name)] = f"{variable}h << 16 | {variable}l"
            writes += [f"{piece.name} >> 16", f"{piece.name} & 65535"]
            continue
        variables.append(variable)
        terms: list[str] = []
        for piece in item.pieces:
            whole = item.raw or piece.bits == struct.calcsize(item.format) * 8
            mask = (1 << piece.bits) - 1
            if piece.constant is not None:
                terms.append(str(piece.constant << piece.shift))
            elif piece.name is not None and whole:
                reads[piece.name] = variable
                terms.append(piece.name)
            elif piece.name is not None and piece.flag:
                reads[piece.name] = f"{variable} & {mask << piece.shift} != 0"
                terms.append(f"({1 << piece.shift} if {piece.name} else 0)")
            elif piece.name is not None:
                reads[piece.name] = f"{variable} >> {piece.shift} & {mask}"
                terms.append(f"{piece.name} << {piece.shift}")
        writes.append(" | ".join(terms) or "0")
    arguments = ", ".join(names)
    return (
        f"def unpack(buffer, offset):\n"
        f"    {', '.join(variables)}, = _unpack(buffer, offset)\n"
        f"    return ({', '.join(reads[name] for name in names)},)\n"
        f"def pack({arguments}):\n"
        f"    return _pack({', '.join(writes)})\n"
    )


def default_of(pdu: type[Any], name: str | None) -> Any:
    """The default value that the dataclass gives the field; None when it has none."""
    for field in fields(pdu):
        if field.name == name and field.default is not MISSING:
            return field.default
    return None
