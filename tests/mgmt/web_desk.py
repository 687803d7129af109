"""A reader of the station's pages without a browser: real HTTP through the gate, forms with the token of their page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from credits.errors import Code, Refused, Shortage
from mgmt.api.app import make_app
from mgmt.api.security.gate import Security
from mgmt.http import ServerThread
from mgmt.messages import (
    Envelope,
    Message,
    ReservationPreview,
    ReservationPreviewRequest,
    ReservationReleaseRequest,
    ReservationReleaseResponse,
)
from mgmt.pair_messages import GroupStatus, PairRequest
from mgmt.plain import to_plain
from mgmt.web.pages import add_pages
from tests.mgmt.station_stand_ins import LOCAL, REMOTE, UNIT, Site, StandInArray, site

PAIR = {"local_port": LOCAL, "remote_port": REMOTE}
TARGET = {"kind": "port_pair"} | PAIR


class PageArray(StandInArray):
    """The stand-in, which also answers what the pages ask: previews, releases, one pool."""

    def info(self) -> dict[str, Any]:
        return super().info() | {"interface": "tcp0"}

    def handle(self, envelope: Envelope) -> Message:
        message = envelope.message
        match message:
            case ReservationPreviewRequest():
                self.seen.append(envelope)
                units = -(-message.requested_bytes // UNIT)
                more = units - self.reserved_units
                if more > self.free_units:
                    raise Refused(
                        Code.NO_MEMORY, "no memory", Shortage(more, self.free_units, 0, self.free_units)
                    )
                return ReservationPreview(
                    target=message.target,
                    unit_bytes=UNIT,
                    previous_units=self.reserved_units,
                    reserved_units=units,
                    reserved_bytes=units * UNIT,
                    pending_shrink_units=0,
                    expanded_units=0,
                    free_units_before=self.free_units,
                    free_units_after=self.free_units - more,
                    revision=1,
                )
            case ReservationReleaseRequest():
                self.seen.append(envelope)
                if self.refuse(message):
                    raise Refused(Code.BUSY, "units are in use")
                return ReservationReleaseResponse(
                    target=message.target, released_units=7, draining_units=0, revision=3
                )
            case PairRequest():
                self.seen.append(envelope)
                if self.refuse(message):
                    raise Refused(Code.STALE, "the pair is in another state")
                return group_status(message.group)
            case _:
                return super().handle(envelope)


class _Ids(HTMLParser):
    """What a page's markup has to keep: its ids, its references to them, and tags that close in order."""

    _VOID = frozenset({"meta", "link", "input", "br", "rect", "circle"})

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.wanted: set[str] = set()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            elif name in ("for", "list", "aria-labelledby", "aria-describedby") and value:
                self.wanted.update(value.split())
        if tag not in self._VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> at line {self.getpos()[0]}")


def check_markup(text: str) -> None:
    """Tags close in order, ids are unique, and labels and descriptions point to something."""
    seen = _Ids()
    seen.feed(text)
    assert (seen.wrong, seen.open) == ([], []), text[-500:]
    assert len(seen.ids) == len(set(seen.ids)), sorted(seen.ids)
    assert seen.wanted <= set(seen.ids), seen.wanted - set(seen.ids)


class Desk:
    """One reader; cookies are kept as a browser does. ``app`` is what it reads."""

    def __init__(self, client: httpx.Client, place: Site, app: FastAPI) -> None:
        self.client, self.place, self.app = client, place, app

    def get(self, path: str, **query: Any) -> httpx.Response:
        """A page, which is well-formed."""
        answer = self.client.get(path, params=query or None)
        if answer.headers.get("content-type", "").startswith("text/html"):
            check_markup(answer.text)
        return answer

    def post(self, path: str, fields: dict[str, Any], page: str = "/", **headers: str) -> httpx.Response:
        """Submit a form as the page at ``page`` would."""
        token = re.search(r'name="csrf_token" value="([^"]+)"', self.client.get(page).text)
        assert token is not None
        sent = {"referer": f"http://localhost{page}"} | headers
        answer = self.client.post(path, data={"csrf_token": token[1]} | fields, headers=sent)
        if answer.headers.get("content-type", "").startswith("text/html"):
            check_markup(answer.text)
        return answer


def error_at(answer: httpx.Response, field: str) -> str:
    """What stands beside a field; nothing where it is right."""
    found = re.search(rf'id="{field}-error"><b>[^<]*</b> ([^<]*)<', answer.text)
    return html.unescape(found[1]) if found else ""


def commands(answer: httpx.Response) -> list[str]:
    """Everything that the page offers to copy."""
    return [
        html.unescape(text) for text in re.findall(r"<code>((?:sancredit|curl) [^<]*)</code>", answer.text)
    ]


@contextmanager
def desk(directory: Path, security: Security | None = None) -> Iterator[Desk]:
    """A desk before a station with two stand-in arrays and a stand-in device."""
    with site(directory) as place:
        for name, port in (("M", LOCAL), ("R", REMOTE)):
            array = PageArray(name, port)
            array.rows["pools"] = [pool(name)]
            setattr(place, "master" if name == "M" else "remote", array)
            place.down(name)
            place.up(name)
        path = f"{directory}/station.sock"
        transport = httpx.HTTPTransport(uds=path)
        app = make_app(place.station, security=security, faces=(add_pages,))
        with (
            ServerThread(app, f"unix:{path}"),
            httpx.Client(transport=transport, base_url="http://localhost", timeout=20) as client,
        ):
            yield Desk(client, place, app)


def pool(array: str) -> dict[str, Any]:
    """A row of ``get pools``."""
    return {
        "array": array,
        "interface": "tcp0",
        "kind": "tcp",
        "unit_bytes": UNIT,
        "total_units": 3000,
        "free_units": 2000,
        "reserved_idle_units": 900,
        "in_use_units": 90,
        "draining_units": 10,
        "expandable_units": 0,
        "held_units": 0,
        "degraded_units": 0,
        "revision": 1,
    }


def pair_row(array: str, volume: str, state: str, *, role: str = "P-VOL", **values: Any) -> dict[str, Any]:
    """A row of ``get /v1/pairs`` of the group ``db``."""
    status = to_plain(replace(group_status("db"), role=role, state=state))
    del status["pairs"]
    row = status | {
        "array": array,
        "group_state": state,
        "volume": volume,
        "state": state,
        "remote_lun": 0,
        "total_bytes": 4 << 20,
        "dirty_bytes": 0,
        "progress": 1.0,
        "rpo_ns": 0,
    }
    return row | values


def group_status(group: str) -> GroupStatus:
    """How an array says that a group stands."""
    return GroupStatus(
        group=group,
        group_id="0" * 32,
        role="P-VOL",
        mode="async",
        fence="never",
        state="PAIR",
        pairs=(),
        generation=1,
        epoch=1234,
        last_seq=5,
        newest_seq=5,
        consistent=True,
        connections=4,
        wanted_connections=6,
        reserved_bytes=1_500_000,
        in_flight_bytes=1_000_000,
        journal_bytes=9 << 20,
        journal_capacity_bytes=32 << 20,
        rpo_bytes=0,
        sent_bytes=1,
        resynced_bytes=0,
        local_port=LOCAL,
        remote_port=REMOTE,
    )


def reservation(number: int, array: str = "M") -> dict[str, Any]:
    """A row of table 101 of the connection ``number``."""
    return {
        "array": array,
        "interface": "tcp0",
        "target": {"kind": "connection", **PAIR, "buffer_id": number},
        "buffer_address": 0x1000 * number,
        "reserved_units": number,
        "reserved_bytes": number * UNIT,
        "requested_bytes": number * UNIT - 1,
        "in_use_units": 0,
        "state": "reserved",
        "idle_units": number,
        "pending_shrink_units": 0,
        "backed_units": number,
    }


def running_copy(progress: float, state: str) -> dict[str, Any]:
    """A row of ``get copies``."""
    total = 8 * 1024**3
    return PAIR | {
        "copy_id": f"copy-{state}",
        "array": "M",
        "volume": "vol0",
        "mode": "initial",
        "state": state,
        "connections": 6,
        "total_bytes": total,
        "acknowledged_bytes": int(progress * total),
        "progress": progress,
        "reserved_bytes": 1_500_000,
        "in_flight_bytes": 1_200_000,
        "max_in_flight_bytes": 1_480_000,
        "rpo_bytes": int((1 - progress) * total),
        "rpo_ns": None,
        "seconds": 93.4,
        "goodput_bps": 9_400_000,
        "error": "the remote array does not answer" if state == "failed" else "",
        "links": [],
    }
