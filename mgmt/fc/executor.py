# SPDX-License-Identifier: Apache-2.0
"""The SCSI device server as FCP's executor: one implementation of SCSI behind both protocols."""

from __future__ import annotations

from fcsim.fcp.executor import FcpCommand, FcpResult
from iscsi_target.executor import Deferred, LogicalUnits, ResetKind, ScsiCommand
from iscsi_target.wire.lun import lun_from_bytes

__all__ = ["LogicalUnitsExecutor"]


class LogicalUnitsExecutor:
    """Implements :class:`fcsim.fcp.executor.ScsiExecutor` over logical units (a ``TargetDevice``, for instance).

    Commands run at once, on the caller's thread. An initiator is known by its N_Port_ID, ``fc.0000ef``; its I_T nexus
    begins with its first command, which is then told of the power-on, and ends with :meth:`forget`. Answers that a
    unit would give later (latency of a medium) are given at once: on a simulated link time is the link's.
    """

    def __init__(self, units: LogicalUnits, *, target_port: int = 1) -> None:
        self._units = units
        self._target_port = target_port
        self._known: set[str] = set()

    def data_out_length(self, command: FcpCommand) -> int:
        """See :class:`ScsiExecutor`."""
        return self._units.data_out_length(self._scsi_command(command))

    def execute(self, command: FcpCommand) -> FcpResult:
        """See :class:`ScsiExecutor`."""
        result = self._units.execute(self._scsi_command(command))
        if isinstance(result, Deferred):
            result = result.result
        return FcpResult(result.status, b"".join(result.data_in), result.sense, result.transfer_length)

    def reset(self, initiator: int, lun: bytes | None) -> bool:
        """See :class:`ScsiExecutor`."""
        kind = ResetKind.TARGET_WARM_RESET if lun is None else ResetKind.LOGICAL_UNIT_RESET
        number = None if lun is None else lun_from_bytes(lun)
        return self._units.reset(kind, number, self._name(initiator), self._target_port)

    def forget(self) -> None:
        """Every initiator is gone: the link is down."""
        for name in sorted(self._known):
            self._units.i_t_nexus_loss(name, self._target_port)
        self._known.clear()

    def _scsi_command(self, command: FcpCommand) -> ScsiCommand:
        name = self._name(command.initiator)
        return ScsiCommand(
            name,
            name,
            self._target_port,
            lun_from_bytes(command.lun),
            command.cdb,
            command.data_out,
            command.read,
            command.write,
            command.data_length,
        )

    def _name(self, initiator: int) -> str:
        name = f"fc.{initiator:06x}"
        if name not in self._known:
            self._known.add(name)
            self._units.i_t_nexus_established(name, name, self._target_port)
        return name
