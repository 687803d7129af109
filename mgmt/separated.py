"""Rows as CSV, in base units: the command line's ``-o csv`` and the page's downloads."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def comma_separated(rows: Iterable[Mapping[str, Any]], names: Sequence[str], *, headers: bool = True) -> str:
    """The columns ``names``, whatever the rows have; ``outer.inner`` reaches into an object.

    Booleans, lists and objects are as in JSON; null is nothing.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if headers:
        writer.writerow(names)
    writer.writerows([[_text(_at(row, name)) for name in names] for row in rows])
    return out.getvalue()


def flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """One object whose objects are spread out as ``outer.inner``."""
    spread: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            spread |= flat(value, f"{prefix}{name}.")
        else:
            spread[prefix + name] = value
    return spread


def _text(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, bool | list | Mapping) else value


def _at(row: Mapping[str, Any], name: str) -> Any:
    if name in row:
        return row[name]
    found: Any = row
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
