"""Clients and servers over real sockets: messages, refusals, limits, addresses in use."""

from __future__ import annotations

import socket
import stat
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from credits.errors import Code, Holder, InvalidRequest, Refused, Shortage, StoreError
from mgmt.http import (
    AddressError,
    ListenError,
    Peer,
    PeerRefused,
    PeerUnreachable,
    ProblemError,
    ServerThread,
    exception_handlers,
    message_endpoint,
    parse_address,
    problem,
    shortage_of,
)
from mgmt.messages import (
    BadMessage,
    CopyStopRequest,
    Envelope,
    Message,
    VolumeDigest,
    VolumeDigestRequest,
)

SHORTAGE = Shortage(10, 3, 2, 5, (Holder("port pair A->B", 40), Holder("hosts", 7)))


def application(seen: list[Envelope] | None = None) -> Starlette:
    def handle(envelope: Envelope) -> Message:
        if seen is not None:
            seen.append(envelope)
        if isinstance(envelope.message, VolumeDigestRequest):
            return VolumeDigest(volume=envelope.message.volume, sha256="00", length_bytes=3)
        raise Refused(Code.NO_MEMORY, "asked for 10 units, 3 are free", SHORTAGE)

    async def echo(request: Request) -> JSONResponse:
        return JSONResponse(await request.json())

    async def text(_request: Request) -> Response:
        return PlainTextResponse("hello")

    async def crash(_request: Request) -> Response:
        return Response("gone wrong", status_code=500)

    async def long(_request: Request) -> Response:
        return Response(b"x" * (9 * 1024 * 1024))

    routes = [
        Route("/messages", message_endpoint(handle), methods=["POST"]),
        Route("/echo", echo, methods=["POST"]),
        Route("/text", text),
        Route("/crash", crash),
        Route("/long", long),
    ]
    return Starlette(routes=routes, exception_handlers=exception_handlers())


@pytest.fixture(params=["unix", "tcp"])
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peer]:
    address = f"unix:{tmp_path}/s.sock" if request.param == "unix" else "http://127.0.0.1:0"
    with ServerThread(application(), address) as server, Peer(server.address) as client:
        yield client


def test_a_message_is_answered_by_a_message(peer: Peer) -> None:
    assert peer.send(VolumeDigestRequest(volume="v")) == VolumeDigest(volume="v", sha256="00", length_bytes=3)


def test_a_refusal_arrives_with_its_code_its_words_and_its_numbers(peer: Peer) -> None:
    with pytest.raises(PeerRefused) as caught:
        peer.send(CopyStopRequest(copy_id="c"))
    refused = caught.value
    assert (refused.code, refused.status) == ("NO_MEMORY", 409)
    assert str(refused) == refused.detail == "asked for 10 units, 3 are free"
    assert refused.shortage == SHORTAGE
    assert refused.problem["type"] == "/problems/no-memory"


def test_json_goes_there_and_back(peer: Peer) -> None:
    assert peer.post("/echo", {"größe": [1, None]}) == {"größe": [1, None]}


def test_what_is_not_there_is_refused_as_a_problem(peer: Peer) -> None:
    with pytest.raises(PeerRefused) as caught:
        peer.get("/nowhere")
    assert (caught.value.code, caught.value.status) == ("NOT_FOUND", 404)


def test_bytes_that_are_no_message_are_refused_as_bad(peer: Peer) -> None:
    with pytest.raises(PeerRefused, match="version 1 is spoken here") as caught:
        peer.post("/messages", {"message": "VolumeDigestRequest"})
    assert (caught.value.code, caught.value.status) == ("BAD_MESSAGE", 400)


def test_a_body_over_the_limit_is_refused_and_the_server_goes_on(peer: Peer) -> None:
    with pytest.raises(PeerRefused, match="at most 65536 bytes") as caught:
        peer.post("/echo", "x" * 70_000)
    assert caught.value.status == 413
    assert peer.post("/echo", "x" * 60_000) == "x" * 60_000


def test_an_answer_that_is_not_json_counts_as_none(peer: Peer) -> None:
    with pytest.raises(PeerUnreachable, match="not JSON"):
        peer.get("/text")


def test_an_answer_that_is_too_long_is_not_read_to_its_end(peer: Peer) -> None:
    with pytest.raises(PeerUnreachable, match="too long"):
        peer.get("/long")


def test_a_failure_without_a_problem_is_told_by_its_status(peer: Peer) -> None:
    with pytest.raises(PeerRefused, match="HTTP status 500") as caught:
        peer.get("/crash")
    assert (caught.value.code, caught.value.shortage) == ("HTTP", None)


# --- what comes from a browser or a stranger ----------------------------------------------------------------


@pytest.fixture
def url() -> Iterator[str]:
    with ServerThread(application(), "http://127.0.0.1:0") as server:
        yield str(server.address)


def test_a_form_that_a_web_page_could_post_is_refused(url: str) -> None:
    answer = httpx.post(f"{url}/echo", content=b"{}", headers={"content-type": "text/plain"})
    assert answer.status_code == 415
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "192.0.2.1", "127.0.0.1.evil.example"])
def test_a_request_for_another_host_name_is_refused(url: str, host: str) -> None:
    assert httpx.get(f"{url}/text", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:80"])
def test_a_request_by_a_loopback_name_is_served(url: str, host: str) -> None:
    assert httpx.get(f"{url}/text", headers={"host": host}).status_code == 200


def test_a_body_in_chunks_is_limited_like_any_other(url: str) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'"'
        for _ in range(80):
            yield b"x" * 1024

    answer = httpx.post(f"{url}/echo", content=chunks(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


# --- nobody there -------------------------------------------------------------------------------------------


def test_nobody_listening_on_a_unix_socket_is_said_with_its_address(tmp_path: Path) -> None:
    with (
        Peer(f"unix:{tmp_path}/none.sock", name="array M") as peer,
        pytest.raises(PeerUnreachable, match=r"array M at unix:.*none\.sock does not answer: no such file"),
    ):
        peer.get("/x")


def test_nobody_listening_on_a_port_is_said_with_its_address() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        peer = Peer(f"http://127.0.0.1:{unused.getsockname()[1]}", retries=0)
        with peer, pytest.raises(PeerUnreachable, match="connection refused"):
            peer.get("/x")


class Flaky:
    """A listener that breaks the first connections after reading, then serves one canned answer."""

    def __init__(self, breaks: int, answer: bytes) -> None:
        self.requests: list[bytes] = []
        self._breaks, self._answer = breaks, answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Flaky:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
                wanted = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                while len(body) < wanted:
                    body += connection.recv(65536)
                self.requests.append(body)
                if len(self.requests) > self._breaks:
                    connection.sendall(self._answer)


ANSWER = (
    b'{"message":"VolumeDigest","version":1,"request_id":"r","volume":"v","sha256":"00","length_bytes":3}'
)


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body)


def test_a_message_whose_connection_broke_is_sent_again_under_the_same_request_id() -> None:
    with Flaky(2, ok(ANSWER)) as server, Peer(server.address) as peer:
        assert isinstance(peer.send(VolumeDigestRequest(volume="v"), "once"), VolumeDigest)
    assert len(server.requests) == 3
    assert len(set(server.requests)) == 1 and b'"request_id":"once"' in server.requests[0]


def test_a_message_is_sent_again_a_bounded_number_of_times() -> None:
    with Flaky(100, b"") as server, Peer(server.address, retries=1) as peer, pytest.raises(PeerUnreachable):
        peer.send(VolumeDigestRequest(volume="v"))
    assert len(server.requests) == 2


def test_a_plain_post_is_not_sent_again() -> None:
    with Flaky(100, b"") as server, Peer(server.address) as peer, pytest.raises(PeerUnreachable):
        peer.post("/echo", {})
    assert len(server.requests) == 1


def test_a_silent_server_ends_in_a_timeout_that_is_not_repeated() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        peer = Peer(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=1.0)
        with peer, pytest.raises(PeerUnreachable, match=r"no whole answer in 1 s") as caught:
            peer.send(VolumeDigestRequest(volume="v"))
        assert caught.value.timed_out
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):  # nobody came a second time
            silent.accept()


class Dripping:
    """A listener that sends one more byte of an endless head whenever its client has had time to wait for it."""

    def __enter__(self) -> Dripping:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._gone = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._gone.set()
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
            while not self._gone.wait(0.02):
                connection.sendall(b"x")


def test_a_server_that_drips_bytes_is_not_waited_for_longer_than_a_silent_one() -> None:
    with (
        Dripping() as server,
        Peer(server.address, timeout_s=1.0) as peer,
        pytest.raises(PeerUnreachable, match=r"no whole answer in 1 s"),
    ):
        peer.get("/x")


def test_a_kept_connection_that_its_server_has_closed_is_not_used_again(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s.sock"
    with Peer(address, retries=0) as peer:
        for turn in range(3):
            with ServerThread(application(), address):
                assert peer.post("/echo", turn) == turn  # a plain post, which is not repeated


def test_a_client_that_is_closed_serves_nobody(tmp_path: Path) -> None:
    with ServerThread(application(), f"unix:{tmp_path}/s.sock") as server:
        peer = Peer(server.address)
        peer.post("/echo", 1)
        peer.close()
        with pytest.raises(RuntimeError, match="closed"):
            peer.post("/echo", 1)


def test_an_answer_that_is_no_message_of_ours_counts_as_none() -> None:
    with (
        Flaky(0, ok(b"{}")) as server,
        Peer(server.address) as peer,
        pytest.raises(PeerUnreachable) as caught,
    ):
        peer.send(VolumeDigestRequest(volume="v"))
    assert "no message of ours" in str(caught.value)


@pytest.mark.parametrize(
    ("greeting", "told"),
    [
        (b"SSH-2.0-x\r\n", r"does not speak HTTP \(SSH-2\.0-x\)"),
        (b"", "closed the connection instead of answering HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[1]", "the end in the middle of an answer"),
        (b"+OK POP3\r\n\r\n", r"does not speak HTTP \(.*POP3"),
    ],
)
def test_another_protocol_is_said_to_be_one(greeting: bytes, told: str) -> None:
    with (
        Flaky(0, greeting) as server,
        Peer(server.address, name="the station") as peer,
        pytest.raises(PeerUnreachable, match=told) as caught,
    ):
        peer.post("/x", {})
    assert caught.value.answered and not caught.value.timed_out


# --- listening ----------------------------------------------------------------------------------------------


def test_a_unix_socket_is_for_its_owner_alone_and_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with ServerThread(application(), f"unix:{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_a_socket_file_that_a_killed_server_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with ServerThread(application(), f"unix:{path}") as server, Peer(server.address) as peer:
        assert peer.post("/echo", 1) == 1


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_an_address_in_use_is_said_in_one_line_and_its_server_lives_on(kind: str, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s.sock" if kind == "unix" else "http://127.0.0.1:0"
    with ServerThread(application(), address) as first, Peer(first.address) as peer:
        second = ServerThread(application(), first.address)
        with pytest.raises(ListenError, match=r"cannot listen on .*: address already in use"):
            second.start()
        assert peer.post("/echo", 1) == 1


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ListenError, match="is there and is not a socket"):
        ServerThread(application(), f"unix:{path}").start()
    assert path.read_text() == "data"


def test_a_missing_directory_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="no such file or directory"):
        ServerThread(application(), f"unix:{tmp_path}/none/s.sock").start()


@pytest.mark.parametrize("address", ["http://0.0.0.0:0", "http://192.0.2.1:0", "http://[::]:0"])
def test_plain_http_is_not_served_off_loopback(address: str) -> None:
    with pytest.raises(ListenError, match="loopback"):
        ServerThread(application(), address).start()


def test_port_0_becomes_a_real_port() -> None:
    with ServerThread(application(), "http://127.0.0.1:0") as server:
        assert server.address.port > 0


def test_stopping_twice_and_without_a_start_does_nothing(tmp_path: Path) -> None:
    server = ServerThread(application(), f"unix:{tmp_path}/s.sock")
    server.stop()
    server.start()
    server.stop()
    server.stop()
    assert list(tmp_path.iterdir()) == []


# --- addresses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["unix:/a/b.sock", "unix:s.sock", "http://127.0.0.1:0", "http://[::1]:8480", "https://a.example:443"],
)
def test_an_address_reads_back_as_it_was_written(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "foo",
        "unix:",
        "unix:a\0b",
        "unix:/" + "x" * 107,
        "http://",
        "http://:80",
        "http://h:99999",
        "http://h:-1",
        "http://h:x",
        "http://h/path",
        "http://h?q",
        "http://h#f",
        "http://user:secret@",
        "http://h h",
        "http://[::1",
        "ftp://h",
        "http://h\n",
        "http://hé",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:secret@127.0.0.1:1", "http://user:***@127.0.0.1:1"),
        ("http://user:a%40secret@[::1]:1", "http://user:***@[::1]:1"),
        ("http://user@127.0.0.1:1", "http://user@127.0.0.1:1"),
        ("http://:secret@127.0.0.1:1", "http://:***@127.0.0.1:1"),
    ],
)
def test_a_password_in_an_address_is_taken_and_never_shown(text: str, shown: str) -> None:
    address = parse_address(text)
    assert str(address) == shown
    assert "secret" not in repr(address)
    assert ("secret" in address.password) is ("secret" in text)


@pytest.mark.parametrize(
    "text",
    [
        "ftp://user:secret@h",
        "http://user:secret@h:99999",
        "http://user:se/secret@h",
        "http://user:se#secret@h",
        "http://user:x@secret@h?q",
        "http://user:x://secret@h/path",
        "user:secret@h",
        "east=user:secret@h",
    ],
)
def test_a_password_in_what_is_no_address_is_not_shown_either(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_address(text)
    assert "secret" not in str(caught.value) and "***" in str(caught.value)


def test_a_client_shows_the_password_to_its_server_and_to_nobody_else() -> None:
    seen: list[str] = []

    async def note(request: Request) -> JSONResponse:
        seen.append(request.headers.get("authorization", ""))
        return JSONResponse({})

    app = Starlette(routes=[Route("/x", note)])
    with ServerThread(app, "http://127.0.0.1:0") as server:
        with Peer(f"http://user:a%40secret@{server.address.host_and_port}", name="array M") as peer:
            assert peer.get("/x") == {}
            assert peer.who == f"array M at http://user:***@{server.address.host_and_port}"
        with Peer(server.address) as peer:
            peer.get("/x")
    assert seen == ["Basic " + b64encode(b"user:a@secret").decode(), ""]


def test_a_server_has_no_password() -> None:
    with pytest.raises(ListenError, match="no user name and no password") as caught:
        ServerThread(application(), "http://user:secret@127.0.0.1:0").start()
    assert "secret" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        parse_address(text)
    except AddressError as error:
        assert str(error)


# --- problems -----------------------------------------------------------------------------------------------

COUNTS = st.integers(0, 2**62)
SHORTAGES = st.builds(
    Shortage, COUNTS, COUNTS, COUNTS, COUNTS, st.lists(st.builds(Holder, st.text(), COUNTS)).map(tuple)
)


@given(st.sampled_from(Code), st.text(), st.none() | SHORTAGES)
def test_a_refusal_survives_being_a_problem(code: Code, text: str, shortage: Shortage | None) -> None:
    status, body = problem(Refused(code, text, shortage))
    assert 400 <= status < 600 and body["status"] == status and body["title"]
    assert (body["code"], body["detail"]) == (code, text)
    assert shortage_of(body) == shortage


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidRequest(Code.INVALID_SIZE, "x"), 422, "INVALID_SIZE"),
        (StoreError("x"), 507, "STORE"),
        (BadMessage("x"), 400, "BAD_MESSAGE"),
        (PeerUnreachable("a", "x"), 502, "UNREACHABLE"),
        (ProblemError("ODD", "x", status=418, title="t"), 418, "ODD"),
    ],
)
def test_each_error_has_its_status_and_code(error: Exception, status: int, code: str) -> None:
    assert problem(error)[0] == status
    assert problem(error)[1]["code"] == code


def test_a_refusal_of_a_peer_is_passed_on_as_it_came() -> None:
    body: dict[str, Any] = {"code": "NO_MEMORY", "status": 409, "detail": "d", "free_units": 1, "more": [1]}
    assert problem(PeerRefused("NO_MEMORY", "", "d", body)) == (409, body)


@pytest.mark.parametrize("status", [200, "409", None, True, 99999])
def test_a_problem_with_a_senseless_status_is_passed_on_as_a_bad_gateway(status: object) -> None:
    assert PeerRefused("X", "", "", {"status": status}).status == 502


@pytest.mark.parametrize(
    "body", [{}, {"asked_units": 1}, problem(Refused(Code.BUSY, "", SHORTAGE))[1] | {"holders": "all"}]
)
def test_numbers_that_are_not_all_there_are_none(body: dict[str, Any]) -> None:
    assert shortage_of(body) is None


def test_a_defect_is_no_refusal() -> None:
    with pytest.raises(TypeError):
        problem(KeyError("x"))
