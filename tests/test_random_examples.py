"""The examples of property tests: the same in every run of the suite, new ones under `make soak`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent


def import_odd_module(folder: Path) -> None:
    """Import a module of so many constants that most of those in examples would be its own."""
    path = folder / "odd.py"
    path.write_text(f"NUMBERS = {list(range(10**9, 10**9 + 1000))}\n")
    spec = importlib.util.spec_from_file_location("odd", path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["odd"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["odd"])


def test_property_tests_see_the_same_examples_whatever_was_imported_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    if pytestconfig.getoption("--hypothesis-profile") == "random":
        pytest.skip("new examples were asked for")
    assert settings.get_current_profile_name() == "same"
    drawn: list[tuple[int, str]] = []

    @settings(max_examples=300)
    @given(st.integers(), st.text())
    def collect(number: int, word: str) -> None:
        drawn.append((number, word))

    collect()
    first = drawn.copy()
    drawn.clear()
    monkeypatch.setitem(sys.modules, "odd", sys)
    import_odd_module(tmp_path)
    collect()
    assert drawn == first
    assert len(set(first)) > 200


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_property_tests_hold_for_ten_minutes_of_new_examples() -> None:
    """A failure prints the `@reproduce_failure` line that makes the example again."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--hypothesis-profile=random"]
    command += ["-m", "hypothesis and not slow and not lab and not soak"]
    end = time.monotonic() + 600
    while time.monotonic() < end:
        done = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=2400,
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-20_000:]}{done.stderr[-4000:]}"
