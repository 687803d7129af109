"""Captured commands as other tools read them: fio plays the iolog."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from iscsi_target.running import serve
from tests.tools.test_capture_replay import some_work
from tools.capture.export_cli import export


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "capture.pcapng"
    with serve("4MiB", capture=path, log_limit=None) as target:
        asyncio.run(some_work(target))
    return path


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(export, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def test_an_iolog_has_every_read_and_write_in_bytes_and_microseconds(capture: Path) -> None:
    code, text = run(capture, "--file", "disk")
    lines = text.splitlines()
    assert code == 0
    assert lines[:3] == ["fio version 3 iolog", "0 disk add", "0 disk open"]
    actions = [line.split() for line in lines[3:-1]]
    assert {action[2] for action in actions} == {"read", "write"}
    assert [int(action[0]) for action in actions] == sorted(int(action[0]) for action in actions)
    assert all(
        int(action[3]) % 4096 == 0 and int(action[4]) in range(4096, 20481, 4096) for action in actions
    )


@pytest.mark.slow
def test_fio_plays_the_iolog(capture: Path, tmp_path: Path) -> None:
    if shutil.which("fio") is None:
        pytest.skip("no fio: install the package fio")
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4 << 20))
    assert run(capture, "--file", disk, "--out", tmp_path / "iolog") == (0, "")
    command = ["fio", "--name=played", f"--read_iolog={tmp_path / 'iolog'}", "--output-format=json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    (job,) = json.loads(done.stdout[done.stdout.index("{") :])["jobs"]
    lines = (tmp_path / "iolog").read_text().splitlines()
    for name in ("read", "write"):
        lengths = [int(line.split()[4]) for line in lines[3:] if f" {name} " in line]
        assert (job[name]["total_ios"], job[name]["io_bytes"]) == (len(lengths), sum(lengths))


def test_a_trace_tells_each_command_and_its_end(capture: Path) -> None:
    code, text = run(capture, "--format", "trace")
    header, *commands = map(json.loads, text.splitlines())
    assert code == 0
    assert header["format"] == "sancredit-trace"
    assert commands[0]["start_ns"] == 0
    ended = [one for one in commands if one["status"] == 0]
    assert len(ended) == 64
    assert all(one["end_ns"] > one["start_ns"] and len(one["cdb"]) == 32 for one in ended)
    assert all(one["data_in_bytes"] == one["edtl_bytes"] for one in ended if one["read"])


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--lun", "7"), "no command of the capture reads or writes blocks there"),
        (("--file", "a b"), "is no name of a file"),
        (("--initiator", "iqn.2026-11.example:nobody"), "no command of the capture"),
    ],
)
def test_what_cannot_be_exported_gets_one_line_and_leaves_an_old_file_alone(
    capture: Path, tmp_path: Path, arguments: tuple[str, ...], why: str
) -> None:
    out = tmp_path / "old"
    out.write_text("old")
    code, text = run(capture, "--out", out, *arguments)
    assert (code, text.count("\n")) == (2, 1)
    assert why in text
    assert out.read_text() == "old"


def test_a_place_that_cannot_be_written_is_said(capture: Path, tmp_path: Path) -> None:
    code, text = run(capture, "--out", tmp_path)
    assert code == 1
    assert "cannot write" in text
