"""``sancredit completion``: the shell's completion script, made by click."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(epilog="Example: sancredit completion bash")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL; e.g. put `eval "$(sancredit completion bash)"` into ~/.bashrc."""
    root = click.get_current_context().find_root().command
    kind = get_completion_class(shell)
    assert kind is not None, shell
    click.echo(kind(root, {}, "sancredit", "_SANCREDIT_COMPLETE").source())
