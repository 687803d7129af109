"""The lab's hand inside the guest: runs commands and carries files, over a virtio-serial port (one JSON object a line).

It runs in the guest with nothing but its standard library. A request has an ``id`` that comes back with the answer:

========================================  =========================================================================
``{"spawn": COMMAND, "timeout": S}``      start a shell command; ``{"job": N}``
``{"wait": N, "seconds": S}``             its end: ``{"rc": …, "out": base64}``; ``{"rc": null}`` while it runs
``{"signal": N, "number": K}``            a signal to the command's process group
``{"put": PATH, "data": base64, …}``      write (``append``) and set ``mode``
``{"get": PATH, "offset": O, "size": S}`` read; ``{"data": base64}``
========================================  =========================================================================

An ``error`` in the answer says what went wrong. What a client that has gone left half-written is dropped.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

PORT = "sancredit.lab"
KILLED = 124
_LARGEST_OUTPUT = 8 << 20


class Jobs:
    """The commands that were started: at the end of each, its exit status and what it wrote."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._ends: dict[int, tuple[int, bytes]] = {}
        self._ended: dict[int, threading.Event] = {}

    def spawn(self, command: str, timeout_s: float) -> int:
        process = subprocess.Popen(
            command,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/tmp",
        )
        number = next(self._numbers)
        self._processes[number] = process
        self._ended[number] = threading.Event()
        threading.Thread(target=self._follow, args=(number, process, timeout_s), daemon=True).start()
        return number

    def _follow(self, number: int, process: subprocess.Popen[bytes], timeout_s: float) -> None:
        try:
            out, _ = process.communicate(timeout=timeout_s)
            status = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, _ = process.communicate()
            status = KILLED
        self._ends[number] = status, out[-_LARGEST_OUTPUT:]
        self._ended[number].set()

    def wait(self, number: int, seconds: float) -> dict[str, Any]:
        if not self._ended[number].wait(seconds):
            return {"rc": None}
        status, out = self._ends.pop(number)
        del self._ended[number], self._processes[number]
        return {"rc": status, "out": base64.b64encode(out).decode()}

    def signal(self, number: int, which: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._processes[number].pid, which)


def answer(jobs: Jobs, request: dict[str, Any]) -> dict[str, Any]:
    """What one request comes to."""
    if "spawn" in request:
        return {"job": jobs.spawn(request["spawn"], request["timeout"])}
    if "wait" in request:
        return jobs.wait(request["wait"], request["seconds"])
    if "signal" in request:
        jobs.signal(request["signal"], request["number"])
        return {}
    if "put" in request:
        path = Path(request["put"])
        with path.open("ab" if request.get("append") else "wb") as file:
            file.write(base64.b64decode(request["data"]))
        if request.get("mode"):
            path.chmod(request["mode"])
        return {}
    if "get" in request:
        with Path(request["get"]).open("rb") as file:
            file.seek(request["offset"])
            return {"data": base64.b64encode(file.read(request["size"])).decode()}
    return {"error": "no such request"}


def open_port() -> int:
    """The virtio-serial port, as soon as it is there."""
    while True:
        for port in Path("/sys/class/virtio-ports").glob("*"):
            if (port / "name").read_text().strip() == PORT:
                return os.open(f"/dev/{port.name}", os.O_RDWR)
        time.sleep(0.02)


def main() -> None:
    """Answer for ever; each request in a thread of its own, so that a wait holds up nobody else."""
    port = open_port()
    jobs = Jobs()
    writing = threading.Lock()

    def serve(request: dict[str, Any]) -> None:
        try:
            found = answer(jobs, request)
        except Exception as error:  # noqa: BLE001 - whatever it was, who asked is told
            found = {"error": f"{type(error).__name__}: {error}"}
        line = json.dumps(found | {"id": request.get("id")}).encode() + b"\n"
        with writing:
            while line:
                line = line[os.write(port, line[:32768]) :]

    pieces: list[bytes] = []
    while True:
        data = os.read(port, 1 << 16)
        if (
            not data
        ):  # Nobody is connected. What came is kept: the news of a client's end may overtake the next one's
            time.sleep(
                0.02
            )  # first bytes, and a client begins with a line end, which closes what another left.
            continue
        pieces.append(data)
        if b"\n" not in data:
            continue
        *lines, rest = b"".join(pieces).split(b"\n")
        pieces = [rest] if rest else []
        for line in lines:
            with contextlib.suppress(ValueError):
                request = json.loads(line)
                if isinstance(request, dict):
                    threading.Thread(target=serve, args=(request,), daemon=True).start()


if __name__ == "__main__":
    main()
