"""The station's application: the faces put together behind one gate."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.staticfiles import StaticFiles

from credits.errors import Code
from mgmt.api.context import Api
from mgmt.api.docs_page import docs_route
from mgmt.api.messages import messages_route
from mgmt.api.metrics import metrics_route
from mgmt.api.redfish.service import redfish_routes
from mgmt.api.security.gate import Access, Gate, Security
from mgmt.api.security.login import login_routes
from mgmt.api.v1.alarms import add_alarms
from mgmt.api.v1.arrays import add_arrays
from mgmt.api.v1.audit import add_audit
from mgmt.api.v1.channels import add_channels
from mgmt.api.v1.copies import add_copies
from mgmt.api.v1.described import PROBLEM_SCHEMA, PROBLEMS
from mgmt.api.v1.events import add_events
from mgmt.api.v1.groups import add_groups
from mgmt.api.v1.outlooks import add_outlooks
from mgmt.api.v1.policies import add_policies
from mgmt.api.v1.reservations import add_reservations
from mgmt.api.v1.tables import add_tables
from mgmt.http import AddressError, exception_handlers, make_problem, problem_response
from mgmt.http.problems import PROBLEM_TYPE
from mgmt.http.tls import TlsError
from mgmt.station.context import Station
from mgmt.station.store import StationStoreError

_STATIC = Path(__file__).parent / "static"

#: Adds its routes to the application of a station: the web page is one.
Face = Callable[[FastAPI, Station], None]


def make_app(
    station: Station,
    *,
    security: Security | None = None,
    access: Access | None = None,
    faces: Sequence[Face] = (),
) -> FastAPI:
    """The application of ``station``; the caller closes the station.

    ``security`` is what it demands of who asks (nothing unless told: for loopback and Unix sockets); ``access``, for
    tests, is its state with clocks of the caller's.
    """
    handlers = exception_handlers() | {
        StationStoreError: _store_problem,
        RequestValidationError: _validation_problem,
        AddressError: _value_problem,
        TlsError: _value_problem,
        Exception: _defect_problem,
        HTTPException: _http_problem,
    }
    app = FastAPI(
        title="sancredit management station",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        exception_handlers=handlers,
    )
    app.state.takes_forms = True  # the gate admits only forms of pages of ours
    api = Api(station)
    station.feed.listen(api.hub.hear)
    app.state.end_streams = api.hub.close
    router = APIRouter(prefix="/api/v1", responses=PROBLEMS)
    add_tables(router, api)
    add_channels(router, api)
    add_reservations(router, api)
    add_copies(router, api)
    add_events(router, api)
    add_alarms(router, api)
    add_policies(router, api)
    add_audit(router, api)
    add_arrays(router, api)
    add_outlooks(router, api)
    add_groups(router, api)
    # Not included but taken over: an included router is asked for each request, which costs as much as the rest.
    app.router.routes.extend(router.routes)
    app.router.routes.append(messages_route(api))
    app.router.routes.append(docs_route(app))
    app.router.routes.extend(redfish_routes(station))
    app.router.routes.append(metrics_route(api))
    app.mount("/static/api", StaticFiles(directory=_STATIC), name="static of the API")
    for face in faces:
        face(app, station)
    app.router.routes.extend(login_routes())
    access = access or Access(security or Security(), utc_now=station.utc_now)
    access.refused = api.refused
    app.add_middleware(Gate, access=access)
    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    """Adds the problem to the schemas of the description, where FastAPI's own validation error was."""
    make = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = make()
            schemas = found.setdefault("components", {}).setdefault("schemas", {})
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            schemas["Problem"] = dict(PROBLEM_SCHEMA)
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def _store_problem(_request: Request, error: Exception) -> Response:
    body = make_problem(Code.STORE, str(error))
    return JSONResponse(body, status_code=body["status"], media_type=PROBLEM_TYPE)


def _http_problem(request: Request, error: Exception) -> Response:
    """What is not there; and for a wrong method all that the path has, which several routes may share."""
    answer = problem_response(request, error)
    if answer.status_code == 405:
        found: set[str] = set()
        for path, operations in request.app.openapi()["paths"].items():
            if re.fullmatch(re.sub(r"\\?\{[^}]*\}", "[^/]+", re.escape(path)), request.url.path):
                found |= {method.upper() for method in operations}
        if found:
            answer.headers["allow"] = ", ".join(sorted(found))
    return answer


def _defect_problem(_request: Request, _error: Exception) -> Response:
    """A defect of ours: its traceback is in the log, and nothing of it in the answer."""
    detail = "the station failed at this request; what it says is on its standard error"
    body = make_problem("INTERNAL", detail, status=500, title="Failed")
    return JSONResponse(body, status_code=500, media_type=PROBLEM_TYPE)


def _value_problem(_request: Request, error: Exception) -> Response:
    body = make_problem(Code.BAD_MESSAGE, str(error), status=422)
    return JSONResponse(body, status_code=422, media_type=PROBLEM_TYPE)


def _validation_problem(_request: Request, error: Exception) -> Response:
    first = error.errors()[0] if isinstance(error, RequestValidationError) else {"loc": (), "msg": str(error)}
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    detail = f"{where}: {first['msg']}" if where else str(first["msg"])
    body = make_problem(Code.BAD_MESSAGE, detail, status=422)
    return JSONResponse(body, status_code=422, media_type=PROBLEM_TYPE)
