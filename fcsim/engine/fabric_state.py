"""What the fabric engine works on: flat arrays of 64-bit integers, laid out from links, flows and routes.

:mod:`fcsim.engine.fabric_kernel` runs it in place; numbers of links, hosts, switches and flows are their positions.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from fcsim.engine import fabric_fields
from fcsim.errors import InvalidScenario
from fcsim.speeds import FRAME_OVERHEAD_BYTES, IDLE_BYTES, MAX_PAYLOAD_BYTES

NEVER = 1 << 62
RANDOM_LIMIT = 2147483647
"""Chances are parts of this."""

PAYLOAD_LIMIT_BYTES = MAX_PAYLOAD_BYTES
SPOILT = 1 << 40
"""On a link, in the place of a frame: one with a bad CRC. Above every number of lost frames."""

CREDITS_LIMIT = 10_000_000
"""Credits of a whole fabric; each is a few hundred bytes of state."""

# What others read in the counters and the trace.
TX_FRAMES, TX_BYTES, RX_FRAMES = fabric_fields.TX_FRAMES, fabric_fields.TX_BYTES, fabric_fields.RX_FRAMES
ZERO_TRANSITIONS, ZERO_TICKS, WAIT_TICKS = (
    fabric_fields.ZERO_TRANSITIONS,
    fabric_fields.ZERO_TICKS,
    fabric_fields.WAIT_TICKS,
)
DISCARDS, LOST_FRAMES, LOST_R_RDYS = (
    fabric_fields.DISCARDS,
    fabric_fields.LOST_FRAMES,
    fabric_fields.LOST_R_RDYS,
)
RECOVERED, LINK_RESETS = fabric_fields.RECOVERED, fabric_fields.LINK_RESETS
PEAK, MISSING = fabric_fields.PEAK, fabric_fields.MISSING
SENT, DELIVERED, BYTES = fabric_fields.SENT, fabric_fields.DELIVERED, fabric_fields.BYTES
LATENCY, WORST = fabric_fields.LATENCY, fabric_fields.WORST
COUNTERS, FLOW_COUNTERS = fabric_fields.COUNTERS, fabric_fields.FLOW_COUNTERS
TRACE_WIDTH = fabric_fields.TRACE_WIDTH


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """One direction of a link. ``source`` and ``destination`` are ``("host", n)`` or ``("switch", n)``; all times in
    ticks. ``credits`` by virtual channel; a single number is for all of them (R_RDY mode). ``hold``: how long a frame
    may wait for credit in the switch, 0 for ever. ``patience``: how long without credit until a link reset, 0 never.
    ``latency``: what the receiving switch adds. ``lose_frame`` and ``lose_r_rdy`` are chances of 0 to 1.
    ``drain_frame`` and ``drain_byte``: what a receiving host takes for a frame, and for each byte of its payload.
    ``r_rdy_bytes``: line time of an R_RDY, which the published formulas leave out."""

    source: tuple[str, int]
    destination: tuple[str, int]
    byte_ticks: int
    propagation: int
    credits: tuple[int, ...]
    latency: int = 0
    hold: int = 0
    patience: int = 0
    bb_sc_n: int = 0
    lose_frame: float = 0.0
    lose_r_rdy: float = 0.0
    drain_frame: int = 0
    drain_byte: int = 0
    r_rdy_bytes: int = 4


@dataclass(frozen=True, slots=True)
class FlowSpec:
    """Frames that a host sends: ``to`` a host, or -1 for any other at random, of which ``hot_chance`` to ``hot``.
    ``gap`` ticks from one to the next, 0 for as fast as credit lets it. ``count`` frames, -1 without end."""

    host: int
    to: int = -1
    hot: int = -1
    hot_chance: float = 0.0
    low_bytes: int = 2112
    high_bytes: int = 2112
    gap: int = 0
    start: int = 0
    count: int = -1
    channel: int = 0


COLUMNS = {
    "latency" if name == "SWITCHING" else name.lower(): (record, place, vars(fabric_fields)[record.upper()])
    for record, names in fabric_fields.RECORDS.items()
    for place, name in enumerate(names)
}
"""Where a field of a record is: the array, its place in the record, and the record's width."""


@dataclass(slots=True)
class State:
    """The arrays, by name as the engine has them; made by :func:`lay_out`. A field of all records of a kind, such as
    ``credit``, is a view by its own name, to be read and written."""

    links: int
    channels: int
    hosts: int
    overhead: int
    leaves: int
    free_slot: int
    arrays: Mapping[str, array[int]] = field(repr=False)
    script_room: int = 0
    script_flow: int = 0
    """Where scripted frames are counted: behind the flows."""

    def __getattr__(self, name: str) -> array[int] | memoryview[int]:
        if name in self.arrays:
            return self.arrays[name]
        if name not in COLUMNS:
            raise AttributeError(name)
        record, place, width = COLUMNS[name]
        return memoryview(self.arrays[record])[place::width]


def lay_out(
    links: Sequence[LinkSpec],
    flows: Sequence[FlowSpec],
    routes: Mapping[tuple[int, int], Sequence[int]],
    *,
    hosts: int,
    switches: int,
    channels: int = 1,
    seed: int = 1,
    traced: Sequence[int] = (),
    trace_events: int = 0,
    scripted: Sequence[int] = (),
    script_frames: int = 0,
) -> State:
    """Arrays for a fabric that stands still. ``routes``: links out of a switch towards a host, by (switch, host).

    ``scripted`` hosts send what they are given, frame by frame, besides their flows; ``script_frames`` of all of them
    may wait to be sent.

    Raises :class:`~fcsim.errors.InvalidScenario` for credits beyond what fits.
    """
    _check(links, flows, routes, hosts=hosts, switches=switches, channels=channels)
    total = sum(sum(link.credits) for link in links)
    if total > CREDITS_LIMIT:
        raise InvalidScenario(f"{total} credits in all, more than the {CREDITS_LIMIT} that fit")
    count = len(links)
    arrays: dict[str, array[int]] = {}

    def put(name: str, values: Sequence[int]) -> None:
        arrays[name] = array("q", values)

    def fill(size: int, value: int, *names: str) -> None:
        for name in names:
            arrays[name] = array("q", (value,)) * size

    put("byte_ticks", [link.byte_ticks for link in links])
    put("propagation", [link.propagation for link in links])
    put("latency", [link.latency for link in links])
    put("r_rdy_ticks", [link.r_rdy_bytes * link.byte_ticks for link in links])
    for name, end in (
        ("from", [link.source for link in links]),
        ("to", [link.destination for link in links]),
    ):
        put(f"{name}_host", [number if kind == "host" else -1 for kind, number in end])
        put(f"{name}_switch", [number if kind == "switch" else -1 for kind, number in end])
    leaving = [[n for n in range(count) if links[n].source == ("switch", s)] for s in range(switches)]
    arriving = [[n for n in range(count) if links[n].destination == ("switch", s)] for s in range(switches)]
    fill(count, 0, "local_index", "active_size")
    for outs, ins in zip(leaving, arriving, strict=True):
        for place, link in enumerate(outs):
            arrays["local_index"][link] = place
            arrays["active_size"][link] = len(ins)
    queues = [
        len(leaving[number]) * channels if kind == "switch" else 0
        for kind, number in (link.destination for link in links)
    ]
    put("voq_base", _starts(queues))
    # Frames or R_RDYs of every credit, and the marks of recovery, may be on their way at once.
    put("ring_size", [1 << (2 * sum(link.credits) + 3).bit_length() for link in links])
    put("ring_base", _starts(arrays["ring_size"]))
    put("active_base", _starts([size for size in arrays["active_size"] for _ in range(channels)]))
    # In R_RDY mode every channel draws on the first one's credits.
    put("vc_mode", [int(len(link.credits) > 1) for link in links])
    put("granted", [credit for link in links for credit in (*link.credits, *(0,) * channels)[:channels]])
    arrays["credit"] = arrays["granted"][:]
    put("hold", [link.hold for link in links])
    put("patience", [link.patience for link in links])
    put("window", [1 << link.bb_sc_n if link.bb_sc_n else 0 for link in links])
    put("lose_frame", [int(link.lose_frame * RANDOM_LIMIT) for link in links])
    fill(count, 0, "corrupt_frame")
    put("lose_r_rdy", [int(link.lose_r_rdy * RANDOM_LIMIT) for link in links])
    put("drain_frame", [link.drain_frame for link in links])
    put("drain_byte", [link.drain_byte for link in links])
    ways = [list(routes.get((switch, host), ())) for switch in range(switches) for host in range(hosts)]
    put("route_start", _starts([len(way) for way in ways])[:-1])
    put("route_count", [len(way) for way in ways])
    put("route_links", [link for way in ways for link in way])
    # The one link, -1 for none, -2 for one of several.
    put("route_only", [-1 if not way else way[0] if len(way) == 1 else -2 for way in ways])
    _put_flows(put, links, flows)
    put("traced", [int(link in traced) for link in range(count)])
    # Whether an R_RDY means more than a credit: somebody looks on, or the wait for a lost one may be over.
    put("heed_r_rdy", [int(link in traced or links[link].patience > 0) for link in range(count)])
    fill(trace_events * TRACE_WIDTH, 0, "trace")
    fill(count * channels, 0, "zero_since", "active_head", "active_count")
    fill(arrays["ring_base"][count], 0, "fly_time", "fly_frame", "ret_time", "ret_channel", "ret_frame")
    fill(
        count,
        0,
        "fly_head",
        "fly_count",
        "ret_head",
        "ret_count",
        "current_channel",
        "current_epoch",
        "epoch",
    )
    fill(count, 0, "turn_channel", "turn_flow", "waiting", "outstanding")
    fill(2 * count, 0, "window_count", "window_lost")
    fill(count, NEVER, "try_at", "hold_at", "loss_at", "fly_next")
    fill(count, 0, "free_at", "drained_at")
    fill(count, -1, "stalled_since", "current_in", "drawn_bytes", "send_at")
    fill(count, 0, "drawn_to", "drawn_from", "joined", "foretold", "sound", "one_credit")
    fill(sum(queues), -1, "queue_head", "queue_tail")
    fill(sum(queues), 0, "queue_active")
    fill(arrays["active_base"][count * channels], 0, "active")
    slots = total + count + script_frames
    script_hosts = set(scripted)
    put(
        "scripted",
        [
            int(bool(script_hosts & {arrays["from_host"][n], arrays["to_host"][n]} - {-1}))
            for n in range(count)
        ],
    )
    fill(count, -1, "script_head", "script_tail")
    fill(count, 0, "turn_script")
    # Every credit of a link to a scripted host may be a frame that is about to be delivered.
    fill(2 * slots if scripted else 0, 0, "deliveries")
    put("frame_next", [*range(1, slots), -1])
    fill(slots, 0, "frame_to", "frame_from", "frame_size", "frame_channel", "frame_born", "frame_queued")
    fill(slots, 0, "frame_in", "frame_flow", "frame_number")
    fill(count * COUNTERS, 0, "counters")
    fill((len(flows) + 1) * FLOW_COUNTERS, 0, "flow_counters")
    leaves = 1
    while leaves < count:
        leaves *= 2
    fill(2 * leaves, NEVER, "tree_key")
    tree = [0] * leaves + list(range(leaves))
    for node in range(leaves - 1, 0, -1):
        tree[node] = tree[2 * node]
    put("tree_link", tree)
    put("random", [_first_random(seed, link) for link in range(count)])
    return State(
        count,
        channels,
        hosts,
        FRAME_OVERHEAD_BYTES + IDLE_BYTES,
        leaves,
        0,
        _records(arrays),
        script_room=script_frames,
        script_flow=len(flows),
    )


def _records(columns: dict[str, array[int]]) -> dict[str, array[int]]:
    """Put the fields of records together; what else there is stays as it is."""
    arrays = {name: column for name, column in columns.items() if name not in COLUMNS}
    for name, (record, place, width) in COLUMNS.items():
        if record not in arrays:
            arrays[record] = array("q", bytes(8 * width * len(columns[name])))
        arrays[record][place::width] = columns[name]
    return arrays


def _check(
    links: Sequence[LinkSpec],
    flows: Sequence[FlowSpec],
    routes: Mapping[tuple[int, int], Sequence[int]],
    *,
    hosts: int,
    switches: int,
    channels: int,
) -> None:
    """Whatever the engine takes for granted: it does not check array bounds."""
    ends = {"host": hosts, "switch": switches}
    for link in links:
        for kind, number in (link.source, link.destination):
            if not 0 <= number < ends.get(kind, 0):
                raise InvalidScenario(
                    f"a link ends at {kind} {number}; there are {hosts} hosts, {switches} switches"
                )
        if len(link.credits) not in (1, channels):
            raise InvalidScenario(f"credits for {len(link.credits)} of {channels} virtual channels")
        if link.byte_ticks < 1 or not 0 <= link.bb_sc_n <= 15 or min(link.credits) < 0:
            raise InvalidScenario("byte_ticks is from 1 on, bb_sc_n is 0 to 15, and credits are from 0 on")
        times = (link.propagation, link.latency, link.hold, link.patience, link.drain_frame, link.drain_byte)
        if not 0 <= link.r_rdy_bytes <= 64:
            raise InvalidScenario(f"an R_RDY takes 0 to 64 bytes of line time, not {link.r_rdy_bytes}")
        if not 0 <= min(times) <= max(times) <= NEVER >> 8:
            raise InvalidScenario("the times of a link are from 0 to 4 hours")
    for flow in flows:
        if not 0 <= flow.host < hosts or not -1 <= flow.to < hosts or not -1 <= flow.hot < hosts:
            raise InvalidScenario(f"a flow from host {flow.host} to {flow.to}; there are {hosts} hosts")
        if flow.to < 0 and hosts < 2:
            raise InvalidScenario("a flow to any other host takes two hosts")
        if (
            not 0 <= flow.channel < channels
            or not 0 <= flow.low_bytes <= MAX_PAYLOAD_BYTES >= flow.high_bytes
        ):
            raise InvalidScenario(
                f"a flow's channel is below {channels}, and its payload 0 to {MAX_PAYLOAD_BYTES} bytes"
            )
        if not 0 <= flow.start <= NEVER >> 1 or not 0 <= flow.gap <= NEVER >> 8:
            raise InvalidScenario("a flow starts within 23 days, and its gap is from 0 to 4 hours")
    for (switch, host), way in routes.items():
        for number in way:
            if not 0 <= number < len(links) or links[number].source != ("switch", switch):
                raise InvalidScenario(f"link {number} does not leave switch {switch} (to host {host})")


def _put_flows(put, links: Sequence[LinkSpec], flows: Sequence[FlowSpec]) -> None:  # type: ignore[no-untyped-def]
    """Flows in the order of their hosts' links, which is the order of :func:`flow_order`."""
    # One more than there are: that of scripted frames, which never sends by itself.
    ordered = [*(flows[n] for n in flow_order(links, flows)), FlowSpec(0, count=0)]
    counts = [sum(("host", flow.host) == link.source for flow in flows) for link in links]
    starts = _starts(counts)
    put("flow_start", starts[:-1])
    put("flow_end", starts[1:])
    put("flow_to", [flow.to for flow in ordered])
    put("flow_hot", [flow.hot for flow in ordered])
    put("flow_hot_chance", [int(flow.hot_chance * RANDOM_LIMIT) for flow in ordered])
    put("flow_low", [flow.low_bytes for flow in ordered])
    put("flow_high", [flow.high_bytes for flow in ordered])
    put("flow_gap", [flow.gap for flow in ordered])
    put("flow_next", [flow.start for flow in ordered])
    put("flow_left", [flow.count for flow in ordered])
    put("flow_channel", [flow.channel for flow in ordered])


def flow_order(links: Sequence[LinkSpec], flows: Sequence[FlowSpec]) -> list[int]:
    """The flows' numbers in the order in which the engine counts them: by the link of their host."""
    return [n for link in links for n, flow in enumerate(flows) if ("host", flow.host) == link.source]


def _first_random(seed: int, link: int) -> int:
    """Where a link's numbers begin, 1 to RANDOM_LIMIT - 1: far apart by the finaliser of splitmix64."""
    mixed = (seed + (link + 1) * 0x9E3779B97F4A7C15) % 2**64
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
    return (mixed ^ mixed >> 31) % (RANDOM_LIMIT - 1) + 1


def _starts(sizes: Sequence[int]) -> list[int]:
    """Where each of so many consecutive pieces begins, and the end of the last."""
    return [0, *accumulate(sizes)]
