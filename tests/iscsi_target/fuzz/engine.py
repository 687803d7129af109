"""A small coverage-guided fuzzer: inputs that take new edges join the population and are changed again.

Everything an input can do wrong ends in :class:`Finding`: an exception that is not declared, a broken check, too much
processor time, bytes that stay behind, a warning from a destructor.
"""

from __future__ import annotations

import gc
import random
import signal
import sys
import time
import traceback
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import iscsi_target
from tests.iscsi_target.fuzz.coverage import EdgeCoverage

PACKAGE = Path(iscsi_target.__file__).resolve().parent
CORPUS = Path(__file__).resolve().parents[2] / "vectors" / "fuzz_corpus"
HANG_S = 10.0
"""Processor time after which an input counts as a hang; the worst legal ones take some hundredths of a second."""
POPULATION_LIMIT = 3000
GROWTH_LIMIT_BYTES = 64 * 1024
"""What a whole corpus run again may leave behind: caches of fixed size, nothing else."""


class FuzzTarget(Protocol):
    """One thing to fuzz. `run` raises for whatever is wrong."""

    name: str
    size_limit_bytes: int
    peak_limit_bytes: int
    """Memory one input may take at one time."""

    def seeds(self) -> list[bytes]:
        """Inputs to begin with."""
        ...

    def mutate(self, rng: random.Random, data: bytes, other: bytes) -> bytes:
        """A changed input."""
        ...

    def pieces(self, data: bytes) -> list[bytes]:
        """What minimising may leave out; joined they are `data`."""
        ...

    def run(self, data: bytes) -> None:
        """Execute one input."""
        ...


class Hang(Exception):
    """An input took too long."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An input that broke something."""

    target: str
    data: bytes
    trace: str

    def __str__(self) -> str:
        return (
            f"{self.trace}\nreplay: {sys.executable} -m tests.iscsi_target.fuzz replay {self.target} {self.data.hex()}"
            f"\nkeep:   add that hexadecimal line to tests/vectors/fuzz_corpus/{self.target}.hex"
        )


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did."""

    target: str
    seed: int
    inputs: int
    inputs_per_s: int
    population: int
    edges: int
    worst_input_ms: int
    """Processor time of the slowest input, traced."""
    growth_bytes: int
    """What running the corpus again left behind."""
    peak_bytes: int
    """The most memory one input took."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@contextmanager
def processor_time_limit(seconds: float) -> Iterator[None]:
    """Raise Hang after so much processor time; only the main thread can be stopped this way."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang(f"more than {seconds:g} s of processor time for one input")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def failure_of(target: FuzzTarget, data: bytes, *, hang_s: float = HANG_S) -> tuple[str, str] | None:
    """(what is the same when the input is made smaller, traceback) of a failing input; None: it is survived."""
    try:
        with processor_time_limit(hang_s):
            target.run(data)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what was looked for
        frames = [
            frame for frame in traceback.extract_tb(error.__traceback__) if "contextlib" not in frame.filename
        ]
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        key = type(error).__name__ if isinstance(error, Hang) else f"{type(error).__name__} at {place}"
        return key, "".join(traceback.format_exception(error))
    return None


def minimised(target: FuzzTarget, data: bytes, *, tries: int = 3000, hang_s: float = HANG_S) -> bytes:
    """The smallest input found that fails in the same way."""
    wanted = failure_of(target, data, hang_s=hang_s)
    assert wanted is not None

    def shrink(pieces: list[bytes]) -> list[bytes]:
        nonlocal tries
        size = max(len(pieces) // 2, 1)
        while size and tries > 0:
            start = 0
            while start < len(pieces) and tries > 0:
                tries -= 1
                fewer = pieces[:start] + pieces[start + size :]
                failure = failure_of(target, b"".join(fewer), hang_s=hang_s)
                if failure is not None and failure[0] == wanted[0]:
                    pieces = fewer
                else:
                    start += size
            size //= 2
        return pieces

    smaller = b"".join(shrink(target.pieces(data)))
    return b"".join(shrink([smaller[at : at + 1] for at in range(len(smaller))]))


def read_corpus(name: str) -> list[bytes]:
    """The stored inputs: one line of hexadecimal each, '#' begins a comment."""
    path = CORPUS / f"{name}.hex"
    if not path.exists():
        return []
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [bytes.fromhex(line) for line in lines if line]


def keep(
    target: FuzzTarget, inputs: Sequence[bytes], *, limit: int = 150, limit_bytes: int = 24 * 1024
) -> list[bytes]:
    """Replace the stored inputs by the few that cover what `inputs` and they cover; found failures (the commented
    lines) stay."""
    path = CORPUS / f"{target.name}.hex"
    failures = []
    if path.exists():
        failures = [
            line for line in path.read_text().splitlines() if "#" in line and not line.startswith("#")
        ]
    found = {bytes.fromhex(line.partition("#")[0]) for line in failures}
    known = [data for data in read_corpus(target.name) if data not in found]
    kept = smallest_cover(target, [*inputs, *known], limit=limit, limit_bytes=limit_bytes)
    lines = [
        f"# {target.name}: one input a line; with a comment: a failure that was found, and is to stay repaired.",
        *failures,
        *(data.hex() for data in sorted(kept, key=lambda data: (len(data), data))),
    ]
    CORPUS.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return kept


def smallest_cover(
    target: FuzzTarget, inputs: Sequence[bytes], *, limit: int, limit_bytes: int
) -> list[bytes]:
    """Few and small inputs that take (nearly) all edges that all of them take and the seeds do not."""
    taken: list[tuple[bytes, set[int]]] = []
    coverage = EdgeCoverage(PACKAGE)
    covered: set[int] = set()
    seeds = target.seeds()
    for data in [*seeds, *sorted(set(inputs) - set(seeds), key=len)]:
        coverage.begin_again()
        with coverage:
            target.run(data)
        if data in seeds:
            covered |= coverage.edges
        else:
            taken.append((data, coverage.edges))
    kept: list[bytes] = []
    room = limit_bytes
    while taken and len(kept) < limit:
        data, edges = max(taken, key=lambda one: (len(one[1] - covered) / (len(one[0]) + 32), one[0]))
        if not edges - covered:
            break
        taken.remove((data, edges))
        if len(data) > room:
            continue
        room -= len(data)
        covered |= edges
        kept.append(data)
    return kept


def memory_left(target: FuzzTarget, inputs: Sequence[bytes]) -> tuple[int, int]:
    """(bytes that running the inputs a second time leaves behind, the most one of them takes)."""
    peak = 0
    tracemalloc.start()
    try:
        for again in range(2):
            for data in inputs:
                if again:
                    now = tracemalloc.get_traced_memory()[0]
                    tracemalloc.reset_peak()
                target.run(data)
                if again:
                    peak = max(peak, tracemalloc.get_traced_memory()[1] - now)
            gc.collect()
            if not again:
                before = tracemalloc.get_traced_memory()[0]
        return tracemalloc.get_traced_memory()[0] - before, peak
    finally:
        tracemalloc.stop()


class Fuzzer:
    """One run. `population` may be looked at after it."""

    def __init__(self, target: FuzzTarget, *, seed: int, hang_s: float = HANG_S) -> None:
        self.target = target
        self.seed = seed
        self.hang_s = hang_s
        self.coverage = EdgeCoverage(PACKAGE)
        self.population: list[bytes] = []
        self.inputs = 0
        self.worst_s = 0.0

    def run(self, seconds: float, inputs: int | None = None) -> Report | Finding:
        """Fuzz for so long, or for so many inputs beyond the seeds, whichever comes first.

        The inputs follow from the seed alone, given one PYTHONHASHSEED: a slow machine only gets less far.
        """
        rng, target = random.Random(self.seed), self.target
        begin = time.monotonic()
        for data in [*target.seeds(), *read_corpus(target.name)]:
            finding = self._one(data)
            if finding is not None:
                return finding
        end = None if inputs is None else self.inputs + inputs
        while self.inputs != end and time.monotonic() < begin + seconds:
            population = self.population
            # The newest third gets half of the turns: what is new is where the next edges are.
            start = rng.choice((0, len(population) * 2 // 3))
            data = population[rng.randrange(start, len(population))]
            changed = target.mutate(rng, data, rng.choice(population))[: target.size_limit_bytes]
            finding = self._one(changed)
            if finding is not None:
                return finding
        elapsed = time.monotonic() - begin
        growth, peak = memory_left(target, self.population[-300:])
        report = Report(
            target=target.name,
            seed=self.seed,
            inputs=self.inputs,
            inputs_per_s=round(self.inputs / elapsed),
            population=len(self.population),
            edges=len(self.coverage.edges),
            worst_input_ms=round(self.worst_s * 1000),
            growth_bytes=growth,
            peak_bytes=peak,
        )
        if growth > GROWTH_LIMIT_BYTES or peak > target.peak_limit_bytes:
            return Finding(target.name, b"", f"memory: {report}")
        return report

    def _one(self, data: bytes) -> Finding | None:
        self.inputs += 1
        before, began = len(self.coverage.edges), time.process_time()
        try:
            with self.coverage, processor_time_limit(self.hang_s):
                self.target.run(data)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what was looked for
            first = "".join(traceback.format_exception(error))
        else:
            first = ""
        if first:
            if failure_of(self.target, data, hang_s=self.hang_s) is None:
                return Finding(self.target.name, data, "only once: " + first)
            small = minimised(self.target, data, hang_s=self.hang_s)
            again = failure_of(self.target, small, hang_s=self.hang_s)
            return Finding(self.target.name, small, again[1] if again else "only once")
        self.worst_s = max(self.worst_s, time.process_time() - began)
        if len(self.coverage.edges) > before or not self.population:
            self.population.append(data)
            if len(self.population) > POPULATION_LIMIT:
                del self.population[0]
        return None
