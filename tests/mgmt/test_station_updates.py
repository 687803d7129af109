"""Figure 9 by itself, policies, what-if views, cache shortage: a station between two arrays with real pools."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credits.errors import Code, InvalidRequest, Refused
from credits.targets import Target, new_connection, port_pair, port_pair_number
from mgmt.http import ProblemError
from mgmt.messages import (
    BufferControlAutomationRequest,
    BufferReserveRequest,
    CacheFree,
    ChannelChangeNotify,
    Message,
    ReservedBufferEnlargeRequest,
    ReservedBufferUpdateRequest,
)
from mgmt.station import alarms, cache, channels, policies, reservations, trail, updates, whatif
from mgmt.station.both_ends import reserve_both_ends
from mgmt.station.records import AlarmKind, Cause, Policy, Sizing
from mgmt.station.resize import Action, Memory, Wish, plan
from mgmt.station.store import open_store
from mgmt.station.updates import Updater, run_pair
from mgmt.station.watch import STARVED_PERCENT, check_arrays, check_channels, renew_leases
from tests.mgmt.pool_arrays import LOCAL, REMOTE, SECOND, SECOND_REMOTE, UNIT, Yard, yard

PAIR, BACK = port_pair(LOCAL, REMOTE), port_pair(REMOTE, LOCAL)
OTHER = port_pair(SECOND, SECOND_REMOTE)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Yard]:
    with yard(tmp_path, lambda: open_store(tmp_path / "state")) as made:
        yield made


def notify(place: Yard, rtt_ms: int, sequence: int, pair: Target = PAIR) -> None:
    """M9: 10 Mbit/s, so that each connection calls for 1.25 units a millisecond of round trip."""
    channels.take_notice(
        place.station,
        ChannelChangeNotify(
            local_port=str(pair.local_port),
            remote_port=str(pair.remote_port),
            bandwidth_bps=10_000_000,
            rtt_ns=rtt_ms * 1_000_000,
            measured_at=place.clock.now.isoformat(),
            sequence=sequence,
        ),
    )


def run_due(place: Yard) -> list[Action]:
    """Figure 9 for every pair that is due, as the updater would run it."""
    done: list[Action] = []
    while (pair := place.station.due.take()) is not None:
        done += [step.action for step in run_pair(place.station, *pair)]
    return done


def automatic(place: Yard, target: Target = PAIR, rtt_ms: int = 80) -> int:
    """Reserve the recommended size; 100 units at 80 ms."""
    channels.register(place.station, target)
    place.probe.rtt_ns = rtt_ms * 1_000_000
    units = reservations.reserve(place.station, target).answer.reserved_units
    run_due(place)
    return units


# --- M9 -----------------------------------------------------------------------------------------------------


def test_a_longer_channel_makes_an_automatic_reservation_grow_at_once(place: Yard) -> None:
    assert automatic(place) == 100
    notify(place, 160, 1)
    assert run_due(place) == [Action.GROW]
    assert place.master.reserved() == {str(PAIR): 200}
    record = trail.newest(place.station, 1)[0]
    assert (record.cause, record.by, record.verb) == (Cause.CHANNEL, "station", "update")


def test_a_thread_runs_figure_9_without_being_asked(place: Yard) -> None:
    automatic(place)
    grown = place.station.feed
    from threading import Event as Flag

    flag = Flag()
    stop = grown.listen(lambda event: flag.set() if event.kind == "updated" else None)
    with Updater(place.station):
        notify(place, 160, 1)
        assert flag.wait(60)
    stop()
    assert place.master.reserved() == {str(PAIR): 200}


def test_a_size_set_by_hand_stays_whatever_the_channel_does(place: Yard) -> None:
    automatic(place)
    reservations.update(place.station, PAIR, size_bytes=50 * UNIT)
    notify(place, 160, 1)
    assert run_due(place) == [Action.FIXED]
    assert place.master.reserved() == {str(PAIR): 50}
    (alarm,) = alarms.listed(place.station)
    assert alarm.kind is AlarmKind.SHORTAGE and "short by 150" in alarm.text


def test_small_changes_and_old_news_change_nothing(place: Yard) -> None:
    automatic(place)
    notify(place, 87, 2)
    assert run_due(place) == [Action.KEEP]
    notify(place, 800, 1)
    assert run_due(place) == []
    assert place.master.messages(ReservedBufferUpdateRequest) == []


def test_a_shrink_waits_for_three_samples_and_for_the_interval(place: Yard) -> None:
    automatic(place)
    sizes = []
    for sequence in range(1, 4):
        notify(place, 40, sequence)
        run_due(place)
        sizes.append(place.master.reserved()[str(PAIR)])
    assert sizes == [100, 100, 50]
    for sequence in range(4, 7):  # at the same moment: the interval holds it back
        notify(place, 20, sequence)
        run_due(place)
    assert place.master.reserved() == {str(PAIR): 50}
    place.clock.advance(6)
    updates.look_again(place.station)
    assert place.master.reserved() == {str(PAIR): 25}


def test_a_channel_that_has_settled_shrinks_after_a_while_without_more_samples(place: Yard) -> None:
    automatic(place)
    notify(place, 40, 1)
    run_due(place)
    place.clock.advance(59)
    updates.look_again(place.station)
    assert place.master.reserved() == {str(PAIR): 100}
    place.clock.advance(2)
    updates.look_again(place.station)
    assert place.master.reserved() == {str(PAIR): 50}


def test_a_floor_and_a_ceiling_bound_an_automatic_size(place: Yard) -> None:
    automatic(place)
    policies.put(
        place.station,
        Policy(target=PAIR, min_bytes=90 * UNIT, max_bytes=150 * UNIT, shrink_samples=1),
        by="ann",
    )
    notify(place, 800, 1)
    run_due(place)
    assert place.master.reserved() == {str(PAIR): 150}
    place.clock.advance(6)
    notify(place, 8, 2)
    run_due(place)
    assert place.master.reserved() == {str(PAIR): 90}


def test_what_has_no_room_keeps_what_it_has_raises_an_alarm_and_grows_when_there_is_room(place: Yard) -> None:
    automatic(place)
    reservations.reserve(place.station, OTHER, size_bytes=2850 * UNIT)
    notify(place, 160, 1)
    assert run_due(place) == [Action.SHORT]
    assert place.master.reserved()[str(PAIR)] == 100
    (alarm,) = alarms.listed(place.station)
    assert (alarm.kind, alarm.target, alarm.array) == (AlarmKind.SHORTAGE, PAIR, "M")
    assert "short by 50" in alarm.text
    updates.look_again(place.station)
    assert len(alarms.listed(place.station)) == 1 and place.master.messages(ReservedBufferUpdateRequest) == []
    reservations.release(place.station, OTHER)
    updates.look_again(place.station)
    assert place.master.reserved() == {str(PAIR): 200}
    assert alarms.listed(place.station) == []


def test_a_policy_may_allow_to_grow_as_far_as_there_is_room(place: Yard) -> None:
    automatic(place)
    policies.put(place.station, Policy(target=PAIR, allow_partial=True), by="ann")
    reservations.reserve(place.station, OTHER, size_bytes=2850 * UNIT)
    notify(place, 160, 1)
    assert run_due(place) == [Action.PARTIAL]
    assert place.master.reserved()[str(PAIR)] == 150
    assert "short by 50" in alarms.listed(place.station)[0].text


def test_a_refusal_between_the_look_and_the_update_is_a_shortage(place: Yard) -> None:
    automatic(place)

    def be_faster(message: Message) -> None:
        if isinstance(message, ReservedBufferUpdateRequest):
            raise Refused(Code.NO_MEMORY, "somebody was faster")

    place.master.before = be_faster
    notify(place, 160, 1)
    assert run_due(place) == [Action.SHORT]
    assert alarms.listed(place.station)[0].kind is AlarmKind.SHORTAGE
    assert place.master.reserved() == {str(PAIR): 100}


def test_every_row_and_connection_of_the_pair_follows_and_so_does_the_way_back(place: Yard) -> None:
    place.probe.rtt_ns = 80_000_000
    channels.register(place.station, PAIR)
    reserve_both_ends(place.station, PAIR)
    numbered = port_pair_number(LOCAL, REMOTE, 25)
    channels.register(place.station, numbered, sessions=2)
    reservations.reserve(place.station, numbered)
    for _ in range(2):
        reservations.reserve(place.station, new_connection(LOCAL, REMOTE))
    run_due(place)
    before = {**place.master.reserved(), **place.remote.reserved()}
    assert sorted(before.values()) == [100, 100, 100, 100, 200]
    notify(place, 160, 1)
    run_due(place)
    after = {**place.master.reserved(), **place.remote.reserved()}
    assert after == {name: 2 * units for name, units in before.items()}


def test_stale_values_resize_nothing(place: Yard) -> None:
    automatic(place)
    notify(place, 160, 1)
    place.clock.advance(25 * 3600)
    assert run_due(place) == []
    check_channels(place.station)
    (alarm,) = alarms.listed(place.station)
    assert alarm.kind is AlarmKind.STALE_CHANNEL and "too old" in alarm.text
    place.probe.measured_at = place.clock.now.isoformat()
    channels.measure(place.station, LOCAL, REMOTE)
    check_channels(place.station)
    assert alarms.listed(place.station) == []


def test_what_became_due_before_the_station_ended_is_done_by_the_next(place: Yard) -> None:
    from mgmt.station.watch import Keeper

    automatic(place)
    notify(place, 160, 1)
    station = place.restart()
    from threading import Event as Flag

    flag = Flag()
    station.feed.listen(lambda event: flag.set() if event.kind == "updated" else None)
    with Keeper(station):
        assert flag.wait(60)
    assert place.master.reserved() == {str(PAIR): 200}


# --- leases and alarms of arrays ----------------------------------------------------------------------------


def test_a_lease_is_renewed_when_a_third_has_passed(place: Yard) -> None:
    reservations.reserve(place.station, PAIR, size_bytes=40 * UNIT, lease_ns=90 * 10**9)
    assert renew_leases(place.station) == 1
    place.clock.advance(29)
    assert renew_leases(place.station) == 0
    place.clock.advance(2)
    assert renew_leases(place.station) == 1
    assert [message.lease_ns for message in place.master.messages(BufferReserveRequest)] == [90 * 10**9] * 3
    assert place.master.reserved() == {str(PAIR): 40}


def test_an_array_that_is_down_and_a_pool_that_is_nearly_full_are_alarms(place: Yard) -> None:
    reservations.reserve(place.station, PAIR, size_bytes=2800 * UNIT)
    place.down("R")
    check_arrays(place.station)
    assert {alarm.kind for alarm in alarms.listed(place.station)} == {
        AlarmKind.ARRAY_DOWN,
        AlarmKind.LOW_POOL,
    }
    place.up("R")
    reservations.release(place.station, PAIR)
    check_arrays(place.station)
    assert alarms.listed(place.station) == []


def test_a_port_that_lacks_credits_for_a_good_part_of_the_time_is_an_alarm_until_it_does_not(
    place: Yard,
) -> None:
    def kinds(share: float | None) -> list[AlarmKind]:
        place.master.credit_zero = {} if share is None else {"if0": share}
        check_arrays(place.station)
        return [alarm.kind for alarm in alarms.listed(place.station)]

    assert kinds(None) == kinds(0.0) == kinds(STARVED_PERCENT / 100) == []
    assert kinds(STARVED_PERCENT / 100 + 0.01) == kinds(1.0) == [AlarmKind.CREDIT_STARVATION]
    (alarm,) = alarms.listed(place.station)
    assert (alarm.subject, alarm.count) == ("interface if0 of array M", 1), "raised once"
    assert kinds(0.01) == []


# --- policies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sizing": Sizing.MANUAL}, "manual sizing needs a size"),
        ({"size_bytes": 5}, "automatic sizing has none"),
        ({"min_bytes": 9, "max_bytes": 5}, "is below the smallest"),
        ({"lease_s": 1}, "lease_s is from 30"),
        ({"priority": -1}, "priority is from 0"),
        ({"shrink_samples": 0}, "shrink_samples is from 1"),
        ({"via": (LOCAL, LOCAL)}, "differ"),
        ({"target": new_connection(LOCAL, REMOTE)}, "a connection that has a buffer ID"),
        ({"target": port_pair("nonsense", REMOTE)}, "is no port"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_and_changes_nothing(
    place: Yard, values: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        policies.put(place.station, replace(Policy(target=PAIR), **values), by="ann")
    assert policies.listed(place.station) == [] and trail.listed(place.station) == []


def test_a_policy_that_is_not_there_cannot_be_removed(place: Yard) -> None:
    with pytest.raises(ProblemError, match="has no policy"):
        policies.remove(place.station, PAIR, by="ann")


def test_changing_a_policy_keeps_what_is_not_named() -> None:
    policy = policies.changed(Policy(target=PAIR, min_bytes=7), size_bytes=5, priority=None)
    assert (policy.sizing, policy.size_bytes, policy.min_bytes) == (Sizing.MANUAL, 5, 7)
    again = policies.changed(policy, sizing=Sizing.AUTOMATIC)
    assert (again.sizing, again.size_bytes) == (Sizing.AUTOMATIC, None)


# --- the plan, as a pure function ---------------------------------------------------------------------------

WISHES = st.lists(
    st.builds(
        lambda number, has, wants, sizing, partial, priority: Wish(
            target=port_pair_number(LOCAL, REMOTE, number + 1),
            array="M",
            pool="M/if0",
            policy=Policy(
                target=PAIR,
                sizing=sizing,
                size_bytes=1 if sizing is Sizing.MANUAL else None,
                allow_partial=partial,
                priority=priority,
                min_change_percent=0,
            ),
            unit_bytes=UNIT,
            reserved_units=has,
            recommended_bytes=wants * UNIT,
        ),
        st.integers(0, 20),
        st.integers(1, 100),
        st.integers(1, 200),
        st.sampled_from(Sizing),
        st.booleans(),
        st.integers(0, 2),
    ),
    max_size=12,
    unique_by=lambda wish: wish.target,
)


@given(WISHES, st.integers(0, 300))
def test_a_plan_never_takes_more_than_there_is_and_never_touches_what_is_set_by_hand(
    wishes: list[Wish], free: int
) -> None:
    steps = plan(wishes, {"M/if0": free})
    assert sorted(step.wish.target.key for step in steps) == sorted(wish.target.key for wish in wishes)
    room = free
    for step in steps:
        room -= step.units - step.wish.reserved_units
        assert room == step.free_units >= 0
        if step.wish.policy.sizing is Sizing.MANUAL:
            assert step.units == step.wish.reserved_units
        elif step.short_units:
            assert step.units + step.short_units + (step.action is Action.SHORT) * step.free_units == (
                step.wish.wanted_units
            )
        else:
            assert step.units == step.wish.wanted_units
    shrinks = [step.action is Action.SHRINK for step in steps if step.action in (Action.SHRINK, Action.GROW)]
    assert shrinks == sorted(shrinks, reverse=True), "shrinking makes room first"


def test_memory_forgets_the_oldest_beyond_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    from mgmt.station import resize

    monkeypatch.setattr(resize, "_REMEMBERED_LIMIT", 3)
    memory = Memory()
    for number in range(10):
        memory.acted(port_pair_number(LOCAL, REMOTE, number), 0.0)
    assert len(memory.changed_s) == 3


# --- what if ------------------------------------------------------------------------------------------------


def test_what_is_foretold_is_what_is_done(place: Yard) -> None:
    automatic(place)
    automatic(place, OTHER)
    supposed = whatif.Supposed(local_port=LOCAL, remote_port=REMOTE, rtt_ns=160_000_000)
    foretold = whatif.channel_change(place.station, [supposed])
    before = place.master.reserved()
    assert before == {str(PAIR): 100, str(OTHER): 100}, "nothing is changed by asking"
    notify(place, 160, 1)
    place.station.due.take()
    done = run_pair(place.station, LOCAL, REMOTE)
    assert [(s.wish, s.action, s.units, s.free_units) for s in done] == [
        (s.wish, s.action, s.units, s.free_units) for s in foretold.steps
    ]
    assert place.master.reserved()[str(PAIR)] == foretold.steps[0].units == 200


def test_a_failing_channel_shows_who_runs_short_and_what_would_cure_it(place: Yard) -> None:
    automatic(place)
    automatic(place, OTHER)
    reservations.reserve(place.station, port_pair_number(SECOND, SECOND_REMOTE, 7), size_bytes=2750 * UNIT)
    found = whatif.channel_failure(place.station, LOCAL, REMOTE, rtt_ns=120_000_000)
    assert "the session of 192.0.2.1,192.0.2.2 would go over 192.0.2.11,192.0.2.12" in found.text
    short = found.shortages
    assert [(step.wish.target, step.action) for step in short] == [(OTHER, Action.SHORT)]
    assert (short[0].wish.wanted_units, short[0].short_units) == (300, 150)
    cures = {cure.text: cure.units for cure in found.cures if cure.array == "M"}
    assert cures[f"release {PAIR}, whose channel has failed: 100 units"] == 100
    assert cures["add 150 units to the pool of array M"] == 150
    row = whatif.row(found)
    assert row["shortages"] == 1 and row["steps"][0]["order"] == 1
    assert place.master.reserved()[str(OTHER)] == 100


def test_a_failing_channel_without_another_is_said(place: Yard) -> None:
    automatic(place)
    found = whatif.channel_failure(place.station, LOCAL, REMOTE)
    assert found.steps == () and "no other channel between the two arrays" in found.text
    with pytest.raises(ProblemError, match="register it first"):
        whatif.channel_failure(place.station, SECOND, SECOND_REMOTE)
    with pytest.raises(ProblemError, match="register it first"):
        whatif.channel_failure(place.station, LOCAL, REMOTE, onto=(SECOND, SECOND_REMOTE))
    with pytest.raises(InvalidRequest, match="go over another one"):
        whatif.channel_failure(place.station, LOCAL, REMOTE, onto=(LOCAL, REMOTE))
    with pytest.raises(InvalidRequest, match="at most 1000 channels"):
        whatif.channel_change(place.station, [whatif.Supposed(local_port="a", remote_port="b")] * 1001)


# --- cache shortage -----------------------------------------------------------------------------------------


def use(place: Yard, target: Target = PAIR) -> Any:
    """A copy runs over the reservation."""
    return place.master.pool.allocate([target], 10, holder="copy", at_most=True)


def test_a_low_cache_enlarges_what_is_in_use_once_until_it_is_well_again(place: Yard) -> None:
    automatic(place)
    use(place)
    place.probe.rtt_ns = 160_000_000
    place.clock.advance(3600)  # the values are not fresh any more: step 803 measures again
    free = {"free": 8}

    def watch(free_bytes: int) -> int:
        place.master.cache = CacheFree(size_bytes=64, free_bytes=free_bytes, threshold_bytes=8)
        cache.watch(place.station)
        return len(place.master.messages(ReservedBufferEnlargeRequest))

    assert [watch(free_bytes) for free_bytes in (9, 8)] == [0, 0], "claim 21: below, strictly"
    assert watch(7) == 1 and free
    assert place.master.reserved() == {str(PAIR): 200}
    (alarm,) = alarms.listed(place.station)
    assert (alarm.kind, alarm.array) == (AlarmKind.CACHE_LOW, "M")
    assert [watch(free_bytes) for free_bytes in (6, 8, 7)] == [1, 1, 1], "once, until it is above 105 %"
    watch(9)
    assert alarms.listed(place.station) == []
    record = trail.newest(place.station, 1)[0]
    assert (record.verb, record.cause) == ("enlarge", Cause.CACHE)


def test_an_array_that_asks_gets_its_answer_and_then_the_units(place: Yard) -> None:
    from threading import Event as Flag

    automatic(place)
    use(place)
    place.probe.rtt_ns = 160_000_000
    place.clock.advance(3600)
    flag = Flag()
    place.station.feed.listen(lambda event: flag.set() if event.kind == "updated" else None)
    request = BufferControlAutomationRequest(
        array="M", target=PAIR, reserved_bytes=100 * UNIT, free_bytes=8, threshold_bytes=8
    )
    answer = cache.automate(place.station, request)
    assert answer.enlarges and answer.recommended_bytes == 200 * UNIT
    assert flag.wait(60)
    assert place.master.reserved() == {str(PAIR): 200}
    again = cache.automate(place.station, request)
    assert not again.enlarges, "no request when what is recommended is reserved (GAP-21)"


def test_a_size_set_by_hand_is_not_enlarged_for_a_cache(place: Yard) -> None:
    automatic(place)
    reservations.update(place.station, PAIR, size_bytes=50 * UNIT)
    request = BufferControlAutomationRequest(
        array="M", target=PAIR, reserved_bytes=50 * UNIT, free_bytes=8, threshold_bytes=8
    )
    assert cache.automate(place.station, request).enlarges is False
    with pytest.raises(InvalidRequest, match="no array 'X'"):
        cache.automate(place.station, replace(request, array="X"))
