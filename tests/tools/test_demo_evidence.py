"""The demo's samples and plots: the law is judged in every sample, and a blind watch proves nothing."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tools.capture.inflight import InFlightReport
from tools.demo.figure5 import Outcome
from tools.demo.report import Run, write_plots
from tools.demo.samples import ArrayReaders, PoolSample, PoolWatch
from tools.demo.settings import Settings
from tools.demo.verdict import Verdict

MIB = 1 << 20


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


def outcome(copied_bytes: int, seconds: float, in_flight_bytes: int = 0) -> Outcome:
    report = InFlightReport(
        flows=(),
        max_in_flight_bytes=in_flight_bytes,
        max_in_flight_ns=None,
        acknowledged_bytes=copied_bytes,
        first_data_ns=0,
        last_acknowledgement_ns=None,
        goodput_bps=None,
        series=tuple((number, in_flight_bytes) for number in range(10)),
        acknowledged_series=(),
    )
    return Outcome(
        copy_id="c1",
        storm_left_free_units=0,
        connections=6,
        refusal="",
        status={
            "state": "done",
            "acknowledged_bytes": copied_bytes,
            "goodput_bps": int(copied_bytes * 8 / seconds),
        },
        seconds=seconds,
        flight=report,
        capture={"packets": 10, "dropped": 0},
        pool=(),
        pool_started_ns=0,
        conservation_ok=True,
        tables={},
    )


def judged(copied_bytes: int, seconds: float, in_flight_bytes: int = 0) -> tuple[bool | None, str]:
    """Whether a copy that took so long over 100 Mbit/s and 20 ms got its share of the channel, and the figures."""
    verdict = Verdict(
        settings=Settings(bandwidth_bps=100_000_000, rtt_ns=20_000_000, sessions=2, connections=3),
        channel={"kind": "netem", "note": "", "bandwidth_bps": 100_000_000, "rtt_ns": 20_000_000},
        recommendation={"bytes": 1_500_000},
        reservation={"reserved_bytes": 1_507_328, "reserved_units": 92},
        baseline=outcome(0, 8.0),
        reserved=outcome(copied_bytes, seconds, in_flight_bytes),
        sha256_match=True,
    )
    (claim,) = [claim for claim in verdict.claims() if "of the channel" in claim.name]
    return claim.holds, claim.figures


def test_a_copy_that_is_mostly_slow_start_is_not_judged_however_long_a_busy_machine_took_for_it() -> None:
    assert judged(8 * MIB, 0.9)[0] is judged(8 * MIB, 9.0)[0] is None


def test_a_copy_that_is_long_enough_is_judged_by_its_share_of_the_channel() -> None:
    assert judged(64 * MIB, 5.8)[0] is True
    assert judged(64 * MIB, 9.0)[0] is False


def test_a_slow_copy_that_had_a_pipe_full_in_flight_did_not_wait_for_buffers() -> None:
    holds, figures = judged(64 * MIB, 9.0, in_flight_bytes=1_500_000)
    assert holds is False and "waited for this machine" in figures
    assert "waited for this machine" not in judged(64 * MIB, 9.0, in_flight_bytes=100_000)[1]
    assert "waited for this machine" not in judged(64 * MIB, 5.8, in_flight_bytes=1_500_000)[1]
