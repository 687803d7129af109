"""The arithmetic of a connection whose unacknowledged bytes live in reserved memory."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from iscsi_target.flight_gate import FlightGate


class GateMachine(RuleBasedStateMachine):
    """Any order of writing, handing over, acknowledging and moving the limit."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = FlightGate(1000)
        self.highest_limit = 1000

    @precondition(lambda self: self.gate.room > 0)
    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        before = self.gate.written
        assert self.gate.place(data.draw(st.integers(1, self.gate.room))) == before

    @precondition(lambda self: self.gate.handed_over < self.gate.written)
    @rule(data=st.data())
    def hand_over(self, data: st.DataObject) -> None:
        self.gate.hand_over(data.draw(st.integers(1, self.gate.written - self.gate.handed_over)))

    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        held = self.gate.handed_over - self.gate.acknowledged
        outstanding = data.draw(st.integers(0, held))
        assert self.gate.kernel_holds(outstanding) == held - outstanding

    @rule(limit=st.integers(1, 1500))
    def move_the_limit(self, limit: int) -> None:
        in_flight = self.gate.in_flight
        self.gate.set_limit(limit)
        assert self.gate.in_flight == in_flight
        assert self.gate.room == max(0, min(limit, 1000) - in_flight)

    @invariant()
    def the_positions_are_ordered_and_the_memory_holds_what_is_in_flight(self) -> None:
        gate = self.gate
        assert 0 <= gate.acknowledged <= gate.handed_over <= gate.written
        assert gate.in_flight <= gate.capacity
        assert gate.in_flight <= gate.max_in_flight <= gate.capacity
        assert gate.statistics().in_flight_bytes == gate.in_flight


TestGate = GateMachine.TestCase


def test_a_write_beyond_the_room_is_refused() -> None:
    gate = FlightGate(10)
    gate.place(8)
    with pytest.raises(ValueError, match="room of 2"):
        gate.place(3)
    assert gate.written == 8


def test_the_kernel_cannot_take_what_was_not_written() -> None:
    gate = FlightGate(10)
    gate.place(5)
    with pytest.raises(ValueError, match="not written"):
        gate.hand_over(6)


def test_an_older_reading_of_the_kernel_takes_nothing_back() -> None:
    gate = FlightGate(10)
    gate.place(10)
    gate.hand_over(10)
    gate.kernel_holds(2)
    assert gate.kernel_holds(5) == 0
    assert gate.acknowledged == 8


@pytest.mark.parametrize(
    ("memory", "waiting", "expected"),
    [(48 << 10, 1 << 20, 3 << 10), (1 << 20, 1 << 20, 5792), (1 << 20, 48, 48), (10, 48, 1)],
    ids=["small memory", "much memory", "little to send", "hardly any memory"],
)
def test_a_writer_waits_for_a_small_part_of_the_memory(memory: int, waiting: int, expected: int) -> None:
    """What lies free while a writer waits is not in flight: a quarter of 48 KiB cost 8 % of a long channel."""
    assert FlightGate(memory).refill(waiting) == expected


def test_memory_is_replaced_only_when_nothing_is_in_flight() -> None:
    gate = FlightGate(10)
    gate.place(1)
    with pytest.raises(ValueError, match="in flight"):
        gate.replace_memory(20)
    gate.hand_over(1)
    gate.kernel_holds(0)
    gate.replace_memory(20)
    assert (gate.room, gate.limit) == (20, 20)


@pytest.mark.parametrize("size", [0, -1])
def test_a_gate_without_memory_or_limit_makes_no_sense(size: int) -> None:
    with pytest.raises(ValueError, match="memory"):
        FlightGate(size)
    with pytest.raises(ValueError, match="limit"):
        FlightGate(1).set_limit(size)
