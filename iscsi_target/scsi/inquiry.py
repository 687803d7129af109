# SPDX-License-Identifier: Apache-2.0
"""INQUIRY with its standard data and vital product data pages (SPC-4 6.6, 7.8; SBC-3 6.6)."""

from __future__ import annotations

from typing import NamedTuple

import construct as c

from iscsi_target.executor import ScsiCommand, ScsiResult
from iscsi_target.scsi.errors import invalid_field_in_cdb
from iscsi_target.scsi.layout import CdbLayout, bits, control, flag, opcode, reserved
from iscsi_target.scsi.logical_unit import DeviceType, LogicalUnit
from iscsi_target.scsi.operation import ALWAYS, Operation, Task, cut
from iscsi_target.scsi.vpd import padded, pages_of

NO_UNIT = bytes((0x7F,))
"""PERIPHERAL QUALIFIER 011b, device type 1Fh: no logical unit can be here (SPC-4 table 146)."""


class Inquiry(NamedTuple):
    """Fields of the INQUIRY CDB."""

    evpd: int
    page_code: int
    allocation_length: int


LAYOUT = CdbLayout(
    Inquiry,
    opcode(0x12),
    reserved(7),
    flag("evpd"),
    bits("page_code", 8),
    bits("allocation_length", 16),
    control(),
)

STANDARD_DATA = c.Struct(
    "peripheral" / c.Int8ub,
    "removable" / c.BitStruct("rmb" / c.Flag, c.Padding(7)),
    "version" / c.Const(0x06, c.Int8ub),
    "format"
    / c.BitStruct(
        c.Padding(2),
        "normaca" / c.Flag,
        "hisup" / c.Flag,
        "response_data_format" / c.Const(2, c.BitsInteger(4)),
    ),
    "additional_length" / c.Const(91, c.Int8ub),
    "protection"
    / c.BitStruct(
        "sccs" / c.Flag,
        c.Padding(1),
        "tpgs" / c.BitsInteger(2),
        "third_party_copy" / c.Flag,
        c.Padding(2),
        "protect" / c.Flag,
    ),
    "services" / c.BitStruct(c.Padding(1), "encserv" / c.Flag, c.Padding(1), "multip" / c.Flag, c.Padding(4)),
    "queueing" / c.BitStruct(c.Padding(6), "cmdque" / c.Flag, c.Padding(1)),
    "vendor" / c.Bytes(8),
    "product" / c.Bytes(16),
    "revision" / c.Bytes(4),
    c.Padding(20 + 2),
    "version_descriptors" / c.Array(8, c.Int16ub),
    c.Padding(22),
)
"""Standard INQUIRY data, SPC-4 table 145: 96 bytes, VERSION 06h = SPC-4."""

_COMMON_VERSIONS = (0x00A0, 0x0960, 0x0460)  # SAM-5, iSCSI, SPC-4
_VERSIONS = {DeviceType.DISK: (*_COMMON_VERSIONS, 0x04C0), DeviceType.CDROM: (*_COMMON_VERSIONS, 0x04E0)}


_IMPLICIT_AND_EXPLICIT_ALUA = 3
"""TPGS: access states change by SET TARGET PORT GROUPS and by whoever runs the target (SPC-4 table 150)."""


def standard_data(unit: LogicalUnit) -> bytes:
    """The standard INQUIRY data of a unit."""
    config = unit.config
    versions = _VERSIONS[config.device_type]
    built: bytes = STANDARD_DATA.build(
        {
            "peripheral": config.device_type,
            "removable": {"rmb": config.removable},
            "format": {"normaca": False, "hisup": True},
            "protection": {
                "sccs": False,
                "tpgs": _IMPLICIT_AND_EXPLICIT_ALUA,
                "third_party_copy": config.device_type is DeviceType.DISK,
                "protect": False,
            },
            "services": {"encserv": False, "multip": True},
            "queueing": {"cmdque": True},
            "vendor": padded(config.vendor, 8),
            "product": padded(config.product, 16),
            "revision": padded(config.revision, 4),
            "version_descriptors": (*versions, *(0,) * (8 - len(versions))),
        }
    )
    return built


def inquiry(task: Task, cdb: Inquiry) -> ScsiResult:
    """INQUIRY of a unit that is there."""
    if not cdb.evpd:
        if cdb.page_code:
            raise invalid_field_in_cdb(2)
        return cut(standard_data(task.unit), cdb.allocation_length)
    page = pages_of(task.unit).get(cdb.page_code)
    if page is None:
        raise invalid_field_in_cdb(2)
    body = page(task)
    header = bytes((task.unit.config.device_type, cdb.page_code)) + len(body).to_bytes(2, "big")
    return cut(header + body, cdb.allocation_length)


def inquiry_without_unit(command: ScsiCommand) -> ScsiResult:
    """INQUIRY of a LUN that is not there: standard data and page 00h say so, and nothing else (SPC-4 6.6.1)."""
    cdb = LAYOUT.parse(command.cdb)
    if cdb.evpd and cdb.page_code == 0:
        return cut(NO_UNIT + bytes((0, 0, 1, 0)), cdb.allocation_length)
    if cdb.evpd or cdb.page_code:
        raise invalid_field_in_cdb(2)
    return cut(NO_UNIT + bytes((0x00, 0x06, 0x02, 31)) + bytes(31), cdb.allocation_length)


OPERATIONS = (
    Operation(
        "INQUIRY",
        LAYOUT,
        inquiry,
        traits=ALWAYS,
    ),
)
