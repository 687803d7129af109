"""Many sessions at one target: every one gets its share, and none costs much. Judged by counts, never by time."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path

import pytest

from iscsi_target.initiator import Initiator
from iscsi_target.running import RunningTarget, serve
from tools.bench.iscsi_bench import measure_memory
from tools.bench.iscsi_targets import sancredit

pytestmark = pytest.mark.slow
SESSIONS, DEPTH, ROUNDS = 256, 4, 12


async def log_in(target: RunningTarget, count: int) -> list[Initiator]:
    sessions = []
    for number in range(count):
        session = await Initiator.login(
            target.host,
            target.port,
            target.iqn,
            initiator_iqn=f"iqn.2026-11.example:many-{number}",
            timeout_s=60,
        )
        await session.test_unit_ready(0)
        sessions.append(session)
    return sessions


def test_no_session_of_256_with_4_commands_each_starves() -> None:
    """After ROUNDS commands for each on average the slowest session has had half of that."""
    done: Counter[int] = Counter()
    enough = SESSIONS * ROUNDS

    async def work(number: int, session: Initiator) -> None:
        while done.total() < enough:
            data = await session.read(0, number * 8, 8)
            assert len(data) == 4096
            if done.total() < enough:
                done[number] += 1

    async def body(target: RunningTarget) -> None:
        sessions = await log_in(target, SESSIONS)
        try:
            async with asyncio.TaskGroup() as group:
                for number, session in enumerate(sessions):
                    for _ in range(DEPTH):
                        group.create_task(work(number, session))
        finally:
            for session in sessions:
                await session.abort()

    with serve("16MiB", log_limit=None) as target:
        asyncio.run(asyncio.wait_for(body(target), 90))
    assert done.total() == enough and len(done) == SESSIONS
    assert min(done.values()) >= ROUNDS / 2, sorted(done.values())[:10]


@pytest.mark.timeout(180)
def test_an_idle_session_takes_no_more_than_256_kib_of_the_target(tmp_path: Path) -> None:
    with sancredit("memory", tmp_path, min(os.sched_getaffinity(0)), 1 << 20) as target:
        line = measure_memory(target)
    assert line.bar == 256 and line.met, line
