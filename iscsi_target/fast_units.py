# SPDX-License-Identifier: Apache-2.0
"""The seam between the fast path of the iSCSI layer and logical units in memory.

:mod:`iscsi_target.fast_path_kernel` serves READ and WRITE that one PDU brings and one PDU answers, without a task, for
logical units that offer themselves as a :class:`FastDisk`. It never interprets a CDB on its own: the structs that take
CDBs apart come from the device server, derived from the layouts there. Whatever wraps logical units and does not offer
:class:`FastUnits` on its own class is never gone around.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, runtime_checkable

from iscsi_target.executor import LogicalUnits
from iscsi_target.wire.opcodes import BHS_BYTES
from iscsi_target.wire.partial import partial_format
from iscsi_target.wire.requests import ScsiCommandPdu

if TYPE_CHECKING:
    from iscsi_target.fast_path_kernel import FastDisk

Unpack = Callable[[Any, int], tuple[int, ...]]
"""(bytes, offset of a SCSI Command PDU) → flags (byte 1), the two lengths as one integer, LUN, initiator task tag,
expected data transfer length, CmdSN, and of the CDB: flags (byte 1), LBA (signed: from 2**63 on it is negative), blocks
and CONTROL."""

_COMMAND = partial_format(
    ScsiCommandPdu,
    "flags",
    ("total_ahs_length", "data_segment_length"),
    "lun",
    "initiator_task_tag",
    "expected_data_transfer_length",
    "cmd_sn",
    until="cdb",
)


@dataclass(frozen=True, slots=True)
class FastCdbs:
    """By operation code, how to take apart a SCSI Command PDU that brings it; None: not on the fast path."""

    reads: tuple[Unpack | None, ...]
    writes: tuple[Unpack | None, ...]


def fast_cdbs(reads: Mapping[int, str], writes: Mapping[int, str]) -> FastCdbs:
    """Tables from the struct formats of CDBs: each gives byte 1, LBA, blocks and CONTROL, and skips the rest."""
    return FastCdbs(_table(reads), _table(writes))


def _table(formats: Mapping[int, str]) -> tuple[Unpack | None, ...]:
    table: list[Unpack | None] = [None] * 256
    for opcode, cdb in formats.items():
        whole = ">" + _COMMAND + cdb
        whole += f"{BHS_BYTES - struct.calcsize(whole)}x"
        table[opcode] = struct.Struct(whole).unpack_from
    return tuple(table)


@runtime_checkable
class FastUnits(Protocol):
    """Logical units some of which can be served on the fast path."""

    @property
    def fast_cdbs(self) -> FastCdbs:
        """The CDBs that their disks take."""
        ...

    def fast_disk(self, initiator_name: str, lun: int) -> FastDisk | None:
        """The disk an initiator has under a LUN, if the fast path may serve it. Asked once for every batch."""
        ...


def offers_fast_path(units: LogicalUnits) -> TypeGuard[FastUnits]:
    """Whether the class of `units` itself has a fast path. What it hands through from another object does not count,
    nor what it inherits when it, or the object, executes commands in a way of its own."""
    mro = type(units).__mro__
    fast = _first(mro, "fast_disk")
    return fast is not None and not any(
        name in getattr(units, "__dict__", {}) or (_first(mro, name) or 0) < fast for name in _GENERAL
    )


_GENERAL = ("execute", "data_out_length", "blocking")


def _first(mro: tuple[type, ...], name: str) -> int | None:
    return next((index for index, owner in enumerate(mro) if name in vars(owner)), None)
