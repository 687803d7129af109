"""The engine against the same links written as SimPy processes: every moment and every counter."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcsim.engine.fabric_kernel import Engine
from fcsim.engine.fabric_state import (
    COUNTERS,
    DELIVERED,
    FLOW_COUNTERS,
    LATENCY,
    NEVER,
    PEAK,
    RANDOM_LIMIT,
    TX_BYTES,
    TX_FRAMES,
    WORST,
    ZERO_TICKS,
    ZERO_TRANSITIONS,
    FlowSpec,
    LinkSpec,
    lay_out,
)
from fcsim.engine.link import LinkRun, LinkScenario
from fcsim.speeds import SPEEDS

fc_simpy = pytest.importorskip("tools.bench.fc_simpy", reason="simpy is missing: pip install -e '.[test]'")

BYTE = 1320


@settings(max_examples=25)
@given(
    st.integers(1, 12),
    st.integers(0, 40_000),
    st.integers(0, 9_000_001),
    st.lists(st.tuples(st.integers(0, 3_000_001), st.integers(0, 2112)), min_size=1, max_size=60),
)
def test_a_link_agrees_with_simpy_at_every_frame(
    credits: int, distance_m: int, drain: int, frames: list[tuple[int, int]]
) -> None:
    ready, when = [], 0
    for gap, _ in frames:
        when += gap
        ready.append(when)
    payload = [size for _, size in frames]
    run = LinkRun(LinkScenario(SPEEDS["8G"], distance_m, credits, drain_ticks=drain))
    block = run.send_block(array("q", ready), array("q", payload))
    judge = fc_simpy.run_link(
        ready,
        payload,
        credits=credits,
        byte=BYTE,
        around=60,
        propagation=distance_m * 5610,
        drain=drain,
        r_rdy=4 * BYTE,
    )
    assert (list(block.sent), list(block.drained)) == (judge.sent, judge.drained)


@settings(max_examples=25)
@given(
    st.integers(2, 6),
    st.integers(1, 9),
    st.integers(1, 40),
    st.sampled_from([56_101, 5_610_007, 200_000_033]),
    st.integers(0, 20_000_003),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.integers(1, 2**31),
)
def test_a_switch_agrees_with_simpy_on_every_counter(
    hosts: int, credits: int, frames: int, propagation: int, drain: int, hot: float, seed: int
) -> None:
    drains = tuple(drain + 1_000_003 * n for n in range(hosts))
    starts = tuple(7919 * n for n in range(hosts))
    common = {"byte_ticks": BYTE, "propagation": propagation, "credits": (credits,)}
    links = [LinkSpec(("host", n), ("switch", 0), **common) for n in range(hosts)]  # type: ignore[arg-type]
    links += [
        LinkSpec(("switch", 0), ("host", n), drain_frame=drains[n], **common)  # type: ignore[arg-type]
        for n in range(hosts)
    ]
    flows = [
        FlowSpec(n, hot=0, hot_chance=hot, low_bytes=511, high_bytes=2111, start=starts[n], count=frames)
        for n in range(hosts)
    ]
    routes = {(0, n): [hosts + n] for n in range(hosts)}
    state = lay_out(links, flows, routes, hosts=hosts, switches=1, seed=seed)
    judge = fc_simpy.StarRun(
        fc_simpy.Star(
            hosts=hosts,
            credits=credits,
            frames=frames,
            byte=BYTE,
            propagation=propagation,
            overhead=state.overhead,
            low_bytes=511,
            high_bytes=2111,
            hot_chance=int(hot * RANDOM_LIMIT),
            drain=drains,
            start=starts,
            random=tuple(state.random[:hosts]),
        )
    )
    engine = Engine(state)
    engine.run(NEVER - 1, 10**6)
    assert judge.run() == engine.now
    for number in range(2 * hosts):
        credit = judge.credit[number]
        counted = state.counters[number * COUNTERS : (number + 1) * COUNTERS]
        assert (counted[TX_FRAMES], counted[TX_BYTES]) == (judge.tx_frames[number], judge.tx_bytes[number])
        assert counted[ZERO_TRANSITIONS] == credit.zero_transitions
        assert counted[ZERO_TICKS] == credit.zero_ticks
        assert counted[PEAK] == credit.peak
    for number in range(hosts):
        counted = state.flow_counters[number * FLOW_COUNTERS : (number + 1) * FLOW_COUNTERS]
        expected = (judge.delivered[number], judge.latency[number], judge.worst[number])
        assert (counted[DELIVERED], counted[LATENCY], counted[WORST]) == expected
