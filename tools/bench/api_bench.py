"""Benchmarks of the station's API, each against a station in a process of its own.

lists    p99 of ``GET /api/v1/reservations`` and of others at a fixed rate of requests (open loop), with 500 arrays and
         10,000 reservations known and 24 h of channel history, on one core
streams  from an event's commit to its arrival at each of 100 SSE clients, p99; beside a client that reads nothing

``python -m tools.bench api [--rate 50] [--seconds 20] [--arrays 500] [--reservations 10000] [--clients 100]``
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import insert
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from credits.targets import port_pair
from mgmt.api.app import make_app
from mgmt.cli.station import calm_collector
from mgmt.http import Address, Peer
from mgmt.http import serve as serve_http
from mgmt.messages import Message
from mgmt.station import channels
from mgmt.station.arrays import Arrays
from mgmt.station.context import Station
from mgmt.station.database import Transaction
from mgmt.station.schema import SAMPLES
from mgmt.station.store import open_store
from mgmt.station.watch import Keeper
from mgmt.web.pages import add_pages

_PAIRS = 200
_LISTS = (
    "/api/v1/reservations?limit=100",
    "/api/v1/reservations?limit=100&sort=-reserved_bytes",
    "/api/v1/reservations?limit=100&filter=array%3Da250",
    "/api/v1/pools?limit=100",
    "/api/v1/channels?limit=100",
    "/api/v1/arrays?limit=100",
    "/api/v1/channels/history?local_port=10.0.7.1&remote_port=10.1.7.1&limit=200",
)


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` of ``values`` are (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


# -- the station and its arrays, in a process of their own ---------------------------------------------------------


def serve(directory: Path, arrays: int, reservations: int) -> None:
    """A station over stand-in arrays in one more process; prints ``ready`` and what it listens on."""
    base = (directory / "arrays").read_text().strip()
    names = [f"a{number}" for number in range(arrays)]
    shared = Peer(base, 5.0)
    station = Station(
        store=open_store(directory / "state"),
        arrays=Arrays({name: _ArrayPeer(shared, name) for name in names}),
        probes=(),
        utc_now=lambda: datetime.now(UTC),
    )
    _fill_channels(station)

    def ready(address: Address) -> None:
        sys.stdout.write(f"ready {address.host_and_port}\n")
        sys.stdout.flush()

    calm_collector()
    with Keeper(station):
        serve_http(make_app(station, faces=(add_pages,)), "http://127.0.0.1:0", ready)
    station.close()
    shared.close()


def _fill_channels(station: Station) -> None:
    """200 pairs, and a day of samples for each, one a minute."""
    pairs = [(f"10.0.{number}.1", f"10.1.{number}.1") for number in range(_PAIRS)]
    for pair in pairs:
        channels.register(station, port_pair(*pair))
    start_ms = int(time.time() * 1000) - 86_400_000
    for local_port, remote_port in pairs:
        rows = [
            {
                "local_port": local_port,
                "remote_port": remote_port,
                "at_ms": start_ms + minute * 60_000,
                "span_s": 0,
                "samples": 1,
                **dict.fromkeys(
                    ("bandwidth_bps", "bandwidth_min_bps", "bandwidth_max_bps"), 10_000_000 + minute
                ),
                **dict.fromkeys(("rtt_ns", "rtt_min_ns", "rtt_max_ns"), 20_000_000),
                "method": "bench",
            }
            for minute in range(1440)
        ]
        station.store.database.write(partial(_insert, rows))


def _insert(rows: list[dict[str, Any]], transaction: Transaction) -> None:
    transaction.execute(insert(SAMPLES), rows)


class _ArrayPeer(Peer):
    """A client of one of many arrays behind one address: it puts the array's name before each path.

    They share their connections: a server takes fewer than 500 arrays would have.
    """

    def __init__(self, shared: Peer, array: str) -> None:
        super().__init__(shared.address, name=f"array {array}")
        self._shared, self._array = shared, array

    def get(self, path: str) -> Any:
        """GET ``path`` of this array."""
        return self._shared.get(f"/{self._array}{path}")

    def send(
        self, message: Message, request_id: str | None = None, *, timeout_s: float | None = None
    ) -> Message:
        """POST a message; no stand-in knows any."""
        return self._shared.send(message, request_id, timeout_s=timeout_s)


def serve_arrays(directory: Path, arrays: int, reservations: int) -> None:
    """All arrays in one process: what each says is put into JSON once."""
    each = reservations // arrays
    said = {
        f"a{number}": {name: json.dumps(value).encode() for name, value in _tables(number, each).items()}
        for number in range(arrays)
    }

    async def table(request: Request) -> Response:
        found = said[request.path_params["array"]].get(request.path_params["name"], b"[]")
        return Response(found, media_type="application/json")

    def ready(address: Address) -> None:
        (directory / "arrays.new").write_text(str(address))
        (directory / "arrays.new").replace(directory / "arrays")

    serve_http(Starlette(routes=[Route("/{array}/v1/{name}", table)]), "http://127.0.0.1:0", ready)


def _tables(array: int, reservations: int) -> dict[str, Any]:
    address = f"10.{2 + array // 250}.{array % 250}.1"
    rows = [
        {
            "interface": "tcp0",
            "target": {
                "kind": "port_pair",
                "local_port": address,
                "remote_port": f"10.9.{number}.{array % 250}",
            },
            "buffer_address": 0x1000 * number,
            "reserved_units": 10 + number,
            "reserved_bytes": (10 + number) * 16384,
            "requested_bytes": (10 + number) * 16384,
            "in_use_units": number % 3,
            "idle_units": 8,
            "pending_shrink_units": 0,
            "state": "reserved",
            "epoch": number,
        }
        for number in range(reservations)
    ]
    units = ("free", "reserved_idle", "in_use", "draining", "expandable", "held", "degraded")
    pool = {"interface": "tcp0", "kind": "tcp", "unit_bytes": 16384, "total_units": 4096, "revision": 1}
    port = {"address": address, "interface": "tcp0", "kind": "tcp", "iscsi_port": 3260, "iqn": "iqn.x"}
    info = {"name": f"a{array}", "ports": [port], "volumes": []}
    return {
        "info": info,
        "pools": [pool | {f"{name}_units": 100 for name in units}],
        "reservations": rows,
    }


# -- measuring -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(arrays: int, reservations: int) -> Iterator[tuple[str, int]]:
    """``HOST:PORT`` and process ID of a station that knows all arrays; it is tied to one core."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        options = [name, str(arrays), str(reservations)]
        command = [sys.executable, "-m", "tools.bench.api_bench"]
        cores = sorted(os.sched_getaffinity(0))
        others = subprocess.Popen([*command, "--serve-arrays", *options])
        try:
            while not (directory / "arrays").exists():
                if others.poll() is not None:
                    raise SystemExit("the arrays ended")
                time.sleep(0.05)
            process = subprocess.Popen([*command, "--serve", *options], stdout=subprocess.PIPE, text=True)
            try:
                os.sched_setaffinity(process.pid, {cores[0]})
                assert process.stdout is not None
                line = process.stdout.readline()
                if not line.startswith("ready "):
                    raise SystemExit("the station ended")
                yield line.split()[1], process.pid
            finally:
                process.terminate()
                process.wait()
        finally:
            others.terminate()
            others.wait()


def cpu_s(process: int) -> float:
    """Processor time that a process has used, in seconds: what a busy machine does not change."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> bytes:
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"{path}: {head[:80]!r}")
    (length,) = (
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    return await reader.readexactly(length)


async def lists(where: str, rate: float, seconds: float) -> dict[str, Any]:
    """Open loop: each request has its time, whether the one before has been answered or not."""
    host, _, port = where.rpartition(":")
    idle: asyncio.Queue[Any] = asyncio.Queue()
    took: list[float] = []
    size = 0

    async def ask(path: str, due: float) -> None:
        nonlocal size
        pair = idle.get_nowait() if not idle.empty() else await asyncio.open_connection(host, int(port))
        size += len(await _get(pair[0], pair[1], path))
        took.append(time.perf_counter() - due)
        idle.put_nowait(pair)

    for path in _LISTS:  # what the first request of its kind has to gather is no part of the figure
        await ask(path, time.perf_counter())
    took.clear()
    start, tasks = time.perf_counter() + 0.1, []
    for number in range(int(rate * seconds)):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(ask(_LISTS[number % len(_LISTS)], due)))
    await asyncio.gather(*tasks)
    while not idle.empty():
        idle.get_nowait()[1].close()
    return {
        "requests": len(took),
        "rate_per_s": rate,
        "p50_ms": round(percentile(took, 0.5) * 1e3, 2),
        "p99_ms": round(percentile(took, 0.99) * 1e3, 2),
        "max_ms": round(max(took) * 1e3, 2),
        "bytes_each": size // (len(took) + len(_LISTS)),
    }


async def streams(where: str, clients: int, changes: int) -> dict[str, Any]:
    """Register a pair again and again; how long after the answer each client has heard of it.

    Counted from before the request, so the change's own commit is in the figure too.
    """
    host, _, port = where.rpartition(":")
    heard: list[float] = []
    sent: dict[int, float] = {}
    ready = 0

    async def listen(reader: asyncio.StreamReader) -> None:
        nonlocal ready
        first = True
        async for line in _lines(reader):
            if first:
                ready += 1
                first = False
            if line.startswith(b"data: "):
                row = json.loads(line[6:])
                if row["kind"] == "registered":
                    heard.append(
                        time.perf_counter() - sent[int(row["text"].split("sessions")[0].split()[-1])]
                    )

    opened = [await asyncio.open_connection(host, int(port)) for _ in range(clients + 1)]
    for _, writer in opened:
        writer.write(b"GET /api/v1/events/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    tasks = [asyncio.create_task(listen(reader)) for reader, _ in opened[1:]]  # the first reads nothing
    while ready < clients:
        await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection(host, int(port))
    target = {"kind": "port_pair", "local_port": "10.0.0.1", "remote_port": "10.1.0.1"}
    for number in range(2, 2 + changes):
        body = json.dumps({"target": target, "sessions": number}).encode()
        sent[number] = time.perf_counter()
        head = "POST /api/v1/pairs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await _answer(reader)
        await asyncio.sleep(0.05)
    deadline = time.perf_counter() + 10
    while len(heard) < clients * changes and time.perf_counter() < deadline:
        await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    for _, one in (*opened, (reader, writer)):
        one.close()
    return {
        "clients": clients,
        "heard": len(heard),
        "expected": clients * changes,
        "p50_ms": round(percentile(heard, 0.5) * 1e3, 2),
        "p99_ms": round(percentile(heard, 0.99) * 1e3, 2),
        "max_ms": round(max(heard) * 1e3, 2),
    }


async def _answer(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(head.decode())
    lines = head.lower().split(b"\r\n")
    length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
    await reader.readexactly(length)


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while line := await reader.readline():
        yield line.strip()


def main(words: list[str]) -> int:
    """Exit status 1 where a bar is missed."""
    roles: dict[str, Callable[[Path, int, int], None]] = {"--serve": serve, "--serve-arrays": serve_arrays}
    if words and words[0] in roles:
        roles[words[0]](Path(words[1]), int(words[2]), int(words[3]))
        return 0
    parser = argparse.ArgumentParser(prog="python -m tools.bench api")
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--arrays", type=int, default=500)
    parser.add_argument("--reservations", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--changes", type=int, default=40)
    given = parser.parse_args(words)
    with running(given.arrays, given.reservations) as (where, process):
        idle_s = cpu_s(process)
        time.sleep(4)
        renewing = (cpu_s(process) - idle_s) / 4
        before_s = cpu_s(process)
        found = asyncio.run(lists(where, given.rate, given.seconds))
        busy_s = cpu_s(process) - before_s - renewing * given.seconds
        found["cpu_ms_each"] = round(busy_s / found["requests"] * 1e3, 2)
        found["renewing_share_of_a_core"] = round(renewing, 2)
        sys.stdout.write(f"lists   {json.dumps(found)}\n")
        live = asyncio.run(streams(where, given.clients, given.changes))
        sys.stdout.write(f"streams {json.dumps(live)}\n")
    return int(found["p99_ms"] > 100 or live["p99_ms"] > 1000 or live["heard"] < live["expected"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
