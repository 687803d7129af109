"""A client that stalls, floods or does not read costs a server bounded memory and time. The limits are short here."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from mgmt.http import ServerThread, protocol, server
from mgmt.http.protocol import ConnectionCounts

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def app(on_hello: Callable[[], None] = lambda: None) -> Starlette:
    async def hello(_request: Request) -> Response:
        on_hello()
        return PlainTextResponse("hello")

    async def endless(_request: Request) -> Response:
        async def parts() -> object:
            while True:
                yield b"x" * 65536
                await asyncio.sleep(0)

        return StreamingResponse(parts())  # type: ignore[arg-type]

    return Starlette(routes=[Route("/", hello), Route("/endless", endless)])


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.3)
    monkeypatch.setattr(protocol, "STALL_TIMEOUT_S", 0.3)
    with ServerThread(app(), "http://127.0.0.1:0") as thread:
        yield thread.address.host, thread.address.port


def until_closed(connection: socket.socket) -> bytes:
    """What comes until the server ends the connection; a server that does not ends the test instead."""
    connection.settimeout(60)
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


@pytest.mark.parametrize(
    "begun", [b"", b"GET", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", REQUEST[:-1]]
)
def test_who_never_finishes_the_head_of_a_request_is_cut_off(address: tuple[str, int], begun: bytes) -> None:
    with socket.create_connection(address) as connection:
        with suppress(ConnectionError):  # a machine that is busy may find the time up already
            connection.sendall(begun)
        assert until_closed(connection) == b""


def test_who_begins_a_second_request_and_stops_is_cut_off_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def hurry() -> None:  # the first request has been in time
        monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.3)

    with (
        ServerThread(app(hurry), "http://127.0.0.1:0") as thread,
        socket.create_connection((thread.address.host, thread.address.port)) as connection,
    ):
        connection.sendall(REQUEST + REQUEST[:20])
        found = until_closed(connection)
        assert found.count(b"hello") == 1 and found.count(b"HTTP/1.1 200") == 1


def test_drops_of_a_head_do_not_buy_time(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.settimeout(0.05)
        sent = 0
        try:
            while sent < 400:  # 20 s of drops, were it to go on
                connection.sendall(b"G" if sent == 0 else b"E")
                sent += 1
                try:
                    if connection.recv(1) == b"":
                        break
                except TimeoutError:
                    continue
        except (ConnectionResetError, BrokenPipeError):
            pass
        assert 0 < sent < 400


def test_who_does_not_read_is_cut_off_and_the_server_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "STALL_TIMEOUT_S", 0.3)
    with ServerThread(app(), "http://127.0.0.1:0") as thread, ExitStack() as stack:
        address = thread.address.host, thread.address.port
        idle, other = (stack.enter_context(socket.create_connection(address)) for _ in range(2))
        idle.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(3):
            other.sendall(REQUEST)
            answer = b""
            while not answer.endswith(b"hello"):
                answer += other.recv(65536)
        # Nothing is read for longer than the limit: the server has ended it by the time that we look.
        probe_until_reset(idle)


def probe_until_reset(connection: socket.socket) -> None:
    """Writes now and then until the connection turns out to be gone."""
    connection.settimeout(0.05)
    for _ in range(400):
        try:
            connection.sendall(b"x")
            connection.recv(0)
        except (ConnectionResetError, BrokenPipeError):
            return
        except TimeoutError:
            continue
        try:
            if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                return
        except OSError:
            return
        select.select([], [], [], 0.05)
    pytest.fail("the server keeps a connection that nobody reads")


def test_an_answer_that_is_read_slowly_but_steadily_is_delivered() -> None:
    with (
        ServerThread(app(), "http://127.0.0.1:0") as thread,
        socket.create_connection((thread.address.host, thread.address.port)) as connection,
    ):
        connection.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.settimeout(60)
        read = 0
        while read < 30_000_000:
            part = connection.recv(1 << 20)
            assert part
            read += len(part)


def test_connections_beyond_the_limit_get_an_answer_and_one_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "CONNECTION_LIMIT", 4)
    with ServerThread(app(), "http://127.0.0.1:0") as thread:
        where = thread.address.host, thread.address.port
        held = [socket.create_connection(where) for _ in range(6)]
        try:
            for connection in held[-2:]:
                connection.sendall(REQUEST)
                assert connection.recv(65536).startswith(b"HTTP/1.1 503")
            assert [record.message.partition(":")[0] for record in caplog.records] == [
                "all connections are taken"
            ]
        finally:
            for connection in held:
                connection.close()
        for _ in range(200):
            with socket.create_connection(where) as again:
                again.sendall(REQUEST)
                if again.recv(65536).startswith(b"HTTP/1.1 200"):
                    return
        pytest.fail("the server did not come back")


def test_one_address_has_so_many_connections_and_loopback_as_many_as_it_likes() -> None:
    counts = ConnectionCounts(limit=2)
    assert [counts.admit("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert (
        counts.admit("192.0.2.2") and all(counts.admit("127.0.0.1") for _ in range(10)) and counts.admit("")
    )
    counts.leave("192.0.2.1")
    assert counts.admit("192.0.2.1") and not counts.admit("192.0.2.1")
    for host in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "127.0.0.1"):
        counts.leave(host)
    assert len(counts._open) == 0
