"""Leases with a fencing epoch (GAP-10), and holds: reserve both ends or neither (GAP-26)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from credits import Code, DurablePool, InvalidRequest, Pool, Refused

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import World

Counted = Callable[[Pool], dict[str, int]]


def test_a_lease_that_is_not_renewed_lapses(world: World, counted: Counted) -> None:
    pool = world.pool()
    pool.reserve(world.p1, world.bytes(40), lease_ns=100, **world.once())
    pool.reserve(world.p2, world.bytes(10), **world.once())
    assert pool.next_deadline() == 100
    assert pool.expire(99) == ()
    assert pool.renew(world.p1, now_ns=90) == 190
    assert pool.expire(189) == ()
    assert pool.next_deadline() == 190
    assert pool.expire(190) == (world.p1,)
    assert pool.next_deadline() is None
    assert counted(pool) == {"free": 90, "idle": 10, "in_use": 0, "draining": 0}


def test_a_lease_with_units_in_use_lapses_when_they_are_freed(world: World) -> None:
    pool = world.pool()
    pool.reserve(world.p1, world.bytes(40), lease_ns=100, **world.once())
    allocation = pool.allocate([world.p1], 1, holder="h")
    assert pool.expire(1000) == ()
    pool.free(allocation)
    assert pool.expire(1001) == (world.p1,)


def test_an_overdue_lease_can_still_be_renewed(world: World) -> None:
    pool = world.pool()
    pool.reserve(world.p1, world.bytes(40), lease_ns=100, **world.once())
    allocation = pool.allocate([world.p1], 1, holder="h")
    assert pool.expire(1000) == ()
    assert pool.renew(world.p1, now_ns=1001) == 1101
    pool.free(allocation)
    assert pool.expire(1100) == ()
    assert pool.expire(1101) == (world.p1,)


def test_the_epoch_fences_off_the_earlier_manager(world: World) -> None:
    pool = world.pool()
    first = pool.reserve(world.p1, world.bytes(40), lease_ns=100, **world.once())
    second = pool.reserve(world.p1, world.bytes(30), lease_ns=100, **world.once())
    assert second.epoch > first.epoch
    for call in (
        lambda: pool.update(world.p1, world.bytes(1), epoch=first.epoch, **world.once()),
        lambda: pool.enlarge(world.p1, world.bytes(99), epoch=first.epoch, **world.once()),
        lambda: pool.release(world.p1, epoch=first.epoch, **world.once()),
        lambda: pool.renew(world.p1, epoch=first.epoch, now_ns=5),
    ):
        with pytest.raises(Refused) as refusal:
            call()
        assert refusal.value.code is Code.STALE
    pool.renew(world.p1, epoch=second.epoch, now_ns=5)
    pool.update(world.p1, world.bytes(31), epoch=second.epoch, **world.once())
    pool.release(world.p1, epoch=second.epoch, **world.once())


def test_what_has_no_lease_cannot_be_renewed(world: World) -> None:
    pool = world.pool()
    pool.reserve(world.p1, world.bytes(40), **world.once())
    with pytest.raises(InvalidRequest, match="no lease"):
        pool.renew(world.p1, now_ns=0)
    assert pool.expire(2**60) == ()


@pytest.mark.parametrize("lease", [0, -1, 1.5, 2**70])
def test_a_lease_that_is_none_is_refused(world: World, lease: Any) -> None:
    pool = world.pool()
    with pytest.raises(InvalidRequest):
        pool.reserve(world.p1, world.bytes(40), lease_ns=lease, **world.once())
    with pytest.raises(InvalidRequest):
        pool.hold(world.p1, world.bytes(40), ttl_ns=lease, **world.once())
    assert pool.revision == 0


def test_a_lease_starts_afresh_after_a_restart(world: World, tmp_path: Path) -> None:
    with DurablePool.open(tmp_path, world.config) as pool:
        pool.reserve(world.p1, world.bytes(40), lease_ns=100, **world.once())
    with DurablePool.open(tmp_path, world.config) as pool:
        assert pool.expire(5_000) == ()
        assert pool.next_deadline() == 5_100
        assert pool.expire(5_100) == (world.p1,)
    with DurablePool.open(tmp_path, world.config) as pool:
        assert pool.reservation_table() == ()


def test_renewing_often_keeps_the_book_of_deadlines_small(world: World) -> None:
    pool = world.pool()
    pool.reserve(world.p1, world.bytes(40), lease_ns=100, **world.once())
    for now in range(1000):
        pool.renew(world.p1, now_ns=now)
    assert len(pool.leases._heap) < 100
    assert pool.next_deadline() == 999 + 100


def test_a_hold_sets_units_aside_until_it_is_confirmed(world: World, counted: Counted) -> None:
    pool = world.pool(pages=5)
    held = pool.hold(world.p1, world.bytes(105), ttl_ns=10, **world.once())
    assert counted(pool) == {"free": 0, "idle": 100, "in_use": 0, "draining": 0}
    assert pool.statistics().held_units == 100
    assert pool.statistics().expandable_units == 4
    assert pool.reservation_table() == ()
    with pytest.raises(Refused):
        pool.reserve(world.p2, world.bytes(5), **world.once())
    with pytest.raises(Refused) as busy:
        pool.reserve(world.p1, world.bytes(1), **world.once())
    assert busy.value.code is Code.BUSY
    result = pool.confirm_hold(held.hold_id, **world.once())
    assert (result.reserved_units, result.expanded_units) == (105, 6)
    assert counted(pool) == {"free": 1, "idle": 105, "in_use": 0, "draining": 0}


@pytest.mark.parametrize("how", ["void", "expire"])
def test_a_hold_that_is_given_up_leaves_nothing_behind(world: World, counted: Counted, how: str) -> None:
    pool = world.pool(pages=5)
    pool.reserve(world.p1, world.bytes(20), **world.once())
    before = counted(pool), pool.reservation_table(), pool.statistics().expandable_units
    held = pool.hold(world.p1, world.bytes(105), ttl_ns=10, **world.once())
    assert (held.previous_units, held.reserved_units) == (20, 105)
    if how == "void":
        pool.void_hold(held.hold_id, **world.once())
    else:
        assert pool.next_deadline() == 10
        assert pool.expire(9) == ()
        assert pool.expire(10) == (world.p1,)
    assert (counted(pool), pool.reservation_table(), pool.statistics().expandable_units) == before
    with pytest.raises(Refused) as stale:
        pool.confirm_hold(held.hold_id, **world.once())
    assert stale.value.code is Code.STALE
    pool.update(world.p1, world.bytes(21), **world.once())


def test_a_hold_past_its_time_is_not_confirmed_even_before_it_is_collected(world: World) -> None:
    pool = world.pool()
    held = pool.hold(world.p1, world.bytes(5), ttl_ns=10, **world.once())
    with pytest.raises(Refused):
        pool.confirm_hold(held.hold_id, request_id="late", now_ns=10)
    pool.audit()


def test_voiding_a_hold_that_kept_draining_units_lets_them_drain(world: World, counted: Counted) -> None:
    pool = world.pool()
    pool.reserve(world.p1, world.bytes(40), **world.once())
    allocation = pool.allocate([world.p1], 40, holder="h")
    pool.update(world.p1, world.bytes(10), **world.once())
    held = pool.hold(world.p1, world.bytes(30), ttl_ns=10, **world.once())
    pool.free(allocation, 25)
    pool.void_hold(held.hold_id, **world.once())
    assert counted(pool) == {"free": 85, "idle": 0, "in_use": 10, "draining": 5}
    pool.free(allocation)
    assert counted(pool) == {"free": 90, "idle": 10, "in_use": 0, "draining": 0}


def test_a_retried_hold_is_the_same_hold(world: World, tmp_path: Path) -> None:
    with DurablePool.open(tmp_path, world.config) as pool:
        once = world.once()
        held = pool.hold(world.p1, world.bytes(5), ttl_ns=10, **once)
        assert pool.hold(world.p1, world.bytes(5), ttl_ns=10, **once) == held
        confirm = world.once()
        confirmed = pool.confirm_hold(held.hold_id, **confirm)
        assert pool.confirm_hold(held.hold_id, **confirm) == confirmed
        voided = pool.hold(world.p2, world.bytes(5), ttl_ns=10, **world.once())
        void = world.once()
        assert pool.void_hold(voided.hold_id, **void) == pool.void_hold(voided.hold_id, **void)
        assert pool.statistics().held_units == 0
        pool.audit()
