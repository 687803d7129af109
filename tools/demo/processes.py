"""Start the demo's real processes, wait until they say they are ready, and end them, whatever happens."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_STOP_SECONDS = 15.0


class ProcessFailed(Exception):
    """A process did not come up, or ended when it should not have; the text quotes its last words."""


@dataclass(slots=True)
class Process:
    """One child: its name, where its standard error goes, and the lines it printed when it was ready."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    ready: list[str]

    def last_words(self) -> str:
        """The last line of its log, for an error message."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


#: Starts a command and returns its handle; ``Channel.popen`` bound to a site, or a plain one.
Spawn = Callable[..., "subprocess.Popen[bytes]"]


class Cast:
    """All children of one demo, ended in reverse order of appearance."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._processes: list[Process] = []

    def start(
        self,
        name: str,
        spawn: Spawn,
        arguments: Sequence[str],
        *,
        ready_lines: int = 1,
        timeout_s: float = 120.0,
    ) -> Process:
        """Run ``python -m <arguments>`` and wait for ``ready_lines`` lines on its standard output.

        Raises :class:`ProcessFailed` when it ends, or stays silent for longer than the slowest machine would.
        """
        log = self._directory / f"{name}.log"
        with log.open("wb") as errors:
            popen = spawn(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        process = Process(name, popen, log, [])
        self._processes.append(process)
        try:
            process.ready = _read_lines(process, ready_lines, timeout_s)
        except ProcessFailed:
            self.stop(process)
            raise
        return process

    def check(self) -> None:
        """Raise :class:`ProcessFailed` if any child has ended on its own."""
        for process in self._processes:
            code = process.popen.poll()
            if code is not None:
                raise ProcessFailed(f"{process.name} ended ({_exit(code)}): {process.last_words()}")

    def stop(self, process: Process) -> None:
        """End one child: SIGTERM, then SIGKILL for one that does not listen."""
        if process in self._processes:
            self._processes.remove(process)
        popen = process.popen
        if popen.poll() is None:
            popen.send_signal(signal.SIGTERM)
            try:
                popen.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()
        if popen.stdout is not None:
            popen.stdout.close()

    def stop_all(self) -> None:
        """End every child, the last one started first."""
        for process in reversed(list(self._processes)):
            self.stop(process)


def _exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _read_lines(process: Process, count: int, timeout_s: float) -> list[str]:
    stream = process.popen.stdout
    assert stream is not None
    deadline = time.monotonic() + timeout_s
    received = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while received.count(b"\n") < count:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                raise ProcessFailed(f"{process.name} was not ready within {timeout_s:.0f} s")
            chunk = os.read(stream.fileno(), 65536)
            if not chunk:
                process.popen.wait(_STOP_SECONDS)
                raise ProcessFailed(f"{process.name} did not start: {process.last_words()}")
            received += chunk
    return received.decode(errors="replace").splitlines()
