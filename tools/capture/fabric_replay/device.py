"""The target of a fabric replay: what a command is answered is what the captured one was answered."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from fcsim.fabric.scenario import Arrival
from fcsim.fcp.executor import FcpCommand, FcpResult, ScsiExecutor

_KEY = tuple[bytes, bytes, int]


class CapturedDevice:
    """Implements :class:`fcsim.fcp.executor.ScsiExecutor`: commands of ``initiator`` (its N_Port_ID) that are in
    ``answers`` move as many bytes, zeros, and end with the status that these say. Others go to ``behind``.

    Commands with the same LUN, CDB and length are answered in the order of ``answers``.
    """

    def __init__(self, initiator: int, answers: Iterable[tuple[Arrival, int]], behind: ScsiExecutor) -> None:
        self._initiator = initiator
        self._behind = behind
        self._answers: dict[_KEY, deque[tuple[Arrival, int]]] = {}
        for arrival, status in answers:
            key = arrival.lun, arrival.cdb, arrival.read_bytes or arrival.write_bytes
            self._answers.setdefault(key, deque()).append((arrival, status))

    def data_out_length(self, command: FcpCommand) -> int:
        """See :class:`ScsiExecutor`."""
        if self._key(command) in self._answers:
            return command.data_length if command.write else 0
        return self._behind.data_out_length(command)

    def execute(self, command: FcpCommand) -> FcpResult:
        """See :class:`ScsiExecutor`."""
        known = self._answers.get(self._key(command))
        if not known:
            return self._behind.execute(command)
        arrival, status = known[0]
        if len(known) > 1:  # the last one stays, for a command that is sent again
            known.popleft()
        return FcpResult(status, bytes(arrival.read_bytes), transfer_length=command.data_length)

    def reset(self, initiator: int, lun: bytes | None) -> bool:
        """See :class:`ScsiExecutor`."""
        return self._behind.reset(initiator, lun)

    def _key(self, command: FcpCommand) -> _KEY:
        return command.lun, command.cdb if command.initiator == self._initiator else b"", command.data_length
