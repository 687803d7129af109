"""The array's threads: the data loop (iSCSI target, remote copy, pools), the control server, disk workers, write-back.

The data loop is the main thread's; it waits for no disk, no database and no journal. FC interfaces have a thread each.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvloop

from credits.durable import DurablePool
from credits.errors import StoreError
from credits.targets import Target
from iscsi_target.scsi.errors import StoreError as DiskError
from mgmt.array import portals
from mgmt.array.cache.memory import CacheFileError, CacheMemory
from mgmt.array.cache.watch import CacheWatch
from mgmt.array.control import Control
from mgmt.array.description import ArrayConfig, FcInterface, Interface, TcpInterface
from mgmt.array.errors import CannotServe, ConfigurationError
from mgmt.array.expiry import Expiry
from mgmt.array.fc_port import FcPort, host_ports, link_address
from mgmt.array.fc_starvation import credit_zero_shares
from mgmt.array.host_buffers import HostBuffers
from mgmt.array.interface import CommunicationInterface
from mgmt.array.interfaces import Interfaces
from mgmt.array.receive_buffers import ReceiveReservations
from mgmt.array.replication.assembly import load_pairs, replicated
from mgmt.array.replication.history import CopyHistory, HistoryError
from mgmt.array.replication.pairs import Identity
from mgmt.array.replication.remote_copy import RemoteCopy
from mgmt.array.secrets import ArrayChap, array_chap, read_secret
from mgmt.array.transports import Transports
from mgmt.array.volumes import Volumes, open_volumes
from mgmt.fc.channel import FcChannels, Lines
from mgmt.http import Peer, ServerThread
from mgmt.http.credentials import ClientCredentials, CredentialError, read_token
from mgmt.http.guarding import ServerCredentials
from mgmt.messages import CopyStatus

__all__ = ["CannotServe", "Listening", "host_port", "running", "serve"]

_COPY_READERS = 2
#: How old what is known of a copy may be after the array was killed.
_KEEP_EVERY_S = 0.5
_STATION_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a running array listens: a line for each interface that does, and the control address."""

    portals: tuple[str, ...]
    control: str


@asynccontextmanager
async def running(
    config: ArrayConfig, credentials: ServerCredentials | None = None
) -> AsyncIterator[Listening]:
    """An array in this event loop, serving until the block ends; then everything is drained and closed in order.

    Raises :class:`CannotServe`, :class:`mgmt.array.errors.ConfigurationError`, :class:`mgmt.array.volumes.VolumeError`
    and :class:`mgmt.http.ListenError`.
    """
    asked = credentials or ServerCredentials()
    async with AsyncExitStack() as stack:
        volumes, cache = _open_disks(config, stack)
        pools = {interface.name: _open_pool(config, interface, stack) for interface in config.interfaces}
        chap = _chap(config)
        devices = portals.Devices(config.iqn, volumes, range(1, 1 + len(config.interfaces)))
        tcp = [interface for interface in config.interfaces if isinstance(interface, TcpInterface)]
        lines = Lines()
        transports = Transports(config, pools, None if chap is None else chap.initiator, lines)
        pairs = None
        if config.state is not None:
            pairs = load_pairs(
                Identity(name=config.name, copy_iqn=portals.copy_iqn(config.iqn)),
                volumes,
                devices.guards,
                config.state / "pairs",
                lambda: interfaces,
                transports.for_pairs,
                config.copy.allocation_units,
                cache=cache,
            )
            stack.callback(pairs.close_files)
        received = {one.address: ReceiveReservations(pools[one.name]) for one in tcp}
        iscsi_ports = await _start_targets(config, tcp, pools, received, devices, chap, cache, stack)
        fc = _start_fc_ports(config, pools, devices, stack)
        interfaces = Interfaces([_interface(one, pools[one.name], fc) for one in config.interfaces])
        history = CopyHistory(None if config.state is None else config.state / "copies.json")
        readers = ThreadPoolExecutor(_COPY_READERS, thread_name_prefix="copy-read")
        stack.callback(readers.shutdown)
        remote_copy = RemoteCopy(
            local_port=config.interfaces[0].address,
            buffers=interfaces,
            volumes=volumes,
            transport=transports,
            config=config.copy,
            executor=readers,
            earlier=_load(history),
        )
        # In this order at the end: no more periodical writing, every copy stopped, the last word written.
        stack.callback(lambda: history.save(remote_copy.statuses()))
        stack.push_async_callback(remote_copy.close)
        await stack.enter_async_context(_keeping(history, remote_copy))
        if pairs is not None:
            await stack.enter_async_context(pairs.running())

        def changed() -> None:
            remote_copy.reservations_changed()
            for one in received.values():
                one.reservations_changed()

        loop = asyncio.get_running_loop()

        def tell() -> None:
            loop.call_soon_threadsafe(changed)

        for pool in pools.values():
            stack.enter_context(Expiry(pool, time.monotonic_ns, tell))
        watch = _watch(config, asked, cache, interfaces, stack)
        by_wwpn = {one.config.address: one for one in fc.values()}
        channels = FcChannels(by_wwpn, lines, link_address)
        control = Control(
            config.name,
            interfaces,
            volumes,
            remote_copy,
            loop,
            lambda: _port_rows(config, iscsi_ports, fc),
            changed,
            history,
            cache,
            watch,
            pairs,
            channels.answer if fc else None,
            partial(credit_zero_shares, fc, lines),
            lambda target: _log_in_again(fc.values(), target),
        )
        server = ServerThread(asked.guard(control.app()), config.listen, tls=asked.tls)
        server.start()
        # Handlers may be waiting for this loop, so it must go on while the server's thread ends.
        stack.push_async_callback(asyncio.to_thread, server.stop)
        listening = [
            f"iscsi://{host_port(one.address, iscsi_ports[one.name])}/{config.iqn}" for one in tcp
        ] + [f"fc://{port.config.address}@{port.listening}" for port in fc.values() if port.listening]
        yield Listening(tuple(listening), str(server.address))


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


def serve(
    config: ArrayConfig,
    on_ready: Callable[[Listening], None],
    credentials: ServerCredentials | None = None,
) -> None:
    """Run an array in this thread until SIGTERM or SIGINT. Raises what :func:`running` does.

    ``credentials`` guard its control API.
    """

    async def until_stopped() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with running(config, credentials) as listening:
            # What was imported lasts as long as the process: a full collection would hold the data loop up for
            # 20 to 30 ms to find that out.
            gc.freeze()
            on_ready(listening)
            await stop.wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(until_stopped())


def _chap(config: ArrayConfig) -> ArrayChap | None:
    return array_chap(read_secret(config.chap_file, config.state)) if config.chap else None


def _open_disks(config: ArrayConfig, stack: AsyncExitStack) -> tuple[Volumes, CacheMemory | None]:
    """The volumes, behind the cache where there is one; at the end it is written back before the disks are closed."""
    volumes = open_volumes(config.volumes)
    stack.callback(volumes.close)
    if config.cache is None:
        return _replicated(config, volumes), None
    try:
        cache = CacheMemory(config.cache, volumes.disks())
    except (CacheFileError, DiskError) as error:
        raise CannotServe(str(error)) from None
    stack.callback(cache.close)
    return _replicated(config, volumes.behind(cache)), cache


def _replicated(config: ArrayConfig, volumes: Volumes) -> Volumes:
    """With remote copy in the way of every change, where there is a place to keep pairs in."""
    return volumes if config.state is None else replicated(volumes)


def _open_pool(config: ArrayConfig, interface: Interface, stack: AsyncExitStack) -> DurablePool:
    journal = None if config.state is None else config.state / f"{interface.name}.sqlite"
    try:
        pool = DurablePool.open(journal, interface.pool)
    except StoreError as error:
        raise CannotServe(str(error)) from None
    stack.callback(pool.close)
    return pool


def _interface(config: Interface, pool: DurablePool, fc: dict[str, FcPort]) -> CommunicationInterface:
    port = fc.get(config.name)
    return CommunicationInterface(
        config.name,
        pool,
        time.monotonic_ns,
        run=f"{config.name}.{uuid.uuid4().hex[:16]}",
        address=config.address,
        check=None if port is None else port.check,
    )


async def _start_targets(
    config: ArrayConfig,
    tcp: list[TcpInterface],
    pools: dict[str, DurablePool],
    received: dict[str, ReceiveReservations],
    devices: portals.Devices,
    chap: ArrayChap | None,
    cache: CacheMemory | None,
    stack: AsyncExitStack,
) -> dict[str, int]:
    if not tcp:
        return {}
    target = portals.server(
        config.iqn,
        devices,
        tcp,
        {one.address: HostBuffers(pools[one.name]) for one in tcp},
        received,
        chap=None if chap is None else chap.target,
        pace=cache,
    )
    ports = await portals.start(target, tcp)
    stack.push_async_callback(target.stop)
    stack.callback(devices.interrupt)
    return ports


def _start_fc_ports(
    config: ArrayConfig, pools: dict[str, DurablePool], devices: portals.Devices, stack: AsyncExitStack
) -> dict[str, FcPort]:
    ports: dict[str, FcPort] = {}
    for one in config.interfaces:
        if isinstance(one, FcInterface):
            port = FcPort(one, pools[one.name], devices.seen_by_fc())
            stack.callback(port.stop)
            port.start()
            ports[one.name] = port
            for host in host_ports(one):
                beside = FcPort(host, pools[one.name], devices.seen_by_fc_hosts())
                stack.callback(beside.stop)
                beside.start()
    return ports


def _log_in_again(ports: Iterable[FcPort], target: Target) -> None:
    for port in ports:
        port.log_in_again(target)


def _watch(
    config: ArrayConfig,
    credentials: ServerCredentials,
    cache: CacheMemory | None,
    interfaces: Interfaces,
    stack: AsyncExitStack,
) -> CacheWatch | None:
    if cache is None:
        return None
    station = None
    if config.station is not None:
        token = None
        if config.station_token_file is not None:
            try:
                token = read_token(config.station_token_file)
            except CredentialError as error:
                raise ConfigurationError(str(error)) from None
        shown = ClientCredentials(tls=credentials.as_client(), token=token)
        station = Peer(config.station, _STATION_TIMEOUT_S, name="the station", credentials=shown)
        stack.callback(station.close)
    return stack.enter_context(CacheWatch(config.name, cache, station, lambda: copied_over(interfaces)))


def copied_over(interfaces: Iterable[CommunicationInterface]) -> list[tuple[Target, int]]:
    """The targets whose reservations copies under way draw on (tables 101, 109), and the bytes they have reserved."""
    found = []
    for interface in interfaces:
        reserved = {row.target: row.reserved_bytes for row in interface.pool.reservation_table()}
        for row in interface.pool.allocation_table():
            copying = any(holder.name.startswith("copy ") for holder in row.holders)
            if row.reserved and row.target in reserved and copying:
                found.append((row.target, reserved[row.target]))
    return found


def _port_rows(
    config: ArrayConfig, iscsi_ports: dict[str, int], fc: dict[str, FcPort]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for one in config.interfaces:
        if isinstance(one, FcInterface):
            rows.append(fc[one.name].row())
        else:
            rows.append(
                {
                    "address": one.address,
                    "interface": one.name,
                    "kind": "tcp",
                    "iscsi_port": iscsi_ports[one.name],
                    "iqn": config.iqn,
                    "copy_iqn": portals.copy_iqn(config.iqn),
                }
            )
    return rows


def _load(history: CopyHistory) -> list[CopyStatus]:
    try:
        return history.load()
    except HistoryError as error:
        raise CannotServe(str(error)) from None


def host_port(host: str, port: int) -> str:
    """``HOST:PORT`` as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
