"""What commands make of a station's answers: a station in this process, with stand-in arrays."""

from __future__ import annotations

import csv
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mgmt.api.app import make_app
from mgmt.cli.main import main
from mgmt.http import ServerThread
from tests.mgmt.cli_runs import one_line
from tests.mgmt.station_stand_ins import LOCAL, REMOTE, Site, site

PAIR = f"{LOCAL},{REMOTE}"


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


def test_something_that_is_no_station_is_said_to_be_none(
    place: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["get", "pools", "--station", place.address("M")]) == 1
    assert "is it a sancredit station" in one_line(capsys.readouterr().err)


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
    _, errors = watching.communicate(timeout=120)
    assert (watching.returncode, errors) == (0, "")
    assert sum(LOCAL in line for line in shown) >= 2


def test_a_reader_that_leaves_early_is_no_failure(place: Site) -> None:
    code = f"{shlex.quote(sys.executable)} -m mgmt.cli get ports --watch 0.1 | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {code}"], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ARRAY")
