"""Many scenarios, spread over all cores or over the workers of a dask scheduler; stopped and resumed at will.

Every finished scenario is a line of a partial-result file at once. A sweep that finds the file goes on with what is
missing in it, if the file is of the same scenarios.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import importlib.util
import json
import multiprocessing
import os
from array import array
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from fcsim.engine.link import BLOCK_FRAMES, LinkRun, LinkScenario
from fcsim.errors import InvalidScenario, SchedulerUnreachable
from fcsim.speeds import MAX_PAYLOAD_BYTES

Scenario = TypeVar("Scenario")
Row = dict[str, int | float | str]
"""One result: a value by column; every row of a sweep has the same columns."""
Progress = Callable[[int, int], None]
"""Told how many scenarios of how many are done."""

SCENARIO_LIMIT = 1_000_000
_AHEAD = 4
"""Scenarios handed out beyond those at work, for each worker."""


def saturate(scenario: LinkScenario, frames: int = 100_000, payload: int = MAX_PAYLOAD_BYTES) -> Row:
    """A link that always has a frame to send: its rate and stalls. A function for :func:`run_sweep`."""
    run = LinkRun(scenario)
    ready = array("q", (0,)) * min(frames, BLOCK_FRAMES)
    sizes = array("q", (payload,)) * len(ready)
    for _ in range(frames // BLOCK_FRAMES):
        run.send_block(ready, sizes, record=False)
    rest = frames % BLOCK_FRAMES
    run.send_block(ready[:rest], sizes[:rest], record=False)
    totals = run.totals()
    return {
        "speed": scenario.speed.name,
        "distance_m": scenario.distance_m,
        "bb_credit": scenario.bb_credit,
        "frames": totals.frames,
        "payload_bytes_per_second": totals.payload_bytes_per_second,
        "stalls": totals.stalls,
        "stalled_ticks": totals.stalled_ticks,
    }


def run_sweep(
    work: Callable[[Scenario], Row],
    scenarios: Sequence[Scenario],
    *,
    partial: Path | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
) -> list[Row]:
    """``work`` done for every scenario; the rows are in the scenarios' order.

    ``work`` must be a module's function, for it travels to other processes. ``partial``: where finished rows are kept
    until the sweep is whole, and taken up from; a torn last line is dropped. ``workers``: processes, by default one
    for each core. ``scheduler``: address of a dask scheduler (``tcp://host:port``), whose workers take their place.

    Raises :class:`~fcsim.errors.InvalidScenario` for a partial file of another sweep, too many scenarios, or a
    scheduler where dask is missing; :class:`~fcsim.errors.SchedulerUnreachable` where nobody answers; and whatever
    ``work`` raises.
    """
    if len(scenarios) > SCENARIO_LIMIT:
        raise InvalidScenario(f"a sweep is of {SCENARIO_LIMIT} scenarios at most, not {len(scenarios)}")
    rows = _taken_up(partial, work, scenarios)
    missing = [number for number in range(len(scenarios)) if number not in rows]
    if progress is not None:
        progress(len(rows), len(scenarios))
    results = (
        _on_dask(work, scenarios, missing, scheduler)
        if scheduler
        else _here(work, scenarios, missing, workers)
    )
    kept = partial.open("a", encoding="utf-8") if partial is not None else None
    try:
        for number, row in results:
            rows[number] = row
            if kept is not None:
                kept.write(json.dumps([number, row]) + "\n")
                kept.flush()
            if progress is not None:
                progress(len(rows), len(scenarios))
    finally:
        results.close()
        if kept is not None:
            kept.close()
    return [rows[number] for number in range(len(scenarios))]


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Write results as a table: Parquet for ``.parquet``, which needs pyarrow, else CSV. Replaced whole or not at all.

    Raises :class:`~fcsim.errors.InvalidScenario` without pyarrow.
    """
    waiting = path.with_name(path.name + ".part")
    columns = list(rows[0]) if rows else []
    if path.suffix == ".parquet":
        if importlib.util.find_spec("pyarrow") is None:
            raise InvalidScenario("Parquet needs pyarrow: pip install 'sancredit[scale]', or write a .csv")
        arrow = importlib.import_module("pyarrow")
        table = arrow.table({column: [row[column] for row in rows] for column in columns})
        importlib.import_module("pyarrow.parquet").write_table(table, waiting)
    else:
        with waiting.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(rows)
    waiting.replace(path)


def _here(
    work: Callable[[Scenario], Row],
    scenarios: Sequence[Scenario],
    missing: Sequence[int],
    workers: int | None,
) -> Generator[tuple[int, Row], None, None]:
    if not missing:
        return
    # Spawned, not forked: the caller may have threads.
    count = min(workers or len(os.sched_getaffinity(0)), len(missing))
    waiting = iter(missing)
    running: dict[Future[Row], int] = {}
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            while True:
                while len(running) < _AHEAD * count and (number := next(waiting, None)) is not None:
                    running[pool.submit(work, scenarios[number])] = number
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _on_dask(
    work: Callable[[Scenario], Row], scenarios: Sequence[Scenario], missing: Sequence[int], scheduler: str
) -> Generator[tuple[int, Row], None, None]:
    if importlib.util.find_spec("distributed") is None:
        raise InvalidScenario(
            "a scheduler needs dask: pip install 'sancredit[scale]', or leave the scheduler out"
        )
    distributed: Any = importlib.import_module("distributed")
    try:
        client = distributed.Client(scheduler, timeout="5s", set_as_default=False)
    except OSError as error:
        raise SchedulerUnreachable(f"no dask scheduler answers at {scheduler}: {error}") from error
    except ValueError as error:  # an address that dask cannot read
        raise InvalidScenario(f"{scheduler!r:.80} is no address of a dask scheduler: {error}") from error
    with client:
        futures = client.map(work, [scenarios[number] for number in missing], pure=False)
        numbers = {future.key: number for number, future in zip(missing, futures, strict=True)}
        for future in distributed.as_completed(futures, loop=client.loop):
            yield numbers[future.key], future.result()


def _digest(work: Callable[[Scenario], Row], scenarios: Sequence[Scenario]) -> str:
    """What a partial file must have been begun for."""
    told = hashlib.sha256(f"{work.__module__}.{work.__qualname__}".encode())
    for scenario in scenarios:
        told.update(json.dumps(_plain(scenario), sort_keys=True).encode())
    return told.hexdigest()


def _plain(value: object) -> object:
    """A scenario in words that stay the same from run to run."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if isinstance(value, (int, float, str, bool, type(None))) else repr(value)


def _taken_up(
    partial: Path | None, work: Callable[[Scenario], Row], scenarios: Sequence[Scenario]
) -> dict[int, Row]:
    """Rows of an earlier run by number; begins the file where there is none."""
    if partial is None:
        return {}
    head = {"sweep": _digest(work, scenarios), "scenarios": len(scenarios)}
    try:
        text = partial.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    whole = text[: text.rfind("\n") + 1]
    if not whole:
        partial.write_text(json.dumps(head) + "\n", encoding="utf-8")
        return {}
    rows: dict[int, Row] = {}
    try:
        first, *lines = [json.loads(line) for line in whole.splitlines()]
        for number, row in lines:
            rows[range(len(scenarios))[number]] = dict(row)
    except (ValueError, TypeError, IndexError) as error:
        raise InvalidScenario(f"{partial} is no partial result of a sweep ({error}); remove it") from error
    if first != head:
        raise InvalidScenario(f"{partial} belongs to another sweep; remove it or name another file")
    if whole != text:
        partial.write_text(whole, encoding="utf-8")
    return rows
