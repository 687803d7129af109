"""What a target costs a test: ``python -m tools.bench harness [--json]``.

Set-up of the fixtures, login, one read and tear-down, as the plugin does them, in this process; medians over rounds,
the first one (which imports) apart. The bar is 30 ms. And what loading the plugin costs tests that want no target.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from tabulate import tabulate

_FIXTURE_BAR_MS = 30.0
_IMPORT_BAR_MS = 50.0
_IMPORT_CODE = (
    "import pytest, time; start = time.perf_counter(); import tools.harness.plugin; "
    "print(time.perf_counter() - start)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One figure in milliseconds against its bar (0: none)."""

    name: str
    median_ms: float
    highest_ms: float
    bar_ms: float = 0.0

    @property
    def verdict(self) -> str:
        """In words."""
        if not self.bar_ms:
            return ""
        return "met" if self.median_ms <= self.bar_ms else "MISSED"


def _line(name: str, seconds: Sequence[float], bar_ms: float = 0.0) -> Line:
    return Line(
        name=name, median_ms=statistics.median(seconds) * 1e3, highest_ms=max(seconds) * 1e3, bar_ms=bar_ms
    )


def measure_fixtures(rounds: int, temporary: Path) -> list[Line]:
    """Life of one target after the other, through the same classes as the fixtures."""
    steps: dict[str, list[float]] = {"set-up": [], "login": [], "one read": [], "tear-down": [], "all": []}
    for number in range(rounds + 1):
        times = [time.perf_counter()]
        from tools.harness.factory import TargetFactory

        factory = TargetFactory(
            node_id=f"bench::{number}",
            seed=number,
            run_seed=1,
            timeout_s=10,
            artifacts=None,
            temporary=lambda: temporary,
            root=temporary,
        )
        target = factory()
        times.append(time.perf_counter())
        initiator = target.initiator()
        times.append(time.perf_counter())
        initiator.read(0, 8)
        times.append(time.perf_counter())
        factory.stop()
        times.append(time.perf_counter())
        spans = [
            *(after - before for before, after in pairwise(times)),
            times[-1] - times[0],
        ]
        if number == 0:
            first = spans[-1]
            continue
        for step, span in zip(steps, spans, strict=True):
            steps[step].append(span)
    whole = steps.pop("all")
    lines = [_line(name, values) for name, values in steps.items()]
    lines.append(_line("set-up, login, one read, tear-down", whole, _FIXTURE_BAR_MS))
    return [*lines, _line("the same for the first test, with imports", [first])]


def measure_import(rounds: int) -> Line:
    """Loading the plugin beside a pytest that is there already."""
    command = [sys.executable, "-c", _IMPORT_CODE]
    seconds = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(rounds)
    ]
    return _line("loading the plugin", seconds, _IMPORT_BAR_MS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the table says which bars are missed."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench harness", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as name:
        lines = [*measure_fixtures(options.rounds, Path(name)), measure_import(5)]
    if options.json:
        sys.stdout.write(
            json.dumps([asdict(line) | {"verdict": line.verdict} for line in lines], indent=2) + "\n"
        )
        return 0
    rows = [
        [
            line.name,
            f"{line.median_ms:.2f}",
            f"{line.highest_ms:.2f}",
            f"≤ {line.bar_ms:g}" if line.bar_ms else "",
            line.verdict,
        ]
        for line in lines
    ]
    headers = ["", "median ms", "highest", "bar", "verdict"]
    align = ["left", "right", "right", "right", "left"]
    sys.stdout.write(tabulate(rows, headers, disable_numparse=True, colalign=align) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
