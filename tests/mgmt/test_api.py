"""The station's HTTP API: strict bodies, problems, its own description, changes that are notified."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from credits.targets import port_pair
from mgmt.api.app import make_app
from mgmt.http import ServerThread
from mgmt.messages import (
    BufferReserveRequest,
    ChannelChangeNotify,
    Envelope,
    ReservationPreview,
    ReservedBufferUpdateRequest,
    VolumeDigestRequest,
    encode,
)
from tests.mgmt.station_stand_ins import LOCAL, REMOTE, UNIT, Site, site

TARGET = {"kind": "port_pair", "local_port": LOCAL, "remote_port": REMOTE}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


@pytest.fixture
def client(place: Site) -> Iterator[httpx.Client]:
    path = f"{place.directory}/station.sock"
    transport = httpx.HTTPTransport(uds=path)
    with (
        ServerThread(make_app(place.station), f"unix:{path}"),
        httpx.Client(transport=transport, base_url="http://localhost", timeout=60) as made,
    ):
        yield made


def refused(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "code"} <= set(body) and body["status"] == status
    assert "\n" not in body["detail"]
    return body


def test_the_flow_of_figure_5_over_http(client: httpx.Client, place: Site) -> None:
    pair = {"target": TARGET, "sessions": 2, "connections_per_session": 3}
    assert client.post("/api/v1/pairs", json=pair).json()["bandwidth_bps"] is None
    measured = client.post("/api/v1/channels/measure", json={"local_port": LOCAL, "remote_port": REMOTE})
    assert measured.json()["items"][0]["rtt_ns"] == 280_000_000
    (advice,) = client.post("/api/v1/recommend", json={"target": TARGET}).json()["items"]
    assert (advice["bytes"], advice["units"], advice["available_units"]) == (2_100_000, 1026, 2000)
    granted = client.post("/api/v1/reserve", json={"target": TARGET}).json()
    assert (granted["array"], granted["reserved_units"], granted["advice"]["bytes"]) == ("M", 1026, 2_100_000)
    started = client.post("/api/v1/copies", json={"target": TARGET, "volume": "vol0"}).json()
    assert (len(started["connections"]), started["refusals"]) == (6, [])


def test_a_policy_may_be_named_or_all_of_them(client: httpx.Client) -> None:
    rows = client.post("/api/v1/recommend", json={"target": TARGET, "policy": "all"}).json()["items"]
    assert [row["policy"] for row in rows[:2]] == ["document", "document-pair"]
    body = refused(client.post("/api/v1/recommend", json={"target": TARGET, "policy": "no"}), 422)
    assert "document" in body["detail"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("reserve", {}, "target"),
        ("reserve", {"target": TARGET, "size_bytes": "1"}, "size_bytes"),
        ("reserve", {"target": TARGET, "size_bytes": 0}, "size_bytes"),
        ("reserve", {"target": TARGET, "size_bytes": -1}, "size_bytes"),
        ("reserve", {"target": TARGET, "size_bytes": 2**63}, "size_bytes"),
        ("reserve", {"target": TARGET, "size_bytes": 1.5}, "size_bytes"),
        ("reserve", {"target": TARGET, "size_bytes": True}, "size_bytes"),
        ("reserve", {"target": TARGET, "sise_bytes": 1}, "sise_bytes"),
        ("reserve", {"target": TARGET, "request_id": ""}, "request_id"),
        ("reserve", {"target": TARGET | {"kind": "moon"}}, "target.kind"),
        ("reserve", {"target": TARGET | {"local_port": "x" * 256}}, "target.local_port"),
        ("reserve", {"target": "port_pair"}, "target"),
        ("reserve", [], ""),
        ("pairs", {"target": TARGET, "sessions": 0}, "sessions"),
        ("pairs", {"target": TARGET, "connections_per_session": 65536}, "connections_per_session"),
        ("copies", {"target": TARGET}, "volume"),
        ("copies", {"target": TARGET, "volume": "v", "volume_groups": ["g"]}, "volume_groups"),
        ("copies", {"target": TARGET, "volume": "v", "application": ""}, "application"),
        ("reserve", {"target": TARGET, "via": {"local_port": LOCAL}}, "via.remote_port"),
        ("reserve", {"target": TARGET, "lease_ns": 0}, "lease_ns"),
        ("reserve-both-ends", {"target": TARGET, "request_id": "r"}, "request_id"),
        ("release", {"target": TARGET, "drain": "yes"}, "drain"),
        ("channels/measure", {"local_port": LOCAL}, "remote_port"),
    ],
)
def test_a_body_that_is_not_as_described_is_refused_by_its_field(
    client: httpx.Client, place: Site, path: str, body: Any, field: str
) -> None:
    found = refused(client.post(f"/api/v1/{path}", json=body), 422)
    assert found["code"] == "BAD_MESSAGE" and found["detail"].startswith(field)
    assert place.master.messages(BufferReserveRequest) == []


@pytest.mark.parametrize(
    "target",
    [
        {"kind": "port_pair"},
        {"kind": "port_pair", "local_port": LOCAL},
        TARGET | {"buffer_id": 1},
        TARGET | {"local_port": "a\x07b"},
        {"kind": "connection"},
        {"kind": "application"},
    ],
)
def test_a_target_without_what_its_kind_has_is_refused(client: httpx.Client, target: dict[str, Any]) -> None:
    body = refused(client.post("/api/v1/reserve", json={"target": target, "size_bytes": 1}), 422)
    assert body["code"] == "INVALID_TARGET"


def test_an_open_kind_names_the_pair_it_goes_over_beside_it(client: httpx.Client, place: Site) -> None:
    target = {"kind": "application", "name": "remote-copy"}
    body: dict[str, Any] = {"target": target, "size_bytes": 1}
    assert "--port-pair" in refused(client.post("/api/v1/reserve", json=body), 422)["detail"]
    body["via"] = {"local_port": LOCAL, "remote_port": REMOTE}
    assert client.post("/api/v1/reserve", json=body).json()["array"] == "M"
    (request,) = place.master.messages(BufferReserveRequest)
    assert request.target.name == "remote-copy"
    pair = client.post("/api/v1/pairs", json={"target": target, "via": body["via"]}).json()
    assert (pair["local_port"], pair["remote_port"]) == (LOCAL, REMOTE)


def test_an_address_in_another_spelling_is_the_same_port(client: httpx.Client, place: Site) -> None:
    place.master.port = "2001:db8::1"
    target = TARGET | {"local_port": "2001:0DB8:0:0:0:0:0:1", "remote_port": "2001:db8::2"}
    client.post("/api/v1/reserve", json={"target": target, "size_bytes": 1}).raise_for_status()
    (request,) = place.master.messages(BufferReserveRequest)
    assert request.target.local_port == "2001:db8::1"


@pytest.mark.parametrize(
    ("local_port", "remote_port", "told"),
    [
        ("x", "y", "'x' is no port"),
        ("127.0.0.1", "300.1.1.1", "'300.1.1.1' is no port"),
        ("127.0.0.1", "garbage!!", "'garbage!!' is no port"),
        ("127.0.0.1", "50:06:01:60:3b:a0:11", "is no port"),
        ("127.0.0.1", "127.0.0.1", "differ"),
        ("50060160-3ba01122", "5006016040a01122", "is no port"),
        ("5006016040A01122", "50:06:01:60:40:a0:11:22", "differ"),
        ("127.0.0.1", "5006016040a01122", "one sort"),
        ("127.0.0.1", "::1", "one sort"),
    ],
)
def test_what_are_no_two_ports_of_one_sort_is_refused(
    client: httpx.Client, place: Site, local_port: str, remote_port: str, told: str
) -> None:
    target = TARGET | {"local_port": local_port, "remote_port": remote_port}
    for path, body in (
        ("pairs", {"target": target}),
        ("reserve", {"target": target, "size_bytes": 1}),
        ("recommend", {"target": target}),
        ("channels/measure", {"local_port": local_port, "remote_port": remote_port}),
    ):
        answer = refused(client.post(f"/api/v1/{path}", json=body), 422)
        assert answer["code"] == "INVALID_TARGET" and told in answer["detail"], path
    assert place.master.seen == [] and client.get("/api/v1/channels").json()["items"] == []


def test_a_wwpn_is_a_port_in_one_spelling(client: httpx.Client) -> None:
    target = TARGET | {"local_port": "5006016040A01122", "remote_port": "50:06:01:60:40:a0:11:23"}
    answer = client.post("/api/v1/pairs", json={"target": target}).json()
    assert (answer["local_port"], answer["remote_port"]) == (
        "50:06:01:60:40:a0:11:22",
        "50:06:01:60:40:a0:11:23",
    )


def test_the_request_id_of_a_caller_reaches_the_array(client: httpx.Client, place: Site) -> None:
    body = {"target": TARGET, "size_bytes": 1, "request_id": "again"}
    client.post("/api/v1/reserve", json=body).raise_for_status()
    assert "again" in [envelope.request_id for envelope in place.master.seen]


def test_bytes_that_are_no_json_are_refused(client: httpx.Client) -> None:
    answer = client.post("/api/v1/reserve", content=b"{", headers={"content-type": "application/json"})
    refused(answer, 422)


def test_what_is_not_there_and_a_wrong_method_are_problems(client: httpx.Client) -> None:
    assert refused(client.get("/api/v1/nowhere"), 404)["code"] == "NOT_FOUND"
    assert refused(client.get("/api/v1/reserve"), 405)["code"] == "METHOD_NOT_ALLOWED"
    assert refused(client.get("/api/v1/copies/none"), 404)["code"] == "NOT_FOUND"


def test_the_api_describes_itself_and_loads_nothing_from_elsewhere(client: httpx.Client) -> None:
    described = client.get("/api/v1/openapi.json").json()
    assert {"/api/v1/reserve", "/api/v1/channels", "/api/v1/copies/{copy_id}/stop"} <= set(described["paths"])
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


def test_a_notified_change_reaches_table_108(client: httpx.Client) -> None:
    client.post("/api/v1/pairs", json={"target": TARGET}).raise_for_status()
    notice = ChannelChangeNotify(
        local_port=LOCAL,
        remote_port=REMOTE,
        bandwidth_bps=1000,
        rtt_ns=2000,
        measured_at="2026-01-01T11:00:00+00:00",
        sequence=1,
    )
    headers = {"content-type": "application/json"}
    client.post("/messages", content=encode(Envelope("r", notice)), headers=headers).raise_for_status()
    (row,) = client.get("/api/v1/channels").json()["items"]
    assert (row["bandwidth_bps"], row["rtt_ns"], row["method"]) == (1000, 2000, "notified")
    other = encode(Envelope("r", VolumeDigestRequest(volume="v")))
    assert refused(client.post("/messages", content=other, headers=headers), 400)["code"] == "BAD_MESSAGE"


def test_a_state_that_cannot_be_written_is_a_problem_and_not_a_crash(
    client: httpx.Client, place: Site
) -> None:
    with place.station.store.database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE channels")
    body = refused(client.post("/api/v1/pairs", json={"target": TARGET}), 507)
    assert body["code"] == "STORE" and "no such table" in body["detail"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)
FIELDS = [
    "target",
    "size_bytes",
    "sessions",
    "policy",
    "volume",
    "local_port",
    "remote_port",
    "drain",
    "copy_id",
    "via",
    "lease_ns",
    "volume_groups",
]


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from(
        [
            *("pairs", "recommend", "reserve", "reserve-both-ends", "update", "preview", "release"),
            *("copies", "channels/measure"),
        ]
    ),
    body=st.dictionaries(st.sampled_from(FIELDS), JSON | st.just(TARGET)),
)
def test_any_json_is_answered_and_never_by_a_crash(
    client: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    headers = {"content-type": "application/json"}
    answer = client.post(f"/api/v1/{path}", content=json.dumps(body).encode(), headers=headers)
    if answer.status_code != 200:
        refused(answer, answer.status_code)


# -- asked for twice, based on a generation, only tried out ----------------------------------------------------


def test_a_key_carries_a_change_out_once_and_answers_the_same_again(
    client: httpx.Client, place: Site
) -> None:
    body = {"target": TARGET, "size_bytes": 1}
    first, second = (
        client.post("/api/v1/reserve", json=body, headers={"Idempotency-Key": "k1"}) for _ in range(2)
    )
    assert first.status_code == second.status_code == 200 and first.json() == second.json()
    assert len(place.master.messages(BufferReserveRequest)) == 1
    client.post("/api/v1/reserve", json=body, headers={"Idempotency-Key": "k2"}).raise_for_status()
    assert len(place.master.messages(BufferReserveRequest)) == 2


def test_a_key_that_was_used_for_something_else_is_refused(client: httpx.Client, place: Site) -> None:
    headers = {"Idempotency-Key": "k1"}
    client.post(
        "/api/v1/reserve", json={"target": TARGET, "size_bytes": 1}, headers=headers
    ).raise_for_status()
    other = client.post("/api/v1/reserve", json={"target": TARGET, "size_bytes": 2}, headers=headers)
    assert "used before" in refused(other, 422)["detail"]
    same = client.post("/api/v1/release", json={"target": TARGET}, headers=headers)
    assert "used before" in refused(same, 422)["detail"]
    assert len(place.master.messages(BufferReserveRequest)) == 1


def test_a_refusal_is_repeated_and_a_broken_attempt_is_made_again(client: httpx.Client, place: Site) -> None:
    body, headers = {"target": TARGET, "size_bytes": 1}, {"Idempotency-Key": "k1"}
    place.master.refuse = lambda message: isinstance(message, BufferReserveRequest)
    for _ in range(2):
        found = refused(client.post("/api/v1/reserve", json=body, headers=headers), 409)
        assert (found["code"], found["free_units"], found["grantable_units"]) == ("NO_MEMORY", 2000, 2000)
    assert len(place.master.messages(BufferReserveRequest)) == 1
    place.master.refuse = lambda message: False
    client.get("/api/v1/arrays")
    place.down("M")
    headers = {"Idempotency-Key": "k2"}
    assert refused(client.post("/api/v1/reserve", json=body, headers=headers), 502)["code"] == "UNREACHABLE"
    place.up("M")
    assert client.post("/api/v1/reserve", json=body, headers=headers).status_code == 200


@pytest.mark.parametrize("key", ["", "a b", "x" * 129])
def test_a_key_that_is_none_is_refused(client: httpx.Client, key: str) -> None:
    body = {"target": TARGET, "size_bytes": 1}
    refused(client.post("/api/v1/reserve", json=body, headers={"Idempotency-Key": key}), 422)


def test_an_answer_carries_its_generation_and_a_change_may_name_one(
    client: httpx.Client, place: Site
) -> None:
    answer = client.post("/api/v1/reserve", json={"target": TARGET, "size_bytes": 1})
    assert answer.headers["etag"] == f'"{answer.json()["revision"]}"'
    body = {"target": TARGET, "size_bytes": 1}
    client.post("/api/v1/update", json=body, headers={"If-Match": answer.headers["etag"]})
    (request,) = place.master.messages(ReservedBufferUpdateRequest)
    assert request.expected_revision == answer.json()["revision"]
    for wrong in ("W/x", '"-1"', '"x"', '"9' + "9" * 30 + '"'):
        found = refused(client.post("/api/v1/update", json=body, headers={"If-Match": wrong}), 422)
        assert "If-Match" in found["detail"] or "if-match" in found["detail"]
    both = client.post("/api/v1/update", json=body | {"expected_revision": 1}, headers={"If-Match": '"2"'})
    assert "one of them" in refused(both, 422)["detail"]


def test_a_list_that_has_not_changed_is_not_sent_again(client: httpx.Client) -> None:
    tag = client.get("/api/v1/arrays").headers["etag"]
    for shown in (tag, f"W/{tag}", f'"other", {tag}'):
        again = client.get("/api/v1/arrays", headers={"if-none-match": shown})
        assert (again.status_code, again.content) == (304, b"")
    assert client.get("/api/v1/arrays", headers={"if-none-match": '"other"'}).status_code == 200
    assert client.get("/api/v1/arrays", params={"limit": 1}).headers["etag"] != tag


def test_pages_follow_each_other_to_the_end(client: httpx.Client, place: Site) -> None:
    pools = [{"interface": f"tcp{number}", "total_units": number} for number in range(25)]
    place.master.rows = {"pools": pools}
    found: list[Any] = []
    cursor = None
    while True:
        page = client.get(
            "/api/v1/pools", params={"limit": 10, **({"cursor": cursor} if cursor else {})}
        ).json()
        found += page["items"]
        assert page["total"] == 25
        cursor = page["next"]
        if cursor is None:
            break
    assert [row["interface"] for row in found] == [row["interface"] for row in pools]
    for wrong in ({"limit": 0}, {"limit": 1001}, {"cursor": "x"}, {"sort": "x"}, {"filter": "x"}):
        refused(client.get("/api/v1/pools", params=wrong), 422)


def test_trying_out_changes_nothing(client: httpx.Client, place: Site) -> None:
    place.master.answer_instead = ReservationPreview(
        target=port_pair(LOCAL, REMOTE),
        unit_bytes=UNIT,
        previous_units=0,
        reserved_units=1,
        reserved_bytes=UNIT,
        pending_shrink_units=0,
        expanded_units=0,
        free_units_before=2000,
        free_units_after=1999,
        revision=7,
    )
    body = {"target": TARGET, "size_bytes": 1}
    for path in ("reserve", "update"):
        answer = client.post(f"/api/v1/{path}?dry_run=true", json=body)
        assert (answer.json()["free_units_after"], answer.headers["etag"]) == (1999, '"7"')
    place.remote.answer_instead = place.master.answer_instead
    both = client.post("/api/v1/reserve-both-ends?dry_run=true", json=body).json()
    assert [both[end]["array"] for end in ("local", "remote")] == ["M", "R"]
    stale = client.post("/api/v1/update?dry_run=true", json=body, headers={"If-Match": '"6"'})
    assert refused(stale, 412)["code"] == "STALE"
    kinds = {type(envelope.message).__name__ for envelope in place.master.seen}
    assert kinds <= {"ReservationPreviewRequest", "InterfaceInfoGetRequest"}


# -- the rest of the resources -----------------------------------------------------------------------------------


def test_a_policy_is_made_changed_and_taken_away(client: httpx.Client) -> None:
    client.post("/api/v1/policies", json={"target": TARGET, "min_bytes": 4096}).raise_for_status()
    found = client.post("/api/v1/policies", json={"target": TARGET, "size_bytes": 8192}).json()
    assert (found["sizing"], found["size_bytes"], found["min_bytes"]) == ("manual", 8192, 4096)
    assert len(client.get("/api/v1/policies").json()["items"]) == 1
    client.post("/api/v1/policies/remove", json={"target": TARGET}).raise_for_status()
    assert client.get("/api/v1/policies").json()["items"] == []


def test_what_was_done_is_in_the_trail_and_can_be_taken_back(client: httpx.Client) -> None:
    client.post("/api/v1/pairs", json={"target": TARGET, "sessions": 2}).raise_for_status()
    rows = client.get("/api/v1/audit").json()["items"]
    assert [(row["verb"], row["by"]) for row in rows] == [("register", "local")]
    verdict = client.get("/api/v1/audit/verify").json()
    assert verdict["sound"] and verdict["records"] == 1
    assert client.post("/api/v1/undo", json={}).json()["texts"]
    assert client.get("/api/v1/channels").json()["items"] == []
    refused(client.get("/api/v1/audit/verify", params={"head": "nonsense"}), 400)


def test_an_alarm_that_is_not_there_is_not_acknowledged(client: httpx.Client) -> None:
    assert client.get("/api/v1/alarms").json()["items"] == []
    assert refused(client.post("/api/v1/alarms/1/ack", json={}), 404)["code"] == "NOT_FOUND"
    refused(client.post("/api/v1/alarms/0/ack", json={}), 422)
    refused(client.get("/api/v1/alarms", params={"state": "odd"}), 422)


def test_an_array_is_added_and_taken_away(client: httpx.Client, place: Site) -> None:
    body = {"name": "other", "address": place.address("R")}
    assert client.post("/api/v1/arrays", json=body).json()["state"] == "up"
    assert len(client.get("/api/v1/arrays").json()["items"]) == 3
    refused(client.post("/api/v1/arrays", json={"name": "x", "address": "nowhere"}), 422)
    client.post("/api/v1/arrays/remove", json={"name": "other"}).raise_for_status()
    assert len(client.get("/api/v1/arrays").json()["items"]) == 2


def test_a_channel_s_history_is_asked_for_by_its_pair(client: httpx.Client) -> None:
    client.post("/api/v1/recommend", json={"target": TARGET}).raise_for_status()
    pair = {"local_port": LOCAL, "remote_port": REMOTE}
    (sample,) = client.get("/api/v1/channels/history", params=pair).json()["items"]
    assert sample["rtt_ns"] == 280_000_000
    for wrong in ({"since": "2026-01-01T00:00:00"}, {"until": "x"}, {"limit": 0}):
        refused(client.get("/api/v1/channels/history", params=pair | wrong), 422)


def test_the_page_of_the_description_asks_nobody_else_for_anything(client: httpx.Client) -> None:
    page = client.get("/api/v1/docs")
    assert page.headers["content-type"].startswith("text/html")
    paths = client.get("/api/v1/openapi.json").json()["paths"]
    assert len(paths) > 35 and all(f"<code>{path}</code>" in page.text for path in paths)
    loaded = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    assert loaded and all(one.startswith("/") for one in loaded)
    assert "<script" not in page.text and "style=" not in page.text
    assert client.get("/static/api/plain.css").headers["content-type"].startswith("text/css")


def test_a_method_that_a_path_does_not_have_is_told_which_it_has(client: httpx.Client) -> None:
    answer = client.request("TRACE", "/api/v1/reserve")
    refused(answer, 405)
    assert answer.headers["allow"] == "POST"
