# SPDX-License-Identifier: Apache-2.0
"""VERIFY and WRITE AND VERIFY, 10, 12 and 16 bytes (SBC-3 5.31 to 5.33, 5.44 to 5.46)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from iscsi_target.executor import Buffer, ScsiResult
from iscsi_target.scsi.errors import check, invalid_field_in_cdb
from iscsi_target.scsi.layout import CdbLayout, bits, control, flag, opcode, reserved
from iscsi_target.scsi.logical_unit import LogicalUnit
from iscsi_target.scsi.operation import DISK_ONLY, GOOD, Access, Operation, Task, Traits
from iscsi_target.scsi.sense import Condition
from iscsi_target.scsi.status import Status


class Verify(NamedTuple):
    """Fields of VERIFY and WRITE AND VERIFY; `protect` is VRPROTECT or WRPROTECT."""

    protect: int
    dpo: int
    bytchk: int
    lba: int
    blocks: int


_FLAGS = (bits("protect", 3), flag("dpo"), reserved(1), bits("bytchk", 2), reserved(1))


def _ten(code: int) -> CdbLayout[Verify]:
    return CdbLayout(
        Verify, opcode(code), *_FLAGS, bits("lba", 32), reserved(8), bits("blocks", 16), control()
    )


def _twelve(code: int) -> CdbLayout[Verify]:
    return CdbLayout(
        Verify, opcode(code), *_FLAGS, bits("lba", 32), bits("blocks", 32), reserved(8), control()
    )


def _sixteen(code: int) -> CdbLayout[Verify]:
    return CdbLayout(
        Verify, opcode(code), *_FLAGS, bits("lba", 64), bits("blocks", 32), reserved(8), control()
    )


VERIFY_10, VERIFY_12, VERIFY_16 = _ten(0x2F), _twelve(0xAF), _sixteen(0x8F)
WRITE_AND_VERIFY_10, WRITE_AND_VERIFY_12, WRITE_AND_VERIFY_16 = _ten(0x2E), _twelve(0xAE), _sixteen(0x8E)

_NO_COMPARE, _COMPARE, _COMPARE_ONE = 0, 1, 3
_CHUNK_BYTES = 1 << 20


def _check(unit: LogicalUnit, cdb: Verify) -> tuple[int, int]:
    if cdb.protect:
        raise invalid_field_in_cdb(1, 7)
    if cdb.bytchk == 2:
        raise invalid_field_in_cdb(1, 2)
    extent = unit.extent(cdb.lba, cdb.blocks)
    if cdb.blocks > unit.max_transfer_blocks:
        raise invalid_field_in_cdb(7)
    return extent


def _verify_length(unit: LogicalUnit, cdb: Verify) -> int:
    """Bytes of Data-Out of a VERIFY: none, the whole range, or one block to compare each block with."""
    _, length = _check(unit, cdb)
    if cdb.bytchk == _NO_COMPARE or not length:
        return 0
    return unit.block_length if cdb.bytchk == _COMPARE_ONE else length


def _write_length(unit: LogicalUnit, cdb: Verify) -> int:
    """Bytes of Data-Out of a WRITE AND VERIFY."""
    _, length = _check(unit, cdb)
    if cdb.bytchk == _COMPARE_ONE:
        raise invalid_field_in_cdb(1, 2)
    return length


def first_difference(stored: Sequence[Buffer], expected: Buffer) -> int | None:
    """Offset of the first byte in which the buffers differ from `expected`, or None."""
    position = 0
    for buffer in stored:
        other = memoryview(expected)[position : position + len(buffer)]
        if memoryview(buffer) != other:
            return position + next(
                at for at, (one, two) in enumerate(zip(buffer, other, strict=True)) if one != two
            )
        position += len(buffer)
    return None


def miscompare(offset: int) -> Exception:
    """MISCOMPARE DURING VERIFY OPERATION; INFORMATION is the offset of the first difference (SBC-3 5.2)."""
    return check(Condition.MISCOMPARE_DURING_VERIFY_OPERATION, information=offset)


def verify(task: Task, cdb: Verify) -> ScsiResult:
    """VERIFY: reads every block, and compares where asked to.

    Data-Out that the initiator cut short is compared as far as it goes; the session reports the residual.
    """
    unit = task.unit
    wanted = _verify_length(unit, cdb)
    offset, length = _check(unit, cdb)
    data = memoryview(task.data_out)[:wanted]
    if cdb.bytchk == _COMPARE_ONE and length and len(data) < unit.block_length:
        raise invalid_field_in_cdb(1, 2)
    for done in range(0, length, _CHUNK_BYTES):
        size = min(_CHUNK_BYTES, length - done)
        with unit.ranges.shared(offset + done, size):
            stored = unit.store.read(offset + done, size)
            if cdb.bytchk == _COMPARE:
                expected: Buffer = data[done : done + size]
                if len(expected) < size:
                    stored = (b"".join(stored)[: len(expected)],)
            elif cdb.bytchk == _COMPARE_ONE:
                expected = bytes(data) * (size // unit.block_length)
            else:
                continue
            different = first_difference(stored, expected)
        if different is not None:
            raise miscompare(done + different)
    return GOOD


def write_and_verify(task: Task, cdb: Verify) -> ScsiResult:
    """WRITE AND VERIFY: durable when it ends, and read back; with BYTCHK compared."""
    unit = task.unit
    length = _write_length(unit, cdb)
    offset, _ = _check(unit, cdb)
    if not length:
        return GOOD
    data = memoryview(task.data_out)[:length]
    data = data[: len(data) // unit.block_length * unit.block_length]
    with unit.ranges.exclusive(offset, len(data)):
        unit.store.write(offset, data, durable=True)
        stored = unit.store.read(offset, len(data))
        different = first_difference(stored, data) if cdb.bytchk == _COMPARE else None
    if different is not None:
        raise miscompare(different)
    return ScsiResult(Status.GOOD, transfer_length=length)


_READS = Traits.MEDIUM | Traits.STORE
_WRITES = _READS | Traits.WRITES

OPERATIONS = (
    Operation("VERIFY (10)", VERIFY_10, verify, _READS, Access.READ, _verify_length, DISK_ONLY),
    Operation("VERIFY (12)", VERIFY_12, verify, _READS, Access.READ, _verify_length, DISK_ONLY),
    Operation("VERIFY (16)", VERIFY_16, verify, _READS, Access.READ, _verify_length, DISK_ONLY),
    Operation(
        "WRITE AND VERIFY (10)",
        WRITE_AND_VERIFY_10,
        write_and_verify,
        _WRITES,
        Access.WRITE,
        _write_length,
        DISK_ONLY,
    ),
    Operation(
        "WRITE AND VERIFY (12)",
        WRITE_AND_VERIFY_12,
        write_and_verify,
        _WRITES,
        Access.WRITE,
        _write_length,
        DISK_ONLY,
    ),
    Operation(
        "WRITE AND VERIFY (16)",
        WRITE_AND_VERIFY_16,
        write_and_verify,
        _WRITES,
        Access.WRITE,
        _write_length,
        DISK_ONLY,
    ),
)
