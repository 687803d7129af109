"""Putting the pages into the station's application."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from mgmt.http import make_problem
from mgmt.station.context import Station
from mgmt.web import charts, copies, log, overview, reservation, screens, size_screen, tables
from mgmt.web.face import Face, Submitted, page_route, refusal_page
from mgmt.web.language import LANGUAGES
from mgmt.web.rendering import LANGUAGE_COOKIE, STATIC, THEME_COOKIE, THEMES, Renderer, redirect

#: Where programs ask, and are answered with problems.
_NO_PAGES = ("/api/", "/redfish", "/static/", "/metrics", "/messages")
_YEAR_S = 365 * 24 * 3600


def add_pages(app: FastAPI, station: Station) -> None:
    """Add the station's pages to ``app``, at ``/`` and beside ``/api``; for ``make_app(…, faces=(add_pages,))``."""
    face = Face(station, Renderer())
    router = APIRouter(include_in_schema=False, route_class=page_route(face))
    for part in (overview, screens, size_screen, reservation, copies, tables, charts, log):
        part.add(router, face)
    _add_preferences(router)
    _add_login(router, face)
    app.include_router(router)
    _answer_lost_readers(app, face)
    app.mount("/static", StaticFiles(directory=STATIC))


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
    """An address that leads nowhere is answered with a page, where a page was asked for."""
    usual = app.exception_handlers[HTTPException]

    async def answer(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 500)
        page = request.method == "GET" and "text/html" in request.headers.get("accept", "")
        if status == 404 and page and not request.url.path.startswith(_NO_PAGES):
            lost = make_problem("NOT_FOUND", f"nothing is at {request.url.path!r:.200}", status=404)
            return refusal_page(face, request, lost)
        made: Response = usual(request, error)  # type: ignore[assignment]
        return made

    app.add_exception_handler(HTTPException, answer)


def is_local(path: str) -> bool:
    """Whether ``path`` leads to a page of this server, and cannot lead to another."""
    return path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
