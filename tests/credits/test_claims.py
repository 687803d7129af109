"""Claims 1, 2, 3, 5, 6, 7, 8 and 12 of the patent (spec section H), on TCP memory buffers and on FC credits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from credits import Code, InvalidRequest, Pool, PoolConfig, Refused, UnitKind, connection
from credits.sizing import recommend

if TYPE_CHECKING:
    from conftest import World

Counted = Callable[[Pool], dict[str, int]]


def test_claim_1_a_reserved_start_obtains_its_units_under_a_host_storm(
    world: World, counted: Counted
) -> None:
    pool = world.pool()
    assert pool.statistics().free_units == 100
    pool.reserve(world.p1, world.bytes(40), **world.once())
    assert counted(pool) == {"free": 60, "idle": 40, "in_use": 0, "draining": 0}
    hosts = [pool.allocate([], 1, holder=f"host-{n}") for n in range(60)]
    with pytest.raises(Refused) as refusal:
        pool.allocate([], 1, holder="host-60")
    assert refusal.value.code is Code.NO_MEMORY
    copy = pool.allocate([world.p1], 40, holder="copy")
    assert copy.target == world.p1
    assert counted(pool) == {"free": 0, "idle": 0, "in_use": 100, "draining": 0}
    pool.free(copy)
    assert counted(pool) == {"free": 0, "idle": 40, "in_use": 60, "draining": 0}
    for host in hosts:
        pool.free(host)
    assert counted(pool) == {"free": 60, "idle": 40, "in_use": 0, "draining": 0}


def test_claim_1_control_run_without_the_reservation_the_start_is_refused(world: World) -> None:
    pool = world.pool()
    pool.allocate([], 100, holder="hosts")
    with pytest.raises(Refused) as refusal:
        pool.allocate([world.p1], 40, holder="copy")
    assert refusal.value.code is Code.NO_MEMORY
    assert refusal.value.shortage is not None
    assert [(holder.name, holder.units) for holder in refusal.value.shortage.holders] == [("hosts", 100)]


@pytest.mark.parametrize(
    ("sessions", "connections", "size_bytes", "units"),
    [(1, 1, 350_000, {"tcp": 171, "fc": 163}), (2, 3, 2_100_000, {"tcp": 1026, "fc": 978})],
)
def test_claim_2_the_size_is_bandwidth_times_delay(
    world: World, sessions: int, connections: int, size_bytes: int, units: dict[str, int]
) -> None:
    pool = world.pool(total_units=4096)
    size = recommend(
        "document",
        unit_bytes=world.config.unit_bytes,
        bandwidth_bps=10_000_000,
        rtt_ns=280_000_000,
        sessions=sessions,
        connections=connections,
    )
    assert (size.bytes, size.units) == (size_bytes, units[world.config.kind.value])
    result = pool.reserve(world.p1, size.bytes, **world.once())
    assert (result.reserved_units, result.requested_bytes) == (size.units, size_bytes)


def test_claim_3_an_update_grows_from_the_free_list_and_shrinks_to_it(world: World, counted: Counted) -> None:
    pool = world.pool()
    pool.reserve(world.p1, world.bytes(40), **world.once())
    assert counted(pool)["free"] == 60
    for units, free in ((55, 45), (30, 70), (30, 70)):
        assert pool.update(world.p1, world.bytes(units), **world.once()).reserved_units == units
        assert counted(pool) == {"free": free, "idle": units, "in_use": 0, "draining": 0}
    before = counted(pool), pool.reservation_table(), pool.revision
    with pytest.raises(Refused) as refusal:
        pool.update(world.p1, world.bytes(101), **world.once())
    assert refusal.value.code is Code.NO_MEMORY
    assert refusal.value.shortage is not None
    assert (refusal.value.shortage.asked_units, refusal.value.shortage.grantable_units) == (71, 70)
    assert (counted(pool), pool.reservation_table(), pool.revision) == before
    pool.update(world.p1, world.bytes(100), **world.once())
    assert counted(pool) == {"free": 0, "idle": 100, "in_use": 0, "draining": 0}


def test_claim_3_to_the_letter_of_paragraph_62_equality_is_a_shortage(world: World) -> None:
    pool = world.pool(strict_document=True)
    pool.reserve(world.p1, world.bytes(30), **world.once())
    with pytest.raises(Refused) as refusal:
        pool.update(world.p1, world.bytes(100), **world.once())
    assert refusal.value.shortage is not None
    assert refusal.value.shortage.grantable_units == 69
    assert pool.update(world.p1, world.bytes(99), **world.once()).reserved_units == 99


def test_claim_5_a_port_pair_reservation_serves_that_pair_alone(world: World, counted: Counted) -> None:
    pool = world.pool()
    pool.reserve(world.p1, world.bytes(40), **world.once())
    other = pool.allocate([world.p2], 60, holder="on P2")
    assert other.target is None
    assert counted(pool)["idle"] == 40
    with pytest.raises(Refused):
        pool.allocate([world.p2], 1, holder="on P2")
    assert pool.allocate([world.p1], 40, holder="on P1").target == world.p1
    with pytest.raises(Refused) as refusal:
        pool.allocate([world.p1], 1, holder="on P1")
    assert refusal.value.code is Code.OVER_RESERVATION
    pool.free(other)
    with pytest.raises(Refused, match="beyond the reservation"):
        pool.allocate([world.p1], 1, holder="on P1")  # 60 are free: a full reservation does not spill


def test_claim_6_a_number_at_the_remote_site_is_a_target_of_its_own(world: World) -> None:
    pool = world.pool()
    reserved, other = (world.numbered(number) for number in world.numbers)
    pool.reserve(reserved, world.bytes(20), **world.once())
    assert pool.allocate([world.p1, other], 5, holder="other protocol").target is None
    assert pool.allocate([world.p1, reserved], 20, holder="this protocol").target == reserved
    assert pool.statistics().free_units == 75


def test_claim_7_connections_have_reservations_of_their_own(world: World) -> None:
    pool = world.pool(buffer_id_seeds=(10000, 15000))
    ids = [pool.reserve(world.new_connection(), world.bytes(10), **world.once()).buffer_id for _ in range(2)]
    assert ids == [10000, 15000]
    assert [row.buffer_id for row in pool.buffer_id_table()] == [10000, 15000]
    for _ in range(10):
        pool.allocate([connection(10000)], 1, holder="first")
    with pytest.raises(Refused) as refusal:
        pool.allocate([connection(10000)], 1, holder="first")
    assert refusal.value.code is Code.OVER_RESERVATION
    rows = {row.target.buffer_id: row for row in pool.reservation_table()}
    assert (rows[10000].idle_units, rows[15000].idle_units) == (0, 10)


def test_claim_8_enlarging_moves_free_units_and_never_shrinks(world: World, counted: Counted) -> None:
    pool = world.pool()
    pool.reserve(world.p1, world.bytes(40), **world.once())
    assert pool.enlarge(world.p1, world.bytes(50), **world.once()).previous_units == 40
    assert counted(pool) == {"free": 50, "idle": 50, "in_use": 0, "draining": 0}
    with pytest.raises(InvalidRequest) as refusal:
        pool.enlarge(world.p1, world.bytes(49), **world.once())
    assert refusal.value.code is Code.INVALID_SIZE
    with pytest.raises(Refused) as missing:
        pool.enlarge(world.p2, world.bytes(49), **world.once())
    assert missing.value.code is Code.NOT_RESERVED
    assert counted(pool) == {"free": 50, "idle": 50, "in_use": 0, "draining": 0}


@pytest.mark.parametrize(
    ("units", "free", "pages_left"), [(110, 0, 5), (120, 0, 0), (100, 0, 10), (111, 1, 4), (1, 99, 10)]
)
def test_claim_12_a_shortage_makes_more_memory_usable(
    world: World, counted: Counted, units: int, free: int, pages_left: int
) -> None:
    pool = world.pool(pages=10)
    result = pool.reserve(world.p1, world.bytes(units), **world.once())
    assert counted(pool)["free"] == free
    assert pool.statistics().expandable_units == 2 * pages_left
    assert result.expanded_units == 2 * (10 - pages_left)
    assert result.relogin_required is (world.config.kind is UnitKind.FC and pages_left < 10)


def test_claim_12_more_than_all_pages_changes_nothing(world: World, counted: Counted) -> None:
    pool = world.pool(pages=10)
    with pytest.raises(Refused) as refusal:
        pool.reserve(world.p1, world.bytes(121), **world.once())
    assert refusal.value.shortage is not None
    assert refusal.value.shortage.grantable_units == 120
    assert counted(pool) == {"free": 100, "idle": 0, "in_use": 0, "draining": 0}
    assert pool.statistics().expandable_units == 20


def test_an_update_splits_pages_too_unless_taken_to_the_letter(world: World) -> None:
    pool = world.pool(pages=10)
    pool.reserve(world.p1, world.bytes(90), **world.once())
    assert pool.update(world.p1, world.bytes(120), **world.once()).expanded_units == 20
    strict = world.pool(pages=10, strict_document=True)
    strict.reserve(world.p1, world.bytes(90), **world.once())
    with pytest.raises(Refused):
        strict.update(world.p1, world.bytes(101), **world.once())
    assert strict.statistics().expandable_units == 20


def test_addresses_are_those_of_units_standing_side_by_side(world: World) -> None:
    pool = world.pool()
    pool.reserve(world.p1, world.bytes(4), **world.once())
    allocation = pool.allocate([world.p1], 3, holder="h")
    chain = list(allocation.chain())
    assert len(chain) == 3
    assert chain[0][0] == allocation.address
    assert [following for _, following in chain] == [address for address, _ in chain[1:]] + [0]
    assert {address % world.config.unit_bytes for address, _ in chain} == {
        world.config.base_address % world.config.unit_bytes
    }
    row = pool.reservation_table()[0]
    assert row.buffer_address not in (0, *[address for address, _ in chain])
    pool.allocate([world.p1], 1, holder="h")
    assert pool.reservation_table()[0].buffer_address == 0, "an empty list 33 has no head"


def test_a_tail_of_a_page_is_wasted() -> None:
    config = PoolConfig(name="tail", kind=UnitKind.TCP, unit_bytes=1500, total_units=4, page_bytes=4096)
    assert [config.address(unit) - config.base_address for unit in range(4)] == [0, 1500, 4096, 5596]
