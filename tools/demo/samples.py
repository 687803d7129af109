"""What the demo sees while the copy runs: the pools, several times a second, through the arrays' own API."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

#: Asks one array for a table: the rows of ``get pools`` or ``get reservations``.
TableReader = Callable[[], list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Progress:
    """How a copy stood at one look at it, by its array's word; ``at_ns`` since 1970."""

    copy_id: str
    at_ns: int
    in_flight_bytes: int
    acknowledged_bytes: int


@dataclass(frozen=True, slots=True)
class ArrayReaders:
    """How to look at one array; it has one communication interface, hence one pool."""

    pools: TableReader
    reservations: TableReader


@dataclass(frozen=True, slots=True)
class PoolSample:
    """One look at one pool, all in units; ``at_s`` counts from the start of the watch.

    ``reserved_in_use_units`` is the part of ``in_use_units`` that came out of reservations; the tables are read
    one after the other, so it may be a moment younger.
    """

    at_s: float
    array: str
    total_units: int
    free_units: int
    reserved_idle_units: int
    in_use_units: int
    draining_units: int
    reserved_in_use_units: int

    @property
    def conserved(self) -> bool:
        """The law: every unit is in exactly one place."""
        parts = self.free_units + self.reserved_idle_units + self.in_use_units + self.draining_units
        return parts == self.total_units


class PoolWatch:
    """A thread that samples every array's pool until it is stopped; use as a context manager."""

    def __init__(self, readers: Mapping[str, ArrayReaders], interval_s: float = 0.1) -> None:
        self._readers = dict(readers)
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pool-watch", daemon=True)
        self._started_at = 0.0
        self._failure: Exception | None = None
        self.started_ns = 0  # nanoseconds since 1970, to lay a packet capture beside the samples
        self.samples: list[PoolSample] = []

    def __enter__(self) -> PoolWatch:
        self._started_at = time.monotonic()
        self.started_ns = time.time_ns()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def conservation_ok(self) -> bool:
        """True when there are samples, no reader failed, and the law held in each of them."""
        return (
            self._failure is None and bool(self.samples) and all(sample.conserved for sample in self.samples)
        )

    def of(self, array: str) -> list[PoolSample]:
        """The samples of one array, in order."""
        return [sample for sample in self.samples if sample.array == array]

    def _run(self) -> None:
        try:
            while True:
                self.look()
                if self._stop.wait(self._interval_s):
                    return
        except Exception as error:  # noqa: BLE001 - kept for the verdict: a blind watch proves nothing
            self._failure = error

    def look(self) -> None:
        """Take one sample of every pool now."""
        for array, read in self._readers.items():
            (pool,) = read.pools()
            reserved = sum(row["in_use_units"] for row in read.reservations())
            self.samples.append(
                PoolSample(
                    at_s=time.monotonic() - self._started_at,
                    array=array,
                    total_units=pool["total_units"],
                    free_units=pool["free_units"],
                    reserved_idle_units=pool["reserved_idle_units"],
                    in_use_units=pool["in_use_units"],
                    draining_units=pool["draining_units"],
                    reserved_in_use_units=reserved,
                )
            )
