"""Comparing volumes by checksums: each array reads its own, and only the checksums travel."""

from __future__ import annotations

import hashlib

from iscsi_target.scsi.stores.store import BackingStore

PIECES_LIMIT = 256
PIECE_LIMIT_BYTES = 64 << 20
_READ_BYTES = 1 << 20


def checksums(store: BackingStore, offset: int, piece_bytes: int, pieces: int) -> tuple[str, ...]:
    """SHA-256 (hex) of up to ``pieces`` consecutive pieces; the last one ends with the store. StoreError."""
    store.flush()
    found = []
    for number in range(pieces):
        start = offset + number * piece_bytes
        end = min(start + piece_bytes, store.size_bytes)
        if not 0 <= start < end:
            break
        sha256 = hashlib.sha256()
        for at in range(start, end, _READ_BYTES):
            for part in store.read(at, min(_READ_BYTES, end - at)):
                sha256.update(part)
        found.append(sha256.hexdigest())
    return tuple(found)
