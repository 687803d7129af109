# SPDX-License-Identifier: Apache-2.0
"""Fibre Channel over TCP/IP: encapsulation header, frames, the special frame, framing of the byte stream.

RFC 3643 describes the encapsulation, RFC 3821 what FCIP adds. Complements are computed when sent and checked when
received: a stream that lost its place fails at once.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from construct import (
    BitsInteger,
    BitStruct,
    Bytes,
    Int8ub,
    Int16ub,
    Int32ub,
    Int64ub,
    Padding,
    Rebuild,
    Struct,
    this,
)

from fcsim.errors import MalformedFrame
from fcsim.wire.derive import Buffer, derive
from fcsim.wire.frame import (
    CRC_BYTES,
    HEADER_BYTES,
    MAX_DATA_FIELD_BYTES,
    DelimitedFrame,
    decode_content,
    encode_content,
)
from fcsim.wire.layout import Record
from fcsim.wire.ordered_sets import EOF, SOF

__all__ = [
    "FCIP_HEADER_BYTES",
    "FCIP_PORT",
    "FCIP_PROTOCOL",
    "FcipDelimiter",
    "FcipFrame",
    "FcipFramer",
    "FcipHeader",
    "FcipSpecialFrame",
    "decode_fcip",
    "encode_fcip",
    "header_crc",
]

FCIP_PORT = 3225
FCIP_PROTOCOL = 1
FCIP_HEADER_BYTES = 28
_WORD = 4
_CRC_VALID = 1
PFLAG_CHANGED = 0x80
PFLAG_SPECIAL = 0x01
_SMALLEST = FCIP_HEADER_BYTES + _WORD + HEADER_BYTES + CRC_BYTES + _WORD
_LARGEST = _SMALLEST + MAX_DATA_FIELD_BYTES + 64
"""64 bytes of room for extended headers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FcipHeader:
    """FC encapsulation header of FCIP, 28 bytes (RFC 3643, FC encapsulation header; RFC 3821).

    ``frame_length`` in words counts the header itself. ``crc`` covers the header when the flag's last bit is set.
    """

    LAYOUT: ClassVar[Struct] = Struct(
        "protocol" / Int8ub,
        "version" / Int8ub,
        "protocol_complement" / Rebuild(Int8ub, 255 - this.protocol),
        "version_complement" / Rebuild(Int8ub, 255 - this.version),
        "replicated" / Rebuild(Int32ub, this.protocol * 16776960 + this.version * 65535 + 65535),
        "pflags" / Int8ub,
        Padding(1),
        "pflags_complement" / Rebuild(Int8ub, 255 - this.pflags),
        "reserved_complement" / Rebuild(Int8ub, 255 + this.pflags * 0),
        "length_word" / BitStruct("flags" / BitsInteger(6), "frame_length" / BitsInteger(10)),
        "length_complement"
        / BitStruct(
            "flags_complement" / Rebuild(BitsInteger(6), 63 - this._.length_word.flags),
            "frame_length_complement" / Rebuild(BitsInteger(10), 1023 - this._.length_word.frame_length),
        ),
        "time_stamp_seconds" / Int32ub,
        "time_stamp_fraction" / Int32ub,
        "crc" / Int32ub,
    )
    protocol: int = FCIP_PROTOCOL
    version: int = 1
    pflags: int = 0
    flags: int = 0
    frame_length: int = 0
    time_stamp_seconds: int = 0
    time_stamp_fraction: int = 0
    crc: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FcipDelimiter:
    """SOF or EOF in its word: the code twice, its complement twice (RFC 3643, SOF and EOF)."""

    LAYOUT: ClassVar[Struct] = Struct(
        "code" / Int8ub,
        "again" / Rebuild(Int8ub, this.code + 0),
        "complement" / Rebuild(Int8ub, 255 - this.code),
        "complement_again" / Rebuild(Int8ub, 255 - this.code),
    )
    code: int


_SPECIAL_HEADER = FcipHeader(pflags=PFLAG_SPECIAL, frame_length=19)


@dataclass(frozen=True, slots=True, kw_only=True)
class FcipFrame:
    """One encapsulated frame. ``header.frame_length`` is computed when sent."""

    header: FcipHeader = FcipHeader()
    delimited: DelimitedFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class FcipSpecialFrame:
    """FCIP Special Frame: what the two ends of a new connection are (RFC 3821, FSF), 19 words.

    ``k_a_tov`` in ms. Wireshark shows the destination name and K_A_TOV two bytes off.
    """

    LAYOUT: ClassVar[Struct] = Struct(
        "header" / Record(FcipHeader),
        Padding(4),
        "source_fabric_name" / Int64ub,
        "source_entity_id" / Int64ub,
        "connection_nonce" / Bytes(8),
        "connection_usage_flags" / Int8ub,
        Padding(1),
        "connection_usage_code" / Int16ub,
        "destination_fabric_name" / Int64ub,
        "k_a_tov" / Int32ub,
        Padding(4),
    )
    header: FcipHeader = _SPECIAL_HEADER
    source_fabric_name: int
    source_entity_id: int
    connection_nonce: bytes
    connection_usage_flags: int = 0
    connection_usage_code: int = 0
    destination_fabric_name: int
    k_a_tov: int = 0


SPECIAL_FRAME_BYTES = derive(FcipSpecialFrame).minimum_bytes


def header_crc(header: Buffer) -> int:
    """The CRC over the six words of a header before the CRC itself (RFC 3643, FC encapsulation header)."""
    return zlib.crc32(header[: FCIP_HEADER_BYTES - CRC_BYTES])


def _header(data: Buffer) -> FcipHeader:
    """The header at the start of `data`, its complements, length and CRC checked."""
    header = derive(FcipHeader).decode(data)
    again = derive(FcipHeader).encode(header)
    if again[:16] != bytes(data[:16]):
        raise MalformedFrame("the FCIP header and its complements do not agree")
    if header.protocol != FCIP_PROTOCOL or header.version != 1:
        raise MalformedFrame(f"FC encapsulation {header.protocol} version {header.version} is not FCIP")
    size = header.frame_length * _WORD
    if header.pflags & PFLAG_SPECIAL:
        if size != SPECIAL_FRAME_BYTES:
            raise MalformedFrame(f"an FCIP special frame has {SPECIAL_FRAME_BYTES} bytes, not {size}")
    elif not _SMALLEST <= size <= _LARGEST:
        raise MalformedFrame(f"an FCIP frame of {size} bytes")
    if header.flags & _CRC_VALID and header.crc != header_crc(data):
        raise MalformedFrame("the CRC of the FCIP header is wrong")
    return header


def _delimiter(data: Buffer, offset: int) -> int:
    delimiter = derive(FcipDelimiter).decode(data, offset)
    if derive(FcipDelimiter).encode(delimiter) != bytes(data[offset : offset + _WORD]):
        raise MalformedFrame("an FCIP delimiter and its complement do not agree")
    return delimiter.code


def decode_fcip(data: Buffer) -> FcipFrame | FcipSpecialFrame:
    """Decode exactly one encapsulated frame. Raises :class:`~fcsim.errors.MalformedFrame`."""
    header = _header(data)
    if header.frame_length * _WORD != len(data):
        raise MalformedFrame(f"an FCIP frame of {header.frame_length} words in {len(data)} bytes")
    if header.pflags & PFLAG_SPECIAL:
        return derive(FcipSpecialFrame).decode(data)
    sof = _delimiter(data, FCIP_HEADER_BYTES)
    eof = _delimiter(data, len(data) - _WORD)
    frame, crc, good = decode_content(data[FCIP_HEADER_BYTES + _WORD : len(data) - _WORD])
    delimited = DelimitedFrame(sof=SOF(sof), frame=frame, crc=crc, eof=EOF(eof), crc_ok=good)
    return FcipFrame(header=header, delimited=delimited)


def encode_fcip(message: FcipFrame | FcipSpecialFrame) -> bytes:
    """Encode a frame; length, complements and, where flagged, the CRC of the header are computed.

    Raises ValueError when a field does not fit.
    """
    if isinstance(message, FcipSpecialFrame):
        body = derive(FcipSpecialFrame).encode(message)[FCIP_HEADER_BYTES:]
        header = replace(message.header, pflags=message.header.pflags | PFLAG_SPECIAL)
    else:
        delimiter = derive(FcipDelimiter).encode
        body = b"".join(
            (
                delimiter(FcipDelimiter(code=message.delimited.sof)),
                encode_content(message.delimited.frame, message.delimited.crc),
                delimiter(FcipDelimiter(code=message.delimited.eof)),
            )
        )
        header = message.header
    header = replace(header, frame_length=(FCIP_HEADER_BYTES + len(body)) // _WORD)
    encoded = derive(FcipHeader).encode(header)
    if header.flags & _CRC_VALID:
        encoded = encoded[:-CRC_BYTES] + header_crc(encoded).to_bytes(CRC_BYTES, "big")
    return encoded + body


class FcipFramer:
    """Cuts one direction of a TCP connection into encapsulated frames; it never holds more than one of them."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def receive(self, chunk: Buffer) -> Iterator[bytes]:
        """Yield the frames that `chunk` completes. Raises :class:`~fcsim.errors.MalformedFrame`."""
        data = self._held + bytes(chunk)
        self._held = b""
        start = 0
        while len(data) - start >= FCIP_HEADER_BYTES:
            size = _header(data[start : start + FCIP_HEADER_BYTES]).frame_length * _WORD
            if len(data) - start < size:
                break
            frame = data[start : start + size]
            start += size
            yield frame
        self._held = data[start:]
