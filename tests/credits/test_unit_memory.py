"""Memory behind units: what is written stays, what changes owner is cleared (GAP-23)."""

from __future__ import annotations

import pytest

from credits import Pool, PoolConfig, StoreError, UnitKind, port_pair
from credits.memory import UnitMemory

P1, P2 = port_pair("a", "b"), port_pair("c", "d")


def fresh(**changes: object) -> tuple[Pool, UnitMemory]:
    shape = {
        "name": "memory",
        "kind": UnitKind.TCP,
        "unit_bytes": 1500,
        "total_units": 10,
        "page_bytes": 4096,
    }
    config = PoolConfig(**{**shape, **changes})  # type: ignore[arg-type]
    return Pool(config), UnitMemory(config)


def test_each_slice_is_as_large_as_its_units_and_pages_tails_are_left_out() -> None:
    pool, memory = fresh()
    allocation = pool.allocate([], 10, holder="h")
    slices = memory.slices(allocation)
    assert [len(piece) for piece in slices] == [3000] * 5
    assert sum(len(piece) for piece in slices) == allocation.bytes


def test_units_without_a_tail_are_one_slice() -> None:
    pool, memory = fresh(unit_bytes=2048)
    assert [len(piece) for piece in memory.slices(pool.allocate([], 10, holder="h"))] == [20480]


def test_two_allocations_never_share_memory() -> None:
    pool, memory = fresh()
    one, two = pool.allocate([], 5, holder="one"), pool.allocate([], 5, holder="two")
    for piece in memory.slices(one):
        piece[:] = b"1" * len(piece)
    for piece in memory.slices(two):
        piece[:] = b"2" * len(piece)
    assert b"".join(memory.slices(one)) == b"1" * one.bytes


def test_data_is_cleared_when_units_go_to_another_target_and_only_then() -> None:
    pool, memory = fresh()
    pool.reserve(P1, 15000, request_id="a", now_ns=0)
    first = pool.allocate([P1], 10, holder="h")
    for piece in memory.slices(first):
        piece[:] = b"x" * len(piece)
    pool.free(first)
    again = pool.allocate([P1], 10, holder="other connection of the same target")
    assert b"".join(memory.slices(again)) == b"x" * 15000
    pool.free(again)
    pool.release(P1, request_id="b", now_ns=0)
    pool.reserve(P2, 15000, request_id="c", now_ns=0)
    foreign = pool.allocate([P2], 10, holder="h")
    assert b"".join(memory.slices(foreign)) == bytes(15000)


def test_memory_of_expanded_units_is_there_and_apart() -> None:
    pool, memory = fresh(unsplit_pages=3)
    one = pool.allocate([], 10, holder="one")
    before = [bytes(piece) for piece in memory.slices(one)]
    two = pool.allocate([], 6, holder="two")
    for piece in memory.slices(two):
        piece[:] = b"2" * len(piece)
    assert [bytes(piece) for piece in memory.slices(one)] == before
    assert two.units == 6


def test_many_owners_do_not_make_the_memory_forget_to_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("credits.memory._REMEMBERED_OWNERS", 4)
    pool, memory = fresh(total_units=1)
    for number in range(20):
        allocation = pool.allocate([], 1, holder=f"host-{number}")
        (piece,) = memory.slices(allocation)
        assert bytes(piece) == bytes(1500)
        piece[:] = b"x" * 1500
        pool.free(allocation)


def test_memory_that_cannot_be_mapped_is_said_so() -> None:
    config = PoolConfig(name="huge", kind=UnitKind.TCP, unit_bytes=2**30, total_units=2**30)
    with pytest.raises(StoreError, match="cannot map"):
        UnitMemory(config)


def test_closing_gives_the_memory_back() -> None:
    _, memory = fresh()
    memory.close()
