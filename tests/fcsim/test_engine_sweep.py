"""Sweeps: every scenario once, in order, whatever was done before; and what stands in the files."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fcsim.engine.link import LinkScenario
from fcsim.engine.sweep import Row, run_sweep, saturate, write_rows
from fcsim.errors import InvalidScenario, SchedulerUnreachable
from fcsim.speeds import SPEEDS, throughput_bytes_per_second

HAVE_DASK = importlib.util.find_spec("distributed") is not None


def scenarios(count: int) -> list[LinkScenario]:
    return [LinkScenario(SPEEDS["8G"], 1000 * (n % 50), 1 + n // 50, r_rdy_bytes=0) for n in range(count)]


def who(number: int) -> Row:
    return {"number": number, "process": os.getpid()}


def odd_fails(number: int) -> Row:
    if number % 2:
        raise ArithmeticError(f"{number} is odd")
    return {"number": number}


def test_a_thousand_scenarios_come_back_in_order_and_on_the_formula() -> None:
    asked = scenarios(1000)
    told: list[tuple[int, int]] = []
    rows = run_sweep(saturate, asked, workers=2, progress=lambda done, of: told.append((done, of)))
    assert [(row["distance_m"], row["bb_credit"]) for row in rows] == [
        (s.distance_m, s.bb_credit) for s in asked
    ]
    for scenario, row in zip(asked, rows, strict=True):
        rate = throughput_bytes_per_second(scenario.speed, scenario.bb_credit, scenario.distance_m)
        assert row["payload_bytes_per_second"] == pytest.approx(rate, rel=2e-3)
    assert told == [(done, 1000) for done in range(1001)]


def meet(directory: str) -> Row:
    """Wait until two processes are here."""
    (Path(directory) / str(os.getpid())).touch()
    for _ in range(6000):
        if len(list(Path(directory).iterdir())) == 2:
            break
        time.sleep(0.01)
    return {"process": os.getpid(), "here": len(list(Path(directory).iterdir()))}


def test_the_work_is_shared_among_processes(tmp_path: Path) -> None:
    rows = run_sweep(meet, [str(tmp_path)] * 2, workers=2)
    assert [row["here"] for row in rows] == [2, 2]
    assert os.getpid() not in {row["process"] for row in rows}


def test_a_sweep_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    partial = tmp_path / "partial"

    class Stopped(Exception):
        pass

    def stop(done: int, of: int) -> None:
        if done == 30:
            raise Stopped

    with pytest.raises(Stopped):
        run_sweep(who, range(100), partial=partial, workers=1, progress=stop)
    with partial.open("a") as stream:
        stream.write('[99, {"number"')  # torn by a crash
    begun = {json.loads(line)[0] for line in partial.read_text().splitlines()[1:-1]}
    told: list[int] = []
    rows = run_sweep(who, range(100), partial=partial, workers=1, progress=lambda done, of: told.append(done))
    assert len(begun) == 30
    assert told[0] == 30
    assert [row["number"] for row in rows] == list(range(100))
    assert len({row["process"] for row in rows}) == 2
    again = run_sweep(who, range(100), partial=partial, workers=1)
    assert again == rows


def test_what_fails_is_told_and_what_was_done_is_kept(tmp_path: Path) -> None:
    partial = tmp_path / "partial"
    with pytest.raises(ArithmeticError, match="is odd"):
        run_sweep(odd_fails, [0, 2, 4, 5], partial=partial, workers=1)
    assert len(partial.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"sweep": "of somebody else", "scenarios": 3}\n', "belongs to another sweep"),
        ("no JSON at all\n", "is no partial result"),
        ('{"sweep": "x"}\n[7, {}]\n', "is no partial result"),
    ],
)
def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path, text: str, told: str) -> None:
    partial = tmp_path / "partial"
    partial.write_text(text)
    with pytest.raises(InvalidScenario, match=told):
        run_sweep(who, range(3), partial=partial)
    assert partial.read_text() == text


def test_results_are_written_as_csv(tmp_path: Path) -> None:
    write_rows([{"a": 1, "b": "x"}, {"a": 2, "b": "y, z"}], tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as stream:
        assert list(csv.DictReader(stream)) == [{"a": "1", "b": "x"}, {"a": "2", "b": "y, z"}]
    assert list(tmp_path.iterdir()) == [tmp_path / "rows.csv"]


def test_results_are_written_as_parquet_or_the_fix_is_told(tmp_path: Path) -> None:
    rows: list[Row] = [{"a": 1}, {"a": 2**62}]
    if importlib.util.find_spec("pyarrow") is None:
        with pytest.raises(InvalidScenario, match=r"pip install 'sancredit\[scale\]'"):
            write_rows(rows, tmp_path / "rows.parquet")
    else:
        write_rows(rows, tmp_path / "rows.parquet")
        parquet = pytest.importorskip("pyarrow.parquet")
        assert parquet.read_table(tmp_path / "rows.parquet").to_pylist() == rows


@pytest.mark.skipif(HAVE_DASK, reason="dask is installed")
def test_a_scheduler_without_dask_tells_the_fix() -> None:
    with pytest.raises(InvalidScenario, match=r"pip install 'sancredit\[scale\]'"):
        run_sweep(who, range(3), scheduler="tcp://127.0.0.1:1")


@contextlib.contextmanager
def cluster(directory: Path) -> Iterator[str]:
    """A dask scheduler and two worker processes on loopback; its address."""
    address = directory / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    started = [subprocess.Popen([*command, "--no-dashboard", "--scheduler-file", str(address)])]
    try:
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(address)]
        options = [
            "--host",
            "127.0.0.1",
            "--no-dashboard",
            "--nthreads",
            "1",
            "--local-directory",
            str(directory),
        ]
        started += [subprocess.Popen([*worker, *options, "--death-timeout", "120"]) for _ in range(2)]
        distributed = importlib.import_module("distributed")
        with distributed.Client(scheduler_file=str(address), timeout="80s", set_as_default=False) as client:
            client.wait_for_workers(2, timeout=80)
        yield json.loads(address.read_text())["address"]
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(60)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not HAVE_DASK, reason="dask is missing: pip install 'sancredit[scale]'")
def test_a_dask_scheduler_and_two_workers_do_the_same_and_a_sweep_there_is_resumed(tmp_path: Path) -> None:
    asked, partial = scenarios(40), tmp_path / "partial"
    with cluster(tmp_path) as address:
        rows = run_sweep(saturate, asked, scheduler=address, partial=partial)
        assert rows == run_sweep(saturate, asked, workers=1)
        whole = partial.read_text().splitlines(keepends=True)
        partial.write_text("".join(whole[:5]) + whole[5][:7])
        assert run_sweep(saturate, asked, scheduler=address, partial=partial) == rows
    assert len(partial.read_text().splitlines()) == len(whole)
    with pytest.raises(SchedulerUnreachable, match="no dask scheduler answers"):
        run_sweep(saturate, asked, scheduler=address)
