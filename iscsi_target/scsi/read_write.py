# SPDX-License-Identifier: Apache-2.0
"""READ, WRITE and SYNCHRONIZE CACHE (SBC-3 5.10 to 5.14, 5.26 to 5.28, 5.39 to 5.42)."""

from __future__ import annotations

from typing import NamedTuple

import construct as c

from iscsi_target.executor import Buffer, ScsiResult
from iscsi_target.scsi.errors import invalid_field_in_cdb
from iscsi_target.scsi.layout import CdbLayout, bits, control, flag, opcode, reserved
from iscsi_target.scsi.logical_unit import LogicalUnit
from iscsi_target.scsi.operation import DISK_ONLY, GOOD, Access, Operation, Task, Traits
from iscsi_target.scsi.status import Status


class Transfer(NamedTuple):
    """Fields of a READ or WRITE CDB; `protect` is RDPROTECT or WRPROTECT."""

    lba: int
    blocks: int
    protect: int = 0
    dpo: int = 0
    fua: int = 0


class BlockRange(NamedTuple):
    """Fields of SYNCHRONIZE CACHE and PRE-FETCH; 0 blocks means to the end of the medium."""

    lba: int
    blocks: int
    immed: int = 0


_FLAGS = (bits("protect", 3), flag("dpo"), flag("fua"), reserved(3))


def transfer_6(code: int) -> CdbLayout[Transfer]:
    """The six-byte form: 21 bits of LBA, and 0 blocks means 256 (SBC-3 5.10)."""
    return CdbLayout(Transfer, opcode(code), reserved(3), bits("lba", 21), bits("blocks", 8), control())


def transfer_10(code: int) -> CdbLayout[Transfer]:
    """The ten-byte form."""
    return CdbLayout(
        Transfer, opcode(code), *_FLAGS, bits("lba", 32), reserved(8), bits("blocks", 16), control()
    )


def transfer_12(code: int) -> CdbLayout[Transfer]:
    """The twelve-byte form."""
    return CdbLayout(
        Transfer, opcode(code), *_FLAGS, bits("lba", 32), bits("blocks", 32), reserved(8), control()
    )


def transfer_16(code: int) -> CdbLayout[Transfer]:
    """The sixteen-byte form."""
    return CdbLayout(
        Transfer, opcode(code), *_FLAGS, bits("lba", 64), bits("blocks", 32), reserved(8), control()
    )


READ_6, WRITE_6 = transfer_6(0x08), transfer_6(0x0A)
READ_10, WRITE_10 = transfer_10(0x28), transfer_10(0x2A)
READ_12, WRITE_12 = transfer_12(0xA8), transfer_12(0xAA)
READ_16, WRITE_16 = transfer_16(0x88), transfer_16(0x8A)

_IMMED: tuple[c.Construct, ...] = (reserved(6), flag("immed"), reserved(1))


def range_10(code: int) -> CdbLayout[BlockRange]:
    """A range of blocks in ten bytes."""
    return CdbLayout(
        BlockRange, opcode(code), *_IMMED, bits("lba", 32), reserved(8), bits("blocks", 16), control()
    )


def range_16(code: int) -> CdbLayout[BlockRange]:
    """A range of blocks in sixteen bytes."""
    return CdbLayout(
        BlockRange, opcode(code), *_IMMED, bits("lba", 64), bits("blocks", 32), reserved(8), control()
    )


SYNCHRONIZE_CACHE_10, SYNCHRONIZE_CACHE_16 = range_10(0x35), range_16(0x91)
PRE_FETCH_10, PRE_FETCH_16 = range_10(0x34), range_16(0x90)


def check_transfer(unit: LogicalUnit, cdb: Transfer) -> tuple[int, int]:
    """(offset, length) in bytes of a transfer, after everything that can be wrong with it.

    No protection information here, so RDPROTECT and WRPROTECT must be 0 (SBC-3 table 60).
    """
    if cdb.protect:
        raise invalid_field_in_cdb(1, 7)
    extent = unit.extent(cdb.lba, cdb.blocks)
    if cdb.blocks > unit.max_transfer_blocks:
        raise invalid_field_in_cdb(7)
    return extent


def write_length(unit: LogicalUnit, cdb: Transfer) -> int:
    """Bytes of Data-Out of a WRITE."""
    return check_transfer(unit, cdb)[1]


def _six(cdb: Transfer) -> Transfer:
    return cdb if cdb.blocks else cdb._replace(blocks=256)


def write_length_6(unit: LogicalUnit, cdb: Transfer) -> int:
    """Bytes of Data-Out of a WRITE (6)."""
    return check_transfer(unit, _six(cdb))[1]


def read_6(task: Task, cdb: Transfer) -> ScsiResult:
    """READ (6)."""
    return read(task, _six(cdb))


def write_6(task: Task, cdb: Transfer) -> ScsiResult:
    """WRITE (6)."""
    return write(task, _six(cdb))


def read(task: Task, cdb: Transfer) -> ScsiResult:
    """READ (10), (12), (16); stops at the expected length, so that no bytes are fetched to be thrown away.

    FUA asks for blocks from the medium and not from a volatile cache: what was written is flushed first.
    """
    unit = task.unit
    offset, length = check_transfer(unit, cdb)
    if not length:
        return GOOD
    if cdb.fua and not unit.read_only and unit.mode.wce:
        unit.store.flush()
    wanted = min(length, read_limit(task))
    with unit.ranges.shared(offset, length):
        return ScsiResult(Status.GOOD, unit.store.read(offset, wanted), transfer_length=length)


def read_limit(task: Task) -> int:
    """Most bytes of Data-In the initiator takes."""
    command = task.command
    if not command.read:
        return 0
    return command.expected_data_in_length if command.write else command.expected_length


def received(task: Task, length: int) -> Buffer:
    """The Data-Out of a command that wants `length` bytes; the whole blocks of what came when it is less.

    An initiator that announced less than the CDB asks for has its residual reported as overflow by the session
    (RFC 7143 11.4.5); the blocks that it did send are written.
    """
    data = task.data_out
    if len(data) < length:
        length = len(data) // task.unit.block_length * task.unit.block_length
    return data if len(data) == length else memoryview(data)[:length]


def write(task: Task, cdb: Transfer) -> ScsiResult:
    """WRITE (10), (12), (16)."""
    unit = task.unit
    offset, length = check_transfer(unit, cdb)
    if length:
        store_blocks(unit, offset, received(task, length), fua=bool(cdb.fua))
    return ScsiResult(Status.GOOD, transfer_length=length)


def store_blocks(unit: LogicalUnit, offset: int, data: Buffer, *, fua: bool) -> None:
    """Write blocks; durable at once with FUA or without a write cache (SBC-3 4.16)."""
    with unit.ranges.exclusive(offset, len(data)):
        unit.store.write(offset, data, durable=fua or not unit.mode.wce)


def synchronize_cache(task: Task, cdb: BlockRange) -> ScsiResult:
    """SYNCHRONIZE CACHE (10) and (16). The store flushes as a whole; IMMED may be ignored and is."""
    unit = task.unit
    unit.extent(cdb.lba, cdb.blocks)
    if not unit.read_only:
        unit.store.flush()
    return GOOD


def pre_fetch(task: Task, cdb: BlockRange) -> ScsiResult:
    """PRE-FETCH (10) and (16): there is no cache of our own to fill, so GOOD and not CONDITION MET (SBC-3 5.8)."""
    task.unit.extent(cdb.lba, cdb.blocks)
    return GOOD


_READS = Traits.MEDIUM | Traits.STORE
_WRITES = Traits.MEDIUM | Traits.STORE | Traits.WRITES

OPERATIONS = (
    Operation("READ (6)", READ_6, read_6, _READS, Access.READ, device_types=DISK_ONLY),
    Operation("READ (10)", READ_10, read, _READS, Access.READ),
    Operation("READ (12)", READ_12, read, _READS, Access.READ),
    Operation("READ (16)", READ_16, read, _READS, Access.READ, device_types=DISK_ONLY),
    Operation("WRITE (6)", WRITE_6, write_6, _WRITES, Access.WRITE, write_length_6, DISK_ONLY),
    Operation("WRITE (10)", WRITE_10, write, _WRITES, Access.WRITE, write_length, DISK_ONLY),
    Operation("WRITE (12)", WRITE_12, write, _WRITES, Access.WRITE, write_length, DISK_ONLY),
    Operation("WRITE (16)", WRITE_16, write, _WRITES, Access.WRITE, write_length, DISK_ONLY),
    Operation("SYNCHRONIZE CACHE (10)", SYNCHRONIZE_CACHE_10, synchronize_cache, _READS, Access.WRITE),
    Operation(
        "SYNCHRONIZE CACHE (16)",
        SYNCHRONIZE_CACHE_16,
        synchronize_cache,
        _READS,
        Access.WRITE,
        device_types=DISK_ONLY,
    ),
    Operation("PRE-FETCH (10)", PRE_FETCH_10, pre_fetch, Traits.MEDIUM, Access.READ, device_types=DISK_ONLY),
    Operation("PRE-FETCH (16)", PRE_FETCH_16, pre_fetch, Traits.MEDIUM, Access.READ, device_types=DISK_ONLY),
)
