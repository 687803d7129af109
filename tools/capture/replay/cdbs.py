"""CDBs as a replay sees them: what they do to the medium, where, and how to move them elsewhere (SBC-3 clause 5)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import construct

from iscsi_target.scsi.layout import CdbLayout
from iscsi_target.scsi.read_write import (
    READ_6,
    READ_10,
    READ_12,
    READ_16,
    WRITE_6,
    WRITE_10,
    WRITE_12,
    WRITE_16,
)

_READS = {layout.opcode: layout for layout in (READ_6, READ_10, READ_12, READ_16)}
_WRITES = {layout.opcode: layout for layout in (WRITE_6, WRITE_10, WRITE_12, WRITE_16)}
_HARMLESS = frozenset(
    (
        0x00,  # TEST UNIT READY
        0x03,  # REQUEST SENSE
        0x12,  # INQUIRY
        0x1A,  # MODE SENSE(6)
        0x25,  # READ CAPACITY(10)
        0x34,  # PRE-FETCH(10)
        0x35,  # SYNCHRONIZE CACHE(10)
        0x4D,  # LOG SENSE
        0x5A,  # MODE SENSE(10)
        0x90,  # PRE-FETCH(16)
        0x91,  # SYNCHRONIZE CACHE(16)
        0x9E,  # SERVICE ACTION IN(16): READ CAPACITY(16), GET LBA STATUS
        0xA0,  # REPORT LUNS
        0xA3,  # MAINTENANCE IN
    )
)
_SIX_BYTE_BLOCKS = 256


class Effect(enum.Enum):
    """What a command does to the medium."""

    READ = "reads blocks"
    WRITE = "writes blocks"
    NONE = "changes nothing"
    OTHER = "changes something else than blocks, or is not known"


@dataclass(frozen=True, slots=True)
class Reach:
    """What a CDB does, and to which blocks."""

    effect: Effect
    lba: int = 0
    blocks: int = 0


def reach_of(cdb: bytes) -> Reach:
    """What the command does to the medium."""
    layout, effect = _layout(cdb)
    if layout is not None:
        found = layout.parse(cdb)
        blocks = found.blocks or (_SIX_BYTE_BLOCKS if cdb[0] in (0x08, 0x0A) else 0)
        return Reach(effect, found.lba, blocks)
    return Reach(Effect.NONE if cdb[0] in _HARMLESS else Effect.OTHER)


def moved(cdb: bytes, lba_offset: int) -> bytes | None:
    """The CDB for blocks ``lba_offset`` further on; None where its field has no room for that."""
    layout, _ = _layout(cdb)
    if layout is None or not lba_offset:
        return cdb
    fields = layout.parse(cdb)._asdict()
    fields["lba"] += lba_offset
    try:
        built: bytes = layout.build(**fields)
    except construct.ConstructError:
        return None
    return built + cdb[len(built) :]


def _layout(cdb: bytes) -> tuple[CdbLayout[Any] | None, Effect]:
    if (found := _READS.get(cdb[0])) is not None:
        return found, Effect.READ
    return _WRITES.get(cdb[0]), Effect.WRITE
