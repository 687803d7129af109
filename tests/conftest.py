"""Settings that every test shares."""

from __future__ import annotations

import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from hypothesis import settings

from tools.lab import session

ROOT = Path(__file__).resolve().parent.parent
_OWNS_GUEST = pytest.StashKey[bool]()

# Wall-clock deadlines make property tests fail on busy machines; CI repeats the same examples every time.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_configure(config: pytest.Config) -> None:
    """Stop when a compiled kernel is older than its source: the tests would judge yesterday's code."""
    for head in ("fcsim", "iscsi_target", "tools"):
        for source in (ROOT / head).rglob("*_kernel.p*"):
            for suffix in EXTENSION_SUFFIXES:
                compiled = source.with_suffix(suffix)
                if compiled.exists() and compiled.stat().st_mtime < source.stat().st_mtime:
                    pytest.exit(f"{compiled.name} is older than {source.name}: pip install -e . again", 4)
    config.stash[_OWNS_GUEST] = session.begin()


def pytest_unconfigure(config: pytest.Config) -> None:
    """The lab's guest ends with the session, whichever worker started it."""
    if config.stash.get(_OWNS_GUEST, False):
        session.end()
