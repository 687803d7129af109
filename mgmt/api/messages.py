"""``POST /messages``: what measuring devices and arrays tell the station by themselves (M9, M12).

On an address of its own machine anybody may; elsewhere it takes a token or certificate with the role ``probe`` (M9) or
``array`` (M12). Where the station has been given signing keys, M9 is signed with one of them in any case. M9 also
carries a sequence number, and the station drops one that is not newer than what it has: what is repeated changes
nothing either way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from credits.errors import Code
from mgmt.api.context import Api
from mgmt.api.security.gate import Access
from mgmt.api.security.identity import Identity, Role
from mgmt.http.problems import PROBLEM_TYPE, make_problem
from mgmt.http.signing import HEADER, NotAuthentic
from mgmt.messages import (
    BadMessage,
    BufferControlAutomationRequest,
    ChannelChangeNotify,
    Envelope,
    Message,
    decode,
    encode,
)
from mgmt.station import cache, channels

_PATH = "/messages"
#: Who sends what, beside an admin.
_SENDERS: Mapping[type, Role] = {
    ChannelChangeNotify: Role.PROBE,
    BufferControlAutomationRequest: Role.ARRAY,
}


def messages_route(api: Api) -> Route:
    """The endpoint for the messages that come to a station."""
    return Route(_PATH, _endpoint(api), methods=["POST"])


def _endpoint(api: Api) -> Callable[[Request], object]:
    async def endpoint(request: Request) -> Response:
        body = await request.body()
        envelope = decode(body)
        kind = type(envelope.message)
        identity = request.state.identity
        assert isinstance(identity, Identity)
        if kind not in _SENDERS:
            raise BadMessage(f"a station does not answer {kind.__name__}")
        if identity.role not in (_SENDERS[kind], Role.ADMIN):
            return _refused(f"{identity.role.value}s send no {kind.__name__}", 403)
        access = request.state.access
        assert isinstance(access, Access)
        if access.security.keys and kind is ChannelChangeNotify:
            try:
                access.verifier.verify(
                    request.headers.get(HEADER, ""), _PATH, body, now_s=int(access.utc_now().timestamp())
                )
            except NotAuthentic as error:
                return _refused(str(error), 401)
        answer = await run_in_threadpool(_hear, api, envelope)
        return Response(encode(Envelope(envelope.request_id, answer)), media_type="application/json")

    return endpoint


def _hear(api: Api, envelope: Envelope) -> Message:
    message = envelope.message
    if isinstance(message, BufferControlAutomationRequest):
        return cache.automate(api.station, message)
    assert isinstance(message, ChannelChangeNotify)
    channels.take_notice(api.station, message)
    return message


def _refused(detail: str, status: int) -> Response:
    code = Code.UNAUTHORIZED if status == 403 else "NOT_AUTHENTICATED"
    body = make_problem(code, detail, status=status, title="Not authentic" if status == 401 else "")
    headers = {"WWW-Authenticate": 'Bearer realm="sancredit"'} if status == 401 else {}
    return JSONResponse(body, status_code=status, media_type=PROBLEM_TYPE, headers=headers)
