"""The station's use cases, figure 5 step by step, against stand-in arrays over real sockets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from credits.errors import InvalidRequest, Refused
from credits.targets import Target, TargetKind, connection, new_connection, port_pair, port_pair_number
from mgmt.http import PeerRefused, PeerUnreachable, ProblemError
from mgmt.messages import (
    BufferReserveRequest,
    ChannelChangeNotify,
    CopyStartRequest,
    InterfaceInfoGetRequest,
    VolumeDigest,
)
from mgmt.station import channels, copies, holders, reservations, sizes
from tests.mgmt.station_stand_ins import LOCAL, REMOTE, UNIT, Site, site

PAIR = port_pair(LOCAL, REMOTE)
DAY_S = 24 * 3600


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


# --- 801: registering ---------------------------------------------------------------------------------------


def test_a_registered_pair_is_in_table_108_without_measured_values(place: Site) -> None:
    channels.register(place.station, PAIR, sessions=2, connections_per_session=3)
    (row,) = place.station.store.channels()
    assert (row.sessions, row.connections_per_session) == (2, 3)
    assert (row.bandwidth_bps, row.rtt_ns, row.measured_at) == (None, None, None)


def test_registering_again_changes_the_counts_and_keeps_the_measurement(place: Site) -> None:
    channels.register(place.station, PAIR, sessions=2, connections_per_session=3)
    channels.measure(place.station, LOCAL, REMOTE)
    channels.register(place.station, PAIR, sessions=4)
    (row,) = place.station.store.channels()
    assert (row.sessions, row.connections_per_session, row.bandwidth_bps) == (4, 3, 10_000_000)


def test_a_port_number_makes_a_row_of_its_own_with_the_values_of_its_pair(place: Site) -> None:
    channels.register(place.station, PAIR)
    channels.measure(place.station, LOCAL, REMOTE)
    row = channels.register(place.station, port_pair_number(LOCAL, REMOTE, 25))
    assert (row.remote_port_number, row.rtt_ns) == (25, 280_000_000)
    assert len(place.station.store.channels()) == 2


@pytest.mark.parametrize(("sessions", "connections"), [(0, 1), (65536, 1), (1, 0), (1, -3)])
def test_counts_out_of_range_register_nothing(place: Site, sessions: int, connections: int) -> None:
    with pytest.raises(InvalidRequest):
        channels.register(place.station, PAIR, sessions=sessions, connections_per_session=connections)
    assert place.station.store.channels() == []


def test_a_port_is_no_pair_with_itself(place: Site) -> None:
    with pytest.raises(InvalidRequest, match="differ"):
        channels.register(place.station, port_pair(LOCAL, LOCAL))


def test_a_pair_leaves_table_108_unless_something_is_reserved_for_it(place: Site) -> None:
    channels.register(place.station, PAIR)
    channels.register(place.station, port_pair_number(LOCAL, REMOTE, 25))
    held = {"kind": "port_pair", "local_port": LOCAL, "remote_port": REMOTE}
    place.master.rows["reservations"] = [{"target": held}]
    with pytest.raises(Refused, match="array M holds a reservation for it"):
        channels.unregister(place.station, PAIR)
    channels.unregister(place.station, port_pair_number(LOCAL, REMOTE, 25))
    place.master.rows["reservations"] = []
    place.down("R")
    with pytest.raises(Refused, match="array R, which may hold"):
        channels.unregister(place.station, PAIR)
    place.up("R")
    channels.unregister(place.station, PAIR)
    assert place.station.store.channels() == []
    with pytest.raises(ProblemError, match="register it first"):
        channels.unregister(place.station, PAIR)


# --- 802-804: measuring -------------------------------------------------------------------------------------


def test_a_measurement_sets_every_row_of_the_pair(place: Site) -> None:
    channels.register(place.station, PAIR)
    channels.register(place.station, port_pair_number(LOCAL, REMOTE, 25))
    channels.measure(place.station, LOCAL, REMOTE)
    assert {row.bandwidth_bps for row in place.station.store.channels()} == {10_000_000}


def test_a_pair_that_is_not_registered_is_not_measured(place: Site) -> None:
    with pytest.raises(ProblemError, match="register it first"):
        channels.measure(place.station, LOCAL, REMOTE)
    assert place.probe.asked == 0


def test_a_device_that_is_down_leaves_the_old_values_marked_stale(place: Site) -> None:
    channels.register(place.station, PAIR)
    channels.measure(place.station, LOCAL, REMOTE)
    place.down("probe")
    with pytest.raises(PeerUnreachable, match="the measuring device at unix:"):
        channels.measure(place.station, LOCAL, REMOTE)
    (row,) = place.station.store.channels()
    assert row.bandwidth_bps == 10_000_000
    assert channels.row(place.station, row)["stale"] is True


@pytest.mark.parametrize(
    ("bandwidth_bps", "rtt_ns"), [(0, 1), (1, 0), (-1, 1), (1, -1), (10**16, 1), (1, 10**13)]
)
def test_a_senseless_measurement_is_not_taken_over(place: Site, bandwidth_bps: int, rtt_ns: int) -> None:
    place.probe.bandwidth_bps, place.probe.rtt_ns = bandwidth_bps, rtt_ns
    channels.register(place.station, PAIR)
    with pytest.raises(PeerUnreachable, match="makes no sense"):
        channels.measure(place.station, LOCAL, REMOTE)
    assert place.station.store.channels()[0].bandwidth_bps is None


@pytest.mark.parametrize("text", ["nonsense", "2999-01-01T00:00:00+00:00"])
def test_a_senseless_time_of_measurement_becomes_the_stations_own(place: Site, text: str) -> None:
    place.probe.measured_at = text
    channels.register(place.station, PAIR)
    (row,) = channels.measure(place.station, LOCAL, REMOTE)
    assert row.measured_at == "2026-01-01T12:00:00.000+00:00"


def test_values_of_yesterday_are_shown_as_stale(place: Site) -> None:
    channels.register(place.station, PAIR)
    (row,) = channels.measure(place.station, LOCAL, REMOTE)
    assert channels.is_stale(place.station, row) is False
    place.clock.advance(DAY_S + 1)
    assert channels.is_stale(place.station, row) is True


def test_counts_that_change_during_a_measurement_are_kept(place: Site) -> None:
    channels.register(place.station, PAIR, sessions=1)
    place.probe.meanwhile = lambda: channels.register(place.station, PAIR, sessions=8)
    channels.measure(place.station, LOCAL, REMOTE)
    (row,) = place.station.store.channels()
    assert (row.sessions, row.bandwidth_bps) == (8, 10_000_000)


def test_many_pairs_are_registered_at_once(place: Site) -> None:
    targets = [port_pair_number(LOCAL, REMOTE, 1 + number % 40) for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda target: channels.register(place.station, target), targets))
    assert len(place.station.store.channels()) == 40


# --- 1201: a change is notified -----------------------------------------------------------------------------


def notice(sequence: int, rtt_ns: int) -> ChannelChangeNotify:
    return ChannelChangeNotify(
        local_port=LOCAL,
        remote_port=REMOTE,
        bandwidth_bps=45_000_000,
        rtt_ns=rtt_ns,
        measured_at="2026-01-01T11:59:00+00:00",
        sequence=sequence,
    )


def test_a_notified_change_is_taken_over_and_an_older_one_is_dropped(place: Site) -> None:
    channels.register(place.station, PAIR)
    assert len(channels.take_notice(place.station, notice(2, 140_000_000))) == 1
    assert channels.take_notice(place.station, notice(2, 1)) == []
    assert channels.take_notice(place.station, notice(1, 1)) == []
    assert place.station.store.channels()[0].rtt_ns == 140_000_000


def test_a_notified_change_brings_its_jitter_and_loss_and_leaves_none_of_an_earlier_measurement(
    place: Site,
) -> None:
    channels.register(place.station, PAIR)
    channels.take_notice(place.station, replace(notice(2, 140_000_000), jitter_ns=300_000, loss_ppm=25))
    (row,) = place.station.store.channels()
    assert (row.jitter_ns, row.loss_ppm, row.method) == (300_000, 25, "notified")
    channels.take_notice(place.station, replace(notice(3, 150_000_000), loss_ppm=-1))
    (row,) = place.station.store.channels()
    assert (row.rtt_ns, row.jitter_ns, row.loss_ppm) == (150_000_000, None, None)


# --- 805-808: available and recommended ---------------------------------------------------------------------


def test_the_recommended_size_is_the_documents(place: Site) -> None:
    """Claims 2, 15 and 24: 10 Mbit/s, 280 ms, 2 sessions of 3 connections are 2,100,000 bytes, 1026 units."""
    advice = sizes.advise(place.station, PAIR, sessions=2, connections_per_session=3)
    assert (advice.recommendation.bytes, advice.recommendation.units) == (2_100_000, 1026)
    assert advice.short_units(advice.recommendation) == 0
    place.probe.rtt_ns = 140_000_000
    again = sizes.advise(place.station, PAIR, remeasure=True)
    assert again.recommendation.bytes == 1_050_000


def test_a_connection_is_sized_for_one_session_of_one_connection(place: Site) -> None:
    channels.register(place.station, PAIR, sessions=2, connections_per_session=3)
    advice = sizes.advise(place.station, new_connection(LOCAL, REMOTE))
    assert advice.recommendation.bytes == 350_000
    assert len(place.station.store.channels()) == 1


def test_fresh_values_are_used_as_they_are_and_old_ones_are_measured_again(place: Site) -> None:
    sizes.advise(place.station, PAIR)
    sizes.advise(place.station, PAIR)
    assert place.probe.asked == 1
    place.clock.advance(place.station.fresh_s + 1)
    sizes.advise(place.station, PAIR)
    assert place.probe.asked == 2


def test_jitter_and_loss_are_kept_beside_the_delay_but_not_what_makes_no_sense(place: Site) -> None:
    place.probe.jitter_ns, place.probe.loss_ppm = 1_200_000, 1_000_001
    row = sizes.advise(place.station, PAIR).channel
    assert row is not None
    assert (row.rtt_ns, row.jitter_ns, row.loss_ppm, row.credit_zero_ppm) == (
        280_000_000,
        1_200_000,
        None,
        None,
    )


def test_values_younger_than_a_day_serve_while_the_device_is_down_and_older_ones_do_not(place: Site) -> None:
    sizes.advise(place.station, PAIR)
    place.down("probe")
    place.clock.advance(DAY_S - 1)
    assert sizes.advise(place.station, PAIR).stale is True
    place.clock.advance(2)
    with pytest.raises(ProblemError, match="too long ago"):
        sizes.advise(place.station, PAIR)


def test_nothing_is_computed_from_a_channel_that_was_never_measured(place: Site) -> None:
    place.down("probe")
    with pytest.raises(ProblemError, match="has not been measured") as caught:
        sizes.advise(place.station, PAIR)
    assert caught.value.code == "NOT_MEASURED"


def test_a_shortage_is_counted_against_what_is_reserved_already(place: Site) -> None:
    """INC-4: recommended 1026, reserved 1000, free 30: enough; free 20: short by 6."""
    place.master.reserved_units, place.master.free_units = 1000, 30
    advice = sizes.advise(place.station, PAIR, sessions=2, connections_per_session=3)
    assert advice.short_units(advice.recommendation) == 0
    place.master.free_units = 20
    advice = sizes.advise(place.station, PAIR)
    assert advice.short_units(advice.recommendation) == 6


def test_a_port_that_no_array_has_is_refused_with_the_ports_there_are(place: Site) -> None:
    with pytest.raises(
        InvalidRequest, match=rf"no array has the port 192\.0\.2\.9; the ports: {LOCAL} \(M\)"
    ):
        sizes.advise(place.station, port_pair("192.0.2.9", REMOTE))


def test_a_port_that_may_be_on_an_array_that_is_down_is_not_called_unknown(place: Site) -> None:
    place.down("M")
    with pytest.raises(PeerUnreachable, match="array M at"):
        sizes.advise(place.station, PAIR)


def test_an_array_that_answers_nonsense_counts_as_not_answering(place: Site) -> None:
    place.master.answer_instead = VolumeDigest(volume="v", sha256="", length_bytes=1)
    with pytest.raises(PeerUnreachable, match="no interface information"):
        sizes.advise(place.station, PAIR)


def test_an_unknown_policy_is_refused_with_the_policies_there_are(place: Site) -> None:
    with pytest.raises(InvalidRequest, match="document"):
        sizes.advise(place.station, PAIR, policy="astrology")


# --- 809-812: reserving -------------------------------------------------------------------------------------


def test_an_automatic_reservation_carries_the_recommended_size(place: Site) -> None:
    channels.register(place.station, PAIR, sessions=2, connections_per_session=3)
    done = reservations.reserve(place.station, PAIR)
    (request,) = place.master.messages(BufferReserveRequest)
    assert (request.requested_bytes, request.target) == (2_100_000, PAIR)
    assert (done.array, done.answer.reserved_units) == ("M", 1026)
    assert place.remote.messages(BufferReserveRequest) == []


def test_a_size_by_hand_needs_no_measurement(place: Site) -> None:
    place.down("probe")
    assert reservations.reserve(place.station, PAIR, size_bytes=UNIT + 1).answer.reserved_units == 2


def test_the_arrays_refusal_arrives_with_its_numbers(place: Site) -> None:
    place.master.refuse = lambda message: isinstance(message, BufferReserveRequest)
    with pytest.raises(PeerRefused) as caught:
        reservations.reserve(place.station, PAIR, size_bytes=10**9)
    assert caught.value.shortage is not None and caught.value.shortage.free_units == 2000


@pytest.mark.parametrize("size_bytes", [0, -1, 2**63])
def test_a_size_that_is_none_is_not_even_sent(place: Site, size_bytes: int) -> None:
    with pytest.raises(InvalidRequest):
        reservations.reserve(place.station, PAIR, size_bytes=size_bytes)
    assert place.master.seen == []


def test_a_buffer_id_finds_its_array_and_its_pair_in_table_1500(place: Site) -> None:
    place.remote.rows["buffer-ids"] = [{"local_port": REMOTE, "remote_port": LOCAL, "buffer_id": 10000}]
    name, _ = holders.holder(place.station, connection(10000))
    assert name == "R"
    found = holders.with_pair(place.station, connection(10000))
    assert (found.local_port, found.remote_port, found.buffer_id) == (REMOTE, LOCAL, 10000)


def test_an_automatic_size_for_a_buffer_id_is_that_of_its_pair_in_table_1500(place: Site) -> None:
    place.master.rows["buffer-ids"] = [{"local_port": LOCAL, "remote_port": REMOTE, "buffer_id": 10000}]
    advice = sizes.advise(place.station, connection(10000))
    assert advice.recommendation.bytes == 350_000  # 10 Mbit/s x 280 ms, for one connection
    assert (advice.channel.local_port, advice.channel.remote_port) == (LOCAL, REMOTE)


def test_a_small_automatic_size_is_at_least_a_unit_for_each_connection(place: Site) -> None:
    place.probe.rtt_ns = 2800
    done = reservations.reserve(place.station, PAIR, sessions=2, connections_per_session=3)
    assert (done.requested_bytes, done.answer.reserved_units) == (6 * UNIT, 6)
    assert done.advice is not None and done.advice.recommendation.bytes == 21


def test_a_remote_volume_that_is_too_small_is_refused_before_anything_is_started(place: Site) -> None:
    place.remote.size_bytes = 4095
    with pytest.raises(ProblemError, match="has 4095 bytes, 1 too few for volume vol0 of array M") as refused:
        copies.start(place.station, PAIR, "vol0")
    assert refused.value.status == 409
    assert place.master.messages(CopyStartRequest) == [] and place.station.store.copies() == {}


def test_a_buffer_id_that_nobody_has_is_refused(place: Site) -> None:
    with pytest.raises(InvalidRequest, match="no array has a reservation for buffer ID 7"):
        holders.holder(place.station, connection(7))


def test_a_buffer_id_on_two_arrays_needs_its_pair(place: Site) -> None:
    for array in (place.master, place.remote):
        array.rows["buffer-ids"] = [{"local_port": "a", "remote_port": "b", "buffer_id": 10000}]
    with pytest.raises(InvalidRequest, match=r"several arrays \(M, R\)"):
        holders.holder(place.station, connection(10000))


def test_a_buffer_id_may_be_on_an_array_that_is_down(place: Site) -> None:
    place.down("R")
    with pytest.raises(PeerUnreachable, match="array R at"):
        holders.holder(place.station, connection(7))


# --- 813-814: starting --------------------------------------------------------------------------------------


def test_one_start_request_goes_out_for_every_connection_of_every_session_all_at_once(place: Site) -> None:
    """The stand-in answers none before it has all six: a station that waits in between would not get through."""
    place.master.gather = threading.Barrier(6)
    channels.register(place.station, PAIR, sessions=2, connections_per_session=3)
    started = copies.start(place.station, PAIR, "vol0")
    requests = place.master.messages(CopyStartRequest)
    assert {(request.session, request.connection) for request in requests} == {
        (session, number) for session in range(2) for number in range(3)
    }
    (rest,) = {(r.remote_host, r.remote_port_number, r.remote_iqn, r.remote_lun, r.copy_id) for r in requests}
    assert rest == (REMOTE, 3260, "iqn.2003-10.example:R", 0, started.copy_id)
    assert (len(started.connections), started.refusals) == (6, ())
    assert place.remote.messages(CopyStartRequest) == []


def test_a_start_in_part_says_what_came_up_and_what_did_not(place: Site) -> None:
    place.master.refuse = lambda message: isinstance(message, CopyStartRequest) and message.session == 1
    started = copies.start(place.station, PAIR, "vol0", sessions=2, connections_per_session=2)
    assert (len(started.connections), len(started.refusals)) == (2, 2)
    assert copies.record_of(place.station, started.copy_id).volume == "vol0"


def test_a_start_that_is_refused_whole_is_a_refusal(place: Site) -> None:
    place.master.refuse = lambda message: isinstance(message, CopyStartRequest)
    with pytest.raises(PeerRefused, match="no memory"):
        copies.start(place.station, PAIR, "vol0", sessions=1, connections_per_session=2)
    assert place.station.store.copies() == {}


def test_a_volume_that_is_missing_on_either_side_starts_nothing(place: Site) -> None:
    with pytest.raises(InvalidRequest, match="array M has no volume 'other'; its volumes: vol0"):
        copies.start(place.station, PAIR, "other")
    with pytest.raises(InvalidRequest, match="array R has no volume 'far'"):
        copies.start(place.station, PAIR, "vol0", remote_volume="far")
    assert place.master.messages(CopyStartRequest) == []
    assert place.station.store.copies() == {}


def test_a_copy_has_a_bounded_number_of_connections(place: Site) -> None:
    with pytest.raises(InvalidRequest, match="at most 256"):
        copies.start(place.station, PAIR, "vol0", sessions=100, connections_per_session=100)


def test_a_copy_id_is_used_once(place: Site) -> None:
    copies.start(place.station, PAIR, "vol0", copy_id="mine")
    with pytest.raises(Refused, match="already"):
        copies.start(place.station, PAIR, "vol0", copy_id="mine")


def test_a_start_by_buffer_id_carries_the_id_and_one_connection(place: Site) -> None:
    place.master.rows["buffer-ids"] = [{"local_port": LOCAL, "remote_port": REMOTE, "buffer_id": 10000}]
    channels.register(place.station, PAIR, sessions=2, connections_per_session=3)
    copies.start(place.station, connection(10000), "vol0")
    (request,) = place.master.messages(CopyStartRequest)
    assert (request.buffer_id, request.sessions, request.connections_per_session) == (10000, 1, 1)
    assert request.target == Target(TargetKind.CONNECTION, LOCAL, REMOTE, buffer_id=10000)


def test_both_digests_come_from_their_own_arrays(place: Site) -> None:
    started = copies.start(place.station, PAIR, "vol0")
    local, remote = copies.verify(place.station, started.copy_id)
    assert (local.sha256, remote.sha256) == ("M", "R")
    place.down("R")
    with pytest.raises(PeerUnreachable, match="array R"):
        copies.verify(place.station, started.copy_id)


def test_a_copy_that_was_never_started_is_not_there(place: Site) -> None:
    for ask in (copies.status, copies.stop, copies.verify):
        with pytest.raises(ProblemError, match="no copy 'x'"):
            ask(place.station, "x")


# --- restart, and arrays that are down ----------------------------------------------------------------------


def test_a_station_that_restarts_still_has_table_108_and_its_copies(place: Site) -> None:
    """Claim 25, with the device down."""
    channels.register(place.station, PAIR, sessions=2, connections_per_session=3)
    channels.measure(place.station, LOCAL, REMOTE)
    started = copies.start(place.station, PAIR, "vol0")
    before = place.station.store.channels()
    place.station.close()
    place.down("probe")
    place.station = place.open_station()
    assert place.station.store.channels() == before
    assert copies.record_of(place.station, started.copy_id).remote_array == "R"


def test_an_array_that_is_down_shows_as_such_and_the_other_goes_on(place: Site) -> None:
    place.master.rows["pools"] = [{"interface": "tcp0", "free_units": 5}]
    place.down("R")
    rows = {row["array"]: row["state"] for row in place.station.inventory.table("arrays").rows}
    assert rows == {"M": "up", "R": "down"}
    gathered = place.station.arrays.gather("/v1/pools")
    assert gathered.rows == [{"array": "M", "interface": "tcp0", "free_units": 5}]
    assert [(down.array, down.detail) for down in gathered.down] == [("R", "no such file or directory")]
    assert [row["address"] for row in place.station.inventory.table("ports").rows] == [LOCAL]


@pytest.mark.parametrize("rows", [None, 7, "text", {"a": 1}, [1, "x", None]])
def test_a_table_of_nonsense_has_no_rows(place: Site, rows: object) -> None:
    place.master.rows["pools"] = rows
    assert place.station.arrays.gather("/v1/pools").rows == []


def test_pairs_show_what_is_recommended_beside_what_is_reserved(place: Site) -> None:
    channels.register(place.station, PAIR, sessions=2, connections_per_session=3)
    channels.measure(place.station, LOCAL, REMOTE)
    target = {"kind": "port_pair", "local_port": LOCAL, "remote_port": REMOTE}
    place.master.rows["reservations"] = [{"target": target, "reserved_bytes": 4096}, {"target": None}]
    (row,) = sizes.pairs(place.station).rows
    assert (row["array"], row["remote_array"]) == ("M", "R")
    assert (row["recommended_bytes"], row["reserved_bytes"]) == (2_100_000, 4096)


def test_the_question_for_available_names_the_target(place: Site) -> None:
    sizes.advise(place.station, port_pair_number(LOCAL, REMOTE, 25))
    (question,) = place.master.messages(InterfaceInfoGetRequest)
    assert question.target == port_pair_number(LOCAL, REMOTE, 25)
