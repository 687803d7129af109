"""From the read models of a target to metric families. Names follow the Prometheus conventions, in base units.

What an initiator can choose never makes series without end: sessions are listed up to a limit, the busiest first, and
the others only counted; LUNs that do not exist share the label ``none``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from credits.results import PoolStatistics
from iscsi_target.session.counters import (
    LATENCY_BUCKETS,
    ServerStatistics,
    SessionStatistics,
    TrafficStatistics,
)

SESSIONS_LISTED = 128
"""Sessions with series of their own; those with the most commands come first."""
RULES_LISTED = 128
_SESSION_BUCKETS = range(0, LATENCY_BUCKETS, 3)
_LUN_BUCKETS = range(LATENCY_BUCKETS)


@dataclass(frozen=True, slots=True)
class FaultCount:
    """How often one fault rule fired."""

    rule: str
    action: str
    fired: int


@dataclass(frozen=True, slots=True)
class TargetSnapshot:
    """Everything that is exported, of one moment."""

    statistics: ServerStatistics
    faults: Sequence[FaultCount] = ()
    pool: PoolStatistics | None = None


class TargetCollector(Collector):
    """Asks ``look`` for a snapshot on every scrape. ``look`` is called in the thread of the scrape."""

    def __init__(self, look: Callable[[], TargetSnapshot]) -> None:
        self._look = look

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask a target that does not run yet."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All families, of one snapshot."""
        snapshot = self._look()
        yield from _target_families(snapshot.statistics)
        yield from _session_families(snapshot.statistics.sessions)
        yield from _server_families(snapshot.statistics)
        if snapshot.pool is not None:
            yield _pool_family(snapshot.pool)
        yield _fault_family(snapshot.faults)


def _target_families(statistics: ServerStatistics) -> Iterator[Metric]:
    labels = ("target", "lun")
    traffic = [
        ((target.name, "none" if entry.lun is None else str(entry.lun)), entry.traffic)
        for target in statistics.targets
        for entry in target.luns
    ]
    yield from _traffic_families("sancredit_iscsi_lun", "of each LUN", labels, traffic, _LUN_BUCKETS)
    sessions = GaugeMetricFamily(
        "sancredit_iscsi_target_sessions", "Sessions with the target.", labels=("target",)
    )
    totals = []
    for target in statistics.targets:
        sessions.add_metric((target.name,), target.sessions)
        totals.append(((target.name,), target.traffic))
    yield sessions
    yield from _traffic_families(
        "sancredit_iscsi_target", "of each target", ("target",), totals, _LUN_BUCKETS
    )


def _session_families(sessions: Sequence[SessionStatistics]) -> Iterator[Metric]:
    busiest = sorted(sessions, key=lambda session: (-session.traffic.commands, session.tsih))
    listed = sorted(busiest[:SESSIONS_LISTED], key=lambda session: session.tsih)
    labels = ("target", "initiator", "tsih")
    keys = [
        (session.target_name or "discovery", session.initiator_name, str(session.tsih)) for session in listed
    ]
    traffic = [(key, session.traffic) for key, session in zip(keys, listed, strict=True)]
    yield from _traffic_families(
        "sancredit_iscsi_session", "of each session", labels, traffic, _SESSION_BUCKETS
    )
    gauges: tuple[tuple[str, str, Callable[[SessionStatistics], int]], ...] = (
        (
            "window_used_commands",
            "Numbers of the command window that are in use (RFC 7143 section 4.2.2.1).",
            lambda session: session.window_limit - session.window,
        ),
        (
            "window_limit_commands",
            "The command window when nothing is outstanding.",
            lambda session: session.window_limit,
        ),
        (
            "outstanding_commands",
            "Commands received and not answered yet.",
            lambda session: session.outstanding,
        ),
        (
            "unsent_data_in_bytes",
            "Data-In that waits for buffers or for a slow reader.",
            lambda session: session.unsent_data_in_bytes,
        ),
        (
            "held_buffer_bytes",
            "Data-In charged to the buffers and not acknowledged by the session's TCP.",
            lambda session: session.held_buffer_bytes,
        ),
        ("connections", "Connections of the session.", lambda session: session.connections),
    )
    for name, about, value in gauges:
        gauge = GaugeMetricFamily(f"sancredit_iscsi_session_{name}", about, labels=labels)
        for key, session in zip(keys, listed, strict=True):
            gauge.add_metric(key, value(session))
        yield gauge
    ignored = CounterMetricFamily(
        "sancredit_iscsi_session_ignored_pdus", "PDUs outside the command window.", labels=labels
    )
    for key, session in zip(keys, listed, strict=True):
        ignored.add_metric(key, session.ignored_pdus)
    yield ignored
    yield GaugeMetricFamily(
        "sancredit_iscsi_sessions_not_listed",
        f"Sessions beyond the {SESSIONS_LISTED} busiest, which have no series of their own.",
        value=len(sessions) - len(listed),
    )


def _server_families(statistics: ServerStatistics) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "sancredit_iscsi_connections",
        "TCP connections, with those that log in.",
        value=statistics.connections,
    )
    yield GaugeMetricFamily(
        "sancredit_iscsi_connections_waiting_for_buffers",
        "Connections whose Data-In waits for buffers.",
        value=statistics.connections_waiting_for_buffers,
    )
    yield GaugeMetricFamily(
        "sancredit_iscsi_connections_holding_buffers",
        "Connections with charged Data-In that is not acknowledged.",
        value=statistics.connections_holding_buffers,
    )
    yield GaugeMetricFamily(
        "sancredit_iscsi_held_buffer_bytes",
        "Data-In charged to the buffers and not acknowledged by the peer's TCP.",
        value=statistics.held_buffer_bytes,
    )


def _pool_family(pool: PoolStatistics) -> Metric:
    family = GaugeMetricFamily(
        "sancredit_pool_bytes",
        "Communication memory by state; the states add up to all of it.",
        labels=("pool", "state"),
    )
    for state, units in (
        ("free", pool.free_units),
        ("reserved_idle", pool.reserved_idle_units),
        ("in_use", pool.in_use_units),
        ("draining", pool.draining_units),
    ):
        family.add_metric((pool.name, state), units * pool.unit_bytes)
    return family


def _fault_family(faults: Sequence[FaultCount]) -> Metric:
    family = CounterMetricFamily(
        "sancredit_iscsi_faults_fired", "Faults injected, by rule.", labels=("rule", "action")
    )
    for fault in faults[:RULES_LISTED]:
        family.add_metric((fault.rule, fault.action), fault.fired)
    return family


def _traffic_families(
    prefix: str,
    whose: str,
    labels: Sequence[str],
    traffic: Sequence[tuple[Sequence[str], TrafficStatistics]],
    buckets: Sequence[int],
) -> Iterator[Metric]:
    commands = CounterMetricFamily(
        f"{prefix}_commands", f"SCSI commands received, {whose}.", labels=(*labels, "kind")
    )
    size = CounterMetricFamily(f"{prefix}_bytes", f"Bytes of data, {whose}.", labels=(*labels, "direction"))
    errors = CounterMetricFamily(
        f"{prefix}_errors", f"Answers with a status other than GOOD, {whose}.", labels=labels
    )
    latency = HistogramMetricFamily(
        f"{prefix}_latency_seconds",
        f"From the arrival of a command to its answer, {whose}.",
        labels=labels,
    )
    for key, counted in traffic:
        commands.add_metric((*key, "read"), counted.read_commands)
        commands.add_metric((*key, "write"), counted.write_commands)
        commands.add_metric((*key, "other"), counted.other_commands)
        size.add_metric((*key, "read"), counted.read_bytes)
        size.add_metric((*key, "written"), counted.written_bytes)
        errors.add_metric(key, counted.errors)
        latency.add_metric(key, _buckets(counted, buckets), counted.latency_sum_ns / 1e9)
    yield from (commands, size, errors, latency)


def _buckets(traffic: TrafficStatistics, numbers: Sequence[int]) -> list[tuple[str, float]]:
    """(upper bound in seconds, answers at or below it), rising; bucket n ends at 2**n µs, the last one nowhere."""
    found: list[tuple[str, float]] = []
    for number in numbers[: -1 if numbers[-1] == LATENCY_BUCKETS - 1 else None]:
        bound = repr(2**number / 1e6)
        found.append((bound, sum(traffic.latency_buckets[: number + 1])))
    return [*found, ("+Inf", sum(traffic.latency_buckets))]
