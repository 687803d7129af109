"""Live events: everybody hears them, nobody is waited for, nothing is missed after a break."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mgmt.api.app import make_app
from mgmt.api.stream import Hub, encode_event
from mgmt.http import ServerThread, protocol
from mgmt.station import events
from mgmt.station.records import Event, Severity
from tests.mgmt.station_stand_ins import LOCAL, REMOTE, Site, site


def event(number: int, kind: str = "reserved", text: str = "x") -> Event:
    return Event(
        number=number,
        at="2026-01-01T12:00:00+00:00",
        kind=kind,
        severity=Severity.INFO,
        subject="s",
        array=None,
        text=text,
        by="local",
    )


async def nothing_missed(after: int) -> list[tuple[int, bytes]]:
    return []


async def settled() -> None:
    """Lets what was handed to the loop happen."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_an_event_is_one_block_of_the_stream_whatever_is_in_it() -> None:
    text = encode_event(event(7, text="two\nlines ♥")).decode()
    assert text.startswith("id: 7\nevent: reserved\ndata: {") and text.endswith("}\n\n")
    (data,) = [line for line in text.splitlines() if line.startswith("data: ")]
    assert json.loads(data.removeprefix("data: "))["text"] == "two\nlines ♥"


def test_each_client_hears_what_it_asked_for_in_order() -> None:
    async def run() -> None:
        hub = Hub()
        everything = hub.subscribe(frozenset(), lambda: None)
        alarms = hub.subscribe(frozenset({"alarm-raised"}), lambda: None)
        assert everything is not None and alarms is not None
        for number in range(1, 4):
            hub.hear(event(number, "alarm-raised" if number == 2 else "reserved"))
        await settled()
        assert [number for number, _ in everything.waiting] == [1, 2, 3]
        assert [number for number, _ in alarms.waiting] == [2]

    asyncio.run(run())


def test_a_client_that_takes_nothing_is_cut_off_and_the_others_go_on() -> None:
    async def run() -> None:
        cut: list[str] = []
        hub = Hub(backlog=10)
        slow = hub.subscribe(frozenset(), lambda: cut.append("slow"))
        quick = hub.subscribe(frozenset(), lambda: cut.append("quick"))
        assert slow is not None and quick is not None
        heard = 0
        for number in range(50):
            hub.hear(event(number))
            await settled()
            heard += len(quick.waiting)
            quick.waiting.clear()
        assert (cut, heard) == (["slow"], 50)
        assert len(slow.waiting) == 0 and hub.counts.clients == 1 and hub.counts.dropped == 1

    asyncio.run(run())


def test_there_is_a_limit_to_clients_and_a_place_is_given_back() -> None:
    async def run() -> None:
        hub = Hub(clients=2)
        first, second = (hub.subscribe(frozenset(), lambda: None) for _ in range(2))
        assert first is not None and second is not None
        assert hub.subscribe(frozenset(), lambda: None) is None
        lines = hub.lines(first, nothing_missed, None)
        await anext(lines)
        await lines.aclose()  # type: ignore[attr-defined]
        assert hub.subscribe(frozenset(), lambda: None) is not None

    asyncio.run(run())


def test_what_was_missed_comes_first_and_nothing_twice() -> None:
    async def run() -> None:
        hub = Hub()
        subscriber = hub.subscribe(frozenset(), lambda: None)
        assert subscriber is not None
        stored = [event(number) for number in range(1, 6)]

        async def missed(after: int) -> list[tuple[int, bytes]]:
            found = [(one.number, encode_event(one)) for one in stored if one.number > after][:2]
            if not found:  # one more happens while the last page is read, and is in both
                hub.hear(stored[-1])
                hub.hear(event(6))
                await settled()
            return found

        text = b""
        async for part in hub.lines(subscriber, missed, 2):
            text += part
            if b"id: 6\n" in text:
                hub.close()
        assert [line for line in text.decode().splitlines() if line.startswith("id: ")] == [
            f"id: {number}" for number in range(3, 7)
        ]

    asyncio.run(run())


def test_a_hub_whose_loop_has_ended_hears_on_without_harm() -> None:
    hub = Hub()

    async def run() -> None:
        hub.subscribe(frozenset(), lambda: None)

    asyncio.run(run())
    hub.hear(event(1))
    hub.hear(event(2))


# -- over HTTP ---------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


@pytest.fixture
def server(place: Site) -> Iterator[ServerThread]:
    with ServerThread(make_app(place.station), "http://127.0.0.1:0") as thread:
        yield thread


def base(server: ServerThread) -> str:
    return f"http://{server.address.host_and_port}"


def blocks(answer: httpx.Response) -> Iterator[dict[str, str]]:
    found: dict[str, str] = {}
    for line in answer.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            found[name] = value
        elif found:
            yield found
            found = {}


def register(client: httpx.Client, sessions: int) -> None:
    target = {"kind": "port_pair", "local_port": LOCAL, "remote_port": REMOTE}
    client.post("/api/v1/pairs", json={"target": target, "sessions": sessions}).raise_for_status()


def test_a_change_is_heard_and_one_that_was_missed_is_heard_later(server: ServerThread) -> None:
    with httpx.Client(base_url=base(server), timeout=60) as client:
        with client.stream("GET", "/api/v1/events/stream") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            stream = blocks(answer)
            assert next(stream) == {"retry": "1000"}
            with httpx.Client(base_url=base(server), timeout=60) as other:
                register(other, 2)
            first = next(stream)
            assert first["event"] == "registered" and json.loads(first["data"])["by"] == "local"
        register(client, 3)
        with client.stream("GET", "/api/v1/events/stream", headers={"last-event-id": first["id"]}) as answer:
            stream = blocks(answer)
            next(stream)
            assert int(next(stream)["id"]) > int(first["id"])
        found = client.get("/api/v1/events", params={"after": 0}).json()["items"]
        assert [row["number"] for row in found] == sorted(row["number"] for row in found)


@pytest.mark.parametrize("headers", [{"last-event-id": "x"}, {"last-event-id": "-1"}])
def test_a_senseless_last_event_id_is_refused(server: ServerThread, headers: dict[str, str]) -> None:
    answer = httpx.get(f"{base(server)}/api/v1/events/stream", headers=headers, timeout=60)
    assert answer.status_code == 422 and answer.json()["code"] == "BAD_MESSAGE"


def test_a_client_that_does_not_read_is_cut_off_by_events_it_does_not_take(
    server: ServerThread, place: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "STALL_TIMEOUT_S", 600.0)  # it is the events that cut it off, not the time
    with (
        socket.create_connection((server.address.host, server.address.port)) as idle,
        httpx.Client(base_url=base(server), timeout=60) as client,
    ):
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        idle.sendall(b"GET /api/v1/events/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        idle.settimeout(60)
        found = b""
        while b"retry" not in found:
            found += idle.recv(4096)
        counts: dict[str, float] = {}
        for number in range(1000):
            for _ in range(50):
                place.station.feed.announce(event(number + 1, text="x" * 1000))
            counts = _counts(client)
            if counts["sancredit_station_event_streams_dropped_total"] == 1:
                break
        assert counts["sancredit_station_event_streams_dropped_total"] == 1
        assert counts["sancredit_station_event_streams"] == 0


def _counts(client: httpx.Client) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {
        line.split(" ")[0]: float(line.split(" ")[1])
        for line in lines
        if line.startswith("sancredit_station_event")
    }


def test_a_server_that_stops_ends_its_streams(place: Site) -> None:
    thread = ServerThread(make_app(place.station), "http://127.0.0.1:0").start()
    with (
        httpx.Client(base_url=base(thread), timeout=60) as client,
        client.stream("GET", "/api/v1/events/stream") as answer,
    ):
        stream = blocks(answer)
        next(stream)
        thread.stop()
        assert list(stream) == []


def test_the_newest_events_come_without_a_number_and_pages_with_one(
    server: ServerThread, place: Site
) -> None:
    with httpx.Client(base_url=base(server), timeout=60) as client:
        for sessions in range(2, 7):
            register(client, sessions)
        rows = events.listed(place.station)
        page: dict[str, Any] = client.get("/api/v1/events", params={"limit": 2}).json()
        assert [row["number"] for row in page["items"]] == [row.number for row in rows[-2:]]
        found, after = [], 0
        while after is not None:
            page = client.get("/api/v1/events", params={"limit": 2, "after": after}).json()
            found += [row["number"] for row in page["items"]]
            after = page["next"]
        assert found == [row.number for row in rows]
