"""A captured load put into a scenario, simulated, and compared with what was captured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fcsim.clock import TICKS_PER_NS
from fcsim.errors import InvalidScenario
from fcsim.fabric.plan import Plan, make_plan
from fcsim.fabric.results import report
from fcsim.fabric.scenario import Scenario, Scsi
from fcsim.fabric.simulation import Outcome, Progress, simulate
from fcsim.fcp.executor import ScsiExecutor
from mgmt.fc.fabric import device_server
from tools.capture.fabric_replay.device import CapturedDevice
from tools.capture.fabric_replay.load import Load, Source
from tools.capture.replay.verdict import latencies

NAME = "capture"
_SAMPLES = 500


@dataclass(frozen=True, slots=True)
class Pair:
    """The hosts of a scenario that stand for the captured initiator and target."""

    source: str
    to: str


def choose_pair(scenario: Scenario, source: str | None, to: str | None) -> Pair:
    """The hosts that were named; else those of the scenario's first scsi load, or of its first flow with a ``to``.

    Raises :class:`~fcsim.errors.InvalidScenario`.
    """
    hosts = [host.name for host in scenario.hosts]
    for name in (source, to):
        if name is not None and name not in hosts:
            raise InvalidScenario(f"the scenario has no host {name!r:.60}; there are {', '.join(hosts[:24])}")
    known = [(load.source, load.to) for load in scenario.scsi]
    known += [(flow.source, flow.to) for flow in scenario.flows if flow.to is not None]
    fitting = [pair for pair in known if source in (None, pair[0]) and to in (None, pair[1])]
    if fitting:
        source, to = fitting[0]
    if source is None or to is None:
        raise InvalidScenario(f"between which hosts? Name both of {', '.join(hosts[:24])}: --from and --to")
    if source == to:
        raise InvalidScenario(f"{source} cannot be its own target; name another host")
    return Pair(source, to)


def with_load(scenario: Scenario, pair: Pair, load: Load) -> Scenario:
    """The scenario with the capture in place of what these two hosts had to do with each other; the rest stays."""
    before = [one for one in scenario.scsi if (one.source, one.to) == (pair.source, pair.to)]
    model = before[0] if before else Scsi(NAME, pair.source, pair.to)
    captured = replace(model, name=NAME, start_ns=0, latency_ns=0, commands=None, arrivals=load.arrivals)
    duration_ns = load.arrivals[-1].at_ns + 2 * captured.timeout_ns
    return replace(
        scenario,
        duration_ns=duration_ns,
        sample_ns=max(scenario.sample_ns, load.arrivals[-1].at_ns // _SAMPLES, duration_ns // 20_000),
        scsi=(captured, *(one for one in scenario.scsi if one not in before)),
        flows=tuple(one for one in scenario.flows if (one.source, one.to) != (pair.source, pair.to)),
    )


def replay_into(
    scenario: Scenario, pair: Pair, load: Load, *, seed: int | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Simulate; what was predicted beside what was measured, and the fabric's own report.

    Raises :class:`~fcsim.errors.InvalidScenario`.
    """
    plan = make_plan(with_load(scenario, pair, load))
    outcome = simulate(plan, seed=seed, progress=progress, make_executor=_Targets(plan, pair, load).executor)
    return _compared(outcome, pair, load)


@dataclass(frozen=True, slots=True)
class _Targets:
    """The executors of the scenario's targets."""

    plan: Plan
    pair: Pair
    load: Load

    def executor(self, host: str, size_bytes: int) -> ScsiExecutor:
        disk = device_server(host, size_bytes)
        if host != self.pair.to:
            return disk
        (address,) = [port.fc_id for port in self.plan.ports if port.name == self.pair.source]
        statuses = [source.status for source in self.load.sources]
        return CapturedDevice(address, zip(self.load.arrivals, statuses, strict=True), disk)


def _compared(outcome: Outcome, pair: Pair, load: Load) -> dict[str, Any]:
    (counted,) = [
        counters
        for config, counters in zip(outcome.plan.scenario.scsi, outcome.scsi, strict=True)
        if config.arrivals
    ]
    predicted = [ticks // TICKS_PER_NS if ticks >= 0 else None for ticks in counted.latencies]
    flows = list(_rows(load.sources, predicted))
    return {
        "from": pair.source,
        "to": pair.to,
        "commands": len(load.arrivals),
        "unanswered": sum(one is None for one in predicted),
        "skipped": dict(load.skipped),
        "flows": flows,
        "fabric": report(outcome),
    }


def _rows(sources: Sequence[Source], predicted: Sequence[int | None]) -> Iterator[dict[str, Any]]:
    """By initiator, target and kind of command."""
    groups: dict[tuple[str, str, str], list[tuple[int, int | None]]] = {}
    for source, found in zip(sources, predicted, strict=True):
        key = source.initiator, source.target, source.kind
        groups.setdefault(key, []).append((source.measured_ns, found))
    for (initiator, target, kind), members in sorted(groups.items()):
        answered = [found for _, found in members if found is not None]
        yield {
            "initiator": initiator,
            "target": target,
            "kind": kind,
            "commands": len(members),
            "unanswered": len(members) - len(answered),
            "measured_ns": latencies([measured for measured, _ in members]),
            "predicted_ns": latencies(answered),
        }
