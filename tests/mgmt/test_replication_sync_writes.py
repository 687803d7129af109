"""What a host's thread and the data loop do with a synchronous write; the links are a stand-in that fails at will."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import pytest

from iscsi_target.executor import Buffer
from mgmt.array.replication.lanes import Suspended
from mgmt.array.replication.link_set import LinkSet
from mgmt.array.replication.sync_writes import SyncWrites
from mgmt.array.replication.transport import LinkLost

ANSWER_S = 60.0


class StandIn:
    def __init__(self, work: Callable[[], Awaitable[None]] | None = None) -> None:
        self.sent: list[tuple[object, ...]] = []
        self._work = work

    async def write(self, lun: int, offset: int, data: Sequence[Buffer], *, durable: bool = False) -> None:
        self.sent.append((lun, offset, b"".join(data), durable))
        if self._work is not None:
            await self._work()

    async def zero(self, lun: int, offset: int, length: int) -> None:
        self.sent.append((lun, offset, length))

    async def flush(self, luns: Sequence[int]) -> None:
        self.sent.append(tuple(luns))


def played(
    links: StandIn, host: Callable[[SyncWrites], object], *, timeout_s: float = ANSWER_S, checkpoints: int = 0
) -> tuple[list[str], int]:
    """``host`` runs on a thread of its own; why the group was suspended, and how many checkpoints were asked for."""
    reasons: list[str] = []

    async def run() -> int:
        asked = asyncio.Semaphore(0)
        writes = SyncWrites(
            lambda: cast(LinkSet, links),
            lambda index: index + 7,
            reasons.append,
            asked.release,
            timeout_s=timeout_s,
            checkpoint_s=0.0,
        )
        writes.start()
        await asyncio.to_thread(host, writes)
        for _ in range(checkpoints):
            await asyncio.wait_for(asked.acquire(), ANSWER_S)
        return checkpoints

    return reasons, asyncio.run(run())


def test_a_write_a_zeroing_and_a_flush_have_ended_at_the_other_end_when_they_were_waited_for() -> None:
    links = StandIn()

    def host(writes: SyncWrites) -> None:
        writes.replicate(0, 4096, b"data", 4, durable=True)()
        writes.replicate(1, 0, None, 512, durable=False)()
        writes.flush_remote(0)()

    reasons, _ = played(links, host, checkpoints=1)
    assert links.sent == [(7, 4096, b"data", True), (8, 0, 512), (7,)]
    assert reasons == []


def test_the_host_goes_on_while_its_write_is_on_its_way() -> None:
    gate = threading.Event()

    async def until_the_host_has_written() -> None:
        assert await asyncio.to_thread(gate.wait, ANSWER_S)

    def host(writes: SyncWrites) -> None:
        ended = writes.replicate(0, 0, b"x", 1, durable=False)
        gate.set()  # a write that waited for its answer first would never get here
        ended()

    links = StandIn(until_the_host_has_written)
    assert played(links, host)[0] == []
    assert len(links.sent) == 1


def test_a_write_without_an_answer_suspends_the_group_before_the_host_hears_of_it() -> None:
    async def lose() -> None:
        raise LinkLost("the cable is out")

    async def never() -> None:
        await asyncio.Event().wait()

    def host(writes: SyncWrites) -> None:
        with pytest.raises(Suspended):
            writes.replicate(0, 0, b"x", 1, durable=False)()

    assert played(StandIn(lose), host)[0] == ["the cable is out"]
    assert played(StandIn(never), host, timeout_s=-0.99)[0] == ["no answer within -0.99 s"]


def test_a_defect_reaches_the_thread_that_waits_and_is_no_word_about_the_channel() -> None:
    async def fail() -> None:
        raise KeyError("a defect")

    def host(writes: SyncWrites) -> None:
        with pytest.raises(KeyError):
            writes.replicate(0, 0, b"x", 1, durable=False)()

    assert played(StandIn(fail), host)[0] == []


def test_commands_that_the_end_of_the_loop_cancels_do_not_leave_their_threads_waiting() -> None:
    begun, outcome = threading.Event(), list[str]()

    async def never() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def run() -> None:
        writes = SyncWrites(
            lambda: cast(LinkSet, StandIn(never)),
            lambda index: index,
            outcome.append,
            lambda: None,
            timeout_s=ANSWER_S,
            checkpoint_s=0.0,
        )
        writes.start()
        ended = writes.replicate(0, 0, b"x", 1, durable=False)

        def host() -> None:
            with pytest.raises(Suspended):
                ended()
            outcome.append("let go")

        thread.append(threading.Thread(target=host))
        thread[0].start()
        assert await asyncio.to_thread(begun.wait, ANSWER_S)

    thread: list[threading.Thread] = []
    asyncio.run(run())
    thread[0].join(ANSWER_S)
    assert outcome == ["the array ends", "let go"]
