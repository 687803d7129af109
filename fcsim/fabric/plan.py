# SPDX-License-Identifier: Apache-2.0
"""A scenario cabled up: ports with names and addresses, one direction after the other, shortest paths, channels.

Routes are FSPF's: the cost of a link is 1000 divided by its speed in Gbit/s (FC-SW, 1.0625 × 10^12 / baud rate), and
all links on any shortest path are used, each pair of hosts on one of them.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fcsim.clock import ticks_per_byte
from fcsim.errors import InvalidScenario
from fcsim.fabric.scenario import (
    DATA_CHANNELS,
    DEFAULT_HOLD_NS,
    ISL_HOLD_NS,
    Fault,
    FaultKind,
    Flow,
    Host,
    Isl,
    Scenario,
    Scsi,
)
from fcsim.speeds import Speed

End = tuple[str, int]
"""``("host", n)`` or ``("switch", n)``."""


@dataclass(frozen=True, slots=True)
class PortPlan:
    """One port. ``number`` counts the ports of a switch; ``fc_id`` is its address (0xDDPP00)."""

    name: str
    type_: str
    number: int
    fc_id: int
    wwpn: int
    switch: int | None


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of a link: frames of ``source`` to ``destination``, both positions in :attr:`Plan.ports`.

    ``credits``: one number in R_RDY mode, else by virtual channel in the order of :attr:`Plan.channels`;
    ``granted`` are all of them, those of channels that nobody uses included.
    """

    number: int
    link: str
    source: int
    destination: int
    source_end: End
    destination_end: End
    speed: Speed
    members: int
    distance_m: int
    credits: tuple[int, ...]
    granted: int
    hold_ns: int
    latency_ns: int
    bb_sc_n: int
    service_ns: int = 0
    drain_bps: int = 0

    @property
    def byte_ticks(self) -> int:
        """Ticks of a byte on all members of a trunk together."""
        return ticks_per_byte(self.speed) // self.members

    @property
    def bytes_per_second(self) -> int:
        """Decoded bytes per second, all members together."""
        return self.speed.bytes_per_second * self.members


@dataclass(frozen=True, slots=True)
class Plan:
    """``directions`` 2n and 2n + 1 are the two of a link. ``channels`` are the virtual channels in use, by their
    numbers; ``channel_of`` each flow's position in them. ``routes``: directions out of a switch towards a host."""

    scenario: Scenario
    ports: tuple[PortPlan, ...]
    directions: tuple[Direction, ...]
    channels: tuple[int, ...]
    channel_of: tuple[int, ...]
    routes: Mapping[tuple[int, int], tuple[int, ...]]
    pool_left: Mapping[int, int]
    scsi_channels: tuple[tuple[int, int], ...] = ()
    """Of each scsi load: the position in ``channels`` of what goes to the target, and of what comes back."""

    def links(self) -> list[str]:
        """Names of the links."""
        return [direction.link for direction in self.directions[::2]]

    def directions_of(self, place: str) -> list[int]:
        """Both directions of a link, or the one in which a port sends. Raises
        :class:`~fcsim.errors.InvalidScenario` for a name that is neither."""
        found = [d.number for d in self.directions if place in (d.link, self.ports[d.source].name)]
        if not found:
            names = [*self.links(), *(port.name for port in self.ports)]
            raise InvalidScenario(
                f"there is no link or port {place!r:.60}; there are {', '.join(names[:24])}"
                + (" …" if len(names) > 24 else "")
            )
        return found

    def reverse(self, number: int) -> Direction:
        """The other direction of the same link."""
        return self.directions[number ^ 1]


class _Cabling:
    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.switches = {switch.name: n for n, switch in enumerate(scenario.switches)}
        self.hosts = {host.name: n for n, host in enumerate(scenario.hosts)}
        self.ports: list[PortPlan] = []
        self.directions: list[Direction] = []
        self.used_ports = [0] * len(scenario.switches)

    def switch_port(self, switch: int, type_: str) -> int:
        spec = self.scenario.switches[switch]
        number = self.used_ports[switch]
        self.used_ports[switch] += 1
        fc_id = (spec.domain << 16) | ((number & 0xFF) << 8) | (number >> 8)
        wwpn = 0x2000_0000_0000_0000 | (number << 48) | (0x00C0DD << 24) | spec.domain
        self.ports.append(PortPlan(f"{spec.name}/{number}", type_, number, fc_id, wwpn, switch))
        return len(self.ports) - 1

    def host_port(self, host: int, fc_id: int) -> int:
        wwpn = 0x2100_00C0_DD00_0000 | (0xA000 + host)
        self.ports.append(PortPlan(self.scenario.hosts[host].name, "N", 0, fc_id, wwpn, None))
        return len(self.ports) - 1

    def hold_ns(self, switch: int, own: int | None, default: int) -> int:
        if own is not None:
            return own
        general = self.scenario.switches[switch].hold_ns
        return default if general is None else general

    def cable_host(self, number: int, host: Host) -> None:
        switch = self.switches[host.to]
        far = self.switch_port(switch, "F")
        near = self.host_port(number, self.ports[far].fc_id)
        latency_ns = self.scenario.switches[switch].latency_ns
        link = f"{host.name}-{host.to}"
        common = (host.speed, 1, host.distance_m)
        self._add(
            link, near, far, ("host", number), ("switch", switch), common, host.tx_credit, 0, latency_ns, host
        )
        hold_ns = self.hold_ns(switch, host.hold_ns, DEFAULT_HOLD_NS)
        self._add(
            link, far, near, ("switch", switch), ("host", number), common, host.rx_credit, hold_ns, 0, host
        )

    def _add(
        self,
        link: str,
        source: int,
        destination: int,
        source_end: End,
        destination_end: End,
        line: tuple[Speed, int, int],
        credit: int,
        hold_ns: int,
        latency_ns: int,
        receiver: Host,
    ) -> None:
        drains = destination_end[0] == "host"
        self.directions.append(
            Direction(
                len(self.directions),
                link,
                source,
                destination,
                source_end,
                destination_end,
                *line,
                (credit,),
                credit,
                hold_ns,
                latency_ns,
                receiver.bb_sc_n,
                receiver.service_ns if drains else 0,
                receiver.drain_bps if drains else 0,
            )
        )

    def cable_pair(self, number: int, host: Host, other: int, peer: Host) -> None:
        near, far = self.host_port(number, 0x000001 + 2 * number), self.host_port(other, 0x000001 + 2 * other)
        link = f"{host.name}-{peer.name}"
        line = (host.speed, 1, host.distance_m)
        # Each side may send what the other grants.
        ends: tuple[End, End] = ("host", number), ("host", other)
        self._add(link, near, far, *ends, line, peer.rx_credit, 0, 0, peer)
        self._add(link, far, near, *ends[::-1], line, host.rx_credit, 0, 0, host)

    def cable_isl(self, isl: Isl, channels: Sequence[int]) -> None:
        members = isl.count if isl.trunk else 1
        if ticks_per_byte(isl.speed) % members:
            raise InvalidScenario(
                f"isl {isl.name}: a trunk of {members} links at {isl.speed.name} has no exact rate here; "
                "take another count, or equal links without trunk"
            )
        a, b = (self.switches[name] for name in isl.between)
        credits = isl.credits
        if len(credits) > 1:
            missing = [channel for channel in channels if channel >= len(credits) or not credits[channel]]
            if missing:
                raise InvalidScenario(
                    f"isl {isl.name}: virtual channel {missing[0]} has no credits, and a flow uses it; give it some "
                    "in virtual_channels, or the flow another virtual_channel"
                )
            credits = tuple(isl.credits[channel] for channel in channels)
        for number in range(1 if isl.trunk else isl.count):
            name = isl.name if number == 0 else f"{isl.name}#{number + 1}"
            ports = self.switch_port(a, "E"), self.switch_port(b, "E")
            for (near, far), (here, there) in (((ports), (a, b)), (ports[::-1], (b, a))):
                self.directions.append(
                    Direction(
                        len(self.directions),
                        name,
                        near,
                        far,
                        ("switch", here),
                        ("switch", there),
                        isl.speed,
                        members,
                        isl.distance_m,
                        tuple(credit * members for credit in credits),
                        sum(isl.credits) * members,
                        self.hold_ns(here, isl.hold_ns, ISL_HOLD_NS),
                        self.scenario.switches[there].latency_ns,
                        isl.bb_sc_n,
                    )
                )


def make_plan(scenario: Scenario) -> Plan:
    """Cable a scenario up. Raises :class:`~fcsim.errors.InvalidScenario` where a flow has no way, a virtual channel no
    credit, or a switch too few buffers for its ports."""
    cabling = _Cabling(scenario)
    wanted = [(flow.channel, flow.to or flow.source) for flow in scenario.flows]
    wanted += [(load.channel, host) for load in scenario.scsi for host in (load.to, load.source)]
    numbers = _channel_numbers(scenario, cabling.hosts, wanted)
    channels = tuple(sorted(set(numbers)))
    done: set[str] = set()
    for number, host in enumerate(scenario.hosts):
        if host.to in cabling.switches:
            cabling.cable_host(number, host)
        elif host.name not in done:
            other = cabling.hosts[host.to]
            cabling.cable_pair(number, host, other, scenario.hosts[other])
            done.add(host.to)
    for isl in scenario.isls:
        cabling.cable_isl(isl, channels)
    routes = _routes(scenario, cabling)
    _check_flows(scenario, cabling, routes)
    places = [channels.index(number) for number in numbers]
    flows = len(scenario.flows)
    channel_of, pairs = (
        tuple(places[:flows]),
        tuple(zip(places[flows::2], places[flows + 1 :: 2], strict=True)),
    )
    left = _pool_left(scenario, cabling.directions)
    plan = Plan(
        scenario, tuple(cabling.ports), tuple(cabling.directions), channels, channel_of, routes, left, pairs
    )
    _check_faults(plan)
    return plan


def _channel_numbers(
    scenario: Scenario, hosts: Mapping[str, int], wanted: Sequence[tuple[int | None, str]]
) -> list[int]:
    """The virtual channel of everything that is ``wanted``: the one that was given, or that of the host it goes to; 0
    for all where no link has any."""
    sets = [isl.credits for isl in scenario.isls if len(isl.credits) > 1]
    if not sets:
        return [0] * len(wanted)
    everywhere = [n for n in range(min(map(len, sets))) if all(credits[n] for credits in sets)]
    usable = [n for n in DATA_CHANNELS if n in everywhere] or everywhere
    if not usable:
        raise InvalidScenario("no virtual channel has credits on every isl; give one of them credits on all")
    numbers = []
    for channel, host in wanted:
        numbers.append(usable[hosts[host] % len(usable)] if channel is None else channel)
    return numbers


def _routes(scenario: Scenario, cabling: _Cabling) -> dict[tuple[int, int], tuple[int, ...]]:
    count = len(scenario.switches)
    leaving: list[list[Direction]] = [[] for _ in range(count)]
    to_host: dict[int, Direction] = {}
    for direction in cabling.directions:
        if direction.source_end[0] == "switch":
            if direction.destination_end[0] == "switch":
                leaving[direction.source_end[1]].append(direction)
            else:
                to_host[direction.destination_end[1]] = direction
    ways: dict[int, list[tuple[int, ...]]] = {}
    routes: dict[tuple[int, int], tuple[int, ...]] = {}
    for host, last in to_host.items():
        home = last.source_end[1]
        if home not in ways:
            ways[home] = _ways_to(home, leaving)
        for switch, out in enumerate(ways[home]):
            routes[switch, host] = (last.number,) if switch == home else out
    return routes


def link_cost(direction: Direction) -> int:
    """FSPF's cost of a link."""
    return max(1, 1000 // (direction.speed.nominal_gbit * direction.members))


def _ways_to(home: int, leaving: Sequence[Sequence[Direction]]) -> list[tuple[int, ...]]:
    """Out of each switch, the directions that lie on a shortest path to ``home``. Costs are the same both ways."""
    far = 1 << 60
    distance = [far] * len(leaving)
    distance[home] = 0
    heap = [(0, home)]
    while heap:
        so_far, switch = heapq.heappop(heap)
        if so_far > distance[switch]:
            continue
        for direction in leaving[switch]:
            next_one = direction.destination_end[1]
            cost = so_far + link_cost(direction)
            if cost < distance[next_one]:
                distance[next_one] = cost
                heapq.heappush(heap, (cost, next_one))
    return [
        tuple(
            direction.number
            for direction in out
            if distance[switch] < far
            and distance[direction.destination_end[1]] + link_cost(direction) == distance[switch]
        )
        for switch, out in enumerate(leaving)
    ]


def _check_flows(
    scenario: Scenario, cabling: _Cabling, routes: Mapping[tuple[int, int], tuple[int, ...]]
) -> None:
    both_ways = [Flow(load.name, *ends) for load in scenario.scsi for ends in _ways(load)]
    for flow in (*scenario.flows, *both_ways):
        source = scenario.hosts[cabling.hosts[flow.source]]
        for target in [flow.to] if flow.to else [host.name for host in scenario.hosts]:
            if target == flow.source:
                continue
            if source.to not in cabling.switches:
                if target == source.to:
                    continue
            elif routes.get((cabling.switches[source.to], cabling.hosts[target])):
                continue
            raise InvalidScenario(
                f"flow {flow.name}: there is no way from {flow.source} to {target}; add an [[isl]] between their "
                "switches, or name a host within reach"
            )


def _ways(load: Scsi) -> tuple[tuple[str, str], tuple[str, str]]:
    return (load.source, load.to), (load.to, load.source)


def _pool_left(scenario: Scenario, directions: Sequence[Direction]) -> dict[int, int]:
    left: dict[int, int] = {}
    for number, switch in enumerate(scenario.switches):
        if switch.buffers is None:
            continue
        granted = sum(d.granted for d in directions if d.destination_end == ("switch", number))
        if granted > switch.buffers:
            raise InvalidScenario(
                f"switch {switch.name}: its ports grant {granted} credits and it has {switch.buffers} buffers; "
                f"grant {granted - switch.buffers} fewer, or raise buffers"
            )
        left[number] = switch.buffers - granted
    return left


def _check_faults(plan: Plan) -> None:
    """Chances of the same kind on the same direction may not overlap: nobody could tell whose loss it was."""
    spans: dict[tuple[int, bool], list[tuple[int, int, Fault]]] = {}
    for fault in plan.scenario.faults:
        numbers = plan.directions_of(fault.place)
        if fault.kind is FaultKind.LINK_BOUNCE and len(numbers) == 1:
            raise InvalidScenario(
                f"fault link-bounce: {fault.place!r} is a port; name a link: {', '.join(plan.links()[:12])}"
            )
        if fault.kind not in (FaultKind.LOSE_FRAMES, FaultKind.CORRUPT_FRAMES, FaultKind.LOSE_R_RDYS):
            continue
        end = plan.scenario.duration_ns if fault.until_ns is None else fault.until_ns
        for number in numbers:
            key = number, fault.kind is FaultKind.LOSE_R_RDYS
            for begin, stop, other in spans.setdefault(key, []):
                if fault.from_ns < stop and begin < end:
                    raise InvalidScenario(
                        f"two faults at {fault.place} ({other.kind.value} and {fault.kind.value}) overlap in time; "
                        "give them from and until that do not"
                    )
            spans[key].append((fault.from_ns, end, fault))


def flows_by_host(plan: Plan) -> dict[int, list[Flow]]:
    """The flows of each host by its number."""
    numbers = {host.name: n for n, host in enumerate(plan.scenario.hosts)}
    found: dict[int, list[Flow]] = {}
    for flow in plan.scenario.flows:
        found.setdefault(numbers[flow.source], []).append(flow)
    return found
