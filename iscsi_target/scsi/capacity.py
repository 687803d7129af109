# SPDX-License-Identifier: Apache-2.0
"""READ CAPACITY (10) and (16) (SBC-3 5.15, 5.16)."""

from __future__ import annotations

from typing import NamedTuple

import construct as c

from iscsi_target.executor import ScsiResult
from iscsi_target.scsi.errors import invalid_field_in_cdb
from iscsi_target.scsi.layout import CdbLayout, bits, control, opcode, reserved, service_action
from iscsi_target.scsi.operation import DISK_ONLY, Operation, Task, Traits, cut


class ReadCapacity10(NamedTuple):
    """Fields of the READ CAPACITY (10) CDB; both are obsolete and must be 0."""

    lba: int
    pmi: int


class ReadCapacity16(NamedTuple):
    """Fields of the READ CAPACITY (16) CDB."""

    lba: int
    allocation_length: int
    pmi: int


LAYOUT_10 = CdbLayout(
    ReadCapacity10,
    opcode(0x25),
    reserved(8),
    bits("lba", 32),
    reserved(23),
    bits("pmi", 1),
    control(),
)
LAYOUT_16 = CdbLayout(
    ReadCapacity16,
    opcode(0x9E),
    reserved(3),
    service_action(0x10),
    bits("lba", 64),
    bits("allocation_length", 32),
    reserved(7),
    bits("pmi", 1),
    control(),
)

DATA_10 = c.Struct("last_lba" / c.Int32ub, "block_length" / c.Int32ub)
"""SBC-3 table 65."""

DATA_16 = c.Struct(
    "last_lba" / c.Int64ub,
    "block_length" / c.Int32ub,
    "protection"
    / c.BitStruct(
        c.Padding(2), "rc_basis" / c.BitsInteger(2), "p_type" / c.BitsInteger(3), "prot_en" / c.Flag
    ),
    "alignment"
    / c.BitStruct(
        "p_i_exponent" / c.BitsInteger(4),
        "logical_blocks_per_physical_block_exponent" / c.BitsInteger(4),
        "lbpme" / c.Flag,
        "lbprz" / c.Flag,
        "lowest_aligned_lba" / c.BitsInteger(14),
    ),
    c.Padding(16),
)
"""SBC-3 table 67, 32 bytes."""


def read_capacity_10(task: Task, cdb: ReadCapacity10) -> ScsiResult:
    """The last LBA, or FFFFFFFFh when it takes more than 32 bits."""
    if cdb.lba and not cdb.pmi:
        raise invalid_field_in_cdb(2)
    last = min(task.unit.blocks - 1, 0xFFFFFFFF)
    return cut(DATA_10.build({"last_lba": last, "block_length": task.unit.block_length}), 8)


def read_capacity_16(task: Task, cdb: ReadCapacity16) -> ScsiResult:
    """Capacity, physical block size and logical block provisioning."""
    if cdb.lba and not cdb.pmi:
        raise invalid_field_in_cdb(2)
    unit = task.unit
    data = DATA_16.build(
        {
            "last_lba": unit.blocks - 1,
            "block_length": unit.block_length,
            "protection": {"rc_basis": 0, "p_type": 0, "prot_en": False},
            "alignment": {
                "p_i_exponent": 0,
                "logical_blocks_per_physical_block_exponent": unit.config.physical_block_exponent,
                "lbpme": unit.thin,
                "lbprz": unit.thin,
                "lowest_aligned_lba": 0,
            },
        }
    )
    return cut(data, cdb.allocation_length)


OPERATIONS = (
    Operation("READ CAPACITY (10)", LAYOUT_10, read_capacity_10, traits=Traits.MEDIUM),
    Operation(
        "READ CAPACITY (16)", LAYOUT_16, read_capacity_16, traits=Traits.MEDIUM, device_types=DISK_ONLY
    ),
)
