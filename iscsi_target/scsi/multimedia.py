# SPDX-License-Identifier: Apache-2.0
"""What hosts ask a CD-ROM drive beyond SPC and SBC (MMC-6): one data track, one closed session."""

from __future__ import annotations

from typing import NamedTuple

import construct as c

from iscsi_target.executor import ScsiResult
from iscsi_target.scsi.errors import invalid_field_in_cdb
from iscsi_target.scsi.layout import CdbLayout, bits, control, flag, opcode, reserved
from iscsi_target.scsi.logical_unit import DeviceType, LogicalUnit, Medium
from iscsi_target.scsi.operation import Access, Operation, Task, Traits, cut

_CDROM_ONLY = frozenset((DeviceType.CDROM,))
_LEAD_OUT = 0xAA
_DATA_TRACK = 0x14
_LARGEST_CD_BLOCKS = 450_000
"""A 99-minute disc; a larger image is presented as a DVD-ROM."""
_PROFILE_CD_ROM, _PROFILE_DVD_ROM = 0x0008, 0x0010


class ReadToc(NamedTuple):
    """Fields of the READ TOC/PMA/ATIP CDB."""

    msf: int
    format: int
    track: int
    allocation_length: int


class GetConfiguration(NamedTuple):
    """Fields of the GET CONFIGURATION CDB."""

    rt: int
    starting_feature: int
    allocation_length: int


class GetEventStatus(NamedTuple):
    """Fields of the GET EVENT STATUS NOTIFICATION CDB."""

    polled: int
    classes: int
    allocation_length: int


class ReadDiscInformation(NamedTuple):
    """Fields of the READ DISC INFORMATION CDB."""

    data_type: int
    allocation_length: int


READ_TOC = CdbLayout(
    ReadToc,
    opcode(0x43),
    reserved(6),
    flag("msf"),
    reserved(1),
    reserved(4),
    bits("format", 4),
    reserved(24),
    bits("track", 8),
    bits("allocation_length", 16),
    control(),
)
GET_CONFIGURATION = CdbLayout(
    GetConfiguration,
    opcode(0x46),
    reserved(6),
    bits("rt", 2),
    bits("starting_feature", 16),
    reserved(24),
    bits("allocation_length", 16),
    control(),
)
GET_EVENT_STATUS = CdbLayout(
    GetEventStatus,
    opcode(0x4A),
    reserved(7),
    flag("polled"),
    reserved(16),
    bits("classes", 8),
    reserved(16),
    bits("allocation_length", 16),
    control(),
)
READ_DISC_INFORMATION = CdbLayout(
    ReadDiscInformation,
    opcode(0x51),
    reserved(5),
    bits("data_type", 3),
    reserved(40),
    bits("allocation_length", 16),
    control(),
)

TOC_TRACK = c.Struct(
    c.Padding(1), "adr_control" / c.Int8ub, "track" / c.Int8ub, c.Padding(1), "start" / c.Bytes(4)
)
"""TOC track descriptor, MMC-6 table 481."""

FEATURE = c.Struct(
    "code" / c.Int16ub,
    "flags"
    / c.BitStruct(c.Padding(2), "version" / c.BitsInteger(4), "persistent" / c.Flag, "current" / c.Flag),
    "data" / c.Prefixed(c.Int8ub, c.GreedyBytes),
)
"""Feature descriptor, MMC-6 table 91."""


def _address(lba: int, *, msf: bool) -> bytes:
    """A track's start as LBA, or as minute, second and frame (MMC-6 table 483), which end at 255:59:74."""
    if not msf:
        return min(lba, 0xFFFFFFFF).to_bytes(4, "big")
    frames = min(lba + 150, 255 * 4500 + 59 * 75 + 74)
    return bytes((0, frames // 4500, frames // 75 % 60, frames % 75))


def read_toc(task: Task, cdb: ReadToc) -> ScsiResult:
    """READ TOC/PMA/ATIP: the table of contents (format 0) and the session information (format 1)."""
    msf = bool(cdb.msf)
    track = TOC_TRACK.build({"adr_control": _DATA_TRACK, "track": 1, "start": _address(0, msf=msf)})
    if cdb.format == 1:
        return cut(bytes((0, 10, 1, 1)) + track, cdb.allocation_length)
    if cdb.format != 0:
        raise invalid_field_in_cdb(2, 3)
    if cdb.track > 1 and cdb.track != _LEAD_OUT:
        raise invalid_field_in_cdb(6)
    body = track if cdb.track <= 1 else b""
    body += TOC_TRACK.build(
        {"adr_control": _DATA_TRACK, "track": _LEAD_OUT, "start": _address(task.unit.blocks, msf=msf)}
    )
    return cut((len(body) + 2).to_bytes(2, "big") + b"\x01\x01" + body, cdb.allocation_length)


def _features(unit: LogicalUnit, profile: int) -> list[tuple[int, int, bool, bool, bytes]]:
    """(code, version, persistent, current, data) of each feature, ascending (MMC-6 5.3)."""
    present = unit.medium is Medium.READY
    profiles = b"".join(
        each.to_bytes(2, "big") + bytes((each == profile, 0)) for each in (_PROFILE_DVD_ROM, _PROFILE_CD_ROM)
    )
    random_readable = unit.block_length.to_bytes(4, "big") + bytes((0, 1, 1, 0))
    return [
        (0x0000, 0, True, True, profiles),
        (0x0001, 2, True, True, bytes.fromhex("00000001 01000000")),  # core, SCSI family
        (0x0003, 1, True, True, bytes.fromhex("29000000")),  # removable medium: tray, eject, lock
        (0x0010, 0, False, present, random_readable),
        (0x001E, 2, False, profile == _PROFILE_CD_ROM, bytes(4)),  # CD read
        (0x001F, 1, False, profile == _PROFILE_DVD_ROM, bytes(4)),  # DVD read
    ]


def get_configuration(task: Task, cdb: GetConfiguration) -> ScsiResult:
    """GET CONFIGURATION: all features, the current ones, or one."""
    if cdb.rt == 3:
        raise invalid_field_in_cdb(1, 1)
    unit = task.unit
    profile = 0
    if unit.medium is Medium.READY:
        profile = _PROFILE_CD_ROM if unit.blocks <= _LARGEST_CD_BLOCKS else _PROFILE_DVD_ROM
    features = b"".join(
        FEATURE.build(
            {
                "code": code,
                "flags": {"version": version, "persistent": persistent, "current": current},
                "data": data,
            }
        )
        for code, version, persistent, current, data in _features(unit, profile)
        if (
            code == cdb.starting_feature
            if cdb.rt == 2
            else code >= cdb.starting_feature and (current or not cdb.rt)
        )
    )
    body = bytes(2) + profile.to_bytes(2, "big") + features
    return cut(len(body).to_bytes(4, "big") + body, cdb.allocation_length)


_MEDIA_CLASS = 4


def get_event_status(task: Task, cdb: GetEventStatus) -> ScsiResult:
    """GET EVENT STATUS NOTIFICATION, polled: whether there is a medium. Changes are unit attentions here."""
    if not cdb.polled:
        raise invalid_field_in_cdb(1, 0)
    supported = 1 << _MEDIA_CLASS
    if not cdb.classes & supported:
        return cut(bytes((0, 2, 0x80, supported)), cdb.allocation_length)
    status = 0x02 if task.unit.medium is Medium.READY else 0x01
    return cut(bytes((0, 6, _MEDIA_CLASS, supported, 0, status, 0, 0)), cdb.allocation_length)


def read_disc_information(task: Task, cdb: ReadDiscInformation) -> ScsiResult:
    """READ DISC INFORMATION: finalized, one session with one track (MMC-6 table 368)."""
    if cdb.data_type:
        raise invalid_field_in_cdb(1, 2)
    return cut(bytes((0, 32, 0x0E, 1, 1, 1, 1, 0x20)) + bytes(26), cdb.allocation_length)


OPERATIONS = (
    Operation("READ TOC/PMA/ATIP", READ_TOC, read_toc, Traits.MEDIUM, Access.READ, device_types=_CDROM_ONLY),
    Operation(
        "GET CONFIGURATION",
        GET_CONFIGURATION,
        get_configuration,
        Traits.IGNORES_ATTENTION,
        device_types=_CDROM_ONLY,
    ),
    Operation(
        "GET EVENT STATUS NOTIFICATION",
        GET_EVENT_STATUS,
        get_event_status,
        Traits.IGNORES_ATTENTION,
        device_types=_CDROM_ONLY,
    ),
    Operation(
        "READ DISC INFORMATION",
        READ_DISC_INFORMATION,
        read_disc_information,
        Traits.MEDIUM,
        Access.READ,
        device_types=_CDROM_ONLY,
    ),
)
