"""GAP-18: connections that share a buffer ID, and the minimum that each of them is sure of."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from credits import (
    Allocation,
    Code,
    CreditError,
    DurablePool,
    InvalidRequest,
    Pool,
    PoolConfig,
    Refused,
    Sharing,
    StoreError,
    Target,
    UnitKind,
    new_connection,
)
from credits.journal_format import FORMAT, MIGRATIONS
from credits.sharing import CONNECTIONS_LIMIT
from credits.verbs import Reserve, Update, UpdateSeveral

if TYPE_CHECKING:
    from conftest import World


def shared(
    world: World, pool: Pool | DurablePool, units: int, connections: int = 2, minimum: int = 5
) -> Target:
    sharing = Sharing(connections=connections, minimum_bytes=world.bytes(minimum))
    result = pool.reserve(world.new_connection(), world.bytes(units), sharing=sharing, **world.once())
    return result.target


def test_a_connection_may_not_take_what_the_other_is_sure_of(world: World) -> None:
    pool = world.pool()
    target = shared(world, pool, 20)
    first = pool.allocate([target], 15, holder="first")
    before = pool.statistics(), pool.reservation_table(), pool.allocation_table()
    with pytest.raises(Refused, match=r"5 are left.*5 of them kept for other connections") as refusal:
        pool.allocate([target], 1, holder="first")
    assert refusal.value.code is Code.OVER_RESERVATION
    assert refusal.value.shortage is not None
    assert refusal.value.shortage.grantable_units == 0
    with pytest.raises(Refused):
        pool.grow(first, 1)
    assert pool.try_allocate([target], 1, "first", True) is None
    assert (pool.statistics(), pool.reservation_table(), pool.allocation_table()) == before
    second = pool.allocate([target], 5, holder="second")
    pool.audit()
    pool.free(first, 3)
    pool.grow(second, 3)
    assert second.units == 8
    pool.audit()


def test_at_most_grants_what_is_left_beside_the_minima_and_the_refusal_names_it(world: World) -> None:
    pool = world.pool()
    target = shared(world, pool, 20, connections=3)
    with pytest.raises(Refused) as refusal:
        pool.allocate([target], 11, holder="a")
    assert refusal.value.shortage is not None
    assert refusal.value.shortage.grantable_units == 10
    assert pool.allocate([target], 11, holder="a", at_most=True).units == 10
    assert pool.allocate([target], 2, holder="b").units == 2
    assert pool.allocate([target], 9, holder="c", at_most=True).units == 5
    assert pool.allocate([target], 9, holder="b", at_most=True).units == 3


def test_one_connection_more_than_was_said_gets_only_what_nobody_is_sure_of(world: World) -> None:
    pool = world.pool()
    target = shared(world, pool, 11)
    pool.allocate([target], 1, holder="a")
    b = pool.allocate([target], 1, holder="b")
    assert pool.allocate([target], 9, holder="extra", at_most=True).units == 1
    assert pool.try_allocate([target], 1, "extra") is None
    pool.free(b)
    # The place of b is the extra one's now, with a minimum of its own.
    assert pool.allocate([target], 9, holder="b", at_most=True).units == 1
    assert pool.allocate([target], 4, holder="extra").units == 4
    assert pool.allocate([target], 4, holder="a").units == 4
    pool.audit()


def test_without_a_minimum_one_connection_may_take_everything(world: World) -> None:
    pool = world.pool()
    target = pool.reserve(world.new_connection(), world.bytes(20), **world.once()).target
    assert pool.allocate([target], 20, holder="first").units == 20


@pytest.mark.parametrize(("units", "fits"), [(10, True), (9, False)])
def test_the_minima_must_fit_into_the_reservation(world: World, units: int, fits: bool) -> None:
    pool = world.pool()
    if fits:
        assert shared(world, pool, units).buffer_id is not None
        return
    with pytest.raises(InvalidRequest, match="2 connections with at least 5 units each do not fit") as wrong:
        shared(world, pool, units)
    assert wrong.value.code is Code.INVALID_SIZE
    assert (pool.revision, pool.reservation_table()) == (0, ())


@pytest.mark.parametrize(
    ("connections", "minimum_bytes"),
    [(1, 1), (CONNECTIONS_LIMIT + 1, 1), (2.0, 1), (2, 0), (2, -1), (2, 2**70), (2, "1"), (True, 1)],
)
def test_a_sharing_that_is_none_is_refused(world: World, connections: Any, minimum_bytes: Any) -> None:
    pool = world.pool()
    sharing = Sharing(connections=connections, minimum_bytes=minimum_bytes)
    with pytest.raises(InvalidRequest):
        pool.reserve(world.new_connection(), world.bytes(50), sharing=sharing, **world.once())
    with pytest.raises(InvalidRequest):
        pool.hold(world.new_connection(), world.bytes(50), ttl_ns=5, sharing=sharing, **world.once())
    assert pool.revision == 0


def test_only_a_buffer_id_is_shared_with_a_minimum(world: World) -> None:
    pool = world.pool()
    sharing = Sharing(connections=2, minimum_bytes=1)
    with pytest.raises(InvalidRequest) as wrong:
        pool.reserve(world.p1, world.bytes(50), sharing=sharing, **world.once())
    assert wrong.value.code is Code.INVALID_TARGET


def test_no_update_takes_a_reservation_below_its_minima(world: World) -> None:
    pool = world.pool()
    target, other = shared(world, pool, 20), shared(world, pool, 20, minimum=2)
    before = pool.statistics(), pool.reservation_table()
    below = world.bytes(9)
    for request in (
        Update(target=target, requested_bytes=below),
        Update(target=world.p1, requested_bytes=below),
        UpdateSeveral(sizes=((other, below), (target, below))),
    ):
        with pytest.raises(InvalidRequest) as wrong:
            pool.carry_out_now(request, 0)
        assert wrong.value.code is Code.INVALID_SIZE
        assert (pool.statistics(), pool.reservation_table()) == before
    pool.update(target, world.bytes(10), **world.once())
    assert pool.try_allocate([target], 6, "a") is None, "the minimum stands after an update"


def test_a_shrink_below_what_is_in_use_lets_the_minimum_wait_and_then_stand(world: World) -> None:
    pool = world.pool()
    target = shared(world, pool, 20)
    first = pool.allocate([target], 15, holder="first")
    pool.update(target, world.bytes(10), **world.once())
    assert pool.try_allocate([target], 1, "second") is None, "no unit in use is revoked"
    pool.free(first, 10)
    assert pool.try_allocate([target], 1, "first") is None
    assert pool.allocate([target], 5, holder="second").units == 5
    pool.audit()


def test_a_preview_shows_the_minimum_and_refuses_what_does_not_fit(world: World) -> None:
    pool = world.pool()
    target = shared(world, pool, 20)
    pool.allocate([target], 3, holder="a")
    sharing = Sharing(connections=3, minimum_bytes=world.bytes(10))
    wanted = Reserve(target=world.new_connection(), requested_bytes=world.bytes(30), sharing=sharing)
    small = replace(wanted, requested_bytes=world.bytes(29))
    shrunk = Update(target=target, requested_bytes=world.bytes(9))
    seen = pool.preview([wanted, small, shrunk], now_ns=0)
    assert [isinstance(outcome, CreditError) for outcome in seen.outcomes] == [False, True, True]
    assert [after.sharing for _, after in seen.changed if after] == [sharing]
    assert len(pool.reservation_table()) == 1
    assert pool.allocate([target], 12, holder="a").units == 12, "the preview took nothing"


def test_a_hold_carries_the_minimum_into_the_reservation(world: World) -> None:
    pool = world.pool()
    sharing = Sharing(connections=2, minimum_bytes=world.bytes(5))
    held = pool.hold(world.new_connection(), world.bytes(20), ttl_ns=9, sharing=sharing, **world.once())
    target = pool.confirm_hold(held.hold_id, **world.once()).target
    assert [row.sharing for row in pool.reservation_table()] == [sharing]
    assert pool.allocate([target], 20, holder="a", at_most=True).units == 15


def test_the_minimum_survives_an_update_and_a_restart(world: World, tmp_path: Path) -> None:
    with DurablePool.open(tmp_path, world.config) as pool:
        target, plain = shared(world, pool, 20), world.p1
        pool.reserve(plain, world.bytes(5), **world.once())
        pool.update(target, world.bytes(21), **world.once())
        pool.allocate([target], 16, holder="a")
    with DurablePool.open(tmp_path, world.config) as pool:
        sharing = Sharing(connections=2, minimum_bytes=world.bytes(5))
        assert {row.target: row.sharing for row in pool.reservation_table()} == {target: sharing, plain: None}
        with pytest.raises(Refused) as refusal:
            pool.allocate([target], 17, holder="a")
        assert refusal.value.shortage is not None
        assert refusal.value.shortage.grantable_units == 16
        with pytest.raises(InvalidRequest):
            pool.update(target, world.bytes(9), **world.once())


def test_a_degraded_reservation_never_stands_idle_with_everybody_refused(
    world: World, tmp_path: Path
) -> None:
    with DurablePool.open(tmp_path, world.config) as pool:
        target = shared(world, pool, 60, connections=3, minimum=20)
    with DurablePool.open(tmp_path, world.changed(total_units=10)) as pool:
        assert pool.statistics().degraded_units == 50
        taken = [pool.allocate([target], 9, holder=name, at_most=True).units for name in "abc"]
        assert taken == [4, 3, 3], "an equal part of what there is"


def test_a_journal_of_the_format_before_is_brought_forward(tmp_path: Path, world: World) -> None:
    path = tmp_path / "old.sqlite"
    with DurablePool.open(path, world.config) as pool:
        pool.reserve(world.p1, world.bytes(5), **world.once())
    database = sqlite3.connect(path)
    for column in ("connections", "minimum_bytes"):
        database.execute(f"ALTER TABLE reservations DROP COLUMN {column}")
    database.execute("PRAGMA user_version = 1")
    database.commit()
    database.close()
    assert set(MIGRATIONS) == set(range(1, FORMAT))
    with DurablePool.open(path, world.config) as pool:
        assert [(row.target, row.reserved_units) for row in pool.reservation_table()] == [(world.p1, 5)]
        target = shared(world, pool, 20)
    with DurablePool.open(path, world.config) as pool:
        assert [row.sharing is None for row in pool.reservation_table()] == [True, False]
        assert pool.try_allocate([target], 16, "a") is None


def test_a_row_whose_sharing_makes_no_sense_is_refused(tmp_path: Path, world: World) -> None:
    path = tmp_path / "odd.sqlite"
    with DurablePool.open(path, world.config) as pool:
        shared(world, pool, 20)
    database = sqlite3.connect(path)
    database.execute("UPDATE reservations SET connections = 0")
    database.commit()
    database.close()
    with pytest.raises(StoreError, match="makes no sense"):
        DurablePool.open(path, world.config)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["allocate", "at_most", "grow", "free", "enlarge"]),
        st.sampled_from("abcde"),
        st.integers(1, 12),
    ),
    max_size=40,
)


@pytest.mark.parametrize("kind", list(UnitKind))
@settings(max_examples=150, deadline=None)
@given(connections=st.integers(2, 4), minimum=st.integers(1, 4), beyond=st.integers(0, 6), steps=STEPS)
def test_whoever_came_first_always_gets_its_minimum_at_once(
    kind: UnitKind, connections: int, minimum: int, beyond: int, steps: list[tuple[str, str, int]]
) -> None:
    """The promise itself, put to the test after every step; and no refusal without need."""
    pool = Pool(PoolConfig(name="shared", kind=kind, unit_bytes=10, total_units=200))
    size = connections * minimum + beyond
    sharing = Sharing(connections=connections, minimum_bytes=minimum * 10)
    reserved = pool.reserve(new_connection("l", "r"), size * 10, request_id="0", now_ns=0, sharing=sharing)
    target = reserved.target
    live: list[Allocation] = []
    used: dict[str, int] = {}

    def reach_the_minimum(holder: str) -> None:
        missing = minimum - used.get(holder, 0)
        if missing > 0:
            pool.free(pool.allocate([target], missing, holder=holder))

    for number, (verb, holder, units) in enumerate(steps, 1):
        sharers = list(used)[:connections]
        kept = sum(max(0, minimum - used[name]) for name in sharers if name != holder)
        places = connections - len(sharers)
        kept += minimum * (places - 1 if holder not in used and places else places)
        spare = max(0, size - sum(used.values()) - kept)
        own = [allocation for allocation in live if allocation.holder == holder]
        if verb == "enlarge":
            size += 1
            pool.enlarge(target, size * 10, request_id=str(number), now_ns=0)
        elif verb in ("allocate", "at_most"):
            allocation = pool.try_allocate([target], units, holder, verb == "at_most")
            granted = min(units, spare) if verb == "at_most" else units * (units <= spare)
            assert (allocation.units if allocation else 0) == granted
            if allocation is not None:
                live.append(allocation)
                used[holder] = used.get(holder, 0) + granted
        elif own and verb == "grow":
            try:
                pool.grow(own[0], units)
            except Refused as refusal:
                assert units > spare
                assert refusal.shortage is not None
                assert refusal.shortage.grantable_units == spare
            else:
                assert units <= spare
                used[holder] += units
        elif own:
            gone = min(units, own[0].units)
            pool.free(own[0], gone)
            used[holder] -= gone
            if not own[0].units:
                live.remove(own[0])
            if not used[holder]:
                del used[holder]
        pool.audit()
        sharers = list(used)[:connections]
        for name in sharers:
            reach_the_minimum(name)
        for place in range(connections - len(sharers)):
            reach_the_minimum(f"new {place}")
        assert pool.statistics().in_use_units == sum(used.values())
