"""RFC 1982 arithmetic: the type and the functions on bare integers agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iscsi_target.session.serial import SerialNumber, add, before, distance

serials = st.integers(0, 0xFFFFFFFF)
steps = st.integers(1, 0x7FFFFFFF)


@given(serials, steps)
def test_a_serial_comes_before_what_is_added_to_it(start: int, step: int) -> None:
    later = add(start, step)
    assert before(start, later)
    assert not before(later, start)
    assert distance(start, later) == step
    assert distance(later, start) == -step


@given(serials, serials)
def test_the_type_and_the_functions_agree(a: int, b: int) -> None:
    assert (SerialNumber(a) < SerialNumber(b)) == before(a, b)
    assert (SerialNumber(a) > SerialNumber(b)) == before(b, a)
    assert (SerialNumber(a) <= SerialNumber(b)) == (a == b or before(a, b))
    assert (SerialNumber(a) >= SerialNumber(b)) == (a == b or before(b, a))
    assert SerialNumber(b) - SerialNumber(a) == distance(a, b)


def test_the_wrap_goes_to_zero() -> None:
    assert SerialNumber(0xFFFFFFFF) + 1 == SerialNumber(0)
    assert before(0xFFFFFFFF, 0)


def test_numbers_half_the_circle_apart_are_not_ordered() -> None:
    assert not before(0, 0x80000000)
    assert not before(0x80000000, 0)


@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_what_is_no_serial_number_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="serial"):
        SerialNumber(value)


def test_adding_half_the_circle_or_more_is_undefined() -> None:
    with pytest.raises(ValueError, match="1982"):
        SerialNumber(0) + (1 << 31)
