"""Writing answers: data on stdout in the format asked for, talk on stderr."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from mgmt.cli.failures import UNREACHABLE
from mgmt.layouts import LAYOUTS
from mgmt.separated import comma_separated, flat
from mgmt.tables import draw

if TYPE_CHECKING:
    from mgmt.http.client import Peer


#: Parameters of a request; those that are ``None`` are left out.
Query = Sequence[tuple[str, Any]]
#: Rows asked for at once, and pages followed: a list without an end has one here.
_PAGE_ROWS = 1000
_PAGE_LIMIT = 1000


def show(rows: Sequence[Mapping[str, Any]], name: str, output: str, *, headers: bool = True) -> None:
    """Write ``rows`` as the table ``name`` of :mod:`mgmt.tables`, or as JSON, YAML or CSV in base units."""
    if output in ("table", "wide"):
        click.echo(draw(name, rows, wide=output == "wide", headers=headers))
    elif output == "csv":
        click.echo(
            comma_separated(rows, LAYOUTS[name].fields, headers=headers),
            nl=False,
        )
    else:
        click.echo(_text(list(rows), output), nl=output == "json")


def show_one(value: Mapping[str, Any], output: str, sentence: str) -> None:
    """Write one object: as a ``sentence`` for people, or as JSON, YAML or CSV in base units."""
    if output in ("table", "wide"):
        click.echo(sentence)
    elif output == "csv":
        spread = flat(value)
        click.echo(comma_separated([spread], tuple(spread)), nl=False)
    else:
        click.echo(_text(value, output), nl=output == "json")


def rows_of(answer: Any) -> list[dict[str, Any]]:
    """The items of a list answer."""
    items = answer.get("items") if isinstance(answer, Mapping) else None
    if not isinstance(items, list):
        raise click.ClickException("the answer is not a list: is it a sancredit station that answers there?")
    return [item for item in items if isinstance(item, dict)]


def show_list(
    peer: Peer, name: str, output: str, headers: bool, path: str | None = None, query: Query = ()
) -> int:
    """Write a table of the station, all its pages, as far as its arrays answer; ``path`` where it is not the name's.

    Arrays that do not are said on stderr, and the exit code is 3: what is on stdout is not all there is.
    """
    answer = all_pages(peer, f"/api/v1/{path or name}", query)
    items = rows_of(answer)
    show(items, name, output, headers=headers)
    down = answer.get("down") or [row for row in items if name == "arrays" and row.get("state") == "down"]
    for array in down:
        say(f"array {array.get('array')} at {array.get('address')} does not answer: {array.get('detail')}")
    return UNREACHABLE if down else 0


def all_pages(peer: Peer, path: str, query: Query = ()) -> Any:
    """The answer of a list with the items of every page; one that says how many it wants gets no more."""
    from urllib.parse import urlencode

    wanted = [(key, value) for key, value in query if value is not None]
    whole = any(key == "limit" for key, _ in wanted)
    start = wanted if whole else [*wanted, ("limit", _PAGE_ROWS)]
    answer = page = peer.get(f"{path}?{urlencode(start)}")
    items = rows_of(answer)
    for _ in range(_PAGE_LIMIT):
        cursor = page.get("next")
        if whole or not isinstance(cursor, str):
            break
        page = peer.get(f"{path}?{urlencode([*start, ('cursor', cursor)])}")
        items += rows_of(page)
    return {**answer, "items": items}


def say(text: str) -> None:
    """Talk: one line on stderr."""
    click.echo(f"sancredit: {text}", err=True)


def _text(value: Any, output: str) -> str:
    if output == "json":
        return json.dumps(value, indent=2, ensure_ascii=False)
    import yaml

    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
