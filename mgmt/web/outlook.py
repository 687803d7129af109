"""What if: a channel fails, or becomes another. Who would run short, in which order, and what would help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from mgmt.station import whatif
from mgmt.station.canonical_json import target_in
from mgmt.station.channels import COUNT_LIMIT
from mgmt.web.commands import Command, get, post
from mgmt.web.face import REFUSALS, Face, as_problem
from mgmt.web.forms import Form, Pair
from mgmt.web.reading import known_pairs

#: What may happen to a channel.
FAILS, CHANGES = "fails", "changes"
_PAIRS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Foretold:
    """What would happen, or the refusal to foretell it."""

    answer: Mapping[str, Any] | None = None
    problem: Mapping[str, Any] | None = None


def add(router: APIRouter, face: Face) -> None:
    """The route."""

    @router.get("/what-if")
    def show(request: Request) -> Response:
        """The question, and where the URL asks one, the answer; nothing is changed."""
        form = face.query(request)
        local, comma, remote = form.text("pair").partition(",")
        if comma:
            form.values = dict(form.values) | {"local_port": local, "remote_port": remote}
        pairs = known_pairs(face.station)
        named = form.pair() if form.text("local_port") or form.text("remote_port") else None
        pair = named or next(iter(pairs), None)
        what = CHANGES if form.text("what") == CHANGES else FAILS
        bandwidth_bps, rtt_ns = form.rate("bandwidth"), form.delay("rtt")
        sessions, connections = (
            form.whole(name, 1, COUNT_LIMIT, needed=False) for name in ("sessions", "connections")
        )
        values = {"bandwidth_bps": bandwidth_bps, "rtt_ns": rtt_ns}
        if what == CHANGES:
            values |= {"sessions": sessions, "connections_per_session": connections}
            if form.text("ask") and not form.errors and not any(values.values()):
                form.wrong("bandwidth", form.language("Enter what would be different."))
        asked = bool(form.text("ask")) and named is not None and not form.errors
        return face.page(
            request,
            "what_if.html",
            status=422 if form.errors else 200,
            commands=_commands(request, form, pair, what, values),
            form=form,
            pairs=[*pairs[:_PAIRS], *([pair] if pair and pair not in pairs[:_PAIRS] else [])],
            pair=pair,
            what=what,
            foretold=_foretell(face, named, what, values) if asked and named is not None else None,
        )


def _foretell(face: Face, pair: Pair, what: str, values: Mapping[str, int | None]) -> Foretold:
    try:
        if what == FAILS:
            found = whatif.channel_failure(
                face.station, *pair, bandwidth_bps=values["bandwidth_bps"], rtt_ns=values["rtt_ns"]
            )
        else:
            supposed = whatif.Supposed(local_port=pair[0], remote_port=pair[1], **values)
            found = whatif.channel_change(face.station, [supposed])
    except REFUSALS as error:
        return Foretold(problem=as_problem(error))
    return Foretold(answer=shown(found))


def shown(outlook: whatif.Outlook) -> dict[str, Any]:
    """The object of an outlook, with its targets as targets."""
    found = whatif.row(outlook)
    steps = [dict(step) | {"target": target_in(step["target"])} for step in found["steps"]]
    return found | {"steps": steps}


def _commands(
    request: Request, form: Form, pair: Pair | None, what: str, values: Mapping[str, int | None]
) -> tuple[Command, ...]:
    base = str(request.base_url).rstrip("/")
    if pair is None or form.errors:
        return (get(base, "channels"),)
    names = {"bandwidth": "bandwidth", "rtt": "rtt", "sessions": "sessions", "connections": "connections"}
    given = [f"{of}={form.text(name)}" for name, of in names.items() if form.text(name)]
    if what == FAILS:
        given = [one for one in given if one.startswith(("bandwidth=", "rtt="))]
    body: dict[str, Any] = {"local_port": pair[0], "remote_port": pair[1], **values}
    body = {name: value for name, value in body.items() if value is not None}
    option, path = ("--failure", "failure") if what == FAILS else ("--channel", "channels")
    words = ["preview", option, ",".join(pair), *(["--if", ",".join(given)] if given else [])]
    return (post(base, words, f"preview/{path}", body if what == FAILS else {"channels": [body]}),)
