"""Running a whole process without compiled kernels."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from iscsi_target import fast_path_kernel

SAY = "from iscsi_target.fast_path_kernel import COMPILED; print(COMPILED)"


@pytest.mark.parametrize("variable", ["", "1"])
def test_a_variable_keeps_compiled_kernels_out_of_a_whole_process(variable: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SAY],
        env=os.environ | {"SANCREDIT_PLAIN": variable},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert done.stdout.strip() == str(fast_path_kernel.COMPILED and not variable)
