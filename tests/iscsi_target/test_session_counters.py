"""What is counted, and how it is read."""

from __future__ import annotations

from iscsi_target.session.counters import LATENCY_BUCKETS, Traffic, TrafficTable, by_lun, total


def test_latencies_fall_into_power_of_two_buckets_of_microseconds() -> None:
    traffic = Traffic()
    for latency_ns in (0, 999, 1000, 1999, 2000, 4000, 10**18):
        traffic.answered(latency_ns)
    traffic.answered(5000, 3)
    buckets = traffic.statistics().latency_buckets
    assert buckets[:4] == (2, 2, 1, 4)
    assert buckets[LATENCY_BUCKETS - 1] == 1
    assert traffic.statistics().answered == 10
    assert traffic.statistics().latency_sum_ns == 999 + 1000 + 1999 + 2000 + 4000 + 10**18 + 15000


def test_luns_that_do_not_exist_share_one_set_of_counters() -> None:
    table = TrafficTable()
    assert table.of(0, (0, 1)) is table.of(0, (0, 1))
    assert table.of(7, (0, 1)) is table.of(9, (0, 1))
    assert table.of(7, (0, 1)) is not table.of(0, (0, 1))
    assert len(table.by_lun) == 2


def test_sums_outlive_sessions() -> None:
    past, first, second = TrafficTable(), TrafficTable(), TrafficTable()
    for table in (first, second):
        traffic = table.of(0, (0,))
        traffic.reads += 2
        traffic.read_bytes += 1024
        traffic.answered(3000)
        table.of(5, (0,)).others += 1
    past.take_over(first)
    luns = by_lun((past, second))
    assert [entry.lun for entry in luns] == [0, None]
    assert (luns[0].traffic.read_commands, luns[0].traffic.read_bytes) == (4, 2048)
    assert (total(luns).commands, total(luns).answered) == (6, 2)
