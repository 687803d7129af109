"""Changes through the API at arrays with real pools: trying out, changing only what was read, following a policy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from credits.targets import port_pair
from mgmt.api.app import make_app
from mgmt.api.idempotency import Answers
from mgmt.http import Peer, ServerThread
from mgmt.messages import (
    CacheThresholdSetRequest,
    ChannelChangeNotify,
    Message,
    ReservationPreviewRequest,
    ReservationReleaseRequest,
)
from mgmt.station import alarms, cache, channels, policies, reconcile, trail
from mgmt.station.records import AlarmKind, Cause, Policy, Stage
from mgmt.station.store import open_store
from mgmt.station.updates import Updater, run_pair
from tests.mgmt.pool_arrays import LOCAL, REMOTE, UNIT, Yard, yard

PAIR = port_pair(LOCAL, REMOTE)
TARGET = {"kind": "port_pair", "local_port": LOCAL, "remote_port": REMOTE}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Yard]:
    with yard(tmp_path, lambda: open_store(tmp_path / "state")) as made:
        yield made


@pytest.fixture
def client(place: Yard) -> Iterator[httpx.Client]:
    path = f"{place.directory}/station.sock"
    transport = httpx.HTTPTransport(uds=path)
    with (
        ServerThread(make_app(place.station), f"unix:{path}"),
        httpx.Client(transport=transport, base_url="http://localhost/api/v1", timeout=60) as made,
    ):
        yield made


def reserve(client: httpx.Client, units: int) -> httpx.Response:
    return client.post("/reserve", json={"target": TARGET, "size_bytes": units * UNIT}).raise_for_status()


# -- releasing -------------------------------------------------------------------------------------------------


def test_a_release_that_is_tried_out_says_what_would_come_back_and_changes_nothing(
    client: httpx.Client, place: Yard
) -> None:
    reserve(client, 40)
    found = client.post("/release?dry_run=true", json={"target": TARGET}).raise_for_status()
    assert (found.json()["previous_units"], found.json()["reserved_units"]) == (40, 0)
    assert found.json()["free_units_after"] - found.json()["free_units_before"] == 40
    assert place.master.reserved() == {str(PAIR): 40}
    assert place.master.messages(ReservationReleaseRequest) == []
    assert client.post("/release", json={"target": TARGET}).json()["released_units"] == 40
    gone = client.post("/release?dry_run=true", json={"target": TARGET})
    assert (gone.status_code, gone.json()["code"]) == (404, "NOT_RESERVED")


def test_a_release_of_what_is_in_use_is_refused_on_trial_as_it_would_be(
    client: httpx.Client, place: Yard
) -> None:
    reserve(client, 40)
    allocation = place.master.pool.allocate([PAIR], 10, holder="a copy")
    for path in ("/release?dry_run=true", "/release"):
        found = client.post(path, json={"target": TARGET})
        assert (found.status_code, found.json()["code"]) == (409, "BUSY")
    drains = client.post("/release?dry_run=true", json={"target": TARGET, "drain": True}).json()
    assert (drains["previous_units"], drains["pending_shrink_units"]) == (40, 10)
    place.master.pool.free(allocation)


@pytest.mark.parametrize("verb", ["reserve", "update", "release"])
def test_a_change_based_on_an_older_generation_is_refused_and_changes_nothing(
    client: httpx.Client, place: Yard, verb: str
) -> None:
    old = reserve(client, 40).headers["etag"]
    now = reserve(client, 50).headers["etag"]
    size = {} if verb == "release" else {"size_bytes": 60 * UNIT}
    for suffix in ("", "?dry_run=true"):
        late = client.post(f"/{verb}{suffix}", json={"target": TARGET, **size}, headers={"If-Match": old})
        assert (late.status_code, late.json()["code"]) == (412, "STALE")
    assert place.master.reserved() == {str(PAIR): 50}
    client.post(f"/{verb}", json={"target": TARGET, **size}, headers={"If-Match": now}).raise_for_status()
    assert place.master.reserved() == ({} if verb == "release" else {str(PAIR): 60})


# -- policies --------------------------------------------------------------------------------------------------


def test_a_policy_is_changed_only_by_who_has_read_it(client: httpx.Client, place: Yard) -> None:
    first = client.post("/policies", json={"target": TARGET, "min_bytes": 1}).raise_for_status()
    second = client.post(
        "/policies", json={"target": TARGET, "min_bytes": 2}, headers={"If-Match": first.headers["etag"]}
    ).raise_for_status()
    for path, more in (("/policies", {"min_bytes": 3}), ("/policies/remove", {})):
        late = client.post(path, json={"target": TARGET, **more}, headers={"If-Match": first.headers["etag"]})
        assert (late.status_code, late.json()["code"]) == (412, "STALE")
        assert "was changed by local" in late.json()["detail"]
    (row,) = client.get("/policies").json()["items"]
    assert (row["min_bytes"], f'"{row["version"]}"') == (2, second.headers["etag"])
    client.post(
        "/policies/remove", json={"target": TARGET}, headers={"If-Match": f'"{row["version"]}"'}
    ).raise_for_status()
    late = client.post("/policies", json={"target": TARGET}, headers={"If-Match": f'"{row["version"]}"'})
    assert late.status_code == 412 and "has none" in late.json()["detail"]


@pytest.mark.parametrize("others", [1, 99])
def test_a_policy_that_others_change_meanwhile_is_changed_all_the_same_unless_they_never_stop(
    client: httpx.Client, place: Yard, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, left = policies.find, iter(range(others))

    def changed_meanwhile(*asked: Any) -> Policy | None:
        found = find(*asked)
        for number in itertools.islice(left, 1):
            policies.put(place.station, Policy(target=PAIR, priority=number), by="somebody else")
        return found

    monkeypatch.setattr(policies, "find", changed_meanwhile)
    answer = client.post("/policies", json={"target": TARGET, "min_bytes": 7})
    (policy,) = policies.listed(place.station)
    if others == 1:
        assert (answer.status_code, policy.min_bytes, policy.priority) == (200, 7, 0)
    else:
        assert (answer.status_code, answer.json()["code"], policy.min_bytes) == (412, "STALE", 0)


def test_a_size_that_a_policy_sets_is_reserved_at_once_and_undone_with_it(
    client: httpx.Client, place: Yard
) -> None:
    reserve(client, 40)
    client.post("/policies", json={"target": TARGET, "size_bytes": 70 * UNIT}).raise_for_status()
    assert place.master.reserved() == {str(PAIR): 70}
    record = trail.newest(place.station, 1)[0]
    assert (record.verb, record.cause, record.by) == ("update", Cause.POLICY, "local")
    client.post("/undo", json={}).raise_for_status()
    assert place.master.reserved() == {str(PAIR): 40}


def test_a_policy_without_a_reservation_reserves_nothing(client: httpx.Client, place: Yard) -> None:
    client.post("/policies", json={"target": TARGET, "size_bytes": 70 * UNIT}).raise_for_status()
    assert place.master.reserved() == {}


def test_a_size_that_there_is_no_room_for_is_an_alarm_and_the_policy_stays(
    client: httpx.Client, place: Yard
) -> None:
    reserve(client, 40)
    row = (
        client.post("/policies", json={"target": TARGET, "size_bytes": 9000 * UNIT}).raise_for_status().json()
    )
    assert row["size_bytes"] == 9000 * UNIT and place.master.reserved() == {str(PAIR): 40}
    (alarm,) = alarms.listed(place.station)
    assert (alarm.kind, alarm.array) == (AlarmKind.SHORTAGE, "M") and "stays as it is" in alarm.text


def test_a_policy_made_automatic_shrinks_at_once_and_waits_for_no_samples(
    client: httpx.Client, place: Yard
) -> None:
    channels.register(place.station, PAIR)
    channels.take_notice(
        place.station,
        ChannelChangeNotify(
            local_port=LOCAL,
            remote_port=REMOTE,
            bandwidth_bps=10_000_000,
            rtt_ns=80_000_000,
            measured_at=place.clock.now.isoformat(),
            sequence=1,
        ),
    )
    reserve(client, 500)
    while (pair := place.station.due.take()) is not None:
        run_pair(place.station, *pair)
    assert place.master.reserved() == {str(PAIR): 500}
    client.post("/policies", json={"target": TARGET, "sizing": "automatic"}).raise_for_status()
    from threading import Event as Flag

    flag = Flag()
    stop = place.station.feed.listen(lambda event: flag.set() if event.kind == "updated" else None)
    with Updater(place.station):
        assert flag.wait(60)
    stop()
    assert place.master.reserved() == {str(PAIR): 100}


# -- the threshold of a cache (M16) ----------------------------------------------------------------------------


def test_who_sets_a_threshold_is_in_the_trail(client: httpx.Client, place: Yard) -> None:
    client.post("/arrays/M/cache/threshold", json={"threshold_bytes": 300}).raise_for_status()
    assert place.master.cache.threshold_bytes == 300
    asked, done = trail.newest(place.station, 2)
    assert (asked.stage, done.stage, done.of, done.by) == (Stage.ASKED, Stage.DONE, asked.number, "local")
    assert (done.before, done.after) == ({"threshold_bytes": 0}, {"threshold_bytes": 300})
    late = client.post("/arrays/M/cache/threshold", json={"threshold_bytes": 5000})
    assert late.status_code == 422 and trail.newest(place.station, 1)[0].stage is Stage.REFUSED
    assert place.master.cache.threshold_bytes == 300


class Crash(Exception):
    """The station ends here."""


def test_a_threshold_whose_answer_the_station_did_not_live_to_hear_is_settled(
    place: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Peer.send

    def interrupted(peer: Peer, message: Message, *arguments: Any, **keywords: Any) -> Message:
        answer = send(peer, message, *arguments, **keywords)
        if isinstance(message, CacheThresholdSetRequest):
            raise Crash
        return answer

    monkeypatch.setattr(Peer, "send", interrupted)
    with pytest.raises(Crash):
        cache.set_threshold(place.station, "M", 300, by="ann")
    monkeypatch.undo()
    station = place.restart()
    assert reconcile.settle_trail(station) == 0
    record = trail.newest(station, 1)[0]
    assert record.stage is Stage.SETTLED and "warns at 300 bytes" in record.detail


# -- what is read ----------------------------------------------------------------------------------------------


def test_a_station_asks_its_arrays_before_anybody_asks_it(place: Yard) -> None:
    assert place.station.inventory.said("M", "pools") is None
    place.station.inventory.warm()
    for array in "MR":
        for name in ("arrays", "pools", "reservations"):
            assert place.station.inventory.said(array, name) is not None


def test_table_108_is_put_into_words_again_only_where_it_or_its_age_has_changed(
    client: httpx.Client, place: Yard
) -> None:
    def tag() -> tuple[str, list[bool]]:
        answer = client.get("/channels")
        return answer.headers["etag"], [row["stale"] for row in answer.json()["items"]]

    channels.register(place.station, PAIR)
    place.probe.rtt_ns = 80_000_000
    channels.measure(place.station, LOCAL, REMOTE)
    first = tag()
    assert tag() == first and first[1] == [False]
    channels.register(place.station, PAIR, sessions=3)
    second = tag()
    assert second[0] != first[0]
    place.clock.advance(place.station.stale_after_s + 1)
    assert tag()[1] == [True]


def test_a_preview_of_a_release_asks_the_array_itself(client: httpx.Client, place: Yard) -> None:
    reserve(client, 4)
    client.post("/release?dry_run=true", json={"target": TARGET, "drain": True}).raise_for_status()
    (asked,) = place.master.messages(ReservationPreviewRequest)
    assert (asked.release, asked.drain, asked.requested_bytes) == (True, True, 0)


# -- what is remembered of keys --------------------------------------------------------------------------------


def test_only_so_many_keys_are_remembered_and_the_oldest_go_first() -> None:
    answers, made = Answers(limit=3), list[str]()

    def once(key: str) -> Any:
        def carry_out() -> int:
            made.append(key)
            return len(made)

        return answers.once(key, "ann", "reserve", {}, carry_out)

    assert [once(key) for key in ("a", "b", "c", "a", "d", "a")] == [1, 2, 3, 1, 4, 5]
    assert made == ["a", "b", "c", "d", "a"]
    assert once("d") == 4 and len(answers) == 3
