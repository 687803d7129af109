"""Putting the pages into the station's application."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import Scope

from mgmt.http import make_problem
from mgmt.station.context import Station
from mgmt.web import (
    charts,
    copies,
    groups,
    log,
    outlook,
    overview,
    policy,
    reservation,
    screens,
    size_screen,
    tables,
    trail,
)
from mgmt.web.face import Face, Submitted, page_route, refusal_page
from mgmt.web.language import LANGUAGES
from mgmt.web.rendering import LANGUAGE_COOKIE, STATIC, THEME_COOKIE, THEMES, Renderer, is_local, redirect

#: Where programs ask, and are answered with problems.
_NO_PAGES = ("/api/", "/redfish", "/static/", "/metrics", "/messages")
_PARTS = (
    *(overview, screens, size_screen, reservation, policy, copies, groups),
    *(tables, charts, outlook, log, trail),
)
_YEAR_S = 365 * 24 * 3600


def add_pages(app: FastAPI, station: Station) -> None:
    """Add the station's pages to ``app``, at ``/`` and beside ``/api``; for ``make_app(…, faces=(add_pages,))``."""
    face = Face(station, Renderer())
    router = APIRouter(include_in_schema=False, route_class=page_route(face))
    for part in _PARTS:
        part.add(router, face)
    _add_preferences(router)
    _add_login(router, face)
    app.include_router(router)
    _answer_lost_readers(app, face)
    app.mount("/static", Assets(directory=STATIC))


class Assets(StaticFiles):
    """Files that may be kept for ever under the address that has the digest of their content."""

    def file_response(
        self, full_path: Any, stat_result: Any, scope: Scope, status_code: int = 200
    ) -> Response:
        """The file, or that it has not changed."""
        answer = super().file_response(full_path, stat_result, scope, status_code)
        dated = scope["query_string"].startswith(b"v=")
        answer.headers["cache-control"] = f"public, max-age={_YEAR_S}, immutable" if dated else "no-cache"
        return answer


def _add_preferences(router: APIRouter) -> None:
    @router.post("/preferences")
    def prefer(request: Request, submitted: Submitted) -> Response:
        """Language and theme, kept in cookies of this browser."""
        back = submitted.get("back", "/")
        answer = redirect(back if is_local(back) else "/")
        for cookie, name, allowed in (
            (LANGUAGE_COOKIE, "language", tuple(LANGUAGES)),
            (THEME_COOKIE, "theme", THEMES),
        ):
            if submitted.get(name) in allowed:
                answer.set_cookie(
                    cookie,
                    submitted[name],
                    max_age=_YEAR_S,
                    httponly=True,
                    samesite="lax",
                    secure=request.url.scheme == "https",
                )
        return answer


def _add_login(router: APIRouter, face: Face) -> None:
    @router.get("/login")
    def log_in(request: Request) -> Response:
        """Where a token is asked for; the form goes to the API's log-in."""
        wanted = request.query_params.get("next", "/")
        return face.page(request, "login.html", bare=True, wanted=wanted if is_local(wanted) else "/")


def _answer_lost_readers(app: FastAPI, face: Face) -> None:
    """What is refused before a page is reached, and a defect, is answered with a page where one was asked for."""

    def wrap(kind: type[Exception], codes: Collection[int]) -> None:
        usual = app.exception_handlers[kind]

        async def answer(request: Request, error: Exception) -> Response:
            made: Response = usual(request, error)  # type: ignore[assignment]
            if made.status_code not in codes or not _is_page(request):
                return made
            found = json.loads(bytes(made.body))
            if made.status_code == 404:
                found = make_problem("NOT_FOUND", f"nothing is at {request.url.path!r:.200}", status=404)
            return refusal_page(face, request, found)

        app.add_exception_handler(kind, answer)

    wrap(HTTPException, (404, 405))
    wrap(RequestValidationError, (422,))
    wrap(Exception, (500,))

    def refused(request: Request, found: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
        """What the gate refuses: nothing of the station is on its page."""
        answer = refusal_page(face, request, found, bare=True)
        answer.headers.update(headers)
        return answer

    app.state.refusal_page = refused


def _is_page(request: Request) -> bool:
    asked = "text/html" in request.headers.get("accept", "")
    return asked and not request.url.path.startswith(_NO_PAGES)
