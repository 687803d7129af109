"""A sender for the tests of the gate: ``python -m tests.tools.gate_sender ADDRESS PORT UNITS UNIT_BYTES``.

Reserves UNITS of a pool for its port pair, allocates all of them, and sends for ever out of that memory. Each line on
stdin is answered by one JSON line: ``stats``, ``limit BYTES`` (the gate's new limit; the answer has the moment), or
``rest`` (from now on a byte every half second).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from credits.config import PoolConfig, UnitKind
from credits.durable import DurablePool
from credits.memory import UnitMemory
from credits.targets import port_pair
from iscsi_target.tcp import ReservedTcpConnection, connect_socket


async def answer(
    reader: asyncio.StreamReader, connection: ReservedTcpConnection, resting: asyncio.Event
) -> None:
    while line := (await reader.readline()).decode().split():
        if line[0] == "limit":
            connection.set_limit(int(line[1]))
        if line[0] == "rest":
            resting.set()
        found, why = connection.statistics(), connection.diagnosis()
        reply = {
            "now_ns": time.time_ns(),
            "written": found.written_bytes,
            "acknowledged": found.acknowledged_bytes,
            "in_flight": found.in_flight_bytes,
            "diagnosis": None if why is None else why.limit.value,
            "snd_cwnd_bytes": None if why is None else why.snd_cwnd_bytes,
        }
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


async def main(address: str, port: int, units: int, unit_bytes: int) -> None:
    pair = port_pair("master", address)
    config = PoolConfig(name="tcp0", kind=UnitKind.TCP, unit_bytes=unit_bytes, total_units=2 * units)
    pool = DurablePool.open(None, config)
    pool.reserve(pair, units * unit_bytes, request_id="r", now_ns=0)
    allocation = pool.allocate([pair], units, holder="sender")
    memory = UnitMemory(config)
    sock = await connect_socket(address, port)
    connection = ReservedTcpConnection(sock, memory.slices(allocation), stall_timeout_s=60)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    resting = asyncio.Event()
    answering = asyncio.create_task(answer(reader, connection, resting))
    data = bytes(1 << 20)

    async def send() -> None:
        while not resting.is_set():
            await connection.write([data])
        while True:
            await connection.write([b"."])
            await asyncio.sleep(0.5)

    sending = asyncio.create_task(send())
    await asyncio.wait({answering, sending}, return_when=asyncio.FIRST_COMPLETED)
    sending.cancel()
    connection.abort()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
