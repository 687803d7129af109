"""What the demo says while it works: steps and progress, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO


class Progress(Protocol):
    """Told how far a copy is; draws it or says it."""

    def at(self, copied_bytes: int, goodput_bps: int) -> None: ...


class Narrator:
    """Writes one line for each thing that happens; a moving bar where a person watches a terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._started_at = time.monotonic()

    def act(self, title: str) -> None:
        """A new part of the story."""
        self._write(f"\n{title}")

    def step(self, number: str, text: str) -> None:
        """One step of figure 5, or of what surrounds it."""
        self._write(f"  {number:>7}  {text}")

    def remark(self, text: str) -> None:
        """Something worth knowing that is not a step."""
        self._write(f"           {text}")

    @contextmanager
    def progress(self, total_bytes: int) -> Iterator[Progress]:
        """A bar on a terminal, a line for each quarter elsewhere."""
        if not self._stream.isatty():
            yield _Quarters(self, total_bytes)
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("           copying"), BarColumn(), DownloadColumn(binary_units=True))
        with Bar(*columns, TextColumn("{task.fields[rate]}"), console=Console(file=self._stream)) as bar:
            task = bar.add_task("copy", total=total_bytes, rate="")

            class _Bar:
                def at(self, copied_bytes: int, goodput_bps: int) -> None:
                    bar.update(task, completed=copied_bytes, rate=f"{goodput_bps / 1e6:.1f} Mbit/s")

            yield _Bar()

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


class _Quarters:
    def __init__(self, narrator: Narrator, total_bytes: int) -> None:
        self._narrator = narrator
        self._total_bytes = max(1, total_bytes)
        self._said = 0

    def at(self, copied_bytes: int, goodput_bps: int) -> None:
        quarter = copied_bytes * 4 // self._total_bytes
        if quarter > self._said:
            self._said = quarter
            self._narrator.remark(f"{quarter * 25:3} % copied, {goodput_bps / 1e6:.1f} Mbit/s")
