# SPDX-License-Identifier: Apache-2.0
"""Which test looks at which rule, read from the tests' own words (no test is imported for it).

A rule test says what is demanded in the first line of its docstring, and where that is written in lines of their own::

    \"\"\"Data-Out beyond FirstBurstLength end the command; the session goes on.

    UNH-IOL FFP 7.1
    RFC 7143 11.7.7, 13.14
    \"\"\"
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from tools.unh_lists import LISTS, UnhList

TESTS = Path(__file__).resolve().parents[1] / "tests" / "iscsi_target"
PAGE = TESTS.parents[1] / "docs" / "conformance.md"
MARKER = "<!-- From here on generated from the tests' docstrings by `make docs`: edit those. -->\n"
_CLAUSES = re.compile(r"sections? ((?:\d+(?:\.\d+)*(?:, | and |-)?)+)")
_FOREIGN = re.compile(r"\b(?:RFC (?!7143)\d+|S[AP]C-\d|SBC-\d|SAM-\d) [^;)]*")
_LABELLED = re.compile(r"^UNH-IOL ([A-Z-]+) (\S.*)$", re.M)
_DEMANDED = re.compile(r"^RFC 7143 (\d.*|Appendix .*)$", re.M)


class UnknownRule(Exception):
    """A docstring names a list or a number that there is not; the text says where."""


@dataclass(frozen=True, slots=True)
class RuleTest:
    """A test that names a rule. `clauses`: of RFC 7143."""

    path: str
    """Below ``tests/iscsi_target``."""
    name: str
    demand: str
    rules: tuple[tuple[str, str], ...]
    """(label of the list, number or word)."""
    clauses: tuple[str, ...]


def _tests(folder: Path) -> Iterator[tuple[Path, str, ast.Module, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in sorted(folder.rglob("test_*.py")):
        source = path.read_text()
        module = ast.parse(source)
        for node in module.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield path, source, module, node


def rule_tests(folder: Path = TESTS) -> list[RuleTest]:
    """The tests whose docstring names a rule of a UNH-IOL list. Raises UnknownRule."""
    known = {entry.label: entry for entry in LISTS}
    found: list[RuleTest] = []
    for path, _, _, node in _tests(folder):
        text = ast.get_docstring(node) or ""
        rules = tuple(
            (label, number) for label, numbers in _LABELLED.findall(text) for number in numbers.split(", ")
        )
        if not rules:
            continue
        for label, number in rules:
            entry = known.get(label)
            if entry is None or not (number in entry.numbers or (entry.words and number[:1].isalpha())):
                raise UnknownRule(f"{path.name}::{node.name}: there is no UNH-IOL {label} {number}")
        clauses = tuple(clause for line in _DEMANDED.findall(text) for clause in line.split(", "))
        if not clauses:
            raise UnknownRule(f"{path.name}::{node.name} names no clause of RFC 7143")
        demand = " ".join(text.partition("\n\n")[0].split())
        found.append(RuleTest(str(path.relative_to(folder)), node.name, demand, rules, clauses))
    return found


def without_test(tests: Sequence[RuleTest]) -> list[str]:
    """Numbers that have neither a test nor a reason, and numbers that have both."""
    named = {rule for test in tests for rule in test.rules}
    return [
        f"{entry.label} {number}"
        for entry in LISTS
        for number in entry.numbers
        if ((entry.label, number) in named) == (number in entry.not_applicable)
    ]


def rules(folder: Path = TESTS) -> dict[str, list[str]]:
    """Clause of RFC 7143 → ``file::test`` of the tests that name it: in their docstring, else in the heading comment
    (``# -- … (section …) --``) under which they stand, else in the docstring of their file where that names RFC 7143.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for path, source, module, node in _tests(folder):
        text = ast.get_docstring(node) or ""
        own = [clause for line in _DEMANDED.findall(text) for clause in line.split(", ")]
        for clause in own or _clauses(text) or _above(source, node.lineno) or _of_file(module):
            found[clause].append(f"{path.stem}::{node.name}")
    return dict(sorted(found.items(), key=_order))


def _order(item: tuple[str, object]) -> tuple[bool, list[int], str]:
    clause = item[0]
    numbered = clause[:1].isdigit()
    return not numbered, [int(part) for part in clause.split(".")] if numbered else [], clause


def _above(source: str, line: int) -> list[str]:
    headings = [text for text in source.splitlines()[: line - 1] if text.startswith("# --")]
    return _clauses(headings[-1]) if headings else []


def _of_file(module: ast.Module) -> list[str]:
    about = ast.get_docstring(module) or ""
    return _clauses(about) if "RFC 7143" in about else []


def _clauses(text: str) -> list[str]:
    return [
        clause
        for match in _CLAUSES.finditer(_FOREIGN.sub("", text))
        for clause in re.findall(r"\d+(?:\.\d+)*", match[1])
    ]


# -- the page -----------------------------------------------------------------------------------------------------


def conformance_page() -> str:
    """``docs/conformance.md``: what is written by hand down to the marker, and after it what the tests say."""
    by_hand, marker, _ = PAGE.read_text().partition(MARKER)
    if not marker:
        raise UnknownRule(f"{PAGE.name} has lost the line {MARKER.strip()}")
    return by_hand + MARKER + "\n" + "\n".join(_generated(rule_tests(), rules()))


def _generated(tests: Sequence[RuleTest], clauses: dict[str, list[str]]) -> Iterator[str]:
    missing = without_test(tests)
    if missing:
        raise UnknownRule(f"neither a test nor a reason, or both: {', '.join(missing)}")
    yield (
        "## The UNH-IOL lists, rule by rule\n\n"
        "Each rule is a test that speaks to the real server, or the real initiator, over TCP with PDUs made by hand:\n"
        "the violation or the demanded behaviour, then proof that the session (where the rule ends it: the next one)\n"
        "still works. The numbers are those of the published suites; subjects and demands are in our words, and where\n"
        "a chapter has several numbers their order within it is our reading. Clauses are of RFC 7143. Files are in\n"
        "`tests/iscsi_target/`.\n"
    )
    counted = Counter(label for test in tests for label in {label for label, _ in test.rules})
    summary = [
        [entry.label, entry.title, len(entry.numbers) or "", len(entry.not_applicable), counted[entry.label]]
        for entry in LISTS
    ]
    yield _table(["list", "about", "numbers", "not applicable", "tests"], summary)
    for entry in LISTS:
        yield f"### {entry.title} ({entry.label})\n\n{entry.about}\n"
        yield _table(["rule", "subject", "clauses", "what is shown", "test"], list(_rows(entry, tests)))
    yield (
        "## Clauses of RFC 7143 and their tests\n\n"
        "A test belongs to the clauses that its docstring names, else to those of the heading it stands under, else\n"
        "to those of its file. `python -m tools.conformance rules` prints the tests by name.\n"
    )
    yield _table(["clause", "file: tests"], [[clause, _by_file(named)] for clause, named in clauses.items()])


def _rows(entry: UnhList, tests: Sequence[RuleTest]) -> Iterator[list[object]]:
    named = [number for test in tests for label, number in test.rules if label == entry.label]
    numbers = [*entry.numbers, *dict.fromkeys(number for number in named if number not in entry.numbers)]
    for number in numbers:
        subject = entry.numbers.get(number, "")
        if number in entry.not_applicable:
            yield [number, subject, "", f"Does not apply: {entry.not_applicable[number]}", ""]
        for test in tests:
            if (entry.label, number) in test.rules:
                where = f"`{test.path}::{test.name}`"
                yield [number, subject, ", ".join(test.clauses), test.demand.replace("|", "\\|"), where]


def _by_file(named: Sequence[str]) -> str:
    counts = Counter(name.partition("::")[0] for name in named)
    return ", ".join(f"`{stem}`: {count}" for stem, count in sorted(counts.items()))


def _table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    # Cells are not padded: one long cell would make every line of the page as long.
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def rules_table() -> str:
    """Clause → tests by name, for the terminal."""
    rows = [[clause, "<br>".join(tests)] for clause, tests in rules().items()]
    return tabulate(rows, ["clause", "tests"], tablefmt="github", disable_numparse=True) + "\n"
