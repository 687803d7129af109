"""The extent queue: every extent is in exactly one place, and each is acknowledged exactly once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgmt.array.replication.plan import Extent, ExtentQueue


def drain(queue: ExtentQueue, connection: str) -> list[Extent]:
    taken = []
    while (extent := queue.take(connection)) is not None:
        taken.append(extent)
    return taken


def test_the_extents_of_a_volume_are_its_bytes_in_order_and_the_last_is_short() -> None:
    assert drain(ExtentQueue(10, 4), "a") == [Extent(0, 4), Extent(4, 4), Extent(8, 2)]


def test_two_connections_share_one_queue() -> None:
    queue = ExtentQueue(12, 4)
    assert (queue.take("a"), queue.take("b"), queue.take("a")) == (Extent(0, 4), Extent(4, 4), Extent(8, 4))
    assert queue.take("b") is None
    assert queue.outstanding_bytes == 12


def test_what_a_lost_connection_had_outstanding_is_taken_first_and_in_order() -> None:
    queue = ExtentQueue(20, 4)
    for _ in range(3):
        queue.take("a")
    assert queue.give_back("a") == 3
    assert drain(queue, "b") == [Extent(offset, 4) for offset in (0, 4, 8, 12, 16)]


def test_only_an_outstanding_extent_can_be_acknowledged_and_only_once() -> None:
    queue = ExtentQueue(8, 4)
    extent = queue.take("a")
    assert extent is not None
    with pytest.raises(KeyError):
        queue.acknowledge("b", extent)
    queue.acknowledge("a", extent)
    with pytest.raises(KeyError):
        queue.acknowledge("a", extent)
    assert queue.acknowledged_bytes == 4


def test_a_volume_without_bytes_is_complete_from_the_start() -> None:
    assert ExtentQueue(0, 4).complete


@pytest.mark.parametrize(("total_bytes", "extent_bytes"), [(-1, 4), (4, 0), (4, -1)])
def test_a_volume_that_cannot_be_cut_is_refused(total_bytes: int, extent_bytes: int) -> None:
    with pytest.raises(ValueError, match="cannot be cut"):
        ExtentQueue(total_bytes, extent_bytes)


@given(
    total_bytes=st.integers(0, 400),
    extent_bytes=st.integers(1, 50),
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["take", "acknowledge", "give_back"]))),
)
def test_whatever_happens_every_byte_is_acknowledged_exactly_once(
    total_bytes: int, extent_bytes: int, steps: list[tuple[str, str]]
) -> None:
    queue = ExtentQueue(total_bytes, extent_bytes)
    outstanding: dict[str, list[Extent]] = {name: [] for name in "abc"}
    acknowledged: list[Extent] = []
    for name, step in steps:
        if step == "take" and (extent := queue.take(name)) is not None:
            outstanding[name].append(extent)
        elif step == "acknowledge" and outstanding[name]:
            extent = outstanding[name].pop()
            queue.acknowledge(name, extent)
            acknowledged.append(extent)
        elif step == "give_back":
            assert queue.give_back(name) == len(outstanding[name])
            outstanding[name].clear()
        under_way = sum(extent.length_bytes for extents in outstanding.values() for extent in extents)
        assert queue.outstanding_bytes == under_way
    for name in "abc":
        queue.give_back(name)
    for extent in drain(queue, "d"):
        queue.acknowledge("d", extent)
        acknowledged.append(extent)
    assert queue.complete
    covered = sorted((extent.offset_bytes, extent.length_bytes) for extent in acknowledged)
    assert [offset for offset, _ in covered] == list(range(0, total_bytes, extent_bytes))
    assert sum(length for _, length in covered) == total_bytes
