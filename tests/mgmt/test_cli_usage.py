"""Wrong usage gets one line and exit code 2, and a station that is not there one line and exit code 3."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mgmt.cli.main import main
from mgmt.cli.process_title import blanked
from mgmt.http import ServerThread
from tests.mgmt.cli_runs import one_line, run

BAD = {
    "bogus": "there is no command 'bogus'",
    "get bogus": "there is no command 'bogus'",
    "get pools -o xml": "'xml' is not one of 'table'",
    "get pools --watch 0": "range",
    "get pools --watch soon": "not a valid float",
    "get pools --station nonsense": "'nonsense' is not an address",
    "get pools --nope": "--nope",
    "recommend": "name a target",
    "recommend --bandwidth 10Mbit": "both --bandwidth and --rtt",
    "recommend --bandwidth 10parsecs --rtt 1ms": "10parsecs",
    "recommend --bandwidth 0 --rtt 1ms": "more than 0",
    "recommend --bandwidth 1Mbit --rtt -1ms": "--rtt",
    "recommend --bandwidth 1Mbit --rtt 1ms --sessions 0": "range",
    "recommend --bandwidth 1Mbit --rtt 1ms --sessions 99999": "range",
    "recommend --bandwidth 1Mbit --rtt 1ms --policy wild": "'wild' is not one of",
    "recommend --bandwidth 1Mbit --rtt 1ms --policy fos": "needs",
    "recommend --bandwidth 1Mbit --rtt 1ms --port-pair a,b": "not both",
    "recommend --policy fc-exact --port-pair a,b": "--speed and --distance",
    "recommend --bandwidth 1Mbit --rtt 1ms --policy fos-average-frame": "--speed and --distance",
    "recommend --speed 8G": "--speed and --distance",
    "recommend --distance 10km": "--speed and --distance",
    "recommend --speed 8G --distance 10km --rtt 1ms": "not --bandwidth and --rtt",
    "recommend --speed 9G --distance 10km": "'9G' is not a Fibre Channel speed",
    "recommend --speed 8G --distance 0km": "more than 0",
    "recommend --speed 8G --distance 99999km": "at most 20000 km",
    "recommend --speed 8G --distance 10km --payload 2113": "range",
    "reserve --port-pair a": "two names and a comma",
    "reserve --port-pair a,b,c": "two names and a comma",
    "reserve --port-pair a,b --size 0": "more than 0",
    "reserve --port-pair a,b --size lots": "lots",
    "reserve --port-pair a,b --remote-port 70000": "range",
    "reserve --port-pair a,b --remote-port 25 --connection": "not both",
    "reserve --connection": "--port-pair",
    "reserve --connection --buffer-id 1": "one of them",
    "reserve --buffer-id 1 --size 1MiB": "use --connection",
    "reserve --application x --port-pair a,b --connection": "one target",
    "reserve --application x --port-pair a,b --remote-port 25": "one target",
    "reserve --application x --port-pair a": "two names and a comma",
    "reserve --application x --both-ends": "for a port pair alone",
    "reserve --port-pair a,b --remote-port 25 --both-ends": "for a port pair alone",
    "reserve --port-pair a,b --lease soon": "soon",
    "reserve --port-pair a,b --lease 0s": "more than 0",
    "reserve --application x --volume-pair a,b": "one target",
    "preview --port-pair a,b --if rtt": "name=value",
    "preview --port-pair a,b --if colour=red": "bandwidth, rtt, sessions, connections",
    "preview --port-pair a,b --if rtt=soon": "soon",
    "preview --port-pair a,b --if sessions=0": "range",
    "release": "name a target",
    "update --port-pair a,b --if-revision x": "not a valid integer",
    "copy start --port-pair a,b": "--volume",
    "copy start --volume v": "name a target",
    "copy start --port-pair a,b --volume v --volume-group-pair g": "two names and a comma",
    "copy verify": "COPY_ID",
    "measure": "--port-pair",
    "station serve --array M": "NAME=ADDRESS",
    "station serve --array M=nonsense": "not an address",
    "station serve --array M=unix:/a --array M=unix:/b": "name of its own",
    "station serve --listen nonsense": "not an address",
    "target serve --portal nonsense": "HOST:PORT",
    "target serve --portal 127.0.0.1:99999": "HOST:PORT",
    "target serve --iqn nonsense": "no iSCSI name",
    "target serve --lun /none/such": "does not exist",
    "target serve --lun 0": "size '0'",
    "target serve --chap user:secret": "never from the command line",
    "target serve --chap user:@/none/such": "cannot read the secret",
    "completion tcsh": "'tcsh' is not one of",
}


@pytest.mark.parametrize("words", BAD)
def test_wrong_usage_gets_one_line_and_exit_code_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    told = capsys.readouterr()
    assert BAD[words] in one_line(told.err)
    assert told.out == ""


def test_a_secret_that_others_can_read_is_refused_and_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "secret"
    file.write_text("hunter2hunter2")
    file.chmod(0o644)
    assert main(["target", "serve", "--chap", f"user:@{file}"]) == 2
    told = one_line(capsys.readouterr().err)
    assert "chmod 600" in told and "hunter2" not in told


@pytest.mark.parametrize(
    "words",
    [
        "get pools",
        "recommend --port-pair a,b",
        "reserve --port-pair a,b",
        "release --port-pair a,b",
        "copy status",
        "copy start --port-pair a,b --volume v",
    ],
)
def test_a_station_that_is_not_there_gets_one_line_and_exit_code_3(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words.split(), "--station", f"unix:{tmp_path}/none.sock"]) == 3
    told = one_line(capsys.readouterr().err)
    assert "the station at unix:" in told and "sancredit station serve" in told


def test_the_station_is_found_by_its_environment_variable(tmp_path: Path) -> None:
    done = run("get", "pools", SANCREDIT_STATION=f"unix:{tmp_path}/elsewhere.sock")
    assert done.returncode == 3
    assert "elsewhere.sock" in one_line(done.stderr)


def test_a_password_in_the_stations_address_is_masked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for words in (
        f"get pools --station http://user:hunter2@127.0.0.1:{port}",
        "get pools --station http://user:hunter2@127.0.0.1:99999",
        "station serve --array http://user:hunter2@127.0.0.1:1",
        "station serve --array a=ftp://user:hunter2@127.0.0.1:1",
        f"station serve --listen http://user:hunter2@127.0.0.1:{port}",
    ):
        assert main(words.split()) in (1, 2, 3)
        told = capsys.readouterr()
        assert "hunter2" not in told.out + told.err and "user:***@" in one_line(told.err), words


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"x\0http://u:pw@h\0y@z\0", b"x\0http://u:**@h\0y@z\0"),
        (b"a=http://u:p@w@h\0b=http://v:x:y@i\0", b"a=http://u:***@h\0b=http://v:***@i\0"),
        (b"http://u@h\0http://h:1\0", b"http://u@h\0http://h:1\0"),
    ],
)
def test_only_passwords_are_blanked_and_no_byte_moves(before: bytes, after: bytes) -> None:
    assert blanked(before) == after


def test_another_protocol_at_the_stations_port_is_said_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"SSH-2.0-x\r\n")

        greeter = threading.Thread(target=greet)
        greeter.start()
        code = main(["get", "pools", "--station", f"http://127.0.0.1:{listener.getsockname()[1]}"])
        greeter.join()
    told = one_line(capsys.readouterr().err)
    assert code == 3
    assert "does not speak HTTP (SSH-2.0-x)" in told and "is it a sancredit station" in told
    assert "start it" not in told


EVERY_REQUEST = [
    "register --port-pair a,b",
    "unregister --port-pair a,b",
    "recommend --port-pair a,b --explain",
    "reserve --port-pair a,b",
    "reserve --port-pair a,b --both-ends",
    "reserve --port-pair a,b --dry-run",
    "update --port-pair a,b",
    "release --port-pair a,b",
    "preview --port-pair a,b",
    "copy start --port-pair a,b --volume v",
    "copy status c",
    "copy stop c",
    "copy verify c",
]


@pytest.mark.parametrize(
    "answer",
    [{}, [], None, 7, {"items": [{}]}, {"array": 1, "local": {}, "remote": {}, "local_port": None}],
    ids=str,
)
def test_an_answer_without_what_was_asked_for_gets_one_line_and_exit_code_3(
    answer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def anything(_request: Request) -> JSONResponse:
        return JSONResponse(answer)

    app = Starlette(routes=[Route("/{path:path}", anything, methods=["GET", "POST"])])
    with ServerThread(app, f"unix:{tmp_path}/other.sock") as server:
        for words in EVERY_REQUEST:
            code = main([*words.split(), "--station", str(server.address)])
            told = capsys.readouterr()
            assert "is it a sancredit station" in one_line(told.err), words
            assert (code, told.out) == (3, ""), words
