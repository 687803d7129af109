"""One line of progress on stderr while something long is done: on a terminal, and nowhere else."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_BAR = 24
_WIDEST = 200


class Progress:
    """A line that is written over itself; nothing at all where ``stream`` is no terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._begun = False

    def show(self, share: float | None, text: str) -> None:
        """``share`` of the work is done (0 to 1; ``None``: nobody knows how much there is)."""
        if not self._shown:
            return
        self._begun = True
        line = text if share is None else f"{_bar(share)} {text}"
        room = min(shutil.get_terminal_size().columns, _WIDEST) - 1
        self._stream.write(f"\r{line[:room]}\x1b[K")
        self._stream.flush()

    def end(self) -> None:
        """The work has ended, or was left: what comes next stands on a line of its own."""
        if self._begun:
            self._begun = False
            self._stream.write("\n")
            self._stream.flush()


def _bar(share: float) -> str:
    done = round(max(0.0, min(1.0, share)) * _BAR)
    return f"[{'#' * done}{'.' * (_BAR - done)}]"


@contextmanager
def progress(stream: TextIO | None = None) -> Iterator[Progress]:
    """A :class:`Progress` on stderr until the block ends."""
    shown = Progress(stream or sys.stderr)
    try:
        yield shown
    finally:
        shown.end()
