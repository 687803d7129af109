"""The fabric engine: conserves frames and credits, and runs the same compiled and plain."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcsim.clock import TICKS_PER_METRE, TICKS_PER_NS, ticks_per_byte
from fcsim.engine import fabric_fields, fabric_kernel
from fcsim.engine.fabric_state import (
    BYTES,
    COUNTERS,
    DELIVERED,
    DISCARDS,
    FLOW_COUNTERS,
    LINK_RESETS,
    LOST_FRAMES,
    LOST_R_RDYS,
    NEVER,
    PEAK,
    RECOVERED,
    SENT,
    TX_FRAMES,
    WAIT_TICKS,
    ZERO_TRANSITIONS,
    FlowSpec,
    LinkSpec,
    State,
    lay_out,
)
from fcsim.errors import InvalidScenario
from fcsim.speeds import SPEEDS, throughput_bytes_per_second
from tests.twins import plain

BYTE = ticks_per_byte(SPEEDS["8G"])
MS = 10**6 * TICKS_PER_NS
BELOW = ("fcsim.engine.fabric_memory_kernel", "fcsim.engine.fabric_traffic_kernel")


def star(hosts: int, flows: list[FlowSpec], *, seed: int = 1, channels: int = 1, **link: object) -> State:
    """Hosts around one switch; link n goes in from host n, link hosts + n out to it."""
    common: dict[str, object] = {
        "byte_ticks": BYTE,
        "propagation": 100 * TICKS_PER_METRE,
        "credits": (8,) * channels,
    }
    common |= link
    inward = [LinkSpec(("host", n), ("switch", 0), **common) for n in range(hosts)]  # type: ignore[arg-type]
    outward = [LinkSpec(("switch", 0), ("host", n), **common) for n in range(hosts)]  # type: ignore[arg-type]
    routes = {(0, n): [hosts + n] for n in range(hosts)}
    return lay_out([*inward, *outward], flows, routes, hosts=hosts, switches=1, channels=channels, seed=seed)


def run(state: State, kernel: ModuleType = fabric_kernel, until: int = NEVER - 1) -> fabric_kernel.Engine:
    engine = kernel.Engine(state)
    engine.run(until, 10**6)
    return engine  # type: ignore[no-any-return]


def total(state: State, counter: int) -> int:
    return sum(state.counters[link * COUNTERS + counter] for link in range(state.links))


def flow_total(state: State, counter: int) -> int:
    return sum(state.flow_counters[counter::FLOW_COUNTERS])


def test_every_frame_arrives_and_every_credit_comes_back() -> None:
    state = star(4, [FlowSpec(n, count=500, low_bytes=0, high_bytes=2112) for n in range(4)])
    run(state)
    assert flow_total(state, SENT) == flow_total(state, DELIVERED) == 2000
    assert state.credit == state.granted
    assert total(state, PEAK) <= 8 * 8
    assert total(state, TX_FRAMES) == 4000


def test_a_saturated_path_runs_at_the_formulas_rate() -> None:
    """One link of 50 km and 16 credits at 8G: 67.2 MB/s, whatever lies behind it."""
    state = lay_out(
        [
            LinkSpec(("host", 0), ("switch", 0), BYTE, 50_000 * TICKS_PER_METRE, (16,)),
            LinkSpec(("switch", 0), ("host", 1), BYTE, 0, (255,)),
        ],
        [FlowSpec(0, to=1, count=20_000)],
        {(0, 1): [1]},
        hosts=2,
        switches=1,
    )
    engine = run(state)
    rate = state.flow_counters[BYTES] * TICKS_PER_NS * 10**9 / engine.now
    # The switch holds each buffer for one more frame time, which the formula does not know.
    assert rate / 1e6 == pytest.approx(67.2, rel=0.01)
    assert rate < throughput_bytes_per_second(SPEEDS["8G"], 16, 50_000)


def test_a_slow_host_takes_the_credits_of_those_who_send_to_others() -> None:
    """Head-of-line blocking: everybody shares the buffers of the links into the switch, a slow drain fills them."""

    def rate(drain_frame: int) -> int:
        links = [LinkSpec(("host", n), ("switch", 0), BYTE, 0, (8,)) for n in range(3)]
        links += [LinkSpec(("switch", 0), ("host", n), BYTE, 0, (8,)) for n in range(3)]
        links[4] = LinkSpec(("switch", 0), ("host", 1), BYTE, 0, (8,), drain_frame=drain_frame)
        flows = [FlowSpec(0, to=1), FlowSpec(0, to=2)]
        state = lay_out(links, flows, {(0, n): [3 + n] for n in range(3)}, hosts=3, switches=1)
        run(state, until=20 * MS)
        return state.flow_counters[FLOW_COUNTERS + DELIVERED]

    assert rate(drain_frame=2172 * BYTE * 50) * 10 < rate(drain_frame=0)


def test_virtual_channels_keep_the_slow_host_to_itself() -> None:
    links = [LinkSpec(("host", n), ("switch", 0), BYTE, 0, (8, 8)) for n in range(3)]
    links += [LinkSpec(("switch", 0), ("host", n), BYTE, 0, (8, 8)) for n in range(3)]
    links[4] = LinkSpec(("switch", 0), ("host", 1), BYTE, 0, (8, 8), drain_frame=2172 * BYTE * 50)
    flows = [FlowSpec(0, to=1, channel=0), FlowSpec(0, to=2, channel=1)]
    state = lay_out(links, flows, {(0, n): [3 + n] for n in range(3)}, hosts=3, switches=1, channels=2)
    run(state, until=20 * MS)
    slow, fast = state.flow_counters[DELIVERED], state.flow_counters[FLOW_COUNTERS + DELIVERED]
    assert fast > 30 * slow


def test_what_waits_longer_than_the_hold_time_is_dropped_and_its_buffer_freed() -> None:
    state = star(2, [FlowSpec(0, to=1, count=100)], hold=2 * MS, drain_frame=3 * MS)
    run(state)
    assert total(state, DISCARDS) > 10
    assert flow_total(state, DELIVERED) + total(state, DISCARDS) == 100
    assert state.credit == state.granted


def test_lost_frames_and_r_rdys_starve_a_link_and_recovery_keeps_it_alive() -> None:
    flows = [FlowSpec(0, to=1, count=20_000)]
    losing: dict[str, Any] = {"lose_frame": 0.005, "lose_r_rdy": 0.005}
    without = star(2, flows, **losing)
    run(without)
    assert flow_total(without, SENT) < 10_000
    recovering = star(2, flows, bb_sc_n=4, **losing)
    run(recovering)
    assert flow_total(recovering, DELIVERED) + total(recovering, LOST_FRAMES) == 20_000
    lost = total(recovering, LOST_FRAMES) + total(recovering, LOST_R_RDYS)
    missing = sum(recovering.granted) - sum(recovering.credit)
    assert total(recovering, RECOVERED) + missing == lost


def test_a_whole_window_lost_is_not_seen_and_takes_a_link_reset() -> None:
    flows = [FlowSpec(0, to=1, count=5)]
    state = star(2, flows, credits=(2,), bb_sc_n=1, lose_frame=1.0, patience=10 * MS)
    run(state, until=100 * MS)
    assert total(state, RECOVERED) == 0
    assert state.counters[LINK_RESETS] == 2
    assert state.counters[TX_FRAMES] == 5


def test_a_link_reset_gives_the_credits_back_and_drops_what_the_other_side_held() -> None:
    state = star(
        3, [FlowSpec(0, to=1, count=60), FlowSpec(2, to=1, count=60)], patience=5 * MS, drain_frame=8 * MS
    )
    run(state)
    assert total(state, LINK_RESETS) > 0
    assert flow_total(state, DELIVERED) + total(state, DISCARDS) == 120
    assert state.credit == state.granted


def test_equal_links_share_the_pairs_of_hosts_and_keep_each_pair_in_order() -> None:
    hosts = 8
    links = [LinkSpec(("host", n), ("switch", n // 4), BYTE, 0, (8,)) for n in range(hosts)]
    links += [LinkSpec(("switch", n // 4), ("host", n), BYTE, 0, (8,)) for n in range(hosts)]
    isls = range(2 * hosts, 2 * hosts + 3)
    links += [LinkSpec(("switch", 0), ("switch", 1), BYTE, 1000 * TICKS_PER_METRE, (8,)) for _ in isls]
    routes = {(n // 4, n): [hosts + n] for n in range(hosts)} | {(0, n): list(isls) for n in range(4, 8)}
    flows = [FlowSpec(n, to=4 + m, count=50) for n in range(4) for m in range(4)]
    state = lay_out(links, flows, routes, hosts=hosts, switches=2)
    run(state)
    assert flow_total(state, DELIVERED) == 16 * 50
    assert all(state.counters[isl * COUNTERS + TX_FRAMES] for isl in isls)


def test_frames_that_come_at_intervals_wait_for_nobody_on_an_idle_link() -> None:
    state = star(2, [FlowSpec(0, to=1, gap=MS, start=MS, count=10)])
    engine = run(state)
    assert flow_total(state, DELIVERED) == 10
    assert engine.now > 10 * MS
    assert total(state, WAIT_TICKS) == 0


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    runs = []
    for seed in (3, 3, 4):
        state = star(5, [FlowSpec(n, count=100, low_bytes=64) for n in range(5)], seed=seed)
        runs.append((run(state).now, state.counters))
    assert runs[0] == runs[1] != runs[2]


def test_a_traced_link_tells_every_frame_and_every_r_rdy() -> None:
    links = [LinkSpec(("host", 0), ("host", 1), BYTE, 0, (2,))]
    state = lay_out(
        links, [FlowSpec(0, to=1, count=5)], {}, hosts=2, switches=0, traced=(0,), trace_events=100
    )
    engine = run(state)
    kinds = [state.trace[n + 2] for n in range(0, engine.trace_at, 8)]
    assert (kinds.count(0), kinds.count(1)) == (5, 5)
    times = [state.trace[n] for n in range(0, engine.trace_at, 8)]
    assert times == sorted(times)


def test_more_credits_than_fit_are_refused() -> None:
    with pytest.raises(InvalidScenario, match="more than the 10000000"):
        lay_out([LinkSpec(("host", 0), ("host", 1), 1, 1, (10**8,))], [], {}, hosts=2, switches=0)


@settings(max_examples=40)
@given(
    st.integers(2, 6),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.01, 0.2]),
    st.sampled_from([0, 1, 3]),
    st.sampled_from([0, MS // 50]),
    st.sampled_from([0, MS // 20]),
    st.integers(0, 60_000_000),
    st.integers(1, 2**31),
    st.booleans(),
)
def test_compiled_and_plain_agree_on_every_tick_and_counter(
    hosts: int,
    channels: int,
    credits: int,
    distance: int,
    lose: float,
    bb_sc_n: int,
    hold: int,
    patience: int,
    drain: int,
    seed: int,
    alone: bool,
) -> None:
    states = []
    for kernel in (fabric_kernel, plain("fcsim.engine.fabric_kernel", *BELOW)):
        flows = [
            FlowSpec(
                n % hosts,
                hot=0,
                hot_chance=0.3,
                low_bytes=n * 100,
                count=60 if alone else 15,
                gap=0 if alone else (n % 2) * 10**6,  # a host with one flow without a gap works ahead
                channel=n % channels,
            )
            for n in range(hosts if alone else 2 * hosts)
        ]
        state = star(
            hosts,
            flows,
            seed=seed,
            channels=channels,
            credits=(credits,) * channels,
            propagation=distance,
            lose_frame=lose,
            lose_r_rdy=lose,
            bb_sc_n=bb_sc_n if channels == 1 else 0,
            hold=hold,
            patience=patience,
            drain_frame=drain,
        )
        engine = kernel.Engine(state)
        engine.run(NEVER - 1, 20_000)
        states.append((engine.now, engine.events, state.arrays))
    assert states[0] == states[1]


def test_time_never_goes_back_where_frames_queue_longer_than_the_hold_time() -> None:
    """Who finds no credit when its turn comes may have waited for longer than the hold time already."""
    flows = [FlowSpec(0, to=2, count=40), FlowSpec(1, to=2, count=40)]
    state = star(3, flows, hold=BYTE * 200, drain_frame=BYTE * 20_000)
    engine = fabric_kernel.Engine(state)
    times = [0]
    while engine.run(NEVER - 1, 1):
        times.append(engine.now)
        for link in range(state.links):
            first, count, size = state.ret_head[link], state.ret_count[link], state.ring_size[link]
            due = [state.ret_time[state.ring_base[link] + (first + n) % size] for n in range(count)]
            assert due == sorted(due)
    assert times == sorted(times)
    assert total(state, DISCARDS) > 10
    assert flow_total(state, DELIVERED) + total(state, DISCARDS) == 80
    assert state.credit == state.granted


def test_a_run_in_pieces_is_the_run_at_once() -> None:
    """What the engine knows ahead within a run is put back at its end."""

    def shown(pieces: int) -> tuple[int, list[int], list[int], list[int]]:
        flows = [FlowSpec(n, hot=0, hot_chance=0.4, low_bytes=60, count=200) for n in range(4)]
        state = star(4, flows, credits=(3,), drain_frame=BYTE * 3000)
        engine = fabric_kernel.Engine(state)
        for piece in range(1, pieces + 1):
            engine.run(MS * piece // pieces, 10**6)
        counters = [count for at, count in enumerate(state.counters) if at % COUNTERS != ZERO_TRANSITIONS]
        return engine.now, list(state.credit), counters, list(state.flow_counters)

    at_once = shown(1)
    assert 0 < at_once[3][DELIVERED] < 200
    assert shown(7) == shown(211) == at_once


def test_the_compiled_kernels_have_the_same_fields_as_the_plain_ones() -> None:
    """The .pxd says in C what the .py beside it says: nothing else would notice a difference."""
    text = Path(fabric_fields.__file__).with_suffix(".pxd").read_text()
    compiled = {}
    for block in text.split("cdef enum:")[1:]:
        value = -1
        for name, given_value in re.findall(r"([A-Z_]+)(?: = (\d+))?", block):
            value = int(given_value) if given_value else value + 1
            compiled[name] = value
    here = vars(fabric_fields)
    assert compiled == {name: here[name] for name in here if name.isupper() and name != "RECORDS"}
    for record, names in fabric_fields.RECORDS.items():
        assert here[record.upper()] >= len(names)
