# SPDX-License-Identifier: Apache-2.0
"""The seam between FCP and whoever executes SCSI commands. This package never interprets a CDB."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class FcpCommand:
    """One SCSI command as it came in FCP_CMND, with all Data-Out that was asked for."""

    initiator: int
    """The initiator's N_Port_ID (S_ID)."""
    lun: bytes
    """The eight bytes of the LUN field."""
    cdb: bytes
    """16 bytes, and those of the additional CDB."""
    task_attribute: int = 0
    read: bool = False
    write: bool = False
    data_length: int = 0
    """FCP_DL in bytes: what the initiator expects to be moved."""
    data_out: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class FcpResult:
    """What the device server answers. ``transfer_length`` is what the command would have moved without FCP_DL; None:
    the length of `data_in`, or of the Data-Out asked for."""

    status: int
    data_in: bytes = b""
    sense: bytes = b""
    transfer_length: int | None = None


class ScsiExecutor(Protocol):
    """Executes commands. Never raises for what an initiator sent."""

    def data_out_length(self, command: FcpCommand) -> int:
        """Bytes of Data-Out that the command takes, from its CDB; 0 for one that will fail whatever follows."""
        ...

    def execute(self, command: FcpCommand) -> FcpResult:
        """Run a command to its end."""
        ...

    def reset(self, initiator: int, lun: bytes | None) -> bool:
        """LOGICAL UNIT RESET, or TARGET RESET for ``lun`` None; False: there is no such unit."""
        ...
