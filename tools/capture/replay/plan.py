"""What is played, where and when (pure): selection, addresses, dependencies, and what the medium has to hold before."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tools.capture.replay.cdbs import Effect, moved, reach_of
from tools.capture.replay.collect import CapturedCommand, Piece

UNIT_ATTENTION = 6
_EVERYWHERE = 1 << 64
_MOST_UNDER_WAY = 4096


class PlanError(ValueError):
    """The capture cannot be played as it was asked for; one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    """``luns``: captured LUN to the LUN to play to; empty: the same number. ``speed``: 2 is twice as fast; None: as
    fast as dependencies and ``queue_depth`` let it. ``limit``: of the commands, the first so many."""

    write: bool = False
    luns: Mapping[str, int] = field(default_factory=dict)
    lba_offset: int = 0
    speed: float | None = 1.0
    queue_depth: int | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.speed is not None and not self.speed > 0:
            raise PlanError(f"a speed of {self.speed:g} is not above 0")
        if self.queue_depth is not None and self.queue_depth < 1:
            raise PlanError("at least one command is under way at a time")
        if self.lba_offset < 0:
            raise PlanError("blocks are numbered from 0")


@dataclass(frozen=True, slots=True)
class Step:
    """One command to play. ``due_ns``: after the first of all; ``after``: so many of the steps that ended first in the
    capture, in the order in which they ended, have to have ended before. ``certain``: a READ that finds what it found
    in the capture, as nothing that the capture did to these blocks was under way with it, or is left out."""

    command: CapturedCommand
    lun: int
    cdb: bytes
    due_ns: int
    after: int
    effect: Effect
    lba: int
    blocks: int
    certain: bool = True


@dataclass(frozen=True, slots=True)
class Extent:
    """Blocks of a LUN, and where in the trace the bytes are that they have to hold before anything is played."""

    lun: int
    lba: int
    blocks: int
    data: Piece | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in the order in which they start; ``ended`` are the numbers of the steps in the order in which they ended.

    ``fill`` is what commands of the capture read before any wrote it, ``written`` what will be written. ``skipped``
    counts, by reason, what is not played. ``blocks_needed``: the first block that is not needed, by LUN.
    """

    steps: tuple[Step, ...]
    ended: tuple[int, ...]
    fill: tuple[Extent, ...]
    written: tuple[Extent, ...]
    skipped: Mapping[str, int]
    blocks_needed: Mapping[int, int]


class Blocks:
    """A set of ranges of blocks; neighbours are joined."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> list[tuple[int, int]]:
        """Put ``start`` up to ``end`` in; returns the ranges that were not in before."""
        if end <= start:
            return []
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        gaps, at = [], start
        for low, high in zip(self._starts[first:last], self._ends[first:last], strict=True):
            if low > at:
                gaps.append((at, low))
            at = max(at, high)
        if at < end:
            gaps.append((at, end))
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        return gaps

    def meets(self, start: int, end: int) -> bool:
        """Whether any of ``start`` up to ``end`` is in."""
        at = bisect_right(self._ends, start)
        return start < end and at < len(self._starts) and self._starts[at] < end

    def ranges(self) -> list[tuple[int, int]]:
        """All of it, in order."""
        return list(zip(self._starts, self._ends, strict=True))


@dataclass(slots=True)
class Sureness:
    """Whether a read tells what a replay will read."""

    sure: bool = False
    writes: bool = False


class Races:
    """Which reads of a capture tell what a replay will read: not those that met a write under way, or blocks where
    writes had met each other, or what was done is not played."""

    def __init__(self) -> None:
        self._under_way: deque[tuple[int, str, Effect, int, int, Sureness]] = deque()
        self._unsure: dict[str, Blocks] = {}

    def observe(self, command: CapturedCommand, *, played: bool) -> Sureness:
        """The next command, in the order of their starts; a later one may still meet it."""
        sureness = Sureness()
        if command.sense_key == UNIT_ATTENTION:
            return sureness  # it has done nothing
        reach = reach_of(command.cdb)
        self._under_way = deque(one for one in self._under_way if one[0] > command.start_ns)
        start, end = reach.lba, reach.lba + reach.blocks
        unsure = self._unsure.setdefault(command.lun, Blocks())
        if reach.effect is Effect.OTHER:
            unsure.add(0, _EVERYWHERE)
            return sureness
        if reach.effect is Effect.NONE:
            return sureness
        met = [
            (other, low, high)
            for _, lun, effect, low, high, other in self._under_way
            if lun == command.lun
            and (effect is Effect.WRITE or reach.effect is Effect.WRITE)
            and low < end
            and high > start
        ]
        if reach.effect is Effect.WRITE:
            if not played:
                unsure.add(start, end)
            for other, low, high in met:
                other.sure = False
                if other.writes:
                    unsure.add(max(low, start), min(high, end))
        sureness.writes = reach.effect is Effect.WRITE
        sureness.sure = not met and not unsure.meets(start, end)
        ends_ns = command.end_ns or 1 << 62
        self._under_way.append((ends_ns, command.lun, reach.effect, start, end, sureness))
        while len(self._under_way) > _MOST_UNDER_WAY:
            self._under_way.popleft()
        return sureness


def make_plan(commands: Sequence[CapturedCommand], config: PlanConfig, block_bytes: int = 512) -> Plan:
    """What is played of ``commands``, which are in the order in which they started.

    ``block_bytes`` is the length of a block, of the capture and of the target. Raises :class:`PlanError` when nothing
    is left to play.
    """
    skipped: Counter[str] = Counter()
    chosen: list[tuple[CapturedCommand, int, bytes, Effect, int, int]] = []
    races = Races()
    certain: list[Sureness] = []
    for command in commands:
        if config.limit is not None and len(chosen) == config.limit:
            skipped["after the limit"] += 1
            continue
        reason, found = _choose(command, config)
        sure = races.observe(command, played=found is not None)
        if found is None:
            skipped[reason] += 1
        else:
            chosen.append(found)
            certain.append(sure)
    if not chosen:
        why = "; ".join(f"{count} {reason}" for reason, count in skipped.items()) or "it has no commands"
        raise PlanError(f"nothing of the capture can be played: {why}")
    ended = sorted(
        (number for number, (command, *_) in enumerate(chosen) if command.end_ns),
        key=lambda number: chosen[number][0].end_ns,
    )
    end_times = [chosen[number][0].end_ns for number in ended]
    first_ns = chosen[0][0].start_ns
    speed = config.speed or 1.0
    steps = tuple(
        Step(
            command=command,
            lun=lun,
            cdb=cdb,
            due_ns=round((command.start_ns - first_ns) / speed),
            after=bisect_right(end_times, command.start_ns),
            effect=effect,
            lba=lba,
            blocks=blocks,
            certain=sure.sure,
        )
        for (command, lun, cdb, effect, lba, blocks), sure in zip(chosen, certain, strict=True)
    )
    fill, written, needed = _medium(steps, block_bytes)
    return Plan(steps, tuple(ended), fill, written, dict(skipped), needed)


def _choose(
    command: CapturedCommand, config: PlanConfig
) -> tuple[str, tuple[CapturedCommand, int, bytes, Effect, int, int] | None]:
    reach = reach_of(command.cdb)
    if command.sense_key == UNIT_ATTENTION:
        return "ended with a unit attention, which is news of that session", None
    if reach.effect is Effect.OTHER:
        return "neither read, write nor ask", None
    if reach.effect is Effect.WRITE:
        if not config.write:
            return "write (give --write)", None
        if command.data_out is None:
            return "write without their data in the capture", None
    if config.luns:
        if command.lun not in config.luns:
            return f"to LUN {command.lun}, for which no --lun is given", None
        lun = config.luns[command.lun]
    elif command.lun.isdigit():
        lun = int(command.lun)
    else:
        return f"to LUN {command.lun}, for which --lun is needed", None
    cdb = moved(command.cdb, config.lba_offset)
    if cdb is None:
        return "have no room for the block numbers in their CDB", None
    lba = reach.lba + config.lba_offset if reach.effect in (Effect.READ, Effect.WRITE) else 0
    return "", (command, lun, cdb, reach.effect, lba, reach.blocks)


def _medium(
    steps: Sequence[Step], block_bytes: int
) -> tuple[tuple[Extent, ...], tuple[Extent, ...], dict[int, int]]:
    """What the medium has to hold so that reads find what they found, what is written, and how long it has to be."""
    known: dict[int, Blocks] = {}
    written: dict[int, Blocks] = {}
    needed: dict[int, int] = {}
    fill = []
    for step in steps:
        end = step.lba + step.blocks
        needed[step.lun] = max(needed.get(step.lun, 0), end)
        if step.effect is Effect.WRITE:
            known.setdefault(step.lun, Blocks()).add(step.lba, end)
            written.setdefault(step.lun, Blocks()).add(step.lba, end)
        elif step.effect is Effect.READ:
            data = step.command.data_in
            if (
                not step.certain
                or data is None
                or step.command.status
                or data.length != step.blocks * block_bytes
            ):
                continue
            for low, high in known.setdefault(step.lun, Blocks()).add(step.lba, end):
                piece = Piece(data.offset + (low - step.lba) * block_bytes, (high - low) * block_bytes)
                fill.append(Extent(step.lun, low, high - low, piece))
    wanted = [
        Extent(lun, low, high - low) for lun, blocks in written.items() for low, high in blocks.ranges()
    ]
    return tuple(fill), tuple(wanted), needed
