"""``--watch [SECONDS]``: a table that is shown again and again until it is interrupted."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_SHORTEST_S = 0.1


def watch_option(command: F) -> F:
    """``--watch [SECONDS]``, as ``watch``: ``None`` where it is not given."""
    return click.option(
        "--watch",
        is_flag=False,
        flag_value=2.0,
        type=click.FloatRange(_SHORTEST_S, 86400),
        metavar="[SECONDS]",
        help="Show it again and again, every 2 seconds unless told.",
    )(command)


def watched(watch: float | None, output: str, show_once: Callable[[], int]) -> int:
    """What ``show_once`` returned last: it is called once, or every ``watch`` seconds until Ctrl-C."""
    code = show_once()
    try:
        while watch is not None:
            time.sleep(watch)
            _separate(output)
            code = show_once()
    except KeyboardInterrupt:
        return code
    return code


def _separate(output: str) -> None:
    """Between two showings: a clear screen on a terminal, an empty line in a file of tables."""
    if sys.stdout.isatty():
        click.clear()
    elif output in ("table", "wide"):
        click.echo()
