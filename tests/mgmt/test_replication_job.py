"""The states of one remote copy: a conversation of facts and what follows from them."""

from __future__ import annotations

import itertools

import pytest

from mgmt.array.replication.job import TRANSITIONS, CopyJob, Input, Slot, StartRefused, State
from mgmt.array.replication.plan import Extent

SLOTS = [Slot(session, connection) for session in range(2) for connection in range(3)]


def job(total_bytes: int = 40, sessions: int = 2, connections: int = 3) -> CopyJob:
    return CopyJob(
        total_bytes=total_bytes,
        extent_bytes=4,
        sessions=sessions,
        connections_per_session=connections,
        gather_deadline_ns=1000,
    )


def copying(slots: int = 2, total_bytes: int = 40) -> CopyJob:
    copy = job(total_bytes, sessions=1, connections=slots)
    for slot in SLOTS[:slots]:
        copy.request(slot)
    for slot in SLOTS[:slots]:
        copy.connection_up(slot)
    assert copy.statistics().state is State.COPYING
    return copy


def move_everything(copy: CopyJob, slot: Slot) -> int:
    moved = 0
    while (extent := copy.take(slot)) is not None:
        copy.acknowledge(slot, extent)
        moved += extent.length_bytes
    return moved


def test_data_move_only_when_every_start_request_is_decided() -> None:
    copy = job()
    for slot in SLOTS:
        copy.request(slot)
    for slot in SLOTS[:-1]:
        copy.connection_up(slot)
        assert copy.statistics().state is State.STARTING
        assert copy.take(slot) is None
    copy.connection_up(SLOTS[-1])
    assert copy.statistics().state is State.COPYING
    assert copy.take(SLOTS[0]) == Extent(0, 4)
    assert copy.statistics().error == ""


def test_a_partial_start_goes_on_and_is_reported() -> None:
    copy = job()
    for slot in SLOTS:
        copy.request(slot)
    for slot in SLOTS[:4]:
        copy.connection_up(slot)
    for slot in SLOTS[4:]:
        copy.connection_refused(slot, "no memory")
    assert copy.statistics().state is State.COPYING
    assert (copy.statistics().wanted, copy.statistics().started) == (6, 4)
    assert copy.statistics().error == "4 of 6 connections started: no memory"


def test_a_copy_of_which_every_connection_is_refused_fails_with_the_reason() -> None:
    copy = job()
    for slot in SLOTS:
        copy.request(slot)
        copy.connection_refused(slot, "no memory")
    assert copy.statistics().state is State.FAILING
    copy.closed()
    assert copy.statistics().state is State.FAILED
    assert copy.statistics().error == "0 of 6 connections started: no memory"


def test_the_wait_for_start_requests_is_bounded() -> None:
    copy = job()
    copy.request(SLOTS[0])
    copy.connection_up(SLOTS[0])
    assert copy.next_deadline() == 1000
    copy.handle_timer(999)
    assert copy.statistics().state is State.STARTING
    copy.handle_timer(1000)
    assert copy.statistics().state is State.COPYING
    assert copy.statistics().error == "1 of 6 connections started: 5 start requests did not come in time"
    assert copy.next_deadline() is None
    with pytest.raises(StartRefused, match="takes no more"):
        copy.request(SLOTS[1])


def test_a_connection_that_was_requested_in_time_may_come_up_late() -> None:
    copy = job()
    copy.request(SLOTS[0])
    copy.request(SLOTS[1])
    copy.connection_up(SLOTS[0])
    copy.handle_timer(1000)
    copy.connection_up(SLOTS[1])
    assert copy.take(SLOTS[1]) == Extent(0, 4)


@pytest.mark.parametrize("slot", [Slot(2, 0), Slot(0, 3), Slot(-1, 0), Slot(0, -1)])
def test_a_start_request_outside_the_copy_is_refused(slot: Slot) -> None:
    with pytest.raises(StartRefused, match="outside"):
        job().request(slot)


def test_a_second_start_request_for_a_connection_is_refused() -> None:
    copy = job()
    copy.request(SLOTS[0])
    with pytest.raises(StartRefused, match="before"):
        copy.request(SLOTS[0])


def test_a_copy_is_done_when_all_is_acknowledged_flushed_and_closed() -> None:
    copy = copying()
    assert move_everything(copy, SLOTS[0]) == 40
    assert copy.statistics().state is State.FLUSHING
    copy.flushed()
    assert copy.statistics().state is State.FINISHING
    assert not copy.statistics().state.final
    copy.closed()
    assert copy.statistics().state is State.DONE


def test_a_lost_connection_gives_its_extents_to_the_others() -> None:
    copy = copying()
    lost = [copy.take(SLOTS[0]) for _ in range(3)]
    copy.connection_lost(SLOTS[0], "reset by peer")
    assert copy.statistics().state is State.COPYING
    assert copy.take(SLOTS[0]) is None
    assert [copy.take(SLOTS[1]) for _ in range(3)] == lost
    assert copy.statistics().error == "session 0 connection 0 was lost: reset by peer"
    assert copy.statistics().connections == 1


def test_a_late_answer_on_a_lost_connection_counts_for_nothing() -> None:
    copy = copying()
    extent = copy.take(SLOTS[0])
    assert extent is not None
    copy.connection_lost(SLOTS[0], "reset by peer")
    copy.acknowledge(SLOTS[0], extent)
    assert copy.statistics().acknowledged_bytes == 0
    assert move_everything(copy, SLOTS[1]) == 40


def test_a_copy_without_connections_fails() -> None:
    copy = copying(slots=1)
    copy.connection_lost(SLOTS[0], "reset by peer")
    assert copy.statistics().state is State.FAILING


def test_a_stopped_copy_hands_out_nothing_more() -> None:
    copy = copying()
    copy.stop()
    assert copy.statistics().state is State.STOPPING
    assert copy.take(SLOTS[0]) is None
    copy.closed()
    assert copy.statistics().state is State.STOPPED
    assert copy.statistics().error == ""


def test_a_failure_keeps_its_reason_when_the_connections_are_closed_afterwards() -> None:
    copy = copying()
    copy.fail("the remote disk is full")
    copy.connection_lost(SLOTS[0], "closed")
    copy.closed()
    assert copy.statistics().state is State.FAILED
    assert copy.statistics().error == "the remote disk is full"


def test_an_empty_volume_needs_no_data() -> None:
    copy = job(total_bytes=0, sessions=1, connections=1)
    copy.request(SLOTS[0])
    copy.connection_up(SLOTS[0])
    assert copy.statistics().state is State.FLUSHING


def test_a_copy_needs_a_connection() -> None:
    with pytest.raises(StartRefused):
        job(sessions=0)


def test_every_state_leads_to_a_final_one_and_final_ones_lead_nowhere() -> None:
    for state, what in itertools.product(State, Input):
        following = TRANSITIONS.get((state, what))
        assert following is None or (not state.final and following is not state)
    reaches_the_end = {state for state in State if state.final}
    for _ in State:
        reaches_the_end |= {state for (state, _), after in TRANSITIONS.items() if after in reaches_the_end}
    assert reaches_the_end == set(State)
