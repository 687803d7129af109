"""``sancredit``: the entry point, the lazy command tree, and the exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from mgmt.cli.commands import COMMANDS, Entry


class ReaderGone(Exception):
    """The reader of our output has gone (`… | head`): no failure, and nothing more can be said."""


class LazyGroup(click.Group):
    """A group whose commands are known by their :class:`Entry` and loaded when used."""

    def __init__(self, entries: Mapping[str, Entry], **options: Any) -> None:
        super().__init__(**options)
        self._entries = entries

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # before click makes it a failure
            raise ReaderGone from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self._entries.get(cmd_name)
        if entry is None:
            return None
        if entry.children:
            return LazyGroup(
                entry.children,
                name=cmd_name,
                help=entry.about,
                epilog=_unwrapped(_epilog(entry)),
                no_args_is_help=True,
            )
        return _load(cmd_name, entry.target)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.about) for name, entry in self._entries.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [
            CompletionItem(name, help=entry.about)
            for name, entry in self._entries.items()
            if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self._entries and not name.startswith("-"):
            known = ", ".join(self._entries)
            raise click.UsageError(f"there is no command {name!r:.80}; there are {known}", ctx)
        return super().resolve_command(ctx, args)


#: Above the example of a command that asks the station: what has to be there for it.
_NEEDS_A_STATION = (
    "It asks a station: sancredit station serve --array NAME=ADDRESS (see sancredit array serve --help)."
)


def _epilog(entry: Entry) -> str | None:
    return f"Example: {entry.example}" if entry.example else None


def _unwrapped(epilog: str | None) -> str | None:
    """An example stays on one line, so that it can be copied."""
    return epilog if epilog is None or epilog.startswith("\b") else f"\b\n{epilog}"


def _load(name: str, target: str) -> click.Command:
    module_name, _, attribute = target.partition(":")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        from mgmt.cli.failures import OURS

        missing = error.name or module_name
        if missing.partition(".")[0] not in OURS:
            raise
        raise click.ClickException(
            f"{name} is not part of this installation: there is no {missing}"
        ) from error
    command = getattr(module, attribute)
    assert isinstance(command, click.Command), target
    command.epilog = _unwrapped(command.epilog)
    if command.epilog and any(parameter.name == "station" for parameter in command.params):
        command.epilog = command.epilog.replace("\b\n", f"\b\n{_NEEDS_A_STATION}\n", 1)
    return command


def _show_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from mgmt.cli.version import version_text

        click.echo(version_text())
        ctx.exit()


def make_cli() -> click.Group:
    """The whole command tree."""
    version = click.Option(
        ["--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_show_version,
        help="The version, and whether compiled kernels are in use.",
    )
    return LazyGroup(
        COMMANDS,
        name="sancredit",
        help="Reserve communication buffers beforehand, so that host I/O cannot starve remote copy.",
        epilog=_unwrapped(
            "Example: sancredit recommend --bandwidth 100Mbit --rtt 20ms --sessions 2 --connections 3"
        ),
        params=[version],
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code (0 done, 1 failed, 2 wrong usage, 3 other side not reached)."""
    if arguments is None and any("@" in word for word in sys.argv):
        from mgmt.cli.process_title import hide_passwords

        hide_passwords()
    try:
        result = make_cli().main(args=arguments, prog_name="sancredit", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.format_message(), err=True)
        return 2
    except click.Abort:
        return 130
    except ReaderGone:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for the flush at exit
        return 0
    except Exception as error:
        from mgmt.cli.failures import describe

        found = describe(error)
        if found is None:
            raise
        code, text = found
        click.echo(f"sancredit: {text}", err=True)
        return code
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
