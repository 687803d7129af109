# SPDX-License-Identifier: Apache-2.0
"""One scenario many times with other values: the cartesian product of what varies, as runs of a sweep."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from fcsim.errors import InvalidScenario
from fcsim.fabric.plan import make_plan
from fcsim.fabric.results import findings, report
from fcsim.fabric.scenario import Scenario
from fcsim.fabric.scenario_file import TABLES, read_scenario
from fcsim.fabric.scsi_traffic import MakeExecutor
from fcsim.fabric.simulation import simulate
from fcsim.fabric.toml_document import Document

RUNS_LIMIT = 100_000
_SYNONYMS = {"host": ("host", "port"), "port": ("host", "port")}


@dataclass(frozen=True, slots=True)
class Variation:
    """``place`` is ``table.key``, ``table.name.key`` for one of them, or a key alone: then every table that has it."""

    place: str
    values: tuple[Any, ...]


def parse_variation(text: str) -> Variation:
    """``isl.bb_credit=4,8,16``; whole numbers and decimals are numbers, all else text. Raises
    :class:`~fcsim.errors.InvalidScenario`."""
    place, equals, listed = text.partition("=")
    values = tuple(_value(item.strip()) for item in listed.split(",") if item.strip())
    if not equals or not place.strip() or not values:
        raise InvalidScenario(f"{text!r:.80}: write key=value,value,… such as isl.bb_credit=4,8,16")
    return Variation(place.strip(), values)


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def changed(document: Document, place: str, value: Any) -> Document:
    """The document with another value. Raises :class:`~fcsim.errors.InvalidScenario` where there is no such place."""
    values = copy.deepcopy(dict(document.values))
    parts = place.split(".")
    *where, key = parts
    if len(where) > 2 or (where and where[0] not in TABLES):
        raise InvalidScenario(
            f"{place!r:.80} is no place in a scenario; write table.key, table.name.key or key, with a table of "
            + ", ".join(TABLES)
        )
    found = [
        (name, entry)
        for name in (_SYNONYMS.get(where[0], (where[0],)) if where else TABLES)
        for entry in _entries(values.get(name))
        if len(where) < 2 or entry.get("name") == where[1]
    ]
    if not where:
        found = [(name, entry) for name, entry in found if key in entry]
    if not found:
        raise InvalidScenario(f"{place!r:.80}: the scenario has no such table or key; write it as table.key")
    for _, entry in found:
        entry[key] = value
    return replace(document, values=values)


def _entries(values: Any) -> list[dict[str, Any]]:
    if isinstance(values, dict):
        return [values]
    return [entry for entry in values or () if isinstance(entry, dict)]


def combinations(variations: Sequence[Variation]) -> list[dict[str, Any]]:
    """The cartesian product. Raises :class:`~fcsim.errors.InvalidScenario` beyond RUNS_LIMIT."""
    count = 1
    for variation in variations:
        count *= len(variation.values)
    if count > RUNS_LIMIT:
        raise InvalidScenario(f"{count} runs; {RUNS_LIMIT} at most")
    places = [variation.place for variation in variations]
    return [
        dict(zip(places, values, strict=True)) for values in product(*(each.values for each in variations))
    ]


@dataclass(frozen=True, slots=True)
class SweepRun:
    """One run of a sweep: the scenario, and the values that are put in the places of its own."""

    document: Document
    values: Mapping[str, Any]
    until_ns: int | None = None

    def scenario(self) -> Scenario:
        """The scenario with its values. Raises :class:`~fcsim.errors.InvalidScenario`."""
        document = self.document
        for place, value in self.values.items():
            document = changed(document, place, value)
        return read_scenario(document)


def run_one(run: SweepRun, make_executor: MakeExecutor | None = None) -> dict[str, Any]:
    """The values of a run, and the totals that tell runs apart."""
    result = report(simulate(make_plan(run.scenario()), until_ns=run.until_ns, make_executor=make_executor))
    ports, bad = result["ports"], findings(result)
    return {
        **run.values,
        "frames": result["frames"],
        "throughput_bps": result["throughput_bps"],
        "latency_max_ps": max((flow["latency_max_ps"] or 0 for flow in result["flows"]), default=0),
        "credit_zero_transitions": sum(port["credit_zero_transitions"] for port in ports),
        "tx_wait_share_max": max(port["tx_wait_share"] for port in ports),
        "missing_credits": max(port["missing_credits"] for port in ports),
        "lost_credits": sum(port["lost_credits"] for port in ports),
        "recovered_credits": sum(port["recovered_credits"] for port in ports),
        "link_resets": sum(port["link_resets"] for port in ports),
        "discards": sum(port["discards"] for port in ports),
        "worst_port": bad[0]["name"] if bad else "",
        "verdict": bad[0]["verdict"] if bad else "ok",
    }


def make_runs(
    document: Document, variations: Sequence[Variation], until_ns: int | None = None
) -> list[SweepRun]:
    """Every run of a sweep, for :func:`fcsim.engine.sweep.run_sweep` with :func:`run_one`.

    All of them are checked before the first runs: raises :class:`~fcsim.errors.InvalidScenario` for one that makes no
    sense.
    """
    runs = [SweepRun(document, values, until_ns) for values in combinations(variations)]
    for run in runs:
        make_plan(run.scenario())
    return runs
