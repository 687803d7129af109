# SPDX-License-Identifier: Apache-2.0
"""Everything that watches and disturbs a target, in one place: fault rules, hooks, the PDU log, captures.

>>> instruments = Instruments(faults=RuleSet(seed=7), log=PduLog())
>>> target = Target(name=iqn, logical_units=instruments.logical_units(device, iqn))
>>> server = TargetServer([target], wire_filter=instruments.wire_filter)

A server without instruments pays nothing. With them, and with nothing to do, the bytes of a connection pass uncut.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from random import Random
from weakref import WeakKeyDictionary, WeakValueDictionary

from iscsi_target.buffers import ConnectionInfo
from iscsi_target.executor import LogicalUnits, ScsiCommand
from iscsi_target.faults.actions import COMMAND_ACTIONS, CommandAction
from iscsi_target.faults.connection_filter import ConnectionFilter, PduSubject
from iscsi_target.faults.hook import Hook
from iscsi_target.faults.logical_units import CommandSubject, FaultyLogicalUnits
from iscsi_target.faults.matching import Direction
from iscsi_target.faults.rules import RuleSet
from iscsi_target.faults.wire_pdu import WirePdu
from iscsi_target.session.target_connection import TargetConnection
from iscsi_target.session.task import Task
from iscsi_target.trace.capture import Capture, CaptureConfig, CaptureError
from iscsi_target.trace.pdu_log import PduLog

_MAX_PROMISES = 4096
_MAX_CAPTURES = 8


class Instruments:
    """See the module. `log` None: nothing is logged. `hooks`: name and function of each; names show in log and capture.

    `clock` is the monotonic clock of the server in nanoseconds, `wall_clock` the time since 1970.
    """

    command_kinds = COMMAND_ACTIONS

    def __init__(
        self,
        *,
        faults: RuleSet | None = None,
        log: PduLog | None = None,
        hooks: Sequence[tuple[str, Hook]] = (),
        clock: Callable[[], int] = time.monotonic_ns,
        wall_clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.faults = RuleSet() if faults is None else faults
        self.log = log
        self.hooks = tuple(hooks)
        self.captures: tuple[Capture, ...] = ()
        """Those under way; replaced as a whole."""
        self.watching = False
        """Whether anybody wants to see PDUs."""
        self.promised: OrderedDict[tuple[int, int], list[tuple[CommandAction, Random]]] = OrderedDict()
        """Actions that hooks want on SCSI commands, by TSIH and task tag, until the command is executed."""
        self.connections: WeakValueDictionary[int, ConnectionFilter] = WeakValueDictionary()
        self.accepted = 0
        """Connections so far."""
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._numbers: WeakKeyDictionary[TargetConnection, int] = WeakKeyDictionary()
        self.faults.changed = self._look_again
        self._look_again()

    # -- for the server -----------------------------------------------------------------------------------------

    def wire_filter(self, info: ConnectionInfo, core: TargetConnection) -> ConnectionFilter:
        """A :data:`~iscsi_target.wire_filter.FilterFactory`."""
        self.accepted += 1
        made = ConnectionFilter(self, self.accepted, info, core)
        with self._lock:
            self._numbers[core] = self.accepted
            self.connections[self.accepted] = made
        return made

    def logical_units(self, inner: LogicalUnits, target_name: str) -> FaultyLogicalUnits:
        """Logical units with faults around those of a target."""
        return FaultyLogicalUnits(inner, self, target_name, self._clock)

    # -- captures -----------------------------------------------------------------------------------------------

    def start_capture(self, config: CaptureConfig) -> Capture:
        """Begin a capture. Raises CaptureError: the file cannot be written, or is being written already."""
        with self._lock:
            if any(capture.config.path == config.path for capture in self.captures):
                raise CaptureError(f"{config.path} is being written already")
            if len(self.captures) >= _MAX_CAPTURES:
                raise CaptureError(f"there are {_MAX_CAPTURES} captures already")
            capture = Capture(config, wall_offset_ns=self._wall_clock() - self._clock())
            self.captures = (*self.captures, capture)
        self._look_again()
        return capture

    def stop_capture(self, capture: Capture) -> None:
        """End a capture; its file is complete afterwards. Call it from the server's thread, or when that has ended."""
        with self._lock:
            self.captures = tuple(other for other in self.captures if other is not capture)
        self._look_again()
        capture.close()

    def close(self) -> None:
        """End all captures."""
        for capture in self.captures:
            self.stop_capture(capture)

    # -- for the connections ------------------------------------------------------------------------------------

    def record(
        self,
        subject: PduSubject,
        pdu: WirePdu,
        rules: tuple[str, ...],
        fate: str,
        now_ns: int,
        *,
        on_wire: bool,
    ) -> None:
        """Log a PDU."""
        if self.log is not None:
            self.log.append(
                now_ns,
                subject.direction,
                subject.connection,
                subject.tsih,
                subject.cid,
                subject.initiator_name,
                pdu.header,
                pdu.data_bytes,
                subject.lun,
                subject.cdb,
                rules,
                fate,
                on_wire,
            )

    def capture(
        self, of: ConnectionFilter, direction: Direction, data: bytes, now_ns: int, comment: str
    ) -> None:
        """Bytes pass on the wire."""
        if self.captures:
            said = "; ".join(text for text in (of.stream.take_remarks(), comment) if text)
            for capture in self.captures:
                if capture.wants(of.tsih, of.login.initiator_name):
                    capture.write(of.number, of.stream, direction, data, now_ns, said)
        of.stream.passed(direction, len(data))

    def connection_ended(self, of: ConnectionFilter, now_ns: int) -> None:
        """A connection is closed."""
        for capture in self.captures:
            reset = of.closing == "reset"
            capture.end(of.number, of.stream, now_ns, reset=reset, comment=of.stream.take_remarks())

    # -- for the logical units ----------------------------------------------------------------------------------

    def promise(self, subject: PduSubject, action: CommandAction) -> None:
        """A hook wants this done to the command that a PDU belongs to, when it is executed."""
        key = (subject.tsih, subject.initiator_task_tag)
        with self._lock:
            self.promised.setdefault(key, []).append((action, Random(f"{self.faults.seed}/promise/{key}")))
            if len(self.promised) > _MAX_PROMISES:
                self.promised.popitem(last=False)

    def redeem(self, subject: CommandSubject) -> list[tuple[CommandAction, Random]]:
        """What hooks want done to a command."""
        if not self.promised:
            return []
        key = (subject.tsih, subject.initiator_task_tag)
        with self._lock:
            return self.promised.pop(key, [])

    def task_of(self, command: ScsiCommand) -> Task | None:
        """The task of a command; None: it has ended."""
        with self._lock:
            filters = list(self.connections.values())
        for filter_ in filters:
            session = filter_.core.session
            if session is not None and session.initiator_port == command.initiator_port:
                for task in list(session.tasks.values()):
                    if task.command is command:
                        return task
        return None

    def number_of(self, core: TargetConnection) -> int:
        """A connection's number; 0: it is not one of ours."""
        with self._lock:
            return self._numbers.get(core, 0)

    def _look_again(self) -> None:
        self.watching = bool(self.faults.on_pdus or self.hooks or self.captures or self.log is not None)
