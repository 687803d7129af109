# SPDX-License-Identifier: Apache-2.0
"""A target in a thread of this process: for test suites and notebooks, on a port of its own, without privileges.

>>> with serve("64MiB") as target:
...     target.faults.add(Drop(), direction="to-initiator", opcode="r2t", nth=1)
...     print(target.url)
...     ...
...     target.log.expect(opcode="r2t", rule="drop-1", count=1)
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import uvloop

from iscsi_target.buffers import SendBuffers
from iscsi_target.executor import LogicalUnits
from iscsi_target.faults.hook import Hook
from iscsi_target.faults.rules import Rule, RuleSet
from iscsi_target.instruments import Instruments
from iscsi_target.scsi.logical_unit import LogicalUnit, LogicalUnitConfig, derive_identity
from iscsi_target.scsi.stores.description import open_store
from iscsi_target.scsi.stores.store import BackingStore
from iscsi_target.scsi.target_device import TargetDevice
from iscsi_target.server import Limits, Portal, SessionInfo, Target, TargetServer
from iscsi_target.session.chap import Chap
from iscsi_target.session.parameters import Parameters
from iscsi_target.trace.capture import Capture, CaptureConfig
from iscsi_target.trace.pdu_log import PduLog

__all__ = ["DEFAULT_TARGET_IQN", "LunSpec", "RunningTarget", "TargetStuck", "serve"]

T = TypeVar("T")
DEFAULT_TARGET_IQN = "iqn.2003-10.example.sancredit:target"
_ANSWER_S = 10.0


class TargetStuck(RuntimeError):
    """The target's thread did not answer, or did not end, in the time allowed."""


@dataclass(frozen=True, slots=True)
class LunSpec:
    """One logical unit: what stores its blocks ("64MiB", "null:1GiB", "snapshot:PATH", a path, or an open store,
    which is closed with the target), and how it presents itself."""

    store: str | BackingStore = "64MiB"
    config: LogicalUnitConfig | None = None


class RunningTarget:
    """A :class:`~iscsi_target.server.TargetServer` in a thread of its own, with its own event loop.

    A context manager; `start` and `stop` do the same. `stop_timeout_s` bounds the end, whatever the commands under way
    do. All methods may be called from any thread but the target's own.

    `targets` are served as they are; to have faults on their SCSI commands wrap their logical units with
    ``instruments.logical_units``, as :func:`serve` does.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        portals: Sequence[Portal] = (Portal("127.0.0.1", 0),),
        *,
        instruments: Instruments | None = None,
        limits: Limits | None = None,
        buffers: SendBuffers | None = None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
        stop_timeout_s: float = 10.0,
        on_stopping: Callable[[], None] | None = None,
        on_stop: Callable[[], None] | None = None,
    ) -> None:
        """`on_stopping` is called before the server waits for commands under way: it ends the long ones. `on_stop` is
        called when the server has ended: it closes the stores."""
        self.instruments = instruments or Instruments()
        self.server = TargetServer(
            targets, portals, buffers=buffers, limits=limits, wire_filter=self.instruments.wire_filter
        )
        self.targets = tuple(targets)
        self._loop_factory = loop_factory
        self._stop_timeout_s = stop_timeout_s
        self._on_stopping = on_stopping
        self._on_stop = on_stop
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> RunningTarget:
        """Serve. Raises OSError when a portal cannot be bound, as :meth:`TargetServer.start` does."""
        if self._thread is not None:
            raise RuntimeError("the target has been started already")
        self._thread = threading.Thread(target=self._run, name="iscsi-target", daemon=True)
        self._thread.start()
        try:
            self._started.result(_ANSWER_S)
        except concurrent.futures.TimeoutError as error:
            raise TargetStuck(f"the target did not start in {_ANSWER_S:g} s") from error
        except BaseException:
            self._thread.join(_ANSWER_S)
            self._end()
            raise
        return self

    def stop(self) -> None:
        """End all sessions and the thread, and close the stores; nothing happens when it has ended already.

        Raises TargetStuck when a command is still under way after `stop_timeout_s`: its thread is left to itself.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None and thread.is_alive():
            loop.call_soon_threadsafe(stop.set)
        thread.join(self._stop_timeout_s)
        if thread.is_alive():
            raise TargetStuck(f"the target did not end in {self._stop_timeout_s:g} s")
        self._end()

    def __enter__(self) -> RunningTarget:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self._loop_factory) as runner:
                runner.run(self._serve())
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        await self.server.start()
        self._started.set_result(None)
        try:
            await self._stop.wait()
        finally:
            if self._on_stopping is not None:
                self._on_stopping()
            await self.server.stop()

    def _end(self) -> None:
        self.instruments.close()
        on_stop, self._on_stop = self._on_stop, None
        if on_stop is not None:
            on_stop()

    # -- where --------------------------------------------------------------------------------------------------

    @property
    def portals(self) -> tuple[Portal, ...]:
        """The addresses listened on, with the actual port numbers."""
        return self.server.portals

    @property
    def host(self) -> str:
        """The address of the first portal."""
        return self.portals[0].host

    @property
    def port(self) -> int:
        """The port of the first portal."""
        return self.portals[0].port

    @property
    def iqn(self) -> str:
        """The name of the first target."""
        return self.targets[0].name

    @property
    def url(self) -> str:
        """``iscsi://HOST:PORT/IQN/0``, as libiscsi and QEMU spell it."""
        return self.lun_url(0)

    def lun_url(self, lun: int, *, user: str = "") -> str:
        """The URL of another LUN; `user`: what stands before the host, ``name%secret``."""
        return f"iscsi://{user + '@' if user else ''}{self.portals[0].spelled()}/{self.iqn}/{lun}"

    # -- watching and disturbing --------------------------------------------------------------------------------

    @property
    def faults(self) -> RuleSet:
        """The fault rules; changed while the target runs."""
        return self.instruments.faults

    @property
    def log(self) -> PduLog:
        """The PDU log. Raises RuntimeError: there is none."""
        if self.instruments.log is None:
            raise RuntimeError("this target has no PDU log")
        return self.instruments.log

    def call(self, function: Callable[[], T], timeout_s: float = _ANSWER_S) -> T:
        """Run `function` in the target's thread, and return what it returns. Raises TargetStuck, RuntimeError when the
        target does not run, and what it raises."""
        loop = self._loop
        if loop is None or self._thread is None or not self._thread.is_alive():
            raise RuntimeError("the target does not run")
        answer: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            try:
                answer.set_result(function())
            except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
                answer.set_exception(error)

        loop.call_soon_threadsafe(run)
        try:
            return answer.result(timeout_s)
        except concurrent.futures.TimeoutError as error:
            raise TargetStuck(f"the target's thread does not answer in {timeout_s:g} s") from error

    def sessions(self) -> list[SessionInfo]:
        """The sessions as they are now."""
        return self.call(self.server.sessions)

    def request_logout(self, tsih: int, time_s: int = 10) -> bool:
        """Ask the initiator of a session to log out; False: there is no such session."""
        return self.call(lambda: self.server.request_logout(tsih, time_s))

    def end_session(self, tsih: int, text: str = "ended by the target's owner") -> bool:
        """End a session at once; False: there is no such session."""

        def end() -> bool:
            session = self.server.node.sessions.get(tsih)
            if session is not None:
                session.end(text)
                self.server.serve_touched()
            return session is not None

        return self.call(end)

    def start_capture(self, path: Path | str, **config: object) -> Capture:
        """Capture from now on (:class:`~iscsi_target.trace.capture.CaptureConfig`). Raises CaptureError."""
        made = replace(CaptureConfig(path=Path(path)), **config)  # type: ignore[arg-type]
        return self.instruments.start_capture(made)

    def stop_capture(self, capture: Capture) -> None:
        """End a capture; its file is complete afterwards."""
        if self._thread is not None and self._thread.is_alive():
            self.call(lambda: self.instruments.stop_capture(capture))
        else:
            self.instruments.stop_capture(capture)


def serve(
    *luns: str | BackingStore | LunSpec,
    iqn: str = DEFAULT_TARGET_IQN,
    portals: Sequence[Portal] = (Portal("127.0.0.1", 0),),
    rules: Sequence[Rule] = (),
    hooks: Sequence[tuple[str, Hook]] = (),
    seed: int = 0,
    log_limit: int | None = 10_000,
    capture: Path | str | None = None,
    chap: Chap | None = None,
    parameters: Parameters | None = None,
    allowed_initiators: frozenset[str] | None = None,
    limits: Limits | None = None,
    buffers: SendBuffers | None = None,
    stop_timeout_s: float = 10.0,
) -> RunningTarget:
    """A target with LUNs 0, 1, … (one of 64 MiB of thin memory unless told), not started yet: use it with ``with``.

    `log_limit` None: no PDU log. Raises StoreError, InvalidConfiguration, FaultError, CaptureError and ValueError for
    what cannot be; nothing stays open then.
    """
    with ExitStack() as opened:
        instruments = Instruments(
            faults=RuleSet(rules, seed=seed),
            log=None if log_limit is None else PduLog(log_limit),
            hooks=hooks,
        )
        opened.callback(instruments.close)
        units: dict[int, LogicalUnit] = {}
        for lun, given in enumerate(luns or ("64MiB",)):
            spec = given if isinstance(given, LunSpec) else LunSpec(given)
            config = spec.config or LogicalUnitConfig()
            store = spec.store
            if isinstance(store, str):
                store = open_store(store, read_only=config.read_only)
            opened.callback(store.close)
            units[lun] = LogicalUnit(store, derive_identity(iqn, lun), config)
        device = TargetDevice(iqn, units)
        units_seen: LogicalUnits = instruments.logical_units(device, iqn)
        target = Target(
            name=iqn,
            logical_units=units_seen,
            chap=chap,
            allowed_initiators=allowed_initiators,
            parameters=parameters or Parameters(error_recovery_level=2),
        )
        if capture is not None:
            instruments.start_capture(CaptureConfig(path=Path(capture)))
        running = RunningTarget(
            [target],
            portals,
            instruments=instruments,
            limits=limits,
            buffers=buffers,
            stop_timeout_s=stop_timeout_s,
            on_stopping=device.interrupt,
            on_stop=device.close,
        )
        opened.pop_all()
    return running
