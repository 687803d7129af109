"""IP datagrams put together from their fragments (RFC 791 section 3.2, RFC 8200 section 4.5), in bounded memory."""

from __future__ import annotations

DATAGRAMS = 256
"""Datagrams that may be incomplete at a time; the oldest is dropped for a new one."""
DATAGRAM_LIMIT_BYTES = 65_535
PIECES = 8192 // 8


class Fragments:
    """Pieces by datagram until they are whole."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, tuple[dict[int, bytes], list[int]]] = {}
        self.dropped = 0
        """Datagrams that never became whole."""

    def receive(self, key: bytes, offset: int, more: bool, payload: bytes) -> bytes | None:
        """One piece; the payload of the datagram when that is whole, else None.

        Pieces that were here before are passed over; a datagram longer than 65,535 bytes is dropped.
        """
        known = self._waiting.get(key)
        if known is None:
            if len(self._waiting) >= DATAGRAMS:
                del self._waiting[next(iter(self._waiting))]
                self.dropped += 1
            known = self._waiting[key] = ({}, [-1])
        pieces, total = known
        if offset + len(payload) > DATAGRAM_LIMIT_BYTES or len(pieces) >= PIECES:
            del self._waiting[key]
            self.dropped += 1
            return None
        if len(payload) > len(pieces.get(offset, b"")):
            pieces[offset] = payload
        if not more:
            total[0] = offset + len(payload)
        if total[0] < 0:
            return None
        whole = bytearray()
        for start in sorted(pieces):
            if start > len(whole):
                return None
            whole += pieces[start][len(whole) - start :]
        if len(whole) < total[0]:
            return None
        del self._waiting[key]
        return bytes(whole[: total[0]])
