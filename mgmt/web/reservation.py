"""One reservation: what is reserved and used, what would be recommended, what if; releasing it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from credits.targets import Target
from mgmt.http import ProblemError
from mgmt.layouts import LAYOUTS
from mgmt.station import policies, reservations, sizes
from mgmt.station.channels import COUNT_LIMIT
from mgmt.station.holders import with_pair
from mgmt.web.bars import Part, stacked
from mgmt.web.commands import Command, get, post, target_body, target_words
from mgmt.web.downloads import download
from mgmt.web.face import REFUSALS, Face, Submitted, as_problem, asker
from mgmt.web.forms import Form, Pair, named_target, target_fields
from mgmt.web.reading import reservation_of
from mgmt.web.rendering import link, redirect


@dataclass(frozen=True, slots=True, kw_only=True)
class Supposed:
    """What the channel might become, and what that would mean."""

    answer: Any = None
    advice: Any = None
    problem: Mapping[str, Any] | None = None


def add(router: APIRouter, face: Face) -> None:
    """The routes."""

    @router.get("/reservation")
    def show(request: Request) -> Response:
        """The reservation of the target that the URL names; with ``rtt`` and others, what if."""
        return _page(face, request, face.query(request))

    @router.get("/reservation/{form}")
    def take(request: Request, form: str) -> Response:
        """Its row of table 101 as CSV or JSON."""
        target, _ = named(face.query(request))
        row = reservation_of(face.station, target)
        if row is None:
            raise ProblemError(
                "NOT_FOUND", f"{target} has no reservation", status=404, title="No reservation"
            )
        return download("reservation", form, [row], LAYOUTS["reservations"].fields)

    @router.post("/reservation/release")
    def release(request: Request, submitted: Submitted) -> Response:
        """Give it up; while units are in use only with ``drain``."""
        form = face.form(request, submitted)
        target, via = named(form)
        try:
            _, answer = reservations.release(
                face.station,
                target,
                via=None if target.local_port else via,
                drain=bool(form.text("drain")),
                by=asker(request),
            )
        except REFUSALS as error:
            found = as_problem(error)
            return _page(face, request, form, status=int(found["status"]), problem=found)
        return redirect(
            "/reservation",
            **target_fields(target, via),
            done="released",
            units=answer.released_units,
            draining=answer.draining_units,
        )


def named(form: Form) -> tuple[Target, Pair | None]:
    """The target that the fields name. Raises :class:`ProblemError` where they name none."""
    found = named_target(form)
    if found is None:
        detail = "; ".join(form.errors.values()) or "the address of this page names no target"
        raise ProblemError("INVALID_TARGET", detail, status=422, title="No target")
    return found


def _page(
    face: Face,
    request: Request,
    form: Form,
    *,
    status: int = 200,
    problem: Mapping[str, Any] | None = None,
) -> Response:
    target, via = named(form)
    station = face.station
    row = reservation_of(station, target)
    pair = via
    if pair is None and row is not None:
        with suppress(*REFUSALS):
            whole = with_pair(station, target)
            pair = (str(whole.local_port), str(whole.remote_port)) if whole.local_port else None
    advice = None
    if pair is not None:
        with suppress(*REFUSALS):
            advice = sizes.suppose(station, target, via=None if target.local_port else pair)
    return face.page(
        request,
        "reservation.html",
        status=status,
        **({} if request.method == "GET" else {"here": link("/reservation", **target_fields(target, pair))}),
        commands=_commands(request, target, pair),
        target=target,
        pair=pair,
        row=row,
        policy=policies.find(station, target),
        bar=_bar(row),
        advice=advice,
        supposed=_suppose(face, form, target, pair),
        form=form,
        fields=target_fields(target, pair),
        done=form.text("done"),
        problem=problem,
        now=station.utc_now().isoformat(),
    )


def _bar(row: Mapping[str, Any] | None) -> tuple[Part, ...]:
    if row is None:
        return ()
    units = {"in-use": row.get("in_use_units"), "reserved": row.get("idle_units")}
    return stacked({name: count if type(count) is int else 0 for name, count in units.items()})


def _suppose(face: Face, form: Form, target: Target, pair: Pair | None) -> Supposed | None:
    """``preview --if``: by the same code as the real thing; nothing is changed."""
    names = ("bandwidth", "rtt", "sessions", "connections")
    if not any(form.text(name) for name in names) or pair is None:
        return None
    bandwidth_bps, rtt_ns = form.rate("bandwidth"), form.delay("rtt")
    sessions, connections = (
        form.whole(name, 1, COUNT_LIMIT, needed=False) for name in ("sessions", "connections")
    )
    if form.errors:
        return None
    try:
        found = reservations.preview(
            face.station,
            target,
            via=None if target.local_port else pair,
            bandwidth_bps=bandwidth_bps,
            rtt_ns=rtt_ns,
            sessions=sessions,
            connections_per_session=connections,
        )
    except REFUSALS as error:
        return Supposed(problem=as_problem(error))
    return Supposed(answer=found.answer, advice=found.advice)


def _commands(request: Request, target: Target, pair: Pair | None) -> tuple[Command, ...]:
    base = str(request.base_url).rstrip("/")
    words = target_words(target, pair)
    body = target_body(target, pair)
    return (
        get(base, "reservations"),
        post(base, ["update", *words, "--size", "auto"], "update", body),
        post(base, ["release", *words], "release", body),
    )
