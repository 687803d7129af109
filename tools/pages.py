"""The generated pages of ``docs/``: ``python -m tools.pages`` writes them, ``--check`` fails if one is stale."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from tools.conformance_rules import conformance_page

DOCS = Path(__file__).resolve().parent.parent / "docs"

_CLI_HEAD = """# The command line

Generated from the commands' own `--help` by `make docs`; edit those.

Exit codes: 0 done · 1 the thing asked for failed (a shortage, a mismatch, a port in use) · 2 wrong usage, a bad value
or file · 3 could not reach the other side. Data go to stdout, progress and messages to stderr; `NO_COLOR` is honoured.
Numbers in JSON are base units with the unit in the name. Sizes on input take `KiB MiB GiB kB MB GB` or plain bytes,
rates `kbit Mbit Gbit`, delays `us ms s`.
"""


def cli_page() -> str:
    """``docs/cli.md``: the help text of every command, in the order of the tree."""
    from mgmt.cli.main import make_cli

    parts = [_CLI_HEAD]
    for path, command, context in _walk(make_cli(), "sancredit", None):
        text = command.get_help(context)
        parts.append(f"{'#' * min(2 + path.count(' '), 4)} {path}\n\n```\n{text.rstrip()}\n```\n")
    return "\n".join(parts)


def _walk(
    command: click.Command, name: str, parent: click.Context | None
) -> Iterator[tuple[str, click.Command, click.Context]]:
    context = click.Context(command, info_name=name, parent=parent, max_content_width=110, terminal_width=110)
    yield context.command_path, command, context
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None and not found.hidden:
                yield from _walk(found, child, context)


PAGES: tuple[tuple[str, Callable[[], str]], ...] = (
    ("cli.md", cli_page),
    ("conformance.md", conformance_page),
)


def stale_pages() -> list[str]:
    """Names of the generated pages whose text on disk is not what would be generated now."""
    return [name for name, make in PAGES if not _same(DOCS / name, make())]


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


def main(arguments: list[str]) -> int:
    """Write the pages; with ``--check`` only compare, and say which are stale."""
    if "--check" in arguments:
        stale = stale_pages()
        for name in stale:
            click.echo(f"docs/{name} is stale: run make docs", err=True)
        return 1 if stale else 0
    for name, make in PAGES:
        (DOCS / name).write_text(make())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
