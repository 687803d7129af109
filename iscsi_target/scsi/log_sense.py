# SPDX-License-Identifier: Apache-2.0
"""LOG SENSE (SPC-4 6.8, 7.3; SBC-3 6.4): only pages whose contents are known to be so.

There is no temperature and no error counter to tell of here, so there are no such pages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import construct as c

from iscsi_target.executor import ScsiResult
from iscsi_target.scsi.errors import invalid_field_in_cdb
from iscsi_target.scsi.layout import CdbLayout, bits, control, flag, opcode, reserved
from iscsi_target.scsi.logical_unit import LogicalUnit
from iscsi_target.scsi.operation import DISK_ONLY, Operation, Task, Traits, cut
from iscsi_target.scsi.provisioning import threshold_exponent
from iscsi_target.scsi.stores.store import Space


class LogSense(NamedTuple):
    """Fields of the LOG SENSE CDB; PPC is obsolete, and refused."""

    ppc: int
    save: int
    page_control: int
    page_code: int
    subpage_code: int
    parameter_pointer: int
    allocation_length: int


LOG_SENSE = CdbLayout(
    LogSense,
    opcode(0x4D),
    reserved(6),
    flag("ppc"),
    flag("save"),
    bits("page_control", 2),
    bits("page_code", 6),
    bits("subpage_code", 8),
    reserved(8),
    bits("parameter_pointer", 16),
    bits("allocation_length", 16),
    control(),
)

LOG_PAGE = c.Struct(
    "page" / c.BitStruct("ds" / c.Flag, "spf" / c.Flag, "page_code" / c.BitsInteger(6)),
    "subpage_code" / c.Int8ub,
    "body" / c.Prefixed(c.Int16ub, c.GreedyBytes),
)
"""SPC-4 table 325. DS = 1: LOG SELECT cannot save it."""

LOG_PARAMETER = c.Struct(
    "parameter_code" / c.Int16ub,
    "control" / c.Const(0x03, c.Int8ub),
    "value" / c.Prefixed(c.Int8ub, c.GreedyBytes),
)
"""SPC-4 table 327; FORMAT AND LINKING 11b: a binary list."""

RESOURCE_COUNT = c.Struct(
    "count" / c.Int32ub, "scope" / c.BitStruct(c.Padding(6), "scope" / c.BitsInteger(2)), c.Padding(3)
)
"""LBA mapping resource count, SBC-3 tables 167 and 168, in threshold sets."""

INFORMATIONAL_EXCEPTION = c.Struct(
    "asc" / c.Int8ub,
    "ascq" / c.Int8ub,
    "most_recent_temperature" / c.Int8ub,
    "threshold_temperature" / c.Int8ub,
)
"""SPC-4 table 352; the last byte is vendor specific, and so used by many."""

_CUMULATIVE = 1
_AVAILABLE, _USED = 1, 2
_DEDICATED, _SHARED = 1, 2
_TEMPERATURE_UNKNOWN = 0xFF
_SUPPORTED, _EVERY_SUBPAGE = (0x00, 0x00), (0x00, 0xFF)

PageId = tuple[int, int]
LogPage = Callable[[LogicalUnit], bytes]


def _parameter(code: int, value: bytes) -> bytes:
    built: bytes = LOG_PARAMETER.build({"parameter_code": code, "value": value})
    return built


def _provisioning(unit: LogicalUnit) -> bytes:
    """Logical block provisioning: resources in threshold sets, used ones rounded up and available ones down."""
    space = unit.store.space() or Space(0, 0)
    set_bytes = unit.block_length << threshold_exponent(unit)

    def count(sets: int, scope: int) -> bytes:
        built: bytes = RESOURCE_COUNT.build({"count": min(sets, 0xFFFFFFFF), "scope": {"scope": scope}})
        return built

    return _parameter(_AVAILABLE, count(space.available_bytes // set_bytes, _SHARED)) + _parameter(
        _USED, count(-(-space.used_bytes // set_bytes), _DEDICATED)
    )


def _exceptions(unit: LogicalUnit) -> bytes:
    """Informational exceptions: none."""
    return _parameter(
        0,
        INFORMATIONAL_EXCEPTION.build(
            {
                "asc": 0,
                "ascq": 0,
                "most_recent_temperature": _TEMPERATURE_UNKNOWN,
                "threshold_temperature": _TEMPERATURE_UNKNOWN,
            }
        ),
    )


def pages_of(unit: LogicalUnit) -> dict[PageId, LogPage]:
    """The log pages of a unit by (page code, subpage code), ascending."""
    pages: dict[PageId, LogPage] = {
        _SUPPORTED: lambda unit: bytes(code for code, subpage in pages_of(unit) if not subpage),
        _EVERY_SUBPAGE: lambda unit: bytes(byte for page in pages_of(unit) for byte in page),
    }
    if threshold_exponent(unit):
        pages[0x0C, 0x00] = _provisioning
    pages[0x2F, 0x00] = _exceptions
    return pages


def log_sense(task: Task, cdb: LogSense) -> ScsiResult:
    """LOG SENSE: cumulative values; there are no thresholds, and nothing is saved."""
    if cdb.ppc or cdb.save:
        raise invalid_field_in_cdb(1, 1 if cdb.ppc else 0)
    page = (cdb.page_code, cdb.subpage_code)
    body = pages_of(task.unit).get(page)
    if body is None:
        raise invalid_field_in_cdb(3 if cdb.subpage_code else 2, 7 if cdb.subpage_code else 5)
    if cdb.page_code and cdb.page_control != _CUMULATIVE:
        raise invalid_field_in_cdb(2, 7)
    if cdb.parameter_pointer:
        raise invalid_field_in_cdb(5)
    built: bytes = LOG_PAGE.build(
        {
            "page": {"ds": True, "spf": bool(cdb.subpage_code), "page_code": cdb.page_code},
            "subpage_code": cdb.subpage_code,
            "body": body(task.unit),
        }
    )
    return cut(built, cdb.allocation_length)


OPERATIONS = (
    Operation(
        "LOG SENSE", LOG_SENSE, log_sense, traits=Traits.STANDBY | Traits.STORE, device_types=DISK_ONLY
    ),
)
