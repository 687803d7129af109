"""Parts of a server's application: the guard, the message endpoint, the exception handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as AsgiMessage

from credits.errors import Code, CreditError
from mgmt.http.address import Address
from mgmt.http.problems import PROBLEM_TYPE, PeerRefused, PeerUnreachable, ProblemError, make_problem, problem
from mgmt.messages import LIMIT_BYTES, BadMessage, Envelope, Message, decode, encode

#: How long a server waits for the rest of a request's body.
BODY_TIMEOUT_S = 10.0
#: Methods that change nothing; their requests have no body to speak of.
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_JSON = b"application/json"
_FORMS = (b"application/x-www-form-urlencoded", b"multipart/form-data")


class Guard:
    """ASGI middleware: bodies of at most ``limit_bytes``, JSON only, and no request meant for another host.

    The Host and Content-Type checks keep a web page in a browser on the same machine from driving a server
    on loopback (DNS rebinding, cross-site forms). ``forms``: the application takes forms too, and checks itself that
    they are its own; ``any_host``: its names are those of its certificate.
    """

    def __init__(
        self, app: ASGIApp, *, limit_bytes: int = LIMIT_BYTES, forms: bool = False, any_host: bool = False
    ) -> None:
        self._app = app
        self._limit_bytes = limit_bytes
        self._media_types = (_JSON, *_FORMS) if forms else (_JSON,)
        self._forms = forms
        self._any_host = any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if refusal := self._unwelcome(scope["method"], headers):
            await _send_problem(refusal, scope, receive, send)
            return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._limit_bytes:
            await _send_problem(self._too_long(), scope, receive, send)
            return
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                more = True
                while more:
                    event = await receive()
                    if event["type"] == "http.disconnect":
                        return
                    body += event.get("body", b"")
                    more = event.get("more_body", False)
                    if len(body) > self._limit_bytes:
                        await _send_problem(self._too_long(), scope, receive, send)
                        return
        except TimeoutError:
            late = make_problem("TIMEOUT", "the request's body did not arrive", status=408, title="Too slow")
            await _send_problem(late, scope, receive, send)
            return
        events = iter([{"type": "http.request", "body": bytes(body), "more_body": False}])

        async def replay() -> Any:
            # After the body an application that listens for the client's leaving hears the real connection.
            return next(events, None) or await receive()

        started = False

        async def note(message: AsgiMessage) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, replay, note)
        except asyncio.CancelledError:
            # The server stops and has waited long enough. What a worker thread does goes on; nobody hears of it.
            if not started:
                stopping = make_problem("STOPPING", "the server stops", status=503, title="Stopping")
                await _send_problem(stopping, scope, receive, send)

    def _too_long(self) -> dict[str, Any]:
        detail = f"a request has at most {self._limit_bytes} bytes"
        return make_problem(Code.BAD_MESSAGE, detail, status=413, title="Too long")

    def _unwelcome(self, method: str, headers: dict[bytes, bytes]) -> dict[str, Any] | None:
        host = headers.get(b"host", b"localhost").decode("latin-1")
        name = host.rpartition("]")[0].strip("[") if host.startswith("[") else host.partition(":")[0]
        if not self._any_host and not Address("http", host=name).is_loopback:
            detail = f"{host!r:.300} is not a name of this server"
            return make_problem("MISDIRECTED", detail, status=421, title="Wrong host")
        empty = headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers
        # A foreign page cannot send the other methods that change things; a face that takes forms looks at the origin.
        if method == "POST" and not (empty and self._forms):
            media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
            if media_type not in self._media_types:
                detail = "send the request with Content-Type: application/json"
                return make_problem(Code.BAD_MESSAGE, detail, status=415, title="Not JSON")
        return None


def takes_forms(app: ASGIApp) -> bool:
    """Whether an application has said that it takes forms and checks whose they are (``app.state.takes_forms``)."""
    return bool(getattr(getattr(app, "state", None), "takes_forms", False))


def end_streams(app: ASGIApp) -> None:
    """Before a server stops: have an application end its answers that would go on for ever
    (``app.state.end_streams``, a callable)."""
    end = getattr(getattr(app, "state", None), "end_streams", None)
    if end is not None:
        end()


async def _send_problem(body: dict[str, Any], scope: Scope, receive: Receive, send: Send) -> None:
    response = JSONResponse(body, status_code=int(body["status"]), media_type=PROBLEM_TYPE)
    await response(scope, receive, send)


def problem_response(_request: Request, error: Exception) -> Response:
    """Exception handler of an application: the problem that :func:`problem` makes of ``error``."""
    headers: Mapping[str, str] | None = None
    if isinstance(error, HTTPException):
        status, headers = error.status_code, error.headers
        code = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}.get(status, "HTTP")
        body = make_problem(code, error.detail, status=status, title=error.detail)
    else:
        status, body = problem(error)
    return JSONResponse(body, status_code=status, media_type=PROBLEM_TYPE, headers=headers)


def exception_handlers() -> dict[Any, Any]:
    """For ``FastAPI(exception_handlers=…)`` and ``Starlette(exception_handlers=…)``."""
    kinds = (CreditError, BadMessage, PeerRefused, PeerUnreachable, ProblemError, HTTPException)
    return dict.fromkeys(kinds, problem_response)


def message_endpoint(handle: Callable[[Envelope], Message]) -> Callable[[Request], Any]:
    """The endpoint of ``POST /messages``.

    ``handle`` is called on a worker thread with the decoded envelope; what it returns is the answer, and what it
    raises becomes a problem (install :func:`exception_handlers`). Use:
    ``Starlette(routes=[Route("/messages", message_endpoint(handle), methods=["POST"])], …)``.
    """

    async def endpoint(request: Request) -> Response:
        envelope = decode(await request.body())
        answer = await run_in_threadpool(handle, envelope)
        return Response(encode(Envelope(envelope.request_id, answer)), media_type="application/json")

    return endpoint
