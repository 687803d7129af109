# SPDX-License-Identifier: GPL-2.0-or-later
"""Derive scapy fields and packets from the construct descriptions of :mod:`fcsim.wire`.

Knows exactly what :mod:`fcsim.wire.derive` knows and refuses every other construct. This module builds on scapy's
classes and has scapy's licence.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

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
)
from construct.core import Renamed
from scapy.base_classes import BasePacket
from scapy.fields import (
    BitEnumField,
    BitField,
    ByteEnumField,
    ByteField,
    Field,
    FieldListField,
    FlagsField,
    IntEnumField,
    IntField,
    PacketField,
    PacketListField,
    ShortEnumField,
    ShortField,
    StrField,
    StrFixedLenField,
    StrLenField,
    ThreeBytesField,
    X3BytesField,
    XByteField,
    XIntField,
    XLongField,
    XShortField,
    _FieldContainer,
)
from scapy.packet import Packet, Raw

from fcsim.wire.derive import UnknownConstruct, default_of, expression, integer_size, plain
from fcsim.wire.layout import ByteCount, Coded, Many, Record, Sized, Tlvs, bit_struct

__all__ = [
    "Message",
    "RecordField",
    "as_message",
    "as_packet",
    "descriptor_layers",
    "everything",
    "fields_of",
    "layer_of",
    "message_layers",
]

_DECIMAL = {1: ByteField, 2: ShortField, 3: ThreeBytesField, 4: IntField, 8: XLongField}
_HEXADECIMAL = {1: XByteField, 2: XShortField, 3: X3BytesField, 4: XIntField, 8: XLongField}
_ENUMS = {1: ByteEnumField, 2: ShortEnumField, 4: IntEnumField}
_HEXADECIMAL_NAMES = ("_id", "_name", "address", "options", "mode", "code", "_port")
_NAMES = re.compile(r"[a-z_]\w*")
_FUNCTIONS = ("len",)
_LIST_LIMIT = 4096
"""Elements of one list; no frame holds more."""

LengthOf = Callable[[Packet], int]


def everything(_pkt: Packet) -> int:
    """The length of a part that takes all bytes there are."""
    return 1 << 16


class Message(Packet):
    """What the derived layers have in common. ``PDU`` is the dataclass they are derived from."""

    PDU: type[Any]

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """Bytes after a message have no meaning of their own."""
        return Raw


def _number(pkt: Packet, name: str) -> Any:
    """The value of a field, computed where it was left open."""
    field, value = pkt.getfield_and_val(name)
    if value is None:
        return field.i2m(pkt, None)
    return value


def _formula(text: str) -> LengthOf:
    """A function of a packet for an expression over its fields."""
    names = [name for name in dict.fromkeys(_NAMES.findall(text)) if name not in _FUNCTIONS]
    code = compile(text, "<description>", "eval")

    def evaluate(pkt: Packet) -> int:
        return int(eval(code, {"len": len}, {name: _number(pkt, name) for name in names}))

    return evaluate


def _at_least_zero(formula: LengthOf) -> LengthOf:
    return lambda pkt: max(0, formula(pkt))


def _computed(base: type[Field[Any, Any]], formula: LengthOf, *arguments: Any) -> Field[Any, Any]:
    """A field that computes its value when it is left open."""

    def i2m(self: Any, pkt: Packet | None, x: int | None) -> int:
        if x is None and pkt is not None:
            return formula(pkt)
        return int(base.i2m(self, pkt, x))

    kind = type(f"Computed{base.__name__}", (base,), {"i2m": i2m})
    field: Field[Any, Any] = kind(arguments[0], None, *arguments[1:])
    return field


class _PaddingField(StrLenField):
    """Padding whose length follows from other fields."""

    __slots__ = ("size_from",)

    def __init__(self, name: str, length_from: LengthOf) -> None:
        super().__init__(name, b"", length_from=length_from)
        self.size_from = length_from
        self.default = None

    def i2m(self, pkt: Packet | None, x: Any) -> bytes:
        if x is None and pkt is not None:
            return bytes(self.size_from(pkt))
        return bytes(x or b"")


def _take(layer: type[Packet], data: bytes) -> tuple[Packet, bytes]:
    """One packet from the start of `data` and the bytes after it."""
    packet = layer(data)
    rest = bytes(packet.payload)
    packet.remove_payload()
    return packet, rest


class RecordField(PacketField):
    """Another description in place of a field."""

    __slots__ = ("layer", "length_from")

    def __init__(
        self, name: str, default: Any, layer: type[Packet], length_from: LengthOf | None = None
    ) -> None:
        super().__init__(name, default, layer)
        self.layer, self.length_from = layer, length_from

    def getfield(self, pkt: Packet, s: bytes) -> tuple[bytes, Packet]:
        if self.length_from is None:
            packet, rest = _take(self.layer, s)
            return rest, packet
        size = self.length_from(pkt)
        return s[size:], self.layer(s[:size])


class _RecordListField(PacketListField):
    """Several of another description: as many as counted, or as fill the length, or as fill the rest."""

    __slots__ = ("number_from", "size_from", "take")

    def __init__(
        self,
        name: str,
        layer: Callable[[bytes], tuple[Packet, bytes]],
        length_from: LengthOf | None,
        count_from: LengthOf | None,
    ) -> None:
        super().__init__(name, [], Raw)
        self.take, self.size_from, self.number_from = layer, length_from, count_from

    def getfield(self, pkt: Packet, s: bytes) -> tuple[bytes, list[BasePacket]]:
        size = len(s) if self.size_from is None else self.size_from(pkt)
        data, rest = s[:size], s[size:]
        limit = _LIST_LIMIT if self.number_from is None else min(_LIST_LIMIT, self.number_from(pkt))
        found: list[BasePacket] = []
        while data and len(found) < limit:
            packet, data = self.take(data)
            found.append(packet)
        return data + rest, found


def _tlv_taker(part: Tlvs, prefix: str) -> Callable[[bytes], tuple[Packet, bytes]]:
    layers = {tag: _descriptor(part, prefix, tag, kind) for tag, kind in part.kinds.items()}
    other = _descriptor(part, prefix, None, part.other)  # type: ignore[arg-type]
    tag_bytes, length_bytes = part.tag.sizeof(), part.length.sizeof()

    def take(data: bytes) -> tuple[Packet, bytes]:
        head = tag_bytes + length_bytes
        tag = int.from_bytes(data[:tag_bytes], "big")
        size = head + int.from_bytes(data[tag_bytes:head], "big") * part.unit - part.plus
        size = size if size >= head else len(data)
        return layers.get(tag, other)(data[:size]), data[size:]

    return take


_DESCRIPTOR_LAYERS: dict[tuple[type[Any], str], type[Packet]] = {}


def _descriptor(part: Tlvs, prefix: str, tag: int | None, kind: type[Any]) -> type[Packet]:
    """The layer of one descriptor, tag and length included."""
    known = _DESCRIPTOR_LAYERS.get((kind, prefix))
    if known is not None:
        return known
    header = fields_in(kind, "tag" / part.tag, prefix, tag) + fields_in(
        kind, "length" / part.length, prefix, None
    )
    body = fields_of(kind, prefix) if tag is not None else [StrField("body", b"")]
    size = part.tag.sizeof() + part.length.sizeof()
    start = part.tag.sizeof()
    header[1].default = None

    def post_build(self: Packet, pkt: bytes, pay: bytes) -> bytes:
        if self.length is None:
            length = (len(pkt) - size + part.plus) // part.unit
            pkt = pkt[:start] + length.to_bytes(size - start, "big") + pkt[size:]
        return pkt + pay

    layer: type[Packet] = type(
        prefix + kind.__name__,
        (Message,),
        {
            "name": f"{prefix} {kind.__name__}",
            "fields_desc": [*header, *body],
            "post_build": post_build,
            "PDU": kind,
            "__doc__": kind.__doc__,
            "__module__": "fcsim.layers",
        },
    )
    _DESCRIPTOR_LAYERS[kind, prefix] = layer
    return layer


_LAYERS: dict[type[Any], type[Packet]] = {}


def layer_of(
    pdu: type[Any], prefix: str = "FC", base: type[Packet] = Message, name: str | None = None
) -> type[Packet]:
    """The scapy layer derived from a dataclass and its LAYOUT, the same one at every call.

    Raises :class:`~fcsim.wire.derive.UnknownConstruct` for a construct it does not know.
    """
    known = _LAYERS.get(pdu)
    if known is None:
        taken = [field.name for field in fields(pdu) if hasattr(Packet, field.name)]
        if taken:
            raise UnknownConstruct(
                f"{pdu.__name__} has fields that scapy's Packet has as attributes: {taken}"
            )
        attributes = {
            "name": name or f"{prefix} {pdu.__name__}",
            "fields_desc": fields_of(pdu, prefix),
            "PDU": pdu,
            "__doc__": pdu.__doc__,
            "__module__": "fcsim.layers",
        }
        known = _LAYERS[pdu] = type(name or prefix + pdu.__name__, (base,), attributes)
    return known


def message_layers() -> Mapping[type[Any], type[Packet]]:
    """The layers derived so far, by dataclass."""
    return _LAYERS


def descriptor_layers() -> Mapping[tuple[type[Any], str], type[Packet]]:
    """The descriptor layers derived so far, by dataclass and prefix."""
    return _DESCRIPTOR_LAYERS


def fields_of(
    pdu: type[Any], prefix: str = "FC", reserved: str = "reserved"
) -> list[Field[Any, Any] | _FieldContainer]:
    """scapy's fields for a description. Raises UnknownConstruct for a construct it does not know."""
    found: list[Field[Any, Any] | _FieldContainer] = []
    for number, part in enumerate(pdu.LAYOUT.subcons):
        found += fields_in(pdu, part, prefix, default_of(pdu, part.name), f"{reserved}_{number}")
    return found


def fields_in(
    pdu: type[Any], part: Construct, prefix: str, default: Any, reserved: str = "reserved"
) -> list[Field[Any, Any]]:
    """scapy's fields for one part of a description."""
    name, inner, codes = part.name, part, None
    while isinstance(inner, Renamed | Coded):
        codes = inner.codes if isinstance(inner, Coded) else codes
        inner = inner.subcon
    bits = bit_struct(part)
    if bits is not None:
        return [_bit(pdu, bit, f"{reserved}_{number}") for number, bit in enumerate(bits.subcons)]
    if isinstance(inner, Padded):
        if isinstance(inner.length, int):
            return [StrFixedLenField(reserved, bytes(inner.length), inner.length)]
        return [_PaddingField(reserved, _at_least_zero(_formula(expression(inner.length))))]
    if isinstance(inner, Const):
        return [_integer(name or reserved, inner.subcon, inner.value, codes)]
    if isinstance(inner, Rebuild):
        return [_computed_integer(name, inner.subcon, _formula(expression(inner.func)))]
    if isinstance(inner, ByteCount):
        return [_computed_integer(name, inner.subcon, _built_length(inner.of, inner.unit, 0))]
    if isinstance(inner, Sized):
        length = f"{name}_length"
        counted = _computed_integer(length, inner.length, _built_length(name, inner.unit, inner.plus))
        limit = _at_least_zero(lambda pkt: _number(pkt, length) * inner.unit - inner.plus)
        return [counted, _variable(pdu, name, inner.subcon, prefix, default, limit)]
    if isinstance(inner, FixedSized):
        limit = _at_least_zero(_formula(expression(inner.length)))
        return [_variable(pdu, name, inner.subcon, prefix, default, limit)]
    if isinstance(inner, FormatField | BytesInteger):
        return [_integer(name, inner, default, codes)]
    if isinstance(inner, Bytes) and isinstance(inner.length, int):
        return [StrFixedLenField(name, default or bytes(inner.length), inner.length)]
    return [_variable(pdu, name, inner, prefix, default, None)]


def _built_length(name: str, unit: int, plus: int) -> LengthOf:
    def length(pkt: Packet) -> int:
        field, value = pkt.getfield_and_val(name)
        return (len(field.addfield(pkt, b"", value)) + plus) // unit

    return length


def _size(inner: Construct) -> int:
    size = integer_size(plain(inner))
    if size not in _DECIMAL:
        raise UnknownConstruct(f"cannot derive {inner!r}")
    return size


def _computed_integer(name: str, inner: Construct, formula: LengthOf) -> Field[Any, Any]:
    return _computed(_DECIMAL[_size(inner)], formula, name)


def _integer(name: str, inner: Construct, default: Any, codes: Any) -> Field[Any, Any]:
    size, default = _size(inner), 0 if default is None else int(default)
    if codes is not None and issubclass(codes, enum.IntFlag):
        return FlagsField(name, default, size * 8, _flag_names(codes, size * 8))
    if codes is not None and size in _ENUMS:
        return _ENUMS[size](name, default, {int(code): code.name for code in codes})
    fitting = _HEXADECIMAL if name.endswith(_HEXADECIMAL_NAMES) else _DECIMAL
    return fitting[size](name, default)


def _flag_names(codes: type[enum.IntFlag], bits: int) -> list[str]:
    named = {int(code): code.name or "" for code in codes}
    return [named.get(1 << bit, f"bit_{bit}") for bit in range(bits)]


def _bit(pdu: type[Any], part: Construct, reserved: str) -> Field[Any, Any]:
    name, inner, codes = part.name, part, None
    while isinstance(inner, Renamed | Coded):
        codes = inner.codes if isinstance(inner, Coded) else codes
        inner = inner.subcon
    default = int(default_of(pdu, name) or 0)
    if isinstance(inner, Padded) and isinstance(inner.length, int):
        return BitField(reserved, 0, inner.length)
    if isinstance(inner, Rebuild) and isinstance(inner.subcon, BitsInteger):
        return _computed(BitField, _formula(expression(inner.func)), name, inner.subcon.length)
    if type(inner) is type(Flag):
        return BitField(name, default, 1)
    if isinstance(inner, BitsInteger) and isinstance(inner.length, int):
        if codes is not None and not issubclass(codes, enum.IntFlag):
            return BitEnumField(name, default, inner.length, {int(code): code.name for code in codes})
        return BitField(name, default, inner.length)
    raise UnknownConstruct(f"{pdu.__name__}.{part.name}: cannot derive {inner!r}")


def _variable(
    pdu: type[Any], name: str, inner: Construct, prefix: str, default: Any, limit: LengthOf | None
) -> Field[Any, Any]:
    """The field for one value of variable size. `limit` is its length in bytes where the description counts it."""
    count: LengthOf | None = None
    if isinstance(inner, Array):
        count, inner = _at_least_zero(_formula(expression(inner.count))), inner.subcon
    elif isinstance(inner, Many):
        count, inner = (lambda pkt: _LIST_LIMIT), inner.subcon
    if isinstance(inner, Tlvs):
        return _RecordListField(name, _tlv_taker(inner, prefix), limit, None)
    if isinstance(inner, Record):
        layer = layer_of(inner.pdu, prefix)
        if count is None:
            start = as_packet(default, prefix) if is_dataclass(default) else layer()
            return RecordField(name, start, layer, limit)
        return _RecordListField(name, lambda data: _take(layer, data), limit, count)
    if count is not None:
        element = _integer("", inner, 0, None)
        if limit is not None:
            return FieldListField(name, [], element, length_from=limit, max_count=_LIST_LIMIT)
        return FieldListField(name, [], element, count_from=count, max_count=_LIST_LIMIT)
    if type(inner) is type(GreedyBytes):
        if limit is not None:
            return StrLenField(name, default or b"", length_from=limit)
        return StrField(name, default or b"")
    if isinstance(inner, Bytes):
        return StrLenField(
            name, default or b"", length_from=_at_least_zero(_formula(expression(inner.length)))
        )
    raise UnknownConstruct(f"{pdu.__name__}.{name}: cannot derive {inner!r}")


def as_packet(message: Any, prefix: str = "FC") -> Packet:
    """The scapy packet with the values of a dataclass of :mod:`fcsim.wire`."""
    kind = type(message)
    layer = _LAYERS.get(kind) or _DESCRIPTOR_LAYERS.get((kind, prefix)) or layer_of(kind, prefix)
    values = {field.name: _as_value(getattr(message, field.name), prefix) for field in fields(message)}
    return layer(**values)


def _as_value(value: Any, prefix: str) -> Any:
    if is_dataclass(value):
        return as_packet(value, prefix)
    if isinstance(value, tuple):
        return [_as_value(element, prefix) for element in value]
    return int(value) if isinstance(value, bool) else value


def as_message(packet: Packet) -> Any:
    """The dataclass of :mod:`fcsim.wire` with the values of a packet derived from it."""
    kind = packet.PDU
    return kind(
        **{field.name: _from_value(packet.getfieldval(field.name), field.type) for field in fields(kind)}
    )


def _from_value(value: Any, declared: Any) -> Any:
    if isinstance(value, Packet):
        return bytes(value) if declared == "bytes" else as_message(value)
    if isinstance(value, list):
        return tuple(_from_value(element, "") for element in value)
    if declared == "bool":
        return bool(value)
    return int(value) if isinstance(value, int) or declared == "int" else value
