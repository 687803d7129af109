# SPDX-License-Identifier: Apache-2.0
"""Text format: ``key=value`` pairs, each ended by one null byte (RFC 7143 section 6.1)."""

from __future__ import annotations

from collections.abc import Iterable

from iscsi_target.errors import NegotiationError

KEY_LIMIT_BYTES = 63
VALUE_LIMIT_BYTES = 8192
"""The standard sets 255 for most values; CHAP and SendTargets values may be longer."""

Pair = tuple[str, str]


def encode_text(pairs: Iterable[Pair]) -> bytes:
    """Encode pairs in their order."""
    return b"".join(f"{key}={value}\0".encode() for key, value in pairs)


def decode_text(data: bytes, *, limit: int | None = None) -> list[Pair]:
    """Decode a whole key=value text (all continued PDUs joined) of at most `limit` pairs (None: any number).

    Raises :class:`NegotiationError`.

    Several null bytes in a row are taken as one: some initiators pad within the data segment.
    """
    pairs: list[Pair] = []
    if data and data[-1] != 0:
        raise NegotiationError("text does not end with a null byte")
    for item in data.split(b"\0"):
        if not item:
            continue
        if limit is not None and len(pairs) >= limit:
            raise NegotiationError(f"more than {limit} keys in one text")
        key, equals, value = item.partition(b"=")
        if not equals:
            raise NegotiationError(f"text without '=': {item[:32]!r}")
        if not 0 < len(key) <= KEY_LIMIT_BYTES:
            raise NegotiationError(f"a key name has 1 to {KEY_LIMIT_BYTES} bytes, not {len(key)}")
        if len(value) > VALUE_LIMIT_BYTES:
            raise NegotiationError(f"the value of {key[:63]!r} has more than {VALUE_LIMIT_BYTES} bytes")
        try:
            pairs.append((key.decode(), value.decode()))
        except UnicodeDecodeError:
            raise NegotiationError(f"{key[:63]!r} is not UTF-8") from None
    return pairs
