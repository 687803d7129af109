"""A target in a thread, and initiators to disturb."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from iscsi_target.initiator import Initiator
from iscsi_target.running import RunningTarget, serve
from tests.iscsi_target.faults.raw_initiator import RawInitiator


@pytest.fixture
def target() -> Iterator[RunningTarget]:
    with serve("4MiB", "4MiB", seed=7) as running:
        yield running


@pytest.fixture
def raw(target: RunningTarget) -> Iterator[RawInitiator]:
    """A session whose unit attention is taken."""
    with RawInitiator(target.host, target.port, target.iqn) as initiator:
        initiator.clear_attention()
        yield initiator


@pytest.fixture
def session(target: RunningTarget) -> Callable[[Callable[[Initiator], Coroutine[Any, Any, Any]]], Any]:
    """Runs a coroutine function with a session of our initiator whose unit attention is taken."""

    def run(use: Callable[[Initiator], Coroutine[Any, Any, Any]], **options: Any) -> Any:
        async def main() -> Any:
            initiator = await Initiator.login(target.host, target.port, target.iqn, **options)
            await initiator.test_unit_ready(0)
            await initiator.test_unit_ready(1)
            try:
                return await asyncio.wait_for(use(initiator), 90)
            finally:
                target.faults.clear()
                await initiator.abort()

        return asyncio.run(main())

    return run
