"""The demo's samples and plots: the law is judged in every sample, and a blind watch proves nothing."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tools.demo.report import Run, write_plots
from tools.demo.samples import ArrayReaders, PoolSample, PoolWatch


def pool_row(free: int, idle: int, in_use: int, draining: int = 0, total: int = 100) -> dict[str, Any]:
    return {
        "total_units": total,
        "free_units": free,
        "reserved_idle_units": idle,
        "in_use_units": in_use,
        "draining_units": draining,
    }


def watch_of(row: dict[str, Any]) -> PoolWatch:
    readers = ArrayReaders(pools=lambda: [row], reservations=lambda: [{"in_use_units": 3}])
    return PoolWatch({"master": readers}, interval_s=0.01)


def looked(watch: PoolWatch, samples: int = 3) -> None:
    """Until so many samples are there; the test's own time-out bounds it."""
    while len(watch.of("master")) < samples:
        time.sleep(0.002)


def test_the_law_holds_when_every_sample_adds_up() -> None:
    with watch_of(pool_row(60, 30, 10)) as watch:
        looked(watch)
    assert watch.conservation_ok
    assert {sample.reserved_in_use_units for sample in watch.of("master")} == {3}


def test_one_lost_unit_breaks_the_law() -> None:
    with watch_of(pool_row(60, 30, 9)) as watch:
        looked(watch)
    assert not watch.conservation_ok


def test_a_watch_that_could_not_look_proves_nothing() -> None:
    asked = threading.Event()

    def fail() -> list[dict[str, Any]]:
        asked.set()
        raise ConnectionRefusedError("array is gone")

    with PoolWatch({"master": ArrayReaders(fail, list)}) as watch:
        assert asked.wait(20)
    assert not watch.conservation_ok


def test_a_watch_without_a_single_sample_proves_nothing() -> None:
    assert not PoolWatch({}).conservation_ok


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_plots_are_written_for_a_refused_and_a_running_copy(tmp_path: Path, ending: str) -> None:
    pool = [PoolSample(number / 10, "master", 100, 50, 30, 20, 0, 10) for number in range(20)]
    flight = [(number / 100, min(number * 1000, 50_000)) for number in range(200)]
    refused = Run("without a reservation", [], [], pool, 0)
    running = Run("with a reservation", flight, flight, pool, 60_000)
    path = tmp_path / f"plots.{ending}"
    write_plots(path, [refused, running], payload_limit_bps=96_000_000)
    assert path.stat().st_size > 10_000
