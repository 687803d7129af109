"""The client side: messages and JSON resources of one server."""

from __future__ import annotations

import json
import secrets
import time
import uuid
from base64 import b64encode
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mgmt.http.address import Address, parse_address
from mgmt.http.connections import Connections, NotConnected, NotHttp, TooLong
from mgmt.http.credentials import ClientCredentials
from mgmt.http.problems import PeerRefused, PeerUnreachable, make_problem
from mgmt.http.signing import HEADER
from mgmt.http.tls import ClientTls
from mgmt.plain import BadMessage

if TYPE_CHECKING:
    from mgmt.messages import Message

#: The longest answer a client reads.
ANSWER_LIMIT_BYTES = 8 * 1024 * 1024


class Peer:
    """A client of one server: messages, and plain JSON resources. Thread-safe; close it, or use ``with``.

    ``timeout_s`` bounds each whole exchange. :meth:`send` repeats a message whose connection broke, at most
    ``retries`` times and under the same ``request_id``, by which the receiver knows it again (GAP-5); it does not
    repeat one whose time was up.

    ``name`` ("the station", "array M") goes before the address in error texts; ``token`` is shown as a bearer token;
    ``credentials`` instead of it also say whom to trust at an ``https://`` address, which certificate to show there,
    and which key signs messages.

    The constructor raises :class:`mgmt.http.tls.TlsError`; every method raises :class:`PeerRefused` and
    :class:`PeerUnreachable`.
    """

    def __init__(
        self,
        address: str | Address,
        timeout_s: float = 5.0,
        *,
        retries: int = 2,
        name: str = "",
        token: str | None = None,
        credentials: ClientCredentials | None = None,
    ) -> None:
        credentials = credentials or ClientCredentials(token=token)
        self.address = parse_address(address) if isinstance(address, str) else address
        self.who = f"{name} at {self.address}" if name else str(self.address)
        self._timeout_s = timeout_s
        self._retries = retries
        self._key = credentials.key
        https = self.address.scheme == "https"
        self._connections = Connections(
            self.address,
            _shown(self.address, credentials.token),
            (credentials.tls or ClientTls()).context() if https else None,
        )

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the idle connections."""
        self._connections.close()

    def send(
        self, message: Message, request_id: str | None = None, *, timeout_s: float | None = None
    ) -> Message:
        """POST ``message`` to ``/messages``; the answer. ``timeout_s``: for this message instead of the usual."""
        from mgmt.messages import Envelope, decode, encode  # who only reads lists need not wait for them

        envelope = Envelope(request_id or uuid.uuid4().hex, message)
        body = encode(envelope)
        attempt = 0
        while True:
            try:
                data = self._exchange("POST", "/messages", body, timeout_s)
                break
            except PeerUnreachable as error:
                attempt += 1
                if error.timed_out or attempt > self._retries:
                    raise
                time.sleep(0.05 * 2**attempt)
        try:
            return decode(data).message
        except BadMessage as error:
            raise PeerUnreachable(
                self.who, f"its answer is no message of ours: {error}", answered=True
            ) from error

    def get(self, path: str) -> Any:
        """GET ``path``; the JSON value."""
        return self._value(self._exchange("GET", path, None))

    def post(self, path: str, value: Any) -> Any:
        """POST a JSON value to ``path``; the JSON value of the answer. Not repeated."""
        return self._value(self._exchange("POST", path, json.dumps(value).encode()))

    def _value(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise PeerUnreachable(self.who, "its answer is not JSON", answered=True) from error

    def _exchange(self, method: str, path: str, body: bytes | None, timeout_s: float | None = None) -> bytes:
        limit_s = timeout_s or self._timeout_s
        headers = {"content-type": "application/json"} if body is not None else {}
        if self._key is not None and body is not None:
            # The time of day of the machine: a signature is good for the verifier's window around it.
            nonce = secrets.token_hex(16)
            headers[HEADER] = self._key.sign(path, body, now_s=int(time.time()), nonce=nonce)
        try:
            status, data = self._connections.exchange(
                method, path, body, headers, limit_s=limit_s, limit_bytes=ANSWER_LIMIT_BYTES
            )
        except NotConnected as error:
            detail = f"no connection in {limit_s:g} s" if error.timed_out else _cause(error)
            raise PeerUnreachable(self.who, detail, timed_out=error.timed_out) from error
        except TimeoutError as error:
            detail = f"no whole answer in {limit_s:g} s"
            raise PeerUnreachable(self.who, detail, timed_out=True, answered=True) from error
        except TooLong as error:
            raise PeerUnreachable(self.who, "its answer is too long", answered=True) from error
        except NotHttp as error:
            told = (
                f"does not speak HTTP ({error})"
                if str(error)
                else "closed the connection instead of answering HTTP"
            )
            raise PeerUnreachable(self.who, f"what listens there {told}", answered=True) from error
        except OSError as error:
            raise PeerUnreachable(self.who, _cause(error)) from error
        if 200 <= status < 300:
            return data
        raise _refusal(status, data)


def _shown(address: Address, token: str | None) -> dict[str, str]:
    """Who asks: as HTTP basic authentication has it (RFC 7617), or a bearer token (RFC 6750)."""
    if address.username or address.password:
        pair = b64encode(f"{address.username}:{address.password}".encode()).decode()
        return {"authorization": f"Basic {pair}"}
    return {} if token is None else {"authorization": f"Bearer {token}"}


def _cause(error: Exception) -> str:
    """The operating system's words for a connection error where there are any."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror.lower()
        seen = seen.__cause__ or seen.__context__
    return str(error) or type(error).__name__


def _refusal(status: int, data: bytes) -> PeerRefused:
    body: Any = None
    with suppress(ValueError, RecursionError):
        body = json.loads(data)
    if not isinstance(body, dict) or not isinstance(body.get("code"), str):
        body = make_problem("HTTP", f"the answer is HTTP status {status}", status=status, title="Not done")
    return PeerRefused(body["code"], str(body.get("title", "")), str(body.get("detail", "")), body)
