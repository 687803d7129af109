"""A load by our own initiator, the one here that has data digests: one line of JSON with the keys of ``iscsiload``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from iscsi_target.initiator import Initiator
from iscsi_target.session.parameters import Parameters


class _Figures:
    """What is counted while ``measuring``."""

    def __init__(self) -> None:
        self.measuring = False
        self.stopping = False
        self.latencies_ns: list[int] = []


async def _worker(
    session: Initiator,
    lun: int,
    blocks: int,
    block_bytes: int,
    write: bool,
    chance: random.Random,
    to: _Figures,
) -> None:
    data = bytes(range(256)) * (block_bytes // 256)
    span, count = block_bytes // 512, blocks * 512 // block_bytes
    while not to.stopping:
        lba = chance.randrange(count) * span
        start = time.perf_counter_ns()
        if write:
            await session.write(lun, lba, data)
        else:
            await session.read(lun, lba, span)
        if to.measuring:
            to.latencies_ns.append(time.perf_counter_ns() - start)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _load(options: argparse.Namespace) -> dict[str, float]:
    digests = ("CRC32C",), ("None",)
    parameters = Parameters(
        header_digest=digests[not options.header_digest], data_digest=digests[not options.data_digest]
    )
    chance, figures, sessions = random.Random(options.seed), _Figures(), []
    try:
        for _ in range(options.sessions):
            sessions.append(
                await Initiator.login(options.host, options.port, options.iqn, parameters=parameters)
            )
        agreed = sessions[0].agreed
        wished = (parameters.header_digest[0], parameters.data_digest[0])
        if (agreed.header_digest, agreed.data_digest) != wished:
            raise SystemExit(f"the target agreed to {agreed.header_digest} and {agreed.data_digest}")
        blocks, block_length = await sessions[0].read_capacity(options.lun)
        if block_length != 512:
            raise SystemExit(f"blocks of {block_length} bytes, not 512")
        async with asyncio.TaskGroup() as group:
            for session in sessions:
                for _ in range(options.depth):
                    work = _worker(
                        session, options.lun, blocks, options.bytes, options.write, chance, figures
                    )
                    group.create_task(work)
            await asyncio.sleep(options.warm_up)
            cpu, target_cpu, start = time.process_time(), _cpu_s(options.pid), time.perf_counter()
            figures.measuring = True
            await asyncio.sleep(options.seconds)
            figures.measuring, figures.stopping = False, True
            elapsed = time.perf_counter() - start
            cpu, target_cpu = time.process_time() - cpu, _cpu_s(options.pid) - target_cpu
    finally:
        for session in sessions:
            await session.logout()
    latencies = sorted(figures.latencies_ns)
    if not latencies:
        raise SystemExit("no command was answered in the measured time")
    return {
        "iops": len(latencies) / elapsed,
        "mbps": len(latencies) * options.bytes / elapsed / 1e6,
        "p50_us": latencies[len(latencies) // 2] / 1e3,
        "p99_us": latencies[len(latencies) * 99 // 100] / 1e3,
        "max_us": latencies[-1] / 1e3,
        "initiator_cpu": cpu / elapsed * 100,
        "target_cpu": target_cpu / elapsed * 100,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the figures; ends with a text on stderr and 1 where there are none."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.iscsi_own_load", description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("iqn")
    parser.add_argument("lun", type=int)
    parser.add_argument("--pid", type=int, required=True, help="of the target, for its CPU")
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--depth", type=int, default=32)
    parser.add_argument("--bytes", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--warm-up", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--header-digest", action="store_true")
    parser.add_argument("--data-digest", action="store_true")
    options = parser.parse_args(arguments)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(_load(options))
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
