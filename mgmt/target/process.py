"""A target process: built from its configuration, served until it is told to stop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from iscsi_target.faults import FaultError, RuleSet, rule_to_table
from iscsi_target.faults.hook import load_hook
from iscsi_target.instruments import Instruments
from iscsi_target.masking import lun_maps
from iscsi_target.running import TargetStuck
from iscsi_target.scsi.errors import InvalidConfiguration, StoreError
from iscsi_target.scsi.logical_unit import LogicalUnit, LogicalUnitConfig, derive_identity
from iscsi_target.scsi.reservation_file import ReservationFile
from iscsi_target.scsi.sanitize_file import SanitizeFile
from iscsi_target.scsi.stores.description import open_store
from iscsi_target.scsi.target_device import TargetDevice
from iscsi_target.server import Target, TargetServer
from iscsi_target.trace.capture import CaptureError
from iscsi_target.trace.pdu_log import DEFAULT_LIMIT, PduLog
from mgmt.target.configuration import LunConfig, ServeConfig, TargetConfig
from mgmt.target.table import ConfigurationError
from mgmt.target.token import read_token

if TYPE_CHECKING:
    from credits.durable import DurablePool

T = TypeVar("T")
_UNIT_BYTES = 16 * 1024
_FEWEST_UNITS, _MOST_UNITS = 64, 1 << 20
_ANSWER_S = 5.0


class StartError(Exception):
    """The target cannot be started as it is described (exit code 1); one line."""


class TargetProcess:
    """Everything of one target process. The constructor opens stores and captures, and loads hooks; `close` closes.

    Raises ConfigurationError for what cannot be, with nothing left open.
    """

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self._opened = ExitStack()
        with ExitStack() as opened:
            self.pool = _pool(config.buffer_bytes)
            self.instruments = _instruments(config)
            if self.instruments is not None:
                opened.callback(self.instruments.close)
            self.devices: list[TargetDevice] = []
            targets = []
            for described in config.targets:
                device = _device(described, tuple(portal.portal_group_tag for portal in config.portals))
                opened.callback(device.close)
                self.devices.append(device)
                targets.append(_target(described, device, self.instruments))
            if config.capture is not None:
                assert self.instruments is not None
                try:
                    self.instruments.start_capture(config.capture)
                except CaptureError as error:
                    raise StartError(str(error)) from error
            self._opened = opened.pop_all()
        self.targets = tuple(targets)

    def close(self) -> None:
        """Close captures and stores."""
        self._opened.close()

    async def serve(self, stop: asyncio.Event, ready: Callable[[list[str]], None]) -> None:
        """Serve until `stop` is set; `ready` gets the lines that say where. Raises StartError."""
        from mgmt.array.host_buffers import HostBuffers

        instruments = self.instruments
        server = TargetServer(
            self.targets,
            self.config.portals,
            buffers=HostBuffers(self.pool),
            limits=self.config.limits,
            wire_filter=None if instruments is None else instruments.wire_filter,
        )
        loop = asyncio.get_running_loop()
        try:
            await server.start()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise StartError(f"cannot listen on iscsi://{error.filename}: {reason}") from error
        faces = ExitStack()
        try:
            lines = [
                f"listening iscsi://{portal.spelled()}/{target.name}/{lun}"
                for portal in server.portals
                for target, device in zip(self.targets, self.devices, strict=True)
                for lun in device.units
            ]
            if self.config.control is not None and instruments is not None:
                address = faces.enter_context(_controlled(server, instruments, loop, self.config))
                lines.append(f"control {address}")
            if self.config.metrics is not None:
                lines.append(f"metrics {faces.enter_context(self._exporting(server, loop))}")
            ready(lines)
            await stop.wait()
        finally:
            await asyncio.to_thread(faces.close)  # requests under way are still answered by this loop
            for device in self.devices:
                device.interrupt()  # a SANITIZE may run for hours, and stopping waits for what runs
            await server.stop()

    @contextmanager
    def _exporting(self, server: TargetServer, loop: asyncio.AbstractEventLoop) -> Iterator[str]:
        """``/metrics`` while the target serves; gives its URL."""
        from mgmt.metrics.collector import FaultCount, TargetCollector, TargetSnapshot
        from mgmt.metrics.server import MetricsServer, taken_on

        where = self.config.metrics
        assert where is not None
        instruments = self.instruments

        def look() -> TargetSnapshot:
            rules = instruments.faults.statuses() if instruments is not None else ()
            faults = [
                FaultCount(status.rule.name, rule_to_table(status.rule)["action"], status.fired)
                for status in rules
            ]
            return TargetSnapshot(server.statistics(), faults, self.pool.statistics())

        try:
            exporter = MetricsServer(where.host, where.port, TargetCollector(taken_on(loop, look)))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise StartError(f"cannot serve metrics at {where.spelled()}: {reason}") from error
        exporter.start()
        try:
            yield f"http://{replace(where, port=exporter.address[1]).spelled()}/metrics"
        finally:
            exporter.stop()


def _instruments(config: ServeConfig) -> Instruments | None:
    if not config.instrumented:
        return None
    try:
        hooks = [(path.name, load_hook(path)) for path in config.hooks]
        rules = RuleSet(config.rules, seed=config.seed)
    except FaultError as error:
        raise ConfigurationError(str(error)) from error
    limit = config.log_pdus
    if limit is None:
        limit = DEFAULT_LIMIT if config.control is not None else 0
    return Instruments(faults=rules, hooks=hooks, log=PduLog(limit) if limit else None)


def _target(described: TargetConfig, device: TargetDevice, instruments: Instruments | None) -> Target:
    try:
        return Target(
            name=described.iqn,
            logical_units=device if instruments is None else instruments.logical_units(device, described.iqn),
            alias=described.alias,
            allowed_initiators=described.allowed_initiators,
            access=described.access,
            chap=described.chap,
            moved_to=described.moved_to,
            parameters=described.parameters,
        )
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def _device(described: TargetConfig, groups: tuple[int, ...]) -> TargetDevice:
    """The LUNs; nothing stays open when one of them cannot be served."""
    with ExitStack() as opened:
        units = {}
        try:
            for lun in described.luns:
                unit = _unit(described, lun)
                opened.callback(unit.close)
                units[lun.number] = unit
            device = TargetDevice(
                described.iqn,
                units,
                lun_maps=lun_maps(described.access, units) if described.access is not None else None,
                target_ports=sorted(set(groups)),
            )
        except (InvalidConfiguration, StoreError) as error:
            raise ConfigurationError(str(error)) from error
        opened.pop_all()
    return device


def _unit(described: TargetConfig, lun: LunConfig) -> LogicalUnit:
    """One logical unit; a file that may only be read is served read-only."""
    path = Path(lun.store)
    config = lun.config or LogicalUnitConfig()
    read_only = config.read_only or (path.exists() and not os.access(path, os.W_OK))
    store = open_store(lun.store, read_only=read_only)
    try:
        identity = derive_identity(described.iqn, lun.number)
        memory = sanitizing = None
        if described.reservations is not None:
            memory = ReservationFile(described.reservations / f"{identity.serial}.json")
            sanitizing = SanitizeFile(described.reservations / f"{identity.serial}.sanitize.json")
        config = replace(config, read_only=config.read_only or store.read_only)
        return LogicalUnit(store, identity, config, reservation_memory=memory, sanitize_memory=sanitizing)
    except BaseException:
        store.close()
        raise


def _pool(size_bytes: int) -> DurablePool:
    """The pool that Data-In is charged to: an account of its own, in memory."""
    from credits.config import PoolConfig, UnitKind
    from credits.durable import DurablePool

    units = size_bytes // _UNIT_BYTES
    if not _FEWEST_UNITS <= units <= _MOST_UNITS:
        least, most = _FEWEST_UNITS * _UNIT_BYTES >> 20, _MOST_UNITS * _UNIT_BYTES >> 30
        raise ConfigurationError(f"--buffers is {least}MiB to {most}GiB, not {size_bytes} bytes")
    return DurablePool.open(
        None, PoolConfig(name="target", kind=UnitKind.TCP, unit_bytes=_UNIT_BYTES, total_units=units)
    )


@contextmanager
def _controlled(
    server: TargetServer, instruments: Instruments, loop: asyncio.AbstractEventLoop, config: ServeConfig
) -> Iterator[str]:
    """The control API while the target serves; gives its address."""
    from iscsi_target.control import TargetControl
    from mgmt.http import AddressError, parse_address
    from mgmt.http.server import ListenError, ServerThread
    from mgmt.target.control_api import make_app

    assert config.control is not None
    try:
        address = parse_address(config.control)
    except AddressError as error:
        raise ConfigurationError(f"--control: {error}") from error
    token = None if config.control_token is None else read_token(config.control_token, create=True)
    if address.scheme != "unix" and token is None:
        raise ConfigurationError(
            f"anybody on this machine can reach {address}: add --token FILE (made when it is not there), or use a"
            " Unix socket"
        )
    control = TargetControl(server, instruments, _LoopCaller(loop))
    try:
        with ServerThread(make_app(control, token), address) as thread:
            yield str(thread.address)
    except ListenError as error:
        raise StartError(str(error)) from error


class _LoopCaller:
    """Runs functions in the thread of a loop. Raises TargetStuck after five seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __call__(self, function: Callable[[], T], /) -> T:
        answer: Future[T] = Future()

        def run() -> None:
            try:
                answer.set_result(function())
            except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
                answer.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(run)
            return answer.result(_ANSWER_S)
        except (FutureTimeout, RuntimeError) as error:
            raise TargetStuck("the target does not answer") from error
