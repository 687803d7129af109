"""Lists of units against sets: every unit in at most one list, runs joined, nothing lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from credits.units import UnitList, UnitMap


def units_of(runs: object) -> set[int]:
    return {unit for first, count in runs for unit in range(first, first + count)}  # type: ignore[attr-defined]


@given(
    st.integers(1, 60),
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 20), st.integers(0, 2)), max_size=60),
)
def test_moving_units_between_lists_loses_and_doubles_none(
    capacity: int, moves: list[tuple[int, int, int]]
) -> None:
    unit_map = UnitMap(capacity)
    lists = [UnitList(unit_map) for _ in range(3)]
    lists[0].put(0, capacity)
    expected = [set(range(capacity)), set(), set()]
    for source, wanted, destination in moves:
        count = min(wanted, lists[source].units)
        if not count:
            continue
        runs = lists[source].take(count)
        taken = units_of(runs)
        assert len(taken) == count == sum(length for _, length in runs)
        assert taken <= expected[source]
        expected[source] -= taken
        for first, length in runs:
            lists[destination].put(first, length)
        expected[destination] |= taken
        for unit_list, units in zip(lists, expected, strict=True):
            found = list(unit_list.runs())
            assert units_of(found) == units
            assert unit_list.units == len(units) == sum(length for _, length in found)


@given(st.permutations(range(20)))
def test_single_units_that_come_home_in_any_order_become_one_run(order: list[int]) -> None:
    unit_map = UnitMap(20)
    home = UnitList(unit_map)
    home.put(0, 20)
    for _ in range(20):
        home.take(1)
    assert home.head == -1
    for unit in order:
        home.put(unit, 1)
    assert list(home.runs()) == [(0, 20)]


def test_neighbours_in_different_lists_stay_apart() -> None:
    unit_map = UnitMap(4)
    one, two = UnitList(unit_map), UnitList(unit_map)
    one.put(0, 1)
    two.put(1, 1)
    one.put(2, 1)
    two.put(3, 1)
    assert sorted(one.runs()) == [(0, 1), (2, 1)]
    assert sorted(two.runs()) == [(1, 1), (3, 1)]


def test_a_map_grows_and_its_copy_is_independent() -> None:
    unit_map = UnitMap(2)
    units = UnitList(unit_map)
    units.put(0, 2)
    copied_map = unit_map.copy()
    copy = units.copy(copied_map)
    unit_map.extend(3)
    units.put(2, 3)
    assert list(units.runs()) == [(0, 5)]
    assert list(copy.runs()) == [(0, 2)]
    copy.take(1)
    assert units.units == 5
