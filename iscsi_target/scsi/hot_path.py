# SPDX-License-Identifier: Apache-2.0
"""READ and WRITE (10) and (16) without detours, for stores that never wait.

What is not plain (a flag, an LBA out of range, data cut short) is answered with None here and goes through the
general way, which gives the same result and the right sense data. The CDB codecs are derived from the layouts in
:mod:`iscsi_target.scsi.read_write`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from iscsi_target.executor import ScsiCommand, ScsiResult
from iscsi_target.fast_path_kernel import FastDisk
from iscsi_target.fast_units import fast_cdbs
from iscsi_target.scsi.layout import CdbLayout, fast_struct
from iscsi_target.scsi.logical_unit import DeviceType, LogicalUnit, Medium
from iscsi_target.scsi.operation import GOOD
from iscsi_target.scsi.read_write import READ_10, READ_16, WRITE_10, WRITE_16, Transfer
from iscsi_target.scsi.stores.store import DirectStore

Hot = Callable[[ScsiCommand], ScsiResult | None]
HotLength = Callable[[ScsiCommand], int | None]


def unobstructed(unit: LogicalUnit) -> bool:
    """Whether nothing stands between any nexus and the medium: no attention, reservation, port state, sanitize."""
    reservations = unit.reservations
    return (
        not unit.attentions.pending
        and reservations.reservation is None
        and reservations.reserved_by is None
        and unit.medium is Medium.READY
        and unit.sanitize is None
        and not unit.port_states
    )


def _plain(layout: CdbLayout[Transfer]) -> tuple[Callable[[bytes], tuple[int, ...]], int, int, int, int]:
    """(unpack, indices of flags, LBA, blocks and CONTROL in what it gives)."""
    fast = fast_struct(layout)
    where = fast.where
    flags = {where[name][0] for name in ("protect", "dpo", "fua")}
    if len(flags) != 1:
        raise TypeError(f"the flags of {layout.opcode:02x}h are not in one byte")
    return fast.unpack.unpack_from, flags.pop(), where["lba"][0], where["blocks"][0], where["control"][0]


def _hot_read(unit: LogicalUnit, layout: CdbLayout[Transfer]) -> Hot:
    unpack, flags_at, lba_at, blocks_at, control_at = _plain(layout)
    read, block_length = unit.store.read, unit.block_length
    limit = unit.max_transfer_blocks

    def hot_read(command: ScsiCommand) -> ScsiResult | None:
        fields = unpack(command.cdb)
        lba, blocks = fields[lba_at], fields[blocks_at]
        length = blocks * block_length
        if (
            fields[flags_at]
            or fields[control_at]
            or not 0 < blocks <= limit
            or lba + blocks > unit.blocks
            or command.write
            or command.expected_length < length
            or not unobstructed(unit)
        ):
            return None
        return ScsiResult(0, read(lba * block_length, length))

    return hot_read


def _hot_write_length(unit: LogicalUnit, layout: CdbLayout[Transfer]) -> HotLength:
    unpack, flags_at, lba_at, blocks_at, control_at = _plain(layout)
    block_length, limit = unit.block_length, unit.max_transfer_blocks

    def hot_write_length(command: ScsiCommand) -> int | None:
        fields = unpack(command.cdb)
        blocks = fields[blocks_at]
        if (
            fields[flags_at]
            or fields[control_at]
            or blocks > limit
            or fields[lba_at] + blocks > unit.blocks
            or unit.medium is not Medium.READY
            or unit.read_only
            or unit.mode.swp
        ):
            return None
        return blocks * block_length

    return hot_write_length


def _hot_write(unit: LogicalUnit, layout: CdbLayout[Transfer]) -> Hot:
    unpack, flags_at, lba_at, blocks_at, control_at = _plain(layout)
    write, block_length = unit.store.write, unit.block_length
    limit, mode = unit.max_transfer_blocks, unit.mode

    def hot_write(command: ScsiCommand) -> ScsiResult | None:
        fields = unpack(command.cdb)
        lba, blocks, data = fields[lba_at], fields[blocks_at], command.data_out
        if (
            fields[flags_at]
            or fields[control_at]
            or not 0 < blocks <= limit
            or lba + blocks > unit.blocks
            or len(data) != blocks * block_length
            or unit.read_only
            or mode.swp
            or not mode.wce
            or not unobstructed(unit)
        ):
            return None
        write(lba * block_length, data)
        return GOOD

    return hot_write


def _cdb_format(layout: CdbLayout[Transfer]) -> str:
    """The struct format that gives byte 1, LBA (signed), blocks and CONTROL of a CDB and skips the rest."""
    fast = fast_struct(layout)
    wanted = [fast.where[name][0] for name in ("protect", "lba", "blocks", "control")]
    if wanted != sorted(wanted) or len({fast.where[name][0] for name in ("protect", "dpo", "fua")}) != 1:
        raise TypeError(f"the fields of {layout.opcode:02x}h are not where the fast path reads them")
    made = ""
    for index, code in enumerate(fast.unpack.format.removeprefix(">")):
        if index not in wanted:
            made += f"{struct.calcsize('>' + code)}x"
        else:
            made += "q" if (index, code) == (wanted[1], "Q") else code
    return made


FAST_CDBS = fast_cdbs(
    {layout.opcode or 0: _cdb_format(layout) for layout in (READ_10, READ_16)},
    {layout.opcode or 0: _cdb_format(layout) for layout in (WRITE_10, WRITE_16)},
)
"""How the fast path of the iSCSI layer takes READ and WRITE apart."""


def fast_disk(unit: LogicalUnit, *, read_only: bool = False) -> FastDisk | None:
    """The unit for the fast path; None when its store waits, or it is no disk."""
    if unit.store.blocking or unit.config.device_type is not DeviceType.DISK:
        return None

    def look() -> tuple[int, int]:
        if not unobstructed(unit):
            return 0, 0
        blocks = unit.blocks
        if read_only or unit.read_only or unit.mode.swp or not unit.mode.wce:
            return blocks, 0
        return blocks, blocks

    store = unit.store
    direct = store if isinstance(store, DirectStore) else None
    return FastDisk(
        look,
        None if direct is None else direct.memory,
        None if direct is None else direct.marks.find,
        store.granularity_bytes,
        store.read,
        store.write,
        unit.block_length,
        unit.max_transfer_blocks,
    )


def hot_commands(
    unit: LogicalUnit, *, read_only: bool = False
) -> tuple[tuple[Hot | None, ...], tuple[HotLength | None, ...]]:
    """By opcode: what runs a command at once, and what knows its Data-Out length. Empty for stores that wait."""
    run: list[Hot | None] = [None] * 256
    lengths: list[HotLength | None] = [None] * 256
    if not unit.store.blocking and unit.config.device_type is DeviceType.DISK:
        for layout in (READ_10, READ_16):
            run[layout.opcode or 0] = _hot_read(unit, layout)
        for layout in (WRITE_10, WRITE_16) if not read_only else ():
            run[layout.opcode or 0] = _hot_write(unit, layout)
    if unit.config.device_type is DeviceType.DISK and not read_only:
        for layout in (WRITE_10, WRITE_16):
            lengths[layout.opcode or 0] = _hot_write_length(unit, layout)
    return tuple(run), tuple(lengths)
