"""Forms are answered only where they come from a page of ours: same origin, and the token that the page was given.

The token is an HMAC of a cookie that only this origin's requests carry (a signed double submit); nothing is kept.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

from fastapi import Request

COOKIE = "sancredit_csrf"
FIELD = "csrf_token"
HEADER = b"x-csrf-token"
_COOKIE_FORM = re.compile(r"[\w-]{43}", re.ASCII)
_PART = re.compile(rb'name="csrf_token"\r\n(?:[^\r\n]+\r\n)*\r\n([0-9a-f]{64})\r\n')


class FormTokens:
    """Makes and checks the tokens of one process; ``secret`` is its own."""

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = secret or secrets.token_bytes(32)

    def new_cookie(self) -> str:
        """A cookie's value for a browser that has none."""
        return secrets.token_urlsafe(32)

    def usable(self, cookie: str | None) -> str | None:
        """The cookie's value where it has the form of ours."""
        return cookie if cookie is not None and _COOKIE_FORM.fullmatch(cookie) else None

    def token(self, cookie: str) -> str:
        """What a form of a page for this browser carries."""
        return hmac.new(self._secret, cookie.encode(), hashlib.sha256).hexdigest()

    def admits(self, cookie: str | None, shown: str | None) -> bool:
        """Whether a form that shows this token comes from a page of ours."""
        if self.usable(cookie) is None or shown is None:
            return False
        return hmac.compare_digest(self.token(str(cookie)).encode(), shown.encode())


def shown_token(headers: Mapping[bytes, bytes], body: bytes) -> str | None:
    """The token in the header, or else in the form."""
    if HEADER in headers:
        return headers[HEADER].decode("latin-1")
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media_type == b"multipart/form-data":
        part = _PART.search(body)
        return part[1].decode() if part else None
    try:
        fields = parse_qs(body.decode("ascii"), max_num_fields=200)
    except ValueError:
        return None
    return fields.get(FIELD, [None])[0]


def same_origin(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the browser says that the request comes from a page of this origin, or says nothing about it."""
    if headers.get(b"sec-fetch-site", b"same-origin") not in (b"same-origin", b"none"):
        return False
    origin = headers.get(b"origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin.decode("ascii")).netloc.encode() == headers.get(b"host")
    except ValueError:
        return False


def csrf_token(request: Request) -> str:
    """The token to write into the forms of the page that answers ``request``."""
    token = request.state.csrf_token
    assert isinstance(token, str)
    return token
