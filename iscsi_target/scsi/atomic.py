# SPDX-License-Identifier: Apache-2.0
"""What reads and writes as one step: COMPARE AND WRITE, ORWRITE (16), WRITE ATOMIC (16) (SBC-3 5.2, 5.7, 5.48)."""

from __future__ import annotations

from typing import NamedTuple

from iscsi_target.executor import ScsiResult
from iscsi_target.scsi.errors import invalid_field_in_cdb
from iscsi_target.scsi.layout import CdbLayout, bits, control, flag, opcode, reserved
from iscsi_target.scsi.logical_unit import LogicalUnit
from iscsi_target.scsi.operation import DISK_ONLY, GOOD, Access, Operation, Task, Traits
from iscsi_target.scsi.read_write import Transfer, check_transfer, transfer_16, write_length
from iscsi_target.scsi.status import Status
from iscsi_target.scsi.verify import first_difference, miscompare

MAX_ATOMIC_BLOCKS = 0xFFFF
"""Bound by the width of the TRANSFER LENGTH field of WRITE ATOMIC (16)."""


class CompareAndWrite(NamedTuple):
    """Fields of the COMPARE AND WRITE CDB."""

    protect: int
    dpo: int
    fua: int
    lba: int
    blocks: int


class WriteAtomic(NamedTuple):
    """Fields of the WRITE ATOMIC (16) CDB."""

    protect: int
    dpo: int
    fua: int
    lba: int
    atomic_boundary: int
    blocks: int


_FLAGS = (bits("protect", 3), flag("dpo"), flag("fua"), reserved(3))

COMPARE_AND_WRITE = CdbLayout(
    CompareAndWrite,
    opcode(0x89),
    *_FLAGS,
    bits("lba", 64),
    reserved(24),
    bits("blocks", 8),
    reserved(8),
    control(),
)
ORWRITE = transfer_16(0x8B)
WRITE_ATOMIC = CdbLayout(
    WriteAtomic,
    opcode(0x9C),
    *_FLAGS,
    bits("lba", 64),
    bits("atomic_boundary", 16),
    bits("blocks", 16),
    reserved(8),
    control(),
)


def _compare_length(unit: LogicalUnit, cdb: CompareAndWrite) -> int:
    """Bytes of Data-Out of COMPARE AND WRITE: the compare instance and the write instance."""
    if cdb.protect:
        raise invalid_field_in_cdb(1, 7)
    return 2 * unit.extent(cdb.lba, cdb.blocks)[1]


def compare_and_write(task: Task, cdb: CompareAndWrite) -> ScsiResult:
    """COMPARE AND WRITE; nobody sees or changes the blocks between the comparison and the write (SBC-3 5.2).

    Half a compare or write instance is no basis for either: another amount of Data-Out than the CDB asks for is
    refused.
    """
    unit = task.unit
    both = _compare_length(unit, cdb)
    if len(task.data_out) != both or task.command.expected_length != both:
        raise invalid_field_in_cdb(13)
    if not both:
        return GOOD
    offset, length = unit.extent(cdb.lba, cdb.blocks)
    data = memoryview(task.data_out)
    with unit.ranges.atomic(offset, length):
        different = first_difference(unit.store.read(offset, length), data[:length])
        if different is None:
            unit.store.write(offset, data[length:], durable=bool(cdb.fua) or not unit.mode.wce)
    if different is not None:
        raise miscompare(different)
    return GOOD


def orwrite(task: Task, cdb: Transfer) -> ScsiResult:
    """ORWRITE (16): the blocks become the bitwise OR of themselves and the Data-Out."""
    unit = task.unit
    offset, wanted = check_transfer(unit, cdb)
    length = min(wanted, len(task.data_out) // unit.block_length * unit.block_length)
    if not length:
        return ScsiResult(Status.GOOD, transfer_length=wanted)
    with unit.ranges.atomic(offset, length):
        stored = int.from_bytes(b"".join(unit.store.read(offset, length)), "little")
        added = int.from_bytes(memoryview(task.data_out)[:length], "little")
        unit.store.write(
            offset, (stored | added).to_bytes(length, "little"), durable=bool(cdb.fua) or not unit.mode.wce
        )
    return ScsiResult(Status.GOOD, transfer_length=wanted)


def _atomic_length(unit: LogicalUnit, cdb: WriteAtomic) -> int:
    if cdb.protect:
        raise invalid_field_in_cdb(1, 7)
    _, length = unit.extent(cdb.lba, cdb.blocks)
    if cdb.atomic_boundary:
        raise invalid_field_in_cdb(10)
    if cdb.blocks > min(MAX_ATOMIC_BLOCKS, unit.max_transfer_blocks):
        raise invalid_field_in_cdb(12)
    return length


def write_atomic(task: Task, cdb: WriteAtomic) -> ScsiResult:
    """WRITE ATOMIC (16): readers see all of it or nothing; a write cut short would not be atomic and is refused."""
    unit = task.unit
    length = _atomic_length(unit, cdb)
    offset, _ = unit.extent(cdb.lba, cdb.blocks)
    if len(task.data_out) < length:
        raise invalid_field_in_cdb(12)
    if length:
        with unit.ranges.atomic(offset, length):
            unit.store.write(
                offset, memoryview(task.data_out)[:length], durable=bool(cdb.fua) or not unit.mode.wce
            )
    return GOOD


_WRITES = Traits.MEDIUM | Traits.STORE | Traits.WRITES

OPERATIONS = (
    Operation(
        "COMPARE AND WRITE",
        COMPARE_AND_WRITE,
        compare_and_write,
        _WRITES,
        Access.WRITE,
        _compare_length,
        DISK_ONLY,
    ),
    Operation("ORWRITE (16)", ORWRITE, orwrite, _WRITES, Access.WRITE, write_length, DISK_ONLY),
    Operation(
        "WRITE ATOMIC (16)", WRITE_ATOMIC, write_atomic, _WRITES, Access.WRITE, _atomic_length, DISK_ONLY
    ),
)
