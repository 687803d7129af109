"""Running a whole process without compiled kernels, and saying the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from fcsim.engine import fabric_kernel

SAY = """
import json
from array import array
from pathlib import Path
from fcsim.engine import fabric_kernel, fabric_memory_kernel, fabric_traffic_kernel, link_kernel
from fcsim.engine.link import LinkRun, LinkScenario
from fcsim.fabric.plan import make_plan
from fcsim.fabric.results import report
from fcsim.fabric.scenario_file import load_scenario
from fcsim.fabric.simulation import simulate
from fcsim.speeds import SPEEDS
run = LinkRun(LinkScenario(SPEEDS["8G"], 10_000, 7))
run.send_block(array("q", bytes(8 * 500)), array("q", [900]) * 500)
outcome = simulate(make_plan(load_scenario(Path("examples/fabric-slow-drain.toml"))), until_ns=1_000_000)
kernels = (fabric_kernel, fabric_memory_kernel, fabric_traffic_kernel, link_kernel)
compiled = {kernel.COMPILED for kernel in kernels}
print(json.dumps([sorted(compiled), run.totals().end_ticks, report(outcome)]))
"""


def told(variable: str) -> tuple[list[bool], object]:
    done = subprocess.run(
        [sys.executable, "-c", SAY],
        env=os.environ | {"SANCREDIT_PLAIN": variable},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    compiled, *said = json.loads(done.stdout)
    return compiled, said


@pytest.mark.slow
def test_a_variable_keeps_compiled_kernels_out_of_a_whole_process_and_changes_no_result() -> None:
    fast, plain = told(""), told("1")
    assert fast[0] == [fabric_kernel.COMPILED]
    assert plain[0] == [False]
    assert fast[1] == plain[1]
