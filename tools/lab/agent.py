"""The host's side of the guest's agent: commands and files, over qemu's Unix socket for the virtio-serial port.

qemu serves one client at a time and lets others wait in its backlog, so a call is short: a command that runs long is
asked about in slices, and several threads and processes can use a guest side by side.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.lab.errors import LabFailed

_SLICE_S = 1.0
_PATIENCE_S = 90.0
"""For an answer that comes at once: while another guest boots beside it, an emulated one may stand still for long."""
COMMAND_S = 180.0
"""For a command unless told, with the same in mind."""
_QUEUE_FULL_S = 0.02
_CHUNK_BYTES = 1 << 20
_LARGEST_ANSWER = 24 << 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: its exit status (124: killed at the end of its time) and what it wrote, in order."""

    status: int
    output: str

    def check(self, what: str = "the command") -> str:
        """What it wrote; raises :class:`LabFailed` when its status is not 0."""
        if self.status:
            raise LabFailed(f"{what} ended with {self.status}: {self.output.strip()[-2000:]}")
        return self.output


class Agent:
    """Calls of the guest's agent behind ``path``. All raise :class:`LabFailed`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def call(self, request: dict[str, Any], timeout_s: float = _PATIENCE_S) -> dict[str, Any]:
        """One request and its answer."""
        request = request | {"id": uuid.uuid4().hex}
        deadline = time.monotonic() + timeout_s
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(timeout_s)
                self._connect(link, deadline)
                link.sendall(b"\n" + json.dumps(request).encode() + b"\n")
                answer = self._answer(link, request["id"], deadline)
        except TimeoutError:
            raise LabFailed(f"the guest has not answered in {timeout_s:g} s") from None
        except OSError as error:
            raise LabFailed(
                f"the guest cannot be reached: {(error.strerror or str(error)).lower()}"
            ) from None
        if "error" in answer:
            raise LabFailed(f"the guest: {answer['error']}")
        return answer

    def _connect(self, link: socket.socket, deadline: float) -> None:
        """Until there is room in qemu's short queue: a Unix socket says EAGAIN at once where TCP would wait."""
        while True:
            try:
                return link.connect(str(self._path))
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError from None
                time.sleep(_QUEUE_FULL_S)

    @staticmethod
    def _answer(link: socket.socket, ident: str, deadline: float) -> dict[str, Any]:
        """The line with our id; answers to clients that have gone are passed over."""
        rest = bytearray()
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            link.settimeout(left)
            data = link.recv(1 << 18)
            if not data:
                raise ConnectionResetError("the agent's socket was closed")
            rest += data
            if len(rest) > _LARGEST_ANSWER:
                raise LabFailed("the guest's answer has no end")
            if b"\n" not in data:
                continue
            *lines, last = bytes(rest).split(b"\n")
            rest = bytearray(last)
            for line in lines:
                try:
                    found = json.loads(line)
                except ValueError:
                    continue
                if isinstance(found, dict) and found.get("id") == ident:
                    return found

    def run(self, command: str, *, timeout_s: float = COMMAND_S) -> Outcome:
        """Run a shell command to its end; it is killed after ``timeout_s``."""
        return self.spawn(command, timeout_s=timeout_s).wait()

    def spawn(self, command: str, *, timeout_s: float = COMMAND_S) -> Running:
        """Start a shell command; it is killed after ``timeout_s``."""
        answer = self.call({"spawn": command, "timeout": timeout_s})
        return Running(self, int(answer["job"]), timeout_s)

    def put(self, source: Path | bytes, target: str, mode: int | None = None) -> None:
        """Copy a file, or bytes, into the guest."""
        if isinstance(source, Path):
            data, mode = source.read_bytes(), mode or source.stat().st_mode & 0o777
        else:
            data = source
        for offset in range(0, max(1, len(data)), _CHUNK_BYTES):
            piece = base64.b64encode(data[offset : offset + _CHUNK_BYTES]).decode()
            self.call({"put": target, "append": offset > 0, "mode": mode, "data": piece})

    def get(self, source: str) -> bytes:
        """A file of the guest."""
        found = bytearray()
        while True:
            answer = self.call({"get": source, "offset": len(found), "size": _CHUNK_BYTES})
            piece = base64.b64decode(answer["data"])
            if not piece:
                return bytes(found)
            found += piece

    def get_file(self, source: str, target: Path) -> None:
        """Copy a file out of the guest; ``target`` appears when it is whole."""
        data = self.get(source)
        part = target.with_name(f".{target.name}.{os.getpid()}")
        part.write_bytes(data)
        part.replace(target)


@dataclass(frozen=True, slots=True)
class Running:
    """A command that runs in the guest."""

    agent: Agent
    job: int
    timeout_s: float

    def poll(self, seconds: float = 0.0) -> Outcome | None:
        """How it ended, or ``None`` while it runs; the end is told once."""
        answer = self.agent.call({"wait": self.job, "seconds": seconds})
        if answer["rc"] is None:
            return None
        return Outcome(int(answer["rc"]), base64.b64decode(answer["out"]).decode(errors="replace"))

    def wait(self) -> Outcome:
        """Its end, which comes: the guest kills what runs too long."""
        deadline = time.monotonic() + self.timeout_s + _PATIENCE_S
        while time.monotonic() < deadline:
            outcome = self.poll(_SLICE_S)
            if outcome is not None:
                return outcome
        raise LabFailed(f"the guest's command has not ended in {self.timeout_s:g} s")

    def signal(self, number: int) -> None:
        """Send a signal to its process group."""
        self.agent.call({"signal": self.job, "number": number})
