# SPDX-License-Identifier: Apache-2.0
"""ECHO, the link service that measures: what went out comes back from the other end's link services (FC-LS, ECHO)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from fcsim.errors import CreditMisuse, MalformedFrame
from fcsim.wire.els import decode_els
from fcsim.wire.els_commands import ElsCommand
from fcsim.wire.els_services import EchoAccept
from fcsim.wire.frame import Frame

__all__ = ["ECHO_LIMIT", "EchoAnswered", "EchoFailed", "EchoStamps", "Echoes", "RoundTripMeasured"]

#: ECHOs without an answer at the same time.
ECHO_LIMIT = 64


@dataclass(frozen=True, slots=True)
class EchoAnswered:
    """The same bytes came back: ECHO was wanted at ``asked_ps``, its answer was here at ``arrived_ps``."""

    peer: int
    ox_id: int
    asked_ps: int
    arrived_ps: int


@dataclass(frozen=True, slots=True)
class EchoFailed:
    """No answer in time, a refusal, or an answer with other bytes."""

    peer: int
    ox_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class RoundTripMeasured:
    """An ECHO came back. ``round_trip_ps`` is the line's: from when its last bit had left to when that of the answer
    came, less what the answer took to be sent, to 3 ps. ``waited_ps`` is how long it had to wait here for credit and
    line."""

    ox_id: int
    round_trip_ps: int
    waited_ps: int


@dataclass(frozen=True, slots=True)
class _Asked:
    peer: int
    data: bytes
    asked_ps: int
    deadline_ps: int


class Echoes:
    """The ECHOs of one N_Port that have no answer yet."""

    def __init__(self) -> None:
        self._asked: dict[int, _Asked] = {}
        self._events: deque[EchoAnswered | EchoFailed] = deque()

    def ask(self, frame: Frame, data: bytes, now_ps: int, deadline_ps: int) -> None:
        """An ECHO goes out. Raises CreditMisuse beyond :data:`ECHO_LIMIT`."""
        if len(self._asked) >= ECHO_LIMIT:
            raise CreditMisuse(f"{ECHO_LIMIT} ECHOs have no answer yet: wait for one")
        self._asked[frame.header.ox_id] = _Asked(frame.header.d_id, data, now_ps, deadline_ps)

    def take(self, frame: Frame, now_ps: int) -> bool:
        """An answer of the link services; False: it is to something else."""
        header = frame.header
        asked = self._asked.get(header.ox_id)
        if asked is None or asked.peer != header.s_id:
            return False
        del self._asked[header.ox_id]
        try:
            answer = decode_els(frame.payload, ElsCommand.ECHO)
        except MalformedFrame as error:
            self._events.append(EchoFailed(asked.peer, header.ox_id, str(error)))
            return True
        if isinstance(answer, EchoAccept) and answer.data == asked.data:
            self._events.append(EchoAnswered(asked.peer, header.ox_id, asked.asked_ps, now_ps))
        else:
            said = "other bytes came back" if isinstance(answer, EchoAccept) else "it was refused"
            self._events.append(EchoFailed(asked.peer, header.ox_id, said))
        return True

    def forget(self, peer: int, reason: str) -> None:
        """The peer is gone."""
        self._fail([ox_id for ox_id, asked in self._asked.items() if asked.peer == peer], reason)

    def next_deadline(self) -> int | None:
        """When :meth:`handle_timer` wants to be called, in picoseconds."""
        return min((asked.deadline_ps for asked in self._asked.values()), default=None)

    def handle_timer(self, now_ps: int) -> None:
        """Those without an answer for too long fail."""
        late = [ox_id for ox_id, asked in self._asked.items() if asked.deadline_ps <= now_ps]
        self._fail(late, "no answer within the time limit")

    def events(self) -> Iterator[EchoAnswered | EchoFailed]:
        """What happened since the last call."""
        while self._events:
            yield self._events.popleft()

    def _fail(self, ox_ids: list[int], reason: str) -> None:
        for ox_id in ox_ids:
            self._events.append(EchoFailed(self._asked.pop(ox_id).peer, ox_id, reason))


class EchoStamps:
    """When ECHOs left, as the transmitter says: what they waited for before is no part of the line's round trip.

    Forgotten with the answer, or when there is none; so it holds no more than :class:`Echoes` does.
    """

    def __init__(self) -> None:
        self.expected: dict[bytes, int] = {}
        """OX_IDs of ECHOs that wait to be sent, by their records."""
        self._left: dict[int, tuple[int, int]] = {}

    def left(self, record: bytes, moment_ps: int, sending_ps: int) -> None:
        """A record has wholly left at a moment; sending it took so long."""
        ox_id = self.expected.pop(record, None)
        if ox_id is not None:
            self._left[ox_id] = moment_ps, sending_ps

    def measured(self, event: EchoAnswered | EchoFailed) -> EchoAnswered | EchoFailed | RoundTripMeasured:
        """What an answer says of the line; the event itself where there is no more to say."""
        left_ps, sending_ps = self._left.pop(event.ox_id, (None, 0))
        for record in [record for record, ox_id in self.expected.items() if ox_id == event.ox_id]:
            del self.expected[record]
        if left_ps is None or not isinstance(event, EchoAnswered):
            return event
        waited_ps = max(left_ps - sending_ps - event.asked_ps, 0)  # moments are rounded to picoseconds
        return RoundTripMeasured(event.ox_id, event.arrived_ps - left_ps - sending_ps, waited_ps)
