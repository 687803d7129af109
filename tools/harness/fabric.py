"""A simulated Fibre Channel fabric for tests: a scenario in TOML, run to its end in simulated time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fcsim.fabric.plan import make_plan
from fcsim.fabric.results import report
from fcsim.fabric.scenario_file import read_scenario
from fcsim.fabric.simulation import simulate
from fcsim.fabric.toml_document import load_document, parse_document


class Fabric:
    """How a run ended: what ``sancredit fc simulate -o json`` prints, and its rows by name."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.result = result

    def port(self, name: str) -> dict[str, Any]:
        """The row of a port. Raises KeyError, which names those that there are."""
        return _named(self.result["ports"], name)

    def flow(self, name: str) -> dict[str, Any]:
        """The row of a flow. Raises KeyError, which names those that there are."""
        return _named(self.result["flows"], name)


def _named(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    for row in rows:
        if row["name"] == name:
            return row
    raise KeyError(f"{name}; there are {', '.join(str(row['name']) for row in rows)}")


class FabricFactory:
    """``fc_fabric`` of one test. The test's seed makes the chance of faults the same each time."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._runs: list[Fabric] = []

    def __call__(self, scenario: str | Path) -> Fabric:
        """Run a scenario, given as its text or its file. Raises :class:`fcsim.errors.InvalidScenario`."""
        document = load_document(scenario) if isinstance(scenario, Path) else parse_document(scenario)
        outcome = simulate(make_plan(read_scenario(document)), seed=self.seed & 0x7FFF_FFFF)
        self._runs.append(Fabric(report(outcome)))
        return self._runs[-1]

    def keep_artifacts(self, directory: Path) -> list[str]:
        """The results of the runs; lines for the report."""
        said = []
        for number, run in enumerate(self._runs, 1):
            name = f"fabric-{number}.json"
            (directory / name).write_text(json.dumps(run.result, indent=2) + "\n")
            said.append(f"{name}: {run.result['frames']} frames; seed {self.seed & 0x7FFF_FFFF}")
        return said

    def stop(self) -> None:
        """Nothing runs on: time is simulated."""
