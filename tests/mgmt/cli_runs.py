"""The command line for its tests: its tree, commands as processes, and the one line of a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import click

from mgmt.cli.commands import COMMANDS
from mgmt.cli.main import make_cli


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
        timeout=120,
        env=os.environ | environment,
        check=False,
    )


def one_line(text: str) -> str:
    assert text.startswith("sancredit: ") and text.count("\n") == 1 and text.endswith("\n"), text
    return text


def served(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mgmt.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
