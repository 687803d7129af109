"""Settings that every test shares."""

from __future__ import annotations

import signal
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.constants_ast import Constants

from tools.lab import session

ROOT = Path(__file__).resolve().parent.parent
_OWNS_GUEST = pytest.StashKey[bool]()

# Wall-clock deadlines and the check of the speed make property tests fail on busy machines. The examples are the same
# in every run; new ones are for the soak (tests/test_random_examples.py), or for who asks for them with
# --hypothesis-profile=random.
_BUSY = (HealthCheck.too_slow,)
settings.register_profile("same", deadline=None, derandomize=True, suppress_health_check=_BUSY)
settings.register_profile("random", deadline=None, print_blob=True, suppress_health_check=_BUSY)
settings.load_profile("same")
_SLOW_TIMEOUT_S = 400
_CONSTANTS = "hypothesis.internal.conjecture.providers._get_local_constants"


def pytest_configure(config: pytest.Config) -> None:
    """Have property tests see the same examples in every run. Stop when a compiled kernel is older than its source: the
    tests would judge yesterday's code."""
    if config.getoption("--hypothesis-profile") in (None, "same"):
        # Hypothesis draws constants from the modules that are imported: which they are depends on the other tests.
        pytest.MonkeyPatch().setattr(_CONSTANTS, Constants)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # In the background of a shell, or under nohup: programs that tests start would ignore it too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for head in ("fcsim", "iscsi_target", "tools"):
        for source in (ROOT / head).rglob("*_kernel.p*"):
            for suffix in EXTENSION_SUFFIXES:
                compiled = source.with_suffix(suffix)
                if compiled.exists() and compiled.stat().st_mtime < source.stat().st_mtime:
                    pytest.exit(f"{compiled.name} is older than {source.name}: pip install -e . again", 4)
    config.stash[_OWNS_GUEST] = session.begin()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts processes may take longer on a busy machine than what does not; a test may say its own limit."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_SLOW_TIMEOUT_S))


def pytest_unconfigure(config: pytest.Config) -> None:
    """The lab's guest ends with the session, whichever worker started it."""
    if config.stash.get(_OWNS_GUEST, False):
        session.end()
