"""The target under load and faults: no byte wrong, no command lost, flat memory, nothing left over.

The long form: ``make soak``; SANCREDIT_SOAK_SECONDS and SANCREDIT_SOAK_COMMANDS shorten it.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tools.bench.iscsi_soak import COMMANDS, SECONDS, SoakReport, soak


def check(report: SoakReport) -> None:
    print(report.as_text())
    assert report.problems == ()
    assert report.own_commands > 0
    assert sum(report.faults.values()) > 0


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_ten_seconds_of_load_and_faults_leave_every_byte_right(tmp_path: Path) -> None:
    check(asyncio.run(soak(10, COMMANDS, 7, tmp_path)))


@pytest.mark.soak
def test_a_long_time_of_load_and_faults_leaves_every_byte_right_and_memory_flat(tmp_path: Path) -> None:
    seconds = float(os.environ.get("SANCREDIT_SOAK_SECONDS", SECONDS))
    commands = int(os.environ.get("SANCREDIT_SOAK_COMMANDS", COMMANDS))
    check(asyncio.run(soak(seconds, commands, 1, tmp_path)))


def report(**changed: object) -> SoakReport:
    values: dict[str, object] = {
        "seconds": 100.0,
        "commands": 1000,
        "libiscsi": {"commands": 500, "retries": 1},
        "own_commands": 500,
        "own_retries": {},
        "faults": {"busy": 3, "reset": 1},
        "memory": [50 << 20] * 40,
        "left_over": {"connections": 0.0},
    }
    return SoakReport(**(values | changed))  # type: ignore[arg-type]


def test_a_soak_without_a_problem_has_none() -> None:
    assert report().problems == ()
    # what the first quarter needs is warming up
    assert report(memory=[1 << 20] * 10 + [50 << 20] * 30).problems == ()


def test_memory_that_grows_is_a_problem() -> None:
    leaking = [(50 << 20) + sample * (200 << 10) for sample in range(40)]
    assert report(memory=leaking).problems == ("memory grew by 3.9 MiB; 3.0 MiB are allowed",)
    assert report(memory=leaking, seconds=10.0).problems == ()  # too short to tell growth from warming up


def test_what_is_left_over_and_what_somebody_complains_of_are_problems() -> None:
    found = report(left_over={"connections": 2.0}, complaints=("1 blocks were wrong",))
    assert found.problems == ("1 blocks were wrong", "left over at the end: connections 2")
    assert "PROBLEM: 1 blocks were wrong" in found.as_text()


def test_a_rule_that_never_fires_in_a_long_soak_is_a_problem() -> None:
    faults = {"busy": 3, "reset": 0}
    assert report(faults=faults).problems == ("rule reset never fired",)
    assert report(faults=faults, seconds=10.0).problems == ()
    assert len(report(faults=dict.fromkeys(faults, 0), seconds=10.0).problems) == 2
