# SPDX-License-Identifier: Apache-2.0
"""Derive fast codecs from the construct descriptions.

construct takes tens of microseconds for one header; the code generated here from the same description takes about
one. The deriver knows exactly the constructs of :mod:`fcsim.wire.layout` and the few of construct's own that the
descriptions use, and raises :class:`UnknownConstruct` on any other: nothing is ever half-derived in silence.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, Generic, TypeVar

from construct import (
    Array,
    BitsInteger,
    Bytes,
    BytesInteger,
    Const,
    Construct,
    FixedSized,
    Flag,
    FormatField,
    GreedyBytes,
    Padded,
    Rebuild,
    Struct,
)
from construct.core import Renamed

from fcsim.errors import MalformedFrame
from fcsim.wire.layout import ByteCount, Coded, Many, Record, Sized, Tlvs, bit_struct

__all__ = ["Codec", "UnknownConstruct", "default_of", "derive", "expression", "integer_size", "plain"]

T = TypeVar("T")
Buffer = bytes | bytearray | memoryview
Reader = Callable[[Buffer, int, int], tuple[Any, int]]
"""Takes a buffer, the offset to read at and the end not to read beyond; returns the value and the next offset."""
Writer = Callable[[Any], bytes]

_FORMATS = {1: ("B",), 2: ("H",), 3: ("B", "H"), 4: ("I",), 6: ("H", "I"), 8: ("Q",)}
_REFERENCE = re.compile(r"this(?:\['\w+'\])*\['(\w+)'\]")
_TAKEN = ("buffer", "o", "end", "n", "item", "pdu")
_ARITHMETIC = re.compile(r"[\w\s()+\-*/%]+")


class UnknownConstruct(TypeError):
    """The description uses a construct that the deriver does not know."""


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    """The derived codec of one dataclass.

    `decode` and `encode` convert whole records; `decode_prefix` says where the record ended. For records of fixed
    size only, `unpack(buffer, offset)` returns the bare values in the order of `names`: the hot path.
    """

    pdu: type[T]
    names: tuple[str, ...]
    bits: dict[str, int]
    """Width of every integer field."""
    minimum_bytes: int
    unpack: Callable[[Buffer, int], tuple[Any, ...]] | None
    read: Callable[[Buffer, int, int], tuple[T, int]]
    write: Callable[[T], bytes]

    def decode(self, buffer: Buffer, offset: int = 0, end: int | None = None) -> T:
        """Decode the record at `offset`; bytes after it are ignored. Raises :class:`MalformedFrame`."""
        return self.read(buffer, offset, len(buffer) if end is None else end)[0]

    def decode_prefix(self, buffer: Buffer, offset: int = 0, end: int | None = None) -> tuple[T, int]:
        """Decode the record at `offset`, with the offset after it. Raises :class:`MalformedFrame`."""
        return self.read(buffer, offset, len(buffer) if end is None else end)

    def encode(self, pdu: T) -> bytes:
        """Encode a record. Raises ValueError when a field does not fit."""
        try:
            return self.write(pdu)
        except struct.error:
            for name, width in self.bits.items():
                value = getattr(pdu, name)
                if not isinstance(value, int) or not 0 <= value < 1 << width:
                    text = f"{self.pdu.__name__}.{name} = {value!r} does not fit {width} bits"
                    raise ValueError(text) from None
            raise ValueError(f"a length or count of {self.pdu.__name__} does not fit its field") from None


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bits of one integer on the wire. `name` is None for padding and unnamed constants."""

    name: str | None
    shift: int
    bits: int
    constant: int | None = None
    flag: bool = False
    computed: str | None = None


def plain(part: Construct) -> Construct:
    """`part` without its name and its codes."""
    while isinstance(part, Renamed | Coded):
        part = part.subcon
    return part


def expression(value: Any) -> str:
    """Python source for a construct expression over fields. Raises :class:`UnknownConstruct`."""
    text = _REFERENCE.sub(r"\1", repr(value)).replace("len_(", "len(")
    if not _ARITHMETIC.fullmatch(text) or "lambda" in text or "function" in text:
        raise UnknownConstruct(f"cannot derive the expression {value!r}")
    return text


def default_of(pdu: type[Any], name: str | None) -> Any:
    """The default value that the dataclass gives the field; None when it has none."""
    for field in fields(pdu):
        if field.name == name and field.default is not MISSING:
            return field.default
    return None


def derive(pdu: type[T]) -> Codec[T]:
    """Derive the codec of `pdu` from its LAYOUT; a second call returns the same one.

    Raises :class:`UnknownConstruct` for a construct it does not know, or when the dataclass and the description do
    not have the same fields in the same order.
    """
    kind: Any = pdu
    codec: Codec[T] = _derive(kind)
    return codec


@cache
def _derive(pdu: Any) -> Codec[Any]:
    layout: Construct = pdu.LAYOUT
    if not isinstance(layout, Struct):
        raise UnknownConstruct(f"{pdu.__name__}.LAYOUT is a {type(layout).__name__}, not a Struct")
    builder = _Builder(pdu.__name__)
    for part in layout.subcons:
        builder.add(part)
    builder.flush()
    declared = tuple(field.name for field in fields(pdu))
    if declared != tuple(builder.visible):
        raise UnknownConstruct(f"{pdu.__name__} declares {declared}, its description has {builder.visible}")
    namespace = builder.namespace | {"Pdu": pdu, "MalformedFrame": MalformedFrame}
    exec(builder.source(), namespace)
    unpack = namespace.get("unpack")
    return Codec(pdu, declared, builder.bits, builder.minimum, unpack, namespace["read"], namespace["write"])


def _short(name: str) -> str:
    return f"raise MalformedFrame('{name} is cut short: ' + str(end - o) + ' bytes are left')"


class _Builder:
    """Collects the source of the two functions of one codec, part by part."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.visible: list[str] = []
        self.bits: dict[str, int] = {}
        self.namespace: dict[str, Any] = {}
        self.minimum = 0
        self._reads: list[str] = []
        self._locals: list[str] = []
        self._sizes: list[str] = []
        self._checks: list[str] = []
        self._parts: list[str] = []
        self._bare: list[str] = []
        self._runs = 0
        self._only_fixed = True
        self._format: list[str] = []
        self._variables: list[str] = []
        self._after: list[str] = []
        self._writes: list[str] = []

    def _name(self, name: str) -> str:
        if not name.isidentifier() or name in _TAKEN or name.startswith("_"):
            raise UnknownConstruct(f"{self.owner}: a field called {name!r}")
        self.visible.append(name)
        return name

    # --- parts of fixed size, gathered into runs that one struct format covers ---

    def add(self, part: Construct) -> None:
        inner = plain(part)
        bits = bit_struct(part)
        if bits is not None:
            self._integer(part.sizeof(), self._pieces(bits, part.sizeof() * 8))
            return
        computed, constant = None, None
        if isinstance(inner, ByteCount):
            computed, inner = self._byte_count(part.name, inner), plain(inner.subcon)
        elif isinstance(inner, Rebuild):
            computed, inner = expression(inner.func), plain(inner.subcon)
        elif isinstance(inner, Const):
            constant, inner = inner.value, plain(inner.subcon)
        size = integer_size(inner)
        if size is not None:
            name = None if constant is not None else part.name
            self._integer(size, [_Piece(name, 0, size * 8, constant, computed=computed)])
        elif isinstance(inner, Padded) and isinstance(inner.length, int):
            self._format.append(f"{inner.length}x")
        elif isinstance(inner, Bytes) and isinstance(inner.length, int) and constant is None and not computed:
            self._fixed_bytes(part.name, inner.length)
        elif constant is None and not computed:
            self._variable(part, inner)
        else:
            raise UnknownConstruct(f"{self.owner}.{part.name}: cannot derive {inner!r}")

    def _byte_count(self, name: str, part: ByteCount) -> str:
        self.namespace[f"_size_{name}"] = _codec_of(part.part, self.owner)[1]
        text = f"len(_size_{name}({part.of}))"
        if part.unit == 1:
            return text
        self._sizes.append(f"if {text} % {part.unit}:")
        self._sizes.append(
            f"    raise ValueError('{self.owner}.{part.of} is no multiple of {part.unit} bytes')"
        )
        return f"{text} // {part.unit}"

    def _fixed_bytes(self, name: str, length: int) -> None:
        self._name(name)
        self._format.append(f"{length}s")
        self._variables.append(name)
        self._writes.append(name)
        self._bare.append(name)
        self._locals.append(f"{name} = pdu.{name}")
        self._checks.append(f"if len({name}) != {length}:")
        self._checks.append(
            f"    raise ValueError('{self.owner}.{name} has to be {length} bytes, not ' + str(len({name})))"
        )

    def _pieces(self, bits: Struct, left: int) -> list[_Piece]:
        pieces = []
        for part in bits.subcons:
            name, inner, constant, computed = part.name, plain(part), None, None
            if isinstance(inner, Const):
                name, constant, inner = None, inner.value, plain(inner.subcon)
            elif isinstance(inner, Rebuild):
                computed, inner = expression(inner.func), plain(inner.subcon)
            flag = inner is Flag or type(inner) is type(Flag)
            if flag:
                width = 1
            elif isinstance(inner, BitsInteger) and isinstance(inner.length, int) and not inner.signed:
                width = inner.length
            elif isinstance(inner, Padded) and isinstance(inner.length, int):
                width, name = inner.length, None
            else:
                raise UnknownConstruct(f"{self.owner}.{part.name}: cannot derive {inner!r}")
            left -= width
            pieces.append(_Piece(name, left, width, constant, flag, computed))
        return pieces

    def _integer(self, size: int, pieces: list[_Piece]) -> None:
        formats = _FORMATS.get(size)
        if formats is None:
            raise UnknownConstruct(f"{self.owner}: an integer of {size} bytes")
        word = f"w{len(self._variables)}_{self._runs}"
        terms = []
        whole = word
        if len(formats) == 2:
            low = struct.calcsize(">" + formats[1]) * 8
            whole = f"({word}h << {low} | {word}l)"
            self._variables += [f"{word}h", f"{word}l"]
        else:
            self._variables.append(word)
        self._format += formats
        for piece in pieces:
            mask = (1 << piece.bits) - 1
            value = whole if piece.bits == size * 8 else f"({whole} >> {piece.shift} & {mask})"
            shift = f" << {piece.shift}" if piece.shift else ""
            if piece.constant is not None:
                self._after.append(f"if {value} != {piece.constant}:")
                self._after.append(
                    f"    raise MalformedFrame('{self.owner} has ' + hex({value}) + ' in place of "
                    f"{piece.constant:#x}')"
                )
                terms.append(str(piece.constant << piece.shift))
                continue
            if piece.name is None:
                continue
            name = piece.name
            if piece.computed is not None:
                self._after.append(f"{name} = {value}")
                self._sizes.append(f"{name} = {piece.computed}")
            else:
                self._name(name)
                if not piece.flag:
                    self.bits[name] = piece.bits
                self._after.append(f"{name} = {value}{' != 0' if piece.flag else ''}")
                self._locals.append(f"{name} = pdu.{name}")
                self._bare.append(f"{value}{' != 0' if piece.flag else ''}")
            if piece.flag:
                terms.append(f"({1 << piece.shift} if {name} else 0)")
                continue
            if piece.bits != size * 8:
                self._checks.append(f"if not 0 <= {name} < {1 << piece.bits}:")
                self._checks.append(
                    f"    raise ValueError('{self.owner}.{name} = ' + str({name}) + "
                    f"' does not fit {piece.bits} bits')"
                )
            terms.append(f"{name}{shift}")
        value = " | ".join(terms) or "0"
        if len(formats) == 1:
            self._writes.append(value)
        else:
            low = struct.calcsize(">" + formats[1]) * 8
            self._writes += [f"({value}) >> {low}", f"({value}) & {(1 << low) - 1}"]

    def flush(self) -> None:
        """End the run of parts of fixed size."""
        if not self._format:
            return
        compiled = struct.Struct(">" + "".join(self._format))
        run = self._runs
        self._runs += 1
        self.namespace[f"_unpack{run}"] = compiled.unpack_from
        self.namespace[f"_pack{run}"] = compiled.pack
        self.minimum += compiled.size
        self._reads += [f"if end - o < {compiled.size}:", "    " + _short(self.owner)]
        if self._variables:
            self._reads.append(f"{', '.join(self._variables)}, = _unpack{run}(buffer, o)")
        self._reads += [*self._after, f"o += {compiled.size}"]
        self._parts.append(f"_pack{run}({', '.join(self._writes)})")
        if self._only_fixed:
            self._fixed = (f"{', '.join(self._variables)}, = _unpack{run}(buffer, o)", ", ".join(self._bare))
        self._format, self._variables, self._after, self._writes = [], [], [], []

    # --- parts of variable size ---

    def _variable(self, part: Construct, inner: Construct) -> None:
        self.flush()
        self._only_fixed = False
        if isinstance(inner, Padded):
            size = expression(inner.length)
            self._reads += [
                f"n = {size}",
                "if end - o < n:",
                "    " + _short(self.owner),
                "o += n",
            ]
            self._parts.append(f"bytes({size})")
            return
        name = self._name(part.name or "")
        self._locals.append(f"{name} = pdu.{name}")
        if isinstance(inner, Bytes):
            size = expression(inner.length)
            self._reads += [
                f"n = {size}",
                "if not 0 <= n <= end - o:",
                "    " + _short(self.owner),
                f"{name} = bytes(buffer[o:o + n])",
                "o += n",
            ]
            self._parts.append(name)
            self._checks += [
                f"if len({name}) != {size}:",
                f"    raise ValueError('{self.owner}.{name} has to be ' + str({size}) + ' bytes')",
            ]
            return
        limit = count = None
        if isinstance(inner, FixedSized):
            limit, inner = expression(inner.length), plain(inner.subcon)
        if isinstance(inner, Array):
            count, inner = expression(inner.count), plain(inner.subcon)
        if isinstance(inner, Record) and limit is None and count is None:
            self.minimum += derive(inner.pdu).minimum_bytes
        read, write = _codec_of(inner, f"{self.owner}.{name}")
        self.namespace[f"_read_{name}"], self.namespace[f"_write_{name}"] = read, write
        if limit is not None:
            self._reads += [
                f"n = {limit}",
                "if not 0 <= n <= end - o:",
                "    " + _short(self.owner),
            ]
            end = "o + n"
        else:
            end = "end"
        if count is not None:
            self._reads += [
                f"n = {count}",
                "if n < 0:",
                f"    raise MalformedFrame('{self.owner} counts ' + str(n) + ' {name}')",
                f"{name} = []",
                "for _ in range(n):",
                f"    item, o = _read_{name}(buffer, o, {end})",
                f"    {name}.append(item)",
                f"{name} = tuple({name})",
            ]
            self._parts.append(f"b''.join(map(_write_{name}, {name}))")
            self._checks += [
                f"if len({name}) != {count}:",
                f"    raise ValueError('{self.owner} does not count ' + str(len({name})) + ' {name}')",
            ]
        else:
            self._reads.append(f"{name}, {'_' if limit else 'o'} = _read_{name}(buffer, o, {end})")
            self._parts.append(f"_write_{name}({name})")
        if limit is not None:
            self._reads.append("o += n")

    def source(self) -> str:
        """Python source of ``read(buffer, o, end)``, ``write(pdu)`` and, where it can be, ``unpack(buffer, o)``."""
        values = ", ".join(f"{name}={name}" for name in self.visible)
        body = self._parts[0] if len(self._parts) == 1 else f"b''.join([{', '.join(self._parts)}])"
        lines = ["def read(buffer, o, end):"]
        lines += [f"    {line}" for line in self._reads]
        lines += [f"    return Pdu({values}), o", "def write(pdu):"]
        lines += [f"    {line}" for line in (*self._locals, *self._sizes, *self._checks)]
        lines.append(f"    return {body}")
        if self._only_fixed and self._bare:
            lines += [
                "def unpack(buffer, o):",
                f"    {self._fixed[0]}",
                f"    return ({self._fixed[1]},)",
            ]
        return "\n".join(lines) + "\n"


def integer_size(inner: Construct) -> int | None:
    """Bytes of an unsigned big-endian integer; None for any other construct."""
    if isinstance(inner, FormatField) and inner.fmtstr in (">B", ">H", ">L", ">I", ">Q"):
        return int(inner.sizeof())
    whole = isinstance(inner, BytesInteger) and inner.length in _FORMATS
    if whole and not inner.signed and not inner.swapped:
        return int(inner.length)
    return None


def _codec_of(part: Construct, owner: str) -> tuple[Reader, Writer]:
    """Reader and writer of a part that is one value by itself."""
    inner = plain(part)
    if isinstance(inner, Record):
        codec = derive(inner.pdu)
        return codec.read, codec.encode
    if isinstance(inner, Sized):
        return _sized(inner, owner)
    if isinstance(inner, Many):
        return _many(inner, owner)
    if isinstance(inner, Tlvs):
        return _tlvs(inner, owner)
    if inner is GreedyBytes or type(inner) is type(GreedyBytes):
        return lambda buffer, o, end: (bytes(buffer[o:end]), end), bytes
    size = integer_size(inner)
    if size is None and isinstance(inner, Bytes) and isinstance(inner.length, int):
        return _short_bytes(inner.length, owner)
    if size is None:
        raise UnknownConstruct(f"{owner}: cannot derive {inner!r}")
    return _integer_codec(size, owner)


def _integer_codec(size: int, owner: str) -> tuple[Reader, Writer]:
    def read(buffer: Buffer, o: int, end: int) -> tuple[int, int]:
        if end - o < size:
            raise MalformedFrame(f"{owner} is cut short: {end - o} bytes are left")
        return int.from_bytes(buffer[o : o + size], "big"), o + size

    def write(value: int) -> bytes:
        if not 0 <= value < 1 << size * 8:
            raise ValueError(f"{owner}: {value} does not fit {size * 8} bits")
        return value.to_bytes(size, "big")

    return read, write


def _short_bytes(size: int, owner: str) -> tuple[Reader, Writer]:
    def read(buffer: Buffer, o: int, end: int) -> tuple[bytes, int]:
        if end - o < size:
            raise MalformedFrame(f"{owner} is cut short: {end - o} bytes are left")
        return bytes(buffer[o : o + size]), o + size

    def write(value: bytes) -> bytes:
        if len(value) != size:
            raise ValueError(f"{owner} has to be {size} bytes, not {len(value)}")
        return bytes(value)

    return read, write


def _sized(part: Sized, owner: str) -> tuple[Reader, Writer]:
    read_length, write_length = _codec_of(part.length, owner)
    read_body, write_body = _codec_of(part.subcon, owner)
    unit, plus = part.unit, part.plus

    def read(buffer: Buffer, o: int, end: int) -> tuple[Any, int]:
        size, o = read_length(buffer, o, end)
        stop = o + size * unit - plus
        if not o <= stop <= end:
            raise MalformedFrame(f"{owner}: a length of {size} where {end - o} bytes are left")
        value, o = read_body(buffer, o, stop)
        if o != stop:
            raise MalformedFrame(f"{owner}: {stop - o} bytes are left over")
        return value, o

    def write(value: Any) -> bytes:
        body = write_body(value)
        size, rest = divmod(len(body) + plus, unit)
        if rest:
            raise ValueError(f"{owner}: {len(body)} bytes are no multiple of {unit}")
        return write_length(size) + body

    return read, write


def _many(part: Many, owner: str) -> tuple[Reader, Writer]:
    read_one, write_one = _codec_of(part.subcon, owner)
    element = plain(part.subcon)
    if isinstance(element, Record) and derive(element.pdu).minimum_bytes == 0:
        raise UnknownConstruct(f"{owner}: many of {element.pdu.__name__}, which may have no bytes, never end")

    def read(buffer: Buffer, o: int, end: int) -> tuple[tuple[Any, ...], int]:
        found = []
        while o < end:
            value, o = read_one(buffer, o, end)
            found.append(value)
        return tuple(found), o

    return read, lambda values: b"".join(map(write_one, values))


def _tlvs(part: Tlvs, owner: str) -> tuple[Reader, Writer]:
    read_tag, write_tag = _codec_of(part.tag, owner)

    def codec(inner: Construct) -> tuple[Reader, Writer]:
        return _sized(Sized(part.length, inner, part.unit, part.plus), owner)

    kinds = {tag: codec(Record(kind)) for tag, kind in part.kinds.items()}
    tags = {kind: tag for tag, kind in part.kinds.items()}
    read_other, write_other = codec(GreedyBytes)

    def read(buffer: Buffer, o: int, end: int) -> tuple[tuple[Any, ...], int]:
        found = []
        while o < end:
            tag, o = read_tag(buffer, o, end)
            known = kinds.get(tag)
            value, o = (known[0] if known else read_other)(buffer, o, end)
            found.append(value if known else part.other(tag, value))
        return tuple(found), o

    def write(values: tuple[Any, ...]) -> bytes:
        out = []
        for value in values:
            tag = tags.get(type(value))
            if tag is None:
                out.append(write_tag(value.tag) + write_other(value.body))
            else:
                out.append(write_tag(tag) + kinds[tag][1](value))
        return b"".join(out)

    return read, write
