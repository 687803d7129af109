"""docs/fc.md: its programs are run as they stand there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mgmt.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "fc.md"


def programs() -> dict[str, str]:
    """The Python programs of the guide by the name in their first line."""
    found = {}
    for text in re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE):
        first = re.match(r"# (\w+\.py)", text)
        if first is not None:
            found[first[1]] = text
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_live_link_of_the_guide_runs_in_two_processes_and_tshark_reads_its_capture(
    tmp_path: Path,
) -> None:
    texts = programs()
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    socket, capture = tmp_path / "link", tmp_path / "link.pcapng"
    command = [sys.executable, str(tmp_path / "target.py"), str(socket)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as target:
        assert target.stdout is not None
        try:
            assert target.stdout.readline() == "ready\n"
            told = subprocess.run(
                [sys.executable, str(tmp_path / "initiator.py"), str(socket), str(capture)],
                capture_output=True,
                text=True,
                check=False,
                timeout=90,
                cwd=ROOT,
            )
            assert told.returncode == 0, told.stderr
            assert told.stdout == "131072 blocks; granted 197 credits, now 197\n"
            assert "exact in link time" in target.stdout.readline()
        finally:
            target.terminate()
    dissected = subprocess.run(
        [sys.executable, str(tmp_path / "dissect.py"), str(capture)],
        capture_output=True,
        text=True,
        check=True,
        timeout=90,
        cwd=ROOT,
    )
    assert "PLOGI offers 197 credits" in dissected.stdout or "PLOGI offers 32 credits" in dissected.stdout
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed: what was captured stays unread")
    fields = ["-e", "_ws.col.Protocol", "-e", "_ws.malformed", "-e", "fcels.logi.b2b"]
    read = subprocess.run(
        ["tshark", "-r", str(capture), "-T", "fields", *fields],
        capture_output=True,
        text=True,
        check=True,
        timeout=90,
    )
    lines = [(line + "\t\t").split("\t") for line in read.stdout.splitlines()]
    assert {line[0] for line in lines} >= {"FC ELS", "FCP"}
    assert not any(line[1] for line in lines)
    assert {line[2] for line in lines} >= {"32", "197"}


def commands() -> list[str]:
    """The commands of the guide that need no second process, no interface and no privileges."""
    found = re.findall(r"^\$ sancredit (fc .*)$", GUIDE.read_text(), re.MULTILINE)
    return [words for words in found if not words.startswith(("fc link ", "fc fcoe "))]


@pytest.mark.parametrize("words", commands())
def test_a_command_of_the_guide_runs_as_typed(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(words)) == 0
    said = capsys.readouterr().out
    assert said
    shown = GUIDE.read_text().partition(f"$ sancredit {words}\n")[2].partition("```")[0]
    for line in shown.splitlines():
        if line.startswith("$ ") or line == "\N{HORIZONTAL ELLIPSIS}":
            break
        assert line in said


def test_the_guide_has_the_commands_that_there_are() -> None:
    text = GUIDE.read_text()
    for name in (
        "credits",
        "simulate",
        "sweep",
        "link serve",
        "link load",
        "link echo",
        "fcoe serve",
        "fcoe load",
    ):
        assert f"sancredit fc {name} " in text
    assert len(commands()) >= 6
