"""``sancredit man``: the manual page, made from the commands' own help, so that it cannot say anything else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import click

from mgmt.cli.version import version_text

_EXIT_CODES = (
    ("0", "Done."),
    ("1", "The thing asked for failed: a shortage, a mismatch, a port in use."),
    ("2", "Wrong usage, a bad value or file."),
    ("3", "The other side could not be reached."),
)
_ENVIRONMENT = (
    ("SANCREDIT_STATION", "Where the station is: http(s)://HOST:PORT or unix:PATH."),
    ("SANCREDIT_TOKEN, SANCREDIT_CA", "What to show to a station that asks, and whom to trust there."),
    ("SANCREDIT_STORE_PASSWORD", "The password of the station's PostgreSQL."),
    ("NO_COLOR", "No colours."),
)


@click.command(epilog="Example: sancredit man --raw")
@click.argument("command", nargs=-1)
@click.option("--raw", is_flag=True, help="The page's source, as for /usr/local/share/man/man1/sancredit.1.")
@click.pass_context
def manual(context: click.Context, command: tuple[str, ...], raw: bool) -> int:
    """Show the manual page of everything, or of one COMMAND.

    On a terminal through man(1); into a file or a pipe, or with --raw, as man(1) reads it.
    """
    root = context.find_root()
    assert isinstance(root.command, click.Group)
    chosen, within = _found(root, command)
    text = page(chosen, within)
    reader = shutil.which("man")
    if raw or reader is None or not sys.stdout.isatty():
        click.echo(text, nl=False)
        return 0
    return subprocess.run([reader, "-l", "-"], input=text.encode(), check=False).returncode


def _found(root: click.Context, path: tuple[str, ...]) -> tuple[click.Command, click.Context]:
    command, within = root.command, _context(root.command, "sancredit", None)
    for word in path:
        if not isinstance(command, click.Group):
            raise click.UsageError(f"`{within.command_path}` has no commands of its own", root)
        _, inner, _ = command.resolve_command(within, [word])
        assert inner is not None
        command, within = inner, _context(inner, word, within)
    return command, within


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    return click.Context(command, info_name=name, parent=parent, max_content_width=100, terminal_width=100)


def page(command: click.Command, context: click.Context) -> str:
    """The manual page of a command and all below it, for ``man -l``; UTF-8, in the macros of man(7)."""
    title = context.command_path.replace(" ", "-")
    lines = [
        f'.TH "{_plain(title.upper())}" "1" "" "{_plain(version_text().split(" (")[0])}" "sancredit"',
        ".SH NAME",
        f"{_plain(title)} \\- {_plain(_first(command))}",
        ".SH SYNOPSIS",
        *_usage(command, context),
        ".SH DESCRIPTION",
        *_description(command),
    ]
    if options := list(_options(command, context)):
        lines += [".SH OPTIONS", *options]
    below = list(_below(command, context))
    if below:
        lines.append(".SH COMMANDS")
    for inner, within in below:
        lines += [f".SS {_plain(within.command_path)}", *_usage(inner, within), ".PP", *_description(inner)]
        lines += _options(inner, within)
        lines += _example(inner)
    for heading, entries in (("EXIT STATUS", _EXIT_CODES), ("ENVIRONMENT", _ENVIRONMENT)):
        lines.append(f".SH {heading}")
        for name, meaning in entries:
            lines += [".TP", f"\\fB{_plain(name)}\\fR", _plain(meaning)]
    if example := _example(command):
        lines += [".SH EXAMPLES", *example]
    return "\n".join(lines) + "\n"


def _below(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """The commands that do something, in the order of the tree; those that are not installed are left out."""
    if not isinstance(command, click.Group):
        return
    for name in command.list_commands(context):
        try:
            inner = command.get_command(context, name)
        except (click.ClickException, ModuleNotFoundError):
            continue
        if inner is None or inner.hidden:
            continue
        within = _context(inner, name, context)
        if isinstance(inner, click.Group):
            yield from _below(inner, within)
        else:
            yield inner, within


def _usage(command: click.Command, context: click.Context) -> list[str]:
    words = " ".join(_plain(piece) for piece in command.collect_usage_pieces(context))
    return [".nh", f"\\fB{_plain(context.command_path)}\\fR {words}", ".hy"]


def _description(command: click.Command) -> list[str]:
    text = (command.help or command.short_help or "").partition("\f")[0]
    lines: list[str] = []
    for number, block in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            lines.append(".PP")
        if block.startswith("\b"):
            lines += [".nf", *(_plain(line) for line in block.splitlines()[1:]), ".fi"]
        else:
            lines.append(_plain(" ".join(block.split())))
    return lines


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None:
            continue
        yield ".TP"
        yield f"\\fB{_plain(record[0])}\\fR"
        yield _plain(" ".join(record[1].split())) or "\\&"


def _example(command: click.Command) -> list[str]:
    lines = [line for line in (command.epilog or "").replace("\b", "").splitlines() if line.strip()]
    if not lines:
        return []
    return [".PP", *(part for line in lines for part in (".br", _plain(line.strip())))]


def _first(command: click.Command) -> str:
    return " ".join((command.get_short_help_str(200)).split()).rstrip(".")


def _plain(text: str) -> str:
    """``text`` as troff sets it: no sign of it is a command."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return f"\\&{escaped}" if escaped.startswith(".") else escaped
