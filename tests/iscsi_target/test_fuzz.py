"""Coverage-guided fuzzing of PDU parser, texts and whole sessions; the engine's own promises; the stored corpus."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest

from tests.iscsi_target.fuzz.engine import (
    GROWTH_LIMIT_BYTES,
    HANG_S,
    PACKAGE,
    Finding,
    Fuzzer,
    failure_of,
    memory_left,
    minimised,
    read_corpus,
)
from tests.iscsi_target.fuzz.targets import TARGETS
from tests.iscsi_target.fuzz.text import TextTarget

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(TARGETS)
COMPILED = [path for suffix in EXTENSION_SUFFIXES for path in PACKAGE.rglob(f"*_kernel{suffix}")]


# -- the stored corpus -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_stored_input_is_survived(name: str) -> None:
    target = TARGETS[name]()
    stored = read_corpus(name)
    assert stored
    for number, data in enumerate(stored):
        failure = failure_of(target, data)
        assert failure is None, f"input {number} of {name}.hex: {failure[1]}"


@pytest.mark.parametrize("name", NAMES)
def test_running_the_seeds_again_leaves_no_memory_behind(name: str) -> None:
    target = TARGETS[name]()
    growth, peak = memory_left(target, random.Random(1).sample(target.seeds(), 20))
    assert growth <= GROWTH_LIMIT_BYTES
    assert peak <= target.peak_limit_bytes


# -- the engine --------------------------------------------------------------------------------------------------------


NEEDLE = b"MaxBurstLength=512\0"


class Planted(TextTarget):
    """The text target with a defect behind one text."""

    def __init__(self, defect: Callable[[], object], needle: bytes = NEEDLE) -> None:
        super().__init__()
        self._defect = defect
        self._needle = needle

    def run(self, data: bytes) -> None:
        super().run(data)
        if self._needle in data:
            self._defect()


def spin() -> None:
    while True:
        pass


def raise_key_error() -> None:
    raise KeyError("planted")


@pytest.mark.parametrize(
    ("defect", "words", "hang_s"), [(raise_key_error, "KeyError", HANG_S), (spin, "Hang", 0.5)]
)
def test_a_planted_defect_is_found_minimised_and_can_be_replayed(
    defect: Callable[[], object], words: str, hang_s: float
) -> None:
    target = Planted(defect)
    data = bytes((0,)) + b"SessionType=Normal\0InitiatorName=x\0MaxBurstLength=512\0DataDigest=None\0"
    failure = failure_of(target, data, hang_s=hang_s)
    assert failure is not None
    assert words in failure[0]
    small = minimised(target, data, hang_s=hang_s, tries=200)
    assert small == NEEDLE
    finding = str(Finding("text", small, failure[1]))
    assert small.hex() in finding
    assert words in finding


def test_the_fuzzer_finds_a_planted_defect_by_itself() -> None:
    needle = b"InitialR2T=No\0InitialR2T=No\0"
    outcome = Fuzzer(Planted(raise_key_error, needle), seed=4).run(math.inf, 50_000)
    assert isinstance(outcome, Finding)
    assert outcome.data == needle
    assert "KeyError: 'planted'" in outcome.trace


def test_memory_that_stays_is_seen() -> None:
    kept: list[bytes] = []
    target = Planted(lambda: kept.append(bytes(100_000)))
    growth, _ = memory_left(target, [b"\0" + NEEDLE])
    assert growth > GROWTH_LIMIT_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_makes_the_same_inputs(name: str) -> None:
    target = TARGETS[name]()
    data, other = target.seeds()[0], target.seeds()[-1]
    runs = [
        [target.mutate(rng, data, other) for _ in range(50)] for rng in (random.Random(9), random.Random(9))
    ]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) > 25


# -- the runs ----------------------------------------------------------------------------------------------------------


INPUTS = {"pdu": 25_000, "text": 30_000, "session": 2_000}
"""Some fifteen seconds each where nothing else runs; a slow machine gets less far in the same sequence."""
SEED = 1


def fuzz(
    name: str, seconds: int, seed: int, *, inputs: int | None = None, pure: bool = False
) -> dict[str, Any]:
    """Fuzz in a process of its own, where every warning is an error and nothing else takes memory.

    The inputs follow from `seed` alone. What fails says with what command it is run again, and what it found the one
    that replays just that.
    """
    command = [sys.executable, "-W", "error", "-m", "tests.iscsi_target.fuzz", "run", name]
    command += ["--seconds", str(seconds), "--seed", str(seed), *(["--pure"] if pure else [])]
    command += [] if inputs is None else ["--inputs", str(inputs)]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds * 3 + 300,
    )
    run_again = f"PYTHONHASHSEED=0 {' '.join(command)}"
    assert done.returncode == 0, f"{run_again}\n{done.stdout[-20_000:]}{done.stderr[-4000:]}"
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["inputs"] > 100
    return report


TWINS = pytest.mark.parametrize(
    "pure",
    [
        pytest.param(False, id="as-installed"),
        pytest.param(
            True,
            id="pure-twins",
            marks=pytest.mark.skipif(
                not COMPILED, reason="no compiled kernel of the target: the pure code is what runs"
            ),
        ),
    ],
)


@pytest.mark.slow
@pytest.mark.timeout(400)
@TWINS
@pytest.mark.parametrize("name", NAMES)
def test_the_same_inputs_as_every_time_find_nothing(name: str, pure: bool) -> None:
    """A guard against what changed in the code, so the inputs are the same in every run; new ones are for the soak."""
    fuzz(name, 20, SEED, inputs=INPUTS[name], pure=pure)


@pytest.mark.soak
@pytest.mark.timeout(2400)
@TWINS
@pytest.mark.parametrize("name", NAMES)
def test_ten_minutes_of_new_inputs_find_nothing(name: str, pure: bool) -> None:
    fuzz(name, 600, time.time_ns() % 1_000_000_000, pure=pure)
