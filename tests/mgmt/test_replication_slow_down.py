"""Whose hosts wait first when the cache runs low (embodiment 5)."""

from __future__ import annotations

from mgmt.array.replication.slow_down import SlowDownPolicy, begins, delay_ns, standing

POLICY = SlowDownPolicy(begin=0.6, slowest_ns=50_000_000)
GROUPS = [
    standing("ledger", 0, synchronous=True),
    standing("mail", 3, synchronous=False),
    standing("test", 9, synchronous=False),
    standing("db", 0, synchronous=False),
]


def test_low_priority_asynchronous_groups_are_slowed_first_and_synchronous_ones_last() -> None:
    order = begins(POLICY, GROUPS)
    assert sorted(order, key=order.__getitem__) == ["test", "mail", "db", "ledger"]
    assert order["test"] == 0.6
    assert all(begin < 1.0 for begin in order.values())


def test_nobody_waits_below_the_mark_and_the_wait_grows_until_the_cache_is_full() -> None:
    order = begins(POLICY, GROUPS)
    for name, begin in order.items():
        delays = [delay_ns(POLICY, begin, fill / 100) for fill in range(101)]
        assert delays[: int(begin * 100)] == [0] * int(begin * 100), name
        assert delays == sorted(delays)
        assert delays[-1] == POLICY.slowest_ns
    for fill in (0.7, 0.8, 0.9, 0.95):
        waits = [delay_ns(POLICY, order[name], fill) for name in ("test", "mail", "db", "ledger")]
        assert waits == sorted(waits, reverse=True)
