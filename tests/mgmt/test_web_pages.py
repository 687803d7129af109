"""The station's pages without a browser: screens and their validation, tables, commands to copy, languages."""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mgmt.api import bodies
from mgmt.api.security.gate import Security
from mgmt.api.security.identity import Role
from mgmt.api.security.tokens import TokenFile
from mgmt.cli.main import make_cli
from mgmt.messages import BufferReserveRequest, CopyStartRequest, ReservationReleaseRequest
from mgmt.station import alarms, channels
from mgmt.station.records import AlarmKind
from tests.mgmt.station_stand_ins import LOCAL, REMOTE, UNIT
from tests.mgmt.web_desk import (
    PAIR,
    TARGET,
    Desk,
    commands,
    desk,
    error_at,
    pair_row,
    reservation,
    running_copy,
)

COUNTS = {"sessions": "2", "connections_per_session": "3"}
#: A policy as its form sends it.
POLICY = {
    "sizing": "automatic",
    "min_change": "10",
    "min_interval": "5s",
    "shrink_samples": "3",
    "shrink_after": "60s",
    "priority": "100",
}
PAGES = (
    "/",
    "/reserve",
    "/reserve/port-pair",
    "/reserve/port-pair-number",
    "/reserve/connection",
    "/reserve/application",
    "/reserve/volume-pair",
    "/reserve/volume-group-pair",
    f"/size?kind=port_pair&local_port={LOCAL}&remote_port={REMOTE}",
    f"/reservation?kind=port_pair&local_port={LOCAL}&remote_port={REMOTE}",
    "/tables/reservations",
    "/tables/channels",
    "/tables/allocations",
    "/tables/buffer-ids",
    "/tables/pools",
    "/tables/pairs",
    "/tables/groups",
    "/tables/ports",
    "/tables/arrays",
    "/channels",
    "/copies",
    "/copies/start",
    f"/copies/start?kind=port_pair&local_port={LOCAL}&remote_port={REMOTE}&volume=vol0",
    "/fibre-channel",
    "/events",
    "/alarms",
    "/groups",
    "/groups/create",
    f"/groups/create?group=g&local_port={LOCAL}&remote_port={REMOTE}&volumes=vol0&journal=jnl",
    f"/policy?kind=port_pair&local_port={LOCAL}&remote_port={REMOTE}",
    "/tables/policies",
    "/tables/copies",
    "/audit",
    "/audit?verify=1",
    "/what-if",
    f"/what-if?ask=1&what=fails&local_port={LOCAL}&remote_port={REMOTE}",
    f"/what-if?ask=1&what=changes&local_port={LOCAL}&remote_port={REMOTE}&rtt=500ms&bandwidth=1Gbit&sessions=2",
)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """For tests that change nothing that another looks at."""
    with desk(tmp_path_factory.mktemp("desk")) as made:
        made.post("/reserve/port-pair", PAIR | COUNTS, "/reserve/port-pair")
        yield made


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Desk]:
    with desk(tmp_path) as made:
        yield made


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_there_in_both_languages_and_asks_nobody_else(
    lasting: Desk, page: str, language: str
) -> None:
    answer = lasting.client.get(page, headers={"accept-language": f"{language};q=0.9, fr"})
    assert answer.status_code == 200 and f'<html lang="{language}"' in answer.text
    assert re.findall(r'(?:src|href|action|data-source)="(?:[a-z]+:|//)[^"]*"', answer.text) == []
    assert " style=" not in answer.text and re.findall(r" on\w+=", answer.text) == []
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_everything_that_a_page_offers_to_take_away_is_there(lasting: Desk) -> None:
    links = {
        html.unescape(link)
        for page in PAGES
        for link in re.findall(r'href="([^"]+)" download', lasting.client.get(page).text)
    }
    assert len(links) > 20
    for link in links:
        answer = lasting.client.get(link)
        assert answer.status_code == 200, link
        assert answer.headers["content-type"].partition(";")[0] in ("text/csv", "application/json"), link


def test_one_reservation_copy_or_group_is_taken_away_from_its_page(fresh: Desk) -> None:
    array = fresh.place.master
    array.rows["reservations"] = [reservation(9), reservation(7) | {"target": TARGET}]
    array.rows["copies"] = [running_copy(0.3, "copying"), running_copy(0.9, "failed")]
    array.rows["pairs"] = [pair_row("M", "vol0", "PAIR"), pair_row("M", "vol1", "PAIR")]
    for page, name, values in (
        (f"/reservation?{urlencode(TARGET)}", "reserved_units", [7]),
        ("/copies/copy-failed", "copy_id", ["copy-failed"]),
        ("/groups/db", "volume", ["vol0", "vol1"]),
    ):
        links = re.findall(r'href="([^"]+)" download', fresh.get(page).text)
        csv, rows = (fresh.get(html.unescape(link)) for link in links)
        assert [row[name] for row in rows.json()] == values
        lines = csv.text.splitlines()
        column = lines[0].split(",").index(name)
        assert [line.split(",")[column] for line in lines[1:]] == list(map(str, values)), csv.text
    gone = urlencode(TARGET | {"remote_port": "9.9.9.9"})
    for link in (
        f"/reservation/csv?{gone}",
        "/reservation/csv",
        "/copies/x/csv",
        "/groups/x/csv",
        "/groups/db/xml",
    ):
        assert fresh.get(link).status_code in (404, 422), link


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_a_page_offers_is_one_that_works_as_it_stands(lasting: Desk, page: str) -> None:
    offered = commands(lasting.get(page))
    assert offered
    for command in offered:
        words = shlex.split(command)
        if words[0] == "sancredit":
            parsed(words[1:])
        elif "-d" in words:
            path = words[2].partition("/api/v1/")[2]
            body = json.loads(words[words.index("-d") + 1])
            if (model := _BODIES.get(path)) is not None:
                model.model_validate_json(json.dumps(body))


_BODIES: dict[str, Any] = {
    "pairs": bodies.PairBody,
    "reserve": bodies.ReserveBody,
    "update": bodies.UpdateBody,
    "preview": bodies.PreviewBody,
    "release": bodies.ReleaseBody,
    "recommend": bodies.RecommendBody,
    "copies": bodies.CopyBody,
    "channels/measure": bodies.MeasureBody,
}


def parsed(words: list[str]) -> None:
    """The words, read by the real command tree down to the command; nothing is run."""
    command: click.Command = make_cli()
    context = click.Context(command)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, words
        command, words = found, words[1:]
    command.make_context("sancredit", words)


@pytest.mark.parametrize(
    ("fields", "field", "told"),
    [
        ({"local_port": ""}, "local_port", "Enter an IP address"),
        ({"local_port": "10.0.0"}, "local_port", "“10.0.0” is no port"),
        ({"local_port": "50:06:01:60:3b:a0:11"}, "local_port", "is no port"),
        ({"remote_port": LOCAL}, "remote_port", "differ"),
        ({"remote_port": "2001:db8::1"}, "remote_port", "one sort"),
        ({"remote_port": "5006016040a01122"}, "remote_port", "one sort"),
        ({"local_port": "10.9.9.9"}, "local_port", "No array has this port"),
        ({"sessions": "0"}, "sessions", "from 1 to 65535"),
        ({"sessions": "65536"}, "sessions", "from 1 to 65535"),
        ({"connections_per_session": "two"}, "connections_per_session", "whole number"),
        ({"connections_per_session": ""}, "connections_per_session", "whole number"),
    ],
)
def test_what_is_wrong_on_screen_601_is_said_beside_the_field_and_what_was_typed_stays(
    lasting: Desk, fields: dict[str, str], field: str, told: str
) -> None:
    before = lasting.place.station.store.channels()
    answer = lasting.post("/reserve/port-pair", PAIR | COUNTS | fields, "/reserve/port-pair")
    assert answer.status_code == 422 and told in error_at(answer, field)
    assert f'<a href="#{field}">' in answer.text and 'aria-invalid="true"' in answer.text
    assert f'name="{field}" type="text" value="{(PAIR | COUNTS | fields)[field]}"' in answer.text
    assert lasting.place.station.store.channels() == before


def test_screen_1601_leads_to_the_form_of_each_kind_and_asks_again_where_none_is_chosen(
    lasting: Desk,
) -> None:
    for kind, number in (("port-pair", "601"), ("port-pair-number", "1401"), ("connection", "601")):
        answer = lasting.client.get("/reserve", params={"kind": kind, "chosen": "1"}, follow_redirects=True)
        assert f"Screen {number}" in answer.text
        assert ('id="sessions"' in answer.text) == (kind != "connection")
    assert lasting.get("/reserve", chosen="1").status_code == 422
    assert lasting.get("/reserve", kind="moon").status_code == 422
    assert lasting.get("/reserve/moon").status_code == 404


def test_ok_on_screen_601_registers_measures_and_shows_the_size(fresh: Desk) -> None:
    answer = fresh.post("/reserve/port-pair", PAIR | COUNTS, "/reserve/port-pair")
    assert answer.status_code == 303 and answer.headers["location"].startswith("/size?")
    (row,) = fresh.place.station.store.channels()
    assert (row.sessions, row.connections_per_session, row.rtt_ns) == (2, 3, 280_000_000)
    shown = fresh.get(answer.headers["location"])
    assert 'value="2100000"' in shown.text and "1,026 units" in shown.text  # 703
    assert f'value="{2000 * UNIT}"' in shown.text  # 702
    for term in ("10 Mbit/s", "280 ms", ">2<", ">3<"):
        assert term in shown.text.replace("\N{NO-BREAK SPACE}", " ")
    assert fresh.place.master.messages(BufferReserveRequest) == []


def test_automatic_reserves_what_is_recommended_once_however_often_it_is_sent(fresh: Desk) -> None:
    fresh.post("/reserve/port-pair", PAIR | COUNTS, "/reserve/port-pair")
    fields = TARGET | {"mode": "auto", "request_id": "once", "do": "ok"}
    answers = [fresh.post("/size", fields) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 303]
    assert answers[0].headers["location"].startswith("/reservation?")
    requests = [one for one in fresh.place.master.seen if isinstance(one.message, BufferReserveRequest)]
    assert {one.request_id for one in requests} == {"once"}
    assert requests[0].message.requested_bytes == 2_100_000  # type: ignore[union-attr]


def test_a_manual_size_of_nothing_or_above_what_is_available_is_asked_for_again(fresh: Desk) -> None:
    for typed in ("", "0", "-1", "much", "1.5", str(2000 * UNIT + 1), "5GiB", "9" * 30):
        answer = fresh.post("/size", TARGET | {"mode": "manual", "size_bytes": typed, "do": "ok"})
        assert answer.status_code == 422 and error_at(answer, "size_bytes"), typed
        assert f'name="size_bytes" type="text" value="{typed}"' in answer.text
    assert fresh.place.master.messages(BufferReserveRequest) == []


def test_a_manual_size_of_all_that_is_available_is_accepted(fresh: Desk) -> None:
    fields = TARGET | {"mode": "manual", "size_bytes": str(2000 * UNIT), "do": "ok"}
    assert fresh.post("/size", fields).status_code == 303
    (request,) = fresh.place.master.messages(BufferReserveRequest)
    assert request.requested_bytes == 2000 * UNIT


def test_a_channel_that_cannot_be_measured_leaves_a_size_by_hand(fresh: Desk) -> None:
    fresh.place.down("probe")
    answer = fresh.post("/reserve/port-pair", PAIR | COUNTS, "/reserve/port-pair")
    shown = fresh.get(answer.headers["location"])
    assert "has not been measured" in shown.text
    assert re.search(r'value="auto"[^>]*disabled', shown.text)
    refused = fresh.post("/size", TARGET | {"mode": "auto", "do": "ok"})
    assert refused.status_code == 422 and fresh.place.master.messages(BufferReserveRequest) == []
    assert (
        fresh.post("/size", TARGET | {"mode": "manual", "size_bytes": "1MiB", "do": "ok"}).status_code == 303
    )


def test_a_shortage_is_warned_of_with_who_holds_the_rest_and_the_ways_out(fresh: Desk) -> None:
    fresh.place.master.free_units = 500
    fresh.place.master.rows["reservations"] = [reservation(77), reservation(11)]
    answer = fresh.post("/reserve/port-pair", PAIR | COUNTS, "/reserve/port-pair")
    shown = fresh.get(answer.headers["location"]).text
    assert (
        "Buffer shortage" in shown
        and "526 are missing" in shown
        and "at most 1,000 KiB" in shown.replace("\xa0", " ")
    )
    assert shown.index("buffer_id=77") < shown.index("buffer_id=11")  # the largest holder first
    refused = fresh.post("/size", TARGET | {"mode": "auto", "do": "ok"})
    assert refused.status_code == 422 and "500 units" in error_at(refused, "mode-auto")


def test_cancelling_takes_back_the_row_that_ok_has_made_and_no_other(fresh: Desk) -> None:
    made = fresh.post("/reserve/port-pair", PAIR | COUNTS, "/reserve/port-pair").headers["location"]
    assert "new=True" in made
    fresh.post("/size", TARGET | {"new": "True", "do": "cancel"})
    assert fresh.place.station.store.channels() == []
    fresh.post("/reserve/port-pair", PAIR | COUNTS, "/reserve/port-pair")
    again = fresh.post("/reserve/port-pair", PAIR | COUNTS, "/reserve/port-pair").headers["location"]
    assert "new=" not in again
    fresh.post("/size", TARGET | {"do": "cancel"})
    assert len(fresh.place.station.store.channels()) == 1


def test_a_port_number_and_a_name_are_part_of_the_target(fresh: Desk) -> None:
    fields = PAIR | COUNTS | {"remote_port_number": "25"}
    where = fresh.post("/reserve/port-pair-number", fields).headers["location"]
    assert "remote_port_number=25" in where
    fresh.post("/size", TARGET | {"kind": "port_pair_number", "remote_port_number": "25", "mode": "auto"})
    fresh.post("/reserve/application", PAIR | COUNTS | {"name": "remote-copy"})
    fresh.post("/size", PAIR | {"kind": "application", "name": "remote-copy", "mode": "auto"})
    first, second = fresh.place.master.messages(BufferReserveRequest)
    assert (first.target.remote_port_number, second.target.name) == (25, "remote-copy")
    for wrong in ("", "0", "65536", "x"):
        answer = fresh.post("/reserve/port-pair-number", fields | {"remote_port_number": wrong})
        assert answer.status_code == 422 and error_at(answer, "remote_port_number")


def test_ports_named_by_wwpn_work_exactly_as_ports_named_by_address(fresh: Desk) -> None:
    fresh.place.master.port = "50:06:01:60:40:a0:11:22"
    fields = {"local_port": "5006016040A01122", "remote_port": "50:06:01:60:40:a0:11:23"}
    answer = fresh.post("/reserve/port-pair", fields | COUNTS)
    assert answer.status_code == 303
    assert fresh.get(answer.headers["location"]).status_code == 200
    done = fresh.post("/size", fields | {"kind": "port_pair", "mode": "manual", "size_bytes": "1MiB"})
    assert done.status_code == 303
    (request,) = fresh.place.master.messages(BufferReserveRequest)
    assert request.target.local_port == "50:06:01:60:40:a0:11:22"


def test_an_address_that_leads_nowhere_is_a_page_for_readers_and_a_problem_for_programs(
    lasting: Desk,
) -> None:
    wish = {"accept": "text/html,application/xhtml+xml"}
    lost = lasting.client.get("/nowhere", headers=wish)
    assert lost.status_code == 404 and "There is nothing here" in lost.text
    for path, headers in (("/nowhere", {}), ("/api/v1/nowhere", wish)):
        answer = lasting.client.get(path, headers=headers)
        assert answer.status_code == 404 and answer.json()["code"] == "NOT_FOUND"


def test_a_log_in_leads_to_the_page_that_was_wanted_and_to_no_other_server(lasting: Desk) -> None:
    assert 'name="next" value="/copies"' in lasting.get("/login", next="/copies").text
    assert 'name="next" value="/"' in lasting.get("/login", next="//evil.example").text


def test_where_tokens_are_demanded_a_reader_logs_in_is_named_and_logs_out(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "tokens.json")
    with desk(tmp_path, Security.remote(file, {})) as made:
        now = made.place.station.utc_now()
        _, text = file.create("ann", Role.OPERATOR, now=now)
        wish = {"accept": "text/html"}
        asked = made.client.get("/copies", headers=wish)
        assert asked.headers["location"] == "/login?next=/copies"
        assert made.client.get("/static/style.css").status_code == 200
        done = made.post("/login", {"token": text, "next": "/copies"}, asked.headers["location"])
        assert (done.status_code, done.headers["location"]) == (303, "/copies")
        shown = made.client.get("/copies", headers=wish)
        assert shown.status_code == 200 and "<span>ann</span>" in shown.text
        made.post("/reserve/port-pair", PAIR | COUNTS)
        assert ">ann<" in made.client.get("/events").text  # by whom
        made.post("/logout", {})
        assert made.client.get("/copies", headers=wish).status_code == 303


def test_the_last_change_is_undone_from_the_events_page(fresh: Desk) -> None:
    fresh.post("/reserve/port-pair", PAIR | COUNTS)
    shown = fresh.get("/events").text
    number = re.search(r'name="number" value="([0-9]+)"', shown)
    assert number is not None and "The last change" in shown
    answer = fresh.post("/undo", {"number": number[1]}, "/events")
    assert answer.status_code == 303
    assert fresh.place.station.store.channels() == []
    assert fresh.post("/undo", {"number": "999999"}, "/events").status_code == 404


def test_what_a_failing_or_changing_channel_would_mean_is_told_before_it_does(fresh: Desk) -> None:
    fresh.post("/reserve/port-pair", PAIR | COUNTS)
    shown = fresh.get("/what-if", **PAIR, ask="1", what="fails").text
    assert "no other channel between the two arrays is registered" in shown
    fresh.place.master.rows["reservations"] = [
        reservation(9) | {"target": TARGET, "reserved_units": 1026, "reserved_bytes": 1026 * UNIT}
    ]
    fresh.place.master.reserved_units, fresh.place.master.free_units = 1026, 500
    fresh.post("/policy", TARGET | POLICY)
    shown = fresh.get("/what-if", **PAIR, ask="1", what="changes", rtt="560ms").text
    assert "1 reservation would run short" in shown and "2,051" in shown  # twice the delay, twice the size
    assert f"preview --channel {LOCAL},{REMOTE} --if rtt=560ms" in shown
    taken = re.search(r'href="(/what-if/json[^"]+)" download', shown)
    assert taken is not None
    (step,) = fresh.get(html.unescape(taken[1])).json()
    assert (step["target"]["kind"], step["reserved_units"], step["wanted_units"]) == ("port_pair", 1026, 2051)
    assert fresh.get("/what-if/json").status_code == 404
    (row,) = fresh.place.station.store.channels()
    assert row.rtt_ns == 280_000_000
    nothing = fresh.get("/what-if", **PAIR, ask="1", what="changes")
    assert nothing.status_code == 422 and error_at(nothing, "bandwidth")
    wrong = fresh.get("/what-if", **PAIR, ask="1", rtt="soon")
    assert error_at(wrong, "rtt") and 'value="soon"' in wrong.text


def test_a_form_without_the_token_of_its_page_is_refused(fresh: Desk) -> None:
    fresh.client.get("/")
    for token in ({}, {"csrf_token": "0" * 64}):
        answer = fresh.client.post("/size", data=TARGET | token | {"mode": "manual", "size_bytes": "1MiB"})
        assert answer.status_code == 403
    assert fresh.place.master.messages(BufferReserveRequest) == []


def test_a_copy_is_started_with_what_the_form_says(fresh: Desk) -> None:
    fresh.post("/reserve/port-pair", PAIR | COUNTS)
    missing = fresh.post("/copies/start", TARGET | {"volume": ""})
    assert missing.status_code == 422 and error_at(missing, "volume")
    unknown = fresh.post("/copies/start", TARGET | {"volume": "nope"})
    assert unknown.status_code == 422 and error_at(unknown, "volume")
    answer = fresh.post("/copies/start", TARGET | {"volume": "vol0"})
    assert answer.status_code == 303 and answer.headers["location"].startswith("/copies/copy-")
    assert len(fresh.place.master.messages(CopyStartRequest)) == 6


def test_a_reservation_is_given_up_and_what_if_changes_nothing(fresh: Desk) -> None:
    fresh.post("/reserve/port-pair", PAIR | COUNTS)
    fresh.place.master.rows["reservations"] = [reservation(9) | {"target": TARGET}]
    shown = fresh.get("/reservation", **TARGET, rtt="140ms")
    assert 'value="1050000"' in shown.text  # half the delay, half the size
    wrong = fresh.get("/reservation", **TARGET, rtt="soon")
    assert error_at(wrong, "rtt") and 'value="soon"' in wrong.text
    (row,) = fresh.place.station.store.channels()
    assert row.rtt_ns == 280_000_000
    answer = fresh.post("/reservation/release", TARGET | {"drain": "1"})
    assert answer.status_code == 303 and "units=7" in answer.headers["location"]
    (request,) = fresh.place.master.messages(ReservationReleaseRequest)
    assert request.drain is True


def test_a_long_table_is_filtered_sorted_paged_and_taken_away(fresh: Desk) -> None:
    fresh.place.master.rows["reservations"] = [reservation(number) for number in range(1, 121)]
    first = fresh.get("/tables/reservations", sort="RESERVED", desc="1").text
    assert first.count("<tr>") == 51 and "Page 1 of 3, 120 rows" in first
    assert first.index(">120<") < first.index(">119<") and 'aria-sort="descending"' in first
    last = fresh.get("/tables/reservations", page="99").text
    assert "Page 3 of 3" in last
    assert "1 row" in fresh.get("/tables/reservations", q="0x77000").text
    fresh.place.master.rows["reservations"][0]["buffer_address"] = 0x77000
    assert "2 rows" in fresh.get("/tables/reservations", q="0x77000").text  # what is new is searched too
    fresh.place.master.rows["reservations"][0]["buffer_address"] = 0x1000
    lines = fresh.get("/tables/reservations/csv", q="0x77000").text.splitlines()
    assert len(lines) == 2 and lines[0].startswith("array,interface,target.kind")
    rows = fresh.get("/tables/reservations/json").json()
    assert len(rows) == 120 and rows[0]["target"] == {"kind": "connection", **PAIR, "buffer_id": 1}
    for path in ("/tables/moon", "/tables/moon/csv", "/tables/reservations/xml"):
        assert fresh.get(path).status_code == 404


def test_an_array_that_is_down_or_of_another_version_is_shown_and_not_a_crash(fresh: Desk) -> None:
    fresh.place.down("R")
    fresh.place.master.rows["reservations"] = [
        {"state": 5, "target": "x", "reserved_units": None},
        {"target": {}},
    ]
    fresh.place.master.rows["pools"] = [{"total_units": "many"}, {}]
    fresh.place.master.rows["copies"] = [{"copy_id": "c1"}, {"links": 7}]
    for page in PAGES:
        answer = fresh.get(page)
        assert answer.status_code in (200, 422), (page, answer.text)
    assert "1 array does not answer" in fresh.get("/tables/reservations").text


def test_htmx_is_given_only_the_part_that_lives(lasting: Desk) -> None:
    for page in ("/", "/copies", "/tables/pools", "/events", "/alarms", "/fibre-channel"):
        answer = lasting.client.get(page, headers={"hx-request": "true"})
        assert answer.status_code == 200 and "<html" not in answer.text
        assert answer.text.strip().startswith('<div id="live"'), page


def test_language_and_theme_are_kept_in_cookies_and_lead_back_to_this_server_alone(fresh: Desk) -> None:
    answer = fresh.post("/preferences", {"language": "ja", "back": "/copies?page=2"})
    assert answer.headers["location"] == "/copies?page=2"
    fresh.post("/preferences", {"theme": "dark"})
    shown = fresh.get("/").text
    assert '<html lang="ja" data-theme="dark">' in shown
    assert '<html lang="en"' in fresh.get("/", lang="en").text
    for away in ("//evil.example", "https://evil.example", "/\\evil.example", "evil", "/a\nb"):
        assert fresh.post("/preferences", {"back": away}).headers["location"] == "/"
    fresh.post("/preferences", {"language": "xx", "theme": "pink"})
    assert '<html lang="ja" data-theme="dark">' in fresh.get("/").text


def test_an_alarm_is_acknowledged_with_a_note_by_who_asks(fresh: Desk) -> None:
    station = fresh.place.station
    cause = alarms.Cause(kind=AlarmKind.STALE_CHANNEL, subject="channel A,B", text="too old")
    made = station.store.database.write(lambda transaction: alarms.raise_alarm(transaction, station, cause))
    assert made is not None
    assert "Channel values are stale" in fresh.get("/").text
    assert '>1<span class="hidden-text"> not acknowledged' in fresh.get("/copies").text
    assert 'class="badge"' in fresh.get("/alarms/badge").text
    answer = fresh.post(f"/alarms/{made.number}/ack", {"note": "on it <b>"}, "/alarms")
    assert answer.status_code == 303
    (alarm,) = alarms.listed(station)
    assert (alarm.acknowledged_by, alarm.note) == ("local", "on it <b>")
    assert "on it &lt;b&gt;" in fresh.get("/alarms").text
    assert 'class="badge none"' in fresh.get("/alarms/badge").text
    assert fresh.post("/alarms/999/ack", {}).status_code == 404
    assert fresh.get("/alarms/csv").text.count("stale-channel") == 1


def test_a_channel_has_its_history_as_a_page_and_as_data(fresh: Desk) -> None:
    fresh.post("/reserve/port-pair", PAIR | COUNTS)
    answer = fresh.post("/channels/measure", PAIR, "/channels")
    assert answer.status_code == 303
    series = fresh.get("/channels/data", **PAIR).json()
    assert series["bandwidth_bps"] and set(series["rtt_ns"]) == {280_000_000}
    assert "10 Mbit/s" in fresh.get("/channels", pair=f"{LOCAL},{REMOTE}").text.replace("\xa0", " ")
    fresh.place.down("probe")
    assert fresh.post("/channels/measure", PAIR, "/channels").status_code == 502
    assert channels.is_stale(fresh.place.station, fresh.place.station.store.channels()[0])
    assert fresh.get("/channels", local_port="x", remote_port="y").status_code == 422


_TEXTS = st.text(max_size=12) | st.sampled_from(
    [LOCAL, REMOTE, "port_pair", "connection", "1", "9" * 40, "1MiB"]
)
_NAMES = (
    "kind", "local_port", "remote_port", "remote_port_number", "buffer_id", "name", "remote_name", "sessions",
    "connections_per_session", "mode", "size_bytes", "lease", "do", "new", "expand", "both_ends", "volume", "rtt",
    "bandwidth", "connections", "page", "sort", "desc", "q", "span", "pair", "drain", "request_id", "lang", "note",
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from(
        [
            "/reserve/port-pair",
            "/reserve/connection",
            "/reserve/volume-pair",
            "/size",
            "/size/preview",
            "/copies/start",
            "/reservation",
            "/reservation/release",
            "/channels",
            "/channels/measure",
            "/preferences",
            "/undo",
            "/tables/pools",
            "/",
            "/alarms",
            "/events",
            "/copies",
        ]
    ),
    fields=st.dictionaries(st.sampled_from(_NAMES), _TEXTS),
)
def test_whatever_is_in_a_form_or_a_link_is_answered_and_never_by_a_crash(
    lasting: Desk, path: str, fields: dict[str, str]
) -> None:
    assert lasting.get(path, **fields).status_code < 500 or path in ("/channels/measure",)
    assert lasting.post(path, fields).status_code < 500
