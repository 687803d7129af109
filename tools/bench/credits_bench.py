"""Speed of the reservation core, as ratios within one run: ``python -m tools.bench.credits_bench [-o json]``.

Everything goes through the public API with the lock, the law and the journal on. Times are medians of rounds that
take turns, so that a busy machine disturbs all sides of a ratio alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

from credits import DurablePool, PoolConfig, Target, UnitKind, port_pair
from tools.bench.measured import Measured, write

CALLS = 20_000
ROUNDS = 9
THREADS = 16
UNIT_BYTES = 2048


class Subject:
    """A durable pool with ``reservations`` reservations, and the claim its allocations are made with."""

    def __init__(self, directory: Path, total_units: int, reservations: int) -> None:
        name = f"bench-{total_units}-{reservations}"
        config = PoolConfig(name=name, kind=UnitKind.TCP, unit_bytes=UNIT_BYTES, total_units=total_units)
        self.pool = DurablePool.open(directory / f"{name}.sqlite", config)
        self.claims = (self._reserve(0, 300),)
        # Beyond the first, reservations only have to be there; a few threads share the syncs.
        numbers = iter(range(1, reservations))
        guard = threading.Lock()

        def work() -> None:
            while True:
                with guard:
                    number = next(numbers, None)
                if number is None:
                    return
                self._reserve(number, 1)

        _in_threads(work, 64 if reservations > 100 else 1)

    def _reserve(self, number: int, units: int) -> Target:
        target = port_pair(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", "192.0.2.1")
        self.pool.reserve(target, units * UNIT_BYTES, request_id=f"bench {number}", now_ns=0)
        return target

    def seconds_per_pair(self, claims: Sequence[Target], units: int) -> float:
        """Mean time of one allocate and one free."""
        allocate, free = self.pool.allocate, self.pool.free
        start = time.perf_counter()
        for _ in range(CALLS):
            free(allocate(claims, units, holder="bench"))
        return (time.perf_counter() - start) / CALLS


def _in_threads(work: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measure_data_path(directory: Path, many: int) -> list[Measured]:
    """The cost of allocate and free against the size of the pool, the run, and the number of reservations."""
    small = Subject(directory, 1_000, 10)
    large = Subject(directory, 1_000_000, 10)
    crowded = Subject(directory, 1_000_000, many)
    cases: dict[str, Callable[[], float]] = {
        "small": lambda: small.seconds_per_pair(small.claims, 1),
        "large": lambda: large.seconds_per_pair(large.claims, 1),
        "crowded": lambda: crowded.seconds_per_pair(crowded.claims, 1),
        "run": lambda: large.seconds_per_pair(large.claims, 128),
        "free": lambda: large.seconds_per_pair((), 1),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, case in cases.items():
            times[name].append(case())
    for subject in (small, large, crowded):
        subject.pool.close()
    median = {name: statistics.median(values) for name, values in times.items()}
    best = {name: 1 / min(values) for name, values in times.items()}

    def ratio(name: str, value: float, most: float) -> Measured:
        return Measured(name=name, value=value, unit="x", bar=f"<= {most}", met=value <= most)

    rate = 1 / median["large"]
    return [
        Measured(name="pairs, reserved", value=rate, unit="/s", bar=">= 300000", met=rate >= 300_000),
        Measured(name="pairs, free list", value=1 / median["free"], unit="/s", bar="", met=True),
        Measured(name="pairs, best round", value=best["large"], unit="/s", bar="", met=True),
        ratio("10^6 units / 10^3 units", median["large"] / median["small"], 1.5),
        ratio(f"{many} reservations / 10", median["crowded"] / median["large"], 1.5),
        ratio("128 units / 1 unit", median["run"] / median["large"], 2),
    ]


def measure_memory() -> list[Measured]:
    """Bookkeeping of a million units, whole and cut into as many runs as there can be."""
    config = PoolConfig(name="memory", kind=UnitKind.TCP, unit_bytes=UNIT_BYTES, total_units=1_000_000)
    tracemalloc.start()
    pool = DurablePool.open(None, config)
    whole, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    kept = [pool.allocate((), 1, holder="bench") for _ in range(1_000_000)]
    tracemalloc.start()
    for allocation in kept[::2]:
        pool.free(allocation)
    torn, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    pool.close()
    total = (whole + max(0, torn)) / 2**20
    return [Measured(name="10^6 units", value=total, unit="MiB", bar="<= 64", met=total <= 64)]


def measure_durable(directory: Path, seconds: float) -> list[Measured]:
    """Durable reservations per second from 16 threads, against the disk's own sync rate in the same directory."""
    syncs = _sync_rate(directory, seconds)
    config = PoolConfig(name="durable", kind=UnitKind.TCP, unit_bytes=UNIT_BYTES, total_units=1_000_000)
    done = [0] * THREADS
    with DurablePool.open(directory / "durable.sqlite", config) as pool:
        stop = time.perf_counter() + seconds
        numbers = iter(range(THREADS))

        def work() -> None:
            thread = next(numbers)
            target = port_pair(f"10.0.0.{thread}", "192.0.2.1")
            while time.perf_counter() < stop:
                done[thread] += 1
                request_id = f"{thread}.{done[thread]}"
                pool.reserve(target, (done[thread] % 50 + 1) * UNIT_BYTES, request_id=request_id, now_ns=0)

        _in_threads(work, THREADS)
    rate = sum(done) / seconds
    least = min(1_000, THREADS * syncs / 2)
    return [
        Measured(name="disk's fsync", value=syncs, unit="/s", bar="", met=True),
        Measured(
            name="durable reservations", value=rate, unit="/s", bar=f">= {least:.0f}", met=rate >= least
        ),
    ]


def _sync_rate(directory: Path, seconds: float) -> float:
    descriptor = os.open(directory / "sync", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        count, stop = 0, time.perf_counter() + seconds / 2
        while time.perf_counter() < stop:
            os.write(descriptor, bytes(4096))
            os.fsync(descriptor)
            count += 1
    finally:
        os.close(descriptor)
    return count / (seconds / 2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; exit code 1 when a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.credits_bench", description=__doc__)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.add_argument("--reservations", type=int, default=100_000, help="of the crowded pool")
    parser.add_argument("--seconds", type=float, default=3.0, help="for the durable part")
    parser.add_argument(
        "--directory", type=Path, help="on the disk to measure; the system's temporary one if not said"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="credits-bench-", dir=options.directory) as name:
        directory = Path(name)
        results = [
            *measure_data_path(directory, options.reservations),
            *measure_memory(),
            *measure_durable(directory, options.seconds),
        ]
    return write(results, options.output, decimals=2)


if __name__ == "__main__":
    sys.exit(main())
