"""Events and alarms: what happened, and what somebody should do something about."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from mgmt.http import ProblemError
from mgmt.station import alarms, events, undo
from mgmt.station.records import AlarmKind, AlarmState, Event
from mgmt.web.commands import Command, get, post
from mgmt.web.downloads import download
from mgmt.web.face import Face, Submitted, asker
from mgmt.web.reading import lenient
from mgmt.web.rendering import is_part, redirect
from mgmt.web.table import Wish
from mgmt.web.words import Words

PAGE_ROWS = 50
#: Events that a page and a download look at: the newest.
EVENTS = 1000
_EVENT_FIELDS = ("number", "at", "kind", "severity", "subject", "array", "text", "by")
_ALARM_FIELDS = (
    "number", "state", "kind", "severity", "subject", "array", "text", "raised_at", "changed_at", "count",
    "cleared_at", "acknowledged_at", "acknowledged_by", "note",
)  # fmt: skip


def add(router: APIRouter, face: Face) -> None:
    """The routes."""

    @router.get("/events")
    def show_events(request: Request) -> Response:
        """The newest events, the last first."""
        wish = Wish.of(request.query_params)
        rows = _events(face, wish, Words(face.renderer.language(request)))
        pages = max(1, -(-len(rows) // PAGE_ROWS))
        page = min(max(1, wish.page), pages)
        base = str(request.base_url).rstrip("/")
        stream = f"curl -sSN {base}/api/v1/events/stream"
        return face.page(
            request,
            "events.html",
            commands=(
                get(base, "events"),
                Command("sancredit get events --watch", stream),
                post(base, ["undo"], "undo", {}),
            ),
            rows=[events.row(event) for event in rows[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]],
            found=len(rows),
            page=page,
            pages=pages,
            wish=wish,
            # Not for what htmx fetches again: the box stands outside of it, and looking for it reads the trail.
            candidate=None if is_part(request) else undo.candidate(face.station),
            undone=request.query_params.get("undone", "")[:20],
            now=face.station.utc_now().isoformat(),
        )

    @router.post("/undo")
    def undo_last(request: Request, submitted: Submitted) -> Response:
        """Undo the change that the page has named, if nothing has changed since."""
        form = face.form(request, submitted)
        number = form.whole("number", 1, 2**53)
        if number is None:
            raise ProblemError("NOT_FOUND", "name the change", status=422, title="Nothing to undo")
        undo.undo(face.station, number=number, by=asker(request))
        return redirect("/events", undone=str(number))

    @router.get("/events/{form}")
    def download_events(request: Request, form: str) -> Response:
        """The newest events as CSV or JSON."""
        wish = Wish.of(request.query_params)
        rows = [events.row(event) for event in _events(face, wish, Words(face.renderer.language(request)))]
        return download("events", form, rows, _EVENT_FIELDS)

    @router.get("/alarms")
    def show_alarms(request: Request) -> Response:
        """What is open; with ``all=1`` also what is over."""
        form = face.query(request)
        rows = _alarms(face, form.text("kind"), everything=form.text("all") == "1")
        pages = max(1, -(-len(rows) // PAGE_ROWS))
        page = min(Wish.of(request.query_params).page, pages)
        base = str(request.base_url).rstrip("/")
        commands: tuple[Command, ...] = (get(base, "alarms"),)
        if rows:
            number = str(rows[0]["number"])
            commands += (post(base, ["alarm", "ack", number], f"alarms/{number}/ack", {}),)
        return face.page(
            request,
            "alarms.html",
            commands=commands,
            rows=rows[(page - 1) * PAGE_ROWS : page * PAGE_ROWS],
            found=len(rows),
            page=page,
            pages=pages,
            kinds=[kind.value for kind in AlarmKind],
            kind=form.text("kind"),
            everything=form.text("all") == "1",
            now=face.station.utc_now().isoformat(),
        )

    @router.get("/alarms/badge")
    def badge(request: Request) -> Response:
        """How many alarms nobody has acknowledged: a part of every page, for htmx."""
        return face.page(request, "badge.html", bare=True, number=alarms.count(face.station))

    @router.get("/alarms/{form}")
    def download_alarms(request: Request, form: str) -> Response:
        """The alarms as CSV or JSON."""
        wish = face.query(request)
        rows = _alarms(face, wish.text("kind"), everything=wish.text("all") == "1")
        return download("alarms", form, rows, _ALARM_FIELDS)

    @router.post("/alarms/{number}/ack")
    def acknowledge(request: Request, number: int, submitted: Submitted) -> Response:
        """Somebody has seen it."""
        form = face.form(request, submitted)
        alarms.acknowledge(face.station, number, by=asker(request), note=form.text("note"))
        return redirect("/alarms", all=form.text("all"))


def _events(face: Face, wish: Wish, words: Words) -> list[Event]:
    found = reversed(events.newest(face.station, EVENTS))
    needle = wish.query.casefold()
    # What stands in the list in the reader's language can be searched for, and what the command line shows of it.
    return [
        event
        for event in found
        if not needle or needle in _said(event) or needle in words.said(event.text).text.casefold()
    ]


def _said(event: Event) -> str:
    """Everything that an event says, to be searched."""
    words = (event.number, event.at, event.kind, event.severity.value, event.subject, event.array, event.text)
    return " ".join(map(str, (*words, event.by))).casefold()


def _alarms(face: Face, kind: str, *, everything: bool) -> list[dict[str, Any]]:
    states = tuple(AlarmState) if everything else alarms.OPEN
    wanted = AlarmKind(kind) if kind in set(AlarmKind) else None
    return [lenient(alarms.row(alarm)) for alarm in alarms.listed(face.station, states=states, kind=wanted)]
