# SPDX-License-Identifier: Apache-2.0
"""What the device server knows of one command, and what a handler is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Flag, auto
from typing import Any, Protocol

from iscsi_target.executor import Buffer, ScsiCommand, ScsiResult
from iscsi_target.scsi.layout import CdbLayout
from iscsi_target.scsi.logical_unit import DeviceType, LogicalUnit
from iscsi_target.scsi.reservations import Access
from iscsi_target.scsi.status import Status
from iscsi_target.scsi.unit_attention import Nexus

GOOD = ScsiResult(Status.GOOD)


class TargetView(Protocol):
    """What a command may know of the SCSI target device around its logical unit."""

    @property
    def name(self) -> str:
        """The target's iSCSI name."""
        ...

    def luns_for(self, initiator_name: str) -> Sequence[int]:
        """The LUNs an initiator may see, ascending."""
        ...

    def luns_of(self, unit: LogicalUnit, initiator_name: str) -> Sequence[int]:
        """The LUNs under which an initiator sees a unit."""
        ...

    def unit_for(self, initiator_name: str, lun: int) -> LogicalUnit | None:
        """The logical unit an initiator sees under a LUN."""
        ...

    def may_write(self, initiator_name: str, lun: int) -> bool:
        """Whether this initiator may write to the unit under a LUN."""
        ...

    @property
    def target_ports(self) -> Sequence[int]:
        """The relative target ports (portal group tags), ascending."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """One command on its way through one logical unit."""

    unit: LogicalUnit
    command: ScsiCommand
    nexus: Nexus
    target: TargetView
    operations: tuple[Operation, ...] = ()
    """Every command this unit has."""
    read_only: bool = False
    """The initiator may read this unit only."""

    @property
    def data_out(self) -> Buffer:
        """The Data-Out that came."""
        return self.command.data_out


class Traits(Flag):
    """Properties of a command that admission looks at."""

    NONE = 0
    MEDIUM = auto()
    """Needs a medium that is there and started."""
    WRITES = auto()
    """Changes the medium: refused when write protected."""
    IGNORES_ATTENTION = auto()
    """INQUIRY, REPORT LUNS, REQUEST SENSE: neither reports nor clears unit attentions (SAM-5 5.14.5)."""
    DURING_SANITIZE = auto()
    """Allowed while SANITIZE runs (SBC-3 4.11.3)."""
    STORE = auto()
    """Touches the backing store, and so may wait."""
    SAVES = auto()
    """May save state of the unit to a file, and so may wait."""
    SLOW = auto()
    """Takes long on any store: never run in the event loop."""
    STANDBY = auto()
    """Works through a target port in the standby state (SPC-4 5.15.2.4.4)."""
    ANY_ACCESS_STATE = auto()
    """Works through a target port in the unavailable state (SPC-4 5.15.2.4.5), and so in any."""
    DESPITE_RESERVE = auto()
    """Goes through an SPC-2 reservation of another nexus (SPC-2 table 11, SBC-2 table 13)."""


Handler = Callable[[Task, Any], ScsiResult]
DataOutLength = Callable[[LogicalUnit, Any], int]

__all__ = [
    "ALL_TYPES",
    "ALWAYS",
    "DISK_ONLY",
    "GOOD",
    "Access",
    "Operation",
    "TargetView",
    "Task",
    "Traits",
    "cut",
]

DISK_ONLY = frozenset((DeviceType.DISK,))
ALL_TYPES = frozenset(DeviceType)


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the opcode table.

    `access` may depend on the parsed CDB. `data_out_length` gives the bytes of Data-Out a parsed CDB asks for (after
    its checks passed); None: the command takes none. `timeout_s` is the recommended
    command timeout of the timeouts descriptor (SPC-4 6.29.4).
    """

    name: str
    layout: CdbLayout[Any]
    handler: Handler
    traits: Traits = Traits.NONE
    access: Access | Callable[[Any], Access] = Access.ALLOWED
    data_out_length: DataOutLength | None = None
    device_types: frozenset[DeviceType] = ALL_TYPES
    timeout_s: int = 30
    available: Callable[[LogicalUnit], bool] | None = None
    """Whether a unit has the command; None: every unit of the device types."""

    @property
    def opcode(self) -> int:
        """The OPERATION CODE."""
        code = self.layout.opcode
        assert code is not None
        return code

    @property
    def service_action(self) -> int | None:
        """The SERVICE ACTION, where the opcode has them."""
        return self.layout.service_action


ALWAYS = Traits.IGNORES_ATTENTION | Traits.DURING_SANITIZE | Traits.DESPITE_RESERVE | Traits.ANY_ACCESS_STATE
"""INQUIRY, REPORT LUNS and REQUEST SENSE: answered whatever the state of the unit."""


def cut(data: bytes, allocation_length: int) -> ScsiResult:
    """Data-In of at most the allocation length (SPC-4 4.2.5.6)."""
    return ScsiResult(Status.GOOD, (data[:allocation_length],))
