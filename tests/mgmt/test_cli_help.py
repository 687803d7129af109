"""The command tree: help, examples, completion, and what is not installed."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import Any

import click
import pytest

from mgmt.cli import failures
from mgmt.cli.commands import COMMANDS, Entry
from mgmt.cli.main import main
from tests.mgmt.cli_runs import find, groups, leaves, one_line, run


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
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_help_says_what_a_command_that_asks_a_station_needs(capsys: pytest.CaptureFixture[str]) -> None:
    for path in leaves():
        command = find(path)
        asks = any(parameter.name == "station" for parameter in command.params)
        assert main([*path, "--help"]) == 0
        shown = capsys.readouterr().out
        assert asks is ("sancredit station serve --array" in shown.partition("It asks a station: ")[2]), path
        assert "192.0.2." not in shown and "198.51.100." not in shown, path


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


def test_a_defect_keeps_its_traceback() -> None:
    assert failures.describe(ZeroDivisionError()) is None


def test_control_signs_of_a_peer_do_not_reach_the_terminal() -> None:
    found = failures.describe(click.ClickException("a\x1b[2Jb\nc\x07"))
    assert found == (1, "a [2Jb c ")
