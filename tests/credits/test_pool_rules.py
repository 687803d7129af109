"""Refusals, malformed requests, precedence, draining and the other rules, each by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from credits import (
    Code,
    InvalidRequest,
    Pool,
    PoolConfig,
    Refused,
    Target,
    TargetKind,
    UnitKind,
    application,
    connection,
    port_pair,
    volume_group_pair,
    volume_pair,
)
from credits.verbs import Release, Reserve, Update

if TYPE_CHECKING:
    from conftest import World

Counted = Callable[[Pool], dict[str, int]]


def test_the_most_specific_claim_with_a_reservation_serves(world: World) -> None:
    pool = world.pool()
    issued = pool.reserve(world.new_connection(), world.bytes(5), **world.once())
    by_kind = [
        issued.target,
        volume_pair("v", "w"),
        volume_group_pair("g", "h"),
        application("copy"),
        world.numbered(world.numbers[0]),
        world.p1,
    ]
    for target in by_kind[1:]:
        pool.reserve(target, world.bytes(5), **world.once())
    for position, target in enumerate(by_kind):
        claims = list(reversed(by_kind[position:]))
        assert pool.allocate(claims, 1, holder="h").target == target


def test_a_shared_buffer_id_serves_connections_of_other_pairs(world: World) -> None:
    pool = world.pool()
    issued = pool.reserve(world.new_connection(), world.bytes(5), **world.once())
    assert issued.buffer_id is not None
    claim = connection(issued.buffer_id)
    assert pool.allocate([claim, world.p1], 2, holder="one").target == claim
    assert pool.allocate([claim, world.p2], 2, holder="two").target == claim
    with pytest.raises(Refused) as refusal:
        pool.allocate([claim, world.p2], 2, holder="two")
    assert refusal.value.shortage is not None
    assert {holder.name: holder.units for holder in refusal.value.shortage.holders} == {"one": 2, "two": 2}
    (row,) = pool.allocation_table()
    assert (row.target, row.allocated_units, len(row.holders)) == (claim, 4, 2)


def test_a_refusal_says_asked_free_expandable_grantable_holders_and_next_step(world: World) -> None:
    pool = world.pool(pages=2)
    pool.reserve(world.p1, world.bytes(40), **world.once())
    pool.allocate([], 50, holder="host-7")
    with pytest.raises(Refused) as refusal:
        pool.reserve(world.p2, world.bytes(20), **world.once())
    text, shortage = str(refusal.value), refusal.value.shortage
    assert shortage is not None
    assert (
        shortage.asked_units,
        shortage.free_units,
        shortage.expandable_units,
        shortage.grantable_units,
    ) == (
        20,
        10,
        4,
        14,
    )
    for part in ("20 more", "10 are free", "4 more", "14", "host-7 (50)", f"{world.p1} (40)", "release"):
        assert part in text
    assert "\n" not in text
    # What it calls grantable is granted.
    assert pool.reserve(world.p2, world.bytes(14), **world.once()).reserved_units == 14


def test_a_second_reserve_replaces_the_first(world: World, counted: Counted) -> None:
    pool = world.pool()
    pool.reserve(world.p1, world.bytes(40), **world.once())
    result = pool.reserve(world.p1, world.bytes(15), **world.once())
    assert (result.replaced, result.previous_units, result.reserved_units) == (True, 40, 15)
    assert counted(pool) == {"free": 85, "idle": 15, "in_use": 0, "draining": 0}


def test_a_shrink_below_what_is_in_use_drains(world: World, counted: Counted) -> None:
    pool = world.pool()
    pool.reserve(world.p1, world.bytes(40), **world.once())
    one, two = (pool.allocate([world.p1], 15, holder=name) for name in ("one", "two"))
    result = pool.update(world.p1, world.bytes(20), **world.once())
    assert (result.reserved_units, result.pending_shrink_units) == (20, 10)
    assert counted(pool) == {"free": 70, "idle": 0, "in_use": 20, "draining": 10}
    assert pool.reservation_table()[0].state == "draining"
    with pytest.raises(Refused):
        pool.allocate([world.p1], 1, holder="three")
    pool.free(one, 4)
    assert counted(pool) == {"free": 74, "idle": 0, "in_use": 20, "draining": 6}
    pool.free(one)
    assert counted(pool) == {"free": 80, "idle": 5, "in_use": 15, "draining": 0}
    pool.free(two)
    assert counted(pool) == {"free": 80, "idle": 20, "in_use": 0, "draining": 0}


def test_growing_again_keeps_what_was_draining(world: World, counted: Counted) -> None:
    pool = world.pool()
    pool.reserve(world.p1, world.bytes(100), **world.once())
    allocation = pool.allocate([world.p1], 100, holder="h")
    pool.update(world.p1, world.bytes(10), **world.once())
    assert counted(pool)["draining"] == 90
    assert pool.update(world.p1, world.bytes(60), **world.once()).pending_shrink_units == 40
    pool.free(allocation)
    assert counted(pool) == {"free": 40, "idle": 60, "in_use": 0, "draining": 0}


def test_a_release_is_busy_while_units_are_in_use_unless_they_may_drain(
    world: World, counted: Counted
) -> None:
    pool = world.pool()
    pool.reserve(world.p1, world.bytes(40), **world.once())
    allocation = pool.allocate([world.p1], 15, holder="h")
    with pytest.raises(Refused) as refusal:
        pool.release(world.p1, **world.once())
    assert refusal.value.code is Code.BUSY
    result = pool.release(world.p1, drain=True, **world.once())
    assert (result.released_units, result.draining_units) == (25, 15)
    assert counted(pool) == {"free": 85, "idle": 0, "in_use": 0, "draining": 15}
    assert [row.state for row in pool.reservation_table()] == ["released"]
    with pytest.raises(Refused):
        pool.grow(allocation, 1)
    again = pool.reserve(world.p1, world.bytes(10), **world.once())
    assert not again.replaced
    pool.free(allocation)
    assert counted(pool) == {"free": 90, "idle": 10, "in_use": 0, "draining": 0}
    assert [row.state for row in pool.reservation_table()] == ["reserved"]


def test_the_floor_of_free_units_is_kept_from_reservations_not_from_hosts(world: World) -> None:
    pool = world.pool(min_free_units=10)
    with pytest.raises(Refused) as refusal:
        pool.reserve(world.p1, world.bytes(91), **world.once())
    assert refusal.value.shortage is not None
    assert refusal.value.shortage.grantable_units == 90
    pool.reserve(world.p1, world.bytes(90), **world.once())
    assert pool.allocate([], 10, holder="host").units == 10


def test_an_unreserved_allocation_splits_pages_then_is_refused(world: World, counted: Counted) -> None:
    pool = world.pool(pages=2)
    assert pool.allocate([], 103, holder="host").units == 103
    assert counted(pool)["free"] == 1
    with pytest.raises(Refused):
        pool.allocate([], 2, holder="host")
    assert pool.allocate([], 2, holder="host", at_most=True).units == 1
    with pytest.raises(Refused):
        pool.allocate([], 1, holder="host", at_most=True)


def test_at_most_grants_the_remainder_of_a_reservation(world: World) -> None:
    pool = world.pool()
    pool.reserve(world.p1, world.bytes(7), **world.once())
    assert pool.allocate([world.p1], 5, holder="h", at_most=True).units == 5
    assert pool.allocate([world.p1], 5, holder="h", at_most=True).units == 2
    with pytest.raises(Refused):
        pool.allocate([world.p1], 5, holder="h", at_most=True)
    assert pool.try_allocate([world.p1], 1, "h") is None


def test_a_pair_wide_update_of_connections_is_all_or_nothing(world: World, counted: Counted) -> None:
    pool = world.pool()
    issued = [pool.reserve(world.new_connection(), world.bytes(10), **world.once()) for _ in range(3)]
    result = pool.update(world.p1, world.bytes(20), **world.once())
    assert [record.reserved_units for record in result.records] == [20, 20, 20]
    assert [record.target for record in result.records] == [reserved.target for reserved in issued]
    assert (result.reserved_units, result.previous_units) == (60, 30)
    before = pool.reservation_table()
    with pytest.raises(Refused):
        pool.update(world.p1, world.bytes(34), **world.once())
    assert pool.reservation_table() == before
    assert counted(pool) == {"free": 40, "idle": 60, "in_use": 0, "draining": 0}


def test_to_the_letter_a_pair_wide_update_goes_record_by_record(world: World, counted: Counted) -> None:
    pool = world.pool(strict_document=True)
    for _ in range(3):
        pool.reserve(world.new_connection(), world.bytes(10), **world.once())
    result = pool.update(world.p1, world.bytes(45), **world.once())
    assert [(record.reserved_units, record.refused) for record in result.records] == [
        (45, False),
        (10, True),
        (10, True),
    ]
    assert counted(pool) == {"free": 35, "idle": 65, "in_use": 0, "draining": 0}


def test_to_the_letter_column_304_is_what_stands_in_list_33(world: World) -> None:
    for strict, shown in ((False, 40), (True, 25)):
        pool = world.pool(strict_document=strict)
        pool.reserve(world.p1, world.bytes(40), **world.once())
        pool.allocate([world.p1], 15, holder="h")
        (row,) = pool.reservation_table()
        assert (row.reserved_units, row.reserved_bytes) == (shown, world.bytes(shown))


def test_shrinks_give_to_growth_in_the_same_request(world: World, counted: Counted) -> None:
    pool = world.pool()
    pool.reserve(world.p1, world.bytes(70), **world.once())
    pool.reserve(world.p2, world.bytes(30), **world.once())
    sizes = [(world.p2, world.bytes(80)), (world.p1, world.bytes(20))]
    result = pool.update_several(sizes, **world.once())
    assert [record.reserved_units for record in result.records] == [80, 20]
    assert counted(pool) == {"free": 0, "idle": 100, "in_use": 0, "draining": 0}


def test_an_update_of_what_is_not_reserved_reserves_it(world: World) -> None:
    pool = world.pool()
    result = pool.update(world.p1, world.bytes(7), **world.once())
    assert (result.reserved_units, result.previous_units) == (7, 0)
    assert len(pool.reservation_table()) == 1


def test_a_retry_gets_the_first_answer_and_another_request_none(world: World) -> None:
    pool = world.pool()
    once = world.once()
    first = pool.reserve(world.new_connection(), world.bytes(7), **once)
    assert pool.reserve(world.new_connection(), world.bytes(7), **once) is first
    assert len(pool.buffer_id_table()) == 1
    with pytest.raises(InvalidRequest) as refusal:
        pool.reserve(world.new_connection(), world.bytes(8), **once)
    assert refusal.value.code is Code.BAD_MESSAGE


def test_a_late_duplicate_of_a_refused_request_is_refused_again(world: World) -> None:
    pool = world.pool()
    host = pool.allocate([], 100, holder="host")
    once = world.once()
    for _ in range(2):
        with pytest.raises(Refused, match="no memory"):
            pool.reserve(world.p1, world.bytes(7), **once)
        if host.units:
            pool.free(host)
    assert pool.reservation_table() == ()


def test_compare_and_set_refuses_a_stale_revision(world: World) -> None:
    pool = world.pool()
    seen = pool.statistics().revision
    first = pool.reserve(world.p1, world.bytes(7), expected_revision=seen, **world.once())
    for verb in (pool.reserve, pool.update, pool.enlarge):
        with pytest.raises(Refused) as refusal:
            verb(world.p1, world.bytes(8), expected_revision=seen, **world.once())
        assert refusal.value.code is Code.STALE
    with pytest.raises(Refused) as stale:
        pool.release(world.p1, expected_revision=seen, **world.once())
    assert stale.value.code is Code.STALE
    pool.update(world.p1, world.bytes(8), expected_revision=first.revision, **world.once())


def test_allocations_do_not_disturb_compare_and_set(world: World) -> None:
    pool = world.pool()
    seen = pool.statistics().revision
    pool.allocate([], 3, holder="host")
    pool.reserve(world.p1, world.bytes(7), expected_revision=seen, **world.once())


@pytest.mark.parametrize("size", [0, -1, 1.5, "10", None, True, 2**63])
def test_a_size_that_is_none_is_refused(world: World, size: Any) -> None:
    pool = world.pool()
    for verb in (pool.reserve, pool.update, pool.enlarge):
        with pytest.raises(InvalidRequest) as refusal:
            verb(world.p1, size, **world.once())
        assert refusal.value.code is Code.INVALID_SIZE
    assert pool.revision == 0


@pytest.mark.parametrize(
    "target",
    [
        Target(TargetKind.PORT_PAIR),
        Target(TargetKind.PORT_PAIR, "a"),
        Target(TargetKind.PORT_PAIR, "a", "b", 5),
        Target(TargetKind.PORT_PAIR, "a", ""),
        Target(TargetKind.PORT_PAIR, "a", "b\n"),
        Target(TargetKind.PORT_PAIR, "a", "b" * 256),
        Target(TargetKind.PORT_PAIR, "a", 7),  # type: ignore[arg-type]
        Target(TargetKind.PORT_PAIR_NUMBER, "a", "b"),
        Target(TargetKind.PORT_PAIR_NUMBER, "a", "b", 65536),
        Target(TargetKind.PORT_PAIR_NUMBER, "a", "b", -1),
        Target(TargetKind.PORT_PAIR_NUMBER, "a", "b", 5, 6),
        Target(TargetKind.APPLICATION),
        Target(TargetKind.APPLICATION, "a", "b", name="n"),
        Target(TargetKind.CONNECTION),
        Target(TargetKind.CONNECTION, "a"),
        Target(TargetKind.CONNECTION, "a", "b", name="n"),
        Target(TargetKind.CONNECTION, buffer_id=2**31),
    ],
)
def test_a_malformed_target_is_refused(world: World, target: Target) -> None:
    pool = world.pool()
    for call in (
        lambda: pool.reserve(target, 10, **world.once()),
        lambda: pool.update(target, 10, **world.once()),
        lambda: pool.release(target, **world.once()),
        lambda: pool.hold(target, 10, ttl_ns=1, **world.once()),
    ):
        with pytest.raises(InvalidRequest) as refusal:
            call()
        assert refusal.value.code is Code.INVALID_TARGET
        assert "\n" not in str(refusal.value)
    assert pool.revision == 0


def test_buffer_ids_of_others_and_unknown_targets_change_nothing(world: World) -> None:
    pool = world.pool()
    for call, code in (
        (lambda: pool.update(connection(10000), 10, **world.once()), Code.NOT_RESERVED),
        (lambda: pool.release(connection(10000), **world.once()), Code.NOT_RESERVED),
        (lambda: pool.release(world.p1, **world.once()), Code.NOT_RESERVED),
        (lambda: pool.update_several([(world.p1, 10)], **world.once()), Code.NOT_RESERVED),
        (lambda: pool.confirm_hold(7, **world.once()), Code.STALE),
        (lambda: pool.void_hold(7, **world.once()), Code.STALE),
        (lambda: pool.renew(world.p1, now_ns=0), Code.NOT_RESERVED),
    ):
        with pytest.raises(Refused) as refusal:
            call()
        assert refusal.value.code is code
    with pytest.raises(InvalidRequest):
        pool.reserve(connection(10000), 10, **world.once())
    assert pool.revision == 0
    assert pool.statistics().free_units == 100


@pytest.mark.parametrize("request_id", ["", "x" * 129, None, 5, "a\nb"])
def test_a_request_id_that_is_none_is_refused(world: World, request_id: Any) -> None:
    pool = world.pool()
    with pytest.raises(InvalidRequest) as refusal:
        pool.reserve(world.p1, 10, request_id=request_id, now_ns=0)
    assert refusal.value.code is Code.BAD_MESSAGE


def test_an_allocation_is_freed_once_and_to_its_own_pool(world: World) -> None:
    pool, other = world.pool(), world.pool()
    allocation = pool.allocate([], 5, holder="h")
    with pytest.raises(InvalidRequest):
        other.free(allocation)
    with pytest.raises(InvalidRequest):
        other.grow(allocation, 1)
    for units in (0, -1, 6):
        with pytest.raises(InvalidRequest):
            pool.free(allocation, units)
    with pytest.raises(InvalidRequest):
        pool.grow(allocation, 0)
    with pytest.raises(InvalidRequest):
        pool.allocate([], 0, holder="h")
    pool.free(allocation)
    for again in (pool.free, lambda it: pool.grow(it, 1)):
        with pytest.raises(InvalidRequest):
            again(allocation)
    assert pool.statistics().free_units == 100
    pool.audit()


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a/b"},
        {"unit_bytes": 0},
        {"total_units": 0},
        {"total_units": 2**31},
        {"unsplit_pages": -1},
        {"unsplit_pages": 1},
        {"min_free_units": 101},
        {"base_address": 0},
        {"buffer_id_seeds": (0,)},
        {"buffer_id_seeds": (5, 5)},
        {"page_bytes": 1},
        {"total_units": 1.0},
    ],
)
def test_a_config_that_makes_no_pool_is_refused(wrong: dict[str, Any]) -> None:
    sound: dict[str, Any] = {"name": "p", "kind": UnitKind.TCP, "unit_bytes": 2048, "total_units": 100}
    with pytest.raises(InvalidRequest):
        PoolConfig(**{**sound, **wrong})


def test_a_preview_runs_the_same_code_and_changes_nothing(world: World) -> None:
    pool = world.pool(pages=3)
    pool.reserve(world.p1, world.bytes(40), **world.once())
    allocation = pool.allocate([world.p1], 30, holder="h")
    before = pool.statistics(), pool.reservation_table(), pool.buffer_id_table()
    seen = pool.preview(
        [
            Update(target=world.p1, requested_bytes=world.bytes(20)),
            Reserve(target=world.p2, requested_bytes=world.bytes(76)),
            Reserve(target=world.new_connection(), requested_bytes=world.bytes(50)),
            Release(target=world.p1),
        ],
        now_ns=0,
    )
    assert (pool.statistics(), pool.reservation_table(), pool.buffer_id_table()) == before
    update, reserve, refused, busy = seen.outcomes
    assert getattr(update, "pending_shrink_units", None) == 10
    assert getattr(reserve, "expanded_units", None) == 6
    assert isinstance(refused, Refused)
    assert refused.code is Code.NO_MEMORY
    assert isinstance(busy, Refused)
    assert busy.code is Code.BUSY
    assert (seen.before.free_units, seen.after.free_units) == (60, 0)
    (p1_before, p1_after), (p2_before, p2_after) = seen.changed
    assert p1_before is not None
    assert p1_after is not None
    assert (p1_before.reserved_units, p1_after.reserved_units) == (40, 20)
    assert (p2_before, p2_after and p2_after.reserved_units) == (None, 76)
    # And it told the truth.
    assert pool.update(world.p1, world.bytes(20), **world.once()).pending_shrink_units == 10
    assert pool.reserve(world.p2, world.bytes(76), **world.once()).expanded_units == 6
    pool.free(allocation)
    pool.audit()


def test_the_lowest_unused_buffer_id_of_a_pair_is_found(world: World) -> None:
    pool = world.pool()
    ids = [pool.reserve(world.new_connection(), world.bytes(2), **world.once()).buffer_id for _ in range(2)]
    assert pool.unused_buffer_id(*world.ports[0]) == ids[0]
    assert ids[0] is not None
    pool.allocate([connection(ids[0])], 1, holder="h")
    assert pool.unused_buffer_id(*world.ports[0]) == ids[1]
    assert pool.unused_buffer_id(*world.ports[1]) is None


def test_unreserved_use_stands_in_table_109_under_its_port_pair(world: World) -> None:
    pool = world.pool()
    pool.reserve(world.p1, world.bytes(4), **world.once())
    pool.allocate([world.p1], 3, holder="copy")
    pool.allocate([application("backup"), world.p2], 5, holder="host")
    pool.allocate([], 2, holder="nobody")
    rows = [(row.target, row.reserved, row.allocated_units) for row in pool.allocation_table()]
    assert rows == [(world.p1, True, 3), (None, False, 2), (world.p2, False, 5)]
    assert all(row.allocated_bytes == world.bytes(row.allocated_units) for row in pool.allocation_table())


def test_pickled_targets_are_still_the_same_target() -> None:
    import copy
    import pickle

    target = port_pair("a", "b")
    for twin in (pickle.loads(pickle.dumps(target)), copy.copy(target), copy.deepcopy(target)):
        assert twin == target
        assert twin.key == target.key


def test_an_update_may_grow_as_far_as_it_can_when_told_so(world: World, counted: Counted) -> None:
    pool = world.pool(pages=2)
    pool.reserve(world.p1, world.bytes(40), **world.once())
    pool.allocate([], 50, holder="host")
    with pytest.raises(Refused):
        pool.update(world.p1, world.bytes(60), **world.once())
    result = pool.update(world.p1, world.bytes(60), partial=True, **world.once())
    assert (result.reserved_units, result.requested_bytes) == (54, world.bytes(54))
    assert counted(pool) == {"free": 0, "idle": 54, "in_use": 50, "draining": 0}
    with pytest.raises(Refused):
        pool.update(world.p1, world.bytes(60), partial=True, **world.once())
    assert pool.reservation_table()[0].reserved_units == 54


def test_information_is_what_the_target_sees(world: World) -> None:
    pool = world.pool(pages=3)
    for _ in range(2):
        pool.reserve(world.new_connection(), world.bytes(10), **world.once())
    pool.reserve(world.p2, world.bytes(5), **world.once())
    pool.allocate([world.p2], 2, holder="h")
    seen = pool.information(world.p2)
    assert (seen.reserved_units, seen.allocated_units, seen.available_units) == (5, 2, 75)
    assert (seen.expandable_units, seen.unit_bytes) == (6, world.config.unit_bytes)
    assert seen.revision == pool.statistics().revision
    assert pool.information(world.p1).reserved_units == 20, "a pair stands for its connections"
    assert pool.information(world.numbered(7)).reserved_units == 0


def test_the_rows_of_the_documents_tables(world: World) -> None:
    pool = world.pool(total_units=4096, buffer_id_seeds=(10000, 15000))
    sizes = (2_100_000, 4_500_000)
    for (local_port, remote_port), size in zip(world.ports, sizes, strict=True):
        pool.reserve(port_pair(local_port, remote_port), size, **world.once())
        pool.reserve(Target(TargetKind.CONNECTION, local_port, remote_port), 1, **world.once())
    rows = [row for row in pool.reservation_table() if row.target.kind is TargetKind.PORT_PAIR]
    assert [(row.target.local_port, row.target.remote_port, row.requested_bytes) for row in rows] == [
        (*ports, size) for ports, size in zip(world.ports, sizes, strict=True)
    ]
    counts = {UnitKind.TCP: [1026, 2198], UnitKind.FC: [978, 2095]}
    assert [row.reserved_units for row in rows] == counts[world.config.kind]
    assert len({row.buffer_address for row in pool.reservation_table()}) == 4
    assert [(row.local_port, row.remote_port, row.buffer_id) for row in pool.buffer_id_table()] == [
        (*world.ports[0], 10000),
        (*world.ports[1], 15000),
    ]
