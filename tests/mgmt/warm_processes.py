"""Processes that start in milliseconds: forks of an interpreter that has imported everything already.

``python -m tests.mgmt.warm_processes`` reads requests from its standard input, a Unix socket: a JSON list of words
with the descriptors for the standard output; the first word is ``sancredit`` or ``channel``. It forks, and answers
with the process number. What it started ends with it, and it ends with whoever holds the other end of the socket.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import IO

_PR_SET_PDEATHSIG = 1
_USED = (
    *("mgmt.array.cli", "mgmt.array.process", "mgmt.cli.main", "mgmt.cli.station", "mgmt.station.assembly"),
    *("mgmt.api.app", "mgmt.web.pages", "tests.mgmt.replication_hosts"),
)
_REQUEST_BYTES = 65536


class WarmProcess:
    """One fork, with what tests use of :class:`subprocess.Popen`; ``stdout`` ends when it has ended."""

    def __init__(self, pid: int, stdout: IO[str]) -> None:
        self.pid = pid
        self.stdout: IO[str] | None = stdout
        self.args = f"fork {pid}"
        try:
            self._handle: int | None = os.pidfd_open(pid)
        except ProcessLookupError:
            self._handle = None

    def poll(self) -> int | None:
        """0 when it has ended, None before."""
        if self._handle is not None and select.select([self._handle], [], [], 0)[0]:
            self._let_go()
        return 0 if self._handle is None else None

    def wait(self, timeout: float | None = None) -> int:
        """Until it has ended. :class:`subprocess.TimeoutExpired`."""
        if self._handle is not None:
            if not select.select([self._handle], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self._let_go()
        return 0

    def send_signal(self, number: int) -> None:
        """Nothing is done to a process that has ended."""
        if self._handle is not None:
            signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _let_go(self) -> None:
        assert self._handle is not None
        os.close(self._handle)
        self._handle = None


class Nursery:
    """Starts them; a context manager. One thread at a time."""

    def __enter__(self) -> Nursery:
        self._socket, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "tests.mgmt.warm_processes"]
            self._interpreter = subprocess.Popen(command, stdin=theirs.fileno())
        self._lock = threading.Lock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        try:
            self._interpreter.wait(30)
        except subprocess.TimeoutExpired:
            self._interpreter.kill()
            self._interpreter.wait()
            raise

    def start(self, words: Sequence[str]) -> WarmProcess:
        """A fork that does what ``words`` say."""
        ours, theirs = os.pipe()
        try:
            with self._lock:
                socket.send_fds(self._socket, [json.dumps(list(words)).encode()], [theirs])
                answer = self._socket.recv(32)
        finally:
            os.close(theirs)
        assert answer, "the warm interpreter has ended"
        return WarmProcess(int(answer), os.fdopen(ours, encoding="utf-8"))


def _channel(words: Sequence[str]) -> None:
    """``HOST PORT HOST PORT``: where to listen, and where everything goes."""
    from tests.mgmt.replication_hosts import relay

    host, port, there, there_port = words
    asyncio.run(relay((host, int(port)), (there, int(there_port)), lambda: print("listening", flush=True)))


def _play(words: Sequence[str]) -> int:
    if words[0] == "channel":
        _channel(words[1:])
        return 0
    from mgmt.cli.main import main

    sys.argv = list(words)
    try:
        return main()
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else 1


def _child(words: Sequence[str], stdout: int, parent: int) -> int:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        return 1  # it has gone already
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    faulthandler.register(signal.SIGUSR1)  # says where every thread is
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(stdout, 1)
    os.close(stdout)
    return _play(words)


def serve(requests: socket.socket) -> None:
    """Until the other end of ``requests`` is closed."""
    parent = os.getpid()
    assert threading.active_count() == 1, "a process with threads cannot be forked safely"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children here
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, _REQUEST_BYTES, 1)
        if not request:
            return
        (stdout,) = descriptors
        pid = os.fork()
        if not pid:
            code = 1
            try:
                requests.detach()  # it is descriptor 0, which is replaced
                code = _child(json.loads(request), stdout, parent)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        os.close(stdout)
        requests.sendall(str(pid).encode())


def main() -> None:
    """Import what arrays and stations do, then wait for requests."""
    for name in _USED:
        import_module(name)
    serve(socket.socket(fileno=0))
    os._exit(0)  # taking everything down that was imported would take a while


if __name__ == "__main__":
    main()
