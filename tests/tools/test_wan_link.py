"""One direction of the channel, without any I/O: the clock is a number."""

from __future__ import annotations

from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.wan.errors import BadSetting
from tools.wan.link import HELD_LIMIT_BYTES, NS_PER_S, PPM, Link, LinkSettings

MS = 1_000_000


def settings(
    rate_bps: int = 12_000_000, delay_ns: int = 10 * MS, queue_bytes: int = 15_000, overhead: int = 0
):
    return LinkSettings(
        rate_bps=rate_bps, delay_ns=delay_ns, queue_bytes=queue_bytes, overhead_bytes=overhead
    )


def lossy(loss_ppm: int):
    return LinkSettings(rate_bps=10**9, delay_ns=0, queue_bytes=HELD_LIMIT_BYTES, loss_ppm=loss_ppm)


def test_a_share_of_the_packets_is_lost_the_same_ones_with_the_same_seed():
    runs = []
    for seed in (7, 7, 8):
        link = Link(lossy(100_000), Random(seed))
        runs.append([link.receive(b"p", 1500, 1, now=0) for _ in range(10_000)])
        counted = link.statistics(0)
        assert counted.lost_packets == runs[-1].count(False)
        assert counted.lost_bytes == 1500 * counted.lost_packets
        assert counted.dropped_packets == 0  # no want of room
        assert 900 < counted.lost_packets < 1100  # 10 % of them: 3 standard deviations are 90
    assert runs[0] == runs[1] != runs[2]


def test_loss_begins_and_ends_while_the_link_runs():
    link = Link(lossy(0), Random(0))
    taken = []
    for loss_ppm in (0, PPM, 0):
        link.set(lossy(loss_ppm), now=0)
        taken.append(link.receive(b"p", 1500, 1, now=0))
    assert taken == [True, False, True]


@pytest.mark.parametrize("loss_ppm", [-1, PPM + 1])
def test_a_loss_that_is_no_share_is_refused(loss_ppm):
    with pytest.raises(BadSetting, match="the loss is"):
        lossy(loss_ppm)


def test_a_packet_arrives_after_its_serialisation_and_the_delay():
    link = Link(settings())  # 1500 bytes take 1 ms
    assert link.next_deadline() is None
    assert link.receive(b"p", 1500, 1, now=5)
    assert link.next_deadline() == 5 + 11 * MS
    assert link.packets_due(5 + 11 * MS - 1) == []
    assert link.packets_due(5 + 11 * MS) == [b"p"]
    assert link.next_deadline() is None


def test_packets_are_serialised_one_after_the_other_and_an_idle_time_is_not_saved_up():
    link = Link(settings())
    for name in (b"a", b"b"):
        link.receive(name, 1500, 1, now=0)
    assert link.packets_due(11 * MS) == [b"a"]
    assert link.next_deadline() == 12 * MS
    link.receive(b"c", 1500, 1, now=100 * MS)
    assert link.packets_due(110 * MS) == [b"b"]
    assert link.next_deadline() == 111 * MS


def test_the_queue_drops_at_its_tail_and_counts_it():
    link = Link(settings(queue_bytes=3000))
    taken = [link.receive(bytes([number]), 1500, 1, now=0) for number in range(4)]
    assert taken == [True, True, False, False]
    counted = link.statistics(0)
    assert (counted.dropped_packets, counted.dropped_bytes) == (2, 3000)
    assert (counted.queue_bytes, counted.queue_bytes_max) == (3000, 3000)
    # After one packet's time there is room for one packet again.
    assert link.receive(b"x", 1500, 1, now=1 * MS)
    assert not link.receive(b"y", 1500, 1, now=1 * MS)


def test_what_travels_does_not_count_against_the_queue():
    link = Link(settings(delay_ns=1000 * MS, queue_bytes=1500))
    assert all(link.receive(b"p", 1500, 1, now=number * MS) for number in range(500))
    assert link.statistics(500 * MS).held_packets == 500
    assert link.statistics(500 * MS).queue_bytes == 0


def test_an_idle_link_takes_a_packet_larger_than_its_queue():
    link = Link(settings(queue_bytes=100))
    assert link.receive(b"p", 60_000, 40, now=0)
    assert not link.receive(b"q", 1, 1, now=0)


def test_a_super_packet_counts_as_its_wire_segments_with_the_overhead_of_each():
    link = Link(settings(overhead=38, queue_bytes=HELD_LIMIT_BYTES))
    link.receive(b"super", 15_000, 10, now=0)
    counted = link.statistics(0)
    assert (counted.held_packets, counted.held_bytes) == (10, 15_380)
    assert link.next_deadline() == 15_380 * 8 * NS_PER_S // 12_000_000 + 10 * MS


def test_a_delay_cut_does_not_reorder_and_does_not_hurry_what_travels():
    link = Link(settings())
    link.receive(b"old", 1500, 1, now=0)
    link.set(settings(delay_ns=0), now=2 * MS)
    link.receive(b"new", 1500, 1, now=2 * MS)  # would be there at 3 ms
    assert link.packets_due(11 * MS - 1) == []
    assert link.packets_due(11 * MS) == [b"old", b"new"]


def test_a_longer_delay_holds_for_what_has_not_left_yet():
    link = Link(settings())
    link.receive(b"leaves at 1 ms", 1500, 1, now=0)
    link.receive(b"leaves at 2 ms", 1500, 1, now=0)
    link.set(settings(delay_ns=50 * MS), now=1 * MS)
    assert link.packets_due(11 * MS) == [b"leaves at 1 ms"]
    assert link.next_deadline() == 52 * MS


@pytest.mark.parametrize(("factor", "finished"), [(Fraction(1, 2), 20 * MS), (Fraction(2), 5 * MS)])
def test_a_change_of_rate_rescales_the_backlog(factor, finished):
    link = Link(settings(delay_ns=0))
    for number in range(10):
        link.receive(bytes([number]), 1500, 1, now=0)
    link.set(settings(rate_bps=int(12_000_000 * factor), delay_ns=0), now=0)
    assert link.queue_bytes(0) == 15_000  # in bytes nothing has changed
    assert link.packets_due(finished - 1) == [bytes([number]) for number in range(9)]
    assert link.packets_due(finished) == [bytes([9])]
    assert link.queue_bytes(finished) == 0


def test_a_smaller_queue_drops_nothing_that_was_taken():
    link = Link(settings())
    for _ in range(10):
        assert link.receive(b"p", 1500, 1, now=0)
    link.set(settings(queue_bytes=1500), now=0)
    assert not link.receive(b"q", 1500, 1, now=0)
    assert len(link.packets_due(10**12)) == 10


def test_what_one_direction_holds_is_bounded():
    link = Link(settings(rate_bps=10**11, delay_ns=10 * NS_PER_S, queue_bytes=HELD_LIMIT_BYTES))
    size = HELD_LIMIT_BYTES // 4
    assert [link.receive(b"", size, 1, now=number * NS_PER_S) for number in range(5)] == [True] * 4 + [False]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"rate_bps": 0}, "rate"),
        ({"rate_bps": 10**12}, "rate"),
        ({"delay_ns": -1}, "delay"),
        ({"delay_ns": 11 * NS_PER_S}, "delay"),
        ({"queue_bytes": 0}, "queue"),
        ({"overhead": 1000}, "overhead"),
    ],
)
def test_a_setting_without_meaning_is_refused_by_name(wrong, says):
    with pytest.raises(BadSetting, match=says):
        settings(**wrong)


@given(
    rate_bps=st.integers(1000, 10**11),
    sizes=st.lists(st.integers(20, 65_535), min_size=1, max_size=60),
)
def test_the_rate_is_exact_to_the_nanosecond_over_any_number_of_packets(rate_bps, sizes):
    link = Link(settings(rate_bps=rate_bps, delay_ns=0, queue_bytes=HELD_LIMIT_BYTES))
    for size in sizes:
        link.receive(b"", size, 1, now=0)
    exact = Fraction(sum(sizes) * 8 * NS_PER_S, rate_bps)
    last = int(exact)
    assert len(link.packets_due(last - 1)) < len(sizes)
    link.packets_due(last)
    assert link.next_deadline() is None


arrivals = st.tuples(st.just("arrive"), st.integers(0, 3 * MS), st.integers(20, 9000), st.integers(1, 6))
changes = st.tuples(
    st.just("set"), st.integers(0, 3 * MS), st.integers(10**6, 10**9), st.integers(0, 30 * MS)
)
looks = st.tuples(st.just("look"), st.integers(0, 20 * MS), st.just(0), st.just(0))


@given(st.lists(st.one_of(arrivals, changes, looks), max_size=80))
def test_whatever_happens_nothing_is_reordered_lost_or_made_up(steps):
    link = Link(settings())
    now = 0
    taken: list[bytes] = []
    out: list[bytes] = []
    offered = 0
    for number, (what, later, first, second) in enumerate(steps):
        now += later
        if what == "arrive":
            offered += second
            if link.receive(str(number).encode(), first, second, now):
                taken.append(str(number).encode())
        elif what == "set":
            link.set(settings(rate_bps=first, delay_ns=second), now)
        else:
            out += link.packets_due(now)
        counted = link.statistics(now)
        assert counted.received_packets == offered
        assert counted.received_bytes == counted.dropped_bytes + counted.held_bytes + counted.delivered_bytes
        assert 0 <= counted.queue_bytes <= counted.held_bytes + 1  # rounded up to a byte
        deadline = link.next_deadline()
        assert (deadline is None) == (len(out) == len(taken))
    out += link.packets_due(now + 10**12)
    assert out == taken
