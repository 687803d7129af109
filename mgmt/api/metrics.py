"""``GET /metrics`` for Prometheus: the station's lists as gauges, and what its API itself has counted.

Names follow the Prometheus conventions, in base units. Series are bounded: ports, pools, channels and copies up to a
limit (what is beyond is counted), reservations as sums of each interface.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mgmt.api.context import Api
from mgmt.station import alarms, channels
from mgmt.station.context import Station
from mgmt.station.records import AlarmKind, AlarmState

Row = Mapping[str, Any]

#: Rows of one table with series of their own.
SERIES_LIMIT = 5000
_STATES = ("free", "reserved_idle", "in_use", "draining")
_ALARM_LIMIT = 10_000


def metrics_route(api: Api) -> Route:
    """``GET /metrics``."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StationCollector(api))
    ProcessCollector(registry=registry)

    async def endpoint(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(await run_in_threadpool(encode, registry), headers={"content-type": content_type})

    return Route("/metrics", endpoint, methods=["GET"])


class StationCollector(Collector):
    """Reads the station on every scrape."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering asks no array."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All families."""
        station = self._api.station
        arrays = station.inventory.table("arrays").rows
        ports = station.inventory.table("ports").rows
        yield from _array_families(arrays)
        yield from _pool_families(station.inventory.table("pools").rows)
        yield from _reservation_families(station.inventory.table("reservations").rows)
        yield from _channel_families(station)
        yield from _copy_families(station.inventory.table("copies").rows)
        yield from _port_families([row for row in ports if row.get("kind") == "fc"])
        yield _alarm_family(station)
        yield from self._own_families()

    def _own_families(self) -> Iterator[Metric]:
        counts = self._api.hub.counts
        yield GaugeMetricFamily(
            "sancredit_station_event_streams", "Clients that read events.", counts.clients
        )
        yield CounterMetricFamily(
            "sancredit_station_events_delivered", "Events put in line for clients.", counts.delivered
        )
        yield CounterMetricFamily(
            "sancredit_station_event_streams_dropped", "Clients cut off for being too slow.", counts.dropped
        )
        refused = CounterMetricFamily(
            "sancredit_station_refused_requests",
            "Requests stopped at the gate, by status.",
            labels=("status",),
        )
        for status, number in sorted(self._api.refused.items()):
            refused.add_metric((str(status),), number)
        yield refused


def _array_families(rows: Sequence[Row]) -> Iterator[Metric]:
    up = GaugeMetricFamily("sancredit_array_up", "Whether an array answers.", labels=("array",))
    for row in rows:
        up.add_metric((str(row["array"]),), row.get("state") == "up")
    yield up


def _pool_families(rows: Sequence[Row]) -> Iterator[Metric]:
    labels = ("array", "interface", "kind")
    size = GaugeMetricFamily(
        "sancredit_pool_units",
        "Units of communication memory (or credits) by state; the states add up to all of them.",
        labels=(*labels, "state"),
    )
    unit = GaugeMetricFamily("sancredit_pool_unit_bytes", "Size of one unit.", labels=labels)
    expandable = GaugeMetricFamily(
        "sancredit_pool_expandable_units", "Units that unsplit pages would still give.", labels=labels
    )
    degraded = GaugeMetricFamily(
        "sancredit_pool_degraded_units", "Units that are reserved and not there.", labels=labels
    )
    for row in rows[:SERIES_LIMIT]:
        key = _labels(row, labels)
        for state in _STATES:
            size.add_metric((*key, state), _number(row, f"{state}_units"))
        unit.add_metric(key, _number(row, "unit_bytes"))
        expandable.add_metric(key, _number(row, "expandable_units"))
        degraded.add_metric(key, _number(row, "degraded_units"))
    yield from (size, unit, expandable, degraded)
    yield _beyond("pools", rows)


def _reservation_families(rows: Sequence[Row]) -> Iterator[Metric]:
    labels = ("array", "interface")
    numbers: Counter[tuple[str, ...]] = Counter()
    reserved: Counter[tuple[str, ...]] = Counter()
    used: Counter[tuple[str, ...]] = Counter()
    for row in rows:
        key = _labels(row, labels)
        numbers[key] += 1
        reserved[key] += int(_number(row, "reserved_bytes"))
        used[key] += int(_number(row, "in_use_units"))
    for name, about, counted in (
        ("sancredit_reservations", "Reservations of table 101.", numbers),
        ("sancredit_reserved_bytes", "Bytes reserved, in use or not.", reserved),
        ("sancredit_reserved_in_use_units", "Units of reservations in use.", used),
    ):
        family = GaugeMetricFamily(name, about, labels=labels)
        for key, value in counted.items():
            family.add_metric(key, value)
        yield family


def _channel_families(station: Station) -> Iterator[Metric]:
    labels = ("local_port", "remote_port", "remote_port_number")
    rows = [channels.row(station, channel) for channel in station.store.channels()]
    bandwidth = GaugeMetricFamily(
        "sancredit_channel_bandwidth_bytes_per_second",
        "Measured bandwidth (table 108), in bytes as Prometheus wants.",
        labels=labels,
    )
    rtt = GaugeMetricFamily(
        "sancredit_channel_round_trip_seconds", "Measured delay, send to acknowledgement.", labels=labels
    )
    stale = GaugeMetricFamily(
        "sancredit_channel_stale", "Whether the values are too old, or could not be renewed.", labels=labels
    )
    for row in rows[:SERIES_LIMIT]:
        key = _labels(row, labels)
        if row["bandwidth_bps"] is not None and row["rtt_ns"] is not None:
            bandwidth.add_metric(key, row["bandwidth_bps"] / 8)
            rtt.add_metric(key, row["rtt_ns"] / 1e9)
        stale.add_metric(key, bool(row["stale"]))
    yield from (bandwidth, rtt, stale)
    yield _beyond("channels", rows)


def _copy_families(rows: Sequence[Row]) -> Iterator[Metric]:
    labels = ("array", "copy")
    progress = GaugeMetricFamily(
        "sancredit_copy_progress_ratio", "Share of the volume that is copied.", labels=labels
    )
    flight = GaugeMetricFamily(
        "sancredit_copy_in_flight_bytes", "Bytes sent and not acknowledged.", labels=labels
    )
    reserved = GaugeMetricFamily("sancredit_copy_reserved_bytes", "What the copy may use.", labels=labels)
    state = GaugeMetricFamily("sancredit_copy_state", "1 for the copy's state.", labels=(*labels, "state"))
    rpo = GaugeMetricFamily(
        "sancredit_copy_recovery_point_seconds",
        "Age of the newest data that the remote side lacks.",
        labels=labels,
    )
    for row in rows[:SERIES_LIMIT]:
        key = (str(row["array"]), str(row.get("copy_id") or row.get("pair") or ""))
        progress.add_metric(key, _number(row, "progress"))
        flight.add_metric(key, _number(row, "in_flight_bytes"))
        reserved.add_metric(key, _number(row, "reserved_bytes"))
        state.add_metric((*key, str(row.get("state"))), 1)
        if type(row.get("rpo_ns")) is int:
            rpo.add_metric(key, row["rpo_ns"] / 1e9)
    yield from (progress, flight, reserved, state, rpo)
    yield _beyond("copies", rows)


def _port_families(rows: Sequence[Row]) -> Iterator[Metric]:
    labels = ("array", "port")
    counters = (
        ("tx_frames", "sancredit_fc_port_tx_frames", "Frames sent."),
        ("rx_frames", "sancredit_fc_port_rx_frames", "Frames received."),
        ("discards", "sancredit_fc_port_discards", "Frames discarded."),
        ("link_resets", "sancredit_fc_port_link_resets", "Link resets."),
        ("lost_credits", "sancredit_fc_port_lost_credits", "Credits lost and found missing."),
        ("recovered_credits", "sancredit_fc_port_recovered_credits", "Credits recovered (BB_SC)."),
        (
            "credit_zero_transitions",
            "sancredit_fc_port_credit_zero_transitions",
            "Times that the transmit credit came to zero.",
        ),
    )
    for field, name, about in counters:
        family = CounterMetricFamily(name, about, labels=labels)
        for row in rows[:SERIES_LIMIT]:
            family.add_metric(_port(row), _number(row, field))
        yield family
    waited = CounterMetricFamily(
        "sancredit_fc_port_credit_zero_seconds", "Time without a transmit credit.", labels=labels
    )
    credit = GaugeMetricFamily("sancredit_fc_port_bb_credits", "Transmit BB_Credit granted.", labels=labels)
    for row in rows[:SERIES_LIMIT]:
        waited.add_metric(_port(row), _number(row, "credit_zero_time_ps") / 1e12)
        credit.add_metric(_port(row), _number(row, "bb_credit"))
    yield from (waited, credit)
    yield _beyond("ports", rows)


def _alarm_family(station: Station) -> Metric:
    family = GaugeMetricFamily("sancredit_alarms", "Alarms that are not cleared.", labels=("kind", "state"))
    found = Counter((alarm.kind, alarm.state) for alarm in alarms.listed(station, limit=_ALARM_LIMIT))
    for kind in AlarmKind:
        for state in (AlarmState.ACTIVE, AlarmState.ACKNOWLEDGED):
            family.add_metric((kind.value, state.value), found[kind, state])
    return family


def _beyond(table: str, rows: Sequence[Row]) -> Metric:
    return GaugeMetricFamily(
        f"sancredit_{table}_not_listed",
        f"Rows beyond the first {SERIES_LIMIT}, which have no series of their own.",
        value=max(0, len(rows) - SERIES_LIMIT),
    )


def _port(row: Row) -> tuple[str, str]:
    return str(row["array"]), str(row.get("address"))


def _labels(row: Row, names: Sequence[str]) -> tuple[str, ...]:
    return tuple("" if row.get(name) is None else str(row[name]) for name in names)


def _number(row: Row, name: str) -> float:
    value = row.get(name)
    return value if isinstance(value, int | float) else 0
