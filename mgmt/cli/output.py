"""Writing answers: data on stdout in the format asked for, talk on stderr."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from mgmt.cli.failures import UNREACHABLE
from mgmt.tables import draw

if TYPE_CHECKING:
    from mgmt.http.client import Peer


def show(rows: Sequence[Mapping[str, Any]], name: str, output: str, *, headers: bool = True) -> None:
    """Write ``rows`` as the table ``name`` of :mod:`mgmt.tables`, or as JSON, YAML or CSV in base units."""
    if output in ("table", "wide"):
        click.echo(draw(name, rows, wide=output == "wide", headers=headers))
    else:
        click.echo(_text(list(rows), output, headers), nl=output == "json")


def show_one(value: Mapping[str, Any], output: str, sentence: str) -> None:
    """Write one object: as a ``sentence`` for people, or as JSON, YAML or CSV in base units."""
    if output in ("table", "wide"):
        click.echo(sentence)
    else:
        click.echo(_text([value] if output == "csv" else value, output, True), nl=output == "json")


def rows_of(answer: Any) -> list[dict[str, Any]]:
    """The items of a list answer."""
    items = answer.get("items") if isinstance(answer, Mapping) else None
    if not isinstance(items, list):
        raise click.ClickException("the answer is not a list: is it a sancredit station that answers there?")
    return [item for item in items if isinstance(item, dict)]


def show_list(peer: Peer, name: str, output: str, headers: bool) -> int:
    """Write a table of the station; arrays that are down are said on stderr. The exit code."""
    answer = peer.get(f"/api/v1/{name}")
    items, down = rows_of(answer), answer.get("down", []) if isinstance(answer, Mapping) else []
    show(items, name, output, headers=headers)
    for array in down:
        say(f"array {array.get('array')} at {array.get('address')} does not answer: {array.get('detail')}")
    return UNREACHABLE if down and not items else 0


def say(text: str) -> None:
    """Talk: one line on stderr."""
    click.echo(f"sancredit: {text}", err=True)


def _text(value: Any, output: str, headers: bool) -> str:
    if output == "json":
        return json.dumps(value, indent=2, ensure_ascii=False)
    if output == "yaml":
        import yaml

        return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
    return _csv(value, headers)


def _csv(rows: Sequence[Mapping[str, Any]], headers: bool) -> str:
    """Objects inside a row become columns ``outer.inner``; lists become JSON."""
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n", restval="")
    if headers and names:
        writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.dumps(value) if isinstance(value, list) else value
    return flat
