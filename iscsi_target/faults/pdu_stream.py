# SPDX-License-Identifier: Apache-2.0
"""A byte stream cut into whole PDUs as they lie on the wire, digests included, checking nothing.

:class:`iscsi_target.wire.framing.Framer` is for who wants to understand the PDUs: it checks digests and gives up
where one is wrong. Here a PDU with a wrong digest travels on like any other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from iscsi_target.executor import Buffer
from iscsi_target.wire.opcodes import BHS_BYTES

_lengths = struct.Struct(">I").unpack_from
_DIGEST_BYTES = 4


def wire_length(header: Buffer, offset: int, *, header_digest: bool, data_digest: bool) -> int:
    """Bytes of the PDU whose basic header is at `offset`, with padding and digests (RFC 7143 section 11.1)."""
    (word,) = _lengths(header, offset + 4)
    data = word & 0xFFFFFF
    total: int = BHS_BYTES + (word >> 24) * 4 + (data + 3 & ~3)
    if header_digest:
        total += _DIGEST_BYTES
    if data_digest and data:
        total += _DIGEST_BYTES
    return total


class PduStream:
    """Cuts one direction of one connection. `limit_bytes`: PDUs longer than that are not waited for.

    What `feed` was given comes out of `next_pdu` PDU by PDU; the digests may be switched on in between. `skip` follows
    the boundaries of bytes that are passed on as they come, so that cutting can begin at any later PDU.
    """

    __slots__ = (
        "_at",
        "_chunks",
        "_have",
        "_head",
        "_passing",
        "data_digest",
        "header_digest",
        "limit_bytes",
    )

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.header_digest = False
        self.data_digest = False
        self._chunks: list[Buffer] = []
        self._at = 0
        """Bytes of the first chunk that are used up."""
        self._have = 0
        self._head = b""
        """The first bytes of a header that was passed on in part."""
        self._passing = 0
        """Bytes of the current PDU that are still to be passed on uncut."""

    @property
    def held_bytes(self) -> int:
        """Bytes fed and not taken yet."""
        return self._have

    @property
    def between_pdus(self) -> bool:
        """Whether the next byte fed begins a PDU."""
        return not (self._have or self._passing or self._head)

    def feed(self, buffers: Iterable[Buffer]) -> None:
        """More bytes."""
        for buffer in buffers:
            if len(buffer):
                self._chunks.append(buffer)
                self._have += len(buffer)

    def next_piece(self) -> tuple[bytes, bool] | None:
        """The next bytes and whether they are one whole PDU; bytes that are none are the rest of one passed on in part,
        or of one too long to be held. None: nothing whole is there."""
        if self._head or self._passing:
            return self._rest_of_passed()
        if self._have < BHS_BYTES:
            return None
        total = self._length_of_next()
        if total > self.limit_bytes:
            self._passing = total
            return self._rest_of_passed()
        if self._have < total:
            return None
        return self._take(total), True

    def skip(self, buffers: Iterable[Buffer]) -> None:
        """Follow bytes that somebody else passes on; only while nothing is held."""
        assert not self._have
        for buffer in buffers:
            self._follow(buffer)

    def drain(self) -> bytes:
        """Whatever is held, as it came."""
        return self._take(self._have)

    def _rest_of_passed(self) -> tuple[bytes, bool] | None:
        if not self._have:
            return None
        if self._head:
            taken = self._take(min(self._have, BHS_BYTES - len(self._head)))
        else:
            taken = self._take(min(self._have, self._passing))
        self._follow(taken)
        return taken, False

    def _follow(self, buffer: Buffer) -> None:
        at, end = 0, len(buffer)
        while at < end:
            if self._passing:
                step = min(self._passing, end - at)
                self._passing -= step
                at += step
            elif not self._head and end - at >= BHS_BYTES:
                self._passing = self._length(buffer, at)
            else:
                step = min(BHS_BYTES - len(self._head), end - at)
                self._head += bytes(buffer[at : at + step])
                at += step
                if len(self._head) == BHS_BYTES:
                    self._passing = self._length(self._head, 0) - BHS_BYTES
                    self._head = b""

    def _length_of_next(self) -> int:
        first = self._chunks[0]
        if len(first) - self._at >= BHS_BYTES:
            return self._length(first, self._at)
        head = bytearray()
        at = self._at
        for chunk in self._chunks:
            head += chunk[at : at + BHS_BYTES - len(head)]
            at = 0
            if len(head) == BHS_BYTES:
                break
        return self._length(head, 0)

    def _length(self, header: Buffer, offset: int) -> int:
        return wire_length(header, offset, header_digest=self.header_digest, data_digest=self.data_digest)

    def _take(self, count: int) -> bytes:
        pieces = []
        missing = count
        used = 0
        for chunk in self._chunks:
            if not missing:
                break
            piece = chunk[self._at : self._at + missing]
            missing -= len(piece)
            pieces.append(piece)
            if self._at + len(piece) == len(chunk):
                self._at = 0
                used += 1
            else:
                self._at += len(piece)
        del self._chunks[:used]
        self._have -= count
        return b"".join(pieces)
