"""Playing a plan to a live target, through our initiator: own login, own sequence numbers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from iscsi_target.errors import CommandFailed, ConnectionLost, TaskAborted
from iscsi_target.initiator import Initiator
from tools.capture.replay.cdbs import Effect
from tools.capture.replay.collect import Trace
from tools.capture.replay.pace import Pacer
from tools.capture.replay.plan import Extent, Plan, Step

_MOST_AHEAD = 4096
_PLACE_BLOCKS = 2048
"""Blocks that count as one place when dependencies are looked for."""
_PLACES = 4096
"""Of one command, which is more than any that moves data has."""
_CHUNK_BYTES = 256 * 1024
_AT_ONCE = 8
_DATA_IN_LIMIT_BYTES = 64 << 20


class ReplayFailed(Exception):
    """The replay cannot go on; one line."""


@dataclass(slots=True)
class Outcome:
    """What became of a step; times in nanoseconds after the first start. ``status`` None: no answer, ``error`` says
    why. ``matches``: whether the data read are those of the capture; None: not compared."""

    step: Step
    start_ns: int = 0
    end_ns: int = 0
    status: int | None = None
    error: str = ""
    matches: bool | None = None

    @property
    def late_ns(self) -> int:
        """How long after its time it started."""
        return self.start_ns - self.step.due_ns


class Order:
    """Which steps may start: those for which all have ended that had ended before them in the capture."""

    def __init__(self, ended: Sequence[int]) -> None:
        self._rank = {number: rank for rank, number in enumerate(ended)}
        self._done = bytearray(len(ended))
        self._prefix = 0
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}

    def step_ended(self, number: int) -> None:
        """The step of this number has its status, or never will."""
        rank = self._rank.get(number)
        if rank is None:
            return
        self._done[rank] = 1
        while self._prefix < len(self._done) and self._done[self._prefix]:
            self._prefix += 1
            for future in self._waiting.pop(self._prefix, ()):
                if not future.done():
                    future.set_result(None)

    async def wait(self, after: int) -> None:
        """Until the first ``after`` of them have ended."""
        if self._prefix >= after:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(after, []).append(future)
        await future


def depends(step: Step, other: Step) -> bool:
    """Whether ``other`` had ended in the capture before ``step`` began, and one of them wrote blocks of both: only then
    does a step that has its own time wait. Waiting for all would add every delay of the target to what follows."""
    return (
        step.lun == other.lun
        and Effect.WRITE in (step.effect, other.effect)
        and step.lba < other.lba + other.blocks
        and other.lba < step.lba + step.blocks
        and 0 < other.command.end_ns <= step.command.start_ns
    )


class UnderWay:
    """The steps under way, by the blocks that they are about: which of them a step :func:`depends` on is found without
    looking at the others."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, int], dict[int, Step]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def begin(self, number: int, step: Step, task: asyncio.Task[None]) -> None:
        """The step of this number is under way."""
        self._tasks[number] = task
        for place in _places(step):
            self._places.setdefault(place, {})[number] = step

    def end(self, number: int, step: Step) -> None:
        """It is no more; one that never began may be told."""
        self._tasks.pop(number, None)
        for place in _places(step):
            here = self._places.get(place, {})
            here.pop(number, None)
            if not here:
                self._places.pop(place, None)

    def before(self, step: Step) -> list[asyncio.Task[None]]:
        """What a step has to wait for."""
        found = {
            number
            for place in _places(step)
            for number, other in self._places.get(place, {}).items()
            if depends(step, other)
        }
        return [self._tasks[number] for number in found]


def _places(step: Step) -> Iterator[tuple[int, int]]:
    first = step.lba // _PLACE_BLOCKS
    last = (step.lba + max(step.blocks, 1) - 1) // _PLACE_BLOCKS
    return ((step.lun, n) for n in range(first, min(last, first + _PLACES) + 1))


async def play(
    plan: Plan,
    trace: Trace,
    sessions: Mapping[int, Initiator],
    *,
    paced: bool,
    queue_depth: int | None,
    verify: bool,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Outcome]:
    """Play every step; ``sessions`` by nexus. ``paced``: at its time, whatever is under way, but after what it
    :func:`depends` on; else in the :class:`Order`. Raises :class:`ReplayFailed`.

    A command that fails is an outcome; a session that is lost ends the replay.
    """
    order = Order(plan.ended)
    depth = asyncio.Semaphore(queue_depth or _MOST_AHEAD)
    outcomes = [Outcome(step) for step in plan.steps]
    origin_ns = time.monotonic_ns()
    failure: list[str] = []
    ended = 0

    async def run(
        number: int, outcome: Outcome, data_out: bytes, before: Sequence[asyncio.Task[None]]
    ) -> None:
        nonlocal ended
        try:
            if before:
                await asyncio.wait(before)
            data_in = await _run_one(outcome, sessions[outcome.step.command.nexus], data_out, origin_ns)
            if verify:
                outcome.matches = _compare(outcome, data_in, trace)
        except ConnectionLost as lost:
            outcome.error = str(lost)
            failure.append(outcome.error)
        finally:
            depth.release()
            order.step_ended(number)
            under_way.end(number, outcome.step)
            ended += 1
            progress(ended)

    under_way = UnderWay()
    async with AsyncExitStack() as stack:
        pacer = stack.enter_context(Pacer()) if paced else None
        running = await stack.enter_async_context(asyncio.TaskGroup())
        for number, outcome in enumerate(outcomes):
            step = outcome.step
            data_out = trace.read(step.command.data_out) if step.command.data_out is not None else b""
            if pacer is None:
                await order.wait(step.after)
            await depth.acquire()
            if pacer is not None:
                await pacer.until(origin_ns + step.due_ns)
            if failure:
                break
            if step.effect is not Effect.WRITE:
                data_out = b""
            # What one step has to wait for keeps nobody else from being on time.
            before = under_way.before(step) if pacer is not None else ()
            under_way.begin(number, step, running.create_task(run(number, outcome, data_out, before)))
    if failure:
        raise ReplayFailed(f"the session was lost after {ended} commands: {failure[0]}")
    return outcomes


async def _run_one(outcome: Outcome, session: Initiator, data_out: bytes, origin_ns: int) -> memoryview:
    """One command; returns what it read. Raises ConnectionLost."""
    step = outcome.step
    command = step.command
    length = min(command.edtl, _DATA_IN_LIMIT_BYTES) if command.reads else 0
    outcome.start_ns = time.monotonic_ns() - origin_ns
    try:
        answer = await session.execute(
            step.lun,
            step.cdb,
            data_out=data_out,
            data_in_length=length,
            check=False,
            attr=command.attr,
        )
        outcome.status = answer.status
        return answer.data_in
    except (TaskAborted, CommandFailed, TimeoutError) as error:
        outcome.error = str(error) or "no answer in time"
        return memoryview(b"")
    finally:
        outcome.end_ns = time.monotonic_ns() - origin_ns


def _compare(outcome: Outcome, data_in: memoryview, trace: Trace) -> bool | None:
    """Whether a READ found what it found in the capture, where that holds it."""
    command = outcome.step.command
    step = outcome.step
    if step.effect is not Effect.READ or not step.certain or command.data_in is None or outcome.status:
        return None
    return data_in[: command.data_in.length] == trace.read(command.data_in)


async def find_data(session: Initiator, extents: Sequence[Extent], block_bytes: int) -> Extent | None:
    """The first of the ranges that holds anything but zeros; None where all are empty."""
    zeros = bytes(_CHUNK_BYTES)
    pieces = [(extent.lun, lba, blocks) for extent in extents for lba, blocks in _chunks(extent, block_bytes)]
    for start in range(0, len(pieces), _AT_ONCE):
        some = pieces[start : start + _AT_ONCE]
        for piece, data in zip(
            some,
            await asyncio.gather(*(session.read(*piece, block_bytes=block_bytes) for piece in some)),
            strict=True,
        ):
            if data != zeros[: len(data)]:
                return Extent(*piece)
    return None


async def fill(session: Initiator, extents: Sequence[Extent], trace: Trace, block_bytes: int) -> None:
    """Write what the capture's reads found, before anything is played."""

    async def write(extent: Extent, lba: int, blocks: int) -> None:
        async with limit:
            assert extent.data is not None
            trace.data.seek(extent.data.offset + (lba - extent.lba) * block_bytes)
            data = trace.data.read(blocks * block_bytes)
            await session.write(extent.lun, lba, data, block_bytes=block_bytes)

    limit = asyncio.Semaphore(_AT_ONCE)
    pieces = [(extent, lba, blocks) for extent in extents for lba, blocks in _chunks(extent, block_bytes)]
    for start in range(0, len(pieces), _MOST_AHEAD):
        async with asyncio.TaskGroup() as writers:
            for piece in pieces[start : start + _MOST_AHEAD]:
                writers.create_task(write(*piece))


def _chunks(extent: Extent, block_bytes: int) -> list[tuple[int, int]]:
    most = max(1, _CHUNK_BYTES // block_bytes)
    end = extent.lba + extent.blocks
    return [(lba, min(most, end - lba)) for lba in range(extent.lba, end, most)]
