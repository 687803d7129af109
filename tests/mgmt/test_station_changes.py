"""Changes and their trace: the audit trail, events, reservations as known, undo, reconciliation; in both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, update

from credits.errors import Code, InvalidRequest, Refused
from credits.targets import new_connection, port_pair
from mgmt.http import PeerRefused, PeerUnreachable, ProblemError
from mgmt.messages import (
    BufferReserveRequest,
    Message,
    ReservationReleaseRequest,
    ReservedBufferUpdateRequest,
)
from mgmt.station import channels, events, lifecycle, policies, reconcile, reservations, trail
from mgmt.station import undo as undoing
from mgmt.station.alarms import listed as alarms_listed
from mgmt.station.both_ends import reserve_both_ends
from mgmt.station.lifecycle import TRANSITIONS, Input
from mgmt.station.open_ends import settle
from mgmt.station.records import AlarmKind, Cause, HoldingState, Policy, Sizing, Stage
from mgmt.station.schema import TRAIL
from mgmt.station.undo import candidate, undo
from mgmt.station.watch import visit
from tests.mgmt.databases import Opener
from tests.mgmt.pool_arrays import LOCAL, REMOTE, UNIT, Yard, yard

PAIR, BACK = port_pair(LOCAL, REMOTE), port_pair(REMOTE, LOCAL)


@pytest.fixture
def place(tmp_path: Path, open_it: Opener) -> Iterator[Yard]:
    with yard(tmp_path, open_it) as made:
        yield made


def reserve(place: Yard, units: int, **more: Any) -> int:
    return reservations.reserve(place.station, PAIR, size_bytes=units * UNIT, **more).answer.reserved_units


def stages(place: Yard) -> list[tuple[str, str]]:
    return [(record.verb, record.stage.value) for record in trail.listed(place.station)]


class Crash(Exception):
    """The station ends here; nothing of it goes on."""


def crash(_: Message) -> None:
    raise Crash


# --- the audit trail ----------------------------------------------------------------------------------------


def test_a_change_is_written_down_before_it_is_asked_and_after(place: Yard) -> None:
    asked: list[tuple[str, str]] = []
    place.master.before = lambda message: asked.extend(stages(place))
    assert reserve(place, 40, by="ann") == 40
    assert asked == [("reserve", "asked")]
    place.master.before = lambda message: None
    reservations.update(place.station, PAIR, size_bytes=30 * UNIT, by="bob")
    first, done, _, second = trail.listed(place.station)
    assert (done.of, done.by, done.array, done.target, done.cause) == (
        first.number,
        "ann",
        "M",
        PAIR,
        Cause.USER,
    )
    assert done.inputs["requested_bytes"] == 40 * UNIT and done.before is None
    assert done.after is not None and done.after["reserved_units"] == 40
    assert second.before is not None and second.after is not None
    assert (second.before["reserved_units"], second.after["reserved_units"], second.by) == (40, 30, "bob")


def test_an_automatic_size_is_recorded_with_what_it_was_computed_from(place: Yard) -> None:
    channels.register(place.station, PAIR, sessions=2, connections_per_session=3)
    reservations.reserve(place.station, PAIR)
    inputs = trail.newest(place.station, 1)[0].inputs
    names = ("bandwidth_bps", "rtt_ns", "sessions", "connections_per_session", "recommended_bytes", "policy")
    assert [inputs[name] for name in names] == [10_000_000, 280_000_000, 2, 3, 2_100_000, "document"]


def test_a_refusal_is_recorded_and_changes_nothing(place: Yard) -> None:
    reserve(place, 900)
    with pytest.raises(PeerRefused):
        reserve(place, 3200)
    record = trail.newest(place.station, 1)[0]
    assert record.stage is Stage.REFUSED and "NO_MEMORY" in record.detail
    (held,) = lifecycle.listed(place.station)
    assert (held.reserved_units, held.state) == (900, HoldingState.RESERVED)
    assert reconcile.settle_trail(place.station) == 0


def test_a_sound_trail_verifies_and_goes_on_from_a_head_that_was_noted(place: Yard) -> None:
    reserve(place, 40)
    head = trail.verify(place.station).head
    reserve(place, 50)
    found = trail.verify(place.station, head=head)
    assert found.sound and (found.records, found.first, found.last) == (4, 1, 4)


@pytest.mark.parametrize(
    ("spoil", "broken_at", "words"),
    [
        (update(TRAIL).where(TRAIL.c.number == 2).values(by="nobody"), 2, "has been changed"),
        (update(TRAIL).where(TRAIL.c.number == 2).values(inputs="{"), 2, "cannot be read"),
        (delete(TRAIL).where(TRAIL.c.number == 3), 3, "is missing"),
        (update(TRAIL).where(TRAIL.c.number == 3).values(previous_hash="0" * 64), 3, "not chained"),
        (delete(TRAIL).where(TRAIL.c.number == 1), 1, "is missing"),
    ],
)
def test_a_record_that_was_tampered_with_shows(place: Yard, spoil: Any, broken_at: int, words: str) -> None:
    for units in (40, 50):
        reserve(place, units)
    place.station.store.database.write(lambda transaction: transaction.execute(spoil).rowcount)
    found = trail.verify(place.station)
    assert not found.sound and found.broken_at == broken_at and words in found.detail


def test_a_trail_that_was_cut_off_or_written_anew_does_not_go_on_from_the_head(place: Yard) -> None:
    for units in (40, 50):
        reserve(place, units)
    head = trail.verify(place.station).head
    place.station.store.database.write(lambda t: t.execute(delete(TRAIL).where(TRAIL.c.number == 4)).rowcount)
    assert trail.verify(place.station).sound, "without a head nobody can tell"
    assert "cut off" in trail.verify(place.station, head=head).detail
    place.restart()
    reserve(place, 60)
    assert "written anew" in trail.verify(place.station, head=head).detail


@pytest.mark.parametrize("head", ["", "1", "x:" + "0" * 64, "1:00", "١:" + "0" * 64])
def test_what_is_no_head_is_said(place: Yard, head: str) -> None:
    with pytest.raises(InvalidRequest, match="a head is NUMBER:HASH"):
        trail.verify(place.station, head=head)


def test_a_trail_beyond_its_limit_forgets_the_oldest_and_still_verifies(
    place: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    for units in (40, 50, 60):
        reserve(place, units)
    monkeypatch.setattr(trail, "RECORD_LIMIT", 2)
    for _ in range(2):
        place.station.store.database.write(trail.thin)
    found = trail.verify(place.station)
    assert found.sound and (found.records, found.first) == (2, 5)
    reserve(place, 70)
    assert trail.verify(place.station).sound


# --- events -------------------------------------------------------------------------------------------------


def test_an_event_is_heard_after_it_is_durable(place: Yard) -> None:
    heard: list[tuple[int, bool]] = []

    def listener(event: events.Event) -> None:
        heard.append((event.number, event in events.newest(place.station)))

    stop = place.station.feed.listen(listener)
    reserve(place, 40)
    stop()
    reserve(place, 50)
    kinds = [event.kind for event in events.listed(place.station)]
    assert kinds == ["reserved", "reserved"] and heard == [(1, True)]


def test_events_beyond_the_limit_are_forgotten_and_numbers_never_come_again(
    place: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "EVENT_LIMIT", 2)
    for units in (40, 50, 60):
        reserve(place, units)
    place.station.store.database.write(events.thin)
    assert [event.number for event in events.listed(place.station)] == [2, 3]
    assert [event.number for event in events.listed(place.station, after=2)] == [3]


def test_words_of_a_peer_stay_on_one_short_line(place: Yard) -> None:
    place.station.store.database.write(
        lambda t: events.note(t, place.station, "x", "subject\n\x1b[2J", "text\r\n" + "日本" * 5000)
    )
    (event,) = events.listed(place.station)
    assert "\n" not in event.subject + event.text and "\x1b" not in event.subject
    assert len(event.text) == events.TEXT_LIMIT and event.text.startswith("text  日本")


# --- the life of a reservation ------------------------------------------------------------------------------


def test_every_state_takes_what_can_happen_in_it() -> None:
    wishes = (Input.RESERVE, Input.UPDATE, Input.RELEASE)
    resting = (
        None,
        *(state for state in HoldingState if not state.value.endswith("ing") or state.value == "draining"),
    )
    for state in resting:
        for wish in wishes:
            under_way = TRANSITIONS[state, wish]
            assert (under_way, Input.GRANTED) in TRANSITIONS and (under_way, Input.REFUSED) in TRANSITIONS
        assert (state, Input.FOUND) in TRANSITIONS and (state, Input.MISSING) in TRANSITIONS


def test_what_the_station_knows_follows_the_changes(place: Yard) -> None:
    reserve(place, 40)
    (held,) = lifecycle.listed(place.station)
    assert (held.array, held.target, held.reserved_units, held.changed_by) == ("M", PAIR, 40, "local")
    reservations.release(place.station, PAIR)
    assert lifecycle.listed(place.station) == []
    (over,) = lifecycle.listed(place.station, over=True)
    assert over.state is HoldingState.RELEASED


# --- reconciliation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_station_that_ended_before_the_answer_finds_out_what_became_of_it(
    place: Yard, carried_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mgmt.http import Peer

    send = Peer.send

    def interrupted(peer: Peer, message: Message, *arguments: Any, **keywords: Any) -> Message:
        if carried_out or not isinstance(message, BufferReserveRequest):
            answer = send(peer, message, *arguments, **keywords)
        if isinstance(message, BufferReserveRequest):
            raise Crash
        return answer

    monkeypatch.setattr(Peer, "send", interrupted)
    with pytest.raises(Crash):
        reserve(place, 40)
    monkeypatch.undo()
    station = place.restart()
    assert stages(place) == [("reserve", "asked")]
    assert reconcile.settle_trail(station) == 0
    record = trail.newest(station, 1)[0]
    assert (record.stage, record.of, record.cause) == (Stage.SETTLED, 1, Cause.RECONCILIATION)
    held = [holding.reserved_units for holding in lifecycle.listed(station)]
    assert held == ([40] if carried_out else []) == list(place.master.reserved().values())
    assert reconcile.settle_trail(station) == 0 and len(trail.listed(station)) == 2, "settled once"


def test_a_change_whose_array_is_down_stays_open_until_it_answers(place: Yard) -> None:
    reserve(place, 40)
    place.down("M")
    with pytest.raises(PeerUnreachable):
        reserve(place, 50)
    assert trail.newest(place.station, 1)[0].stage is Stage.UNKNOWN
    assert reconcile.settle_trail(place.station) == 1
    place.up("M")
    assert reconcile.settle_trail(place.station) == 0
    record = trail.newest(place.station, 1)[0]
    assert record.stage is Stage.SETTLED and "has 40 units" in record.detail


def test_what_others_do_at_an_array_is_taken_over_and_a_loss_raises_an_alarm(place: Yard) -> None:
    reserve(place, 40)
    place.clock.advance(1)
    other = port_pair(LOCAL, "192.0.2.9")
    place.master.interface.reserve(BufferReserveRequest(target=other, requested_bytes=7 * UNIT), "x")
    place.master.interface.update(ReservedBufferUpdateRequest(target=PAIR, recommended_bytes=45 * UNIT), "y")
    visit(place.station, "M")
    held = {holding.target: holding.reserved_units for holding in lifecycle.listed(place.station)}
    assert held == {PAIR: 45, other: 7}
    kinds = [event.kind for event in events.listed(place.station)]
    assert sorted(kinds[1:]) == ["appeared", "resized"]
    place.clock.advance(1)
    place.master.interface.release(ReservationReleaseRequest(target=PAIR), "z")
    visit(place.station, "M")
    (alarm,) = alarms_listed(place.station)
    assert (alarm.kind, alarm.target) == (AlarmKind.LOST, PAIR)
    place.clock.advance(1)
    visit(place.station, "M")
    assert len(events.listed(place.station, kind="lost")) == 1, "said once"
    reserve(place, 45)
    place.clock.advance(1)
    place.master.interface.update(ReservedBufferUpdateRequest(target=PAIR, recommended_bytes=40 * UNIT), "w")
    visit(place.station, "M")
    assert alarms_listed(place.station) == []


def test_an_end_that_cannot_be_brought_back_is_an_alarm_until_it_is(place: Yard) -> None:
    def refuse(message: Message) -> None:
        from mgmt.messages import HoldConfirmRequest, HoldVoidRequest

        if isinstance(message, HoldConfirmRequest | HoldVoidRequest):
            raise Refused(Code.BUSY, "not now")

    place.master.before = refuse
    with pytest.raises(PeerRefused, match="not now"):
        reserve_both_ends(place.station, PAIR, size_bytes=40 * UNIT)
    assert settle(place.station) == 1
    (alarm,) = alarms_listed(place.station)
    assert alarm.kind is AlarmKind.OPEN_END and "array M" in alarm.subject
    place.master.before = lambda message: None
    assert settle(place.station) == 0
    assert alarms_listed(place.station) == []
    assert place.master.reserved() == place.remote.reserved() == {}
    assert stages(place) == [("reserve-both-ends", "asked"), ("reserve-both-ends", "settled")]


# --- undo ---------------------------------------------------------------------------------------------------


def test_a_new_reservation_is_undone_by_releasing_it_with_its_policy(place: Yard) -> None:
    reserve(place, 40)
    undone = undo(place.station, by="ann")
    assert place.master.reserved() == {} and policies.listed(place.station) == []
    assert undone.texts == (f"{PAIR} on array M is released",)
    record = trail.newest(place.station, 1)[0]
    assert (record.cause, record.by, record.inputs["undoes"]) == (Cause.UNDO, "ann", undone.record.number)
    with pytest.raises(ProblemError, match="no change of a user to undo"):
        undo(place.station)


def test_undoing_again_and_again_goes_back_one_change_after_the_other(place: Yard) -> None:
    reserve(place, 40)
    reservations.update(place.station, PAIR, size_bytes=60 * UNIT)
    reservations.release(place.station, PAIR)
    sizes = []
    for _ in range(3):
        undo(place.station)
        sizes.append(list(place.master.reserved().values()))
    assert sizes == [[60], [40], []]
    assert candidate(place.station) is None


def test_undoing_a_size_set_by_hand_makes_the_target_automatic_again(place: Yard) -> None:
    channels.register(place.station, PAIR)
    reservations.reserve(place.station, PAIR)
    reservations.update(place.station, PAIR, size_bytes=60 * UNIT)
    assert policies.listed(place.station)[0].sizing is Sizing.MANUAL
    undo(place.station)
    assert policies.listed(place.station)[0].sizing is Sizing.AUTOMATIC
    assert place.master.reserved() == {str(PAIR): 350}


def test_what_has_been_changed_since_is_not_undone(place: Yard) -> None:
    reserve(place, 40)
    place.master.interface.update(ReservedBufferUpdateRequest(target=PAIR, recommended_bytes=45 * UNIT), "y")
    with pytest.raises(Refused, match="it has 45 now: somebody has changed it since") as refusal:
        undo(place.station)
    assert refusal.value.code is Code.STALE
    assert place.master.reserved() == {str(PAIR): 45}


def test_both_ends_are_undone_together(place: Yard) -> None:
    reserve_both_ends(place.station, PAIR, size_bytes=40 * UNIT)
    reserve_both_ends(place.station, PAIR, size_bytes=60 * UNIT)
    undo(place.station)
    assert (place.master.reserved(), place.remote.reserved()) == ({str(PAIR): 40}, {str(BACK): 40})
    undo(place.station)
    assert place.master.reserved() == place.remote.reserved() == {}


def test_a_policy_and_a_registration_are_undone(place: Yard) -> None:
    channels.register(place.station, PAIR, sessions=2)
    channels.register(place.station, PAIR, sessions=5)
    policies.put(place.station, Policy(target=PAIR, min_bytes=7), by="ann")
    policies.put(place.station, Policy(target=PAIR, min_bytes=9), by="ann")
    undo(place.station)
    assert policies.listed(place.station)[0].min_bytes == 7
    undo(place.station)
    assert policies.listed(place.station) == []
    undo(place.station)
    assert place.station.store.channels()[0].sessions == 2
    undo(place.station)
    assert place.station.store.channels() == []


def test_a_released_connection_is_not_given_its_number_again(place: Yard) -> None:
    target = new_connection(LOCAL, REMOTE)
    made = reservations.reserve(place.station, target, size_bytes=5 * UNIT).answer
    (held,) = lifecycle.listed(place.station)
    assert held.target.buffer_id == made.buffer_id is not None
    reservations.release(place.station, held.target)
    with pytest.raises(InvalidRequest, match="is not given again"):
        undo(place.station)


def test_a_record_that_is_no_change_is_not_undone(place: Yard) -> None:
    reserve(place, 40)
    with pytest.raises(InvalidRequest, match="none that can be undone"):
        undo(place.station, number=1)
    with pytest.raises(ProblemError, match="no change 77"):
        undo(place.station, number=77)
    assert place.master.reserved() == {str(PAIR): 40}
    assert undoing.row(undo(place.station, number=2))["undone"]["number"] == 2
