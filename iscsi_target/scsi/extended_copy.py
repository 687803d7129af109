# SPDX-License-Identifier: Apache-2.0
"""EXTENDED COPY (LID1) and RECEIVE COPY RESULTS (SPC-4 5.17, 6.4, 6.18): block to block, inside this target.

Sources and destinations are named by their identification descriptors, and found only among the logical units that
the asking initiator may see. Reservations of other nexuses on a source or destination are respected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import construct as c

from iscsi_target.executor import ScsiResult
from iscsi_target.scsi import alua
from iscsi_target.scsi.errors import CheckCondition, StatusOnly, StoreError, check, invalid_field_in_cdb
from iscsi_target.scsi.layout import CdbLayout, bits, control, opcode, reserved, service_action
from iscsi_target.scsi.logical_unit import CopyResult, LogicalUnit
from iscsi_target.scsi.medium import not_ready
from iscsi_target.scsi.operation import DISK_ONLY, GOOD, Access, Operation, Task, Traits, cut
from iscsi_target.scsi.sense import Condition
from iscsi_target.scsi.status import Status

MAX_CSCD_DESCRIPTORS = 8
MAX_SEGMENT_DESCRIPTORS = 8
CSCD_BYTES = 32
BLOCK_TO_BLOCK_BYTES = 28
MAX_DESCRIPTOR_LIST_BYTES = MAX_CSCD_DESCRIPTORS * CSCD_BYTES + MAX_SEGMENT_DESCRIPTORS * BLOCK_TO_BLOCK_BYTES
MAX_SEGMENT_BYTES = 32 << 20
_HEADER_BYTES = 16
_MAX_PARAMETER_LIST_BYTES = 8192
_CHUNK_BYTES = 1 << 20


class ExtendedCopy(NamedTuple):
    """Fields of the EXTENDED COPY (LID1) CDB."""

    parameter_list_length: int


class ReceiveResults(NamedTuple):
    """Fields of the RECEIVE COPY RESULTS CDBs."""

    list_identifier: int
    allocation_length: int


EXTENDED_COPY = CdbLayout(
    ExtendedCopy,
    opcode(0x83),
    reserved(3),
    service_action(0x00),
    reserved(64),
    bits("parameter_list_length", 32),
    reserved(8),
    control(),
)


def _receive(action: int) -> CdbLayout[ReceiveResults]:
    return CdbLayout(
        ReceiveResults,
        opcode(0x84),
        reserved(3),
        service_action(action),
        bits("list_identifier", 8),
        reserved(56),
        bits("allocation_length", 32),
        reserved(8),
        control(),
    )


COPY_STATUS, OPERATING_PARAMETERS = _receive(0x00), _receive(0x03)

PARAMETER_LIST = c.Struct(
    "list_identifier" / c.Int8ub,
    "flags"
    / c.BitStruct(
        c.Padding(2), "str" / c.Flag, "list_id_usage" / c.BitsInteger(2), "priority" / c.BitsInteger(3)
    ),
    "cscd_descriptor_list_length" / c.Int16ub,
    c.Padding(4),
    "segment_descriptor_list_length" / c.Int32ub,
    "inline_data_length" / c.Int32ub,
)
"""EXTENDED COPY (LID1) parameter list header, SPC-4 table 88."""

CSCD_DESCRIPTOR = c.Struct(
    "type" / c.Int8ub,
    "device_type" / c.BitStruct("lu_id_type" / c.BitsInteger(2), "nul" / c.Flag, "type" / c.BitsInteger(5)),
    "relative_initiator_port" / c.Int16ub,
    "code_set" / c.BitStruct(c.Padding(4), "code_set" / c.BitsInteger(4)),
    "kind"
    / c.BitStruct(c.Padding(2), "association" / c.BitsInteger(2), "designator_type" / c.BitsInteger(4)),
    c.Padding(1),
    "designator_length" / c.Int8ub,
    "designator" / c.Bytes(20),
    "device_specific" / c.Struct(c.Padding(1), "block_length" / c.Int24ub),
)
"""Identification descriptor CSCD descriptor E4h for block devices, SPC-4 tables 104, 107."""

BLOCK_TO_BLOCK = c.Struct(
    "type" / c.Int8ub,
    "flags" / c.BitStruct(c.Padding(6), "dc" / c.Flag, "cat" / c.Flag),
    "length" / c.Int16ub,
    "source" / c.Int16ub,
    "destination" / c.Int16ub,
    c.Padding(2),
    "blocks" / c.Int16ub,
    "source_lba" / c.Int64ub,
    "destination_lba" / c.Int64ub,
)
"""Block device to block device segment descriptor 02h, SPC-4 table 118."""

OPERATING_PARAMETERS_DATA = c.Struct(
    "available_data" / c.Const(42, c.Int32ub),
    "flags" / c.BitStruct(c.Padding(7), "snlid" / c.Flag),
    c.Padding(3),
    "maximum_cscd_descriptor_count" / c.Int16ub,
    "maximum_segment_descriptor_count" / c.Int16ub,
    "maximum_descriptor_list_length" / c.Int32ub,
    "maximum_segment_length" / c.Int32ub,
    "maximum_inline_data_length" / c.Const(0, c.Int32ub),
    "held_data_limit" / c.Const(0, c.Int32ub),
    "maximum_stream_device_transfer_size" / c.Const(0, c.Int32ub),
    c.Padding(2),
    "total_concurrent_copies" / c.Int16ub,
    "maximum_concurrent_copies" / c.Int8ub,
    "data_segment_granularity" / c.Int8ub,
    "inline_data_granularity" / c.Int8ub,
    "held_data_granularity" / c.Int8ub,
    c.Padding(3),
    "implemented_descriptor_list" / c.Prefixed(c.Int8ub, c.GreedyBytes),
)
"""RECEIVE COPY OPERATING PARAMETERS, SPC-4 table 204; two implemented descriptor types."""

COPY_STATUS_DATA = c.Struct(
    "available_data" / c.Const(8, c.Int32ub),
    "copy_manager_status" / c.BitStruct("hdd" / c.Flag, "status" / c.BitsInteger(7)),
    "segments_processed" / c.Int16ub,
    "transfer_count_units" / c.Int8ub,
    "transfer_count" / c.Int32ub,
)
"""RECEIVE COPY STATUS (LID1), SPC-4 table 197."""

_CSCD_IDENTIFICATION, _SEGMENT_BLOCK_TO_BLOCK = 0xE4, 0x02
_NAA, _T10_VENDOR_ID = 3, 1
_DISCARD_RESULTS, _HOLD_NO_RESULTS = 2, 3
_COMPLETED, _FAILED = 1, 2
_KIBIBYTES = 1


def _list_length(unit: LogicalUnit, cdb: ExtendedCopy) -> int:
    if cdb.parameter_list_length > _MAX_PARAMETER_LIST_BYTES:
        raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
    return cdb.parameter_list_length


class Segment(NamedTuple):
    """One checked segment: byte ranges of two logical units."""

    source: LogicalUnit
    source_offset: int
    destination: LogicalUnit
    destination_offset: int
    length: int


class Reached(NamedTuple):
    """A unit that a CSCD descriptor names, and whether the initiator may write to it."""

    unit: LogicalUnit
    writable: bool


def designators(unit: LogicalUnit) -> dict[int, bytes]:
    """The names by which a CSCD descriptor may mean a unit, by designator type."""
    return {
        _NAA: unit.identity.naa,
        _T10_VENDOR_ID: (unit.config.vendor.encode().ljust(8) + unit.identity.serial.encode())[:20],
    }


def written_to(parameter_list: bytes) -> set[tuple[int, bytes]]:
    """The designators (type, name) of the units that a parameter list writes to; none for a list that is refused."""
    try:
        _, cscds, segments = _parse(parameter_list)
    except CheckCondition:
        return set()
    return {
        (cscd.kind.designator_type, cscd.designator[: cscd.designator_length])
        for segment in segments
        for cscd in cscds[segment.destination : segment.destination + 1]
    }


def _find(task: Task, descriptor: Any) -> Reached:
    """The unit a CSCD descriptor names, among those the initiator may see."""
    designator: bytes = descriptor.designator[: descriptor.designator_length]
    initiator = task.command.initiator_name
    if not any(designator):
        designator = b""
    for lun in task.target.luns_for(initiator):
        unit = task.target.unit_for(initiator, lun)
        if unit is None or unit.config.device_type != descriptor.device_type.type:
            continue
        if designator and designators(unit).get(descriptor.kind.designator_type) == designator:
            return Reached(unit, task.target.may_write(initiator, lun))
    raise check(Condition.COPY_TARGET_DEVICE_NOT_REACHABLE)


def _check_access(task: Task, unit: LogicalUnit, access: Access) -> None:
    """A copy may do to another unit what its initiator could do to it itself (SPC-4 5.17.5)."""
    if unit.reservations.conflicts(task.nexus, access, despite_reserve=False):
        raise StatusOnly(Status.RESERVATION_CONFLICT)
    why = (
        not_ready(unit)
        or (Condition.NOT_READY_SANITIZE_IN_PROGRESS if unit.sanitize is not None else None)
        or alua.refusal(unit, task.nexus.target_port, standby_works=False)
    )
    if why is not None or (access is Access.WRITE and unit.write_protect is not None):
        raise check(Condition.THIRD_PARTY_DEVICE_FAILURE)


def _segment(task: Task, units: Sequence[Reached], descriptor: Any) -> Segment:
    """Check one segment descriptor against the units it names."""
    if max(descriptor.source, descriptor.destination) >= len(units):
        raise check(Condition.COPY_TARGET_DEVICE_NOT_REACHABLE)
    source, (destination, writable) = units[descriptor.source].unit, units[descriptor.destination]
    if not writable:
        raise check(Condition.THIRD_PARTY_DEVICE_FAILURE)
    _check_access(task, source, Access.READ)
    _check_access(task, destination, Access.WRITE)
    # DC says whose block length the number of blocks counts (SPC-4 6.4.6.3).
    length = descriptor.blocks * (destination if descriptor.flags.dc else source).block_length
    if length % source.block_length or length % destination.block_length or length > MAX_SEGMENT_BYTES:
        raise check(Condition.COPY_ABORTED)
    try:
        source_offset, _ = source.extent(descriptor.source_lba, length // source.block_length)
        destination_offset, _ = destination.extent(
            descriptor.destination_lba, length // destination.block_length
        )
    except CheckCondition:
        raise check(Condition.COPY_ABORTED) from None
    return Segment(source, source_offset, destination, destination_offset, length)


def _copy(segment: Segment) -> None:
    """Copy through a bounded buffer; an overlapping range of one unit is copied from the safe end."""
    starts = list(range(0, segment.length, _CHUNK_BYTES))
    if segment.source is segment.destination and segment.destination_offset > segment.source_offset:
        starts.reverse()
    for start in starts:
        size = min(_CHUNK_BYTES, segment.length - start)
        with segment.source.ranges.atomic(segment.source_offset + start, size):
            data = b"".join(segment.source.store.read(segment.source_offset + start, size))
        destination = segment.destination
        with destination.ranges.atomic(segment.destination_offset + start, size):
            destination.store.write(
                segment.destination_offset + start, data, durable=not destination.mode.wce
            )


def _parse(data: bytes) -> tuple[Any, list[Any], list[Any]]:
    """Header, CSCD descriptors and segment descriptors of a parameter list, within this copy manager's limits."""
    if len(data) < _HEADER_BYTES:
        raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
    header = PARAMETER_LIST.parse(data)
    cscd_bytes, segment_bytes = header.cscd_descriptor_list_length, header.segment_descriptor_list_length
    if cscd_bytes + segment_bytes > MAX_DESCRIPTOR_LIST_BYTES:
        raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
    if cscd_bytes // CSCD_BYTES > MAX_CSCD_DESCRIPTORS:
        raise check(Condition.TOO_MANY_TARGET_DESCRIPTORS)
    if segment_bytes // BLOCK_TO_BLOCK_BYTES > MAX_SEGMENT_DESCRIPTORS:
        raise check(Condition.TOO_MANY_SEGMENT_DESCRIPTORS)
    if cscd_bytes % CSCD_BYTES or _HEADER_BYTES + cscd_bytes + segment_bytes > len(data):
        raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
    if header.inline_data_length:
        raise check(Condition.INLINE_DATA_LENGTH_EXCEEDED)
    cscds = []
    for at in range(_HEADER_BYTES, _HEADER_BYTES + cscd_bytes, CSCD_BYTES):
        if data[at] != _CSCD_IDENTIFICATION:
            raise check(Condition.UNSUPPORTED_TARGET_DESCRIPTOR_TYPE_CODE)
        cscds.append(CSCD_DESCRIPTOR.parse(data[at : at + CSCD_BYTES]))
    segments, at, end = [], _HEADER_BYTES + cscd_bytes, _HEADER_BYTES + cscd_bytes + segment_bytes
    while at < end:
        if data[at] != _SEGMENT_BLOCK_TO_BLOCK:
            raise check(Condition.UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE_CODE)
        if end - at < BLOCK_TO_BLOCK_BYTES:
            raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
        segments.append(BLOCK_TO_BLOCK.parse(data[at : at + BLOCK_TO_BLOCK_BYTES]))
        at += BLOCK_TO_BLOCK_BYTES
    return header, cscds, segments


def extended_copy(task: Task, cdb: ExtendedCopy) -> ScsiResult:
    """EXTENDED COPY: the segments in order; the first that fails ends it with COPY ABORTED."""
    if not cdb.parameter_list_length:
        return GOOD
    data = bytes(task.data_out)
    if len(data) < _list_length(task.unit, cdb):
        raise check(Condition.PARAMETER_LIST_LENGTH_ERROR)
    header, cscds, descriptors = _parse(data)
    if descriptors and not cscds:
        raise check(Condition.COPY_TARGET_DEVICE_NOT_REACHABLE)
    units = [_find(task, descriptor) for descriptor in cscds]
    done, moved, failed = 0, 0, True
    try:
        for descriptor in descriptors:
            segment = _segment(task, units, descriptor)
            try:
                _copy(segment)
            except StoreError:
                raise check(Condition.THIRD_PARTY_DEVICE_FAILURE) from None
            done, moved = done + 1, moved + segment.length
        failed = False
    finally:
        if header.flags.list_id_usage != _HOLD_NO_RESULTS:
            result = CopyResult(done, moved, failed)
            with task.unit.lock:
                task.unit.copies.remember(task.nexus, header.list_identifier, result)
    return GOOD


def copy_status(task: Task, cdb: ReceiveResults) -> ScsiResult:
    """RECEIVE COPY STATUS: of a list identifier this nexus has used (SPC-4 6.18.2)."""
    result = task.unit.copies.segments.get((task.nexus, cdb.list_identifier))
    if result is None:
        raise invalid_field_in_cdb(2)
    data = COPY_STATUS_DATA.build(
        {
            "copy_manager_status": {"hdd": False, "status": _FAILED if result.failed else _COMPLETED},
            "segments_processed": result.segments_processed,
            "transfer_count_units": _KIBIBYTES,
            "transfer_count": min(result.transfer_bytes >> 10, 0xFFFFFFFF),
        }
    )
    return cut(data, cdb.allocation_length)


def operating_parameters(task: Task, cdb: ReceiveResults) -> ScsiResult:
    """RECEIVE COPY OPERATING PARAMETERS: this copy manager's limits."""
    data = OPERATING_PARAMETERS_DATA.build(
        {
            "flags": {"snlid": True},
            "maximum_cscd_descriptor_count": MAX_CSCD_DESCRIPTORS,
            "maximum_segment_descriptor_count": MAX_SEGMENT_DESCRIPTORS,
            "maximum_descriptor_list_length": MAX_DESCRIPTOR_LIST_BYTES,
            "maximum_segment_length": MAX_SEGMENT_BYTES,
            "total_concurrent_copies": 1,
            "maximum_concurrent_copies": 1,
            "data_segment_granularity": task.unit.block_length.bit_length() - 1,
            "inline_data_granularity": 0,
            "held_data_granularity": 0,
            "implemented_descriptor_list": bytes((_SEGMENT_BLOCK_TO_BLOCK, _CSCD_IDENTIFICATION)),
        }
    )
    return cut(data, cdb.allocation_length)


OPERATIONS = (
    Operation(
        "EXTENDED COPY (LID1)",
        EXTENDED_COPY,
        extended_copy,
        Traits.STORE | Traits.SLOW,
        Access.WRITE,
        _list_length,
        DISK_ONLY,
        timeout_s=60,
    ),
    Operation(
        "RECEIVE COPY STATUS (LID1)", COPY_STATUS, copy_status, access=Access.READ, device_types=DISK_ONLY
    ),
    Operation(
        "RECEIVE COPY OPERATING PARAMETERS",
        OPERATING_PARAMETERS,
        operating_parameters,
        access=Access.READ,
        device_types=DISK_ONLY,
    ),
)
