"""Fixtures that several tests of the management share: the store in both kinds of database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mgmt.databases import Opener, Server, opener, server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], Server]]:
    """Starts one PostgreSQL for the session when it is first asked for."""
    running: list[Server] = []
    with ExitStack() as stack:

        def start() -> Server:
            if not running:
                running.append(stack.enter_context(server()))
            return running[0]

        yield start


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def open_it(request: pytest.FixtureRequest, tmp_path: Path, postgresql: Callable[[], Server]) -> Opener:
    """Opens the test's store, in each kind of database."""
    return opener(request.param, tmp_path, postgresql)
