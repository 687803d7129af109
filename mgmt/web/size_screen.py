"""Screen 701: available, recommended and why; automatic or manual; what it would change; a way out of a shortage."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from credits.checks import LEASE_LIMIT_NS
from credits.sizing import Recommendation
from credits.targets import Target, TargetKind
from mgmt.http import ProblemError, shortage_of
from mgmt.messages import InterfaceInfoGetResponse, ReservationPreview
from mgmt.station import both_ends, channels, reservations, sizes
from mgmt.station.arrays import Site
from mgmt.station.store import Channel
from mgmt.web.bars import Part, change_bars
from mgmt.web.commands import Command, post, target_body, target_words
from mgmt.web.face import REFUSALS, Face, Submitted, as_problem, asker
from mgmt.web.forms import Form, Pair, named_target, target_fields
from mgmt.web.readable import count, size
from mgmt.web.reading import holders, pool_of, reservation_of
from mgmt.web.rendering import link, redirect
from mgmt.web.screens import SLUG

AUTO, MANUAL = "auto", "manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What reserving would change (``preview``), or the refusal it would get (``problem``)."""

    preview: ReservationPreview | None = None
    problem: Mapping[str, Any] | None = None
    bars: Mapping[str, tuple[Part, ...]] | None = None

    @property
    def delta_units(self) -> int:
        """Units that the reservation grows by."""
        return 0 if self.preview is None else self.preview.reserved_units - self.preview.previous_units


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What screen 701 shows of a target."""

    target: Target
    pair: Pair
    site: Site
    interface: InterfaceInfoGetResponse
    recommendation: Recommendation | None
    short_units: int
    stale: bool
    channel: Channel | None
    pool: Mapping[str, Any] | None
    held: Mapping[str, Any] | None

    @property
    def measured_at(self) -> str | None:
        """When the channel was measured."""
        return None if self.channel is None else self.channel.measured_at

    @property
    def counts(self) -> dict[str, int]:
        """Sessions and connections as table 108 has them, for the form before."""
        if self.channel is None:
            return {}
        counted = self.channel
        return {"sessions": counted.sessions, "connections_per_session": counted.connections_per_session}

    @property
    def via(self) -> Pair | None:
        """The pair, where the target has no ports of its own."""
        return self.pair if self.target.local_port is None else None


def add(router: APIRouter, face: Face) -> None:
    """The routes."""

    @router.get("/size")
    def show(request: Request) -> Response:
        """The screen, for the target that the URL names; nothing is registered, measured or changed."""
        return _screen(face, request, face.query(request))

    @router.get("/size/preview")
    def show_change(request: Request) -> Response:
        """What would change with the size that is typed so far."""
        form = face.query(request)
        situation = _situation(face, form)
        change = _change(face, situation, form)
        return face.page(
            request, "size_change.html", situation=situation, change=change, form=form, manual=_manual(form)
        )

    @router.post("/size")
    def submit(request: Request, submitted: Submitted) -> Response:
        """OK (707), cancel (708), and measuring again."""
        form = face.form(request, submitted)
        situation = _situation(face, form)
        match form.text("do"):
            case "cancel":
                return _cancel(face, request, situation, form)
            case "measure":
                return _measure(face, request, situation, form)
            case "preview":
                return _screen(face, request, form, situation=situation)
            case _:
                return _reserve(face, request, situation, form)


def _situation(face: Face, form: Form) -> Situation:
    station = face.station
    named = named_target(form)
    if named is None or (named[1] is None and named[0].local_port is None):
        detail = "; ".join(f"{name}: {text}" for name, text in form.errors.items())
        raise ProblemError(
            "INVALID_TARGET",
            detail or "the address of this page names no target",
            status=422,
            title="No target",
        )
    target, pair = named
    pair = pair or (str(target.local_port), str(target.remote_port))
    site = station.arrays.with_port(pair[0])
    interface = sizes.available(site, target)
    advice = None
    with suppress(ProblemError):  # not measured: only a size by hand (GAP-11)
        advice = sizes.suppose(station, target, via=pair if target.local_port is None else None)
    row = station.store.channel(*pair, target.remote_port_number)
    return Situation(
        target=target,
        pair=pair,
        site=site,
        interface=interface,
        recommendation=None if advice is None else advice.recommendation,
        short_units=0 if advice is None else advice.short_units(advice.recommendation),
        stale=row is not None and channels.is_stale(station, row),
        channel=row,
        pool=pool_of(site),
        held=reservation_of(station, target),
    )


def _manual(form: Form) -> bool:
    """Radio 705; drawn on in figure 4b, so it is what a screen without a recommendation starts with."""
    return form.text("mode") == MANUAL


def _change(face: Face, situation: Situation, form: Form, size_bytes: int | None = None) -> Change:
    """The difference that the size in the form would make; of a size that is no size, none."""
    if size_bytes is None and _manual(form):
        size_bytes = Form(form.values, form.language).size("size_bytes")
        if size_bytes is None:
            return Change()
    if size_bytes is None:
        if situation.recommendation is None:
            return Change()
        size_bytes = situation.recommendation.reserve_bytes
    try:
        found = reservations.preview(face.station, situation.target, via=situation.via, size_bytes=size_bytes)
    except REFUSALS as error:
        return Change(problem=as_problem(error))
    answer = found.answer
    total = situation.pool.get("total_units") if situation.pool is not None else None
    bars = None
    if type(total) is int:
        bars = change_bars(
            total,
            (answer.previous_units, answer.free_units_before),
            (answer.reserved_units, answer.free_units_after),
        )
    return Change(preview=answer, bars=bars)


def _screen(
    face: Face,
    request: Request,
    form: Form,
    *,
    situation: Situation | None = None,
    status: int = 200,
    problem: Mapping[str, Any] | None = None,
) -> Response:
    situation = situation or _situation(face, form)
    values = dict(form.values)
    if situation.recommendation is None or (values.get("mode") is None and situation.target.buffer_id):
        values["mode"] = MANUAL
    form.values = {"mode": AUTO, "request_id": uuid.uuid4().hex} | values
    interface = situation.interface
    return face.page(
        request,
        "screen_701.html",
        status=status,
        commands=_commands(request, situation, form),
        situation=situation,
        form=form,
        manual=_manual(form),
        fields=target_fields(situation.target, situation.pair),
        change=_change(face, situation, form),
        problem=problem,
        holders=holders(face.station, situation.site.array, situation.target)
        if situation.short_units
        else [],
        limit_units=interface.available_units + interface.reserved_units,
        back=link(
            f"/reserve/{SLUG[situation.target.kind]}",
            **target_fields(situation.target, situation.pair),
            **situation.counts,
        ),
    )


def _commands(request: Request, situation: Situation, form: Form) -> tuple[Command, ...]:
    base = str(request.base_url).rstrip("/")
    typed = Form(form.values, form.language).size("size_bytes") if _manual(form) else None
    target, via = situation.target, situation.via
    verb = "update" if target.buffer_id is not None else "reserve"
    names = target_words(target, situation.pair)
    words = [verb, *names, "--size", "auto" if typed is None else str(typed)]
    body = target_body(target, via, size_bytes=typed)
    commands = [post(base, words, verb, body), post(base, [*words, "--dry-run"], "preview", body)]
    if target.buffer_id is None:
        commands.append(
            post(base, ["recommend", *names, "-o", "json"], "recommend", target_body(target, via))
        )
    return tuple(commands)


def _cancel(face: Face, request: Request, situation: Situation, form: Form) -> Response:
    """708: the row that 801 has made goes again, unless something is reserved for it."""
    if form.text("new"):
        with suppress(*REFUSALS):
            channels.unregister(
                face.station, channels.over(situation.target, situation.via), by=asker(request)
            )
    return redirect("/", cancelled="1")


def _measure(face: Face, request: Request, situation: Situation, form: Form) -> Response:
    """Steps 802-804 again."""
    try:
        channels.measure(face.station, *situation.pair)
    except REFUSALS as error:
        found = as_problem(error)
        return _screen(face, request, form, situation=situation, status=int(found["status"]), problem=found)
    return redirect("/size", **target_fields(situation.target, situation.pair), new=form.text("new"))


def _reserve(face: Face, request: Request, situation: Situation, form: Form) -> Response:
    """Steps 809-812."""
    size_bytes = _chosen_size(face, situation, form)
    lease_ns = form.delay("lease")
    if lease_ns is not None and lease_ns > LEASE_LIMIT_NS:
        form.wrong("lease", form.language("A lease is at most 10 years."))
    if form.errors:
        return _screen(face, request, form, situation=situation, status=422)
    try:
        target = _carry_out(face, situation, form, size_bytes, lease_ns, by=asker(request))
    except REFUSALS as error:
        found = as_problem(error)
        return _screen(face, request, form, situation=situation, status=int(found["status"]), problem=found)
    return redirect("/reservation", **target_fields(target, situation.pair), done="reserved")


def _chosen_size(face: Face, situation: Situation, form: Form) -> int | None:
    """The size by hand, checked as step 809 has it; ``None`` for the recommended one, checked against expansion."""
    size_bytes = None
    if _manual(form):
        size_bytes = form.size("size_bytes")
        if size_bytes is None:
            return None
    elif situation.recommendation is None:
        form.wrong(
            "mode-manual", form.language("There is no recommended size: the channel has not been measured.")
        )
        return None
    change = _change(face, situation, form, size_bytes)
    name = "size_bytes" if _manual(form) else "mode-auto"
    if change.problem is not None and (short := shortage_of(change.problem)) is not None:
        units = situation.interface.reserved_units + short.grantable_units
        form.wrong(
            name,
            form.language(
                "That is more than can be had: at most %(size)s (%(units)s units).",
                size=size(units * situation.interface.unit_bytes),
                units=count(units),
            ),
        )
    elif change.preview is not None and change.preview.expanded_units and not form.text("expand"):
        form.wrong(
            name,
            form.language(
                "That is more than is available now: %(units)s units would be split from pages. Allow it under "
                "“More”, or take less.",
                units=count(change.preview.expanded_units),
            ),
        )
    return size_bytes


def _carry_out(
    face: Face, situation: Situation, form: Form, size_bytes: int | None, lease_ns: int | None, *, by: str
) -> Target:
    """Reserve; the target by which the reservation is found (a connection's with the buffer ID that it was given)."""
    station, target = face.station, situation.target
    request_id = form.text("request_id")[:128] or None
    if target.buffer_id is not None:
        reservations.update(station, target, size_bytes=size_bytes, request_id=request_id, by=by)
        return target
    if form.text("both_ends") and target.kind is TargetKind.PORT_PAIR:
        both_ends.reserve_both_ends(station, target, size_bytes=size_bytes, lease_ns=lease_ns, by=by)
        return target
    done = reservations.reserve(
        station,
        target,
        via=situation.via,
        size_bytes=size_bytes,
        lease_ns=lease_ns,
        request_id=request_id,
        by=by,
    )
    if done.answer.buffer_id is None:
        return target
    return Target(TargetKind.CONNECTION, *situation.pair, buffer_id=done.answer.buffer_id)
