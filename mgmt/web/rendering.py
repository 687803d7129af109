"""Turning a template and its values into a response: language, theme, what every page has, the security headers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mgmt.api.security.csrf import csrf_token
from mgmt.api.security.identity import LOCAL, Identity, Right
from mgmt.web.commands import Command
from mgmt.web.forms import target_fields
from mgmt.web.language import LANGUAGES, Language, Languages
from mgmt.web.readable import FILTERS, term
from mgmt.web.words import DO, NAVIGATION, Words

HERE = Path(__file__).parent
STATIC = HERE / "static"
_ADDRESS_LIMIT = 2000
LANGUAGE_COOKIE = "sancredit_language"
THEME_COOKIE = "sancredit_theme"
THEMES = ("auto", "light", "dark")
#: Beside what the middleware of :mod:`mgmt.api` gives every answer, the content security policy among it.
HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
}


class Renderer:
    """Renders the pages of one station."""

    def __init__(self, languages: Languages | None = None) -> None:
        self._languages = languages or Languages()
        self._environment = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(FILTERS)
        self._environment.globals |= {
            "asset": _assets().__getitem__,
            "target_fields": target_fields,
            "languages": LANGUAGES,
            "themes": THEMES,
            "link": link,
            "term_value": term,
        }

    def language(self, request: Request) -> Language:
        """By ``?lang=``, else the cookie, else the browser's wish."""
        return self._languages.choose(
            request.query_params.get("lang"),
            request.cookies.get(LANGUAGE_COOKIE),
            accept=request.headers.get("accept-language"),
        )

    def page(
        self,
        request: Request,
        template: str,
        *,
        status: int = 200,
        commands: tuple[Command, ...] = (),
        **values: Any,
    ) -> HTMLResponse:
        """The page; for htmx its part ``live`` alone, where the template has one."""
        language = self.language(request)
        reader = _reader(request)
        may_change = reader is None or reader.may(Right.CHANGE)
        theme = request.cookies.get(THEME_COOKIE)
        context = {
            "_": language,
            "ngettext": language.plural,
            "language": language,
            "words": Words(language),
            "theme": theme if theme in THEMES else "auto",
            "path": request.url.path,
            "here": _here(request),
            "commands": commands,
            "csrf_token": csrf_token(request),
            "who": None if reader is None else reader.name,
            "may_change": may_change,
            "navigation": [entry for entry in NAVIGATION if may_change or entry[0] != DO],
            "news": None,
            "bare": False,
            "base": str(request.base_url).rstrip("/"),
        } | values
        found = self._environment.get_template(template)
        live = found.blocks.get("live") if is_part(request) else None
        if live is None:
            text = found.render(context)
        else:
            text = "".join(live(found.new_context(context)))
        return HTMLResponse(
            text, status_code=status, headers=dict(HEADERS) | {"Content-Language": language.tag}
        )


def is_part(request: Request) -> bool:
    """Whether htmx asks, which is given the part ``live`` of a page alone."""
    return request.headers.get("hx-request") == "true"


def is_local(path: str) -> bool:
    """Whether ``path`` leads to a page of this server, and cannot lead to another."""
    return path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()


def came_from(request: Request) -> str:
    """The page of this server that a form was on, as the browser says; else the overview."""
    found = urlsplit(request.headers.get("referer", "")[:_ADDRESS_LIMIT])
    path = f"{found.path}?{found.query}" if found.query else found.path
    return path if found.netloc == request.headers.get("host") and is_local(path) else "/"


def link(path: str, /, **values: Any) -> str:
    """``path`` with the ``values`` that are not ``None`` or empty as its query."""
    query = urlencode({name: value for name, value in values.items() if value not in (None, "", False)})
    return f"{path}?{query}" if query else path


def redirect(path: str, /, **values: Any) -> RedirectResponse:
    """See Other: the page that shows what a form has done, so that reloading it does nothing twice."""
    return RedirectResponse(link(path, **values), status_code=303, headers=dict(HEADERS))


def _reader(request: Request) -> Identity | None:
    """Who is logged in; nobody where nobody needs to."""
    found = getattr(request.state, "identity", None)
    return found if isinstance(found, Identity) and found.name != LOCAL.name else None


def _here(request: Request) -> str:
    query = request.url.query
    return f"{request.url.path}?{query}" if query else request.url.path


def _assets() -> Mapping[str, str]:
    """Path below ``static`` → URL with a digest of the content, so that it can be kept for ever."""
    found = {}
    for file in sorted(STATIC.rglob("*")):
        if file.suffix in (".js", ".css", ".svg"):
            name = file.relative_to(STATIC).as_posix()
            found[name] = f"/static/{name}?v={hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"
    return found
