# SPDX-License-Identifier: Apache-2.0
"""Capture files written in pcapng (draft-ietf-opsawg-pcapng): a section header, one interface description per
interface, enhanced packets with nanoseconds and comments, and interface statistics (so that a file says how many
packets the capture itself lost). The reader is in :mod:`tools.capture.pcapng`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import BinaryIO

LINKTYPE_ETHERNET = 1
LINKTYPE_RAW = 101
"""Packets begin with their IP header."""

BLOCK_LIMIT_BYTES = 16 << 20
"""The longest block that is written, or read."""
OPTION_LIMIT_BYTES = 65_535

SECTION_HEADER, INTERFACE, SIMPLE_PACKET, STATISTICS, ENHANCED_PACKET = 0x0A0D0D0A, 1, 3, 5, 6
BYTE_ORDER_MAGIC = 0x1A2B3C4D
OPT_END, OPT_COMMENT = 0, 1
SHB_USERAPPL = 4
IF_NAME, IF_TSRESOL, IF_TSOFFSET = 2, 9, 14
ISB_STARTTIME, ISB_ENDTIME, ISB_IFRECV, ISB_IFDROP = 2, 3, 4, 5

_EPB = struct.Struct("<IIIIIII")  # type, length, interface, time high, time low, captured, original
_LENGTH = struct.Struct("<I")


def _option(code: int, value: bytes) -> bytes:
    if len(value) > OPTION_LIMIT_BYTES:
        raise ValueError(f"an option of {len(value)} bytes does not fit; the limit is {OPTION_LIMIT_BYTES}")
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _options(values: Iterable[tuple[int, bytes]]) -> bytes:
    encoded = b"".join(_option(code, value) for code, value in values)
    return encoded + struct.pack("<HH", OPT_END, 0) if encoded else b""


def _block(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    length = _LENGTH.pack(12 + len(body))
    return struct.pack("<I", kind) + length + body + length


def _halves(time_ns: int) -> bytes:
    return struct.pack("<II", time_ns >> 32, time_ns & 0xFFFF_FFFF)


class PcapngWriter:
    """Writes one section to a binary stream that the caller opens and closes; nothing is buffered here."""

    def __init__(
        self, stream: BinaryIO, *, application: str = "sancredit", comment: str | None = None
    ) -> None:
        self._stream = stream
        self._snap: list[int] = []
        options = [(OPT_COMMENT, comment.encode())] if comment else []
        options.append((SHB_USERAPPL, application.encode()))
        header = struct.pack("<IHHq", BYTE_ORDER_MAGIC, 1, 0, -1)
        stream.write(_block(SECTION_HEADER, header + _options(options)))

    def add_interface(self, link_type: int, *, snap_bytes: int = 0, name: str | None = None) -> int:
        """Describe an interface; its number for :meth:`write`. ``snap_bytes`` 0 means packets are kept whole."""
        options = [(IF_NAME, name.encode())] if name else []
        options.append((IF_TSRESOL, b"\x09"))
        body = struct.pack("<HHI", link_type, 0, snap_bytes) + _options(options)
        self._stream.write(_block(INTERFACE, body))
        self._snap.append(snap_bytes or BLOCK_LIMIT_BYTES)
        return len(self._snap) - 1

    def write(
        self,
        time_ns: int,
        data: bytes,
        original_bytes: int | None = None,
        *,
        interface: int = 0,
        comment: str | None = None,
    ) -> None:
        """Write a packet, cut to the interface's snap length; ``original_bytes`` None means it was not cut before."""
        if original_bytes is None:
            original_bytes = len(data)
        data = data[: self._snap[interface]]
        options = _options([(OPT_COMMENT, comment.encode())]) if comment else b""
        padding = -len(data) % 4
        length = 32 + len(data) + padding + len(options)
        header = _EPB.pack(
            ENHANCED_PACKET,
            length,
            interface,
            time_ns >> 32,
            time_ns & 0xFFFF_FFFF,
            len(data),
            original_bytes,
        )
        self._stream.write(b"".join((header, data, bytes(padding), options, _LENGTH.pack(length))))

    def write_statistics(
        self, time_ns: int, *, received: int, dropped: int, interface: int = 0, started_ns: int | None = None
    ) -> None:
        """Say how many packets the interface gave and how many of them the capture lost."""
        options = [(ISB_STARTTIME, _halves(started_ns))] if started_ns is not None else []
        options += [
            (ISB_ENDTIME, _halves(time_ns)),
            (ISB_IFRECV, struct.pack("<Q", received)),
            (ISB_IFDROP, struct.pack("<Q", dropped)),
        ]
        body = struct.pack("<I", interface) + _halves(time_ns) + _options(options)
        self._stream.write(_block(STATISTICS, body))
