# SPDX-License-Identifier: Apache-2.0
"""A SCSI target device: logical units under LUNs, and who sees which (SAM-5 4.6.4; LUN masking and mapping)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from iscsi_target.executor import ResetKind, ScsiCommand, ScsiResult
from iscsi_target.fast_path_kernel import FastDisk
from iscsi_target.fast_units import FastCdbs
from iscsi_target.scsi.device_server import DeviceServer
from iscsi_target.scsi.errors import CheckCondition, InvalidConfiguration, check
from iscsi_target.scsi.hot_path import FAST_CDBS
from iscsi_target.scsi.inquiry import inquiry_without_unit
from iscsi_target.scsi.logical_unit import LogicalUnit
from iscsi_target.scsi.report_luns import MAX_LUN, report
from iscsi_target.scsi.sanitize_job import resume
from iscsi_target.scsi.sense import Condition, SenseData
from iscsi_target.scsi.status import Status
from iscsi_target.scsi.unit_attention import Nexus

_INQUIRY, _REPORT_LUNS, _REQUEST_SENSE = 0x12, 0xA0, 0x03


@dataclass(frozen=True, slots=True)
class LunMap:
    """What one initiator sees: its LUN → the target's own LUN; `read_only` are those of its LUNs it may only read."""

    luns: Mapping[int, int] = field(default_factory=dict)
    read_only: frozenset[int] = frozenset()


class TargetDevice:
    """Implements :class:`iscsi_target.executor.LogicalUnits` for one iSCSI target.

    `units` are the logical units by the target's own LUN. `lun_maps` gives initiators, by iSCSI name, a view of
    their own; an initiator without one sees every unit under its own LUN, or none when `masked`.
    """

    def __init__(
        self,
        name: str,
        units: Mapping[int, LogicalUnit],
        *,
        lun_maps: Mapping[str, LunMap] | None = None,
        masked: bool = False,
        target_ports: Sequence[int] = (1,),
    ) -> None:
        self.name = name
        self._servers = {lun: DeviceServer(unit) for lun, unit in sorted(units.items())}
        self._masked = masked
        self.target_ports = tuple(sorted(target_ports))
        self._every = {lun: lun for lun in self._servers}
        self._maps = {
            initiator: dict(sorted(seen.luns.items())) for initiator, seen in (lun_maps or {}).items()
        }
        self._servers_by_lun: dict[str, dict[int, DeviceServer]] = {}
        for lun in (*self._servers, *(lun for seen in self._maps.values() for lun in seen)):
            if not 0 <= lun <= MAX_LUN:
                raise InvalidConfiguration(f"LUN {lun} is not 0 to {MAX_LUN}")
        for initiator, seen in self._maps.items():
            for lun, own in seen.items():
                if own not in self._servers:
                    raise InvalidConfiguration(f"LUN {lun} of {initiator} maps to {own}, which is not there")
            reading = (lun_maps or {})[initiator].read_only
            self._servers_by_lun[initiator] = {
                lun: DeviceServer(units[own], read_only=True) if lun in reading else self._servers[own]
                for lun, own in seen.items()
            }
        self._default_servers = {} if masked else self._servers
        self._known_as: dict[Nexus, str] = {}
        for unit in units.values():
            resume(unit)

    @property
    def units(self) -> Mapping[int, LogicalUnit]:
        """The logical units by the target's own LUN."""
        return {lun: server.unit for lun, server in self._servers.items()}

    def _seen_by(self, initiator_name: str) -> dict[int, int]:
        seen = self._maps.get(initiator_name)
        if seen is not None:
            return seen
        return {} if self._masked else self._every

    def _server(self, initiator_name: str, lun: int) -> DeviceServer | None:
        return self._servers_by_lun.get(initiator_name, self._default_servers).get(lun)

    def abandon(self, command: ScsiCommand) -> None:
        unit = self.unit_for(command.initiator_name, command.lun)
        if unit is not None:
            unit.abandon(command)

    def luns_for(self, initiator_name: str) -> Sequence[int]:
        return tuple(self._seen_by(initiator_name))

    def luns_of(self, unit: LogicalUnit, initiator_name: str) -> Sequence[int]:
        """The LUNs under which an initiator sees a unit."""
        return [lun for lun in self.luns_for(initiator_name) if self.unit_for(initiator_name, lun) is unit]

    def unit_for(self, initiator_name: str, lun: int) -> LogicalUnit | None:
        """The logical unit an initiator sees under a LUN."""
        server = self._server(initiator_name, lun)
        return None if server is None else server.unit

    def attention_report(self, lun: int, initiator_port: str, target_port: int) -> bytes | None:
        """What QUERY ASYNCHRONOUS EVENT tells of the unit attention that a nexus will be told next (SAM-5 7.10)."""
        nexus = Nexus(initiator_port, target_port)
        unit = self.unit_for(self._name_of(nexus), lun)
        return None if unit is None else unit.attentions.report(nexus)

    def _name_of(self, nexus: Nexus) -> str:
        """The name that says what a nexus sees: the initiator's, unless the session was established under another."""
        return self._known_as.get(nexus) or nexus.initiator_port.partition(",i,0x")[0]

    def may_write(self, initiator_name: str, lun: int) -> bool:
        """Whether this initiator may write to the unit under a LUN."""
        server = self._server(initiator_name, lun)
        return server is not None and not server.read_only

    @property
    def fast_cdbs(self) -> FastCdbs:
        return FAST_CDBS

    def fast_disk(self, initiator_name: str, lun: int) -> FastDisk | None:
        server = self._server(initiator_name, lun)
        return None if server is None else server.fast

    def data_out_length(self, command: ScsiCommand) -> int:
        server = self._server(command.initiator_name, command.lun)
        return 0 if server is None else server.data_out_length(command)

    def blocking(self, command: ScsiCommand) -> bool:
        server = self._server(command.initiator_name, command.lun)
        return server is not None and server.blocking(command)

    def execute(self, command: ScsiCommand) -> ScsiResult:
        server = self._server(command.initiator_name, command.lun)
        if server is None:
            return self._without_unit(command)
        return server.execute(command, self)

    def _without_unit(self, command: ScsiCommand) -> ScsiResult:
        """A LUN without a unit (SAM-5 4.7.4, SPC-4 6.6.1, 6.33.1, 6.39)."""
        code = command.cdb[0] if command.cdb else None
        missing = SenseData(Condition.LOGICAL_UNIT_NOT_SUPPORTED)
        try:
            if code == _INQUIRY:
                return inquiry_without_unit(command)
            if code == _REPORT_LUNS and command.lun == 0:
                return report(command, self)
            if code == _REQUEST_SENSE and len(command.cdb) >= 6:
                descriptor_format = bool(command.cdb[1] & 1)
                sense = missing.encode(descriptor_format=descriptor_format)
                return ScsiResult(Status.GOOD, (sense[: command.cdb[4]],))
            raise check(Condition.LOGICAL_UNIT_NOT_SUPPORTED)
        except CheckCondition as stopped:
            return ScsiResult(Status.CHECK_CONDITION, sense=stopped.sense.fixed())

    def i_t_nexus_established(self, initiator_name: str, initiator_port: str, target_port: int) -> None:
        nexus = Nexus(initiator_port, target_port)
        self._known_as[nexus] = initiator_name
        for own in set(self._seen_by(initiator_name).values()):
            self._servers[own].unit.add_nexus(nexus, initiator_name)

    def i_t_nexus_loss(self, initiator_port: str, target_port: int) -> None:
        nexus = Nexus(initiator_port, target_port)
        self._known_as.pop(nexus, None)
        for server in self._servers.values():
            server.unit.lose_nexus(nexus)

    def reset(self, kind: ResetKind, lun: int | None, initiator_port: str, target_port: int) -> bool:
        nexus = Nexus(initiator_port, target_port)
        initiator_name = self._name_of(nexus)
        if kind in (ResetKind.TARGET_WARM_RESET, ResetKind.TARGET_COLD_RESET):
            for server in self._servers.values():
                server.unit.reset()
            return True
        unit = None if lun is None else self.unit_for(initiator_name, lun)
        if unit is None:
            return False
        if kind is ResetKind.LOGICAL_UNIT_RESET:
            unit.reset()
        elif kind is ResetKind.CLEAR_TASK_SET:
            unit.attention(Condition.COMMANDS_CLEARED_BY_ANOTHER_INITIATOR, unit.nexuses, but=nexus)
        return True

    def interrupt(self) -> None:
        """End what runs long (SANITIZE), so that a server can stop: call it before the server's own stop.

        A sanitize operation that is ended leaves its medium partly sanitized, and its command fails.
        """
        for server in self._servers.values():
            server.unit.interrupt()

    def close(self) -> None:
        """Close every store."""
        for server in self._servers.values():
            server.unit.close()
