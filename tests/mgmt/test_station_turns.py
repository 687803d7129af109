"""Changes of one target that come at once: they wait for each other, and the trail has the order of their effects."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from credits.errors import Code, Refused
from credits.targets import connection, new_connection, port_pair
from mgmt.http import Peer, ProblemError
from mgmt.messages import Message, ReservationReleaseRequest, ReservedBufferUpdateRequest
from mgmt.station import channels, lifecycle, policies, reservations, trail, updates, watch
from mgmt.station.both_ends import reserve_both_ends
from mgmt.station.records import Policy, Stage
from mgmt.station.resize import Action, plan
from mgmt.station.turns import Turns, on_target
from tests.mgmt.databases import Opener
from tests.mgmt.pool_arrays import LOCAL, REMOTE, UNIT, Yard, yard

PAIR, BACK = port_pair(LOCAL, REMOTE), port_pair(REMOTE, LOCAL)
#: Time for a change that does not wait for its turn to overtake another; one that waits needs none of it.
OVERTAKING_S = 0.3


@pytest.fixture
def place(tmp_path: Path, open_it: Opener) -> Iterator[Yard]:
    with yard(tmp_path, open_it) as made:
        yield made


@contextmanager
def late_answer(
    monkeypatch: pytest.MonkeyPatch, kind: type
) -> Iterator[tuple[threading.Event, threading.Event]]:
    """The first message of that kind has taken effect, and its answer comes once the second event is set."""
    send, taken, answer = Peer.send, threading.Event(), threading.Event()

    def sent(peer: Peer, message: Message, *arguments: Any, **keywords: Any) -> Message:
        given = send(peer, message, *arguments, **keywords)
        if isinstance(message, kind) and not taken.is_set():
            taken.set()
            assert answer.wait(30)
        return given

    with monkeypatch.context() as patch:
        patch.setattr(Peer, "send", sent)
        try:
            yield taken, answer
        finally:
            answer.set()


def overlap(
    monkeypatch: pytest.MonkeyPatch, kind: type, first: Callable[[], Any], second: Callable[[], Any]
) -> None:
    """``second`` is asked for while the answer to ``first``, which has taken effect, is on its way."""
    with late_answer(monkeypatch, kind) as (taken, answer), ThreadPoolExecutor(2) as pool:
        ahead: Future[Any] = pool.submit(first)
        assert taken.wait(30)
        behind = pool.submit(second)
        wait([behind], OVERTAKING_S)
        answer.set()
        ahead.result(30)
        behind.result(30)


def sizes_done(place: Yard) -> list[tuple[str, int]]:
    """What the trail says was done, and what it left on the master, in its order."""
    return [
        (record.verb, (record.after or {}).get("reserved_units", 0))
        for record in trail.listed(place.station)
        if record.stage is Stage.DONE
    ]


def test_overlapping_updates_stand_in_the_trail_in_the_order_they_took_effect(
    place: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    reservations.reserve(place.station, PAIR, size_bytes=40 * UNIT)
    overlap(
        monkeypatch,
        ReservedBufferUpdateRequest,
        lambda: reservations.update(place.station, PAIR, size_bytes=50 * UNIT),
        lambda: reservations.update(place.station, PAIR, size_bytes=60 * UNIT),
    )
    assert place.master.reserved() == {str(PAIR): 60}
    assert sizes_done(place) == [("reserve", 40), ("update", 50), ("update", 60)]
    befores = [record.before for record in trail.listed(place.station) if record.stage is Stage.DONE]
    assert [(before or {}).get("reserved_units", 0) for before in befores] == [0, 40, 50]
    assert [held.reserved_units for held in lifecycle.listed(place.station)] == [60]


def test_a_release_and_a_reservation_at_both_ends_do_not_overlap(
    place: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    reservations.reserve(place.station, BACK, size_bytes=7 * UNIT)
    overlap(
        monkeypatch,
        ReservationReleaseRequest,
        lambda: reservations.release(place.station, BACK),
        lambda: reserve_both_ends(place.station, PAIR, size_bytes=50 * UNIT),
    )
    assert place.master.reserved() == {str(PAIR): 50} and place.remote.reserved() == {str(BACK): 50}
    verbs = [record.verb for record in trail.listed(place.station) if record.stage is Stage.DONE]
    assert verbs == ["reserve", "release", "reserve-both-ends"]
    assert [held.reserved_units for held in lifecycle.listed(place.station)] == [50, 50]


def test_what_two_take_out_of_table_108_at_once_is_taken_out_once(
    place: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels.register(place.station, PAIR, sessions=2)
    gather = place.station.arrays.gather

    def others_meanwhile(path: str) -> Any:
        found = gather(path)
        monkeypatch.undo()
        channels.register(place.station, PAIR, sessions=5)
        channels.unregister(place.station, PAIR)
        return found

    monkeypatch.setattr(place.station.arrays, "gather", others_meanwhile)
    with pytest.raises(ProblemError, match="register it first"):
        channels.unregister(place.station, PAIR)
    taken_out = [record.before for record in trail.listed(place.station) if record.verb == "unregister"]
    assert taken_out == [{"sessions": 5, "connections_per_session": 1}]


# --- what was decided for a reservation that has gone since -------------------------------------------------


def test_figure_9_does_not_reserve_anew_what_is_released_while_it_decides(
    place: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels.register(place.station, PAIR)
    channels.measure(place.station, LOCAL, REMOTE)
    reservations.reserve(place.station, PAIR, size_bytes=40 * UNIT)
    policies.put(place.station, Policy(target=PAIR), by="test")

    def released_meanwhile(*arguments: Any) -> Any:
        reservations.release(place.station, PAIR)
        return plan(*arguments)

    monkeypatch.setattr(updates, "plan", released_meanwhile)
    (step,) = updates.run_pair(place.station, LOCAL, REMOTE)
    assert step.action is Action.GROW, "it was decided, and not done"
    assert place.master.reserved() == {} and lifecycle.listed(place.station) == []


def test_a_lease_is_not_renewed_for_what_is_released_meanwhile(
    place: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    reservations.reserve(place.station, PAIR, size_bytes=40 * UNIT, lease_ns=60 * 10**9)
    assert watch.renew_leases(place.station) == 1
    place.clock.advance(30)
    listed = lifecycle.listed

    def released_meanwhile(*arguments: Any) -> Any:
        found = listed(*arguments)
        reservations.release(place.station, PAIR)
        return found

    monkeypatch.setattr(lifecycle, "listed", released_meanwhile)
    assert watch.renew_leases(place.station) == 0
    assert place.master.reserved() == {}


# --- the lines ----------------------------------------------------------------------------------------------


def comes_at_once(turns: Turns, claims: dict[str, bool]) -> bool:
    try:
        with turns.take("probe", claims, wait_s=0):
            return True
    except Refused:
        return False


def test_turns_that_are_shared_overlap_and_do_not_overtake_who_waits_alone() -> None:
    turns, came = Turns(), threading.Event()

    def alone() -> None:
        with turns.take("alone", {"x": False}, wait_s=30):
            came.set()

    with ThreadPoolExecutor(1) as pool:
        with turns.take("first", {"x": True}):
            assert comes_at_once(turns, {"x": True}) and not comes_at_once(turns, {"x": False})
            waiting = pool.submit(alone)
            while comes_at_once(turns, {"x": True}):
                assert not waiting.done()
            assert not came.is_set()
        waiting.result(30)
    assert came.is_set() and comes_at_once(turns, {"x": False})


def test_turns_on_several_things_never_wait_for_each_other_in_a_ring() -> None:
    turns, rounds = Turns(), 200

    def work(names: tuple[str, str]) -> int:
        done = 0
        for _ in range(rounds):
            with turns.take("both", dict.fromkeys(names, False), wait_s=30):
                done += 1
        return done

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, [("a", "b"), ("b", "a")] * 2)) == [rounds] * 4


def test_a_turn_that_does_not_come_is_refused_and_leaves_the_line() -> None:
    turns = Turns()
    with turns.take("x", {"x": False}):
        with (
            pytest.raises(Refused, match=r"the thing stays as it is: .* not ended yet; try again") as refusal,
            turns.take("the thing", {"x": False}, wait_s=0),
        ):
            raise AssertionError("it was not its turn")
        assert refusal.value.code is Code.BUSY
    assert comes_at_once(turns, {"x": False})


def test_a_line_has_a_bounded_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mgmt.station.turns.WAITING_LIMIT", 0)
    turns = Turns()
    with (
        turns.take("x", {"x": False}),
        pytest.raises(Refused, match="0 changes of it are waiting already"),
        turns.take("x", {"x": False}),
    ):
        raise AssertionError("there was no room in the line")


def test_all_connections_of_a_pair_wait_for_single_ones_which_do_not_wait_for_each_other() -> None:
    every = on_target("M", new_connection(LOCAL, REMOTE))
    one, other = (on_target("M", connection(number)) for number in (1, 2))
    made = on_target("M", new_connection(LOCAL, REMOTE), makes=True)
    (shared,) = made
    assert made == {shared: True} and every == {shared: False}
    assert one[shared] and other[shared] and set(one) & set(other) == {shared}
