"""The station's HTTP API, ``/api/v1``: a face without logic over the use cases.

Lists are ``{"items": [...], "down": [{array, address, detail}]}``: the rows of ``design`` shapes from every array that
answered, and the arrays that did not. Refusals are RFC 9457 problems. The description is at
``/api/v1/openapi.json``.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.responses import JSONResponse
from starlette.routing import Route

from credits.errors import Code
from mgmt.http import exception_handlers, make_problem, message_endpoint
from mgmt.http.problems import PROBLEM_TYPE, problem
from mgmt.messages import BadMessage, ChannelChangeNotify, Envelope, Message, to_plain
from mgmt.station import both_ends, channels, copies, reservations, sizes
from mgmt.station.arrays import Gathered
from mgmt.station.bodies import (
    BothEndsBody,
    CopyBody,
    MeasureBody,
    PairBody,
    PreviewBody,
    RecommendBody,
    ReleaseBody,
    RequestId,
    ReserveBody,
    TargetOnlyBody,
    UpdateBody,
)
from mgmt.station.context import Station
from mgmt.station.store import StationStoreError


def make_app(station: Station) -> FastAPI:
    """The application of ``station``; the caller closes the station."""
    handlers = exception_handlers() | {
        StationStoreError: _store_problem,
        RequestValidationError: _validation_problem,
    }
    app = FastAPI(
        title="sancredit management station",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        exception_handlers=handlers,
    )
    _add_reads(app, station)
    _add_verbs(app, station)
    _add_copies(app, station)

    def hear(envelope: Envelope) -> Message:
        if not isinstance(envelope.message, ChannelChangeNotify):
            raise BadMessage(f"a station does not answer {type(envelope.message).__name__}")
        channels.take_notice(station, envelope.message)
        return envelope.message

    app.router.routes.append(Route("/messages", message_endpoint(hear), methods=["POST"]))
    return app


def _add_reads(app: FastAPI, station: Station) -> None:
    @app.get("/api/v1/arrays")
    def get_arrays() -> dict[str, Any]:
        """The station's arrays, up or down."""
        return _items(Gathered(station.arrays.arrays(), []))

    @app.get("/api/v1/ports")
    def get_ports() -> dict[str, Any]:
        """Every port of every array."""
        return _items(station.arrays.ports())

    @app.get("/api/v1/channels")
    def get_channels() -> dict[str, Any]:
        """Table 108."""
        rows = [channels.row(station, channel) for channel in station.store.channels()]
        return _items(Gathered(rows, []))

    @app.get("/api/v1/pairs")
    def get_pairs() -> dict[str, Any]:
        """The registered pairs: sizes recommended and reserved side by side."""
        return _items(sizes.pairs(station))

    @app.get("/api/v1/pools")
    def get_pools() -> dict[str, Any]:
        """Area 100 of every communication interface."""
        return _items(station.arrays.gather("/v1/pools"))

    @app.get("/api/v1/reservations")
    def get_reservations() -> dict[str, Any]:
        """Table 101 of every array."""
        return _items(station.arrays.gather("/v1/reservations"))

    @app.get("/api/v1/allocations")
    def get_allocations() -> dict[str, Any]:
        """Table 109 of every array."""
        return _items(station.arrays.gather("/v1/allocations"))

    @app.get("/api/v1/buffer-ids")
    def get_buffer_ids() -> dict[str, Any]:
        """Table 1500 of every array."""
        return _items(station.arrays.gather("/v1/buffer-ids"))

    @app.get("/api/v1/copies")
    def get_copies() -> dict[str, Any]:
        """The remote copies of every array."""
        return _items(station.arrays.gather("/v1/copies"))


def _add_verbs(app: FastAPI, station: Station) -> None:
    @app.post("/api/v1/pairs")
    def register(body: PairBody) -> dict[str, Any]:
        """Step 801: put a pair into table 108."""
        channel = channels.register(
            station,
            body.row_target(),
            sessions=body.sessions,
            connections_per_session=body.connections_per_session,
        )
        return channels.row(station, channel)

    @app.post("/api/v1/pairs/remove")
    def unregister(body: TargetOnlyBody) -> dict[str, Any]:
        """Take a pair out of table 108; refused while anything is reserved for it."""
        return channels.row(station, channels.unregister(station, body.row_target()))

    @app.post("/api/v1/channels/measure")
    def measure(body: MeasureBody) -> dict[str, Any]:
        """Steps 802-804: measure a registered pair."""
        rows = channels.measure(station, body.local_port, body.remote_port)
        return _items(Gathered([channels.row(station, row) for row in rows], []))

    @app.post("/api/v1/recommend")
    def recommend(body: RecommendBody) -> dict[str, Any]:
        """Steps 802-808: the recommended size of a target, and what is available."""
        advice = sizes.advise(
            station,
            body.target.target(),
            via=body.pair,
            sessions=body.sessions,
            connections_per_session=body.connections_per_session,
            remeasure=body.remeasure,
            policy=body.policy,
        )
        return _items(Gathered(sizes.rows(advice), []))

    @app.post("/api/v1/reserve")
    def reserve(body: ReserveBody) -> dict[str, Any]:
        """Steps 809-812: reserve."""
        done = reservations.reserve(
            station,
            body.target.target(),
            via=body.pair,
            size_bytes=body.size_bytes,
            sessions=body.sessions,
            connections_per_session=body.connections_per_session,
            lease_ns=body.lease_ns,
            request_id=body.request_id,
        )
        return _change(done)

    @app.post("/api/v1/reserve-both-ends")
    def reserve_both_ends(body: BothEndsBody) -> dict[str, Any]:
        """Reserve on both arrays of a port pair, or on neither."""
        done = both_ends.reserve_both_ends(
            station,
            body.row_target(),
            size_bytes=body.size_bytes,
            sessions=body.sessions,
            connections_per_session=body.connections_per_session,
            lease_ns=body.lease_ns,
        )
        plain: dict[str, Any] = {"local": _change(done.local), "remote": _change(done.remote)}
        if done.advice is not None:
            plain["advice"] = sizes.rows(done.advice)[0]
        return plain

    @app.post("/api/v1/update")
    def update(body: UpdateBody) -> dict[str, Any]:
        """Steps 1206-1208: bring a reservation to a size."""
        done = reservations.update(
            station,
            body.target.target(),
            via=body.pair,
            size_bytes=body.size_bytes,
            expected_revision=body.expected_revision,
            request_id=body.request_id,
        )
        return _change(done)

    @app.post("/api/v1/preview")
    def preview(body: PreviewBody) -> dict[str, Any]:
        """What a reservation would change, on the channel as it is or as it might become; nothing is changed."""
        found = reservations.preview(
            station,
            body.target.target(),
            via=body.pair,
            size_bytes=body.size_bytes,
            bandwidth_bps=body.bandwidth_bps,
            rtt_ns=body.rtt_ns,
            sessions=body.sessions,
            connections_per_session=body.connections_per_session,
        )
        return _change(found)

    @app.post("/api/v1/release")
    def release(body: ReleaseBody) -> dict[str, Any]:
        """Give a reservation up."""
        array, answer = reservations.release(
            station, body.target.target(), via=body.pair, drain=body.drain, request_id=body.request_id
        )
        return {"array": array} | _plain(answer)


def _add_copies(app: FastAPI, station: Station) -> None:
    @app.post("/api/v1/copies")
    def start(body: CopyBody) -> dict[str, Any]:
        """Steps 813-814: start a remote copy, one request for each connection of each session."""
        started = copies.start(
            station,
            body.target.target(),
            body.volume,
            via=body.pair,
            remote_volume=body.remote_volume,
            application_name=body.application,
            volume_groups=None
            if body.volume_groups is None
            else (body.volume_groups[0], body.volume_groups[1]),
            sessions=body.sessions,
            connections_per_session=body.connections_per_session,
            copy_id=body.copy_id,
        )
        return {
            "copy_id": started.copy_id,
            "connections": [_plain(answer) for answer in started.connections],
            "refusals": [problem(refusal)[1] for refusal in started.refusals],
        }

    @app.get("/api/v1/copies/{copy_id}")
    def status(copy_id: RequestId) -> dict[str, Any]:
        """How far a copy is."""
        return copies.row(station, copies.status(station, copy_id))

    @app.post("/api/v1/copies/{copy_id}/stop")
    def stop(copy_id: RequestId) -> dict[str, Any]:
        """Stop a copy; its units return to the list they came from."""
        return copies.row(station, copies.stop(station, copy_id))

    @app.post("/api/v1/copies/{copy_id}/verify")
    def verify(copy_id: RequestId) -> dict[str, Any]:
        """SHA-256 of both volumes, each computed by its own array."""
        local, remote = copies.verify(station, copy_id)
        equal = (local.sha256, local.length_bytes) == (remote.sha256, remote.length_bytes)
        return {"sha256_match": equal, "local": _plain(local), "remote": _plain(remote)}


def _items(gathered: Gathered) -> dict[str, Any]:
    return {"items": gathered.rows, "down": [asdict(down) for down in gathered.down]}


def _change(
    done: reservations.Reserved | reservations.Updated | reservations.Previewed,
) -> dict[str, Any]:
    plain = {"array": done.array, "requested_bytes": done.requested_bytes} | _plain(done.answer)
    if done.advice is not None:
        plain["advice"] = sizes.rows(done.advice)[0]
    return plain


def _plain(message: Message) -> dict[str, Any]:
    plain: dict[str, Any] = to_plain(message)
    return plain


def _store_problem(_request: Request, error: Exception) -> Response:
    body = make_problem(Code.STORE, str(error))
    return JSONResponse(body, status_code=body["status"], media_type=PROBLEM_TYPE)


def _validation_problem(_request: Request, error: Exception) -> Response:
    first = error.errors()[0] if isinstance(error, RequestValidationError) else {"loc": (), "msg": str(error)}
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    detail = f"{where}: {first['msg']}" if where else str(first["msg"])
    body = make_problem(Code.BAD_MESSAGE, detail, status=422)
    return JSONResponse(body, status_code=422, media_type=PROBLEM_TYPE)
