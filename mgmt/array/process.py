"""The array's threads: the data loop (iSCSI target, remote copy, pool), the control server, disk workers.

The data loop is the main thread's; it waits for no disk, no database and no journal.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import uvloop

from credits.durable import DurablePool
from credits.errors import StoreError
from credits.memory import UnitMemory
from iscsi_target.scsi.errors import InvalidConfiguration
from iscsi_target.scsi.logical_unit import LogicalUnit, LogicalUnitConfig, derive_identity
from iscsi_target.scsi.target_device import TargetDevice
from iscsi_target.server import Limits, Portal, Target, TargetServer
from iscsi_target.session.parameters import Parameters
from mgmt.array.configuration import ArrayConfig, ConfigurationError
from mgmt.array.control import Control
from mgmt.array.expiry import Expiry
from mgmt.array.host_buffers import HostBuffers
from mgmt.array.interface import CommunicationInterface
from mgmt.array.replication.history import CopyHistory, HistoryError
from mgmt.array.replication.iscsi_transport import Destination, IscsiCopyTransport
from mgmt.array.replication.remote_copy import CONNECTIONS_LIMIT, RemoteCopy
from mgmt.array.volumes import Volumes, open_volumes
from mgmt.http import ServerThread
from mgmt.messages import CopyStartRequest, CopyStatus

_COPY_READERS = 2
#: How old what is known of a copy may be after the array was killed.
_KEEP_EVERY_S = 0.5


class CannotServe(Exception):
    """The array cannot be brought up: a port in use, a directory that cannot be written; one line (exit code 1)."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a running array listens."""

    iscsi_port: int
    control: str


@asynccontextmanager
async def running(config: ArrayConfig) -> AsyncIterator[Listening]:
    """An array in this event loop, serving until the block ends; then everything is closed in order.

    Raises :class:`CannotServe`, :class:`mgmt.array.volumes.VolumeError`, :class:`mgmt.http.ListenError`.
    """
    async with AsyncExitStack() as stack:
        volumes = open_volumes(config.volumes)
        stack.callback(volumes.close)
        pool = _open_pool(config)
        stack.callback(pool.close)
        stack.enter_context(Expiry(pool, time.monotonic_ns))
        memory = _open_memory(config)  # given back with the last connection that uses it
        interface = CommunicationInterface(config.pool.name, pool, time.monotonic_ns)
        target = await _start_target(config, volumes, pool)
        stack.push_async_callback(target.stop)
        history = CopyHistory(None if config.state is None else config.state / "copies.json")
        readers = ThreadPoolExecutor(_COPY_READERS, thread_name_prefix="copy-read")
        stack.callback(readers.shutdown)
        remote_copy = RemoteCopy(
            local_port=config.port_address,
            buffers=interface,
            volumes=volumes,
            transport=lambda request: IscsiCopyTransport(_destination(config, request), pool, memory),
            config=config.copy,
            executor=readers,
            earlier=_load(history),
        )
        # In this order at the end: no more periodical writing, every copy stopped, the last word written.
        stack.callback(lambda: history.save(remote_copy.statuses()))
        stack.push_async_callback(remote_copy.close)
        await stack.enter_async_context(_keeping(history, remote_copy))
        iscsi_port = target.portals[0].port
        loop = asyncio.get_running_loop()
        control = Control(config, interface, volumes, remote_copy, loop, iscsi_port, history)
        server = ServerThread(control.app(), config.listen)
        server.start()
        # Handlers may be waiting for this loop, so it must go on while the server's thread ends.
        stack.push_async_callback(asyncio.to_thread, server.stop)
        yield Listening(iscsi_port, str(server.address))


@asynccontextmanager
async def _keeping(history: CopyHistory, remote_copy: RemoteCopy) -> AsyncIterator[None]:
    """How far the copies are is written down now and then, on another thread."""

    async def keep() -> None:
        while True:
            await asyncio.sleep(_KEEP_EVERY_S)
            await asyncio.to_thread(history.save, remote_copy.statuses())

    task = asyncio.create_task(keep())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def serve(config: ArrayConfig, on_ready: Callable[[Listening], None]) -> None:
    """Run an array in this thread until SIGTERM or SIGINT. Raises what :func:`running` does."""

    async def until_stopped() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with running(config) as listening:
            on_ready(listening)
            await stop.wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(until_stopped())


def _open_pool(config: ArrayConfig) -> DurablePool:
    journal = None if config.state is None else config.state / f"{config.pool.name}.sqlite"
    try:
        return DurablePool.open(journal, config.pool)
    except StoreError as error:
        raise CannotServe(str(error)) from None


def _load(history: CopyHistory) -> list[CopyStatus]:
    try:
        return history.load()
    except HistoryError as error:
        raise CannotServe(str(error)) from None


def _open_memory(config: ArrayConfig) -> UnitMemory:
    try:
        return UnitMemory(config.pool)
    except StoreError as error:
        raise CannotServe(str(error)) from None


async def _start_target(config: ArrayConfig, volumes: Volumes, pool: DurablePool) -> TargetServer:
    try:
        units = {
            volume.lun: LogicalUnit(
                volume.store,
                derive_identity(config.iqn, volume.lun),
                LogicalUnitConfig(read_only=volume.store.read_only),
            )
            for volume in volumes
        }
        device = TargetDevice(config.iqn, units)
        parameters = Parameters(max_connections=CONNECTIONS_LIMIT)
        target = Target(name=config.iqn, logical_units=device, parameters=parameters)
    except (InvalidConfiguration, ValueError) as error:
        raise ConfigurationError(str(error)) from None
    portal = Portal(config.port_address, config.iscsi_port)
    server = TargetServer([target], [portal], buffers=HostBuffers(pool), limits=Limits())
    try:
        await server.start()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CannotServe(
            f"cannot listen on iscsi://{host_port(config.port_address, config.iscsi_port)}: {reason}"
        ) from None
    return server


def _destination(config: ArrayConfig, request: CopyStartRequest) -> Destination:
    return Destination(
        local_address=config.port_address,
        host=request.remote_host,
        port=request.remote_port_number,
        target_iqn=request.remote_iqn,
        lun=request.remote_lun,
        initiator_iqn=config.iqn,
        connections_per_session=request.connections_per_session,
        extent_bytes=config.copy.extent_bytes,
        connect_timeout_s=config.copy.connect_timeout_s,
    )


def host_port(host: str, port: int) -> str:
    """``HOST:PORT`` as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
