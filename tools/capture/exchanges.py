"""Exchanges: SCSI commands with their answers, and how they lie in memory."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

EXCHANGE_WORDS = 15
EXCHANGE_BYTES = EXCHANGE_WORDS * 8
EXCHANGES_PER_BLOCK = 8192
_EXCHANGE = struct.Struct("=qqqqqqQQQIIIIIIIBBHIIq")
assert _EXCHANGE.size == EXCHANGE_BYTES


class Flag(enum.IntFlag):
    """What an exchange is."""

    READ = 1
    WRITE = 2
    FIBRE = 4
    MANAGEMENT = 8


class Exchange(NamedTuple):
    """One command with its answer. Times are nanoseconds since 1970 UTC; 0 where there was no such moment.

    ``start_ns``: the command was there as a whole; ``begin_ns``: its first byte. ``first_ns``: the first byte of the
    first answer of any kind (data, R2T or XFER_RDY, status). ``end_ns``: the status was there. ``ready_ns``: first R2T
    or XFER_RDY; ``data_ns``: the first byte of the host's data after it. ``tag``: initiator task tag, or OX_ID << 16 |
    RX_ID of the command. ``nexus``: number of initiator, target and LUN. ``depth``: commands outstanding on it,
    this one included. ``lun_word`` and the CDB words are what the kernel keeps: use :func:`cdb_of`.
    """

    start_ns: int
    begin_ns: int
    first_ns: int
    end_ns: int
    ready_ns: int
    data_ns: int
    lun_word: int
    cdb_0: int
    cdb_1: int
    tag: int
    bytes_in: int
    edtl: int
    bytes_out: int
    packet: int
    end_packet: int
    nexus: int
    status: int
    response: int
    flags: int
    depth: int
    r2ts: int
    flow: int

    @property
    def cdb(self) -> bytes:
        """The first 16 bytes of the CDB."""
        return struct.pack(">QQ", self.cdb_0, self.cdb_1)

    @property
    def ect_ns(self) -> int:
        """Exchange completion time: from the command to its status."""
        return self.end_ns - self.start_ns


def exchanges_of(block: Any, count: int) -> Iterator[Exchange]:
    """The exchanges of a block that the matcher gave."""
    octets = memoryview(block).cast("B")[: count * EXCHANGE_BYTES]
    return map(Exchange._make, _EXCHANGE.iter_unpack(octets))


def exchange_dtype() -> Any:
    """The numpy type of an exchange, with the fields of :class:`Exchange`."""
    import numpy as np

    kinds = ["i8"] * 6 + ["u8"] * 3 + ["u4"] * 7 + ["u1", "u1", "u2", "u4", "u4", "i8"]
    return np.dtype(list(zip(Exchange._fields, kinds, strict=True)))
