"""Capture files read: pcapng (draft-ietf-opsawg-pcapng) and classic pcap (draft-ietf-opsawg-pcap).

Both byte orders, any time resolution, simple and enhanced packets, several sections; unknown blocks are skipped, as the
format wants. The writer is :mod:`iscsi_target.trace.pcapng`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from iscsi_target.trace.pcapng import (
    BLOCK_LIMIT_BYTES,
    BYTE_ORDER_MAGIC,
    ENHANCED_PACKET,
    IF_TSOFFSET,
    IF_TSRESOL,
    INTERFACE,
    OPT_COMMENT,
    OPT_END,
    SECTION_HEADER,
    SIMPLE_PACKET,
)

LINKTYPE_NULL = 0
LINKTYPE_LINUX_SLL = 113
LINKTYPE_IPV4 = 228
LINKTYPE_IPV6 = 229

_NS_PER_S = 1_000_000_000
_PCAP_MAGIC = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}  # nanoseconds per unit of the fraction


class CaptureFormatError(ValueError):
    """The file is not a capture, or is damaged; the text says where."""


class CapturedPacket(NamedTuple):
    """One packet: ``time_ns`` since 1970 UTC, ``original_bytes`` its length before it was cut to ``data``."""

    time_ns: int
    link_type: int
    original_bytes: int
    data: bytes
    interface: int = 0
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class _InterfaceDescription:
    link_type: int
    snap_bytes: int
    units_per_s: int
    offset_s: int

    def time_ns(self, high: int, low: int) -> int:
        units = (high << 32) | low
        seconds, fraction = divmod(units, self.units_per_s)
        return (seconds + self.offset_s) * _NS_PER_S + fraction * _NS_PER_S // self.units_per_s


def _decode_options(data: bytes, order: str) -> dict[int, bytes]:
    """Options by code; the first of each counts."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + 4 <= len(data):
        code, length = struct.unpack_from(order + "HH", data, offset)
        if code == OPT_END:
            break
        value = data[offset + 4 : offset + 4 + length]
        if len(value) < length:
            raise CaptureFormatError("an option reaches beyond its block")
        found.setdefault(code, value)
        offset += 4 + length + -length % 4
    return found


def _describe_interface(body: bytes, order: str) -> _InterfaceDescription:
    if len(body) < 8:
        raise CaptureFormatError("an interface description is too short")
    link_type, _reserved, snap_bytes = struct.unpack_from(order + "HHI", body)
    options = _decode_options(body[8:], order)
    (resolution,) = options.get(IF_TSRESOL, b"\x06")[:1] or b"\x06"
    power = resolution & 0x7F
    if power > 63:
        raise CaptureFormatError(f"a time resolution of power {power} is beyond 64 bits")
    units_per_s = 2**power if resolution & 0x80 else 10**power
    offset = options.get(IF_TSOFFSET, b"")
    offset_s = struct.unpack(order + "q", offset)[0] if len(offset) == 8 else 0
    return _InterfaceDescription(link_type, snap_bytes, units_per_s, offset_s)


class _Truncated(CaptureFormatError):
    """The file ends inside a record."""


def _exactly(stream: BinaryIO, count: int, what: str) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise _Truncated(f"the file ends inside {what}")
    return data


def _read_pcapng(stream: BinaryIO) -> Iterator[CapturedPacket]:
    """The packets of a pcapng file whose first four bytes have been read."""
    order = "<"
    interfaces: list[_InterfaceDescription] = []
    kind_bytes = struct.pack("<I", SECTION_HEADER)
    while kind_bytes:
        if len(kind_bytes) < 4:
            raise _Truncated("the file ends inside a block header")
        length_bytes = _exactly(stream, 4, "a block header")
        (kind,) = struct.unpack(order + "I", kind_bytes)
        start = b""
        if kind == SECTION_HEADER:  # the same in both byte orders
            start = _exactly(stream, 4, "a section header")
            order = _byte_order(start)
            interfaces = []
        (length,) = struct.unpack(order + "I", length_bytes)
        if length % 4 or not 12 + len(start) <= length <= BLOCK_LIMIT_BYTES:
            raise CaptureFormatError(f"a block of {length} bytes cannot be")
        body = start + _exactly(stream, length - 12 - len(start), "a block")
        if _exactly(stream, 4, "a block") != length_bytes:
            raise CaptureFormatError("the two lengths of a block differ")
        if kind == INTERFACE:
            interfaces.append(_describe_interface(body, order))
        elif kind == ENHANCED_PACKET:
            yield _enhanced(body, order, interfaces)
        elif kind == SIMPLE_PACKET:
            yield _simple(body, order, interfaces)
        kind_bytes = stream.read(4)


def _byte_order(magic: bytes) -> str:
    for order in "<>":
        if struct.unpack(order + "I", magic)[0] == BYTE_ORDER_MAGIC:
            return order
    raise CaptureFormatError("the byte-order magic of a section is wrong")


def _enhanced(body: bytes, order: str, interfaces: list[_InterfaceDescription]) -> CapturedPacket:
    if len(body) < 20:
        raise CaptureFormatError("an enhanced packet is too short")
    number, high, low, captured, original = struct.unpack_from(order + "IIIII", body)
    if number >= len(interfaces):
        raise CaptureFormatError(f"a packet is of interface {number}, which is not described")
    end = 20 + captured
    if end > len(body):
        raise CaptureFormatError("a packet reaches beyond its block")
    interface = interfaces[number]
    comment: str | None = None
    options_at = end + -captured % 4
    if options_at < len(body):
        said = _decode_options(body[options_at:], order).get(OPT_COMMENT)
        comment = said.decode(errors="replace") if said is not None else None
    time_ns = interface.time_ns(high, low)
    return CapturedPacket(time_ns, interface.link_type, original, body[20:end], number, comment)


def _simple(body: bytes, order: str, interfaces: list[_InterfaceDescription]) -> CapturedPacket:
    if len(body) < 4 or not interfaces:
        raise CaptureFormatError("a simple packet is too short, or has no interface")
    (original,) = struct.unpack_from(order + "I", body)
    captured = min(original, interfaces[0].snap_bytes or original)
    if 4 + captured > len(body):
        raise CaptureFormatError("a packet reaches beyond its block")
    return CapturedPacket(0, interfaces[0].link_type, original, body[4 : 4 + captured])  # it has no time


def _read_pcap(stream: BinaryIO, order: str, ns_per_unit: int) -> Iterator[CapturedPacket]:
    """The packets of a classic file whose magic has been read."""
    header = _exactly(stream, 20, "the file header")
    link_type = struct.unpack(order + "HHiIII", header)[5] & 0xFFFF
    record = struct.Struct(order + "IIII")
    while True:
        data = stream.read(record.size)
        if not data:
            return
        if len(data) < record.size:
            raise _Truncated("the file ends inside a packet header")
        seconds, fraction, captured, original = record.unpack(data)
        if captured > BLOCK_LIMIT_BYTES:
            raise CaptureFormatError(f"a packet of {captured} bytes cannot be")
        packet = _exactly(stream, captured, "a packet")
        yield CapturedPacket(seconds * _NS_PER_S + fraction * ns_per_unit, link_type, original, packet)


def read_stream(stream: BinaryIO, *, allow_truncated: bool = False) -> Iterator[CapturedPacket]:
    """The packets of a capture in either format, in the order of the file.

    ``allow_truncated`` ends quietly where the file ends inside a record (the capture was cut off); otherwise that
    raises :class:`CaptureFormatError` like any other damage, after the whole packets before it.
    """
    magic = stream.read(4)
    packets: Iterator[CapturedPacket] | None = None
    if magic == struct.pack("<I", SECTION_HEADER):
        packets = _read_pcapng(stream)
    elif len(magic) == 4:
        for order in "<>":
            ns_per_unit = _PCAP_MAGIC.get(struct.unpack(order + "I", magic)[0])
            if ns_per_unit is not None:
                packets = _read_pcap(stream, order, ns_per_unit)
    if packets is None:
        raise CaptureFormatError("this is neither a pcapng nor a pcap file")
    try:
        yield from packets
    except _Truncated:
        if not allow_truncated:
            raise


def read_file(path: Path, *, allow_truncated: bool = False) -> Iterator[CapturedPacket]:
    """:func:`read_stream` of a file; raises :class:`OSError` where it cannot be opened."""
    with path.open("rb") as stream:
        yield from read_stream(stream, allow_truncated=allow_truncated)
