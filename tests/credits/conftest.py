"""The two worlds of section H: the same tests run on TCP memory buffers and on Fibre Channel credits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from credits import Pool, PoolConfig, Target, UnitKind, new_connection, port_pair, port_pair_number


@dataclass
class World:
    """One unit kind with its addresses, and a supply of request IDs."""

    config: PoolConfig
    ports: tuple[tuple[str, str], tuple[str, str]]
    numbers: tuple[int, int]
    request_ids: Iterator[str] = field(default_factory=lambda: (f"request-{n}" for n in itertools.count()))

    def pool(self, **changes: Any) -> Pool:
        return Pool(self.changed(**changes))

    def changed(self, *, pages: int = 0, **changes: Any) -> PoolConfig:
        """The fixture's config; ``pages`` of two units each."""
        per_page = {"block_units": 2} if self.config.kind is UnitKind.FC else {"page_bytes": 4096}
        return replace(self.config, unsplit_pages=pages, **({**per_page, **changes} if pages else changes))

    def bytes(self, units: int) -> int:
        return units * self.config.unit_bytes

    def once(self) -> dict[str, Any]:
        """The arguments every mutating verb wants."""
        return {"request_id": next(self.request_ids), "now_ns": 0}

    @property
    def p1(self) -> Target:
        return port_pair(*self.ports[0])

    @property
    def p2(self) -> Target:
        return port_pair(*self.ports[1])

    def numbered(self, number: int) -> Target:
        return port_pair_number(*self.ports[0], number)

    def new_connection(self) -> Target:
        return new_connection(*self.ports[0])


TCP = World(
    PoolConfig(name="fixture", kind=UnitKind.TCP, unit_bytes=2048, total_units=100),
    (("211.19.1.20", "133.185.12.20"), ("211.19.3.85", "172.83.1.21")),
    (25, 3260),
)
FC = World(
    PoolConfig(name="fixture", kind=UnitKind.FC, unit_bytes=2148, total_units=100),
    (("10000000c9a1b2c3", "50060e8005274900"), ("10000000c9a1b2c4", "50060e8005274901")),
    (0x08, 0x28),
)


@pytest.fixture(params=[TCP, FC], ids=["tcp", "fc"])
def world(request: pytest.FixtureRequest) -> World:
    return replace(request.param, request_ids=(f"request-{n}" for n in itertools.count()))


@pytest.fixture
def counted(world: World) -> Callable[[Pool], dict[str, int]]:
    """The pool's terms as a dictionary, after checking the law the long way."""

    def count(pool: Pool) -> dict[str, int]:
        pool.audit()
        statistics = pool.statistics()
        assert statistics.conserved
        return {
            "free": statistics.free_units,
            "idle": statistics.reserved_idle_units,
            "in_use": statistics.in_use_units,
            "draining": statistics.draining_units,
        }

    return count
