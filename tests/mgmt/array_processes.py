"""Arrays as real processes for tests: started with the command line, spoken to by messages, always ended."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from credits.targets import Target, port_pair
from mgmt.http import Peer, PeerRefused
from mgmt.messages import (
    BufferReserveRequest,
    BufferReserveResponse,
    CopyStartRequest,
    CopyStartResponse,
    CopyStatus,
    CopyStatusRequest,
    VolumeDigest,
    VolumeDigestRequest,
)
from tests.mgmt.warm_processes import WarmProcess

MASTER, REMOTE = "127.0.0.1", "127.0.0.2"
PAIR = port_pair(MASTER, REMOTE)
OVER = ("done", "failed", "stopped")


Start = Callable[[Sequence[str]], "subprocess.Popen[str] | WarmProcess"]
"""Starts ``sancredit …``; its standard output is read."""


def command(*arguments: str) -> list[str]:
    """``sancredit …`` of this checkout."""
    return [sys.executable, "-m", "mgmt.cli", *arguments]


def cold(words: Sequence[str]) -> subprocess.Popen[str]:
    """An interpreter of its own."""
    return subprocess.Popen(command(*words[1:]), stdout=subprocess.PIPE, text=True)


@dataclass
class ArrayProcess:
    """One running array."""

    process: subprocess.Popen[str] | WarmProcess
    peer: Peer
    ready: list[str]

    def table(self, name: str) -> Any:
        return self.peer.get(f"/v1/{name}")

    @property
    def port(self) -> dict[str, Any]:
        port: dict[str, Any] = self.table("info")["ports"][0]
        return port

    @property
    def pool(self) -> dict[str, Any]:
        pool: dict[str, Any] = self.table("pools")[0]
        parts = ("free_units", "reserved_idle_units", "in_use_units", "draining_units")
        assert sum(pool[part] for part in parts) == pool["total_units"], "the law of conservation"
        return pool

    def reserve(self, requested_bytes: int, target: Target = PAIR, request_id: str | None = None) -> int:
        answer = self.peer.send(
            BufferReserveRequest(target=target, requested_bytes=requested_bytes), request_id
        )
        assert isinstance(answer, BufferReserveResponse)
        return answer.reserved_units

    def digest(self, volume: str = "vol0") -> str:
        answer = self.peer.send(VolumeDigestRequest(volume=volume))
        assert isinstance(answer, VolumeDigest)
        return answer.sha256

    def status(self, copy_id: str = "c1") -> CopyStatus:
        answer = self.peer.send(CopyStatusRequest(copy_id=copy_id))
        assert isinstance(answer, CopyStatus)
        return answer

    def wait_for(self, reached: Callable[[CopyStatus], bool], copy_id: str = "c1") -> CopyStatus:
        """Poll until ``reached``; the test's own time-out bounds it."""
        while not reached(status := self.status(copy_id)):
            time.sleep(0.005)
        return status

    def wait_until_over(self, copy_id: str = "c1") -> CopyStatus:
        return self.wait_for(lambda status: status.state in OVER, copy_id)


@contextmanager
def array(
    directory: Path, name: str, address: str, *arguments: str, start: Start = cold
) -> Iterator[ArrayProcess]:
    """``sancredit array serve`` until the block ends."""
    port = ("--port-address", address, "--iscsi-port", "0")
    with served(directory, name, *port, *arguments, start=start) as running:
        yield running


@contextmanager
def configured_array(directory: Path, name: str, text: str, *arguments: str) -> Iterator[ArrayProcess]:
    """The array that a TOML file with ``text`` describes."""
    file = directory / f"{name}.toml"
    file.write_text(text)
    with served(directory, name, "--config", str(file), *arguments) as running:
        yield running


def serving(directory: Path, name: str, *arguments: str) -> list[str]:
    """The words that start an array of that name."""
    listen = ("--listen", f"unix:{directory / f'{name}.sock'}", "--chap-file", str(directory / "chap"))
    return ["sancredit", "array", "serve", "--name", name, *listen, *arguments]


@contextmanager
def served(directory: Path, name: str, *arguments: str, start: Start = cold) -> Iterator[ArrayProcess]:
    """``sancredit array serve`` with the name and a control address of its own."""
    control = directory / f"{name}.sock"
    process = start(serving(directory, name, *arguments))
    assert process.stdout is not None
    try:
        ready = [process.stdout.readline().strip()]
        while ready[-1].startswith("listening ") and ready[-1] != f"listening unix:{control}":
            ready.append(process.stdout.readline().strip())
        assert ready[-1] == f"listening unix:{control}", f"array {name} did not start"
        with Peer(f"unix:{control}", 60.0) as peer:
            yield ArrayProcess(process, peer, ready)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGUSR1)  # a fork says where its threads are
            time.sleep(0.5)
            process.kill()
            process.wait()
            raise
        finally:
            process.stdout.close()


def start_requests(
    remote_port: dict[str, Any], sessions: int = 2, connections: int = 3, **changes: Any
) -> list[CopyStartRequest]:
    """M7 for every connection of every session."""
    fields: dict[str, Any] = {
        "copy_id": "c1",
        "target": PAIR,
        "volume": "vol0",
        "remote_host": remote_port["address"],
        "remote_port_number": remote_port["iscsi_port"],
        "remote_iqn": remote_port["copy_iqn"],
        "remote_lun": 0,
        "sessions": sessions,
        "connections_per_session": connections,
    }
    return [
        CopyStartRequest(**(fields | {"session": session, "connection": connection} | changes))
        for session in range(sessions)
        for connection in range(connections)
    ]


def start_copy(
    master: ArrayProcess, requests: list[CopyStartRequest]
) -> list[CopyStartResponse | PeerRefused]:
    """Send all requests at once, as a station does; the answers and refusals."""

    def send(request: CopyStartRequest) -> CopyStartResponse | PeerRefused:
        key = f"{request.copy_id}/{request.session}/{request.connection}"
        try:
            answer = master.peer.send(request, key)
        except PeerRefused as refusal:
            return refusal
        assert isinstance(answer, CopyStartResponse)
        return answer

    with ThreadPoolExecutor(len(requests)) as senders:
        return list(senders.map(send, requests))
