"""Writing answers: data on stdout in the format asked for, talk on stderr."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from mgmt.cli.failures import UNREACHABLE
from mgmt.layouts import LAYOUTS
from mgmt.tables import draw

if TYPE_CHECKING:
    from mgmt.http.client import Peer


def show(rows: Sequence[Mapping[str, Any]], name: str, output: str, *, headers: bool = True) -> None:
    """Write ``rows`` as the table ``name`` of :mod:`mgmt.tables`, or as JSON, YAML or CSV in base units."""
    if output in ("table", "wide"):
        click.echo(draw(name, rows, wide=output == "wide", headers=headers))
    elif output == "csv":
        click.echo(
            _csv([_fields(row, LAYOUTS[name].fields) for row in rows], LAYOUTS[name].fields, headers),
            nl=False,
        )
    else:
        click.echo(_text(list(rows), output), nl=output == "json")


def show_one(value: Mapping[str, Any], output: str, sentence: str) -> None:
    """Write one object: as a ``sentence`` for people, or as JSON, YAML or CSV in base units."""
    if output in ("table", "wide"):
        click.echo(sentence)
    elif output == "csv":
        flat = _flat(value)
        click.echo(_csv([flat], tuple(flat), True), nl=False)
    else:
        click.echo(_text(value, output), nl=output == "json")


def rows_of(answer: Any) -> list[dict[str, Any]]:
    """The items of a list answer."""
    items = answer.get("items") if isinstance(answer, Mapping) else None
    if not isinstance(items, list):
        raise click.ClickException("the answer is not a list: is it a sancredit station that answers there?")
    return [item for item in items if isinstance(item, dict)]


def show_list(peer: Peer, name: str, output: str, headers: bool) -> int:
    """Write a table of the station, as far as its arrays answer.

    Those that do not are said on stderr, and the exit code is 3: what is on stdout is not all there is.
    """
    answer = peer.get(f"/api/v1/{name}")
    items = rows_of(answer)
    show(items, name, output, headers=headers)
    down = answer.get("down") or [row for row in items if name == "arrays" and row.get("state") == "down"]
    for array in down:
        say(f"array {array.get('array')} at {array.get('address')} does not answer: {array.get('detail')}")
    return UNREACHABLE if down else 0


def say(text: str) -> None:
    """Talk: one line on stderr."""
    click.echo(f"sancredit: {text}", err=True)


def _text(value: Any, output: str) -> str:
    if output == "json":
        return json.dumps(value, indent=2, ensure_ascii=False)
    import yaml

    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def _csv(rows: Sequence[Mapping[str, Any]], names: Sequence[str], headers: bool) -> str:
    """The columns ``names``, whatever the rows have; booleans, lists and objects as in JSON, nothing for null."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if headers:
        writer.writerow(names)
    writer.writerows([[_csv_value(row.get(name)) for name in names] for row in rows])
    return out.getvalue()


def _csv_value(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, bool | list | Mapping) else value


def _fields(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The values of ``row`` at ``names``; ``outer.inner`` reaches into an object."""
    return {name: _field(row, name) for name in names}


def _field(row: Mapping[str, Any], name: str) -> Any:
    found: Any = row
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """One object whose objects are spread out as ``outer.inner``."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
