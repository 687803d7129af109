# SPDX-License-Identifier: Apache-2.0
"""libiscsi's conformance suite (iscsi-test-cu of Debian's libiscsi-bin) against units of each kind, and against tgtd.

What each kind is expected to give is in :mod:`tools.libiscsi_suite`; a test that begins to pass is a failure here as
much as one that begins to fail, so that the lists there never hold more than is true.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tools.libiscsi_recorded import RECORDED
from tools.libiscsi_suite import (
    EXCEPTIONS,
    FAIL,
    KINDS,
    PASS,
    SKIP,
    Kind,
    Missing,
    listed,
    merged,
    run_kind,
    run_one,
    table,
    tgtd,
    verdict_of,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

needs_the_suite = pytest.mark.skipif(
    shutil.which("iscsi-test-cu") is None,
    reason="iscsi-test-cu is missing: install the package libiscsi-bin",
)


@pytest.fixture(scope="module")
def names() -> list[str]:
    return listed()


def _parts() -> list[tuple[Kind, int, int]]:
    """The kinds, the largest one in two parts, so that two processes can share the work."""
    return [
        (kind, part, 2 if kind is KINDS[0] else 1)
        for kind in KINDS
        for part in range(2 if kind is KINDS[0] else 1)
    ]


@needs_the_suite
@pytest.mark.parametrize(
    ("kind", "part", "parts"), _parts(), ids=lambda value: getattr(value, "name", str(value))
)
def test_a_kind_of_unit_gives_what_is_expected_of_it(
    kind: Kind, part: int, parts: int, names: list[str], tmp_path: Path
) -> None:
    """The suite on a fresh unit: each test as expected, no better and no worse."""
    expected = kind.expected(names[part::parts])
    assert expected
    results = run_kind(kind, names[part::parts], tmp_path)
    assert {name: result for name, result in results.items() if verdict_of(result) != expected[name]} == {}


@needs_the_suite
def test_all_kinds_together_pass_everything_but_the_documented_exceptions(names: list[str]) -> None:
    """230 tests; what no kind passes is in EXCEPTIONS (five at most) and nothing is skipped everywhere."""
    assert len(names) == 230
    together = merged([kind.expected(names) for kind in KINDS])
    assert sorted(together) == names
    assert {name for name, verdict in together.items() if verdict != PASS} == EXCEPTIONS
    assert len(EXCEPTIONS) <= 5
    document = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()
    assert [name for name in EXCEPTIONS if name not in document] == []


@needs_the_suite
def test_the_published_table_says_what_is_expected(names: list[str]) -> None:
    """Every row of docs/conformance.md: the column of all kinds together, and what was recorded elsewhere."""
    document = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()
    rows = table({"sancredit, merged": merged([kind.expected(names) for kind in KINDS])}, RECORDED)
    lines = [line.strip("| ").split(" | ") for line in document.splitlines() if line.startswith("| ")]
    published = [[cells[0], cells[1], *cells[-len(RECORDED) :]] for cells in lines]
    assert [row for row in rows if row not in published] == []


@needs_the_suite
def test_tgtd_passes_nothing_that_we_do_not_and_shares_the_exceptions(
    names: list[str], tmp_path: Path
) -> None:
    """In the same job, the same tool: an exception of ours is one of tgtd too, so it is the tool's."""
    try:
        with tgtd(tmp_path) as url:
            theirs = {name: verdict_of(run_one((url, url), name)) for name in names}
    except Missing as missing:
        pytest.skip(str(missing))
    ours = merged([kind.expected(names) for kind in KINDS])
    assert {name for name in names if theirs[name] == PASS and ours[name] != PASS} == set()
    assert {name: theirs[name] for name in EXCEPTIONS} == dict.fromkeys(EXCEPTIONS, FAIL)
    assert sum(verdict == PASS for verdict in theirs.values()) >= 150, "tgtd did not really run"


# -- the runner itself ------------------------------------------------------------------------------------------------


def test_a_test_counts_as_passed_when_some_kind_passes_it_and_as_failed_before_skipped() -> None:
    one = {"A.x": PASS, "A.y": FAIL, "A.z": SKIP}
    two = {"A.x": FAIL, "A.y": SKIP, "A.z": SKIP, "A.w": FAIL}
    assert merged([one, two]) == {"A.w": FAIL, "A.x": PASS, "A.y": FAIL, "A.z": SKIP}
    assert merged([two, one]) == merged([one, two])


def test_the_table_counts_by_family_and_marks_what_was_recorded() -> None:
    rows = table(
        {"ours": {"Unmap.VPD": PASS, "Unmap.Simple": SKIP, "iSCSITMF.LUNResetSimpleAsync": FAIL}}, RECORDED
    )
    assert rows[0] == ["suite", "ours", "LIO (recorded)", "istgt 0.4 (recorded)"]
    assert rows[1] == ["iSCSITMF", "0 / 1 / 0", "1 / 0 / 0", "? / 1 / ?"]
    assert rows[2][:2] == ["Unmap", "1 / 0 / 1"]
    assert rows[-1][:2] == ["**all**", "1 / 1 / 1"]


def _tool(folder: Path, monkeypatch: pytest.MonkeyPatch, said: str, status: int) -> None:
    script = folder / "iscsi-test-cu"
    script.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\nexit {status}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.parametrize(
    ("said", "status", "verdict"),
    [
        ("               tests      1      1      1      0        0", 0, PASS),
        ("[SKIPPED] not removable\n               tests      1      1      1      0        0", 0, SKIP),
        ("[FAILED] it\n               tests      1      1      0      1        0", 0, FAIL),
        ("    1. test_x.c:157  - CU_ASSERT_EQUAL(a,1)malloc(): corrupted", 134, FAIL),
        ("Failed to login", 10, FAIL),
    ],
)
def test_what_the_tool_says_becomes_a_verdict(
    said: str, status: int, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash, or a log in that fails, is no pass."""
    _tool(tmp_path, monkeypatch, said, status)
    assert verdict_of(run_one(("iscsi://127.0.0.1:1/x/0",), "Unmap.VPD")) == verdict
