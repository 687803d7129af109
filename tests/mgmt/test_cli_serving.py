"""``station serve`` and ``target serve`` as processes: what they say, and how they end."""

from __future__ import annotations

import re
import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mgmt.cli_runs import one_line, run, served


def test_a_password_is_not_in_the_process_title(tmp_path: Path) -> None:
    words = ("station", "serve", "--listen", "http://127.0.0.1:0", "--state", str(tmp_path))
    process = served(*words, "--array", "a=http://user:hunter2@127.0.0.1:1")
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("listening http://127.0.0.1:")
        title = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=120)
    assert b"a=http://user:*******@127.0.0.1:1" in title and b"hunter2" not in title
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_station_says_where_it_listens_and_ends_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    process = served("station", "serve", "--listen", f"unix:{path}", "--state", str(tmp_path / "state"))
    assert process.stdout is not None
    assert process.stdout.readline() == f"listening unix:{path}\n"
    process.send_signal(number)
    assert process.communicate(timeout=120) == ("", "")
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
            _, errors = process.communicate(timeout=120)
            _, told = asking.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert (asking.returncode, one_line(told)) == (3, "sancredit: the server stops\n")


def test_a_station_whose_state_is_in_use_ends_with_one_line(tmp_path: Path) -> None:
    arguments = ("station", "serve", "--listen", "http://127.0.0.1:0", "--state", str(tmp_path))
    first = served(*arguments)
    assert first.stdout is not None and first.stdout.readline().startswith("listening http://127.0.0.1:")
    done = run(*arguments)
    first.terminate()
    first.communicate(timeout=120)
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
    assert process.communicate(timeout=120) == ("", "")
    assert process.returncode == 0
    pattern = r"listening iscsi://127\.0\.0\.(\d):[1-9]\d*/iqn\.2003-10\.example:t/(\d)\n"
    matches = [re.fullmatch(pattern, line) for line in told]
    assert [match.groups() if match else None for match in matches] == [
        ("1", "0"),
        ("1", "1"),
        ("2", "0"),
        ("2", "1"),
    ]
