"""What carries a copy: iSCSI from a TCP interface, its bytes in the interface's memory buffers."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from credits.durable import DurablePool
from credits.errors import Code, InvalidRequest, StoreError
from credits.memory import UnitMemory
from iscsi_target.session.chap import Chap
from mgmt.array.description import ArrayConfig, FcInterface, TcpInterface
from mgmt.array.errors import CannotServe, ConfigurationError
from mgmt.array.fc_port import link_address
from mgmt.array.replication.fc_transport import FcCopyTransport, FcDestination
from mgmt.array.replication.group_record import GroupRecord
from mgmt.array.replication.iscsi_transport import Destination, IscsiCopyTransport
from mgmt.array.replication.transport import CopyTransport
from mgmt.fc.channel import Lines
from mgmt.messages import CopyStartRequest

#: A pair notices a dead channel sooner than a copy that is made once.
_PAIR_SILENCE_S = 10.0
#: Logging in over a live link takes its time, which is slower than the world's.
_FC_LOGIN_S = 15.0
_AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


class Transports:
    """Makes the transport of a copy, by its local port. ``chap`` is how this array and the one that it copies to prove
    themselves, whatever name the copy is written through; ``None``: nobody has to. ``lines`` is told of the links that
    copies plug in.

    Raises :class:`CannotServe` where there is no memory for the buffers, :class:`ConfigurationError` where the kernel
    has not the congestion control.
    """

    def __init__(
        self, config: ArrayConfig, pools: Mapping[str, DurablePool], chap: Chap | None, lines: Lines
    ) -> None:
        self._lines = lines
        check_congestion(config.copy.congestion)
        self._config = config
        self._pools = pools
        self._chap = chap
        self._tcp = {one.address: one for one in config.interfaces if isinstance(one, TcpInterface)}
        self._fc = {one.address: one for one in config.interfaces if isinstance(one, FcInterface)}
        try:  # given back with the last connection that uses it
            self._memory = {one.name: UnitMemory(one.pool) for one in self._tcp.values()}
        except StoreError as error:
            raise CannotServe(str(error)) from None

    def __call__(self, request: CopyStartRequest) -> CopyTransport:
        """The transport of a copy that M7 asks for. Raises :class:`InvalidRequest`."""
        local_port = request.target.local_port or self._config.interfaces[0].address
        if request.remote_link is not None:
            return self._over_fc(local_port, request.remote_link, request.remote_lun)
        interface = self._tcp.get(local_port)
        if interface is None and len(self._config.interfaces) == 1 and self._tcp:
            (interface,) = self._tcp.values()
        if interface is None:
            raise InvalidRequest(Code.INVALID_TARGET, f"no copy can begin at port {local_port} of this array")
        return IscsiCopyTransport(
            self._destination(interface, request), self._pools[interface.name], self._memory[interface.name]
        )

    def for_pairs(self, record: GroupRecord) -> CopyTransport:
        """The transport of a consistency group: its sessions keep their names, and every PDU its digests.

        Raises :class:`InvalidRequest`.
        """
        assert record.remote is not None
        if record.remote.fc is not None:
            return self._over_fc(record.local_port, record.remote.fc, record.remote_journal_lun)
        interface = self._tcp.get(record.local_port)
        if interface is None:
            raise InvalidRequest(
                Code.INVALID_TARGET, f"no copy can begin at port {record.local_port} of this array"
            )
        copy = self._config.copy
        destination = Destination(
            local_address=interface.address,
            host=record.remote.host,
            port=record.remote.port,
            target_iqn=record.remote.iqn,
            lun=record.remote_journal_lun,
            initiator_iqn=self._config.iqn,
            connections_per_session=record.connections_per_session,
            extent_bytes=copy.extent_bytes,
            connect_timeout_s=copy.connect_timeout_s,
            session_name=f"{self._config.name}/{record.group}",
            silence_s=_PAIR_SILENCE_S,
            digests=True,
            chap=self._chap,
            congestion=copy.congestion,
        )
        return IscsiCopyTransport(destination, self._pools[interface.name], self._memory[interface.name])

    def _over_fc(self, local_port: str, remote_link: str, lun: int) -> CopyTransport:
        interface = self._fc.get(local_port)
        if interface is None:
            raise InvalidRequest(Code.INVALID_TARGET, f"this array has no Fibre Channel port {local_port}")
        try:
            address = link_address(remote_link)
        except ConfigurationError as error:
            raise InvalidRequest(Code.INVALID_TARGET, str(error)) from None
        destination = FcDestination(
            address=address,
            where=f"fc://{remote_link}",
            lun=lun,
            port_name=int(interface.address.replace(":", ""), 16),
            connect_timeout_s=max(self._config.copy.connect_timeout_s, _FC_LOGIN_S),
            capture=None if interface.capture is None else Path(interface.capture),
        )
        return FcCopyTransport(
            destination, self._pools[interface.name], partial(self._lines.plugged, interface.address)
        )

    def _destination(self, interface: TcpInterface, request: CopyStartRequest) -> Destination:
        copy = self._config.copy
        return Destination(
            local_address=interface.address,
            host=request.remote_host,
            port=request.remote_port_number,
            target_iqn=request.remote_iqn,
            lun=request.remote_lun,
            initiator_iqn=self._config.iqn,
            connections_per_session=request.connections_per_session,
            extent_bytes=copy.extent_bytes,
            connect_timeout_s=copy.connect_timeout_s,
            chap=self._chap,
            congestion=copy.congestion,
        )


def check_congestion(name: str) -> None:
    """Raises :class:`ConfigurationError` where the kernel does not have this TCP congestion control."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            if name:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
        except OSError as error:
            known = _AVAILABLE.read_text().strip() if _AVAILABLE.exists() else "unknown"
            raise ConfigurationError(
                f"--congestion: this kernel does not let us use {name!r:.40} ({(error.strerror or '').lower()}); "
                f"it has: {known}"
            ) from None
