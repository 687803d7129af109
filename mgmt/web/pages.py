"""Putting the pages into the station's application."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles

from mgmt.station.context import Station
from mgmt.web import charts, copies, log, overview, reservation, screens, size_screen, tables
from mgmt.web.face import Face, Submitted, page_route
from mgmt.web.language import LANGUAGES
from mgmt.web.rendering import LANGUAGE_COOKIE, STATIC, THEME_COOKIE, THEMES, Renderer, redirect

_YEAR_S = 365 * 24 * 3600


def add_pages(app: FastAPI, station: Station) -> None:
    """Add the station's pages to ``app``, at ``/`` and beside ``/api``; for ``make_app(…, faces=(add_pages,))``."""
    face = Face(station, Renderer())
    router = APIRouter(include_in_schema=False, route_class=page_route(face))
    for part in (overview, screens, size_screen, reservation, copies, tables, charts, log):
        part.add(router, face)
    _add_preferences(router)
    app.include_router(router)
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
                    cookie, submitted[name], max_age=_YEAR_S, httponly=True, samesite="lax",
                    secure=request.url.scheme == "https",
                )
        return answer


def is_local(path: str) -> bool:
    """Whether ``path`` leads to a page of this server, and cannot lead to another."""
    return path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
