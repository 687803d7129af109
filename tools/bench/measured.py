"""One measured figure beside its bar, how a benchmark prints its figures, and the command line all of them share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One line of the report; ``bar`` is what it must reach, ``met`` whether it did."""

    name: str
    value: float
    unit: str
    bar: str
    met: bool


def write(results: Sequence[Measured], output: str, *, decimals: int) -> int:
    """Print figures as a ``table`` or as ``json``; exit code 1 when a bar is missed."""
    if output == "json":
        sys.stdout.write(json.dumps([asdict(line) for line in results], indent=2) + "\n")
    else:
        for line in results:
            verdict = "" if not line.bar else f"{line.bar:>12}  {'met' if line.met else 'MISSED'}"
            sys.stdout.write(f"{line.name:28} {line.value:14,.{decimals}f} {line.unit:4} {verdict}\n")
    return 0 if all(line.met for line in results) else 1


def command_line(name: str, description: str | None) -> argparse.ArgumentParser:
    """The command line of ``python -m tools.bench NAME``, with ``-o table|json``; a benchmark adds its own options."""
    parser = argparse.ArgumentParser(
        prog=f"python -m tools.bench {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    return parser


def report(
    measure: Callable[[], Sequence[Measured]],
    output: str,
    *,
    decimals: int,
    failures: tuple[type[Exception], ...],
) -> int:
    """Measure and print; exit code 1 when a bar is missed, or with one line where nothing can be measured."""
    try:
        results = measure()
    except failures as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return write(results, output, decimals=decimals)
