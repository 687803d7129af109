"""The open kinds (paragraph 102): application, volume pair, volume-group pair, from the station down to the units."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from credits.errors import Code, InvalidRequest
from credits.targets import (
    Target,
    application,
    connection,
    new_connection,
    port_pair,
    port_pair_number,
    volume_group_pair,
    volume_pair,
)
from mgmt.http import PeerRefused, PeerUnreachable
from mgmt.messages import (
    BufferReserveRequest,
    CopyStartRequest,
    CopyStartResponse,
    InterfaceInfoGetRequest,
    ReservationReleaseRequest,
    ReservedBufferUpdateRequest,
    VolumeDigest,
    to_plain,
)
from mgmt.station import channels, copies, reservations, sizes
from tests.mgmt.array_processes import MASTER, REMOTE, array, start_copy, start_requests
from tests.mgmt.station_stand_ins import LOCAL, Site, site
from tests.mgmt.station_stand_ins import REMOTE as FAR

VIA = (LOCAL, FAR)
UNIT = 16384
OPEN = [application("remote-copy"), volume_pair("vol0", "vol0"), volume_group_pair("g", "h")]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


# --- the station --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", OPEN, ids=str)
def test_an_open_kind_is_sized_by_the_pair_it_goes_over_and_reserved_for_itself(
    place: Site, target: Target
) -> None:
    channels.register(place.station, port_pair(*VIA), sessions=2, connections_per_session=3)
    done = reservations.reserve(place.station, target, via=VIA)
    (question,) = place.master.messages(InterfaceInfoGetRequest)
    (request,) = place.master.messages(BufferReserveRequest)
    assert question.target == request.target == target
    assert (done.array, request.requested_bytes) == ("M", 2_100_000)
    assert [(row.local_port, row.remote_port) for row in place.station.store.channels()] == [VIA]


def test_the_way_back_is_reserved_on_the_other_array(place: Site) -> None:
    assert reservations.reserve(place.station, OPEN[0], via=(FAR, LOCAL), size_bytes=1).array == "R"


def test_without_a_pair_nobody_knows_where_a_first_reservation_goes(place: Site) -> None:
    with pytest.raises(
        InvalidRequest, match=r"name the port pair that it goes over \(--port-pair A,B\)"
    ) as no:
        reservations.reserve(place.station, OPEN[0], size_bytes=1)
    assert no.value.code is Code.INVALID_TARGET
    with pytest.raises(InvalidRequest, match="by port pair"):
        reservations.reserve(place.station, OPEN[0])
    with pytest.raises(InvalidRequest, match="by port pair"):
        channels.register(place.station, OPEN[0])
    assert place.master.seen == place.remote.seen == []


def test_update_and_release_find_the_array_that_holds_the_reservation(place: Site) -> None:
    place.remote.rows["reservations"] = [{"target": to_plain(OPEN[1])}]
    place.remote.answer_instead = VolumeDigest(volume="v", sha256="", length_bytes=1)
    with pytest.raises(PeerUnreachable, match=r"array R .*no update"):
        reservations.update(place.station, OPEN[1], size_bytes=1)
    with pytest.raises(PeerUnreachable, match=r"array R .*no release"):
        reservations.release(place.station, OPEN[1])
    (updated,) = place.remote.messages(ReservedBufferUpdateRequest)
    (released,) = place.remote.messages(ReservationReleaseRequest)
    assert updated.target == released.target == OPEN[1]
    place.master.rows["reservations"] = [{"target": to_plain(OPEN[1])}]
    with pytest.raises(InvalidRequest, match=r"several arrays \(M, R\)"):
        reservations.release(place.station, OPEN[1])
    with pytest.raises(PeerUnreachable, match="array R"):
        reservations.release(place.station, OPEN[1], via=(FAR, LOCAL))


def test_a_reservation_for_an_open_kind_is_made_again_where_it_is(place: Site) -> None:
    place.remote.rows["reservations"] = [{"target": to_plain(OPEN[0])}]
    assert reservations.reserve(place.station, OPEN[0], size_bytes=1).array == "R"


def test_another_pair_than_the_targets_own_is_refused(place: Site) -> None:
    for target in (port_pair(LOCAL, FAR), port_pair_number(LOCAL, FAR, 25), new_connection(LOCAL, FAR)):
        assert channels.over(target, VIA) == target
        with pytest.raises(InvalidRequest, match="does not go over"):
            reservations.reserve(place.station, target, via=(LOCAL, "192.0.2.9"), size_bytes=1)
    found = channels.over(connection(7), VIA)
    assert (found.local_port, found.remote_port, found.buffer_id) == (*VIA, 7)
    assert channels.over(OPEN[0], VIA) == port_pair(*VIA)


def test_a_supposed_channel_sizes_an_open_kind_too(place: Site) -> None:
    advice = sizes.suppose(place.station, OPEN[0], via=VIA, bandwidth_bps=10**7, rtt_ns=280_000_000)
    assert advice.recommendation.bytes == 350_000
    assert place.station.store.channels() == []


def started(place: Site, target: Target, **values: Any) -> CopyStartRequest:
    copies.start(place.station, target, "vol0", **values)
    request: CopyStartRequest = place.master.messages(CopyStartRequest)[-1]
    return request


def test_a_start_request_names_every_kind_it_matches(place: Site) -> None:
    request = started(place, port_pair(*VIA))
    assert request.claims == (volume_pair("vol0", "vol0"), application("remote-copy"))
    request = started(place, port_pair(*VIA), application_name="backup", volume_groups=("g", "h"))
    assert request.claims == (
        volume_pair("vol0", "vol0"),
        application("backup"),
        volume_group_pair("g", "h"),
    )
    request = started(place, application("mirror"), via=VIA)
    assert (request.target, request.claims) == (application("mirror"), (volume_pair("vol0", "vol0"),))
    assert request.remote_host == FAR


def test_the_pair_of_volumes_is_that_of_the_copy(place: Site) -> None:
    place.remote.volumes = ("vol0", "mirror")
    assert started(place, port_pair(*VIA), remote_volume="mirror").claims[0] == volume_pair("vol0", "mirror")
    with pytest.raises(InvalidRequest, match="not of volume pair a,b"):
        copies.start(place.station, volume_pair("a", "b"), "vol0", via=VIA)


@pytest.mark.parametrize("values", [{"application_name": "a\nb"}, {"volume_groups": ("g", "\x07")}])
def test_a_kind_with_a_name_that_is_none_starts_nothing(place: Site, values: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="printable"):
        copies.start(place.station, port_pair(*VIA), "vol0", **values)
    assert place.master.messages(CopyStartRequest) == []


@pytest.mark.parametrize("lacking", ["iscsi_port", "lun"])
def test_an_array_that_leaves_out_where_its_target_is_counts_as_not_answering(
    place: Site, lacking: str
) -> None:
    whole = place.remote.info()
    for row in (*whole["ports"], *whole["volumes"]):
        row.pop(lacking, None)
    place.remote.info = lambda: whole  # type: ignore[method-assign]
    with pytest.raises(PeerUnreachable, match=f"has no {lacking}"):
        copies.start(place.station, port_pair(*VIA), "vol0")
    assert place.master.messages(CopyStartRequest) == []


def test_an_array_that_answers_nonsense_about_itself_is_down(place: Site) -> None:
    place.remote.info = lambda: ["what"]  # type: ignore[assignment, return-value, method-assign]
    rows = {row["array"]: row["state"] for row in place.station.inventory.table("arrays").rows}
    assert rows == {"M": "up", "R": "down"}
    assert [down.array for down in place.station.inventory.table("ports").down] == ["R"]


# --- two arrays ---------------------------------------------------------------------------------------------

MOST_SPECIFIC_FIRST = [
    volume_pair("vol0", "vol0"),
    volume_group_pair("g", "h"),
    application("remote-copy"),
    port_pair_number(MASTER, REMOTE, 0),  # 0 stands for the remote array's real port number
    port_pair(MASTER, REMOTE),
]
CLAIMS = (application("remote-copy"), volume_pair("vol0", "vol0"), volume_group_pair("g", "h"))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(len(MOST_SPECIFIC_FIRST)))
def test_the_most_specific_kind_that_is_reserved_serves_the_copy(tmp_path: Path, first: int) -> None:
    (tmp_path / "a.img").write_bytes(os.urandom(1 << 20))
    with (
        array(tmp_path, "east", MASTER, "--volume", f"vol0={tmp_path / 'a.img'}") as east,
        array(tmp_path, "west", REMOTE, "--volume", f"vol0={tmp_path / 'b.img'}:1MiB") as west,
    ):
        number = west.port["iscsi_port"]
        for units, target in enumerate(MOST_SPECIFIC_FIRST[first:], 5):
            if target.remote_port_number is not None:
                target = port_pair_number(MASTER, REMOTE, number)
            assert east.reserve(units * UNIT, target) == units
        (answer,) = start_copy(east, start_requests(west.port, 1, 1, claims=CLAIMS))
        assert isinstance(answer, CopyStartResponse)
        assert answer.allocated_units == 5
        assert east.wait_until_over().state == "done"
        assert east.status().reserved_bytes == 5 * UNIT
        assert east.digest() == west.digest()


@pytest.mark.slow
def test_a_start_request_with_claims_that_do_not_fit_is_a_bad_message(tmp_path: Path) -> None:
    with array(tmp_path, "east", MASTER, "--volume", f"vol0={tmp_path / 'a.img'}:1MiB") as east:
        for copy_id, claims, code in [
            ("c1", (application("a"), application("b")), Code.BAD_MESSAGE),
            ("c2", (port_pair(MASTER, REMOTE),), Code.BAD_MESSAGE),
            ("c3", (application("\x07"),), Code.INVALID_TARGET),
        ]:
            requests = start_requests(east.port, 1, 1, claims=claims, copy_id=copy_id)
            (refusal,) = start_copy(east, requests)
            assert isinstance(refusal, PeerRefused)
            assert refusal.code == code
        assert east.table("copies") == []
