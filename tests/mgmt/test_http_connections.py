"""What a client reads from a connection: whole answers, in pieces of any size, and nothing without bounds."""

from __future__ import annotations

import json
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgmt.http.connections import Connection, NotHttp, TooLong

LIMIT = 1000


def answers(data: bytes, count: int = 1) -> list[tuple[int, bytes, bool]]:
    """What a client makes of the bytes that a server sent before it closed the connection."""
    near, far = socket.socketpair()
    with near, far:
        far.sendall(data)
        far.shutdown(socket.SHUT_WR)
        connection = Connection(near)
        connection.deadline = time.monotonic() + 20
        return [connection.answer(LIMIT) for _ in range(count)]


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]", (200, b"[1]", True)),
        (b"HTTP/1.1 409 \r\ncontent-length:0\r\n\r\n", (409, b"", True)),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"", True)),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nConnection: Close\r\n\r\n[1]", (200, b"[1]", False)),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\n[1]", (200, b"[1]", False)),
        (b"HTTP/1.1 200 OK\r\n\r\nall of it", (200, b"all of it", False)),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1", (200, b"1", True)),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\n[1\r\n1\r\n]\r\n0\r\nt: v\r\n\r\n",
            (200, b"[1]", True),
        ),
    ],
)
def test_an_answer_is_read_as_http_has_it(data: bytes, answer: tuple[int, bytes, bool]) -> None:
    assert answers(data) == [answer]


def test_one_answer_ends_where_the_next_begins() -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
    plain = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nb"
    assert [body for _, body, _ in answers(chunked + plain + chunked, 3)] == [b"a", b"b", b"a"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: y",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 20_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1e3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[1]",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n[1]\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n[1\r\n",
    ],
)
def test_what_is_no_whole_answer_is_none(data: bytes) -> None:
    with pytest.raises(NotHttp):
        answers(data)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1001,
    ],
)
def test_no_more_is_read_than_was_asked_for(data: bytes) -> None:
    with pytest.raises(TooLong):
        answers(data)


@given(st.binary(max_size=200), st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]))
def test_any_bytes_are_an_answer_or_none(data: bytes, before: bytes) -> None:
    try:
        ((status, body, _),) = answers(before + data)
    except (NotHttp, TooLong):
        return
    assert 200 <= status < 1000 and len(body) <= LIMIT


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=8))
def test_chunks_of_any_size_are_put_together(chunks: list[bytes]) -> None:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    assert answers(head + body + b"0\r\n\r\n") == [(200, b"".join(chunks), True)]


def test_nothing_is_waited_for_when_the_time_is_up() -> None:
    near, far = socket.socketpair()
    with near, far:
        connection = Connection(near)
        connection.deadline = time.monotonic()
        with pytest.raises(TimeoutError):
            connection.answer(LIMIT)
        with pytest.raises(TimeoutError):
            connection.send(json.dumps({}).encode())
