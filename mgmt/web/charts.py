"""Charts: the history of a channel, and the credit-zero time of Fibre Channel ports."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from mgmt.http import ProblemError
from mgmt.station import channels, history
from mgmt.station.records import Sample
from mgmt.web.commands import Command, get, post
from mgmt.web.face import Face, Submitted
from mgmt.web.forms import Pair
from mgmt.web.language import mark
from mgmt.web.reading import Row, known_pairs, lenient, table
from mgmt.web.rendering import redirect
from mgmt.web.table import Wish

#: Name of a span of time → (hours, what it is called); 0 is all there is.
SPANS: Mapping[str, tuple[int, str]] = {
    "1h": (1, mark("1 hour")),
    "24h": (24, mark("24 hours")),
    "7d": (7 * 24, mark("7 days")),
    "all": (0, mark("everything")),
}
_USUAL_SPAN = "24h"
SAMPLES = 2000
_LISTED_SAMPLES = 15
PORTS = 12
_PAIRS = 200


def add(router: APIRouter, face: Face) -> None:
    """The routes."""

    @router.get("/channels")
    def show(request: Request) -> Response:
        """The channel that the URL names, or the first there is."""
        form = face.query(request)
        local, comma, remote = form.text("pair").partition(",")
        if comma:  # chosen from the list
            form.values = dict(form.values) | {"local_port": local, "remote_port": remote}
        pairs = known_pairs(face.station)
        pair = form.pair() if form.text("local_port") or form.text("remote_port") else next(iter(pairs), None)
        span = form.text("span") if form.text("span") in SPANS else _USUAL_SPAN
        known = [lenient(row) for row in table(face.station, "channels").rows if _pair(row) == pair]
        samples = [] if pair is None else _samples(face, pair, span)
        base = str(request.base_url).rstrip("/")
        commands: tuple[Command, ...] = (get(base, "channels"),)
        if pair is not None:
            body = {"local_port": pair[0], "remote_port": pair[1]}
            name = f"{pair[0]},{pair[1]}"
            commands += (
                post(base, ["measure", "--port-pair", name], "channels/measure", body),
                post(base, ["preview", "--failure", name], "preview/failure", body),
            )
        return face.page(
            request,
            "channels.html",
            status=422 if form.errors else 200,
            commands=commands,
            form=form,
            pairs=pairs[:_PAIRS],
            pair=pair,
            rows=known,
            span=span,
            spans=SPANS,
            series=_series(face, samples, span),
            newest=samples[: -_LISTED_SAMPLES - 1 : -1],
            count=len(samples),
            measured=form.text("measured"),
            now=face.station.utc_now().isoformat(),
        )

    @router.get("/channels/data")
    def data(request: Request) -> Response:
        """The series of one channel, for a chart that renews itself."""
        form = face.query(request)
        pair = form.pair()
        if pair is None:
            raise ProblemError("INVALID_TARGET", "name a port pair", status=422, title="No pair")
        span = form.text("span") if form.text("span") in SPANS else _USUAL_SPAN
        return JSONResponse(
            _series(face, _samples(face, pair, span), span), headers={"Cache-Control": "no-store"}
        )

    @router.post("/channels/measure")
    def measure(request: Request, submitted: Submitted) -> Response:
        """Steps 802-804."""
        form = face.form(request, submitted)
        pair = form.pair()
        if pair is None:
            raise ProblemError("INVALID_TARGET", "; ".join(form.errors.values()), status=422, title="No pair")
        channels.measure(face.station, *pair)
        return redirect("/channels", local_port=pair[0], remote_port=pair[1], measured="1")

    @router.get("/fibre-channel")
    def fibre_channel(request: Request) -> Response:
        """The Fibre Channel ports, their credits, and how long they waited for one."""
        found = table(face.station, "ports")
        rows = [row for row in found.rows if row.get("kind") == "fc"]
        wish = Wish.of(request.query_params)
        pages = max(1, -(-len(rows) // PORTS))
        page = min(max(1, wish.page), pages)
        base = str(request.base_url).rstrip("/")
        return face.page(
            request,
            "fibre_channel.html",
            commands=(get(base, "ports"),),
            ports=lenient(rows[(page - 1) * PORTS : page * PORTS]),
            page=page,
            pages=pages,
            found=len(rows),
            down=found.down,
            now=face.station.utc_now().isoformat(),
        )

    @router.get("/fibre-channel/data")
    def counters(request: Request) -> Response:
        """The counters that the credit-zero charts are made of."""
        del request
        rows = [row for row in table(face.station, "ports").rows if row.get("kind") == "fc"]
        names = ("array", "address", "credit_zero_time_ps", "credit_zero_transitions", "tx_remaining_credits")
        plain = {
            "at": face.station.utc_now().timestamp(),
            "ports": [{name: row.get(name) for name in names} for row in rows],
        }
        return JSONResponse(plain, headers={"Cache-Control": "no-store"})


def _pair(row: Row) -> Pair:
    return str(row.get("local_port")), str(row.get("remote_port"))


def _samples(face: Face, pair: Pair, span: str) -> list[Sample]:
    hours, _ = SPANS[span]
    since = face.station.utc_now() - timedelta(hours=hours) if hours else None
    return history.samples(face.station, *pair, since=since, limit=SAMPLES)


def _series(face: Face, samples: list[Sample], span: str) -> dict[str, Any]:
    """Columns for the chart, times in seconds and values in base units; and the span of time that it shows."""
    hours, _ = SPANS[span]
    until = face.station.utc_now().timestamp()
    first = datetime.fromisoformat(samples[0].at).timestamp() if samples else until
    return {
        "since": until - 3600 * hours if hours else min(first, until - 3600),
        "until": until,
        "at": [datetime.fromisoformat(sample.at).timestamp() for sample in samples],
        "bandwidth_bps": [sample.bandwidth_bps for sample in samples],
        "rtt_ns": [sample.rtt_ns for sample in samples],
    }
