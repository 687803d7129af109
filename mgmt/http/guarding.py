"""What a server of ours other than the station shows and asks for: a certificate, a token."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mgmt.http.address import Address
from mgmt.http.credentials import CredentialError
from mgmt.http.problems import PROBLEM_TYPE, make_problem
from mgmt.http.protocol import certified_of
from mgmt.http.tls import ClientTls, ServerTls


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCredentials:
    """What an array or a measuring device shows, and what it asks of who connects: a token, a certificate, or both."""

    tls: ServerTls | None = None
    token: str | None = field(default=None, repr=False)

    def check(self, address: Address) -> None:
        """Raises :class:`CredentialError` where others could reach ``address`` and would be asked for nothing."""
        mutual = self.tls is not None and self.tls.mutual
        if not address.is_loopback and self.token is None and not mutual:
            raise CredentialError(
                f"{address} can be reached from elsewhere: say whom to answer with --token FILE, or with --tls-ca FILE "
                "the authority of the client certificates"
            )

    def as_client(self) -> ClientTls | None:
        """The same certificate and authority, for what this server itself connects to."""
        if self.tls is None or self.tls.authority is None:
            return None
        return ClientTls(authority=self.tls.authority, certificate=self.tls.certificate, key=self.tls.key)

    def guard(self, app: ASGIApp) -> ASGIApp:
        """``app`` behind what is asked for."""
        return app if self.token is None else TokenGuard(app, self.token)


class TokenGuard:
    """ASGI middleware: 401 for who does not show the token as RFC 6750 says, or a certificate that was verified."""

    def __init__(self, app: ASGIApp, token: str, *, advice: str = "show the token of this server") -> None:
        self._app = app
        self._wanted = f"Bearer {token}".encode()
        self._advice = advice

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and certified_of(scope) is None:
            shown = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(shown, self._wanted):
                body = make_problem("NOT_AUTHENTICATED", self._advice, status=401, title="Who are you?")
                refusal = JSONResponse(
                    body, status_code=401, media_type=PROBLEM_TYPE, headers={"WWW-Authenticate": "Bearer"}
                )
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)
