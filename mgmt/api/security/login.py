"""Logging in with a token, for browsers: ``/login`` and ``/logout``. A face may draw a ``GET /login`` of its own."""

from __future__ import annotations

from html import escape
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from mgmt.api.security import sessions
from mgmt.api.security.csrf import FIELD, csrf_token
from mgmt.api.security.gate import Access

_FIELD_LIMIT = 8
_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Log in · sancredit</title>
<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/static/api/plain.css"></head>
<body><main><h1>Log in</h1>{error}
<form method="post" action="/login">
<input type="hidden" name="{field}" value="{csrf}"><input type="hidden" name="next" value="{next}">
<p><label for="token">Token</label> <input id="token" name="token" type="password" required maxlength="128"
autocomplete="current-password"{invalid}></p>
<p><button>Log in</button></p></form>
<p>An administrator makes tokens with <code>sancredit station token create</code>.</p></main></body></html>
"""
_WRONG = '<p id="error" role="alert">Error: the token is unknown, revoked or expired.</p>'


def login_routes() -> list[Route]:
    """The routes; to be added after those of the faces."""
    return [
        Route("/login", _form, methods=["GET"]),
        Route("/login", _log_in, methods=["POST"]),
        Route("/logout", _log_out, methods=["POST"]),
    ]


async def _form(request: Request) -> Response:
    return _page(request, request.query_params.get("next", "/"), wrong=False)


async def _log_in(request: Request) -> Response:
    fields = parse_qs((await request.body()).decode("latin-1"), max_num_fields=_FIELD_LIMIT)
    wanted = fields.get("next", ["/"])[0]
    access = _access(request)
    cookie = access.log_in(request.scope, fields.get("token", [""])[0])
    if cookie is None:
        if access.security.tokens is None:
            return RedirectResponse(local_path(wanted), status_code=303)
        return _page(request, wanted, wrong=True)
    answer = RedirectResponse(local_path(wanted), status_code=303)
    secure = request.scope.get("scheme") == "https"
    answer.set_cookie(
        sessions.COOKIE,
        cookie,
        max_age=sessions.LIFETIME_S,
        httponly=True,
        samesite="strict",
        secure=secure,
    )
    return answer


async def _log_out(request: Request) -> Response:
    access = _access(request)
    if access.sessions is not None and (cookie := request.cookies.get(sessions.COOKIE)):
        access.sessions.close(cookie)
    answer = RedirectResponse("/login", status_code=303)
    answer.delete_cookie(sessions.COOKIE)
    return answer


def local_path(text: str) -> str:
    """``text`` where it is a path of this station, else ``/``: nobody is led elsewhere by a log-in."""
    if not text.startswith("/") or text.startswith(("//", "/\\")) or not text.isprintable():
        return "/"
    return text


def _page(request: Request, wanted: str, *, wrong: bool) -> Response:
    text = _PAGE.format(
        error=_WRONG if wrong else "",
        field=FIELD,
        csrf=csrf_token(request),
        next=escape(local_path(wanted), quote=True),
        invalid=' aria-invalid="true" aria-describedby="error"' if wrong else "",
    )
    return HTMLResponse(text, status_code=401 if wrong else 200)


def _access(request: Request) -> Access:
    access = request.state.access
    assert isinstance(access, Access)
    return access
