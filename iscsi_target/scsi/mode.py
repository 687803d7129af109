# SPDX-License-Identifier: Apache-2.0
"""MODE SENSE and MODE SELECT, 6 and 10 bytes (SPC-4 6.9 to 6.12, 7.5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import construct as c

from iscsi_target.executor import ScsiResult
from iscsi_target.scsi.errors import check, invalid_field_in_cdb, invalid_field_in_parameter_list
from iscsi_target.scsi.layout import CdbLayout, bits, control, flag, opcode, reserved
from iscsi_target.scsi.logical_unit import DeviceType, LogicalUnit
from iscsi_target.scsi.mode_pages import PageId
from iscsi_target.scsi.operation import GOOD, Access, Operation, Task, Traits, cut
from iscsi_target.scsi.sense import Condition

MAX_PARAMETER_LIST_LENGTH = 4096
"""A longer MODE SELECT parameter list than this unit has pages for is refused."""


class ModeSense(NamedTuple):
    """Fields of both MODE SENSE CDBs."""

    dbd: int
    page_control: int
    page_code: int
    subpage_code: int
    allocation_length: int
    llbaa: int = 0


class ModeSelect(NamedTuple):
    """Fields of both MODE SELECT CDBs."""

    page_format: int
    save_pages: int
    parameter_list_length: int


_PAGE = (bits("page_control", 2), bits("page_code", 6), bits("subpage_code", 8))

SENSE_6 = CdbLayout(
    ModeSense,
    opcode(0x1A),
    reserved(4),
    flag("dbd"),
    reserved(3),
    *_PAGE,
    bits("allocation_length", 8),
    control(),
)
SENSE_10 = CdbLayout(
    ModeSense,
    opcode(0x5A),
    reserved(3),
    flag("llbaa"),
    flag("dbd"),
    reserved(3),
    *_PAGE,
    reserved(24),
    bits("allocation_length", 16),
    control(),
)
_SELECT_FLAGS = (reserved(3), flag("page_format"), reserved(3), flag("save_pages"))
SELECT_6 = CdbLayout(
    ModeSelect, opcode(0x15), *_SELECT_FLAGS, reserved(16), bits("parameter_list_length", 8), control()
)
SELECT_10 = CdbLayout(
    ModeSelect, opcode(0x55), *_SELECT_FLAGS, reserved(40), bits("parameter_list_length", 16), control()
)

_DEVICE_SPECIFIC = c.BitStruct("wp" / c.Flag, c.Padding(2), "dpofua" / c.Flag, c.Padding(4))
"""DEVICE-SPECIFIC PARAMETER of direct access block devices, SBC-3 table 122."""

HEADER_6 = c.Struct(
    "mode_data_length" / c.Int8ub,
    "medium_type" / c.Int8ub,
    "device_specific" / _DEVICE_SPECIFIC,
    "block_descriptor_length" / c.Int8ub,
)
HEADER_10 = c.Struct(
    "mode_data_length" / c.Int16ub,
    "medium_type" / c.Int8ub,
    "device_specific" / _DEVICE_SPECIFIC,
    "flags" / c.BitStruct(c.Padding(7), "longlba" / c.Flag),
    c.Padding(1),
    "block_descriptor_length" / c.Int16ub,
)
"""Mode parameter headers, SPC-4 tables 456 and 457."""

SHORT_BLOCK_DESCRIPTOR = c.Struct("number_of_blocks" / c.Int32ub, c.Padding(1), "block_length" / c.Int24ub)
LONG_BLOCK_DESCRIPTOR = c.Struct("number_of_blocks" / c.Int64ub, c.Padding(4), "block_length" / c.Int32ub)
"""Mode parameter block descriptors, SBC-3 tables 123 and 124."""

_ALL_PAGES, _ALL_SUBPAGES = 0x3F, 0xFF
_CURRENT, _CHANGEABLE, _DEFAULT, _SAVED = 0, 1, 2, 3


def _selected(unit: LogicalUnit, cdb: ModeSense) -> list[PageId]:
    """The pages a MODE SENSE asks for; INVALID FIELD IN CDB for a page that is not there (SPC-4 table 141)."""
    if cdb.page_code == _ALL_PAGES:
        if cdb.subpage_code not in (0x00, _ALL_SUBPAGES):
            raise invalid_field_in_cdb(3)
        wanted = [page for page in unit.mode.identifiers() if cdb.subpage_code or not page[1]]
    elif cdb.subpage_code == _ALL_SUBPAGES:
        wanted = [page for page in unit.mode.identifiers() if page[0] == cdb.page_code]
    else:
        wanted = [page for page in unit.mode.identifiers() if page == (cdb.page_code, cdb.subpage_code)]
    if not wanted:
        raise invalid_field_in_cdb(2, 5)
    return wanted


def _pages(unit: LogicalUnit, cdb: ModeSense) -> bytes:
    if cdb.page_control == _SAVED:
        raise check(Condition.SAVING_PARAMETERS_NOT_SUPPORTED)
    values = {
        _CURRENT: unit.mode.current,
        _CHANGEABLE: unit.mode.changeable,
        _DEFAULT: unit.mode.default,
    }[cdb.page_control]
    return b"".join(values(page) for page in _selected(unit, cdb))


def _block_descriptor(unit: LogicalUnit, cdb: ModeSense) -> bytes:
    if cdb.dbd:
        return b""
    longest = (1 << (64 if cdb.llbaa else 32)) - 1
    layout = LONG_BLOCK_DESCRIPTOR if cdb.llbaa else SHORT_BLOCK_DESCRIPTOR
    built: bytes = layout.build(
        {"number_of_blocks": min(unit.blocks, longest), "block_length": unit.block_length}
    )
    return built


def _device_specific(task: Task) -> dict[str, bool]:
    unit = task.unit
    if unit.config.device_type is not DeviceType.DISK:
        return {"wp": False, "dpofua": False}
    return {"wp": task.read_only or unit.write_protect is not None, "dpofua": True}


def mode_sense_6(task: Task, cdb: ModeSense) -> ScsiResult:
    """MODE SENSE (6)."""
    descriptor, pages = _block_descriptor(task.unit, cdb), _pages(task.unit, cdb)
    header = HEADER_6.build(
        {
            "mode_data_length": min(255, 3 + len(descriptor) + len(pages)),
            "medium_type": 0,
            "device_specific": _device_specific(task),
            "block_descriptor_length": len(descriptor),
        }
    )
    return cut(header + descriptor + pages, cdb.allocation_length)


def mode_sense_10(task: Task, cdb: ModeSense) -> ScsiResult:
    """MODE SENSE (10)."""
    descriptor, pages = _block_descriptor(task.unit, cdb), _pages(task.unit, cdb)
    header = HEADER_10.build(
        {
            "mode_data_length": 6 + len(descriptor) + len(pages),
            "medium_type": 0,
            "device_specific": _device_specific(task),
            "flags": {"longlba": bool(cdb.llbaa and descriptor)},
            "block_descriptor_length": len(descriptor),
        }
    )
    return cut(header + descriptor + pages, cdb.allocation_length)


def _proposed_pages(unit: LogicalUnit, data: bytes, start: int) -> Iterator[tuple[PageId, bytes]]:
    """Each page of a parameter list, checked; what is wrong raises before anything has changed."""
    position = start
    while position < len(data):
        spf = bool(data[position] & 0x40)
        header = 4 if spf else 2
        if position + header > len(data):
            raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
        page = (data[position] & 0x3F, data[position + 1] if spf else 0)
        length_at = position + (2 if spf else 1)
        length = int.from_bytes(data[length_at : position + header], "big")
        if page not in unit.mode.identifiers():
            raise invalid_field_in_parameter_list(position, 5)
        if header + length != len(unit.mode.current(page)):
            raise invalid_field_in_parameter_list(length_at)
        proposed = data[position : position + header + length]
        if len(proposed) < header + length:
            raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
        # PS is reserved in MODE SELECT (SPC-4 7.5.6).
        proposed = bytes((proposed[0] & 0x7F,)) + proposed[1:]
        wrong = unit.mode.rejected_byte(page, proposed)
        if wrong is not None:
            raise invalid_field_in_parameter_list(position + wrong)
        yield page, proposed
        position += header + length


def _check_block_descriptor(unit: LogicalUnit, data: bytes, start: int, length: int, *, long: bool) -> None:
    """A block descriptor may only say what is so: this unit is not reformatted by MODE SELECT (SBC-3 6.5.2)."""
    if length not in (0, 16 if long else 8):
        raise invalid_field_in_parameter_list(start - 1)
    if len(data) < start + length:
        raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
    if length:
        layout = LONG_BLOCK_DESCRIPTOR if long else SHORT_BLOCK_DESCRIPTOR
        descriptor = layout.parse(data[start : start + length])
        every = (1 << (64 if long else 32)) - 1
        if descriptor.number_of_blocks not in (0, every, min(unit.blocks, every)):
            raise invalid_field_in_parameter_list(start)
        if descriptor.block_length != unit.block_length:
            raise invalid_field_in_parameter_list(start + (12 if long else 5))


def _mode_select(task: Task, cdb: ModeSelect, header: c.Construct) -> ScsiResult:
    unit = task.unit
    if not cdb.page_format:
        raise invalid_field_in_cdb(1, 4)
    if cdb.save_pages:
        raise invalid_field_in_cdb(1, 0)
    data = bytes(task.data_out)[: cdb.parameter_list_length]
    if not data and not cdb.parameter_list_length:
        return GOOD
    if len(data) < cdb.parameter_list_length or len(data) < header.sizeof():
        raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
    parsed = header.parse(data)
    start = header.sizeof() + parsed.block_descriptor_length
    long = header is HEADER_10 and bool(parsed.flags.longlba)
    _check_block_descriptor(unit, data, header.sizeof(), parsed.block_descriptor_length, long=long)
    with unit.lock:
        proposed = list(_proposed_pages(unit, data, start))
        was_cached = unit.mode.wce
        changed = [unit.mode.select(page, value) for page, value in proposed]
        if any(changed):
            unit.attention(Condition.MODE_PARAMETERS_CHANGED, unit.nexuses, but=task.nexus)
    if was_cached and not unit.mode.wce and not unit.read_only:
        unit.store.flush()  # what is in the cache that is switched off
    return GOOD


def mode_select_6(task: Task, cdb: ModeSelect) -> ScsiResult:
    """MODE SELECT (6): all of the list is acceptable, or nothing changes."""
    return _mode_select(task, cdb, HEADER_6)


def mode_select_10(task: Task, cdb: ModeSelect) -> ScsiResult:
    """MODE SELECT (10): all of the list is acceptable, or nothing changes."""
    return _mode_select(task, cdb, HEADER_10)


def _select_length(unit: LogicalUnit, cdb: ModeSelect) -> int:
    if cdb.parameter_list_length > MAX_PARAMETER_LIST_LENGTH:
        raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
    return cdb.parameter_list_length


OPERATIONS = (
    Operation("MODE SENSE (6)", SENSE_6, mode_sense_6, traits=Traits.STANDBY, access=Access.READ),
    Operation("MODE SENSE (10)", SENSE_10, mode_sense_10, traits=Traits.STANDBY, access=Access.READ),
    Operation(
        "MODE SELECT (6)",
        SELECT_6,
        mode_select_6,
        traits=Traits.STANDBY | Traits.STORE,
        access=Access.WRITE,
        data_out_length=_select_length,
    ),
    Operation(
        "MODE SELECT (10)",
        SELECT_10,
        mode_select_10,
        traits=Traits.STANDBY | Traits.STORE,
        access=Access.WRITE,
        data_out_length=_select_length,
    ),
)
