# SPDX-License-Identifier: Apache-2.0
"""SCSI inside a simulated fabric: FCP initiators and targets at its hosts, real commands, an executor of the caller's.

Each ``[[scsi]]`` of a scenario is a closed loop: so many commands at a time, the next when one has ended. What a host
sends when a frame arrives leaves at that very tick, so the exchange is as exact as the fabric. The contents of blocks
written are compared when they are read again. A load with arrivals sends these, at their times.
"""

from __future__ import annotations

import heapq
import random
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from fcsim.clock import TICKS_PER_NS, ps_of_ticks, ticks_of_ps
from fcsim.errors import InvalidScenario
from fcsim.fabric.plan import Plan
from fcsim.fabric.scenario import Scsi
from fcsim.fcp.executor import ScsiExecutor
from fcsim.fcp.initiator import CommandCompleted, ExchangeFailed, FcpInitiator
from fcsim.fcp.target import FcpTarget
from fcsim.wire.codes import RCtl
from fcsim.wire.frame import Frame

__all__ = ["MakeExecutor", "ScsiCounters", "ScsiTraffic"]

MakeExecutor = Callable[[str, int], ScsiExecutor]
"""The executor of a target: from its host's name, and the bytes that its logical unit 0 has at least."""
Send = Callable[[int, int, int, int], int]
"""Puts a frame on a host's link: from, to, payload bytes, virtual channel; its number, or -1 for no room."""

_LUN = bytes(8)
_TEST_UNIT_READY, _READ_CAPACITY = bytes(6), bytes((0x9E, 0x10)) + bytes(11) + b"\x20" + bytes(2)
_CAPACITY_BYTES = 32
_READ_16, _WRITE_16 = 0x88, 0x8A
_UNIT_ATTENTION, _TRIES = 0x06, 8


@dataclass(slots=True)
class ScsiCounters:
    """What one load did; latency in ticks from the command's FCP_CMND to its FCP_RSP. ``latencies``: by number of the
    arrival, with what it waited for a free exchange, -1 without a response."""

    commands: int = 0
    reads: int = 0
    writes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    failed: int = 0
    mismatches: int = 0
    latency_ticks: int = 0
    worst_ticks: int = 0
    first_ticks: int | None = None
    last_ticks: int = 0
    latencies: array[int] = field(default_factory=lambda: array("q"))


@dataclass(slots=True)
class _Command:
    load: _Load
    write: bool
    lba: int
    stamp: int
    began: int


@dataclass(frozen=True, slots=True)
class _Arrived:
    """A command of a load with arrivals; ``began`` in ticks."""

    load: _Load
    number: int
    began: int


@dataclass(slots=True)
class _Load:
    config: Scsi
    source: int
    target: int
    initiator: FcpInitiator
    chance: random.Random
    counters: ScsiCounters = field(default_factory=ScsiCounters)
    block_bytes: int = 0
    slots: int = 0
    """Places of ``command_bytes`` in the logical unit."""
    begun: int = 0
    ended: int = 0
    held: bool = False
    """The next arrival waits for an exchange to end."""
    ended_ranks: bytearray = field(default_factory=bytearray)
    passed: int = 0
    """So many ranks have ended without one before them that has not."""
    tries: int = 0
    busy: set[int] = field(default_factory=set)
    written: dict[int, int] = field(default_factory=dict)
    """By place: the stamp that its blocks were written with."""


class ScsiTraffic:
    """All loads of a plan. Time is the engine's, in ticks.

    Raises InvalidScenario for a plan with loads where nobody makes executors.
    """

    def __init__(self, plan: Plan, make_executor: MakeExecutor | None, seed: int, send: Send) -> None:
        self._send = send
        self._order = count()
        self._frames: dict[int, tuple[int, Frame]] = {}
        self._waiting: deque[tuple[int, int, int, Frame]] = deque()
        self._later: list[tuple[int, int, Callable[[int], None]]] = []
        names = {host.name: number for number, host in enumerate(plan.scenario.hosts)}
        addresses = {port.name: port.fc_id for port in plan.ports}
        self._number_of = {addresses[name]: number for name, number in names.items()}
        self._channel: dict[tuple[int, int], int] = {}
        self._targets: dict[int, FcpTarget] = {}
        self._initiators: dict[tuple[int, int], FcpInitiator] = {}
        self._commands: dict[tuple[int, int, int], _Command | _Load | _Arrived] = {}
        self._latency: dict[int, int] = {}
        self.loads: list[_Load] = []
        for place, config in enumerate(plan.scenario.scsi):
            if make_executor is None:
                raise InvalidScenario(
                    "this scenario has [[scsi]] loads, and nobody gave their targets a device server"
                )
            source, target = names[config.source], names[config.to]
            there, back = plan.scsi_channels[place]
            self._channel[source, target], self._channel[target, source] = there, back
            if target not in self._targets:
                room = max(load.capacity_bytes for load in plan.scenario.scsi if load.to == config.to)
                self._targets[target] = FcpTarget(addresses[config.to], make_executor(config.to, room))
            self._targets[target].log_in(addresses[config.source], config.payload_bytes)
            self._latency[target] = max(self._latency.get(target, 0), config.latency_ns * TICKS_PER_NS)
            pair = source, target
            if pair not in self._initiators:
                self._initiators[pair] = FcpInitiator(
                    addresses[config.source],
                    addresses[config.to],
                    max_payload=config.payload_bytes,
                    timeout_ps=config.timeout_ns * 1000,
                )
            load = _Load(
                config, source, target, self._initiators[pair], random.Random(f"{seed}:{config.name}")
            )
            self.loads.append(load)
            if config.arrivals:
                load.counters.latencies.extend([-1] * len(config.arrivals))
                load.ended_ranks = bytearray(len(config.arrivals))
                self._arrive(load, -1)
                continue
            self._at(config.start_ns * TICKS_PER_NS, lambda now, load=load: self._ask(load, now))  # type: ignore[misc]

    # -- what the engine's side calls -----------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """All loads have arrivals, and every one of them has ended: nothing is left to wait for."""
        return all(load.config.arrivals and load.ended == len(load.config.arrivals) for load in self.loads)

    def contents(self, number: int) -> Frame | None:
        """The frame that is under way with a number."""
        found = self._frames.get(number)
        return None if found is None else found[1]

    def next_ticks(self) -> int | None:
        """When :meth:`run` has something to do even if no frame arrives."""
        due = [self._later[0][0]] if self._later else []
        cores: list[FcpTarget | FcpInitiator] = [*self._targets.values(), *self._initiators.values()]
        for deadline in (core.next_deadline() for core in cores):
            if deadline is not None:
                due.append(ticks_of_ps(deadline) + 1)
        return min(due, default=None)

    def delivered(self, number: int, now: int) -> None:
        """A frame has arrived at the host it was for."""
        host, frame = self._frames.pop(number)
        header, now_ps = frame.header, ps_of_ticks(now)
        source = self._number_of[header.s_id]
        initiator = self._initiators.get((host, source))
        target = self._targets.get(host)
        if initiator is not None and header.f_ctl & 1 << 23:  # from the responder of an exchange
            initiator.receive(frame, now_ps)
            self._ended(host, source, initiator, now)
        elif target is not None:
            target.receive(frame, now_ps)
            answer = list(target.frames())
            takes = self._takes(source, host, frame, answer)
            if takes:
                self._at(now + takes, lambda _: self._put(host, answer))
            else:
                self._put(host, answer)
        self._flush()

    def run(self, now: int) -> None:
        """What is due at ``now``."""
        while self._later and self._later[0][0] <= now:
            heapq.heappop(self._later)[2](now)
        now_ps = ps_of_ticks(now)
        for target in self._targets.values():
            target.handle_timer(now_ps)
        for (host, other), initiator in self._initiators.items():
            initiator.handle_timer(now_ps)
            self._ended(host, other, initiator, now)
        self._flush()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _at(self, ticks: int, action: Callable[[int], None]) -> None:
        heapq.heappush(self._later, (ticks, next(self._order), action))

    def _takes(self, source: int, host: int, frame: Frame, answer: list[Frame]) -> int:
        """Ticks that a target takes for its answer to a frame."""
        what = self._commands.get((source, host, frame.header.ox_id))
        if not isinstance(what, _Arrived):
            return self._latency[host]
        arrival = what.load.config.arrivals[what.number]
        if frame.header.r_ctl == RCtl.UNSOLICITED_COMMAND:
            return arrival.served_ns * TICKS_PER_NS
        ends = answer and answer[-1].header.r_ctl == RCtl.COMMAND_STATUS
        return arrival.finished_ns * TICKS_PER_NS if ends else 0

    def _put(self, host: int, frames: list[Frame]) -> None:
        for frame in frames:
            to = self._number_of[frame.header.d_id]
            self._waiting.append((host, to, self._channel[host, to], frame))

    def _flush(self) -> None:
        for host, target in self._targets.items():
            for _ in target.events():  # what the initiator did wrong shows at the initiator
                pass
            self._put(host, list(target.frames()))
        for (host, _), initiator in self._initiators.items():
            self._put(host, list(initiator.frames()))
        while self._waiting:
            host, to, channel, frame = self._waiting[0]
            number = self._send(host, to, len(frame.payload) + -len(frame.payload) % 4, channel)
            if number < 0:
                return
            self._frames[number] = to, frame
            self._waiting.popleft()

    def _ask(self, load: _Load, now: int) -> None:
        """What the unit is: first whether it is ready, which tells of its power-on, then how large it is."""
        load.tries += 1
        ox_id = load.initiator.command(_LUN, _READ_CAPACITY, ps_of_ticks(now), data_in_length=_CAPACITY_BYTES)
        self._commands[load.source, load.target, ox_id] = load

    def _ended(self, host: int, other: int, initiator: FcpInitiator, now: int) -> None:
        for event in initiator.events():
            what = self._commands.pop((host, other, event.ox_id))
            if isinstance(what, _Load):
                self._told(what, event, now)
            elif isinstance(what, _Arrived):
                self._answered(what, event, now)
            else:
                self._finish(what, event, now)

    # -- arrivals ---------------------------------------------------------------------------------------------------

    def _arrive(self, load: _Load, now: int) -> None:
        """Send what is due by ``now``, as far as the initiator has exchanges for it; come back for the next."""
        arrivals = load.config.arrivals
        while load.begun < len(arrivals):
            arrival = arrivals[load.begun]
            due = (load.config.start_ns + arrival.at_ns) * TICKS_PER_NS
            if due > now:
                self._at(due, lambda at: self._arrive(load, at))
                return
            if load.initiator.full or load.passed < arrival.after:
                load.held = True
                return
            ox_id = load.initiator.command(
                arrival.lun,
                arrival.cdb,
                ps_of_ticks(now),
                data_out=bytes(arrival.write_bytes),
                data_in_length=0 if arrival.write_bytes else arrival.read_bytes,
            )
            began = now if arrival.after else due
            self._commands[load.source, load.target, ox_id] = _Arrived(load, load.begun, began)
            load.begun += 1
            if load.counters.first_ticks is None:
                load.counters.first_ticks = now

    def _answered(self, arrived: _Arrived, event: CommandCompleted | ExchangeFailed, now: int) -> None:
        load = arrived.load
        arrival, counters = load.config.arrivals[arrived.number], load.counters
        load.ended += 1
        load.ended_ranks[arrival.rank] = 1
        while load.passed < len(load.ended_ranks) and load.ended_ranks[load.passed]:
            load.passed += 1
        if isinstance(event, ExchangeFailed):
            counters.failed += 1
        else:
            latency = now - arrived.began
            counters.latencies[arrived.number] = latency
            counters.commands += 1
            counters.latency_ticks += latency
            counters.worst_ticks = max(counters.worst_ticks, latency)
            counters.last_ticks = now
            counters.reads += arrival.read_bytes > 0
            counters.writes += arrival.write_bytes > 0
            counters.read_bytes += len(event.data_in)
            counters.written_bytes += arrival.write_bytes
        for other in self.loads:
            if other.held and other.initiator is load.initiator:
                other.held = False
                self._arrive(other, now)

    # -- closed loops -----------------------------------------------------------------------------------------------

    def _told(self, load: _Load, event: CommandCompleted | ExchangeFailed, now: int) -> None:
        if isinstance(event, ExchangeFailed) or event.status:
            attention = isinstance(event, CommandCompleted) and len(event.sense) > 2
            if load.tries < _TRIES and attention and event.sense[2] & 0x0F == _UNIT_ATTENTION:  # type: ignore[union-attr]
                self._ask(load, now)
            else:
                load.counters.failed += 1
            return
        told = event.data_in
        load.block_bytes = int.from_bytes(told[8:12], "big")
        capacity = (int.from_bytes(told[:8], "big") + 1) * load.block_bytes
        load.slots = min(capacity, load.config.capacity_bytes) // load.config.command_bytes
        if not load.slots or load.config.command_bytes % load.block_bytes:
            load.counters.failed += 1
            return
        load.counters.first_ticks = now
        for _ in range(min(load.config.depth, load.slots)):
            self._next(load, now)

    def _next(self, load: _Load, now: int) -> None:
        config = load.config
        if config.commands is not None and load.begun >= config.commands:
            return
        load.begun += 1
        write = load.chance.random() >= config.read_share
        slot = load.chance.randrange(load.slots)
        while slot in load.busy:  # one command at a time on a block, so that its contents are known
            slot = (slot + 1) % load.slots
        load.busy.add(slot)
        blocks = config.command_bytes // load.block_bytes
        operation = _WRITE_16 if write else _READ_16
        cdb = (
            bytes((operation, 0)) + (slot * blocks).to_bytes(8, "big") + blocks.to_bytes(4, "big") + bytes(2)
        )
        now_ps, stamp = ps_of_ticks(now), load.begun
        if write:
            ox_id = load.initiator.command(_LUN, cdb, now_ps, data_out=_pattern(stamp, config.command_bytes))
        else:
            ox_id = load.initiator.command(_LUN, cdb, now_ps, data_in_length=config.command_bytes)
        self._commands[load.source, load.target, ox_id] = _Command(load, write, slot, stamp, now)

    def _finish(self, command: _Command, event: CommandCompleted | ExchangeFailed, now: int) -> None:
        load, size = command.load, command.load.config.command_bytes
        counters = load.counters
        load.busy.discard(command.lba)
        if isinstance(event, ExchangeFailed) or event.status:
            counters.failed += 1
            load.written.pop(command.lba, None)  # who knows what is there now
        else:
            counters.commands += 1
            latency = now - command.began
            counters.latency_ticks += latency
            counters.worst_ticks = max(counters.worst_ticks, latency)
            counters.last_ticks = now
            if command.write:
                counters.writes += 1
                counters.written_bytes += size
                load.written[command.lba] = command.stamp
            else:
                counters.reads += 1
                counters.read_bytes += len(event.data_in)
                stamp = load.written.get(command.lba)
                counters.mismatches += stamp is not None and event.data_in != _pattern(stamp, size)
        self._next(load, now)


def _pattern(stamp: int, size: int) -> bytes:
    return stamp.to_bytes(8, "big") * (size // 8)
