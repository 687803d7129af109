"""The gate before every route: who asks, whether they may, how often, and what their browser may do with the answer."""

from __future__ import annotations

import binascii
import math
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from credits.errors import Code
from mgmt.api.security import csrf, sessions
from mgmt.api.security.identity import LOCAL, Identity, Right, Role, right_for
from mgmt.api.security.tokens import TokenFile
from mgmt.http.application import SAFE_METHODS
from mgmt.http.problems import PROBLEM_TYPE, make_problem
from mgmt.http.protocol import certified_of
from mgmt.http.rates import Buckets, Rate
from mgmt.http.signing import SigningKey, Verifier

#: A person, a script or an array's worth of requests; the station's own machine may ask more.
REMOTE_RATE = Rate(per_second=500, burst=1000)
LOCAL_RATE = Rate(per_second=5000, burst=10_000)
#: Tokens that are none, from one address.
FAILURE_RATE = Rate(per_second=1, burst=20)

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_ALWAYS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin"))
_OF_PAGES = (
    (b"content-security-policy", _POLICY.encode()),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)
_STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")
#: What is open to everybody: the way in, and what its page is drawn with; the roots of Redfish (DSP0266 section 9.3).
_OPEN = ("/login", "/logout", "/redfish", "/redfish/", "/redfish/v1", "/redfish/v1/", "/redfish/v1/odata")
_OPEN_BELOW = ("/static/",)
_FORM_TYPES = (b"application/x-www-form-urlencoded", b"multipart/form-data")
_NO_PAGES_BELOW = ("/api/", "/redfish", "/messages", "/metrics")


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """What a station demands. Without ``tokens`` everybody who reaches it may do everything: loopback, Unix sockets.

    ``keys``: notifications (M9) are signed with one of them, whoever else may do what.
    """

    tokens: TokenFile | None = None
    keys: dict[str, SigningKey] = field(default_factory=dict)
    rate: Rate = LOCAL_RATE
    failure_rate: Rate = FAILURE_RATE
    encrypted: bool = False

    @staticmethod
    def remote(tokens: TokenFile, keys: dict[str, SigningKey] | None = None) -> Security:
        """For an address that others reach: tokens are required, and TLS is spoken."""
        return Security(tokens=tokens, keys=keys or {}, rate=REMOTE_RATE, encrypted=True)


class Denied(Exception):
    """The request is refused; ``body`` is the problem, ``headers`` go with it."""

    def __init__(self, body: dict[str, Any], **headers: str) -> None:
        super().__init__(body["detail"])
        self.body = body
        self.headers = headers


class Access:
    """The parts of a gate that have a state: sessions, form tokens, buckets, nonces. Lives in the server's loop."""

    def __init__(
        self,
        security: Security,
        *,
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.security = security
        self.utc_now = utc_now
        self.now_ns = now_ns
        self.sessions = None if security.tokens is None else sessions.Sessions(security.tokens)
        self.forms = csrf.FormTokens()
        self.verifier = Verifier(security.keys)
        self.refused: Counter[int] = Counter()
        self._requests = Buckets(security.rate)
        self._failures = Buckets(security.failure_rate)

    def identify(self, scope: Scope, headers: dict[bytes, bytes], cookies: dict[str, str]) -> Identity | None:
        """Who asks; ``None`` who shows nothing. Raises :class:`Denied` for what is shown and does not count."""
        if self.security.tokens is None:
            return LOCAL
        if (certified := certified_of(scope)) is not None:
            return _of_certificate(certified.name, certified.role)
        shown = _credential(headers.get(b"authorization", b""))
        if shown is not None:
            token = self.security.tokens.verify(shown, self.utc_now())
            if token is None:
                self._count_failure(scope)
                raise _unauthenticated("the token is unknown, revoked or expired")
            return token.identity
        cookie = cookies.get(sessions.COOKIE)
        if cookie and self.sessions is not None:
            found = self.sessions.find(cookie, self.now_ns(), self.utc_now())
            return None if found is None else found.identity
        return None

    def log_in(self, scope: Scope, text: str) -> str | None:
        """A session for the token ``text``: its cookie's value. Raises :class:`Denied` where too many were none."""
        if self.security.tokens is None or self.sessions is None:
            return None
        token = self.security.tokens.verify(text.strip(), self.utc_now())
        if token is None:
            self._count_failure(scope)
            return None
        return self.sessions.open(token, self.now_ns())

    def _count_failure(self, scope: Scope) -> None:
        """Who guesses is told to wait; whoever shows a token that counts is not held up by it."""
        if wait_ns := self._failures.take(_address(scope), self.now_ns()):
            raise _too_many(wait_ns / 1e9, "too many tokens that are none came from this address")

    def spend(self, client: str) -> None:
        """One request of ``client``. Raises :class:`Denied`."""
        if wait_ns := self._requests.take(client, self.now_ns()):
            rate = self.security.rate
            raise _too_many(wait_ns / 1e9, f"more than {rate.per_second:g} requests a second")


class Gate:
    """ASGI middleware around all of the station's faces."""

    def __init__(self, app: ASGIApp, *, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        cookies = _cookies(headers)
        state = scope.setdefault("state", {})
        old = self._access.forms.usable(cookies.get(csrf.COOKIE))
        cookie = old or self._access.forms.new_cookie()
        state["access"] = self._access
        state["csrf_token"] = self._access.forms.token(cookie)
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        fresh = None if old else f"{csrf.COOKIE}={cookie}; Path=/; HttpOnly; SameSite=Strict{secure}"
        sender = _Sender(send, encrypted=bool(secure), cookie=fresh)
        try:
            identity = self._admit(scope, headers, cookies)
            state["identity"] = identity
            receive = await self._check_form(scope, headers, old, receive)
        except Denied as denied:
            self._access.refused[int(denied.body["status"])] += 1
            answer: ASGIApp = _refusal(denied)
            if _is_page(scope, headers):
                if denied.body["status"] == 401 and scope["method"] == "GET":
                    wanted = quote(str(scope["path"]), safe="/")
                    answer = RedirectResponse(f"/login?next={wanted}", status_code=303)
                elif (draw := getattr(scope["app"].state, "refusal_page", None)) is not None:
                    answer = draw(Request(scope), denied.body, denied.headers)
            await answer(scope, receive, sender)
            return
        await self._app(scope, receive, sender)

    def _admit(self, scope: Scope, headers: dict[bytes, bytes], cookies: dict[str, str]) -> Identity | None:
        identity = self._access.identify(scope, headers, cookies)
        self._access.spend(identity.name if identity is not None else f"address {_address(scope)}")
        path, method = str(scope["path"]), str(scope["method"])
        if path in _OPEN or path.startswith(_OPEN_BELOW):
            return identity
        if identity is None:
            raise _unauthenticated("show a token of this station: Authorization: Bearer TOKEN")
        right = right_for(method, path)
        if not identity.may(right):
            detail = f"{identity.name} is {identity.role.value} here, who may not {_WORDS[right]}"
            raise Denied(make_problem(Code.UNAUTHORIZED, detail))
        return identity

    async def _check_form(
        self, scope: Scope, headers: dict[bytes, bytes], cookie: str | None, receive: Receive
    ) -> Receive:
        """What comes from a browser comes from a page of ours; a form shows its token as well."""
        if scope["method"] in SAFE_METHODS:
            return receive
        if not csrf.same_origin(headers):
            raise _foreign("the request comes from a page of another site")
        media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if media_type not in _FORM_TYPES:
            return receive
        if str(scope["path"]).startswith(_NO_PAGES_BELOW):
            detail = "send the request with Content-Type: application/json"
            raise Denied(make_problem(Code.BAD_MESSAGE, detail, status=415, title="Not JSON"))
        first = await receive()  # the server has gathered the whole body, and bounded it
        if not self._access.forms.admits(cookie, csrf.shown_token(headers, first.get("body", b""))):
            raise _foreign(
                "the form was not on a page of this station, or the page is too old: load it again"
            )
        waiting = [first]

        async def again() -> Message:
            return waiting.pop() if waiting else await receive()

        return again


_WORDS = {
    Right.READ: "read",
    Right.CHANGE: "change anything",
    Right.ADMINISTER: "do this: it takes an admin",
    Right.NOTIFY: "send messages of arrays and measuring devices",
}


class _Sender:
    """Adds the headers of every answer, those of pages, and the cookie of a new browser to pages."""

    def __init__(self, send: Send, *, encrypted: bool, cookie: str | None) -> None:
        self._send = send
        self._always = (*_ALWAYS, _STRICT_TRANSPORT) if encrypted else _ALWAYS
        self._cookie = cookie

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            said = {name.lower(): value for name, value in headers}
            added = list(self._always)
            if said.get(b"content-type", b"").startswith(b"text/html"):
                added += [pair for pair in _OF_PAGES if pair[0] not in said]
                if b"cache-control" not in said:
                    added.append((b"cache-control", b"no-store"))
                if self._cookie is not None:
                    added.append((b"set-cookie", self._cookie.encode()))
            message = {**message, "headers": headers + added}
        await self._send(message)


def _of_certificate(name: str, role: str) -> Identity:
    try:
        return Identity(name[:64] or "?", Role(role))
    except ValueError:
        detail = "the client certificate's organizational unit (OU) is none of the roles here: "
        roles = ", ".join(known.value for known in Role)
        raise Denied(make_problem(Code.UNAUTHORIZED, detail + roles)) from None


def _credential(header: bytes) -> str | None:
    """The token in an Authorization header: of RFC 6750, or as the password of RFC 7617."""
    scheme, _, rest = header.decode("latin-1").partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() != "basic":
        return None if not header else ""
    try:
        return b64decode(rest.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _cookies(headers: dict[bytes, bytes]) -> dict[str, str]:
    try:
        jar: SimpleCookie = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in jar.items()}


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "local"


def _is_page(scope: Scope, headers: dict[bytes, bytes]) -> bool:
    path = str(scope["path"])
    wants_page = b"text/html" in headers.get(b"accept", b"")
    return wants_page and not path.startswith(_NO_PAGES_BELOW)


def _unauthenticated(detail: str) -> Denied:
    body = make_problem("NOT_AUTHENTICATED", detail, status=401, title="Who are you?")
    return Denied(body, **{"WWW-Authenticate": 'Bearer realm="sancredit"'})


def _foreign(detail: str) -> Denied:
    return Denied(make_problem(Code.UNAUTHORIZED, detail))


def _too_many(wait_s: float, detail: str) -> Denied:
    body = make_problem("TOO_MANY_REQUESTS", detail, status=429, title="Too many requests")
    return Denied(body, **{"Retry-After": str(max(1, math.ceil(wait_s)))})


def _refusal(denied: Denied) -> JSONResponse:
    status = int(denied.body["status"])
    return JSONResponse(denied.body, status_code=status, media_type=PROBLEM_TYPE, headers=denied.headers)
