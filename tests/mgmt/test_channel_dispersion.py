"""From arrival times to a bandwidth: trains as an ideal channel would deliver them, and then spoilt."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgmt.channel.dispersion import (
    Arrival,
    NotMeasurable,
    channel_bandwidth_bps,
    check_measured,
    round_trip_ns,
    train_bandwidth_bps,
)

PACKET = 1500


def train(bandwidth_bps: int, packets: int = 100, start_ns: int = 5_000) -> list[Arrival]:
    """Packets that left a bottleneck back to back."""
    gap_ns = 8 * PACKET * 10**9 / bandwidth_bps
    return [Arrival(number, start_ns + round(number * gap_ns), PACKET) for number in range(packets)]


@pytest.mark.parametrize("bandwidth_bps", [10**6, 10**7, 10**8, 10**9, 10**10])
def test_an_undisturbed_train_gives_the_bandwidth(bandwidth_bps: int) -> None:
    assert train_bandwidth_bps(train(bandwidth_bps)) == pytest.approx(bandwidth_bps, rel=1e-4)


def test_packets_lost_before_the_bottleneck_leave_no_gap_and_do_not_count() -> None:
    """Those that remain are still sent back to back."""
    arrivals = train(10**8, 80)
    renumbered = [Arrival(number * 2, arrival.arrival_ns, PACKET) for number, arrival in enumerate(arrivals)]
    assert train_bandwidth_bps(renumbered) == pytest.approx(10**8, rel=1e-4)


def test_some_packets_lost_after_the_bottleneck_move_the_estimate_little() -> None:
    arrivals = train(10**8)
    del arrivals[40:43]
    assert train_bandwidth_bps(arrivals) == pytest.approx(10**8, rel=0.07)


def test_reordering_does_not_matter() -> None:
    arrivals = train(10**8)
    swapped = [
        Arrival(arrivals[number ^ 1].sequence, arrival.arrival_ns, PACKET)
        for number, arrival in enumerate(arrivals)
    ]
    assert train_bandwidth_bps(swapped) == pytest.approx(10**8, rel=1e-4)
    assert train_bandwidth_bps(arrivals[::-1]) == pytest.approx(10**8, rel=1e-4)


def test_a_duplicated_packet_counts_once() -> None:
    arrivals = train(10**8)
    assert train_bandwidth_bps(arrivals + arrivals) == pytest.approx(10**8, rel=1e-4)


def test_jitter_of_the_receiver_averages_out() -> None:
    rng = random.Random(1)
    late = [
        Arrival(arrival.sequence, arrival.arrival_ns + int(rng.expovariate(1 / 50_000)), PACKET)
        for arrival in train(10**8, 300)
    ]
    assert train_bandwidth_bps(late) == pytest.approx(10**8, rel=0.03)


def test_a_stall_that_delivers_twenty_packets_at_once_moves_the_estimate_little() -> None:
    arrivals = train(10**8, 300)
    at_once = arrivals[120].arrival_ns
    stalled = [
        Arrival(
            arrival.sequence,
            max(arrival.arrival_ns, at_once) if 100 <= number < 120 else arrival.arrival_ns,
            PACKET,
        )
        for number, arrival in enumerate(arrivals)
    ]
    assert train_bandwidth_bps(stalled) == pytest.approx(10**8, rel=0.03)


def test_the_initial_burst_of_a_shaper_does_not_count() -> None:
    arrivals = train(10**8, 300)
    first = arrivals[60].arrival_ns
    burst = [
        Arrival(arrival.sequence, first - 60 + number if number < 60 else arrival.arrival_ns, PACKET)
        for number, arrival in enumerate(arrivals)
    ]
    assert train_bandwidth_bps(burst) == pytest.approx(10**8, rel=0.01)


@pytest.mark.parametrize(
    "arrivals", [[], train(10**8, 7), [Arrival(number, 5, PACKET) for number in range(50)]]
)
def test_a_train_that_says_nothing_is_no_measurement(arrivals: list[Arrival]) -> None:
    with pytest.raises(NotMeasurable):
        train_bandwidth_bps(arrivals)


@given(
    bandwidth_bps=st.integers(10**6, 10**10),
    lost=st.sets(st.integers(0, 99), max_size=30),
    seed=st.integers(0, 2**32),
)
def test_lost_and_shuffled_trains_never_exceed_the_bandwidth(
    bandwidth_bps: int, lost: set[int], seed: int
) -> None:
    arrivals = [arrival for arrival in train(bandwidth_bps) if arrival.sequence not in lost]
    random.Random(seed).shuffle(arrivals)
    assert train_bandwidth_bps(arrivals) <= bandwidth_bps * 1.01


def test_the_channel_is_the_median_of_its_trains_and_empty_trains_do_not_count() -> None:
    assert channel_bandwidth_bps([0, 90, 100, 400]) == 100
    with pytest.raises(NotMeasurable):
        channel_bandwidth_bps([0, 0])


def test_the_round_trip_is_the_smallest_valid_sample() -> None:
    assert round_trip_ns([25, 21, -3, 0, 40]) == 21
    with pytest.raises(NotMeasurable):
        round_trip_ns([0, -5])


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), -float("inf")])
def test_nothing_is_computed_from_a_value_that_was_not_measured(bad: float) -> None:
    with pytest.raises(NotMeasurable):
        check_measured(bad, 1)
    with pytest.raises(NotMeasurable):
        check_measured(1, bad)
