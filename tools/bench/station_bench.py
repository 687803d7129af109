"""The management station: ``python -m tools.bench station [--seconds S] [--only PART] [-o json]``.

``start``: the time to the first byte of commands. ``reserve`` and ``both``: reservations through the API by 16 clients,
durable at the station and at two real arrays before each answer; beside them the station's processor time for each,
which a busy machine hardly changes. ``lists``: 50 requests a second for lists of 500
arrays, 10,000 reservations and a day of channel history, the station on one core; the arrays are stand-ins in one
process that answer with fixed tables. Refusals fail the run: every request counted was done.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tools.bench.measured import Measured, command_line, write

CLIENTS = 16
ARRAYS, RESERVATIONS_OF_ONE = 500, 20
RATE, LISTS = 50, ("reservations", "channels", "pools", "arrays")
PARTS = ("start", "reserve", "both", "lists")
_UNIT = 16 * 1024


class Client:
    """One kept connection to a Unix socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, value: Any = None) -> Any:
        """The JSON answer. Raises :class:`RuntimeError` for a refusal."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection("localhost")
            self._connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._connection.sock.connect(str(self._path))
        body = None if value is None else json.dumps(value).encode()
        self._connection.request(method, path, body, {"content-type": "application/json"})
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {data[:300]!r}")
        return json.loads(data)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


@contextmanager
def served(*words: str, core: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """``sancredit …`` until the block ends; ready when it says so."""
    command = [sys.executable, "-m", "mgmt.cli", *words]
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        while not (line := process.stdout.readline()).startswith("listening unix:"):
            if not line:
                raise RuntimeError(f"{' '.join(words[:2])} did not start")
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@contextmanager
def place(directory: Path) -> Iterator[tuple[Path, int]]:
    """A station between two arrays, all of them real processes with their states on disk: its socket and process ID."""
    with ExitStack() as stack:
        named = []
        for name, first in (("M", 1), ("R", 101)):
            interfaces = "".join(
                f'[[interface]]\nname = "if{n}"\naddress = "127.0.1.{first + n}"\niscsi_port = 0\nunits = 4096\n'
                for n in range(CLIENTS)
            )
            file = directory / f"{name}.toml"
            file.write_text(
                f'name = "{name}"\nlisten = "unix:{directory}/{name}.sock"\nstate = "{directory}/{name}"\n{interfaces}'
            )
            stack.enter_context(served("array", "serve", "--config", str(file)))
            named += ["--array", f"{name}=unix:{directory}/{name}.sock"]
        station = directory / "station.sock"
        state = ("--state", str(directory / "state"))
        process = stack.enter_context(
            served("station", "serve", "--listen", f"unix:{station}", *state, *named)
        )
        yield station, process.pid


def load(station: Path, seconds: float, ask: Callable[[Client, int, int], None]) -> tuple[float, list[float]]:
    """16 clients, each one request after the other: requests a second, and how long each took in seconds."""
    took: list[list[float]] = [[] for _ in range(CLIENTS)]
    failures: list[BaseException] = []
    start = threading.Barrier(CLIENTS + 1)
    end = [0.0]

    def run(number: int) -> None:
        client = Client(station)
        try:
            ask(client, number, 0)
            start.wait()
            turn = 1
            while (before := time.monotonic()) < end[0] or not end[0]:
                ask(client, number, turn)
                took[number].append(time.monotonic() - before)
                turn += 1
        except (RuntimeError, OSError, http.client.HTTPException) as error:
            failures.append(error)
            start.abort()
        finally:
            client.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        start.wait(60)
        end[0] = time.monotonic() + seconds
    except threading.BrokenBarrierError:
        end[0] = time.monotonic()
    for thread in threads:
        thread.join()
    if failures:
        raise RuntimeError(f"a request was not done: {failures[0]}")
    all_of_them = sorted(one for each in took for one in each)
    return len(all_of_them) / seconds, all_of_them


def p99(sorted_values: Sequence[float]) -> float:
    """The 99th percentile."""
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * 0.99))]


def bench_start(station: Path, rounds: int = 9) -> list[Measured]:
    """Time to the first byte of commands as they are installed."""
    program = Path(sys.executable).with_name("sancredit")
    environment = os.environ | {"SANCREDIT_STATION": f"unix:{station}"}
    found = []
    for name, words, bar_ms in (("--help", ["--help"], 150), ("get pools", ["get", "pools"], 300)):
        times = []
        for _ in range(rounds):
            before = time.monotonic()
            with subprocess.Popen([program, *words], stdout=subprocess.PIPE, env=environment) as process:
                assert process.stdout is not None
                if not process.stdout.read(1):
                    raise RuntimeError(f"sancredit {' '.join(words)} wrote nothing")
                times.append((time.monotonic() - before) * 1000)
                process.stdout.read()
        value = statistics.median(times)
        found.append(
            Measured(
                name=f"first byte of {name}", value=value, unit="ms", bar=f"<= {bar_ms}", met=value <= bar_ms
            )
        )
    return found


def _target(number: int, **more: Any) -> dict[str, Any]:
    pair = {"local_port": f"127.0.1.{1 + number}", "remote_port": f"127.0.1.{101 + number}"}
    return {"target": {"kind": "port_pair", **pair, **more}}


def processor_s(process: int) -> float:
    """Processor time that a process has used, in seconds: what a busy machine hardly changes."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bench_reserve(station: Path, process: int, seconds: float, path: str, rate: int) -> list[Measured]:
    """Reservations of one end, or of both."""

    def ask(client: Client, number: int, turn: int) -> None:
        client.ask("POST", f"/api/v1/{path}", _target(number) | {"size_bytes": (1 + turn % 100) * _UNIT})

    before_s = processor_s(process)
    per_second, took = load(station, seconds, ask)
    each_ms = (processor_s(process) - before_s) / (len(took) + CLIENTS) * 1000
    late_ms = p99(took) * 1000
    name = "one end" if path == "reserve" else "both ends"
    return [
        Measured(
            name=f"reserve, {name}", value=per_second, unit="/s", bar=f">= {rate}", met=per_second >= rate
        ),
        Measured(name=f"reserve, {name}, p99", value=late_ms, unit="ms", bar="<= 150", met=late_ms <= 150),
        Measured(name=f"reserve, {name}, CPU each", value=each_ms, unit="ms", bar="", met=True),
    ]


def bench_lists(directory: Path, seconds: float) -> list[Measured]:
    """Lists of many arrays at a fixed rate: each request is sent at its time, whether the last was answered or not."""
    from tools.bench.station_crowd import crowd, fill_state

    sockets = [directory / f"a{number}.sock" for number in range(ARRAYS)]
    fill_state(directory / "state", sockets, RESERVATIONS_OF_ONE)
    station = directory / "station.sock"
    words = ("station", "serve", "--listen", f"unix:{station}", "--state", str(directory / "state"))
    last = (os.cpu_count() or 1) - 1
    with crowd(sockets, RESERVATIONS_OF_ONE), served(*words, core=last):
        client = Client(station)
        for name in (*LISTS, *LISTS):  # the first of each asks every array
            total = client.ask("GET", f"/api/v1/{name}")["total"]
            expected = {"arrays": ARRAYS, "reservations": ARRAYS * RESERVATIONS_OF_ONE}.get(name, total)
            if total != expected:
                raise RuntimeError(f"{name}: {total} rows, not {expected}")
        took: dict[str, list[float]] = {name: [] for name in (*LISTS, "history")}
        lock = threading.Lock()
        began = time.monotonic()

        def run(worker: int) -> None:
            mine = Client(station)
            for turn in range(worker, int(seconds * RATE), 8):
                due = began + turn / RATE
                time.sleep(max(0.0, due - time.monotonic()))
                name = (*LISTS, "history")[turn % 5]
                pair = "local_port=198.18.0.7&remote_port=198.19.0.7&limit=1000"
                mine.ask(
                    "GET", f"/api/v1/channels/history?{pair}" if name == "history" else f"/api/v1/{name}"
                )
                with lock:
                    took[name].append(time.monotonic() - due)
            mine.close()

        threads = [threading.Thread(target=run, args=(worker,)) for worker in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        client.close()
    found = []
    everything = sorted(one for each in took.values() for one in each)
    if len(everything) < int(seconds * RATE) - 8:
        raise RuntimeError("some requests were not answered")
    for name, values in (("all", everything), *((name, sorted(values)) for name, values in took.items())):
        late_ms = p99(values) * 1000
        bar = "<= 100" if name == "all" else ""
        found.append(
            Measured(
                name=f"lists at {RATE}/s, {name}, p99",
                value=late_ms,
                unit="ms",
                bar=bar,
                met=not bar or late_ms <= 100,
            )
        )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 where a bar is missed or something did not run."""
    parser = command_line("station", __doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--only", choices=PARTS, action="append")
    options = parser.parse_args(arguments)
    parts = options.only or PARTS
    results: list[Measured] = []
    try:
        with tempfile.TemporaryDirectory(prefix="station-") as name:
            if set(parts) & {"start", "reserve", "both"}:
                with place(Path(name)) as (station, process):
                    if "reserve" in parts:
                        results += bench_reserve(station, process, options.seconds, "reserve", 150)
                    if "both" in parts:
                        results += bench_reserve(station, process, options.seconds, "reserve-both-ends", 50)
                    if "start" in parts:
                        results += bench_start(station)
        if "lists" in parts:
            with tempfile.TemporaryDirectory(prefix="station-") as name:
                results += bench_lists(Path(name), options.seconds)
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return write(results, options.output, decimals=1)


if __name__ == "__main__":
    sys.exit(main())
