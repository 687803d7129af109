"""The states of one remote copy (sans-IO; time is an argument in integer nanoseconds of a monotonic clock).

A copy is started connection by connection: one start request M7 for each connection of each session (step 813).
It gathers until every one of them has come up or has been refused, or until a bounded wait is over, and then
moves data over those that came up; fewer than asked for is reported, not hidden (GAP-9). Units come back when
the connections are closed, so the last state of every copy follows upon :attr:`Input.CLOSED`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from types import MappingProxyType

from mgmt.array.replication.plan import Extent, ExtentQueue


class State(StrEnum):
    """Where a copy is; the values are what ``CopyStatus.state`` carries."""

    STARTING = "starting"
    COPYING = "copying"
    FLUSHING = "flushing"
    FINISHING = "finishing"
    STOPPING = "stopping"
    FAILING = "failing"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """Nothing moves and no units are held any more."""
        return self in (State.DONE, State.STOPPED, State.FAILED)


class Input(Enum):
    """What may happen to a copy."""

    GATHERED = "every start request is decided and a connection is up"
    UNSTARTED = "no connection came up"
    ACKNOWLEDGED = "the last extent is acknowledged"
    FLUSHED = "the remote array has the volume on its disk"
    FAILURE = "no connection is left, or a disk failed"
    STOP = "someone asked to stop"
    CLOSED = "every connection is closed and its units are back"


#: The whole state machine; a missing row is an input that means nothing in that state and changes nothing.
TRANSITIONS: Mapping[tuple[State, Input], State] = MappingProxyType(
    {
        (State.STARTING, Input.GATHERED): State.COPYING,  # step 815
        (State.STARTING, Input.UNSTARTED): State.FAILING,  # GAP-9
        (State.STARTING, Input.STOP): State.STOPPING,  # GAP-4
        (State.STARTING, Input.FAILURE): State.FAILING,
        (State.COPYING, Input.ACKNOWLEDGED): State.FLUSHING,
        (State.COPYING, Input.FAILURE): State.FAILING,
        (State.COPYING, Input.STOP): State.STOPPING,  # GAP-4
        (State.FLUSHING, Input.FLUSHED): State.FINISHING,
        (State.FLUSHING, Input.FAILURE): State.FAILING,
        (State.FLUSHING, Input.STOP): State.STOPPING,
        (State.FINISHING, Input.CLOSED): State.DONE,
        (State.STOPPING, Input.CLOSED): State.STOPPED,
        (State.FAILING, Input.CLOSED): State.FAILED,
    }
)


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """One connection of one session of a copy, both counted from 0."""

    session: int
    connection: int

    def __str__(self) -> str:
        return f"session {self.session} connection {self.connection}"


class SlotState(Enum):
    """Where one connection of a copy is."""

    REQUESTED = "requested"
    UP = "up"
    REFUSED = "refused"
    LOST = "lost"


class StartRefused(ValueError):
    """A start request does not fit the copy it names; the copy is unchanged."""


@dataclass(frozen=True, slots=True)
class JobStatistics:
    """One moment of a copy. ``connections`` are up now, ``started`` came up, of ``wanted``."""

    state: State
    wanted: int
    started: int
    connections: int
    total_bytes: int
    acknowledged_bytes: int
    outstanding_bytes: int
    error: str


class CopyJob:
    """One remote copy: its connections, its extents and its state.

    The caller reports facts (``…_up``, ``…_refused``, ``…_lost``, ``acknowledge``, ``flushed``, ``closed``) and asks
    for work (``take``); it acts on :attr:`state`. ``gather_deadline_ns`` bounds the wait for start requests.
    """

    def __init__(
        self,
        *,
        total_bytes: int,
        extent_bytes: int,
        sessions: int,
        connections_per_session: int,
        gather_deadline_ns: int,
    ) -> None:
        if sessions < 1 or connections_per_session < 1:
            raise StartRefused("a copy has at least one session of at least one connection")
        self.sessions = sessions
        self.connections_per_session = connections_per_session
        self.state = State.STARTING
        self.error = ""
        self._gather_deadline_ns = gather_deadline_ns
        self._slots: dict[Slot, SlotState] = {}
        self._queue = ExtentQueue(total_bytes, extent_bytes)

    def request(self, slot: Slot) -> None:
        """A start request for ``slot`` arrived. :class:`StartRefused`: too late, outside the copy, or twice."""
        if self.state is not State.STARTING:
            raise StartRefused(f"the copy is {self.state} and takes no more connections")
        if not (0 <= slot.session < self.sessions and 0 <= slot.connection < self.connections_per_session):
            raise StartRefused(
                f"{slot} is outside a copy of {self.sessions} sessions with "
                f"{self.connections_per_session} connections each, counted from 0"
            )
        if slot in self._slots:
            raise StartRefused(f"{slot} was requested before")
        self._slots[slot] = SlotState.REQUESTED

    def connection_up(self, slot: Slot) -> None:
        """``slot`` has its units and is logged in."""
        self._slots[slot] = SlotState.UP
        self._gather()

    def connection_refused(self, slot: Slot, reason: str) -> None:
        """``slot`` got no units, or the remote array could not be reached; ``reason`` is one line."""
        self._slots[slot] = SlotState.REFUSED
        self.error = self.error or reason
        self._gather()

    def connection_lost(self, slot: Slot, reason: str) -> None:
        """``slot`` broke; what it had outstanding is taken by the others."""
        if not self.is_up(slot):
            return
        self._slots[slot] = SlotState.LOST
        self._queue.give_back(slot)
        if not self.state.final and self.state not in (State.FINISHING, State.STOPPING, State.FAILING):
            self.error = f"{slot} was lost: {reason}"
            if self._count(SlotState.UP) == 0 and self.state is not State.STARTING:
                self._apply(Input.FAILURE)

    def is_up(self, slot: Slot) -> bool:
        """Can ``slot`` carry data?"""
        return self._slots.get(slot) is SlotState.UP

    def take(self, slot: Slot) -> Extent | None:
        """The next extent for ``slot``; ``None`` while there is none for it."""
        if self.state is not State.COPYING or not self.is_up(slot):
            return None
        return self._queue.take(slot)

    def acknowledge(self, slot: Slot, extent: Extent) -> None:
        """The remote array answered GOOD for ``extent``; a late answer on a lost connection counts for nothing."""
        if not self.is_up(slot):
            return
        self._queue.acknowledge(slot, extent)
        self._look_for_the_end()

    def flushed(self) -> None:
        """SYNCHRONIZE CACHE was answered GOOD."""
        self._apply(Input.FLUSHED)

    def fail(self, reason: str) -> None:
        """Something that no other connection can mend; ``reason`` is one line."""
        if (self.state, Input.FAILURE) in TRANSITIONS:
            self.error = reason
            self._apply(Input.FAILURE)

    def stop(self) -> None:
        """Stop moving data; nothing happens to a copy that is over."""
        self._apply(Input.STOP)

    def closed(self) -> None:
        """Every connection is closed and its units are back where they came from."""
        self._apply(Input.CLOSED)

    def next_deadline(self) -> int | None:
        """When :meth:`handle_timer` wants to be called; ``None`` for never."""
        return self._gather_deadline_ns if self.state is State.STARTING else None

    def handle_timer(self, now_ns: int) -> None:
        """The bounded wait for start requests may be over: go on with what came up."""
        if self.state is State.STARTING and now_ns >= self._gather_deadline_ns:
            self._gather(wait_is_over=True)

    def statistics(self) -> JobStatistics:
        """The copy as it stands."""
        up = self._count(SlotState.UP)
        return JobStatistics(
            state=self.state,
            wanted=self._wanted,
            started=up + self._count(SlotState.LOST),
            connections=up,
            total_bytes=self._queue.total_bytes,
            acknowledged_bytes=self._queue.acknowledged_bytes,
            outstanding_bytes=self._queue.outstanding_bytes,
            error=self.error,
        )

    @property
    def _wanted(self) -> int:
        return self.sessions * self.connections_per_session

    def _count(self, wanted: SlotState) -> int:
        return sum(1 for state in self._slots.values() if state is wanted)

    def _gather(self, *, wait_is_over: bool = False) -> None:
        """Leave STARTING once every slot is decided, or the wait is over."""
        if self.state is not State.STARTING:
            return
        undecided = self._wanted - len(self._slots) + self._count(SlotState.REQUESTED)
        if undecided and not wait_is_over:
            return
        up = self._count(SlotState.UP)
        if up < self._wanted:
            reason = self.error or f"{undecided} start requests did not come in time"
            self.error = f"{up} of {self._wanted} connections started: {reason}"
        self._apply(Input.GATHERED if up else Input.UNSTARTED)
        self._look_for_the_end()

    def _look_for_the_end(self) -> None:
        if self._queue.complete:
            self._apply(Input.ACKNOWLEDGED)

    def _apply(self, what: Input) -> None:
        self.state = TRANSITIONS.get((self.state, what), self.state)
