# SPDX-License-Identifier: Apache-2.0
"""libiscsi's conformance suite against any iSCSI target, and the clauses of RFC 7143 that our tests name.

::

    python -m tools.conformance run NAME=URL [NAME=URL …]     one table, a column for each target
    python -m tools.conformance rules                         clause → tests, from the tests' own words

The tests destroy what is on the logical unit. Every test of the suite (iscsi-test-cu of Debian's libiscsi-bin) runs in
a process of its own, so that one that breaks the tool ends nothing else.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

ONE_TEST_S = 30
_TESTS = Path(__file__).resolve().parents[1] / "tests" / "iscsi_target"
_FAILED = re.compile(r"^\s+tests\s+1\s+1\s+\d+\s+1\s", re.M)
_PASSED = re.compile(r"^\s+tests\s+1\s+1\s+1\s+0\s", re.M)
_CLAUSES = re.compile(r"sections? ((?:\d+(?:\.\d+)*(?:, | and |-)?)+)")
_FOREIGN = re.compile(r"\b(?:RFC (?!7143)\d+|S[AP]C-\d|SBC-\d|SAM-\d) [^;)]*")


def suite() -> str:
    """The tool's path. Raises FileNotFoundError with the package to install."""
    found = shutil.which("iscsi-test-cu")
    if found is None:
        raise FileNotFoundError("iscsi-test-cu is missing: apt-get install libiscsi-bin")
    return found


def listed() -> list[str]:
    """The tests of family ALL, as Suite.Test."""
    listing = subprocess.run([suite(), "-l"], capture_output=True, text=True, check=True, timeout=ONE_TEST_S)
    return sorted(set(re.findall(r"\bALL\.(\w+\.[\w-]+)", listing.stdout)))


def run_one(urls: Sequence[str], name: str) -> str:
    """One test (Suite.Test): "pass", "skip", "time-out", "fail: …" or "no verdict…" with the tool's complaint.

    `urls`: the logical unit, and where there is one its second path.
    """
    argv = [suite(), "-v", "-d", "-S", "-t", f"ALL.{name}", *urls]
    try:
        ran = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=ONE_TEST_S)
    except subprocess.TimeoutExpired:
        return "time-out"
    output = ran.stdout + ran.stderr
    if _FAILED.search(output):
        complaint = re.search(r"\[FAILED\].*|^\s+1\. .*", output, re.M)
        return f"fail: {complaint[0].strip() if complaint else output[-300:]}"
    if not _PASSED.search(output):
        return f"no verdict, exit {ran.returncode}: {output.strip()[-300:]}"
    return "skip" if "[SKIPPED]" in output else "pass"


def compare(targets: dict[str, str]) -> tuple[str, dict[str, list[str]]]:
    """A Markdown table of suite × target (passed / failed / skipped), and what did not pass at each target."""
    names = listed()
    counts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    missed: dict[str, list[str]] = {target: [] for target in targets}
    for target, url in targets.items():
        for name in names:
            verdict = run_one((url, url), name)
            kind = verdict if verdict in ("pass", "skip") else "fail"
            counts[name.partition(".")[0]][target][kind] += 1
            counts["all"][target][kind] += 1
            if kind == "fail":
                missed[target].append(f"{name}: {' '.join(verdict.split())[-160:]}")
    rows = [
        [
            family,
            *(" / ".join(str(of[target][kind]) for kind in ("pass", "fail", "skip")) for target in targets),
        ]
        for family, of in counts.items()
        if family != "all"
    ]
    of = counts["all"]
    rows.append(
        ["all", *(" / ".join(str(of[t][kind]) for kind in ("pass", "fail", "skip")) for t in targets)]
    )
    return tabulate(rows, ["suite", *targets], tablefmt="github"), missed


def rules(folder: Path = _TESTS) -> dict[str, list[str]]:
    """Clause of RFC 7143 → ``file::test`` of the tests that name it: in their docstring, else in the heading comment
    (``# -- … (section …) --``) under which they stand, else in the docstring of their file where that names RFC 7143.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(folder.glob("test_*.py")):
        source = path.read_text()
        headings = [
            (number, _clauses(line))
            for number, line in enumerate(source.splitlines(), 1)
            if line.startswith("# --")
        ]
        module = ast.parse(source)
        about = ast.get_docstring(module) or ""
        of_file = _clauses(about) if "RFC 7143" in about else []
        for node in module.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                above = next((of for number, of in reversed(headings) if number < node.lineno), [])
                for clause in _clauses(ast.get_docstring(node) or "") or above or of_file:
                    found[clause].append(f"{path.stem}::{node.name}")
    return dict(sorted(found.items(), key=lambda item: [int(part) for part in item[0].split(".")]))


def _clauses(text: str) -> list[str]:
    return [
        clause
        for match in _CLAUSES.finditer(_FOREIGN.sub("", text))
        for clause in re.findall(r"\d+(?:\.\d+)*", match[1])
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 when a target failed a test; 2 for wrong usage or a missing tool."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.conformance", description="libiscsi's suite; RFC 7143 rules"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="run the suite; DESTROYS what is on the logical units")
    running.add_argument("targets", nargs="+", metavar="NAME=URL")
    commands.add_parser("rules", help="which test looks at which clause")
    options = parser.parse_args(arguments)
    if options.command == "rules":
        rows = [[clause, "<br>".join(tests)] for clause, tests in rules().items()]
        sys.stdout.write(tabulate(rows, ["clause", "tests"], tablefmt="github", disable_numparse=True) + "\n")
        return 0
    targets = dict(target.partition("=")[::2] for target in options.targets)
    if not all(url.startswith("iscsi://") for url in targets.values()):
        parser.error("a target is NAME=iscsi://HOST:PORT/IQN/LUN")
    try:
        table, missed = compare(targets)
    except FileNotFoundError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(table + "\n")
    for target, complaints in missed.items():
        for complaint in complaints:
            sys.stdout.write(f"\n{target}: {complaint}")
    sys.stdout.write("\n")
    return 1 if any(missed.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
