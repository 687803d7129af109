"""A target that runs in a thread of a test, and the sessions opened with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from iscsi_target.buffers import SendBuffers
from iscsi_target.executor import LogicalUnits
from iscsi_target.faults import FaultError, Rule, RuleSet, load_rules, rule_from_table
from iscsi_target.faults.hook import Hook
from iscsi_target.initiator import Initiator
from iscsi_target.instruments import Instruments
from iscsi_target.running import LunSpec, TargetStuck, serve
from iscsi_target.running import RunningTarget as TargetThread
from iscsi_target.scsi.stores.store import BackingStore
from iscsi_target.server import SessionInfo
from iscsi_target.session.chap import Chap
from iscsi_target.session.counters import ServerStatistics
from iscsi_target.session.limits import Limits
from iscsi_target.session.node import Portal, Target
from iscsi_target.session.parameters import Parameters
from iscsi_target.trace.capture import Capture, CaptureConfig
from iscsi_target.trace.pdu_log import PduLog
from tools.harness.errors import HarnessError, Hung
from tools.harness.initiator import BlockingInitiator
from tools.harness.loop_thread import LoopThread, stack_of

T = TypeVar("T")
DEFAULT_IQN = "iqn.2026-11.example.test:target"
DEFAULT_LUN = "16MiB"
_CAPTURE_FILE_BYTES = 32 << 20
_CAPTURE_FILES = 2

Rules = Path | str | Iterable[Rule | Mapping[str, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetOptions:
    """How a target of a test is made.

    ``luns``: sizes or paths as for ``sancredit target serve --lun``, stores, or
    :class:`~iscsi_target.running.LunSpec`, numbered from 0; or ``logical_units``: anything that implements the
    protocol, instead. ``rules``: fault rules to begin with, tables of them, or the path of a TOML file. ``hooks``:
    functions of (PDU, context). ``parameters``: what the target wishes at login. ``capture``: write a pcapng of
    everything, kept when the test fails. ``log_limit``: PDUs remembered.
    """

    luns: Sequence[str | BackingStore | LunSpec] = (DEFAULT_LUN,)
    iqn: str = DEFAULT_IQN
    logical_units: LogicalUnits | None = None
    rules: Rules = ()
    hooks: Sequence[Hook] = ()
    chap: Chap | None = None
    parameters: Parameters | None = None
    limits: Limits | None = None
    buffers: SendBuffers | None = None
    portals: Sequence[Portal] = (Portal("127.0.0.1", 0),)
    capture: bool = True
    log_limit: int = 10_000


class RunningTarget:
    """A target that serves. Made by ``target_factory``; every wait ends after ``timeout_s``.

    Raises :class:`~tools.harness.errors.HarnessError` from the constructor when it cannot listen, and what is wrong
    with its options.
    """

    kind = "emulator"
    lun = 0
    """Of the first logical unit, as every kind of target says it."""

    def __init__(self, options: TargetOptions, *, seed: int, timeout_s: float, capture_to: Path) -> None:
        self.options = options
        self.seed = seed
        """Of the fault rules."""
        self.timeout_s = timeout_s
        self.capture: Capture | None = None
        self._sessions: list[BlockingInitiator] = []
        self._initiators: LoopThread | None = None
        self._ended = False
        with ExitStack() as undo:
            self.thread = _made(options, seed, timeout_s)
            """The target as :mod:`iscsi_target.running` has it."""
            if options.capture:
                self.capture = self.thread.instruments.start_capture(
                    CaptureConfig(path=capture_to, rotate_bytes=_CAPTURE_FILE_BYTES, files=_CAPTURE_FILES)
                )
                undo.callback(self.thread.instruments.close)
            try:
                self.thread.start()
            except OSError as error:
                raise HarnessError(f"the target cannot listen: {error}") from error
            except TargetStuck as error:
                raise Hung(str(error)) from error
            undo.pop_all()
        self._ident = self.call(threading.get_ident)

    # -- where it is --------------------------------------------------------------------------------------------

    @property
    def iqn(self) -> str:
        """Its iSCSI name."""
        return self.thread.iqn

    @property
    def host(self) -> str:
        """Of its first portal."""
        return self.thread.host

    @property
    def port(self) -> int:
        """Of its first portal."""
        return self.thread.port

    @property
    def portals(self) -> tuple[Portal, ...]:
        """All of them, with the actual ports."""
        return self.thread.portals

    def url(self, lun: int = 0) -> str:
        """``iscsi://HOST:PORT/IQN/LUN``, as libiscsi and qemu take it."""
        return self.thread.lun_url(lun)

    # -- what disturbs and watches it ---------------------------------------------------------------------------

    @property
    def faults(self) -> RuleSet:
        """The fault rules; they may be changed at any time."""
        return self.thread.faults

    @property
    def log(self) -> PduLog:
        """The PDUs received and sent."""
        return self.thread.log

    # -- sessions -----------------------------------------------------------------------------------------------

    def initiator(self, **options: Any) -> BlockingInitiator:
        """Another session with it, ended with the test; ``options`` are those of `Initiator.login`."""
        if self._initiators is None:
            self._initiators = LoopThread("sancredit-initiators")
        timeout_s = options.pop("timeout_s", self.timeout_s)
        session = BlockingInitiator.login(
            self._initiators, self.host, self.port, self.iqn, timeout_s=timeout_s, **options
        )
        self._sessions.append(session)
        return session

    async def login(self, **options: Any) -> Initiator:
        """A session for tests with an event loop of their own: ``async with await target.login() as session``."""
        options.setdefault("timeout_s", self.timeout_s)
        return await Initiator.login(self.host, self.port, self.iqn, **options)

    # -- in the target's thread ---------------------------------------------------------------------------------

    def call(self, function: Callable[[], T]) -> T:
        """Run a function in the target's thread, where its server and cores may be touched; what it returns."""
        try:
            return self.thread.call(function, self.timeout_s)
        except TargetStuck as error:
            raise Hung(f"{error}; {self._stack()}") from error

    def sessions(self) -> list[SessionInfo]:
        """The sessions there are."""
        return self.call(self.thread.server.sessions)

    def statistics(self) -> ServerStatistics:
        """Everything that the server counts."""
        return self.call(self.thread.server.statistics)

    # -- the end ------------------------------------------------------------------------------------------------

    def finish_capture(self) -> None:
        """Complete the capture's file; what comes later is not captured."""
        capture, self.capture = self.capture, None
        if capture is None:
            return
        try:
            self.call(lambda: self.thread.instruments.stop_capture(capture))
        except (Hung, RuntimeError):  # the thread that writes it stands still, or has ended
            self.thread.instruments.stop_capture(capture)

    def stop(self) -> None:
        """End target and sessions. Raises :class:`Hung` for what did not end in time and is left behind."""
        if self._ended:
            return
        self._ended = True
        hung: list[str] = []
        try:
            self.thread.stop()
        except TargetStuck as error:
            hung.append(f"{error}; {self._stack()}")
        for session in reversed(self._sessions):
            _patiently(session.abort, hung)
        initiators = self._initiators
        if initiators is not None:
            _patiently(lambda: initiators.stop(self.timeout_s), hung)
        if hung:
            raise Hung("; ".join(hung))

    def _stack(self) -> str:
        return stack_of(self._ident, "its thread")


def _patiently(action: Callable[[], object], hung: list[str]) -> None:
    try:
        action()
    except Hung as error:
        hung.append(str(error))


def _made(options: TargetOptions, seed: int, timeout_s: float) -> TargetThread:
    """The target, not started yet."""
    rules = _rules(options.rules)
    hooks = [(getattr(hook, "__name__", f"hook-{number}"), hook) for number, hook in enumerate(options.hooks)]
    if options.logical_units is None:
        return serve(
            *options.luns,
            iqn=options.iqn,
            portals=options.portals,
            rules=rules,
            hooks=hooks,
            seed=seed,
            log_limit=options.log_limit,
            chap=options.chap,
            parameters=options.parameters,
            limits=options.limits,
            buffers=options.buffers,
            stop_timeout_s=timeout_s,
        )
    instruments = Instruments(faults=RuleSet(rules, seed=seed), log=PduLog(options.log_limit), hooks=hooks)
    described = Target(
        name=options.iqn,
        logical_units=instruments.logical_units(options.logical_units, options.iqn),
        chap=options.chap,
        parameters=options.parameters or Parameters(error_recovery_level=2),
    )
    return TargetThread(
        [described],
        options.portals,
        instruments=instruments,
        limits=options.limits,
        buffers=options.buffers,
        stop_timeout_s=timeout_s,
    )


def _rules(rules: Rules) -> tuple[Rule, ...]:
    if isinstance(rules, Path | str):
        return tuple(load_rules(Path(rules)).rules)
    found = []
    for rule in rules:
        if not isinstance(rule, Rule | Mapping):
            raise FaultError(f"{rule!r:.80} is neither a rule nor a table of one")
        found.append(rule if isinstance(rule, Rule) else rule_from_table(rule))
    return tuple(found)
