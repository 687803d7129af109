"""The command tree: help, examples, values, exit codes, and commands whose other side is not there."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mgmt.api.app import make_app
from mgmt.cli import failures
from mgmt.cli.commands import COMMANDS, Entry
from mgmt.cli.main import main, make_cli
from mgmt.cli.process_title import blanked
from mgmt.http import ServerThread
from tests.mgmt.station_stand_ins import LOCAL, REMOTE, Site, site

PAIR = f"{LOCAL},{REMOTE}"


def leaves(entries: Any = COMMANDS, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, entry in entries.items():
        if entry.children:
            yield from leaves(entry.children, (*path, name))
        else:
            yield (*path, name)


def groups() -> list[str]:
    return [name for name, entry in COMMANDS.items() if entry.children]


def find(path: tuple[str, ...]) -> click.Command:
    command: click.Command = make_cli()
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None, path
        command = found
    return command


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mgmt.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
        check=False,
    )


def one_line(text: str) -> str:
    assert text.startswith("sancredit: ") and text.count("\n") == 1 and text.endswith("\n"), text
    return text


# --- help, examples, start-up -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [(), *((name,) for name in groups()), *leaves()], ids=" ".join)
def test_help_ends_with_an_example_that_parses_as_typed(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*path, "--help"]) == 0
    example = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert example.lstrip().startswith("Example: sancredit "), example
    words = shlex.split(example.partition("Example: sancredit ")[2])
    command = tuple(words[: next((n for n, w in enumerate(words) if w.startswith("-")), len(words))])
    leaf = max((known for known in leaves() if known == command[: len(known)]), key=len)
    called: list[dict[str, Any]] = []
    monkeypatch.setattr(find(leaf), "callback", lambda **values: called.append(values))
    if "--help" in words:
        assert main(words) == 0
    else:
        assert main(words) == 0 and len(called) == 1


def test_every_command_of_the_tree_is_listed_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, entry in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(entry.about[:40])}", shown, re.MULTILINE), name


def test_help_imports_no_library_that_takes_long() -> None:
    code = (
        "import sys\nfrom mgmt.cli.main import main\nmain(['--help'])\n"
        "slow = {'scapy','httpx','fastapi','sqlalchemy','uvicorn','numpy','tabulate','construct','pydantic'}\n"
        "sys.exit(','.join(slow & set(sys.modules)) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_version_says_whether_compiled_kernels_are_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"sancredit \S+ \(.*kernels.*\)\n", capsys.readouterr().out)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "_SANCREDIT_COMPLETE" in capsys.readouterr().out


def test_completion_offers_the_commands_of_a_group() -> None:
    done = run(_SANCREDIT_COMPLETE="bash_complete", COMP_WORDS="sancredit get p", COMP_CWORD="2")
    offered = [line.partition(",")[2] for line in done.stdout.split()]
    assert offered == ["ports", "pools", "pairs"]


def test_a_command_that_is_not_installed_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = {"ghost": Entry("A ghost.", "mgmt.cli.ghost:ghost"), "needy": Entry("Needy.", "needy_library:x")}
    monkeypatch.setattr("mgmt.cli.main.COMMANDS", tree)
    assert main(["ghost"]) == 1
    assert "not part of this installation" in one_line(capsys.readouterr().err)
    assert main(["needy"]) == 1
    assert "pip install 'sancredit[all]'" in one_line(capsys.readouterr().err)


# --- recommend without a station ----------------------------------------------------------------------------


def test_recommend_computes_the_documents_formula_without_a_station(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = "recommend --bandwidth 100Mbit --rtt 20ms --sessions 2 --connections 3 -o json"
    assert main(words.split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["policy"], found["bytes"], found["units"], found["unit_bytes"]) == (
        "document",
        1_500_000,
        92,
        16384,
    )
    assert found["terms"]["sessions"] == 2


def test_policy_all_is_a_list_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--bandwidth", "1Gbit", "--rtt", "40ms", "--policy", "all", "-o", "json"]) == 0
    found = {row["policy"]: row["bytes"] for row in json.loads(capsys.readouterr().out)}
    assert found["document"] == 5_000_000
    assert found["cisco-mds"] == 4_691_596


def test_a_fibre_channel_link_is_sized_in_credits_by_every_rule(capsys: pytest.CaptureFixture[str]) -> None:
    """100 km at 8G: Brocade's rule says 406 (reference figures), the round trip holds 1 ms x 850 MB/s / 2172 B."""
    words = ["recommend", "--speed", "8G", "--distance", "100km", "--policy", "all", "-o", "json"]
    assert main(words) == 0
    found = {row["policy"]: row["units"] for row in json.loads(capsys.readouterr().out)}
    assert (found["fos"], found["fc-exact"], found["document"]) == (406, 392, 396)
    assert main([*words, "--payload", "1024"]) == 0
    found = {row["policy"]: row["units"] for row in json.loads(capsys.readouterr().out)}
    assert found["fos-average-frame"] == 828


def test_explain_shows_each_term_with_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--bandwidth", "10Mbit", "--rtt", "280ms", "--explain"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"rtt_ns +280000000 +delay, from sending to acknowledgement", shown)
    assert max(len(line) for line in shown.splitlines()) <= 80


@pytest.mark.parametrize("output", ["json", "yaml", "csv"])
def test_the_same_recommendation_in_every_format(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--bandwidth", "10Mbit", "--rtt", "280ms", "-o", output]) == 0
    assert "350000" in capsys.readouterr().out


# --- wrong usage: exit code 2, one line ---------------------------------------------------------------------

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


# --- nobody there: exit code 3 ------------------------------------------------------------------------------


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


# --- against a station in this process, with stand-in arrays ------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with (
        site(tmp_path) as made,
        ServerThread(make_app(made.station), f"unix:{tmp_path}/station.sock") as server,
    ):
        monkeypatch.setenv("SANCREDIT_STATION", str(server.address))
        yield made


def test_a_refusal_gets_one_line_and_exit_code_1(place: Site, capsys: pytest.CaptureFixture[str]) -> None:
    place.master.refuse = lambda message: True
    assert main(["reserve", "--port-pair", PAIR, "--size", "1GiB"]) == 1
    told = capsys.readouterr()
    assert one_line(told.err) == "sancredit: no memory\n" and told.out == ""


def test_a_bad_value_that_only_the_station_can_know_gets_exit_code_2(
    place: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reserve", "--port-pair", f"192.0.2.9,{REMOTE}", "--size", "1MiB"]) == 2
    assert "no array has the port 192.0.2.9" in one_line(capsys.readouterr().err)


def test_an_array_that_is_down_gets_exit_code_3_by_its_name(
    place: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    place.down("M")
    assert main(["reserve", "--port-pair", PAIR, "--size", "1MiB"]) == 3
    assert "array M at unix:" in one_line(capsys.readouterr().err)


def test_one_array_down_is_said_on_stderr_and_the_rest_is_shown(
    place: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    place.down("R")
    for table in ("ports", "pools", "reservations", "allocations", "buffer-ids", "copies"):
        assert main(["get", table, "-o", "json"]) == 3
        told = capsys.readouterr()
        assert {row["array"] for row in json.loads(told.out)} <= {"M"}
        assert "array R" in one_line(told.err)
    assert main(["get", "ports", "-o", "json"]) == 3
    assert [row["array"] for row in json.loads(capsys.readouterr().out)] == ["M"]
    assert main(["get", "arrays", "-o", "json"]) == 3
    told = capsys.readouterr()
    assert {row["array"]: row["state"] for row in json.loads(told.out)} == {"M": "up", "R": "down"}
    assert "array R" in one_line(told.err)
    place.down("M")
    assert main(["get", "ports", "-o", "json"]) == 3
    assert json.loads(capsys.readouterr().out) == []


def test_csv_has_the_same_columns_whatever_the_rows_have(
    place: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["get", "copies", "-o", "csv"]) == 0
    empty = capsys.readouterr().out
    assert empty.startswith("copy_id,array,pair,") and empty.count("\n") == 1
    assert main(["get", "copies", "-o", "csv", "--no-headers"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["get", "channels", "-o", "csv"]) == 0
    headings = capsys.readouterr().out
    assert main(["register", "--port-pair", PAIR, "-o", "csv"]) == 0
    first, row = capsys.readouterr().out.splitlines(keepends=True)
    assert first == headings
    (found,) = csv.DictReader([first, row])
    assert (found["local_port"], found["remote_port_number"], found["bandwidth_bps"]) == (LOCAL, "", "")
    assert found["stale"] in ("true", "false")


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


def test_a_password_is_not_in_the_process_title(tmp_path: Path) -> None:
    words = ("station", "serve", "--listen", "http://127.0.0.1:0", "--state", str(tmp_path))
    process = served(*words, "--array", "a=http://user:hunter2@127.0.0.1:1")
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("listening http://127.0.0.1:")
        title = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert b"a=http://user:*******@127.0.0.1:1" in title and b"hunter2" not in title
    assert (process.returncode, errors) == (0, "")


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


def test_help_says_what_a_command_that_asks_a_station_needs(capsys: pytest.CaptureFixture[str]) -> None:
    for path in leaves():
        command = find(path)
        asks = any(parameter.name == "station" for parameter in command.params)
        assert main([*path, "--help"]) == 0
        shown = capsys.readouterr().out
        assert asks is ("sancredit station serve --array" in shown.partition("It asks a station: ")[2]), path
        assert "192.0.2." not in shown and "198.51.100." not in shown, path


def test_something_that_is_no_station_is_said_to_be_none(
    place: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["get", "pools", "--station", place.address("M")]) == 1
    assert "is it a sancredit station" in one_line(capsys.readouterr().err)


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


def test_a_shortage_is_warned_of_and_stops_nothing(place: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """Step 906."""
    place.master.free_units = 1
    assert main(["recommend", "--port-pair", PAIR, "-o", "json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["short_units"] == 170
    assert "short by 170" in one_line(told.err)


def test_a_start_in_part_is_told_with_the_way_to_stop_it(
    place: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    place.master.refuse = lambda message: getattr(message, "connection", 0) == 1
    words = ["copy", "start", "--port-pair", PAIR, "--volume", "vol0", "--connections", "2"]
    assert main(words) == 1
    told = capsys.readouterr()
    assert "1 of 2 connections were refused: no memory" in one_line(told.err)
    assert re.search(r"`sancredit copy stop copy-\w+` stops it", told.err)


def test_different_digests_are_a_failure(place: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["copy", "start", "--port-pair", PAIR, "--volume", "vol0", "-o", "json"]) == 0
    copy_id = json.loads(capsys.readouterr().out)["copy_id"]
    assert main(["copy", "verify", copy_id]) == 1
    assert capsys.readouterr().out.startswith("different: SHA-256 M of 4096 bytes here")


@pytest.mark.parametrize("output", ["table", "wide", "json", "yaml", "csv"])
def test_no_headers_leaves_only_rows(place: Site, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", "ports", "-o", output, "--no-headers"]) == 0
    shown = capsys.readouterr().out
    assert LOCAL in shown and "PORT" not in shown
    assert output in ("json", "yaml") or len(shown.splitlines()) == 2


def test_an_odd_path_is_no_way_around_the_api(place: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["copy", "status", "../pools"]) == 1
    assert one_line(capsys.readouterr().err)


def test_watch_shows_the_table_again_until_it_is_interrupted(place: Site) -> None:
    watching = subprocess.Popen(
        [sys.executable, "-m", "mgmt.cli", "get", "ports", "--no-headers", "--watch", "0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    shown = [watching.stdout.readline() for _ in range(8)]
    watching.send_signal(signal.SIGINT)
    _, errors = watching.communicate(timeout=30)
    assert (watching.returncode, errors) == (0, "")
    assert sum(LOCAL in line for line in shown) >= 2


def test_a_reader_that_leaves_early_is_no_failure(place: Site) -> None:
    code = f"{shlex.quote(sys.executable)} -m mgmt.cli get ports --watch 0.1 | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {code}"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ARRAY")


# --- servers as processes -----------------------------------------------------------------------------------


def served(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mgmt.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_station_says_where_it_listens_and_ends_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    process = served("station", "serve", "--listen", f"unix:{path}", "--state", str(tmp_path / "state"))
    assert process.stdout is not None
    assert process.stdout.readline() == f"listening unix:{path}\n"
    process.send_signal(number)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0
    assert not path.exists()


def test_a_station_that_waits_for_a_silent_array_still_ends_when_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "m.sock"))
        silent.listen()
        words = (
            "station",
            "serve",
            "--listen",
            f"unix:{tmp_path}/s.sock",
            "--state",
            str(tmp_path / "state"),
        )
        process = served(*words, "--array", f"M=unix:{tmp_path}/m.sock")
        assert process.stdout is not None and process.stdout.readline().startswith("listening")
        asking = served("get", "pools", "--station", f"unix:{tmp_path}/s.sock")
        with ExitStack() as taken:
            request = b""
            while b" /v1/pools " not in request:  # the station's own look asks /v1/info first, and waits
                request = taken.enter_context(silent.accept()[0]).recv(200)
            process.terminate()
            _, errors = process.communicate(timeout=20)
            _, told = asking.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    assert (asking.returncode, one_line(told)) == (3, "sancredit: the server stops\n")


def test_a_station_whose_state_is_in_use_ends_with_one_line(tmp_path: Path) -> None:
    arguments = ("station", "serve", "--listen", "http://127.0.0.1:0", "--state", str(tmp_path))
    first = served(*arguments)
    assert first.stdout is not None and first.stdout.readline().startswith("listening http://127.0.0.1:")
    done = run(*arguments)
    first.terminate()
    first.communicate(timeout=30)
    assert done.returncode == 1
    assert "in use by another station" in one_line(done.stderr)


def test_a_port_in_use_ends_a_station_and_a_target_with_exit_code_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        station = run(
            "station", "serve", "--listen", f"http://127.0.0.1:{port}", "--state", str(tmp_path / "s")
        )
        target = run("target", "serve", "--portal", f"127.0.0.1:{port}")
    assert (station.returncode, target.returncode) == (1, 1)
    assert "address already in use" in one_line(station.stderr).lower()
    assert "address already in use" in one_line(target.stderr).lower()


def test_a_target_prints_a_line_for_each_portal_and_lun_and_ends_cleanly(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1024 * 1024))
    process = served(
        *("target", "serve", "--portal", "127.0.0.1:0", "--portal", "127.0.0.2:0"),
        *("--lun", "64MiB", "--lun", str(disk), "--iqn", "iqn.2003-10.example:t"),
    )
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(4)]
    process.terminate()
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0
    pattern = r"listening iscsi://127\.0\.0\.(\d):[1-9]\d*/iqn\.2003-10\.example:t/(\d)\n"
    matches = [re.fullmatch(pattern, line) for line in told]
    assert [match.groups() if match else None for match in matches] == [
        ("1", "0"),
        ("1", "1"),
        ("2", "0"),
        ("2", "1"),
    ]


# --- failures -----------------------------------------------------------------------------------------------


def test_a_defect_keeps_its_traceback() -> None:
    assert failures.describe(ZeroDivisionError()) is None


def test_control_signs_of_a_peer_do_not_reach_the_terminal() -> None:
    found = failures.describe(click.ClickException("a\x1b[2Jb\nc\x07"))
    assert found == (1, "a [2Jb c ")
