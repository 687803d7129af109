# SPDX-License-Identifier: Apache-2.0
"""The stream between the two ends of a live link: a greeting, then records of link type 225 with their link time.

A record's bytes are what a pcapng packet of link type 225 holds: one ordered set (4 bytes), or one frame between its
delimiters. Its moment is when the last of it arrives, in picoseconds of link time. A record without bytes is nothing on
the line: it promises that nothing will arrive before its moment (a null message of Chandy and Misra).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar

from construct import Bytes, Const, Int16ub, Int32ub, Int64ub, Struct

from fcsim.errors import MalformedFrame, PeerViolation
from fcsim.speeds import MAX_DISTANCE_M, SPEEDS, Speed
from fcsim.wire.derive import derive
from fcsim.wire.ordered_sets import ORDERED_SET_BYTES

__all__ = [
    "HELLO_BYTES",
    "RECORD_LIMIT_BYTES",
    "VERSION",
    "Hello",
    "RecordReader",
    "encode_promise",
    "encode_record",
]

MAGIC = b"FC-LIVE\n"
VERSION = 2
_SPEED_BYTES = 8
_FRAME_MIN_BYTES = 36
#: 2112 bytes of data field, header, CRC, delimiters, and four extended headers.
RECORD_LIMIT_BYTES = 2112 + 36 + 4 * 24
TIME_SCALE_LIMIT = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The greeting, the first thing either end says. The listening end's decides the link; the other repeats it.

    Link time 0 is at ``epoch_ns`` of the machine's monotonic clock; one second of it lasts ``time_scale`` seconds.
    """

    LAYOUT: ClassVar[Struct] = Struct(
        "magic" / Const(int.from_bytes(MAGIC, "big"), Int64ub),
        "version" / Int16ub,
        "speed_name" / Bytes(_SPEED_BYTES),
        "distance_m" / Int32ub,
        "time_scale" / Int32ub,
        "epoch_ns" / Int64ub,
        "port_name" / Int64ub,
        "node_name" / Int64ub,
    )
    version: int = VERSION
    speed_name: bytes
    distance_m: int
    time_scale: int
    epoch_ns: int
    port_name: int
    node_name: int

    @property
    def speed(self) -> Speed:
        """The speed by its name. Raises KeyError for a greeting that was not checked."""
        return SPEEDS[self.speed_name.rstrip(b"\0").decode("ascii")]

    def encode(self) -> bytes:
        """The bytes on the stream."""
        return derive(Hello).encode(self)

    @staticmethod
    def check_start(data: bytes) -> None:
        """Whether the first bytes can become a greeting. Raises MalformedFrame."""
        if not MAGIC.startswith(data[: len(MAGIC)]):
            raise MalformedFrame(
                "the peer is no end of a live link: its greeting does not begin with FC-LIVE"
            )

    @classmethod
    def decode(cls, data: bytes) -> Hello:
        """Decode and check a greeting. Raises MalformedFrame with one clear line."""
        cls.check_start(data)
        hello = derive(Hello).decode(data)
        if hello.version != VERSION:
            raise MalformedFrame(
                f"the peer speaks version {hello.version} of the live link, this end {VERSION}"
            )
        name = hello.speed_name.rstrip(b"\0").decode("ascii", "replace")
        if name not in SPEEDS:
            raise MalformedFrame(f"{name!r} is not a Fibre Channel speed; there are {', '.join(SPEEDS)}")
        if hello.distance_m > MAX_DISTANCE_M:
            raise MalformedFrame(f"a distance is from 0 to {MAX_DISTANCE_M} m, not {hello.distance_m}")
        if not 1 <= hello.time_scale <= TIME_SCALE_LIMIT:
            raise MalformedFrame(f"a time scale is from 1 to {TIME_SCALE_LIMIT}, not {hello.time_scale}")
        return hello


HELLO_BYTES = Hello.LAYOUT.sizeof()


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """What stands before each record. Read and written with one format, in the hottest loop there is here."""

    LAYOUT: ClassVar[Struct] = Struct("moment_ps" / Int64ub, "size_bytes" / Int16ub)
    moment_ps: int
    size_bytes: int


RECORD_HEADER_BYTES = RecordHeader.LAYOUT.sizeof()
_HEAD = struct.Struct(">QH")


def encode_promise(moment_ps: int) -> bytes:
    """Nothing will arrive before ``moment_ps``."""
    return _HEAD.pack(moment_ps, 0)


def encode_record(moment_ps: int, record: bytes) -> bytes:
    """A record with its header."""
    return _HEAD.pack(moment_ps, len(record)) + record


class RecordReader:
    """Cuts records from a stream. What it holds is bounded by one record."""

    __slots__ = ("_buffer", "_last_ps")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._last_ps = 0

    @property
    def promised_ps(self) -> int:
        """Whatever comes from here on has this moment, or a later one."""
        return self._last_ps

    def receive(self, data: bytes) -> list[tuple[int, bytes]]:
        """Moment and bytes of every record that is whole now; promises are kept, not told.

        Raises MalformedFrame for a size that no record has, PeerViolation for a moment before the last one: a line
        keeps the order of what is on it.
        """
        buffer, last, records = self._buffer, self._last_ps, []
        buffer += data
        offset, end = 0, len(buffer)
        while end - offset >= RECORD_HEADER_BYTES:
            moment, size = _HEAD.unpack_from(buffer, offset)
            if size not in (0, ORDERED_SET_BYTES) and not _FRAME_MIN_BYTES <= size <= RECORD_LIMIT_BYTES:
                raise MalformedFrame(f"a record of {size} bytes is neither an ordered set nor a frame")
            if moment < last:
                raise PeerViolation(f"a record of {moment} ps after one of {last} ps")
            start = offset + RECORD_HEADER_BYTES
            if end - start < size:
                break
            last, offset = moment, start + size
            if size:
                records.append((moment, bytes(buffer[start:offset])))
        self._last_ps = last
        del buffer[:offset]
        return records
