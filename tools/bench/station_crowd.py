"""Many arrays for the station's benchmark: one process that answers for all of them with fixed tables."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from mgmt.station.database import Transaction
from mgmt.station.schema import ARRAYS, CHANNELS, SAMPLES
from mgmt.station.store import open_store

_DAY_MINUTES = 24 * 60
_CHUNK = 20_000


def ports(number: int) -> tuple[str, str]:
    """The port of an array, and that of its partner."""
    return f"198.18.{number // 250}.{number % 250 + 1}", f"198.19.{number // 250}.{number % 250 + 1}"


def tables(number: int, reservations: int) -> dict[str, Any]:
    """What one array answers."""
    local, remote = ports(number)
    pool = {
        "interface": "if0",
        "kind": "tcp",
        "unit_bytes": 16384,
        "total_units": 100_000,
        "degraded_units": 0,
    }
    units = {"free_units": 90_000, "reserved_idle_units": 10_000, "in_use_units": 0, "draining_units": 0}
    rows = [
        {
            "interface": "if0",
            "target": {
                "kind": "port_pair_number",
                "local_port": local,
                "remote_port": remote,
                "remote_port_number": n + 1,
            },
            "buffer_address": n + 1,
            "reserved_units": 500,
            "reserved_bytes": 500 * 16384,
            "requested_bytes": 500 * 16384,
            "in_use_units": 0,
            "state": "reserved",
            "idle_units": 500,
            "pending_shrink_units": 0,
            "backed_units": 500,
            "epoch": n + 1,
            "lease_ns": None,
        }
        for n in range(reservations)
    ]
    port = {"address": local, "interface": "if0", "iscsi_port": 3260, "iqn": f"iqn.x:{number}"}
    return {
        "/v1/info": {"name": f"a{number}", "ports": [port], "volumes": []},
        "/v1/pools": [pool | units | {"expandable_units": 0, "held_units": 0, "revision": 1}],
        "/v1/reservations": rows,
    }


def fill_state(state: Path, sockets: Sequence[Path], reservations: int) -> None:
    """A station's state with these arrays, a channel between each and its partner, and a day of history of each."""
    store = open_store(state)
    now = datetime.now(UTC)
    now_ms = int(now.timestamp()) * 1000

    def arrays(transaction: Transaction) -> None:
        at = now.isoformat(timespec="milliseconds")
        rows = [
            {"name": path.stem, "address": f"unix:{path}", "added_at": at, "added_by": "b"}
            for path in sockets
        ]
        transaction.execute(insert(ARRAYS), rows)
        channels = [
            {
                "local_port": local,
                "remote_port": remote,
                "remote_port_number": 0,
                "bandwidth_bps": 10**9,
                "rtt_ns": 10**7,
                "sessions": 1,
                "connections_per_session": 1,
                "measured_at": at,
                "method": "bench",
                "failed": False,
                "sequence": 0,
            }
            for local, remote in map(ports, range(len(sockets)))
        ]
        transaction.execute(insert(CHANNELS), channels)

    store.database.write(arrays)
    samples = (
        {
            "local_port": local,
            "remote_port": remote,
            "span_s": 60,
            "at_ms": now_ms - (minute + 61) * 60_000,
            "samples": 60,
            **dict.fromkeys(("bandwidth_bps", "bandwidth_min_bps", "bandwidth_max_bps"), 10**9),
            **dict.fromkeys(("rtt_ns", "rtt_min_ns", "rtt_max_ns"), 10**7),
            "method": "bench",
        }
        for local, remote in map(ports, range(len(sockets)))
        for minute in range(_DAY_MINUTES)
    )
    while chunk := list(islice(samples, _CHUNK)):
        store.database.write(lambda t, chunk=chunk: t.execute(insert(SAMPLES), chunk).rowcount)  # type: ignore[misc]
    store.close()


@contextmanager
def crowd(sockets: Sequence[Path], reservations: int) -> Iterator[None]:
    """All arrays, in one process, until the block ends."""
    command = [sys.executable, "-m", "tools.bench.station_crowd", str(reservations), *map(str, sockets)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the arrays did not start")
        yield
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


async def _serve(reservations: int, paths: Sequence[str]) -> None:
    for number, path in enumerate(paths):
        answers = {
            key: json.dumps(value, separators=(",", ":")).encode()
            for key, value in tables(number, reservations).items()
        }

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: dict[str, bytes] = answers
        ) -> None:
            while len((head := await reader.readline()).split()) > 1:
                while await reader.readline() not in (b"\r\n", b""):
                    pass
                body = answers.get(head.split()[1].decode(), b"[]")
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                    % len(body)
                )
                writer.write(body)
                await writer.drain()
            writer.close()

        await asyncio.start_unix_server(serve, path)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2:]))
