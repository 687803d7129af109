"""The connections of a client to one server: kept between exchanges, each exchange whole within its deadline.

HTTP/1.1 (RFC 9112) as far as a client of JSON resources needs it; docs/adr/0009 says why it is not a library's. Every
wait is given what is left of the whole time, so a server that drips bytes ends there too, and what a server can make a
client read is bounded.
"""

from __future__ import annotations

import io
import select
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from mgmt.http.address import Address

#: A connection unused for so long is not used again: servers close theirs after 30 s.
IDLE_S = 5.0
#: Idle connections that are kept for one server.
IDLE_LIMIT = 20
_READ_BYTES = 16 * 1024
_LINE_BYTES = 16 * 1024
_FIELDS_LIMIT = 128
#: What may stand in a path and its query as it is.
_IN_PATHS = "/?&=%:@!$'()*+,;~[]"


class NotConnected(OSError):
    """No connection: nobody listens, or nobody took it in time."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(getattr(cause, "errno", None), getattr(cause, "strerror", None) or str(cause))
        self.timed_out = isinstance(cause, TimeoutError)


class NotHttp(Exception):
    """What came is no answer, or none that is whole; the text says what it was."""


class TooLong(Exception):
    """The answer has more bytes than its reader takes."""


class Connection(io.RawIOBase):
    """One connected socket, and what has been read from it too early."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._reader = io.BufferedReader(self, _READ_BYTES)
        self.deadline = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        """For the buffered reader: the next bytes there are."""
        self._socket.settimeout(self._left_s())
        return self._socket.recv_into(into)

    def _left_s(self) -> float:
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s

    def is_quiet(self) -> bool:
        """Whether the server has neither closed it nor said anything that nobody asked for."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def shut(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, request: bytes) -> None:
        """A whole request at once."""
        self._socket.settimeout(self._left_s())
        self._socket.sendall(request)

    def answer(self, limit_bytes: int) -> tuple[int, bytes, bool]:
        """Status, body, and whether the connection may be kept."""
        status, keeps = 100, True
        while 100 <= status < 200:  # interim answers (RFC 9110 section 15.2) have no body
            status, keeps = self._status()
            fields = self._fields()
        keeps = keeps and "close" not in fields.get(b"connection", b"").decode("latin-1").lower()
        if status in (204, 304):
            return status, b"", keeps
        if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
            return status, self._chunks(limit_bytes), keeps
        length = fields.get(b"content-length")
        if length is None:
            return status, self._rest(limit_bytes), False
        if not length.isdigit() or len(length) > 18:
            raise NotHttp(f"a content-length of {length[:40]!r}")
        if int(length) > limit_bytes:
            raise TooLong
        return status, self._exactly(int(length)), keeps

    def _status(self) -> tuple[int, bool]:
        line = self._reader.readline(_LINE_BYTES)
        if not line:
            raise NotHttp("")
        version, _, rest = line.partition(b" ")
        if version not in (b"HTTP/1.1", b"HTTP/1.0") or not rest[:3].isdigit():
            raise NotHttp(_shown(line))
        return int(rest[:3]), version == b"HTTP/1.1"

    def _fields(self) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for _ in range(_FIELDS_LIMIT):
            line = self._reader.readline(_LINE_BYTES)
            if line in (b"\r\n", b"\n"):
                return found
            name, colon, value = line.partition(b":")
            if not colon or not line.endswith(b"\n"):
                raise NotHttp(_shown(line) if line else _CUT)
            found[name.lower()] = value.strip()
        raise NotHttp(f"more than {_FIELDS_LIMIT} header fields")

    def _exactly(self, length: int) -> bytes:
        data = self._reader.read(length)
        if len(data) < length:
            raise NotHttp(_CUT)
        return data

    def _rest(self, limit_bytes: int) -> bytes:
        data = self._reader.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise TooLong
        return data

    def _chunks(self, limit_bytes: int) -> bytes:
        """RFC 9112 section 7.1; extensions and trailers are read and not looked at."""
        data = bytearray()
        while True:
            size = self._reader.readline(_LINE_BYTES).partition(b";")[0].strip()
            try:
                length = int(size, 16)
            except ValueError:
                raise NotHttp(_shown(size) if size else _CUT) from None
            if length < 0 or len(data) + length > limit_bytes:
                raise TooLong
            if length == 0:
                self._fields()
                return bytes(data)
            data += self._exactly(length)
            if self._reader.readline(_LINE_BYTES).strip():
                raise NotHttp("a chunk that is longer than it says")


_CUT = "the end in the middle of an answer"


def _shown(line: bytes) -> str:
    return line[:120].decode("latin-1").strip()


class Connections:
    """Exchanges with the server at ``address``. Thread-safe: each exchange has a connection to itself.

    ``headers`` go with every request; ``tls`` is what ``https://`` needs.
    """

    def __init__(self, address: Address, headers: Mapping[str, str], tls: ssl.SSLContext | None) -> None:
        self._address = address
        self._tls = tls
        host = "localhost" if address.scheme == "unix" else address.host_and_port
        self._head = _lines({"host": host, **headers, "accept-encoding": "identity"})
        self._lock = threading.Lock()
        self._idle: list[tuple[Connection, float]] = []
        self._closed = False

    def close(self) -> None:
        """Close the idle connections; the others are closed where their exchanges end."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.shut()

    def exchange(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        limit_s: float,
        limit_bytes: int,
    ) -> tuple[int, bytes]:
        """Status and body of the answer.

        Raises :class:`NotConnected`, :class:`NotHttp`, :class:`TooLong`, ``TimeoutError`` (connected, and then the time
        was up) and ``OSError``; and ``RuntimeError`` after :meth:`close`.
        """
        more = _lines(headers if body is None else {**headers, "content-length": str(len(body))})
        request = f"{method} {quote(path, safe=_IN_PATHS)} HTTP/1.1\r\n{self._head}{more}\r\n".encode(
            "latin-1"
        )
        deadline = time.monotonic() + limit_s
        connection = self._taken() or self._made(deadline)
        connection.deadline = deadline
        try:
            connection.send(request + (body or b""))
            status, data, keeps = connection.answer(limit_bytes)
        except BaseException:
            connection.shut()
            raise
        if keeps:
            self._keep(connection)
        else:
            connection.shut()
        return status, data

    def _taken(self) -> Connection | None:
        """An idle connection that is still good; the one used last, so that those too many grow old."""
        while True:
            with self._lock:
                if self._closed:
                    raise RuntimeError("this client has been closed")
                if not self._idle:
                    return None
                connection, since = self._idle.pop()
            if time.monotonic() - since < IDLE_S and connection.is_quiet():
                return connection
            connection.shut()

    def _keep(self, connection: Connection) -> None:
        now = time.monotonic()
        with self._lock:
            old = []
            if self._closed:
                old.append(connection)
            else:
                self._idle.append((connection, now))
                while len(self._idle) > IDLE_LIMIT or now - self._idle[0][1] >= IDLE_S:
                    old.append(self._idle.pop(0)[0])
        for one in old:
            one.shut()

    def _made(self, deadline: float) -> Connection:
        try:
            return Connection(self._connected(max(0.001, deadline - time.monotonic())))
        except (OSError, UnicodeError) as error:  # a name that no host can have is no error of the system
            raise NotConnected(error) from error

    def _connected(self, limit_s: float) -> socket.socket:
        unix = self._address.scheme == "unix"
        if unix:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        else:
            made = socket.create_connection((self._address.host, self._address.port), limit_s)
        try:
            made.settimeout(limit_s)
            if unix:
                made.connect(self._address.path)
                return made
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                return self._tls.wrap_socket(made, server_hostname=self._address.host)
            return made
        except BaseException:
            made.close()
            raise


def _lines(headers: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())
