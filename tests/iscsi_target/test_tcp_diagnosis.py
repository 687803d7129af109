"""Why a connection is not faster, in a word, from what was counted (over a real channel: test_wan_gate)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from iscsi_target.tcp_diagnosis import Limit, Sample, diagnose
from iscsi_target.tcp_info import TcpInfo

SECOND = 10**9
QUIET = TcpInfo(
    state=1,
    snd_mss=1448,
    rtt_ns=20_000_000,
    min_rtt_ns=20_000_000,
    snd_cwnd=100,
    total_retrans=0,
    bytes_acked=0,
    notsent_bytes=0,
    delivery_rate_bytes_per_s=0,
    app_limited=False,
    busy_time_ns=0,
    rwnd_limited_ns=0,
    sndbuf_limited_ns=0,
)


def judged(waited_ns: int = 0, limit_bytes: int = 100_000, **after: int) -> Limit:
    start = Sample(0, QUIET, 0, limit_bytes)
    return diagnose(start, Sample(SECOND, replace(QUIET, **after), waited_ns, limit_bytes)).limit


@pytest.mark.parametrize(
    ("limit", "after"),
    [
        (Limit.APPLICATION, {}),
        (Limit.APPLICATION, {"busy_time_ns": SECOND // 3}),
        (Limit.APPLICATION, {"busy_time_ns": SECOND}),
        (Limit.RESERVATION, {"busy_time_ns": SECOND, "waited_ns": SECOND // 2}),
        (Limit.PEER, {"busy_time_ns": SECOND, "rwnd_limited_ns": SECOND // 2, "waited_ns": SECOND // 2}),
        (Limit.NETWORK, {"busy_time_ns": SECOND, "waited_ns": SECOND // 2, "rtt_ns": 40_000_000}),
        (Limit.NETWORK, {"busy_time_ns": SECOND, "waited_ns": SECOND // 2, "snd_cwnd": 20}),
        (Limit.NETWORK, {"busy_time_ns": SECOND, "total_retrans": 5}),
    ],
)
def test_counters_become_one_word(limit: Limit, after: dict[str, int]) -> None:
    assert judged(**after) is limit
    assert limit.words


def test_a_span_without_time_is_refused() -> None:
    sample = Sample(5, QUIET, 0, 1)
    with pytest.raises(ValueError, match="different moments"):
        diagnose(sample, sample)
