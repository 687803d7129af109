"""Answers that come later without a thread."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest

from iscsi_target.errors import TaskAborted
from iscsi_target.executor import Deferred, ScsiCommand, ScsiResult
from iscsi_target.server import Target, TargetServer
from iscsi_target.wire.opcodes import TaskFunction, TaskResponse
from tests.iscsi_target.imaginary_wire import BLOCK, READ_16, TARGET, RamDisk
from tests.iscsi_target.test_server_shell import log_in, run, until

DELAY_NS = 20_000_000


class LateDisk:
    """A :class:`RamDisk` that answers READ (16) late; the first one latest."""

    def __init__(self, disk: RamDisk, delays_ns: list[int]) -> None:
        self.disk = disk
        self.delays_ns = delays_ns

    def __getattr__(self, name: str) -> object:
        return getattr(self.disk, name)

    def execute(self, command: ScsiCommand) -> ScsiResult | Deferred:
        result = self.disk.execute(command)
        if command.cdb[0] != READ_16 or not self.delays_ns:
            return result
        return Deferred(time.monotonic_ns() + self.delays_ns.pop(0), result)


def serving(disk: RamDisk, *delays_ns: int) -> TargetServer:
    return TargetServer([Target(name=TARGET, logical_units=LateDisk(disk, list(delays_ns)))])  # type: ignore[arg-type]


def test_deferred_answers_come_when_they_are_due_and_in_that_order() -> None:
    async def body() -> None:
        for threads in (False, True):
            disk = RamDisk(threads=threads)
            disk.content[:BLOCK] = b"x" * BLOCK
            async with serving(disk, 3 * DELAY_NS, DELAY_NS) as server, await log_in(server) as session:
                ended: list[str] = []

                async def read(name: str, ended: list[str] = ended) -> None:
                    assert bytes(await session.read(0, 0, 1)) == b"x" * BLOCK
                    ended.append(name)

                begin = time.monotonic_ns()
                first = asyncio.create_task(read("first"))
                await until(partial(bool, disk.executed))
                await read("second")
                assert time.monotonic_ns() - begin >= DELAY_NS
                await first
                assert time.monotonic_ns() - begin >= 3 * DELAY_NS
                assert ended == ["second", "first"]

    run(body)


def test_a_deferred_task_is_aborted_at_once() -> None:
    async def body() -> None:
        disk = RamDisk()
        async with serving(disk, 3600 * 1_000_000_000) as server, await log_in(server) as session:
            reading = asyncio.create_task(session.read(0, 0, 1))
            await until(lambda: len(disk.executed) == 1)
            (statistics,) = server.statistics().sessions
            assert statistics.outstanding == 1
            response = await session.task_management(TaskFunction.LOGICAL_UNIT_RESET, lun=0)
            assert response == TaskResponse.FUNCTION_COMPLETE
            (statistics,) = server.statistics().sessions
            assert statistics.outstanding == 0
            with pytest.raises(TaskAborted):
                await reading

    run(body)
