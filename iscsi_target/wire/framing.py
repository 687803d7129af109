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
        "data_digest",
        "header_digest",
        "max_data_segment_length",
    )

    def __init__(self, max_data_segment_length: int = 8192) -> None:
        self.max_data_segment_length = max_data_segment_length
        self.header_digest = False
        self.data_digest = False
        self._head = b""
        self._body: bytearray | None = None
        self._filled = 0
        self._total = 0

    @property
    def partial(self) -> bool:
        """True while the bytes of an unfinished PDU are held."""
        return self._body is not None or bool(self._head)

    def receive(self, chunk: bytes | bytearray | memoryview) -> Iterator[Frame]:
        """Yield the frames completed by `chunk`, which must not change as long as frames are in use.

        Raises :class:`~iscsi_target.errors.LimitExceeded` for a PDU that is too long and :class:`HeaderDigestError`.
        """
        view = memoryview(chunk)
        start, end = 0, len(view)
        if self._body is None and self._head:
            missing = min(BHS_BYTES - len(self._head), end)
            self._head += bytes(view[:missing])
            start = missing
            if len(self._head) < BHS_BYTES:
                return
            self._total = self._length(self._head, 0)
            self._body = bytearray(self._total)
            self._body[:BHS_BYTES] = self._head
            self._filled = BHS_BYTES
            self._head = b""
        if self._body is not None:
            body = self._body
            take = min(end - start, self._total - self._filled)
            body[self._filled : self._filled + take] = view[start : start + take]
            self._filled += take
            start += take
            if self._filled < self._total:
                return
            self._body = None
            yield self._frame(memoryview(body), 0)
        while end - start >= BHS_BYTES:
            total = self._length(view, start)
            if end - start < total:
                self._body = bytearray(total)
                self._filled = end - start
                self._total = total
                self._body[: end - start] = view[start:end]
                return
            frame = self._frame(view, start)
            start += total
            yield frame
        if start < end:
            self._head = bytes(view[start:end])

    def _length(self, header: bytes | memoryview, offset: int) -> int:
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
