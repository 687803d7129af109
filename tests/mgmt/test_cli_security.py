"""The command line against a station that asks for TLS and tokens: real processes, and no secret where it shows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mgmt.certificates import Authority

ENTRY = "import sys; from mgmt.cli.main import main; sys.exit(main())"


def finished(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ENTRY, *words],
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextmanager
def process(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A command that serves, and the control address that it says."""
    started = subprocess.Popen(
        [sys.executable, "-c", ENTRY, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        while "iscsi://" in line:
            line = started.stdout.readline()
        yield started, line.removeprefix("listening ").strip()
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGTERM)
            started.communicate(timeout=120)


def test_a_token_is_made_listed_rotated_and_revoked(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path))
    made = finished("station", "token", "create", "ci", "--role", "operator", "--expires", "90d", *state)
    assert made.returncode == 0 and made.stdout.startswith("sct_") and len(made.stdout.split()) == 1
    assert "ci is operator" in made.stderr and made.stdout.strip() not in made.stderr
    listed = finished("station", "token", "list", *state).stdout
    assert "ci" in listed and "operator" in listed and "valid" in listed and "sct_" not in listed
    again = finished("station", "token", "create", "ci", *state)
    assert (again.returncode, again.stdout) == (1, "") and "there is a token 'ci'" in again.stderr
    rotated = finished("station", "token", "rotate", "ci", *state)
    assert rotated.stdout.startswith("sct_") and rotated.stdout != made.stdout
    assert "rotating" in finished("station", "token", "list", *state).stdout
    assert finished("station", "token", "revoke", "ci", *state).returncode == 0
    assert finished("station", "token", "revoke", "ci", *state).returncode == 1
    assert finished("station", "token", "list", "-o", "json", *state).stdout.strip() == "[]"


@pytest.mark.parametrize(
    "words",
    [
        ("station", "token", "create", "ci", "--role", "king"),
        ("station", "token", "create", "ci", "--expires", "never"),
        ("station", "token", "rotate", "ci", "--grace", "1w"),
        ("get", "pools", "--token", "sct_written_on_the_command_line"),
        ("get", "pools", "--token", "@/nowhere/token"),
        ("get", "pools", "--station", "https://127.0.0.1:1", "--ca", "/nowhere/ca.pem"),
        ("station", "serve", "--listen", "https://127.0.0.1:0", "--tls-cert", "/nowhere/c"),
        ("station", "serve", "--peer-token", "secret"),
        ("array", "serve", "--listen", "https://192.0.2.1:0"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(words: tuple[str, ...], tmp_path: Path) -> None:
    answer = finished(*words, HOME=str(tmp_path))
    assert answer.returncode == 2, answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1 and "Traceback" not in answer.stderr
    assert "written_on" not in answer.stderr


def test_a_secret_of_the_wrong_form_is_refused_and_not_shown(tmp_path: Path) -> None:
    answer = finished("get", "pools", SANCREDIT_TOKEN="a secret with spaces", HOME=str(tmp_path))
    assert answer.returncode == 2 and "SANCREDIT_TOKEN has a space" in answer.stderr
    assert "secret with" not in answer.stderr


@pytest.mark.slow
def test_a_station_on_tls_serves_who_shows_a_token_and_writes_no_secret_anywhere(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.sign("station")
    state = tmp_path / "state"
    text = finished("station", "token", "create", "ci", "--state", str(state)).stdout.strip()
    token = tmp_path / "ci.token"
    token.touch(mode=0o600)
    token.write_text(text + "\n")
    tls = ("--tls-cert", str(files.certificate), "--tls-key", str(files.key))
    said = ""
    with process("station", "serve", "--listen", "https://127.0.0.1:0", "--state", str(state), *tls) as (
        served,
        address,
    ):
        assert address.startswith("https://127.0.0.1:")
        station = ("--station", address, "--ca", str(authority.file))
        for words, environment in (
            ((*station, "--token", f"@{token}"), {}),
            (station, {"SANCREDIT_TOKEN": text}),
            (station, {"SANCREDIT_TOKEN": f"@{token}"}),
        ):
            answer = finished("get", "arrays", *words, "-o", "json", **environment)
            assert (answer.returncode, answer.stdout.strip()) == (0, "[]"), answer.stderr
        nobody = finished("get", "arrays", *station)
        assert nobody.returncode == 1 and "token" in nobody.stderr
        untrusted = finished("get", "arrays", "--station", address, "--token", f"@{token}")
        assert untrusted.returncode == 3 and "certificate" in untrusted.stderr
        viewer = finished("register", "--port-pair", "127.0.0.1,127.0.0.2", *station, SANCREDIT_TOKEN=text)
        assert viewer.returncode == 1 and "ci is viewer here" in viewer.stderr
        command_line = Path(f"/proc/{served.pid}/cmdline").read_bytes()
        broken = finished("get", "arrays", *station, SANCREDIT_TOKEN="sct_" + "0" * 12 + "_" + "a" * 43)
        assert broken.returncode == 1
        for answer in (nobody, untrusted, viewer, broken):
            said += answer.stdout + answer.stderr
        served.send_signal(signal.SIGTERM)
        out, err = served.communicate(timeout=120)
        said += out + err + command_line.decode(errors="replace")
    assert text not in said and text.rpartition("_")[2] not in said and "Traceback" not in said


@pytest.mark.slow
def test_station_and_array_know_each_other_by_mutual_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    array, manager = authority.sign("array"), authority.sign("manager")
    serve = ("array", "serve", "--name", "east", "--port-address", "127.0.0.1", "--iscsi-port", "0")
    tls = ("--tls-cert", str(array.certificate), "--tls-key", str(array.key), "--tls-ca", str(authority.file))
    with process(*serve, "--listen", "https://127.0.0.1:0", *tls) as (_, address):
        socket = f"unix:{tmp_path / 's.sock'}"
        words = ("station", "serve", "--listen", socket, "--state", str(tmp_path / "state"))
        peer = ("--peer-ca", str(authority.file), "--peer-cert", str(manager.certificate))
        with process(*words, "--array", f"east={address}", *peer, "--peer-key", str(manager.key)):
            answer = finished("get", "arrays", "--station", socket)
            assert answer.returncode == 0 and "up" in answer.stdout
        with process(*words, "--array", f"east={address}", "--peer-ca", str(authority.file)):
            answer = finished("get", "arrays", "--station", socket)
            assert answer.returncode == 3 and "does not answer" in answer.stderr
