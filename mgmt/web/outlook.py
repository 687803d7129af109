"""What if: a channel fails, or becomes another. Who would run short, in which order, and what would help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from mgmt.http import ProblemError
from mgmt.plain import to_plain
from mgmt.station import whatif
from mgmt.station.canonical_json import target_in
from mgmt.station.channels import COUNT_LIMIT
from mgmt.web.commands import Command, get, post
from mgmt.web.downloads import download
from mgmt.web.face import REFUSALS, Face, as_problem
from mgmt.web.forms import Form, Pair
from mgmt.web.reading import known_pairs

#: What may happen to a channel.
FAILS, CHANGES = "fails", "changes"
_PAIRS = 200
#: Of the page's address, what asks.
_ASKED = frozenset(
    {"ask", "pair", "local_port", "remote_port", "what", "bandwidth", "rtt", "sessions", "connections"}
)
_STEP_FIELDS = (
    "order", "array", "target", "action", "sizing", "reserved_units", "wanted_units", "units", "short_units",
    "free_units", "unit_bytes", "recommended_bytes",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Foretold:
    """What would happen, or the refusal to foretell it."""

    answer: Mapping[str, Any] | None = None
    problem: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the URL asks: of which pair, what happens to its channel, and to which values."""

    pairs: Sequence[Pair]
    pair: Pair | None
    what: str
    values: Mapping[str, int | None]
    foretold: Foretold | None


def add(router: APIRouter, face: Face) -> None:
    """The routes."""

    @router.get("/what-if")
    def show(request: Request) -> Response:
        """The question, and where the URL asks one, the answer; nothing is changed."""
        form = face.query(request)
        asked = _ask(face, form)
        pair, pairs = asked.pair, list(asked.pairs[:_PAIRS])
        return face.page(
            request,
            "what_if.html",
            status=422 if form.errors else 200,
            commands=_commands(request, form, pair, asked.what, asked.values),
            form=form,
            pairs=[*pairs, *([pair] if pair and pair not in pairs else [])],
            pair=pair,
            what=asked.what,
            query={name: value for name, value in request.query_params.items() if name in _ASKED},
            foretold=asked.foretold,
        )

    @router.get("/what-if/{form}")
    def take(request: Request, form: str) -> Response:
        """The steps of the answer as CSV or JSON."""
        asked = _ask(face, face.query(request)).foretold
        answer = None if asked is None else asked.answer
        if answer is None:
            raise ProblemError("NOT_FOUND", "the address asks nothing", status=404, title="No answer")
        steps = [dict(step) | {"target": to_plain(step["target"])} for step in answer["steps"]]
        return download("what-if", form, steps, _STEP_FIELDS)


def _ask(face: Face, form: Form) -> Question:
    local, comma, remote = form.text("pair").partition(",")
    if comma:
        form.values = dict(form.values) | {"local_port": local, "remote_port": remote}
    pairs = known_pairs(face.station)
    named = form.pair() if form.text("local_port") or form.text("remote_port") else None
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
    return Question(
        pairs=pairs,
        pair=named or next(iter(pairs), None),
        what=what,
        values=values,
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
