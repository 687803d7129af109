# SPDX-License-Identifier: Apache-2.0
"""Logical block provisioning: UNMAP, WRITE SAME, GET LBA STATUS (SBC-3 4.7, 5.3, 5.28, 5.47, 5.48).

An unmapped block reads as zeros (LBPRZ = 1), and so does an anchored one, whose space is reserved: ANCHOR is there
where the store can do that (ANC_SUP), and refused elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

import construct as c

from iscsi_target.executor import ScsiResult
from iscsi_target.scsi.errors import check, invalid_field_in_cdb, invalid_field_in_parameter_list
from iscsi_target.scsi.layout import CdbLayout, bits, control, flag, opcode, reserved, service_action
from iscsi_target.scsi.logical_unit import MAX_TRANSFER_BYTES, LogicalUnit
from iscsi_target.scsi.operation import DISK_ONLY, GOOD, Access, Operation, Task, Traits, cut
from iscsi_target.scsi.sense import Condition

MAX_UNMAP_DESCRIPTORS = 256
MAX_UNMAP_BLOCKS = 0xFFFFFFFF
MAX_WRITE_SAME_BYTES = MAX_TRANSFER_BYTES
_CHUNK_BYTES = 1 << 20
_MAX_STATUS_DESCRIPTORS = 1024
_MAX_STATUS_BYTES = 64 << 30
"""How far one GET LBA STATUS looks; what lies behind is asked for with the next one."""


class Unmap(NamedTuple):
    """Fields of the UNMAP CDB."""

    anchor: int
    parameter_list_length: int


class WriteSame(NamedTuple):
    """Fields of WRITE SAME (10) and (16)."""

    protect: int
    anchor: int
    unmap: int
    lba: int
    blocks: int
    ndob: int = 0


class GetLbaStatus(NamedTuple):
    """Fields of the GET LBA STATUS CDB."""

    lba: int
    allocation_length: int


UNMAP = CdbLayout(
    Unmap,
    opcode(0x42),
    reserved(7),
    flag("anchor"),
    reserved(40),
    bits("parameter_list_length", 16),
    control(),
)
WRITE_SAME_10 = CdbLayout(
    WriteSame,
    opcode(0x41),
    bits("protect", 3),
    flag("anchor"),
    flag("unmap"),
    reserved(3),
    bits("lba", 32),
    reserved(8),
    bits("blocks", 16),
    control(),
)
WRITE_SAME_16 = CdbLayout(
    WriteSame,
    opcode(0x93),
    bits("protect", 3),
    flag("anchor"),
    flag("unmap"),
    reserved(2),
    flag("ndob"),
    bits("lba", 64),
    bits("blocks", 32),
    reserved(8),
    control(),
)
GET_LBA_STATUS = CdbLayout(
    GetLbaStatus,
    opcode(0x9E),
    reserved(3),
    service_action(0x12),
    bits("lba", 64),
    bits("allocation_length", 32),
    reserved(8),
    control(),
)

UNMAP_PARAMETER_LIST = c.Struct(
    "unmap_data_length" / c.Int16ub,
    "unmap_block_descriptor_data_length" / c.Int16ub,
    c.Padding(4),
)
UNMAP_BLOCK_DESCRIPTOR = c.Struct("lba" / c.Int64ub, "blocks" / c.Int32ub, c.Padding(4))
"""SBC-3 tables 93 and 94."""

LBA_STATUS_DESCRIPTOR = c.Struct(
    "lba" / c.Int64ub,
    "blocks" / c.Int32ub,
    "status" / c.BitStruct(c.Padding(4), "provisioning_status" / c.BitsInteger(4)),
    c.Padding(3),
)
"""SBC-3 table 45."""

_MAPPED, _DEALLOCATED, _ANCHORED = 0, 1, 2
"""PROVISIONING STATUS (SBC-3 table 46); 0 is also what nobody knows."""


def provisioned_thinly(unit: LogicalUnit) -> bool:
    """UNMAP and the UNMAP bit are there for a thin unit only (SBC-3 4.7.3)."""
    return unit.thin


def max_write_same_blocks(unit: LogicalUnit) -> int:
    """MAXIMUM WRITE SAME LENGTH of the block limits page."""
    return MAX_WRITE_SAME_BYTES // unit.block_length


_THRESHOLD_SET_BYTES = 1 << 20


def threshold_exponent(unit: LogicalUnit) -> int:
    """THRESHOLD EXPONENT: 2**n blocks are one threshold set, in which the log page counts resources (SBC-3 6.6.4).

    0 where nobody knows how much space there is. No threshold can be set: there is no mode page for that.
    """
    if not unit.counts_space:
        return 0
    exponent = (_THRESHOLD_SET_BYTES // unit.block_length).bit_length() - 1
    while unit.blocks >> exponent > 0xFFFFFFFF:
        exponent += 1
    return exponent


def anchors(unit: LogicalUnit) -> bool:
    """ANC_SUP: whether blocks can be anchored."""
    return unit.thin and unit.store.anchors


def _deallocate(unit: LogicalUnit, offset: int, length: int, *, anchor: bool) -> None:
    with unit.ranges.exclusive(offset, length):
        (unit.store.anchor if anchor else unit.store.discard)(offset, length)


def _unmap_length(unit: LogicalUnit, cdb: Unmap) -> int:
    if cdb.anchor and not anchors(unit):
        raise invalid_field_in_cdb(1, 0)
    if 0 < cdb.parameter_list_length < UNMAP_PARAMETER_LIST.sizeof():
        raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
    return cdb.parameter_list_length


def unmap(task: Task, cdb: Unmap) -> ScsiResult:
    """UNMAP: all descriptors are sound, or nothing is unmapped; with ANCHOR the blocks are anchored instead."""
    unit = task.unit
    wanted = _unmap_length(unit, cdb)
    if not wanted:
        return GOOD
    data = bytes(task.data_out)
    if len(data) < wanted:
        raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
    header = UNMAP_PARAMETER_LIST.parse(data)
    size, start = UNMAP_BLOCK_DESCRIPTOR.sizeof(), UNMAP_PARAMETER_LIST.sizeof()
    # A list that was cut holds fewer whole descriptors than it says, which is no error (SBC-3 5.28.2).
    listed = min(header.unmap_block_descriptor_data_length, len(data) - start) // size
    if listed > MAX_UNMAP_DESCRIPTORS:
        raise invalid_field_in_parameter_list(2)
    extents, blocks = [], 0
    for index in range(listed):
        at = start + index * size
        descriptor = UNMAP_BLOCK_DESCRIPTOR.parse(data[at : at + size])
        extents.append(unit.extent(descriptor.lba, descriptor.blocks))
        blocks += descriptor.blocks
        if blocks > MAX_UNMAP_BLOCKS:
            raise invalid_field_in_parameter_list(at + 8)
    for offset, length in extents:
        if length:
            _deallocate(unit, offset, length, anchor=bool(cdb.anchor))
    return GOOD


def _same_range(unit: LogicalUnit, cdb: WriteSame) -> tuple[int, int]:
    """(offset, length) of a WRITE SAME; 0 blocks reach to the end of the medium (WSNZ = 0)."""
    if cdb.protect:
        raise invalid_field_in_cdb(1, 7)
    if cdb.anchor and not (cdb.unmap and anchors(unit)):
        raise invalid_field_in_cdb(1, 4)
    if cdb.unmap and not unit.thin:
        raise invalid_field_in_cdb(1, 3)
    unit.extent(cdb.lba, cdb.blocks)
    blocks = cdb.blocks or unit.blocks - cdb.lba
    if blocks > max_write_same_blocks(unit):
        raise invalid_field_in_cdb(10 if cdb.lba > 0xFFFFFFFF else 7)
    return unit.extent(cdb.lba, blocks)


def _same_length(unit: LogicalUnit, cdb: WriteSame) -> int:
    """One block of Data-Out, or none with NDOB."""
    _same_range(unit, cdb)
    return 0 if cdb.ndob else unit.block_length


def write_same(task: Task, cdb: WriteSame) -> ScsiResult:
    """WRITE SAME: one block (zeros with NDOB) into every block of the range.

    With UNMAP the range is unmapped (with ANCHOR: anchored) instead, and reads as zeros: whatever the block, as tgt
    and LIO do, or with `strict_write_same` only when the block is zeros (SBC-3 4.7.3.4.3). Data-Out that is not
    exactly one block is refused: there is no block to write from half of one.
    """
    unit = task.unit
    offset, length = _same_range(unit, cdb)
    if cdb.ndob:
        pattern = bytes(unit.block_length)
    else:
        pattern = bytes(task.data_out)
        # With UNMAP some initiators send no data at all and mean zeros.
        if cdb.unmap and not pattern and not task.command.expected_length:
            pattern = bytes(unit.block_length)
        elif len(pattern) != unit.block_length or task.command.expected_length != unit.block_length:
            raise check(Condition.INVALID_FIELD_IN_CDB)
    if not length:
        return GOOD
    if cdb.unmap and (not unit.config.strict_write_same or not any(pattern)):
        _deallocate(unit, offset, length, anchor=bool(cdb.anchor))
        return GOOD
    chunk = pattern * (min(length, _CHUNK_BYTES) // unit.block_length)
    for done in range(0, length, len(chunk)):
        size = min(len(chunk), length - done)
        with unit.ranges.exclusive(offset + done, size):
            unit.store.write(offset + done, memoryview(chunk)[:size], durable=not unit.mode.wce)
    return GOOD


def get_lba_status(task: Task, cdb: GetLbaStatus) -> ScsiResult:
    """GET LBA STATUS: from the LBA on, as many descriptors as fit, at least one."""
    unit = task.unit
    offset, _ = unit.extent(cdb.lba, 1)
    size = LBA_STATUS_DESCRIPTOR.sizeof()
    room = min(max(1, (cdb.allocation_length - 8) // size), _MAX_STATUS_DESCRIPTORS)
    descriptors: list[bytes] = []
    lba = cdb.lba
    length = min(unit.blocks * unit.block_length - offset, _MAX_STATUS_BYTES)
    for extent in unit.store.extents(offset, length):
        if len(descriptors) == room:
            break
        status = _MAPPED if extent.mapped else _ANCHORED if extent.anchored else _DEALLOCATED
        # A block that is only partly mapped is mapped.
        stop = extent.offset + extent.length
        last = -(-stop // unit.block_length) if extent.mapped else stop // unit.block_length
        while lba < last and len(descriptors) < room:
            blocks = min(last - lba, 0xFFFFFFFF)
            descriptors.append(
                LBA_STATUS_DESCRIPTOR.build(
                    {
                        "lba": lba,
                        "blocks": blocks,
                        "status": {"provisioning_status": status},
                    }
                )
            )
            lba += blocks
    body = bytes(4) + b"".join(descriptors)
    return cut(len(body).to_bytes(4, "big") + body, cdb.allocation_length)


_WRITES = Traits.MEDIUM | Traits.STORE | Traits.WRITES

OPERATIONS = (
    Operation(
        "UNMAP",
        UNMAP,
        unmap,
        _WRITES,
        Access.WRITE,
        _unmap_length,
        DISK_ONLY,
        available=provisioned_thinly,
        timeout_s=60,
    ),
    Operation(
        "WRITE SAME (10)",
        WRITE_SAME_10,
        write_same,
        _WRITES,
        Access.WRITE,
        _same_length,
        DISK_ONLY,
        timeout_s=60,
    ),
    Operation(
        "WRITE SAME (16)",
        WRITE_SAME_16,
        write_same,
        _WRITES,
        Access.WRITE,
        _same_length,
        DISK_ONLY,
        timeout_s=60,
    ),
    Operation(
        "GET LBA STATUS",
        GET_LBA_STATUS,
        get_lba_status,
        Traits.MEDIUM | Traits.STORE,
        Access.READ,
        device_types=DISK_ONLY,
    ),
)
