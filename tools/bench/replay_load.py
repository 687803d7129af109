"""Commands that arrive at random moments at a steady rate: ``python -m tools.bench.replay_load HOST PORT IQN``."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence

import uvloop

from iscsi_target.initiator import Initiator
from tools.capture.replay.pace import Pacer, undisturbed

_BLOCK_BYTES = 512


async def arrive(options: argparse.Namespace) -> dict[str, float]:
    """Commands with exponential gaps over the sessions, each on blocks of its own while it is under way."""
    chance = random.Random(options.seed)
    span = options.bytes // _BLOCK_BYTES
    data = [chance.randbytes(options.bytes) for _ in range(16)]
    sessions = [
        await Initiator.login(options.host, options.port, options.iqn) for _ in range(options.sessions)
    ]
    blocks, _ = await sessions[0].read_capacity(0)
    places, busy = blocks // span, set[int]()

    async def one(number: int, place: int, write: bool) -> None:
        session = sessions[number % len(sessions)]
        if write:
            await session.write(0, place * span, data[number % len(data)])
        else:
            await session.read(0, place * span, span)
        busy.discard(place)

    begun_ns = time.monotonic_ns()
    due_ns = begun_ns
    with undisturbed(), Pacer() as pacer:
        async with asyncio.TaskGroup() as running:
            for number in range(options.commands):
                due_ns += round(chance.expovariate(options.rate) * 1e9)
                await pacer.until(due_ns)
                place = chance.randrange(places)
                while place in busy:
                    place = (place + 1) % places
                busy.add(place)
                running.create_task(one(number, place, chance.randrange(100) >= options.reads_percent))
    seconds = (time.monotonic_ns() - begun_ns) / 1e9
    for session in sessions:
        await session.logout()
    return {"commands": options.commands, "seconds": seconds}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.replay_load", description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("iqn")
    parser.add_argument("--rate", type=float, default=5000.0, help="commands a second")
    parser.add_argument("--commands", type=int, default=50_000)
    parser.add_argument("--sessions", type=int, default=2)
    parser.add_argument("--bytes", type=int, default=4096)
    parser.add_argument("--reads-percent", type=int, default=70)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.stdout.write(json.dumps(runner.run(arrive(options))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
