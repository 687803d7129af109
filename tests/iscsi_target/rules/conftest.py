"""Fixtures of the rule tests: real targets over loopback TCP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.iscsi_target.rules.real_target import RealTarget


@pytest.fixture
def serve() -> Iterator[Callable[..., RealTarget]]:
    """Serves targets of given settings; they are stopped after the test."""
    served: list[RealTarget] = []

    def make(**options: Any) -> RealTarget:
        served.append(RealTarget(**options))
        return served[-1]

    yield make
    for target in served:
        target.stop()


@pytest.fixture
def target(serve: Callable[..., RealTarget]) -> RealTarget:
    """A target of the default settings: error recovery level 2, if the initiator wants it."""
    return serve()
