# SPDX-License-Identifier: Apache-2.0
"""Blocks written to a Fibre Channel target, read back and compared: ``fc link load`` and ``fc fcoe load``."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fcsim.live.fcp import CommandPath, LiveFcpInitiator
from fcsim.speeds import (
    MAX_PAYLOAD_BYTES,
    PROPAGATION_PS_PER_METRE,
    PS_PER_SECOND,
    Speed,
    throughput_bytes_per_second,
)

__all__ = ["Load", "LoadMismatch", "Run", "patience_ps", "run_load"]


class LoadMismatch(Exception):
    """What was read is not what was written; the text says where."""


@dataclass(frozen=True, slots=True)
class Load:
    """``write_bytes`` are written from block 0 on and compared when ``read_bytes`` are read from there, in commands of
    ``command_bytes``, ``depth`` at a time. ``seed`` decides the contents."""

    write_bytes: int
    read_bytes: int
    command_bytes: int = 65_536
    depth: int = 8
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """One direction: what was moved, and how long it took, in picoseconds of the path's own time."""

    direction: str
    payload_bytes: int
    commands: int
    time_ps: int

    @property
    def bytes_per_second(self) -> int:
        """The rate; 0 for a run that took no time."""
        return self.payload_bytes * 10**12 // self.time_ps if self.time_ps else 0


def patience_ps(speed: Speed, distance_m: int, credits: int, load: Load) -> int:
    """How long a command of a load waits for an answer before it is taken to be lost and sent again: many times what
    all that are under way take on a link with so many credits, in link time."""
    rate = max(throughput_bytes_per_second(speed, credits, distance_m, MAX_PAYLOAD_BYTES), 1)
    moved_ps = load.depth * load.command_bytes * PS_PER_SECOND // int(rate)
    return 20 * max(moved_ps + 4 * distance_m * PROPAGATION_PS_PER_METRE, 10**9)


async def run_load(path: CommandPath, load: Load, now_ps: Callable[[], int]) -> list[Run]:
    """Write, flush, read, compare. Raises LoadMismatch, ValueError for a load that the unit has no room for, and what
    the path raises."""
    disk = LiveFcpInitiator(path)
    blocks, block_bytes = await disk.capacity()
    most = max(load.write_bytes, load.read_bytes)
    if most > blocks * block_bytes:
        raise ValueError(f"{most} bytes do not fit: the logical unit has {blocks * block_bytes}")
    if load.command_bytes % block_bytes or load.write_bytes % block_bytes or load.read_bytes % block_bytes:
        raise ValueError(f"sizes are whole blocks of {block_bytes} bytes here")
    written = random.Random(load.seed).randbytes(load.write_bytes)
    runs = []
    if load.write_bytes:

        async def write(start: int, end: int) -> None:
            await disk.write(start // block_bytes, written[start:end])

        runs.append(await _run("write", load.write_bytes, load, write, now_ps))
        await disk.flush()
    if load.read_bytes:

        async def read(start: int, end: int) -> None:
            data = await disk.read(start // block_bytes, (end - start) // block_bytes)
            if data[: max(load.write_bytes - start, 0)] != written[start:end]:
                raise LoadMismatch(f"bytes {start} to {end} are not what was written there")

        runs.append(await _run("read", load.read_bytes, load, read, now_ps))
    return runs


async def _run(
    direction: str,
    size: int,
    load: Load,
    move: Callable[[int, int], Awaitable[None]],
    now_ps: Callable[[], int],
) -> Run:
    """Move ``size`` bytes with ``depth`` workers that take the next command each."""
    starts = iter(range(0, size, load.command_bytes))

    async def work() -> None:
        for start in starts:
            await move(start, min(start + load.command_bytes, size))

    began_ps = now_ps()
    workers = [asyncio.ensure_future(work()) for _ in range(load.depth)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return Run(direction, size, -(-size // load.command_bytes), now_ps() - began_ps)
