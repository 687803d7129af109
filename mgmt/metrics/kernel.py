"""The counters of the kernel's target (LIO) as metric families with the emulator's names and labels.

The kernel counts commands without their kind, so ``kind`` is ``all``; bytes are whole MiB. It keeps no latencies and
no errors, and of an initiator without an ACL (demo mode) nothing but its session: those families are not there, and
such sessions are counted by target only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from iscsi_target.lio.configfs import ROOT
from iscsi_target.lio.counters import read_sessions, read_targets
from mgmt.metrics.collector import SESSIONS_LISTED

_COUNTED = ("commands", "read_bytes", "written_bytes")
Traffic = Mapping[tuple[str, ...], Mapping[str, int]]


class KernelCollector(Collector):
    """Reads configfs at ``root`` on every scrape; where there is none, the families are empty. iSCSI targets only."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not look at the kernel."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All families."""
        rows = [row for row in read_targets(self._root) if row["fabric"] == "iscsi"]
        targets = {row["target"] for row in rows}
        luns = [((row["target"], str(row["lun"])), row) for row in rows if row["lun"] is not None]
        yield from _families("sancredit_iscsi_lun", "of each LUN", ("target", "lun"), _summed(luns))
        totals = _summed(((row["target"],), row) for _, row in luns)
        yield from _families("sancredit_iscsi_target", "of each target", ("target",), totals)
        sessions = [row for row in read_sessions(self._root) if row["target"] in targets]
        yield _gauge(
            "sancredit_iscsi_target_sessions",
            "Sessions with the target.",
            ("target",),
            {(name,): sum(row["target"] == name for row in sessions) for name in sorted(targets)},
        )
        yield from _session_families(sessions)


def _session_families(sessions: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    known = [row for row in sessions if row["session"] is not None]
    busiest = sorted(known, key=lambda row: (-row["commands"], row["session"]))[:SESSIONS_LISTED]
    labels = ("target", "initiator", "tsih")
    keyed: list[tuple[tuple[str, ...], Mapping[str, Any]]] = [
        ((row["target"], row["initiator"], str(row["session"])), row)
        for row in sorted(busiest, key=lambda row: (row["target"], row["session"]))
    ]
    yield from _families("sancredit_iscsi_session", "of each session", labels, _summed(keyed))
    connections = {key: len(row["connections"]) for key, row in keyed}
    yield _gauge("sancredit_iscsi_session_connections", "Connections of the session.", labels, connections)
    yield GaugeMetricFamily(
        "sancredit_iscsi_sessions_not_listed",
        f"Sessions without series of their own: of initiators without an ACL, or beyond the {SESSIONS_LISTED} busiest.",
        value=len(sessions) - len(keyed),
    )


def _summed(rows: Iterable[tuple[tuple[str, ...], Mapping[str, Any]]]) -> Traffic:
    """By key; a LUN of several portal groups is one series."""
    found: dict[tuple[str, ...], dict[str, int]] = defaultdict(lambda: dict.fromkeys(_COUNTED, 0))
    for key, row in rows:
        for name in _COUNTED:
            found[key][name] += row[name] or 0
    return found


def _families(prefix: str, whose: str, labels: Sequence[str], traffic: Traffic) -> Iterator[Metric]:
    commands = CounterMetricFamily(
        f"{prefix}_commands", f"SCSI commands received, {whose}.", labels=(*labels, "kind")
    )
    size = CounterMetricFamily(f"{prefix}_bytes", f"Bytes of data, {whose}.", labels=(*labels, "direction"))
    for key, counted in traffic.items():
        commands.add_metric((*key, "all"), counted["commands"])
        size.add_metric((*key, "read"), counted["read_bytes"])
        size.add_metric((*key, "written"), counted["written_bytes"])
    yield from (commands, size)


def _gauge(name: str, about: str, labels: Sequence[str], values: Mapping[tuple[str, ...], int]) -> Metric:
    family = GaugeMetricFamily(name, about, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
