"""One measured figure beside its bar, and how a benchmark prints its figures."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
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
