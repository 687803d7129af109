"""How the connections of a group share a reservation when some are away (GAP-16, paragraph 97)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from credits.allocation import Allocation
from credits.config import PoolConfig, UnitKind
from credits.durable import DurablePool
from credits.targets import port_pair
from mgmt.array.replication.engine import share
from mgmt.array.replication.group_record import Mode
from mgmt.array.replication.job import Slot
from mgmt.array.replication.link_set import LinkSet
from mgmt.array.replication.transport import Buffer, LinkLost, LinkTraffic, ScsiOutcome
from tests.mgmt.test_replication_group import Bench, running

PAIR = port_pair("a", "b")
SLOTS = tuple(Slot(session, connection) for session in range(2) for connection in range(3))
UNIT = 10


class Area:
    """A pool with a reservation for the pair; what each connection has of it is the pool's word, not ours."""

    def __init__(self, units: int) -> None:
        config = PoolConfig(name="p", kind=UnitKind.TCP, unit_bytes=UNIT, total_units=100)
        self.pool = DurablePool.open(None, config)
        self.pool.reserve(PAIR, units * UNIT, request_id="r", now_ns=0)

    def reserved(self, _target: object = PAIR) -> int:
        return self.pool.reservation_table()[0].reserved_units

    def update(self, units: int) -> None:
        self.pool.update(PAIR, units * UNIT, request_id=f"u{units}", now_ns=0)

    def allocate(self, slot: Slot) -> Allocation:
        """As a group does: an even share among all its connections, present or not."""
        units = max(1, share(self.reserved(), SLOTS.index(slot), len(SLOTS)))
        return self.pool.allocate([PAIR], units, holder=str(slot), at_most=True)

    def idle(self) -> int:
        self.pool.audit()
        return self.pool.statistics().reserved_idle_units


class Link:
    """A connection that only has units."""

    capacity_bytes, outstanding_limit = 1 << 20, 1

    def __init__(self, pool: DurablePool, allocation: Allocation) -> None:
        self._pool = pool
        self.allocation = allocation
        self.lost: str | None = None

    async def execute(
        self, lun: int, cdb: bytes, *, data_out: Sequence[Buffer] = (), data_in_length: int = 0
    ) -> ScsiOutcome:
        raise AssertionError("nothing is sent here")

    async def write(self, offset_bytes: int, data: Sequence[Buffer]) -> None:
        raise AssertionError("nothing is sent here")

    async def flush(self) -> None:
        raise AssertionError("nothing is sent here")

    async def resize(self, units: int) -> None:
        more = units - self.allocation.units
        if more > 0:
            self._pool.grow(self.allocation, more)
        elif more:
            self._pool.free(self.allocation, -more)

    def traffic(self) -> LinkTraffic:
        return LinkTraffic(in_flight_bytes=0, max_in_flight_bytes=0, sent_bytes=0)

    async def close(self) -> None:
        self._pool.free(self.allocation)


class Wire:
    """Connects every slot but those that the remote array does not take."""

    def __init__(self, area: Area, away: Sequence[Slot] = ()) -> None:
        self._area = area
        self.away = set(away)
        self.links: dict[Slot, Link] = {}

    async def connect(self, slot: Slot, allocation: Allocation) -> Link:
        if slot in self.away:
            self._area.pool.free(allocation)
            raise LinkLost(f"{slot} is away")
        self.links[slot] = Link(self._area.pool, allocation)
        return self.links[slot]

    def opened(self) -> LinkSet:
        return LinkSet(self, SLOTS, self._area.allocate, timeout_s=1, unmap=False)

    def units(self) -> list[int]:
        return [link.allocation.units for _, link in sorted(self.links.items())]


def test_whoever_is_present_shares_all_that_is_reserved_and_a_new_set_shares_it_evenly_again() -> None:
    """Connections live and die together: none comes back to a set that is up, so nothing is kept for those away."""

    async def body() -> None:
        area = Area(12)
        wire = Wire(area, away=SLOTS[4:])
        links = wire.opened()
        await links.open()
        assert (wire.units(), len(links.refusals)) == ([2, 2, 2, 2], 2)
        area.update(26)
        await links.resize(area.reserved)
        assert (wire.units(), area.idle()) == ([7, 7, 6, 6], 0)
        area.update(9)
        await links.resize(area.reserved)
        assert (wire.units(), area.idle()) == ([3, 2, 2, 2], 0)
        wire.links[SLOTS[0]].lost = "the line was cut"
        assert await links.wait_until_lost() == "the line was cut", "one is lost, and so are all"
        await links.close()
        assert area.idle() == 9
        area.update(24)
        wire.away.clear()
        again = wire.opened()
        await again.open()
        assert (wire.units(), again.refusals) == ([4] * 6, []), "who was away has as much as the others"
        await again.close()
        assert area.idle() == 24

    asyncio.run(asyncio.wait_for(body(), 60))


def test_a_reservation_that_changes_while_the_connections_come_up_is_followed_when_they_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed: list[Callable[..., int]] = []

    async def resize(_links: LinkSet, reserved_units: Callable[..., int]) -> None:
        followed.append(reserved_units)

    def units(_target: object) -> int:
        raise AssertionError("nobody asks in this test")

    async def body() -> None:
        bench = Bench(tmp_path, Mode.ASYNC)
        await bench.group.resized(units)
        assert followed == [], "there is nobody to follow yet"
        async with running(bench):
            await bench.until(lambda: bench.paired)
        assert followed == [units]

    monkeypatch.setattr(LinkSet, "resize", resize)
    asyncio.run(asyncio.wait_for(body(), 60))
