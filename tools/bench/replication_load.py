"""A host at a fixed rate: writes blocks of 4 KiB to an array's LUN and prints every latency (ns), one line a write.

``python -m tools.bench.replication_load --portal HOST:PORT --iqn IQN --rate 200 --seconds 5 [--lun 0] [--size BYTES]``
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time

from iscsi_target.initiator import Initiator

BLOCK_BYTES = 4096


async def run(options: argparse.Namespace) -> list[tuple[int, int]]:
    """(when it was due, latency) of every write, in nanoseconds; rate 0: one after the other."""
    host, _, port = options.portal.rpartition(":")
    rng = random.Random(options.seed)
    data = os.urandom(options.block)
    slots = options.size // options.block
    found: list[tuple[int, int]] = []
    async with await Initiator.login(host, int(port), options.iqn) as session:
        began = time.monotonic_ns()
        end = began + int(options.seconds * 1e9)
        due, limit = began, asyncio.Semaphore(options.depth)
        under_way: set[asyncio.Task[None]] = set()

        async def one(due_ns: int) -> None:
            try:
                if options.nop:
                    await session.nop(b"ping")
                else:
                    await session.write(options.lun, rng.randrange(slots) * options.block // 512, data)
                found.append((due_ns, time.monotonic_ns() - due_ns))
            finally:
                limit.release()

        while (now := time.monotonic_ns()) < end:
            if options.rate:
                due += int(1e9 / options.rate)
                if due > now:
                    await asyncio.sleep((due - now) / 1e9)
            await limit.acquire()
            task = asyncio.create_task(one(time.monotonic_ns()))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)
    return found


def main() -> int:
    """Exit status 0."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.replication_load")
    parser.add_argument("--portal", required=True)
    parser.add_argument("--iqn", required=True)
    parser.add_argument("--lun", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--block", type=int, default=BLOCK_BYTES)
    parser.add_argument("--size", type=int, default=32 << 20)
    parser.add_argument("--nop", action="store_true", help="NOP-Out instead of WRITE: the round trip.")
    parser.add_argument("--seed", type=int, default=1)
    found = asyncio.run(run(parser.parse_args()))
    sys.stdout.write("".join(f"{due} {latency}\n" for due, latency in found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
