"""The manual page, which groff has to read without a warning, and the line of progress."""

from __future__ import annotations

import io
import shutil
import subprocess
from typing import Any

import pytest

from mgmt.cli.commands import COMMANDS
from mgmt.cli.main import main
from mgmt.cli.progress import progress


def manual(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["man", *words, "--raw"]) == 0
    return capsys.readouterr().out


def set_by_groff(source: str) -> str:
    """The page as a terminal shows it, without overstrikes. Skips where there is no groff."""
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("needs groff: apt-get install groff-base")
    words = [groff, "-man", "-Tutf8", "-ww", "-Kutf8", "-P-c", "-P-bou"]
    done = subprocess.run(words, input=source.encode(), capture_output=True, timeout=60, check=True)
    assert done.stderr.decode() == "", "groff warns of something"
    return done.stdout.decode()


@pytest.mark.slow
def test_the_manual_has_every_command_and_groff_sets_it_without_a_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = set_by_groff(manual(capsys))
    for name, entry in COMMANDS.items():
        for path in [f"{name} {child}" for child in entry.children] or [name]:
            assert f"sancredit {path}" in shown, path
    assert "EXIT STATUS" in shown and "SANCREDIT_STATION" in shown


def test_the_manual_of_one_command_says_what_its_help_says(capsys: pytest.CaptureFixture[str]) -> None:
    shown = " ".join(set_by_groff(manual(capsys, "release")).split())
    for words in ("--drain", "--dry-run", "Only say what would come back.", "sancredit release --port-pair"):
        assert words in shown


@pytest.mark.parametrize("words", [["nothing"], ["release", "more"]])
def test_a_command_that_is_none_has_no_page(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["man", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1


class Terminal(io.StringIO):
    """Text that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_written_over_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: type("Size", (), {"columns": 40})())
    stream = Terminal()
    with progress(stream) as line:
        line.show(0.5, "half of it, and a good deal more that has no room")
        line.show(None, "somewhere")
    first, second = stream.getvalue().split("\r")[1:]
    assert first.startswith("[############............] half of it") and len(first) == 39 + len("\x1b[K")
    assert second == "somewhere\x1b[K\n"


@pytest.mark.parametrize(("stream", "terminal"), [(io.StringIO(), "xterm"), (Terminal(), "dumb")])
def test_there_is_no_progress_where_there_is_no_terminal(
    stream: Any, terminal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", terminal)
    with progress(stream) as line:
        line.show(0.5, "half")
    assert stream.getvalue() == ""
