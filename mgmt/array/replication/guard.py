"""Who may change a volume that belongs to a pair: its hosts, or the other array, never both.

Wraps the logical units behind a target: commands that change the medium are refused with WRITE PROTECTED where the pair
says so. This is also what keeps an old primary out after a takeover (fencing). EXTENDED COPY changes the units that
its descriptors name, whichever it is sent to. SANITIZE, which goes on when its command has ended, is refused on every
volume of a pair.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from iscsi_target.executor import Deferred, LogicalUnits, ResetKind, ScsiCommand, ScsiResult
from iscsi_target.scsi.extended_copy import written_to
from iscsi_target.scsi.sense import Condition, SenseData
from iscsi_target.scsi.status import Status

#: Operation codes that change a disk's blocks (SBC-4): WRITE and its kin, UNMAP, FORMAT, SANITIZE, EXTENDED COPY.
CHANGING = frozenset(
    (
        0x04,
        0x0A,
        0x2A,
        0x2E,
        0x3B,
        0x3F,
        0x41,
        0x42,
        0x48,
        0x83,
        0x89,
        0x8A,
        0x8B,
        0x8E,
        0x93,
        0x9C,
        0xAA,
        0xAE,
    )
)
_EXTENDED_COPY, _SANITIZE = 0x83, 0x48
_VARIABLE_LENGTH = 0x7F
_VARIABLE_CHANGING = frozenset((0x0004, 0x000B, 0x000C, 0x000D, 0x000E))


def changes(cdb: bytes) -> bool:
    """Whether a command may change the medium."""
    if not cdb:
        return False
    if cdb[0] == _VARIABLE_LENGTH and len(cdb) >= 10:
        return int.from_bytes(cdb[8:10], "big") in _VARIABLE_CHANGING
    return cdb[0] in CHANGING


class Door:
    """The way to one volume for one kind of initiators. Thread-safe."""

    def __init__(self) -> None:
        self.paired = False
        """Whether the volume belongs to a pair, or is the journal of one."""
        self._open = True
        self._inside = 0
        self._changed = threading.Condition()

    def enter(self) -> bool:
        """Go in, where the door is open; then :meth:`leave` once."""
        with self._changed:
            self._inside += self._open
            return self._open

    def leave(self) -> None:
        """Come out."""
        with self._changed:
            self._inside -= 1
            if not self._inside:
                self._changed.notify_all()

    def shut(self) -> None:
        """Let nobody in any more; blocks until nobody is inside."""
        with self._changed:
            self._open = False
            while self._inside:
                self._changed.wait()

    def open(self) -> None:
        """Let everybody in."""
        with self._changed:
            self._open = True


class GuardedUnits:
    """Logical units (:class:`~iscsi_target.executor.LogicalUnits`) that are changed only through their ``doors``, by
    LUN; ``named`` are the LUNs by designator (type, name). ``delay_ns`` says how long the answer to a change is held
    back, while nobody waits in a thread."""

    def __init__(
        self,
        units: LogicalUnits,
        doors: Mapping[int, Door],
        named: Mapping[tuple[int, bytes], int] | None = None,
        delay_ns: Callable[[int], int] | None = None,
    ) -> None:
        self._units = units
        self._doors = doors
        self._named = named or {}
        self._delay_ns = delay_ns

    def _written(self, command: ScsiCommand) -> Sequence[int]:
        """The LUNs whose media a command may change."""
        if not changes(command.cdb):
            return ()
        if command.cdb[0] != _EXTENDED_COPY:
            return (command.lun,)
        found = written_to(bytes(command.data_out))
        return sorted({self._named[name] for name in found if name in self._named})

    def _enter(self, command: ScsiCommand) -> list[Door] | None:
        """Go in by the doors of everything that a command changes; None, and nowhere, where one of them is shut."""
        entered: list[Door] = []
        for lun in self._written(command):
            door = self._doors.get(lun)
            if door is None:
                continue
            if (door.paired and command.cdb[0] == _SANITIZE) or not door.enter():
                for one in entered:
                    one.leave()
                return None
            entered.append(door)
        return entered

    def data_out_length(self, command: ScsiCommand) -> int:
        """See :class:`iscsi_target.executor.LogicalUnits`."""
        return self._units.data_out_length(command)

    def blocking(self, command: ScsiCommand) -> bool:
        """See :class:`iscsi_target.executor.LogicalUnits`."""
        return self._units.blocking(command)

    def execute(self, command: ScsiCommand) -> ScsiResult | Deferred:
        """See :class:`iscsi_target.executor.LogicalUnits`."""
        doors = self._enter(command)
        if doors is None:
            return ScsiResult(Status.CHECK_CONDITION, sense=SenseData(Condition.WRITE_PROTECTED).fixed())
        try:
            result = self._units.execute(command)
        finally:
            for door in doors:
                door.leave()
        if self._delay_ns is None or not doors or isinstance(result, Deferred):
            return result
        delay_ns = self._delay_ns(command.lun)
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


class Guards:
    """The doors of all volumes, by LUN: those of hosts and those of other arrays. Pairs close them."""

    def __init__(self, luns: Iterable[int]) -> None:
        self.hosts: dict[int, Door] = {}
        self.partners: dict[int, Door] = {}
        for lun in luns:
            self.hosts[lun], self.partners[lun] = Door(), Door()
        self.delay_ns: Callable[[int], int] = lambda lun: 0
        """How long the answer to a host's write to a volume is held back now."""
        self.named: dict[tuple[int, bytes], int] = {}
        """LUNs by designator (type, name): how EXTENDED COPY names them."""
        self.at_work: Callable[[int], bool] = lambda lun: False
        """Whether a volume is being changed by something that no command waits for."""

    def for_hosts(self, units: LogicalUnits) -> LogicalUnits:
        """What hosts see."""
        return GuardedUnits(units, self.hosts, self.named, lambda lun: self.delay_ns(lun))

    def for_arrays(self, units: LogicalUnits) -> LogicalUnits:
        """What other arrays see."""
        return GuardedUnits(units, self.partners, self.named)
