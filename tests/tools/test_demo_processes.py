"""The demo's children: ready or reported, and always ended."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tools.demo.processes import Cast, ProcessFailed


def program(tmp_path: Path, text: str) -> str:
    """A module on the child's path with this text; returns its name."""
    (tmp_path / "actor.py").write_text(text)
    return "actor"


def spawn(tmp_path: Path):
    def start(arguments: list[str], **keywords: object) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        return subprocess.Popen(arguments, env=environment, **keywords)  # type: ignore[call-overload]

    return start


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_child_is_started_when_it_has_printed_its_lines(tmp_path: Path) -> None:
    cast = Cast(tmp_path)
    name = program(
        tmp_path, "import time\nprint('one', flush=True)\nprint('two', flush=True)\ntime.sleep(60)"
    )
    process = cast.start("actor", spawn(tmp_path), [name], ready_lines=2)
    assert process.ready == ["one", "two"]
    cast.check()
    cast.stop_all()
    assert not alive(process.popen.pid)


def test_a_child_that_dies_at_the_start_is_reported_with_its_last_words(tmp_path: Path) -> None:
    cast = Cast(tmp_path)
    name = program(tmp_path, "import sys\nsys.exit('port 3260 is in use')")
    with pytest.raises(ProcessFailed, match="port 3260 is in use"):
        cast.start("actor", spawn(tmp_path), [name])
    cast.check()  # it is no member of the cast: whoever can do without it goes on
    cast.stop_all()


def test_a_silent_child_is_given_up_and_ended(tmp_path: Path) -> None:
    cast = Cast(tmp_path)
    name = program(tmp_path, "import time\ntime.sleep(60)")
    started = time.monotonic()
    with pytest.raises(ProcessFailed, match="not ready within"):
        cast.start("actor", spawn(tmp_path), [name], timeout_s=0.3)
    cast.stop_all()
    assert time.monotonic() - started < 30


def test_a_child_that_was_killed_is_noticed(tmp_path: Path) -> None:
    cast = Cast(tmp_path)
    name = program(tmp_path, "import time\nprint('ready', flush=True)\ntime.sleep(60)")
    process = cast.start("actor", spawn(tmp_path), [name])
    process.popen.kill()
    process.popen.wait()
    with pytest.raises(ProcessFailed, match="SIGKILL"):
        cast.check()
    cast.stop_all()


def test_a_child_deaf_to_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.demo.processes._STOP_SECONDS", 0.3)
    cast = Cast(tmp_path)
    text = (
        "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    process = cast.start("actor", spawn(tmp_path), [program(tmp_path, text)])
    cast.stop_all()
    assert not alive(process.popen.pid)
