"""The iSCSI side of an array: one target for hosts, one for other arrays, at the ports of all TCP interfaces."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from iscsi_target.buffers import ConnectionInfo, Grant, ReceiveBuffers, SendBuffers
from iscsi_target.executor import Deferred, LogicalUnits, ResetKind, ScsiCommand, ScsiResult
from iscsi_target.scsi.errors import InvalidConfiguration
from iscsi_target.scsi.extended_copy import designators
from iscsi_target.scsi.logical_unit import LogicalUnit, LogicalUnitConfig, derive_identity
from iscsi_target.scsi.target_device import TargetDevice
from iscsi_target.server import Limits, Portal, Target, TargetServer
from iscsi_target.session.chap import Chap
from iscsi_target.session.parameters import Parameters
from mgmt.array.description import TcpInterface
from mgmt.array.errors import CannotServe, ConfigurationError
from mgmt.array.replication.guard import Guards
from mgmt.array.replication.remote_copy import CONNECTIONS_LIMIT
from mgmt.array.volumes import Volumes

#: Commands carried out at once; those of a synchronous pair wait for the other array meanwhile.
COMMAND_THREADS = 16
#: What stands behind the array's iSCSI name in the name of the target for other arrays.
COPY_SUFFIX = ":copy"


def copy_iqn(iqn: str) -> str:
    """The iSCSI name of the target that other arrays copy to."""
    return iqn + COPY_SUFFIX


class BuffersByPort:
    """Host Data-In is charged to the pool of the interface that the connection came in by."""

    def __init__(self, by_address: Mapping[str, SendBuffers]) -> None:
        self._by_address = dict(by_address)
        self._first = next(iter(self._by_address.values()))

    def acquire(self, connection: ConnectionInfo, size_bytes: int) -> Grant | None:
        """See :class:`iscsi_target.buffers.SendBuffers`."""
        return self._by_address.get(connection.local_host, self._first).acquire(connection, size_bytes)

    def release(self, connection: ConnectionInfo, grant: Grant) -> None:
        """See :class:`iscsi_target.buffers.SendBuffers`."""
        self._by_address.get(connection.local_host, self._first).release(connection, grant)


class ReceivedByPort:
    """Data-Out lies in the units of the interface that the connection came in by."""

    def __init__(self, by_address: Mapping[str, ReceiveBuffers]) -> None:
        self._by_address = dict(by_address)

    def window_bytes(self, connection: ConnectionInfo) -> int | None:
        """See :class:`iscsi_target.buffers.ReceiveBuffers`."""
        buffers = self._by_address.get(connection.local_host)
        return None if buffers is None else buffers.window_bytes(connection)

    def room(self, connection: ConnectionInfo) -> int | None:
        """See :class:`iscsi_target.buffers.ReceiveBuffers`."""
        buffers = self._by_address.get(connection.local_host)
        return None if buffers is None else buffers.room(connection)

    def hold(self, connection: ConnectionInfo, size_bytes: int, whole_bytes: int) -> bool:
        """See :class:`iscsi_target.buffers.ReceiveBuffers`."""
        buffers = self._by_address.get(connection.local_host)
        return buffers is not None and buffers.hold(connection, size_bytes, whole_bytes)


class Pace(Protocol):
    """How long the answer to a host's write is to be held back now: the cache memory's word."""

    def write_delay_ns(self) -> int:
        """Nanoseconds; 0 as a rule."""
        ...


class PacedUnits:
    """Logical units whose answers to writes come later while the cache memory is nearly full, so that hosts do not
    write faster than the disks take it. Nobody waits in a thread for that."""

    def __init__(self, units: LogicalUnits, pace: Pace) -> None:
        self._units = units
        self._pace = pace

    def data_out_length(self, command: ScsiCommand) -> int:
        """See :class:`iscsi_target.executor.LogicalUnits`."""
        return self._units.data_out_length(command)

    def blocking(self, command: ScsiCommand) -> bool:
        """See :class:`iscsi_target.executor.LogicalUnits`."""
        return self._units.blocking(command)

    def execute(self, command: ScsiCommand) -> ScsiResult | Deferred:
        """See :class:`iscsi_target.executor.LogicalUnits`."""
        result = self._units.execute(command)
        if isinstance(result, Deferred) or not command.write or result.status != 0:
            return result
        delay_ns = self._pace.write_delay_ns()
        return Deferred(time.monotonic_ns() + delay_ns, result) if delay_ns else result

    def abandon(self, command: ScsiCommand) -> None:
        """See :class:`iscsi_target.executor.LogicalUnits`."""
        self._units.abandon(command)

    def luns_for(self, initiator_name: str) -> Sequence[int]:
        """See :class:`iscsi_target.executor.LogicalUnits`."""
        return self._units.luns_for(initiator_name)

    def i_t_nexus_established(self, initiator_name: str, initiator_port: str, target_port: int) -> None:
        """See :class:`iscsi_target.executor.LogicalUnits`."""
        self._units.i_t_nexus_established(initiator_name, initiator_port, target_port)

    def i_t_nexus_loss(self, initiator_port: str, target_port: int) -> None:
        """See :class:`iscsi_target.executor.LogicalUnits`."""
        self._units.i_t_nexus_loss(initiator_port, target_port)

    def reset(self, kind: ResetKind, lun: int | None, initiator_port: str, target_port: int) -> bool:
        """See :class:`iscsi_target.executor.LogicalUnits`."""
        return self._units.reset(kind, lun, initiator_port, target_port)


class Devices:
    """The logical units of an array behind its targets: the same units, seen as a host or as another array."""

    def __init__(self, iqn: str, volumes: Volumes, portals: Sequence[int] = (1,)) -> None:
        """Raises :class:`ConfigurationError` for an iSCSI name that is none."""
        self._iqn = iqn
        self._portals = tuple(portals)
        self.guards = Guards(volume.lun for volume in volumes)
        try:
            self.units = {
                volume.lun: LogicalUnit(
                    volume.store,
                    derive_identity(iqn, volume.lun),
                    LogicalUnitConfig(read_only=volume.store.read_only),
                )
                for volume in volumes
            }
            for lun, unit in self.units.items():
                self.guards.named |= dict.fromkeys(designators(unit).items(), lun)
            self.guards.at_work = lambda lun: self.units[lun].sanitize is not None
            for_hosts = {volume.lun: self.units[volume.lun] for volume in volumes if volume.hosts}
            self.hosts = TargetDevice(iqn, for_hosts, target_ports=portals)
            self.arrays = TargetDevice(copy_iqn(iqn), self.units, target_ports=portals)
        except (InvalidConfiguration, ValueError) as error:
            raise ConfigurationError(str(error)) from None

    def seen_by_fc(self) -> LogicalUnits:
        """The same units for an FC interface, whose initiators have I_T nexuses of their own."""
        return self.guards.for_arrays(TargetDevice(self._iqn, self.units, target_ports=self._portals))

    def seen_by_fc_hosts(self) -> LogicalUnits:
        """The same for the FC ports that hosts plug into: what hosts see."""
        return self.guards.for_hosts(TargetDevice(self._iqn, self.hosts.units, target_ports=self._portals))

    def interrupt(self) -> None:
        """End what runs long, so that the server can stop."""
        for unit in self.units.values():
            unit.interrupt()


def server(
    iqn: str,
    devices: Devices,
    interfaces: Sequence[TcpInterface],
    buffers: Mapping[str, SendBuffers],
    receive_buffers: Mapping[str, ReceiveBuffers],
    *,
    chap: Chap | None,
    pace: Pace | None,
) -> TargetServer:
    """The server of both targets at the ports of ``interfaces``; ``chap`` is what other arrays have to prove.

    Raises :class:`ConfigurationError`.
    """
    hosts, arrays = devices.guards.for_hosts(devices.hosts), devices.guards.for_arrays(devices.arrays)
    if pace is not None:
        hosts, arrays = PacedUnits(hosts, pace), PacedUnits(arrays, pace)
    parameters = Parameters(max_connections=CONNECTIONS_LIMIT)
    try:
        targets = [
            Target(name=iqn, logical_units=hosts, parameters=parameters),
            Target(name=copy_iqn(iqn), logical_units=arrays, parameters=parameters, chap=chap),
        ]
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    portals = [
        Portal(interface.address, interface.iscsi_port, number)
        for number, interface in enumerate(interfaces, 1)
    ]
    return TargetServer(
        targets,
        portals,
        buffers=BuffersByPort(buffers),
        receive_buffers=ReceivedByPort(receive_buffers),
        limits=Limits(),
        threads=COMMAND_THREADS,
    )


async def start(target: TargetServer, interfaces: Sequence[TcpInterface]) -> dict[str, int]:
    """Listen; the port number of each interface by its name. Raises :class:`CannotServe`."""
    try:
        await target.start()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CannotServe(f"cannot listen on iscsi://{error.filename}: {reason}") from None
    return {interface.name: portal.port for interface, portal in zip(interfaces, target.portals, strict=True)}
