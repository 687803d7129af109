# SPDX-License-Identifier: Apache-2.0
"""Which blocks a CDB reads or writes, from the device server's own table of commands."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from iscsi_target.scsi.errors import CheckCondition
from iscsi_target.scsi.opcode_table import OPERATIONS
from iscsi_target.scsi.operation import Operation, Traits

_SIX_BYTES_ALL = 256
"""Blocks of a six-byte READ or WRITE whose TRANSFER LENGTH is 0 (SBC-3 5.10)."""


class BlockAccess(NamedTuple):
    """Blocks that a command touches."""

    lba: int
    blocks: int
    writes: bool


@cache
def _by_opcode() -> dict[int, Operation]:
    return {
        operation.opcode: operation
        for operation in OPERATIONS
        if operation.service_action is None
        and operation.traits & Traits.MEDIUM
        and {"lba", "blocks"} <= set(operation.layout.into._fields)
    }


def block_access(cdb: bytes) -> BlockAccess | None:
    """What the CDB touches; None for a command that names no blocks (UNMAP names them in its data), or a broken CDB."""
    operation = _by_opcode().get(cdb[0]) if cdb else None
    if operation is None:
        return None
    try:
        fields = operation.layout.parse(cdb)
    except CheckCondition:
        return None
    blocks: int = fields.blocks
    if not blocks and cdb[0] < 0x20:
        blocks = _SIX_BYTES_ALL
    return BlockAccess(fields.lba, blocks, bool(operation.traits & Traits.WRITES))
