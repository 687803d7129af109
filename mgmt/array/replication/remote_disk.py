"""The few SCSI commands that remote copy needs of a remote logical unit, over whatever carries them (SBC-4, SPC-4).

A carrier moves one command; what its answer means is decided here: a unit attention is news and the command is sent
again, BUSY and TASK SET FULL are waited out, everything else but GOOD is the remote array's no.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from mgmt.array.replication.transport import Buffer, RemoteRefused, ScsiOutcome

_GOOD, _CHECK_CONDITION, _BUSY, _CONFLICT, _FULL = 0x00, 0x02, 0x08, 0x18, 0x28
_UNIT_ATTENTION = 0x06
_TRIES = 6
_WAIT_S = 0.05
_KEYS = {
    0x2: "not ready",
    0x3: "medium error",
    0x4: "hardware error",
    0x5: "illegal request",
    0x7: "data protect",
    0xB: "aborted command",
}
#: One WRITE SAME covers at most so much.
ZERO_BYTES = 4 << 20


class Carrier(Protocol):
    """Moves one command to the remote target and its answer back. LinkLost when it cannot."""

    async def execute(
        self, lun: int, cdb: bytes, *, data_out: Sequence[Buffer] = (), data_in_length: int = 0
    ) -> ScsiOutcome:
        """Run one command."""
        ...


def _sense(sense: bytes) -> tuple[int, int, int]:
    """Sense key, ASC and ASCQ of fixed or descriptor format; zeros where there are none (SPC-4 4.5)."""
    if len(sense) >= 4 and sense[0] & 0x7E == 0x72:
        return sense[1] & 0x0F, sense[2], sense[3]
    if len(sense) >= 14:
        return sense[2] & 0x0F, sense[12], sense[13]
    return (sense[2] & 0x0F if len(sense) > 2 else 0), 0, 0


def _why(what: str, outcome: ScsiOutcome) -> str:
    if outcome.status == _CONFLICT:
        return f"{what}: the logical unit is reserved by somebody else (RESERVATION CONFLICT)"
    if outcome.status != _CHECK_CONDITION:
        return f"{what}: status {outcome.status:#04x}"
    key, asc, ascq = _sense(outcome.sense)
    said = {
        (0x27, 0x00): "it is write protected: its array does not take this array's writes any more",
        (0x27, 0x07): "its disk is full",
        (0x0C, 0x00): "its disk cannot be written",
        (0x21, 0x00): "the address is beyond its end",
        (0x25, 0x00): "there is no such logical unit",
    }.get((asc, ascq), f"{_KEYS.get(key, f'sense key {key:#x}')}, {asc:#04x}/{ascq:#04x}")
    return f"{what}: {said}"


async def run(
    carrier: Carrier,
    what: str,
    lun: int,
    cdb: bytes,
    *,
    data_out: Sequence[Buffer] = (),
    data_in_length: int = 0,
) -> Buffer:
    """A command that has to end GOOD; its Data-In. :class:`RemoteRefused` with ``what`` was refused, LinkLost."""
    for left in reversed(range(_TRIES)):
        outcome = await carrier.execute(lun, cdb, data_out=data_out, data_in_length=data_in_length)
        if outcome.status == _GOOD:
            return outcome.data_in
        waits = outcome.status in (_BUSY, _FULL)
        again = outcome.status == _CHECK_CONDITION and _sense(outcome.sense)[0] == _UNIT_ATTENTION
        if not left or not (waits or again):
            raise RemoteRefused(_why(f"LUN {lun} refused {what}", outcome))
        if waits:
            await asyncio.sleep(_WAIT_S)
    raise AssertionError("the last try either returned or raised")


def _range_cdb(opcode: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return bytes((opcode, flags)) + lba.to_bytes(8, "big") + blocks.to_bytes(4, "big") + bytes(2)


def _blocks(offset: int, length: int, block_bytes: int) -> tuple[int, int]:
    if offset % block_bytes or length % block_bytes or not length:
        raise RemoteRefused(f"the remote logical unit's blocks of {block_bytes} bytes do not fit the volume")
    return offset // block_bytes, length // block_bytes


async def read_capacity(carrier: Carrier, lun: int) -> tuple[int, int]:
    """READ CAPACITY(16): (blocks, bytes per block)."""
    cdb = bytes((0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0))
    data = await run(carrier, "READ CAPACITY", lun, cdb, data_in_length=32)
    return int.from_bytes(data[:8], "big") + 1, int.from_bytes(data[8:12], "big")


async def write(
    carrier: Carrier,
    lun: int,
    offset: int,
    data: Sequence[Buffer],
    block_bytes: int,
    *,
    durable: bool = False,
) -> None:
    """WRITE(16); with ``durable`` FUA."""
    lba, blocks = _blocks(offset, sum(len(piece) for piece in data), block_bytes)
    await run(carrier, "a WRITE", lun, _range_cdb(0x8A, lba, blocks, 0x08 if durable else 0), data_out=data)


async def read(carrier: Carrier, lun: int, offset: int, length: int, block_bytes: int) -> Buffer:
    """READ(16)."""
    lba, blocks = _blocks(offset, length, block_bytes)
    return await run(carrier, "a READ", lun, _range_cdb(0x88, lba, blocks), data_in_length=length)


async def zero(
    carrier: Carrier, lun: int, offset: int, length: int, block_bytes: int, *, unmap: bool
) -> None:
    """WRITE SAME(16) of a block of zeros, in pieces; with ``unmap`` the target may give the space back."""
    while length:
        piece = min(length, ZERO_BYTES)
        lba, blocks = _blocks(offset, piece, block_bytes)
        cdb = _range_cdb(0x93, lba, blocks, 0x08 if unmap else 0)
        await run(carrier, "a WRITE SAME", lun, cdb, data_out=(bytes(block_bytes),))
        offset, length = offset + piece, length - piece


async def flush(carrier: Carrier, lun: int) -> None:
    """SYNCHRONIZE CACHE(16) of the whole logical unit."""
    await run(carrier, "SYNCHRONIZE CACHE", lun, _range_cdb(0x91, 0, 0))


async def ping(carrier: Carrier, lun: int) -> None:
    """TEST UNIT READY: is anybody there?"""
    await run(carrier, "TEST UNIT READY", lun, bytes(6))
