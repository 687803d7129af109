"""The usage-rate controller: grows when busy, shrinks when idle, inside its bounds (paragraph 51, GAP-17)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credits import InvalidRequest
from credits.usage import UsagePolicy, UsageRateController, follow

if TYPE_CHECKING:
    from conftest import World

PERIOD = 1000


def after(size: int, used: int, **policy: Any) -> int:
    controller = UsageRateController(UsagePolicy(max_units=40, period_ns=PERIOD, **policy), size, 0)
    controller.receive(used, 0)
    assert controller.next_deadline() == PERIOD
    return controller.handle_timer(PERIOD)


@pytest.mark.parametrize(
    ("size", "used", "wanted"),
    [
        (10, 9, 15),
        (10, 8, 10),  # exactly the upper rate is not above it
        (10, 3, 10),
        (10, 2, 8),
        (10, 0, 8),
        (1, 1, 2),
        (2, 0, 1),
        (1, 0, 1),
        (30, 30, 40),
        (40, 40, 40),
    ],
)
def test_the_size_follows_the_average_usage(size: int, used: int, wanted: int) -> None:
    assert after(size, used) == wanted


def test_the_average_is_weighted_by_time() -> None:
    controller = UsageRateController(UsagePolicy(max_units=40, period_ns=PERIOD), 10, 0)
    controller.receive(10, 0)
    controller.receive(0, 500)
    controller.receive(1, 999)
    assert controller.handle_timer(PERIOD) == 10, "half the time in full use is neither busy nor idle"
    assert controller.next_deadline() == 2 * PERIOD


def test_it_never_shrinks_below_what_is_in_use() -> None:
    controller = UsageRateController(UsagePolicy(max_units=40, period_ns=PERIOD, shrink_percent=100), 10, 0)
    controller.receive(7, 999)
    assert controller.handle_timer(PERIOD) == 7


@given(
    st.integers(1, 40),
    st.integers(1, 60),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 300)), max_size=30),
)
def test_it_stays_inside_its_bounds(least: int, start: int, usage: list[tuple[int, int]]) -> None:
    policy = UsagePolicy(min_units=least, max_units=40, period_ns=100)
    controller = UsageRateController(policy, start, 0)
    now = 0
    for used, elapsed in usage:
        now += elapsed
        controller.receive(min(used, controller.size_units), now)
        if controller.next_deadline() <= now:
            assert least <= controller.handle_timer(now) <= 40


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_units": 0},
        {"min_units": 41},
        {"lower_percent": 80},
        {"upper_percent": 101},
        {"grow_percent": 0},
        {"shrink_percent": 101},
        {"period_ns": 0},
    ],
)
def test_a_policy_without_sense_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidRequest):
        UsagePolicy(**{"max_units": 40, **wrong})


def test_an_allocation_follows_within_its_reservation(world: World) -> None:
    pool = world.pool()
    pool.reserve(world.p1, world.bytes(20), **world.once())
    allocation = pool.allocate([world.p1], 5, holder="one")
    pool.allocate([world.p1], 5, holder="two")
    assert follow(pool, allocation, 12) == 12
    assert follow(pool, allocation, 18) == 15, "never beyond the reservation"
    assert follow(pool, allocation, 18) == 15
    assert follow(pool, allocation, 3) == 3
    assert follow(pool, allocation, 3) == 3
    assert pool.statistics().free_units == 80
    pool.audit()
