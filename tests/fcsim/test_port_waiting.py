"""Time without credit: exact sums, the ticks that switches print, and shares that forget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcsim.port.waiting import SECOND_PS, TICK_PS, CreditClock, WaitHistory


@pytest.mark.parametrize(("ticks", "seconds"), [(16_682_205, 41.7), (1_222_049_738, 3055)])
def test_published_tick_counts_are_the_seconds_they_were_said_to_be(ticks: int, seconds: float) -> None:
    """Oracle 19 of the reference: 16,682,205 ticks are 41.7 s, 1,222,049,738 are 3055 s."""
    history = WaitHistory()
    history.add(0, ticks * TICK_PS)
    assert history.ticks == ticks
    assert history.total_ps / SECOND_PS == pytest.approx(seconds, rel=1e-3)


def test_slowport_example_of_three_delays_of_4_ms_is_12_of_100_ms() -> None:
    """Oracle 20: count +3, oper delay 4 ms, are 12 ms of 100 ms."""
    history = WaitHistory()
    for start in (10, 40, 70):
        history.add(start * 10**9, (start + 4) * 10**9)
    assert history.shares(10**11).last_1m == pytest.approx(0.12)


def test_shares_of_a_second_a_minute_and_an_hour_forget_what_is_older() -> None:
    history = WaitHistory()
    history.add(0, 30 * SECOND_PS)
    assert history.shares(30 * SECOND_PS).last_1s == 1
    assert history.shares(60 * SECOND_PS).last_1m == pytest.approx(0.5, abs=0.02)
    assert history.shares(60 * SECOND_PS).last_1s == 0
    later = history.shares(200 * SECOND_PS)
    assert later.last_1m == 0
    assert later.last_1h == pytest.approx(30 / 200)
    assert history.shares(80 * 3600 * SECOND_PS).last_72h == 0


def test_a_wait_of_weeks_costs_a_bounded_number_of_buckets() -> None:
    history = WaitHistory()
    history.add(0, 21 * 86_400 * SECOND_PS)
    shares = history.shares(21 * 86_400 * SECOND_PS)
    assert (shares.last_1s, shares.last_1m, shares.last_1h, shares.last_72h) == (1, 1, 1, 1)
    assert history.total_ps == 21 * 86_400 * SECOND_PS


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 10**13)), max_size=40))
def test_zero_time_and_waiting_time_are_exact(steps: list[tuple[int, int, int]]) -> None:
    clock, now, zero, waited, transitions, before = CreditClock(), 0, 0, 0, 0, True
    available, waiting = 1, 0
    for next_available, next_waiting, passed in steps:
        if not available:
            zero += passed
            waited += passed if waiting else 0
        now += passed
        available, waiting = next_available, next_waiting
        transitions += before and not available
        before = bool(available)
        clock.see(available, waiting, now)
        if passed % 2:
            clock.settle(now)
    clock.settle(now)
    assert (clock.zero.total_ps, clock.tx_wait.total_ps) == (zero, waited)
    assert clock.zero_transitions == transitions


def test_zero_without_a_waiting_frame_is_no_tx_wait() -> None:
    clock = CreditClock()
    clock.see(0, 0, 100)
    clock.see(0, 1, 300)
    clock.see(2, 1, 350)
    assert (clock.zero.total_ps, clock.tx_wait.total_ps) == (250, 50)
