"""No credit is made or lost by the engine itself, at any moment and under any fault; long runs need no more memory."""

from __future__ import annotations

import tracemalloc
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcsim.clock import TICKS_PER_NS, ticks_per_byte
from fcsim.engine.fabric_kernel import Engine
from fcsim.engine.fabric_state import (
    COUNTERS,
    DELIVERED,
    DISCARDS,
    FLOW_COUNTERS,
    LOST_FRAMES,
    LOST_R_RDYS,
    MISSING,
    NEVER,
    RECOVERED,
    SENT,
    TX_FRAMES,
    FlowSpec,
    LinkSpec,
    State,
    lay_out,
)
from fcsim.engine.link import LinkRun, LinkScenario
from fcsim.errors import InvalidScenario
from fcsim.speeds import SPEEDS

BYTE = ticks_per_byte(SPEEDS["8G"])
MS = 10**6 * TICKS_PER_NS


def ring(state: State, link: int, kind: str) -> list[int]:
    """The places in the arrays of what is on a link, frames (``fly``) or R_RDYs (``ret``)."""
    base, size = state.ring_base[link], state.ring_size[link]
    head, count = getattr(state, f"{kind}_head")[link], getattr(state, f"{kind}_count")[link]
    return [base + (head + step) % size for step in range(count)]


def held(state: State, link: int) -> int:
    """Frames in the receiving switch's buffers of a link: queued, or on their way out of it."""
    queues = range(state.voq_base[link], state.voq_base[link + 1])
    count = 0
    for queue in queues:
        frame = state.queue_head[queue]
        while frame >= 0:
            count += 1
            frame = state.frame_next[frame]
    leaving = [
        out
        for out in range(state.links)
        if state.current_in[out] == link and state.current_epoch[out] == state.epoch[link]
    ]
    return count + len(leaving)


def check_credits(state: State) -> None:
    """granted = left + in flight + held + returned + lost, for each link; R_RDYs of a host are known ahead."""
    for link in range(state.links):
        span = slice(link * state.channels, (link + 1) * state.channels)
        in_flight = sum(state.fly_frame[place] >= 0 for place in ring(state, link, "fly"))
        returned = len(ring(state, link, "ret"))
        missing = state.counters[link * COUNTERS + MISSING]
        used = in_flight + held(state, link) + returned + missing
        assert sum(state.granted[span]) == sum(state.credit[span]) + used, f"link {link}"
        assert min(state.credit[span]) >= 0
        assert missing >= 0
        if not state.epoch[link]:  # neither reset nor bounced
            lost = sum(state.counters[link * COUNTERS + kind] for kind in (LOST_FRAMES, LOST_R_RDYS))
            assert missing == lost - state.counters[link * COUNTERS + RECOVERED]


@settings(max_examples=80)
@given(
    hosts=st.integers(2, 5),
    channels=st.integers(1, 3),
    shared=st.booleans(),
    credits=st.integers(1, 9),
    propagation=st.integers(0, 10**8),
    lose=st.sampled_from([0.0, 0.02, 0.3]),
    bb_sc_n=st.sampled_from([0, 1, 3]),
    hold=st.sampled_from([0, MS // 50]),
    patience=st.sampled_from([0, MS // 20]),
    drain=st.integers(0, 60_000_000),
    seed=st.integers(1, 2**31),
    stops=st.lists(st.integers(1, 3 * MS), min_size=1, max_size=6),
    bounced=st.integers(0, 9),
)
def test_credits_are_conserved_at_every_moment_under_every_fault(
    hosts: int,
    channels: int,
    shared: bool,
    credits: int,
    propagation: int,
    lose: float,
    bb_sc_n: int,
    hold: int,
    patience: int,
    drain: int,
    seed: int,
    stops: list[int],
    bounced: int,
) -> None:
    one = shared or channels == 1

    def link(source: tuple[str, int], destination: tuple[str, int]) -> LinkSpec:
        return LinkSpec(
            source,
            destination,
            BYTE,
            propagation,
            (credits,) * (1 if one else channels),
            hold=hold,
            patience=patience,
            bb_sc_n=bb_sc_n if one else 0,
            lose_frame=lose,
            lose_r_rdy=lose,
            drain_frame=drain,
        )

    # Two switches with two ISLs between them; host n at switch n % 2.
    links = [link(("host", n), ("switch", n % 2)) for n in range(hosts)]
    links += [link(("switch", n % 2), ("host", n)) for n in range(hosts)]
    links += [link(("switch", n % 2), ("switch", 1 - n % 2)) for n in range(4)]
    isls = {0: [2 * hosts, 2 * hosts + 2], 1: [2 * hosts + 1, 2 * hosts + 3]}
    routes = {(s, n): [hosts + n] if n % 2 == s else isls[s] for s in range(2) for n in range(hosts)}
    flows = [
        FlowSpec(
            n % hosts, hot=0, hot_chance=0.3, low_bytes=100, count=40, gap=n * 10**5, channel=n % channels
        )
        for n in range(2 * hosts)
    ]
    state = lay_out(links, flows, routes, hosts=hosts, switches=2, channels=channels, seed=seed)
    engine = Engine(state)
    check_credits(state)
    for stop in sorted(stops):
        engine.run(stop, 10**5)
        check_credits(state)
        assert engine.now <= stop
        if bounced < len(links):
            engine.restart(bounced, engine.now + MS // 100)
            check_credits(state)
    engine.run(NEVER - 1, 3000)
    check_credits(state)
    sent, delivered = (sum(state.flow_counters[n::FLOW_COUNTERS]) for n in (SENT, DELIVERED))
    gone = sum(
        state.counters[n]
        for kind in (DISCARDS, LOST_FRAMES)
        for n in range(kind, len(state.counters), COUNTERS)
    )
    assert delivered + gone <= sent


def test_a_run_in_pieces_is_the_run_at_once() -> None:
    def state() -> State:
        links = [
            LinkSpec(("host", n), ("switch", 0), BYTE, 56_100, (4,), lose_frame=0.01, bb_sc_n=3)
            for n in range(4)
        ]
        links += [
            LinkSpec(("switch", 0), ("host", n), BYTE, 56_100, (4,), drain_frame=10**6 * n) for n in range(4)
        ]
        flows = [FlowSpec(n, low_bytes=64, count=300) for n in range(4)]
        return lay_out(links, flows, {(0, n): [4 + n] for n in range(4)}, hosts=4, switches=1)

    whole, pieces = state(), state()
    Engine(whole).run(NEVER - 1, 10**6)
    engine = Engine(pieces)
    for step in range(1, 400):
        engine.run(step * MS // 100 + step % 7, 10**6)
    engine.run(NEVER - 1, 10**6)
    assert pieces.counters == whole.counters
    assert pieces.flow_counters == whole.flow_counters


@pytest.mark.parametrize(("lost", "recovered"), [(3, 3), (0, 0), (256, 0)])
def test_bb_sc_n_8_recovers_lost_frames_of_a_window_but_not_a_whole_one(lost: int, recovered: int) -> None:
    """The reference's worked numbers: 3 of 256 lost frames are 3 R_RDYs more; 256 of 256 are not seen."""
    state = one_link(bb_sc_n=8, credits=600)
    engine = Engine(state)
    # Lose exactly as many: frames are sent one by one, a millisecond apart.
    state.lose_frame[0] = 2**31
    engine.run(lost * MS - MS // 2, 10**6)
    assert state.counters[LOST_FRAMES] == lost
    state.lose_frame[0] = 0
    engine.run(NEVER - 1, 10**6)
    assert state.counters[TX_FRAMES] == 256
    assert state.counters[RECOVERED] == recovered
    assert state.counters[MISSING] == lost - recovered
    assert state.credit[0] == 600 - lost + recovered


@pytest.mark.parametrize(("lost", "recovered"), [(2, 2), (256, 0)])
def test_bb_sc_n_8_recovers_lost_r_rdys_of_a_window_but_not_a_whole_one(lost: int, recovered: int) -> None:
    """2 of 256 R_RDYs lost are 2 credits at BB_SCr."""
    state = one_link(bb_sc_n=8, credits=600)
    engine = Engine(state)
    state.lose_r_rdy[0] = 2**31
    engine.run(lost * MS - MS // 2, 10**6)
    assert state.counters[LOST_R_RDYS] == lost
    state.lose_r_rdy[0] = 0
    engine.run(NEVER - 1, 10**6)
    assert (state.counters[RECOVERED], state.credit[0]) == (recovered, 600 - lost + recovered)


def test_bb_sc_n_0_recovers_nothing() -> None:
    state = one_link(bb_sc_n=0, credits=600)
    engine = Engine(state)
    state.lose_frame[0] = 2**31
    engine.run(3 * MS - MS // 2, 10**6)
    state.lose_frame[0] = 0
    engine.run(NEVER - 1, 10**6)
    assert (state.counters[RECOVERED], state.credit[0]) == (0, 597)


def one_link(*, bb_sc_n: int, credits: int) -> State:
    """A link on which 256 frames are sent, a millisecond apart."""
    link = LinkSpec(("host", 0), ("host", 1), BYTE, 0, (credits,), bb_sc_n=bb_sc_n)
    return lay_out([link], [FlowSpec(0, to=1, gap=MS, start=1, count=256)], {}, hosts=2, switches=0)


def test_frames_without_a_way_are_discarded_and_their_buffers_freed() -> None:
    links = [LinkSpec(("host", 0), ("switch", 0), BYTE, 0, (2,))]
    state = lay_out(links, [FlowSpec(0, to=1, count=50)], {}, hosts=2, switches=1)
    Engine(state).run(NEVER - 1, 10**4)
    assert (state.counters[DISCARDS], state.credit[0]) == (50, 2)


GOOD = LinkSpec(("host", 0), ("host", 1), 1, 1, (1,))


@pytest.mark.parametrize(
    ("link", "flow", "routes", "told"),
    [
        (LinkSpec(("host", 9), ("host", 1), 1, 1, (1,)), FlowSpec(0, to=1), {}, "ends at host 9"),
        (LinkSpec(("host", 0), ("hub", 1), 1, 1, (1,)), FlowSpec(0, to=1), {}, "ends at hub 1"),
        (LinkSpec(("host", 0), ("host", 1), 1, 1, (1, 1)), FlowSpec(0, to=1), {}, "credits for 2 of 1"),
        (LinkSpec(("host", 0), ("host", 1), 0, 1, (1,)), FlowSpec(0, to=1), {}, "byte_ticks is from 1"),
        (
            LinkSpec(("host", 0), ("host", 1), 1, 1, (1,), bb_sc_n=16),
            FlowSpec(0, to=1),
            {},
            "bb_sc_n is 0 to 15",
        ),
        (LinkSpec(("host", 0), ("host", 1), 1, -1, (1,)), FlowSpec(0, to=1), {}, "times of a link"),
        (GOOD, FlowSpec(2, to=1), {}, "flow from host 2"),
        (GOOD, FlowSpec(0, to=2), {}, "flow from host 0 to 2"),
        (GOOD, FlowSpec(0, to=1, channel=1), {}, "channel is below 1"),
        (GOOD, FlowSpec(0, to=1, high_bytes=2113), {}, "payload 0 to 2112"),
        (GOOD, FlowSpec(0, to=1, gap=-1), {}, "gap is from 0"),
        (GOOD, FlowSpec(0, to=1), {(0, 1): [0]}, "link 0 does not leave switch 0"),
        (GOOD, FlowSpec(0, to=1), {(0, 1): [5]}, "link 5 does not leave switch 0"),
    ],
)
def test_what_the_engine_takes_for_granted_is_checked_before(
    link: LinkSpec, flow: FlowSpec, routes: dict[tuple[int, int], list[int]], told: str
) -> None:
    with pytest.raises(InvalidScenario, match=told):
        lay_out([link], [flow], routes, hosts=2, switches=1)


def run_long(blocks: int) -> int:
    """Bytes that a link of so many blocks of 65,536 frames has at its most, beyond its first block."""
    run = LinkRun(LinkScenario(SPEEDS["32G"], 10_000, 160))
    ready, payload = array("q", (0,)) * 65_536, array("q", (2112,)) * 65_536
    run.send_block(ready, payload)
    tracemalloc.start()
    for _ in range(blocks - 1):
        run.send_block(ready, payload)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert run.totals().frames == blocks * 65_536
    assert run.totals().payload_bytes == blocks * 65_536 * 2112
    return peak


def test_ten_million_frames_with_their_time_series_take_flat_memory() -> None:
    few, many = run_long(3), run_long(153)
    assert 153 * 65_536 > 10**7
    assert many < few + 4096
    assert many < 4 * 2**20


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_billion_frames_on_one_link_take_flat_memory() -> None:
    few, many = run_long(3), run_long(15_259)
    assert 15_259 * 65_536 >= 10**9
    assert many < few + 4096
