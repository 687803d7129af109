"""``docs/patent-conformance.md`` names tests that exist, has every claim and every numbered step, and is linked."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parent
DOCS = TESTS.parent / "docs"
PAGE = (DOCS / "patent-conformance.md").read_text()
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


def test_every_test_that_the_page_names_is_one() -> None:
    assert len(NAMED) > 80
    missing = [
        f"{file}::{name}"
        for file, name in NAMED
        if not (TESTS / file).is_file() or name not in names_in(file)
    ]
    assert missing == []


def test_every_claim_has_a_row_with_a_test_for_each_kind_or_says_why_not() -> None:
    rows = {
        row[0]: row
        for row in re.findall(r"^\| (\d+) \|(.*)\|(.*)\|(.*)\|$", PAGE, re.MULTILINE)
        if int(row[0]) < 26
    }
    assert sorted(map(int, rows)) == list(range(1, 26))
    for claim, _, tcp, fibre in rows.values():
        for text in (tcp, fibre):
            assert (
                "::" in text
                or "*open*" in text
                or "not claimed" in text
                or text.strip().startswith("the same")
            ), claim


def steps(text: str) -> set[int]:
    """``810–812`` and ``1001, 1002`` as numbers."""
    found: set[int] = set()
    for first, last in re.findall(r"(\d{3,4})(?:–(\d{3,4}))?", text):
        found |= set(range(int(first), int(last or first) + 1))
    return found


def test_every_numbered_step_of_figures_5_to_10_has_a_row() -> None:
    named = set()
    for cell in re.findall(r"^\| ([^|]*)\|", PAGE, re.MULTILINE):
        named |= steps(cell)
    wanted = {
        *range(801, 816),
        *range(901, 907),
        *range(1001, 1008),
        *range(1101, 1105),
        *range(1201, 1209),
        *range(1301, 1312),
    }
    assert wanted - named == set()


def test_conformance_links_to_the_page() -> None:
    assert "patent-conformance.md" in (DOCS / "conformance.md").read_text()
