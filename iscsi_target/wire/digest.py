# SPDX-License-Identifier: Apache-2.0
"""Header and data digests: CRC32C, least significant byte first (RFC 7143 sections 6.1, 13.1 and appendix A.4)."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from crc32c import crc32c as _crc32c

DIGEST_BYTES = 4
_little_endian = struct.Struct("<I").pack


def digest(*buffers: bytes | bytearray | memoryview) -> bytes:
    """The four digest bytes over `buffers`, in the order in which they go on the wire."""
    return digest_of(buffers)


def digest_of(buffers: Iterable[bytes | bytearray | memoryview]) -> bytes:
    """As :func:`digest`, over an iterable."""
    crc = 0
    for buffer in buffers:
        crc = _crc32c(buffer, crc)
    return _little_endian(crc)
