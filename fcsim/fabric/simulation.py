# SPDX-License-Identifier: Apache-2.0
"""A plan run by the fabric engine, piece by piece: faults come and go between pieces, and samples are taken.

The only module here that touches :mod:`fcsim.engine`.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from fcsim.clock import TICKS_PER_METRE, TICKS_PER_NS, TICKS_PER_SECOND
from fcsim.engine import fabric_state
from fcsim.engine.fabric_kernel import Engine
from fcsim.engine.fabric_state import (
    COUNTERS,
    FLOW_COUNTERS,
    RANDOM_LIMIT,
    TRACE_WIDTH,
    FlowSpec,
    LinkSpec,
    State,
    flow_order,
    lay_out,
)
from fcsim.errors import InvalidScenario
from fcsim.fabric.plan import Direction, Plan
from fcsim.fabric.scenario import Fault, FaultKind
from fcsim.fabric.scsi_traffic import MakeExecutor, ScsiCounters, ScsiTraffic
from fcsim.wire.frame import Frame

EVENTS_AT_ONCE = 200_000
"""After so many events progress is told."""
TRACE_EVENTS = 50_000
SCRIPT_FRAMES = 65_536
"""Frames of SCSI that may wait at all hosts together; more wait before their hosts."""
POINTS_LIMIT = 20_000_000
"""Numbers of the time series of all directions together."""

Progress = Callable[[int, int], None]
"""Called with simulated nanoseconds done and asked for."""


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """A frame (``frame``) or an R_RDY that left a port. ``direction`` is that of the frames: an R_RDY goes the other
    way. ``at_ticks``: when its first bit left the port that sent it."""

    at_ticks: int
    direction: int
    frame: bool
    source: int = -1
    destination: int = -1
    payload_bytes: int = 0
    channel: int = 0
    number: int = 0
    contents: Frame | None = None
    """What the frame says, where it is one of SCSI; the others have nothing to say."""


@dataclass(slots=True)
class DirectionCounters:
    """What one direction counted; times in ticks. ``held`` is what is outstanding now, lost credits included."""

    tx_frames: int = 0
    tx_bytes: int = 0
    rx_frames: int = 0
    zero_transitions: int = 0
    zero_ticks: int = 0
    wait_ticks: int = 0
    discards: int = 0
    lost_frames: int = 0
    corrupted_frames: int = 0
    lost_r_rdys: int = 0
    recovered: int = 0
    link_resets: int = 0
    peak: int = 0
    held: int = 0
    queued: int = 0


@dataclass(frozen=True, slots=True)
class FlowCounters:
    """What one flow counted; latency in ticks, the sum and the worst."""

    sent: int
    delivered: int
    bytes: int
    latency_ticks: int
    worst_ticks: int


@dataclass(slots=True)
class Series:
    """Samples: ``at_ticks`` of each, and by direction the bytes sent and the ticks of waiting since the sample before,
    the credits outstanding and the frames queued at that moment."""

    at_ticks: array[int] = field(default_factory=lambda: array("q"))
    bytes: list[array[int]] = field(default_factory=list)
    waited: list[array[int]] = field(default_factory=list)
    outstanding: list[array[int]] = field(default_factory=list)
    queued: list[array[int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run: what there was at its end, ``end_ticks``."""

    plan: Plan
    seed: int
    end_ticks: int
    events: int
    directions: Sequence[DirectionCounters]
    flows: Sequence[FlowCounters]
    series: Series
    scsi: Sequence[ScsiCounters] = ()
    scsi_frames: FlowCounters = FlowCounters(0, 0, 0, 0, 0)
    """The frames of all SCSI loads together."""


def simulate(
    plan: Plan,
    *,
    until_ns: int | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
    traced: Sequence[int] = (),
    on_trace: Callable[[TraceEvent], None] | None = None,
    make_executor: MakeExecutor | None = None,
) -> Outcome:
    """Run a plan to its end, or to ``until_ns``; what passes the ``traced`` directions goes to ``on_trace`` in the
    order of time. The same plan and seed give the same outcome. ``make_executor`` makes the device servers of targets,
    for plans with scsi loads. Raises :class:`~fcsim.errors.InvalidScenario`."""
    return _Run(plan, until_ns, seed, traced, on_trace, make_executor).all(progress)


class _Run:
    def __init__(
        self,
        plan: Plan,
        until_ns: int | None,
        seed: int | None,
        traced: Sequence[int],
        on_trace: Callable[[TraceEvent], None] | None,
        make_executor: MakeExecutor | None,
    ) -> None:
        self.plan = plan
        self.seed = plan.scenario.seed if seed is None else seed
        self.end_ns = plan.scenario.duration_ns if until_ns is None else until_ns
        samples = self.end_ns // plan.scenario.sample_ns + 1
        if samples * len(plan.directions) * 4 > POINTS_LIMIT:
            least = -(-self.end_ns * len(plan.directions) * 4 // POINTS_LIMIT)
            raise InvalidScenario(
                f"{samples} samples of {len(plan.directions)} directions; take a sample of at least {least}ns"
            )
        self.on_trace = on_trace
        self.traced = frozenset(traced)
        self.state = _state(plan, self.seed, traced)
        self.pending: list[tuple[int, int, TraceEvent]] = []
        self.noted = self.order = 0
        # What is on its way back was sent this much earlier than it is told.
        self.lag = max((self._return_ticks(number) for number in traced), default=0)
        count = len(plan.directions)
        self.corrupting = [False] * count
        self.corrupted = [0] * count
        self.lost_before = [0] * count
        self.counting: dict[tuple[int, int], int] = {}
        self.series = Series(
            bytes=[array("q") for _ in range(count)],
            waited=[array("q") for _ in range(count)],
            outstanding=[array("q") for _ in range(count)],
            queued=[array("q") for _ in range(count)],
        )
        self.bytes_before = [0] * count
        self.waited_before = [0] * count
        self.changes = self._changes()
        # The engine sends the first frames when it is made: what is wrong from the beginning has to be wrong by then.
        now = self.changes.get(0, [])
        self._change([change for change in now if change[0].kind is not FaultKind.LINK_BOUNCE])
        self.engine = Engine(self.state)
        self._change([change for change in now if change[0].kind is FaultKind.LINK_BOUNCE])
        self.scsi: ScsiTraffic | None = None
        if plan.scenario.scsi:
            self.link_of = {d.source_end[1]: d.number for d in plan.directions if d.source_end[0] == "host"}
            self.scsi = ScsiTraffic(plan, make_executor, self.seed, self._script)

    # -- the run ------------------------------------------------------------------------------------------------

    def all(self, progress: Progress | None) -> Outcome:
        changes = self.changes
        moments = sorted({*range(0, self.end_ns, self.plan.scenario.sample_ns), *changes, self.end_ns})
        idle = False
        for begin, end in pairwise(moments):
            if begin:
                self._change(changes.get(begin, ()))
            until = end * TICKS_PER_NS
            idle = self._piece(until, progress)
            self._sample()
            if progress is not None:
                progress(end, self.end_ns)
            if idle and not any(moment >= end for moment in changes):
                break
            if self.scsi is not None and self.scsi.done:
                self.end_ns = end
                break
        self._tell(None)
        counters = [self._counters(direction) for direction in self.plan.directions]
        return Outcome(
            self.plan,
            self.seed,
            self.engine.now if idle else self.end_ns * TICKS_PER_NS,
            self.engine.events,
            counters,
            self._flows(),
            self.series,
            [load.counters for load in self.scsi.loads] if self.scsi is not None else (),
            FlowCounters(*self.state.flow_counters[-FLOW_COUNTERS:]),
        )

    def _piece(self, until: int, progress: Progress | None) -> bool:
        """Let time go on; True: nothing is left to happen."""
        while True:
            most = 1 if self.counting else EVENTS_AT_ONCE
            done = self.engine.run(until if self.scsi is None else self._next_stop(self.scsi, until), most)
            if self.engine.trace_at:
                self._drain_trace()
            if self.counting:
                self._stop_counting()
            if self.scsi is not None and self._script_goes_on(self.scsi, until):
                continue
            if done < most and not self._trace_was_full():
                return self.engine.now < until
            if progress is not None and most > 1:
                progress(self.engine.now // TICKS_PER_NS, self.end_ns)

    # -- hosts that speak SCSI ----------------------------------------------------------------------------------------

    def _script(self, host: int, to: int, size: int, channel: int) -> int:
        """A frame that a host sends now."""
        slot = self.engine.script(host, to, size, channel)
        if slot < 0:
            return slot
        number = self.engine.number_of(slot)
        self.engine.offer(self.link_of[host], slot)
        return number

    def _next_stop(self, scsi: ScsiTraffic, until: int) -> int:
        due = scsi.next_ticks()
        return min(until, self.engine.next_delivery(), until if due is None else max(due, self.engine.now))

    def _script_goes_on(self, scsi: ScsiTraffic, until: int) -> bool:
        """Deliver what has arrived by now; False: time has come as far as it was to come."""
        now = self.engine.now
        while (number := self.engine.take_delivery()) >= 0:
            scsi.delivered(number, now)
        due = scsi.next_ticks()
        if due is not None and due <= now:
            scsi.run(now)
        return now < until or self.engine.next_delivery() <= now

    def _trace_was_full(self) -> bool:
        """The engine stopped for want of room in the trace, which is empty again now."""
        used, self.noted = self.noted, 0
        return used > 0 and used > len(self.state.trace) - TRACE_WIDTH * 4 * self.state.links

    # -- faults -------------------------------------------------------------------------------------------------

    def _changes(self) -> dict[int, list[tuple[Fault, bool]]]:
        """What begins (True) and ends at which nanosecond; ends first."""
        changes: dict[int, list[tuple[Fault, bool]]] = {}
        for fault in self.plan.scenario.faults:
            if fault.from_ns < self.end_ns:
                changes.setdefault(fault.from_ns, []).append((fault, True))
            if fault.until_ns is not None and fault.until_ns < self.end_ns:
                changes.setdefault(fault.until_ns, []).insert(0, (fault, False))
        return changes

    def _change(self, changes: Sequence[tuple[Fault, bool]]) -> None:
        for fault, begins in changes:
            for number in self.plan.directions_of(fault.place):
                self._apply(fault, begins, number)

    def _apply(self, fault: Fault, begins: bool, number: int) -> None:
        state = self.state
        chance = RANDOM_LIMIT if fault.count is not None else int(fault.probability * RANDOM_LIMIT)
        if fault.kind in (FaultKind.LOSE_FRAMES, FaultKind.CORRUPT_FRAMES):
            self._attribute(number)
            self.corrupting[number] = begins and fault.kind is FaultKind.CORRUPT_FRAMES
            state.lose_frame[number] = chance if begins else 0
            state.corrupt_frame[number] = int(self.corrupting[number])
            self._count(number, fabric_state.LOST_FRAMES, fault.count if begins else None)
        elif fault.kind is FaultKind.LOSE_R_RDYS:
            state.lose_r_rdy[number] = chance if begins else 0
            self._count(number, fabric_state.LOST_R_RDYS, fault.count if begins else None)
        elif fault.kind is FaultKind.SLOW_RECEIVER:
            # The port is a host; what it receives is the other direction of its link.
            other = self.plan.reverse(number)
            state.drain_frame[other.number] = (
                fault.service_ns if begins else other.service_ns
            ) * TICKS_PER_NS
        elif begins and fault.until_ns is not None:
            self.engine.restart(number, fault.until_ns * TICKS_PER_NS)

    def _count(self, number: int, counter: int, count: int | None) -> None:
        """Stop a fault after exactly so many; until then the engine goes event by event."""
        self.counting.pop((number, counter), None)
        if count is not None:
            self.counting[number, counter] = self.state.counters[number * COUNTERS + counter] + count
        self._look_closely(number)

    def _look_closely(self, number: int) -> None:
        """The engine lets a host send several frames in one event, unless its link is traced: then it is one each."""
        counted = any(direction == number for direction, _ in self.counting)
        self.state.traced[number] = int(counted or number in self.traced)

    def _stop_counting(self) -> None:
        for (number, counter), goal in list(self.counting.items()):
            if self.state.counters[number * COUNTERS + counter] >= goal:
                del self.counting[number, counter]
                self._look_closely(number)
                if counter == fabric_state.LOST_FRAMES:
                    self._attribute(number)
                    self.state.lose_frame[number] = 0
                else:
                    self.state.lose_r_rdy[number] = 0

    def _attribute(self, number: int) -> None:
        """Frames lost since the last call were corrupted, or lost as such."""
        lost = self.state.counters[number * COUNTERS + fabric_state.LOST_FRAMES]
        if self.corrupting[number]:
            self.corrupted[number] += lost - self.lost_before[number]
        self.lost_before[number] = lost

    # -- the trace ----------------------------------------------------------------------------------------------

    def _return_ticks(self, number: int) -> int:
        return self.state.r_rdy_ticks[number] + self.state.propagation[number]

    def _drain_trace(self) -> None:
        trace = self.state.trace
        used = self.engine.clear_trace()
        self.noted = used
        for at in range(0, used, TRACE_WIDTH):
            time, link, kind, source, to, size, channel, number = trace[at : at + TRACE_WIDTH]
            if link not in self.traced:
                continue
            if kind:
                time -= self._return_ticks(link)
            said = self.scsi.contents(number) if self.scsi is not None and not kind else None
            event = TraceEvent(time, link, kind == 0, source, to, size, channel, number, said)
            self.order += 1
            heapq.heappush(self.pending, (time, self.order, event))
        self._tell(self.engine.now - self.lag)

    def _tell(self, before: int | None) -> None:
        while self.pending and (before is None or self.pending[0][0] < before):
            event = heapq.heappop(self.pending)[2]
            if self.on_trace is not None:
                self.on_trace(event)

    # -- what is read off ---------------------------------------------------------------------------------------

    def _waited(self, number: int) -> int:
        """Ticks in which frames waited for credit, those that wait now included."""
        since = self.state.stalled_since[number]
        booked = self.state.counters[number * COUNTERS + fabric_state.WAIT_TICKS]
        return booked + max(0, self.engine.now - since) if since >= 0 else booked

    def _sample(self) -> None:
        state, series = self.state, self.series
        series.at_ticks.append(self.engine.now)
        for number in range(len(self.plan.directions)):
            sent = state.counters[number * COUNTERS + fabric_state.TX_BYTES]
            waited = self._waited(number)
            series.bytes[number].append(sent - self.bytes_before[number])
            series.waited[number].append(waited - self.waited_before[number])
            series.outstanding[number].append(state.outstanding[number])
            series.queued[number].append(state.waiting[number])
            self.bytes_before[number], self.waited_before[number] = sent, waited

    def _counters(self, direction: Direction) -> DirectionCounters:
        number, state = direction.number, self.state
        self._attribute(number)

        def counted(which: int) -> int:
            return state.counters[number * COUNTERS + which]

        zero = counted(fabric_state.ZERO_TICKS)
        for both in range(number * state.channels, (number + 1) * state.channels):
            if state.granted[both] and not state.credit[both]:
                zero += max(0, self.engine.now - state.zero_since[both])
        lost = counted(fabric_state.LOST_FRAMES)
        return DirectionCounters(
            tx_frames=counted(fabric_state.TX_FRAMES),
            tx_bytes=counted(fabric_state.TX_BYTES),
            rx_frames=counted(fabric_state.RX_FRAMES),
            zero_transitions=counted(fabric_state.ZERO_TRANSITIONS),
            zero_ticks=zero,
            wait_ticks=self._waited(number),
            discards=counted(fabric_state.DISCARDS),
            lost_frames=lost - self.corrupted[number],
            corrupted_frames=self.corrupted[number],
            lost_r_rdys=counted(fabric_state.LOST_R_RDYS),
            recovered=counted(fabric_state.RECOVERED),
            link_resets=counted(fabric_state.LINK_RESETS),
            peak=counted(fabric_state.PEAK),
            held=state.outstanding[number],
            queued=state.waiting[number],
        )

    def _flows(self) -> list[FlowCounters]:
        links, flows = _links(self.plan), _flow_specs(self.plan)
        found: dict[int, FlowCounters] = {}
        for place, number in enumerate(flow_order(links, flows)):
            at = place * FLOW_COUNTERS
            found[number] = FlowCounters(*self.state.flow_counters[at : at + FLOW_COUNTERS])
        return [found[number] for number in range(len(flows))]


def _links(plan: Plan) -> list[LinkSpec]:
    loss = plan.scenario.loss_ns * TICKS_PER_NS
    return [
        LinkSpec(
            direction.source_end,
            direction.destination_end,
            direction.byte_ticks,
            direction.distance_m * TICKS_PER_METRE,
            direction.credits,
            latency=direction.latency_ns * TICKS_PER_NS,
            hold=direction.hold_ns * TICKS_PER_NS,
            patience=loss,
            bb_sc_n=direction.bb_sc_n,
            drain_frame=direction.service_ns * TICKS_PER_NS,
            drain_byte=-(-8 * TICKS_PER_SECOND // direction.drain_bps) if direction.drain_bps else 0,
        )
        for direction in plan.directions
    ]


def _flow_specs(plan: Plan) -> list[FlowSpec]:
    hosts = {host.name: number for number, host in enumerate(plan.scenario.hosts)}
    specs = []
    for flow, channel in zip(plan.scenario.flows, plan.channel_of, strict=True):
        gap = 0
        if flow.rate_bps:  # a frame of average size in each gap
            gap = max(1, (flow.low_bytes + flow.high_bytes) * 4 * TICKS_PER_SECOND // flow.rate_bps)
        specs.append(
            FlowSpec(
                hosts[flow.source],
                to=hosts[flow.to] if flow.to else -1,
                hot=hosts[flow.hot] if flow.hot else -1,
                hot_chance=flow.hot_share,
                low_bytes=flow.low_bytes,
                high_bytes=flow.high_bytes,
                gap=gap,
                start=flow.start_ns * TICKS_PER_NS,
                count=-1 if flow.frames is None else flow.frames,
                channel=channel,
            )
        )
    return specs


def _state(plan: Plan, seed: int, traced: Sequence[int]) -> State:
    # The engine stops while there is still room for what one event of every link may add.
    room = TRACE_EVENTS + 8 * len(plan.directions) if traced else 0
    hosts = {host.name: number for number, host in enumerate(plan.scenario.hosts)}
    return lay_out(
        _links(plan),
        _flow_specs(plan),
        plan.routes,
        hosts=len(plan.scenario.hosts),
        switches=len(plan.scenario.switches),
        channels=max(1, len(plan.channels)),
        seed=seed,
        traced=tuple(traced),
        trace_events=room,
        scripted=sorted({hosts[name] for load in plan.scenario.scsi for name in (load.source, load.to)}),
        script_frames=SCRIPT_FRAMES if plan.scenario.scsi else 0,
    )
