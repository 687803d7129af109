# SPDX-License-Identifier: Apache-2.0
"""libiscsi's conformance suite against any iSCSI target, and the clauses of RFC 7143 that our tests name.

::

    python -m tools.conformance run                           our target, each kind of unit; tgtd; recorded peers
    python -m tools.conformance run NAME=URL [NAME=URL …]     one table, a column for each target
    python -m tools.conformance rules                         clause → tests, from the tests' own words

The tests destroy what is on the logical unit. Every test of the suite (iscsi-test-cu of Debian's libiscsi-bin) runs in
a process of its own, so that one that breaks the tool ends nothing else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tabulate import tabulate

from tools.conformance_rules import rules_table
from tools.libiscsi_recorded import RECORDED
from tools.libiscsi_suite import (
    FAIL,
    KINDS,
    Missing,
    listed,
    merged,
    run_kind,
    run_one,
    table,
    tgtd,
    tgtd_version,
    verdict_of,
)


def compare(targets: dict[str, str]) -> tuple[list[list[str]], dict[str, dict[str, str]]]:
    """Rows of suite × target (passed / failed / skipped), and what each target gave, by test."""
    names = listed()
    results = {target: {name: run_one((url, url), name) for name in names} for target, url in targets.items()}
    return table({target: _verdicts(given) for target, given in results.items()}), results


def _verdicts(results: Mapping[str, str]) -> dict[str, str]:
    return {name: verdict_of(result) for name, result in results.items()}


def compare_with_peers() -> tuple[list[list[str]], dict[str, dict[str, str]]]:
    """The published table: our target as each kind of unit and merged, tgtd in the same run, and recorded peers.

    Takes about three minutes, one of which the suite sleeps.
    """
    names = listed()
    results: dict[str, dict[str, str]] = {}
    with TemporaryDirectory(prefix="conformance-") as folder:
        for kind in KINDS:
            sys.stderr.write(f"{kind.name} …\n")
            results[kind.name] = run_kind(kind, names, Path(folder))
        ours = [_verdicts(results[kind.name]) for kind in KINDS]
        columns = {"sancredit, merged": merged(ours), f"sancredit, {KINDS[0].name}": ours[0]}
        try:
            title = f"tgtd {tgtd_version()}"
            sys.stderr.write(f"{title} …\n")
            with tgtd(Path(folder)) as url:
                results[title] = {name: run_one((url, url), name) for name in names}
            columns[title] = _verdicts(results[title])
        except Missing as missing:
            sys.stderr.write(f"no column of tgtd: {missing}\n")
    return table(columns, RECORDED), results


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 when a target failed a test (ours: gave another verdict than expected); 2 for wrong usage or a
    missing tool."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.conformance", description="libiscsi's suite; RFC 7143 rules"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="run the suite; DESTROYS what is on the logical units")
    running.add_argument(
        "targets",
        nargs="*",
        metavar="NAME=URL",
        help="default: our own, tgtd and the recorded results of others",
    )
    commands.add_parser("rules", help="which test looks at which clause")
    options = parser.parse_args(arguments)
    if options.command == "rules":
        sys.stdout.write(rules_table())
        return 0
    targets = dict(target.partition("=")[::2] for target in options.targets)
    if not all(url.startswith("iscsi://") for url in targets.values()):
        parser.error("a target is NAME=iscsi://HOST:PORT/IQN/LUN")
    try:
        rows, results = compare(targets) if targets else compare_with_peers()
    except Missing as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(tabulate(rows[1:], rows[0], tablefmt="github", disable_numparse=True) + "\n")
    failed = 0
    for target, given in results.items():
        for name, result in given.items():
            if verdict_of(result) == FAIL:
                failed += 1
                sys.stdout.write(f"\n{target}: {name}: {' '.join(result.split())[:160]}")
    sys.stdout.write("\n")
    if targets:
        return 1 if failed else 0
    unexpected = {
        (kind.name, name)
        for kind in KINDS
        for name, verdict in kind.expected(list(results[kind.name])).items()
        if verdict_of(results[kind.name][name]) != verdict
    }
    for kind_name, name in sorted(unexpected):
        sys.stdout.write(f"not as expected: {kind_name}: {name}\n")
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
