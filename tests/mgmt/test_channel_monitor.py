"""Watching a channel: a simulated one that changes, with copies that fill its queue, in simulated time."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgmt.channel.change import ChangeConfig, ChangeDetector
from mgmt.channel.monitor import ChannelChanged, ChannelMonitor, RoundTrip
from mgmt.channel.responder import Responder
from mgmt.channel.smoothing import Average, WindowedExtreme
from mgmt.channel.stream import StampStream

MS = 1_000_000
S = 1_000_000_000


# --- the detector -----------------------------------------------------------------------------------------------


def changes(
    values: list[int], config: ChangeConfig | None = None, every_ns: int = 250 * MS
) -> list[tuple[int, int]]:
    detector = ChangeDetector(config)
    found = []
    for number, value in enumerate(values):
        if (new := detector.observe(value, number * every_ns)) is not None:
            found.append((number, new))
    return found


def test_what_stays_in_the_dead_band_is_no_change_however_long_it_lasts() -> None:
    assert changes([100] * 5 + [109] * 1000 + [92] * 1000) == []


@pytest.mark.parametrize("to", [50, 80, 125, 200, 1000])
def test_a_step_is_found_within_a_few_samples_either_way(to: int) -> None:
    ((number, new),) = changes([100] * 20 + [to] * 40)
    assert new == to
    assert number - 20 <= (1 if to in (50, 200, 1000) else 4)


def test_a_single_sample_far_off_is_no_change() -> None:
    assert changes(([100] * 9 + [1000]) * 20) == []


def test_a_slow_drift_is_followed_in_steps() -> None:
    drift = [round(100 * 1.002**number) for number in range(400)]
    found = changes(drift)
    assert 4 <= len(found) <= 8
    assert all(abs(new / drift[number] - 1) < 0.05 for number, new in found)


def test_two_changes_are_never_reported_within_the_hold_time() -> None:
    found = changes([100] * 5 + [200, 200, 100, 100] * 20, ChangeConfig(hold_ns=2 * S))
    assert found
    assert all(after - before >= 8 for (before, _), (after, _) in pairwise(found))


@pytest.mark.parametrize("value", [0, -1])
def test_nothing_is_ever_computed_from_0_or_less(value: int) -> None:
    with pytest.raises(ValueError, match="no measured value"):
        ChangeDetector().observe(value, 0)


@given(st.lists(st.integers(1, 10**12), max_size=200))
def test_what_is_reported_was_measured_and_is_outside_the_dead_band(values: list[int]) -> None:
    detector = ChangeDetector()
    for number, value in enumerate(values):
        before = detector.reference
        new = detector.observe(value, number * S)
        if new is not None:
            assert before is not None
            assert new in values[max(0, number - 2) : number + 1]
            assert not before / 1.1 <= new <= before * 1.1


# --- smoothing --------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-50, 50)), max_size=100), st.sampled_from((1, -1)))
def test_a_windowed_extreme_is_that_of_the_samples_in_the_window(
    steps: list[tuple[int, int]], sign: int
) -> None:
    extreme = WindowedExtreme(10, sign)
    now, seen = 0, []
    for step, value in steps:
        now += step
        seen.append((now, value))
        inside = [sample for at, sample in seen if now - at <= 10]
        assert extreme.observe(value, now) == (max(inside) if sign == 1 else min(inside))
    assert extreme.value(now + 11) is None


def test_an_average_moves_by_its_weight() -> None:
    average = Average(0.5)
    assert average.value is None
    average.observe(100)
    average.observe(200)
    assert average.value == 150


# --- a channel --------------------------------------------------------------------------------------------------


@dataclass
class SimulatedChannel:
    """A channel of ``bandwidth_bps`` and ``rtt_ns``; a copy that keeps ``in_flight_bytes`` under way fills its queue in
    one direction. Clocks differ by ``offset_ns``."""

    bandwidth_bps: int = 10**8
    rtt_ns: int = 20 * MS
    in_flight_bytes: int = 0
    offset_ns: int = 0
    now_ns: int = 0

    def __post_init__(self) -> None:
        self.monitor = ChannelMonitor()
        self.seen: list[ChannelChanged] = []
        self._rng = random.Random(11)
        self._polled_at_ns = 0

    @property
    def queue_ns(self) -> int:
        return max(0, self.in_flight_bytes * 8 * S // self.bandwidth_bps - self.rtt_ns)

    @property
    def rate_bps(self) -> int:
        return min(self.bandwidth_bps, self.in_flight_bytes * 8 * S // self.rtt_ns)

    def run(self, span_ns: int) -> list[ChannelChanged]:
        """The changes that were reported meanwhile."""
        before, end_ns = len(self.seen), self.now_ns + span_ns
        while self.now_ns < end_ns:
            self.now_ns += 50 * MS
            noise_ns = round(self._rng.expovariate(1 / (0.2 * MS)))
            there_ns = self.rtt_ns // 2 + self.queue_ns + noise_ns
            back_ns = self.rtt_ns // 2 + round(self._rng.expovariate(1 / (0.2 * MS)))
            sample = RoundTrip(there_ns + back_ns, there_ns + self.offset_ns, back_ns - self.offset_ns)
            self.monitor.observe_round_trip(sample, self.now_ns)
            if self.now_ns - self._polled_at_ns >= 500 * MS:
                self._polled_at_ns = self.now_ns
                if self.rate_bps:
                    self.monitor.observe_delivery(
                        round(self.rate_bps * self._rng.uniform(0.97, 1)), self.now_ns
                    )
            self.seen += self.monitor.events()
        return self.seen[before:]

    def known(self) -> SimulatedChannel:
        """After some seconds of rest, with the trains' bandwidth."""
        for _ in range(3):
            self.monitor.observe_bandwidth(self.bandwidth_bps, self.now_ns)
        self.run(3 * S)
        return self


@pytest.mark.parametrize("offset_ns", [0, 10**15, -(10**15)])
def test_a_channel_at_rest_is_reported_once_and_then_never_again(offset_ns: int) -> None:
    channel = SimulatedChannel(offset_ns=offset_ns).known()
    assert [(change.bandwidth_bps, round(change.rtt_ns / MS)) for change in channel.seen] == [(10**8, 20)]
    assert channel.run(120 * S) == []


@pytest.mark.parametrize("part", [0, 1, 6])
@pytest.mark.parametrize(("before_ms", "after_ms"), [(20, 80), (80, 20), (10, 280)])
def test_a_delay_that_changes_is_reported_within_a_second_whatever_a_copy_does(
    part: int, before_ms: int, after_ms: int
) -> None:
    channel = SimulatedChannel(rtt_ns=before_ms * MS).known()
    channel.in_flight_bytes = part * channel.bandwidth_bps * channel.rtt_ns // (8 * S)
    channel.run(5 * S)
    channel.seen.clear()
    channel.rtt_ns = after_ms * MS
    changed_at_ns = channel.now_ns
    found = channel.run(2 * S)
    delays = [change for change in found if abs(change.rtt_ns / (after_ms * MS) - 1) < 0.1]
    assert delays, found
    assert delays[0].now_ns - changed_at_ns <= S


def test_a_copy_that_fills_its_own_queue_does_not_make_the_channel_longer() -> None:
    channel = SimulatedChannel().known()
    channel.seen.clear()
    channel.in_flight_bytes = 6 * 250_000
    assert channel.run(50 * S) == []
    assert channel.monitor.queueing
    view = channel.monitor.view()
    assert (view.loaded_rtt_ns or 0) > 100 * MS
    assert abs((view.rtt_ns or 0) - 20 * MS) < 2 * MS


@pytest.mark.parametrize(("before", "after"), [(10**8, 5 * 10**7), (5 * 10**7, 10**8), (10**8, 10**7)])
def test_a_bandwidth_that_changes_under_a_copy_is_reported_within_three_seconds(
    before: int, after: int
) -> None:
    channel = SimulatedChannel(bandwidth_bps=before).known()
    channel.in_flight_bytes = 6 * 250_000
    channel.run(5 * S)
    channel.seen.clear()
    channel.bandwidth_bps = after
    changed_at_ns = channel.now_ns
    found = channel.run(6 * S)
    assert abs(found[-1].bandwidth_bps / after - 1) < 0.1
    assert found[0].now_ns - changed_at_ns <= 3 * S


def test_a_copy_with_too_little_to_send_does_not_make_the_channel_narrower() -> None:
    channel = SimulatedChannel().known()
    channel.seen.clear()
    channel.in_flight_bytes = 50_000
    assert channel.run(30 * S) == []


def test_a_round_trip_of_a_clock_that_was_set_is_no_sample() -> None:
    monitor = ChannelMonitor()
    monitor.observe_round_trip(RoundTrip(0, 5, -5), 0)
    assert monitor.view().loaded_rtt_ns is None


# --- the stream -------------------------------------------------------------------------------------------------


def test_a_stream_sends_evenly_and_counts_what_does_not_come_back() -> None:
    stream, responder = StampStream(9), Responder(utc_offset_ns=70)
    now_ns, samples = 0, []
    for number in range(100):
        now_ns = number * 50 * MS
        (packet,) = stream.datagrams_to_send(now_ns)
        assert stream.datagrams_to_send(now_ns) == []
        answer = responder.receive(packet, "peer", 28, now_ns + 7 * MS, now_ns + 8 * MS)
        assert answer is not None
        if number % 10:
            sample = stream.receive(answer, now_ns + 21 * MS)
            assert sample is not None
            samples.append(sample)
            assert stream.receive(answer, now_ns + 22 * MS) is None, "it came twice"
    assert set(samples) == {RoundTrip(20 * MS, 7 * MS + 70, 13 * MS - 70)}
    assert stream.lost(now_ns + 4 * S) == 10
    assert stream.lost(now_ns + 4 * S) == 0


def test_a_stream_called_late_does_not_send_a_burst() -> None:
    stream = StampStream(1)
    stream.datagrams_to_send(0)
    assert len(stream.datagrams_to_send(100 * S)) == 1


@given(st.binary(max_size=150))
def test_a_stream_takes_nothing_from_strangers(data: bytes) -> None:
    stream = StampStream(1)
    stream.datagrams_to_send(0)
    assert stream.receive(data, 5) is None
