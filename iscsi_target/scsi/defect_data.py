# SPDX-License-Identifier: Apache-2.0
"""READ DEFECT DATA (10) and (12) (SBC-3 5.17, 5.18): lists that are there and empty."""

from __future__ import annotations

from typing import NamedTuple

from iscsi_target.executor import ScsiResult
from iscsi_target.scsi.layout import CdbLayout, bits, control, flag, opcode, reserved
from iscsi_target.scsi.operation import DISK_ONLY, Access, Operation, Task, Traits, cut


class ReadDefectData(NamedTuple):
    """Fields of both CDBs."""

    req_plist: int
    req_glist: int
    defect_list_format: int
    allocation_length: int


_LISTS = (reserved(3), flag("req_plist"), flag("req_glist"), bits("defect_list_format", 3))

LAYOUT_10 = CdbLayout(
    ReadDefectData,
    opcode(0x37),
    reserved(8),
    *_LISTS,
    reserved(32),
    bits("allocation_length", 16),
    control(),
)
LAYOUT_12 = CdbLayout(
    ReadDefectData,
    opcode(0xB7),
    *_LISTS,
    reserved(32),
    bits("allocation_length", 32),
    reserved(8),
    control(),
)


def _lists(cdb: ReadDefectData) -> int:
    """PLISTV, GLISTV and the format as asked for."""
    return cdb.req_plist << 4 | cdb.req_glist << 3 | cdb.defect_list_format


def read_defect_data_10(task: Task, cdb: ReadDefectData) -> ScsiResult:
    """A virtual disk has no defects: empty lists in the format asked for."""
    return cut(bytes((0, _lists(cdb), 0, 0)), cdb.allocation_length)


def read_defect_data_12(task: Task, cdb: ReadDefectData) -> ScsiResult:
    """A virtual disk has no defects: empty lists in the format asked for."""
    return cut(bytes((0, _lists(cdb), 0, 0, 0, 0, 0, 0)), cdb.allocation_length)


OPERATIONS = (
    Operation(
        "READ DEFECT DATA (10)",
        LAYOUT_10,
        read_defect_data_10,
        Traits.MEDIUM,
        Access.READ,
        device_types=DISK_ONLY,
    ),
    Operation(
        "READ DEFECT DATA (12)",
        LAYOUT_12,
        read_defect_data_12,
        Traits.MEDIUM,
        Access.READ,
        device_types=DISK_ONLY,
    ),
)
