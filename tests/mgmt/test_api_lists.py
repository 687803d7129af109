"""Lists: filter, sort, paging; pages that stay right while rows come and go."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgmt.api import lists
from mgmt.api.lists import Lists, Query, parse_query
from mgmt.http.problems import ProblemError

FIELDS = ("array", "reserved_bytes", "target.kind", "stale", "note")


def row(array: str, size: int | None = 0, **more: Any) -> dict[str, Any]:
    return {
        "array": array,
        "reserved_bytes": size,
        "target": {"kind": "port_pair", "local_port": array},
    } | more


ROWS = [row("east", 300, stale=True), row("west", 100, note="Ä"), row("north", None), row("south", 20)]


def names(query: Query, rows: list[dict[str, Any]] = ROWS) -> list[str]:
    page = Lists().page("t", 1, rows, query)
    return [found["array"] for found in json.loads(page.items)]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["array=west"], ["west"]),
        (["array!=west"], ["east", "north", "south"]),
        (["reserved_bytes>=100"], ["east", "west"]),
        (["reserved_bytes<100"], ["south"]),
        (["reserved_bytes > 19", "reserved_bytes <= 100"], ["west", "south"]),
        (["reserved_bytes=20.0"], ["south"]),
        (["reserved_bytes=null"], ["north"]),
        (["reserved_bytes=x"], []),
        (["stale=true"], ["east"]),
        (["array~ST"], ["east", "west"]),
        (["note~ä"], ["west"]),
        (["target.kind=port_pair", "array>north"], ["west", "south"]),
    ],
)
def test_filters_compare_as_the_value_does(filters: list[str], found: list[str]) -> None:
    assert names(parse_query(FIELDS, filters=filters)) == found


@pytest.mark.parametrize(
    ("sort", "found"),
    [
        ("array", ["east", "north", "south", "west"]),
        ("-array", ["west", "south", "north", "east"]),
        ("reserved_bytes", ["south", "west", "east", "north"]),
        ("target.kind,-reserved_bytes", ["north", "east", "west", "south"]),
    ],
)
def test_rows_are_sorted_and_those_without_a_value_stand_together(sort: str, found: list[str]) -> None:
    assert names(parse_query(FIELDS, sort=sort)) == found


@pytest.mark.parametrize(
    "wrong",
    [
        {"filters": ["array"]},
        {"filters": ["=1"]},
        {"filters": ["nothing=1"]},
        {"filters": ["array=" + "x" * 300]},
        {"filters": ["array=a"] * 9},
        {"sort": "nothing"},
        {"sort": "array,,"},
        {"cursor": "!!"},
        {"cursor": "eyJhIjoxfQ"},
        {"cursor": "W10"},
        {"cursor": "WzAsICJ4Il0"},
        {"cursor": "[" * 200},
    ],
)
def test_a_query_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ProblemError) as refused:
        parse_query(FIELDS, **wrong)
    assert refused.value.status == 422 and "\n" not in str(refused.value)


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_any_text_is_a_query_or_refused(filters: str, sort: str, cursor: str) -> None:
    try:
        query = parse_query(FIELDS, filters=[filters], sort=sort, cursor=cursor)
    except ProblemError as refused:
        assert refused.status == 422
    else:
        Lists().page("t", None, ROWS, query)


def all_pages(source: Lists, rows: list[dict[str, Any]], limit: int, sort: str | None = None) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        page = source.page("t", 1, rows, parse_query(FIELDS, sort=sort, limit=limit, cursor=cursor))
        found += [one["array"] for one in json.loads(page.items)]
        cursor = page.cursor
        if cursor is None:
            return found


@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=3), st.integers(0, 5)), unique_by=lambda item: item[0]),
    st.integers(1, 4),
    st.sampled_from([None, "reserved_bytes", "-array", "reserved_bytes,array"]),
)
def test_the_pages_together_are_the_list(values: list[tuple[str, int]], limit: int, sort: str | None) -> None:
    rows = [row(name, size) for name, size in values]
    whole = names(parse_query(FIELDS, sort=sort, limit=1000), rows)
    assert all_pages(Lists(), rows, limit, sort) == whole
    assert sorted(whole) == sorted(name for name, _ in values)


def test_a_row_that_goes_or_comes_meanwhile_neither_repeats_nor_hides_another() -> None:
    rows = [row(name) for name in "abcdef"]
    first = Lists().page("t", 1, rows, Query(limit=3))
    rest = parse_query(FIELDS, cursor=first.cursor)
    without_b, with_new = [one for one in rows if one["array"] != "b"], [row("new"), *rows]
    for revision, later in enumerate((without_b, with_new, list(rows)), 2):
        page = Lists().page("t", revision, later, rest)
        assert [one["array"] for one in json.loads(page.items)] == ["d", "e", "f"]


def test_the_row_of_the_cursor_itself_may_go() -> None:
    rows = [row(name) for name in "abcd"]
    first = Lists().page("t", 1, rows, Query(limit=2))
    page = Lists().page("t", 2, [rows[0], *rows[2:]], parse_query(FIELDS, cursor=first.cursor))
    assert [one["array"] for one in json.loads(page.items)] == ["d"]


def test_the_same_revision_is_sorted_once_and_another_one_again() -> None:
    source, query = Lists(), parse_query(FIELDS, sort="array")
    page = source.page("t", 1, [row("a")], query)
    assert source.page("t", 1, [row("other")], query) is page
    assert json.loads(source.page("t", 2, [row("other")], query).items)[0]["array"] == "other"


def test_what_is_kept_is_bounded() -> None:
    source = Lists()
    for revision in range(lists.PAGE_LIMIT + 50):
        source.page("t", revision, ROWS, Query())
    assert len(source._pages) == lists.PAGE_LIMIT and len(source._views) == lists.VIEW_LIMIT
