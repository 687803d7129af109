# SPDX-License-Identifier: Apache-2.0
"""Incremental framing: cut a TCP byte stream into PDUs, check digests, bound what the peer announces.

One read usually brings many PDUs; they are cut without copying (memory views into the read). Only a PDU that spans
reads is assembled in a buffer of exactly its size.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from iscsi_target.errors import LimitExceeded, ProtocolError
from iscsi_target.wire.digest import digest
from iscsi_target.wire.opcodes import BHS_BYTES

_lengths = struct.Struct(">I").unpack_from
_AHS_LIMIT_BYTES = 320
"""Room for a 260-byte CDB and a bidirectional length; TotalAHSLength alone could announce 1020."""

_EMPTY = memoryview(b"")


class Frame(NamedTuple):
    """One PDU as it lies in a read: ``header[offset]`` is its first byte."""

    header: bytes | bytearray | memoryview
    offset: int
    ahs: memoryview
    data: memoryview
    """The data segment without padding."""
    data_digest_ok: bool = True

    @property
    def opcode(self) -> int:
        """The opcode without the I bit."""
        return self.header[self.offset] & 0x3F

    @property
    def basic_header(self) -> bytes:
        """A copy of the 48 header bytes."""
        return bytes(self.header[self.offset : self.offset + BHS_BYTES])

    def whole(self) -> bytes:
        """The PDU as one byte string without digests (slow path: login, text, logging)."""
        padding = bytes(-len(self.data) % 4)
        return b"".join((self.basic_header, self.ahs, self.data, padding))


class HeaderDigestError(ProtocolError):
    """A header digest is wrong: nothing after it can be trusted, the connection ends (RFC 7143 section 7.7)."""


class Framer:
    """Cuts one direction of one connection into frames.

    `max_data_segment_length` is what we declared with MaxRecvDataSegmentLength. Digests are switched on by setting
    `header_digest` and `data_digest`; the change holds from the next frame on, also within one read.
    """

    __slots__ = (
        "_body",
        "_filled",
        "_head",
        "_total",
        "_transient",
        "chunk",
        "data_digest",
        "end",
        "header_digest",
        "max_data_segment_length",
        "start",
    )

    def __init__(self, max_data_segment_length: int = 8192) -> None:
        self.max_data_segment_length = max_data_segment_length
        self.header_digest = False
        self.data_digest = False
        self.chunk: bytes | bytearray | memoryview = b""
        """The read that is being cut; `start` and `end` are what is left of it."""
        self.start = 0
        self.end = 0
        self._transient = False
        self._head = b""
        self._body: bytearray | None = None
        self._filled = 0
        self._total = 0

    @property
    def partial(self) -> bool:
        """True while the bytes of an unfinished PDU are held."""
        return self._body is not None or bool(self._head)

    @property
    def partial_bytes(self) -> int:
        """How much of an unfinished PDU is held."""
        return len(self._head) if self._body is None else self._filled

    @property
    def missing(self) -> memoryview | None:
        """Where the rest of an unfinished PDU is to be put, when it is clear how long that is. Who reads straight
        into it says so with `filled`."""
        return None if self._body is None else memoryview(self._body)[self._filled :]

    def filled(self, size: int) -> None:
        """`size` bytes were put into `missing`; `feed` what came after them, or nothing."""
        self._filled += size

    def receive(self, chunk: bytes | bytearray | memoryview) -> Iterator[Frame]:
        """Yield the frames completed by `chunk`, which must not change as long as frames are in use.

        Raises :class:`~iscsi_target.errors.LimitExceeded` for a PDU that is too long and :class:`HeaderDigestError`.
        """
        body = self.feed(chunk)
        if body is not None:
            yield self.frame(body, 0)
        while (frame := self.next()) is not None:
            yield frame

    def feed(self, chunk: bytes | bytearray | memoryview, *, transient: bool = False) -> bytearray | None:
        """Begin with a read; what is left of an older one is dropped. Returns the PDU that older reads began and this
        one completes: its :meth:`frame` comes first, then those that :meth:`next` gives.

        `transient`: the chunk will be overwritten, so frames are made of copies.
        """
        self.chunk = chunk
        self._transient = transient
        start, end = 0, len(chunk)
        self.end = end
        if self._head:
            missing = min(BHS_BYTES - len(self._head), end)
            self._head += bytes(chunk[:missing])
            self.start = start = missing
            if len(self._head) < BHS_BYTES:
                return None
            self._total = self._length(self._head, 0)
            self._body = bytearray(self._total)
            self._body[:BHS_BYTES] = self._head
            self._filled = BHS_BYTES
            self._head = b""
        body = self._body
        if body is not None:
            take = min(end - start, self._total - self._filled)
            if take:
                body[self._filled : self._filled + take] = memoryview(chunk)[start : start + take]
                self._filled += take
            start += take
            if self._filled == self._total:
                self._body = None
            else:
                body = None
        self.start = start
        return body

    def next(self) -> Frame | None:
        """The next PDU of the read; None: there is no whole one left, and the rest is kept. Raises as `receive`."""
        start, left = self.start, self.end - self.start
        if left < BHS_BYTES:
            if left:
                self._head = bytes(self.chunk[start : self.end])
                self.start = self.end
            return None
        chunk = self.chunk
        total = self._length(chunk, start)
        if left < total:
            self._body = bytearray(total)
            self._filled = left
            self._total = total
            self._body[:left] = memoryview(chunk)[start : self.end]
            self.start = self.end
            return None
        self.start = start + total
        return self.frame(chunk, start, total if self._transient else 0)

    def frame(self, chunk: bytes | bytearray | memoryview, start: int, copied_bytes: int = 0) -> Frame:
        """The PDU that lies at ``chunk[start]``, whole; `copied_bytes`: so many are copied first. Raises
        :class:`HeaderDigestError`."""
        if copied_bytes:
            return self._frame(memoryview(bytes(chunk[start : start + copied_bytes])), 0)
        return self._frame(memoryview(chunk), start)

    def frame_of(self, chunk: bytes | bytearray | memoryview, start: int) -> Frame:
        """A copy of the PDU that lies at ``chunk[start]``, whole."""
        return self.frame(chunk, start, self._length(chunk, start))

    def _length(self, header: bytes | bytearray | memoryview, offset: int) -> int:
        (word,) = _lengths(header, offset + 4)
        ahs, data = (word >> 24) * 4, word & 0xFFFFFF
        if data > self.max_data_segment_length:
            raise LimitExceeded(
                f"a data segment of {data} bytes, more than the {self.max_data_segment_length} we declared"
            )
        if ahs > _AHS_LIMIT_BYTES:
            raise LimitExceeded(f"additional headers of {ahs} bytes, more than {_AHS_LIMIT_BYTES}")
        total: int = BHS_BYTES + ahs + (data + 3 & ~3)
        if self.header_digest:
            total += 4
        if self.data_digest and data:
            total += 4
        return total

    def _frame(self, view: memoryview, start: int) -> Frame:
        (word,) = _lengths(view, start + 4)
        position = start + BHS_BYTES
        if not word and not self.header_digest:
            return Frame(view, start, _EMPTY, _EMPTY)
        ahs_end = position + (word >> 24) * 4
        data_start = ahs_end
        if self.header_digest:
            data_start += 4
            if digest(view[start:ahs_end]) != view[ahs_end:data_start]:
                raise HeaderDigestError("header digest error")
        length = word & 0xFFFFFF
        data_end = data_start + length
        good = True
        if self.data_digest and length:
            padded_end = data_start + (length + 3 & ~3)
            good = digest(view[data_start:padded_end]) == view[padded_end : padded_end + 4]
        return Frame(view, start, view[position:ahs_end], view[data_start:data_end], good)
