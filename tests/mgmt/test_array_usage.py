"""The controller of paragraph 51 at work: connections of a copy keep the units they use."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from credits.config import PoolConfig, UnitKind
from credits.durable import DurablePool
from credits.targets import port_pair
from credits.usage import UsagePolicy
from mgmt.array.replication.job import Slot
from mgmt.array.replication.transport import LinkTraffic
from mgmt.array.replication.usage_follower import UsageFollower
from mgmt.http import PeerRefused
from tests.mgmt.array_processes import MASTER, REMOTE, array, configured_array, start_copy, start_requests

PAIR = port_pair("a", "b")
PERIOD_NS = 100_000_000


class Link:
    """A link that resizes its allocation at once and says what it has in flight."""

    def __init__(self, pool: DurablePool, units: int) -> None:
        self._pool = pool
        self.allocation = pool.allocate([PAIR], units, holder="copy")
        self.in_flight = 0

    async def resize(self, units: int) -> None:
        surplus = self.allocation.units - units
        if surplus > 0:
            self._pool.free(self.allocation, surplus)
        else:
            self._pool.grow(self.allocation, -surplus)

    def traffic(self) -> LinkTraffic:
        return LinkTraffic(in_flight_bytes=self.in_flight, max_in_flight_bytes=0, sent_bytes=0)


def followed(*units: int) -> tuple[UsageFollower, list[Link], list[int]]:
    pool = DurablePool.open(None, PoolConfig(name="p", kind=UnitKind.TCP, unit_bytes=10, total_units=100))
    pool.reserve(PAIR, 40 * 10, request_id="r", now_ns=0)
    links, clock = [Link(pool, size) for size in units], [0]
    follower = UsageFollower(
        UsagePolicy(max_units=1 << 30, period_ns=PERIOD_NS),
        lambda: {Slot(0, number): link for number, link in enumerate(links)},  # type: ignore[misc]
        lambda target: 40 if target == PAIR else 0,
        lambda: clock[0],
    )
    return follower, links, clock


def test_a_full_connection_grows_and_an_idle_one_shrinks_period_by_period() -> None:
    follower, (full, _), clock = followed(20, 20)
    full.in_flight = 200
    assert follower.look() == {}
    clock[0] = PERIOD_NS
    assert follower.look() == {Slot(0, 0): 30, Slot(0, 1): 15}


def test_no_connection_wants_more_than_the_reservation_or_less_than_one_unit() -> None:
    follower, (full, _), clock = followed(38, 1)
    full.in_flight = 380
    follower.look()
    clock[0] = PERIOD_NS
    assert follower.look() == {Slot(0, 0): 40}


def test_what_one_gives_back_the_other_gets_and_never_more_than_there_is() -> None:
    async def body() -> None:
        follower, (full, idle), clock = followed(20, 20)
        full.in_flight = 200
        running = asyncio.create_task(follower.run())
        try:
            while full.allocation.units + idle.allocation.units < 40 or full.allocation.units == 20:
                clock[0] += PERIOD_NS
                await asyncio.sleep(0.001)
            while idle.allocation.units > 1:
                clock[0] += PERIOD_NS
                full.in_flight = full.allocation.units * 10
                await asyncio.sleep(0.001)
                assert full.allocation.units + idle.allocation.units <= 40
        finally:
            running.cancel()

    asyncio.run(asyncio.wait_for(body(), 100))


@pytest.mark.slow
def test_a_running_copy_resizes_its_connections_and_gives_everything_back(tmp_path: Path) -> None:
    text = f"""
port_address = "{MASTER}"
iscsi_port = 0
unit = "4KiB"
units = 200
[usage]
upper_percent = 20
lower_percent = 10
period = "20ms"
[[volume]]
name = "vol0"
store = "512MiB"
"""
    with (
        configured_array(tmp_path, "east", text) as east,
        array(tmp_path, "west", REMOTE, "--volume", "vol0=512MiB") as west,
    ):
        east.reserve(100 * 4096)
        answers = start_copy(east, start_requests(west.port, 1, 2))
        assert not any(isinstance(answer, PeerRefused) for answer in answers)
        sizes = set()
        while (status := east.status()).state in ("starting", "copying", "flushing"):
            rows = [row for row in east.table("allocations") if row["reserved"]]
            sizes |= {row["allocated_units"] for row in rows}
            assert all(row["allocated_units"] <= 100 for row in rows)
        assert east.wait_until_over().state == "done", status
        assert east.digest() == west.digest()
        assert east.pool["reserved_idle_units"] == 100
        assert len(sizes) > 1, "nobody was resized"
