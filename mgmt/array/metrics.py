"""An array's own metrics for Prometheus: its read models as families, served as ``GET /metrics`` of its control API.

Names follow the Prometheus conventions, in base units. Why a connection of a copy is not faster is a set of states: the
average of one over time is the share of the time in which it was what limited the connection. Series are bounded:
connections beyond a limit are only counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from iscsi_target.tcp_diagnosis import Limit

Rows = Sequence[dict[str, Any]]

#: Connections with series of their own.
CONNECTIONS_LIMIT = 1024
_STATES = ("free", "reserved_idle", "in_use", "draining")


@dataclass(frozen=True, slots=True)
class ArraySnapshot:
    """The rows of ``/v1/pools``, ``/v1/copies`` and ``/v1/cache``, of one moment."""

    pools: Rows
    copies: Rows
    cache: Rows


class ArrayCollector(Collector):
    """Asks ``look`` for a snapshot on every scrape, in its thread."""

    def __init__(self, look: Callable[[], ArraySnapshot]) -> None:
        self._look = look

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering asks nobody."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All families."""
        snapshot = self._look()
        yield from _pools(snapshot.pools)
        yield from _copies(snapshot.copies)
        yield from _connections(snapshot.copies)
        yield from _cache(snapshot.cache)


def exposition(look: Callable[[], ArraySnapshot]) -> Callable[[str], tuple[bytes, str]]:
    """A function from an Accept header to the text of a scrape and its content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ArrayCollector(look))

    def scrape(accept: str) -> tuple[bytes, str]:
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    return scrape


def _pools(rows: Rows) -> Iterator[Metric]:
    units = GaugeMetricFamily(
        "sancredit_array_pool_units",
        "Units of communication memory (or credits) by state; the states add up to all of them.",
        labels=("interface", "kind", "state"),
    )
    zero = GaugeMetricFamily(
        "sancredit_array_credit_zero_ratio",
        "Share of the last minute of link time in which frames waited for a credit.",
        labels=("interface",),
    )
    for row in rows:
        for state in _STATES:
            units.add_metric((row["interface"], row["kind"], state), row[f"{state}_units"])
        if row.get("credit_zero_percent") is not None:
            zero.add_metric((row["interface"],), row["credit_zero_percent"] / 100)
    yield from (units, zero)


def _copies(rows: Rows) -> Iterator[Metric]:
    labels = ("copy",)
    moved = CounterMetricFamily(
        "sancredit_array_copy_acknowledged_bytes",
        "Bytes of the volume that the remote array has answered for.",
        labels=labels,
    )
    progress = GaugeMetricFamily(
        "sancredit_array_copy_progress_ratio", "Share of the volume that is copied.", labels=labels
    )
    for row in rows:
        moved.add_metric((row["copy_id"],), row["acknowledged_bytes"])
        progress.add_metric((row["copy_id"],), row["progress"])
    yield from (moved, progress)


def _connections(rows: Rows) -> Iterator[Metric]:
    labels = ("copy", "session", "connection")
    links = [
        ((row["copy_id"], str(link["session"]), str(link["connection"])), link)
        for row in rows
        for link in row["links"]
    ]
    listed = links[:CONNECTIONS_LIMIT]
    limited = GaugeMetricFamily(
        "sancredit_array_connection_limited",
        "1 for what limited the connection in the last second or so (TCP_INFO and the gate).",
        labels=(*labels, "limit"),
    )
    flight = GaugeMetricFamily(
        "sancredit_array_connection_in_flight_bytes", "Bytes sent and not acknowledged.", labels=labels
    )
    limit = GaugeMetricFamily(
        "sancredit_array_connection_limit_bytes",
        "What the reservation lets the connection have in flight.",
        labels=labels,
    )
    window = GaugeMetricFamily(
        "sancredit_array_connection_congestion_window_bytes", "The kernel's, of TCP_INFO.", labels=labels
    )
    delay = GaugeMetricFamily(
        "sancredit_array_connection_round_trip_seconds", "As the kernel smooths it.", labels=labels
    )
    busy = GaugeMetricFamily(
        "sancredit_array_connection_busy_ratio",
        "Share of the last second or so in which there was something to send or to be acknowledged.",
        labels=labels,
    )
    waiting = GaugeMetricFamily(
        "sancredit_array_connection_waiting_ratio",
        "Share of the last second or so in which the connection waited for room in the reservation, or at the peer.",
        labels=(*labels, "for"),
    )
    again = CounterMetricFamily(
        "sancredit_array_connection_retransmitted_segments", "Segments sent again.", labels=labels
    )
    sent = CounterMetricFamily("sancredit_array_connection_sent_bytes", "Bytes sent.", labels=labels)
    for key, link in listed:
        if link["limited_by"]:
            for word in Limit:
                limited.add_metric((*key, word.value), link["limited_by"] == word.value)
        flight.add_metric(key, link["in_flight_bytes"])
        limit.add_metric(key, link["limit_bytes"])
        sent.add_metric(key, link["sent_bytes"])
        if link["snd_cwnd_bytes"] is not None:
            window.add_metric(key, link["snd_cwnd_bytes"])
        if link["rtt_ns"] is not None:
            delay.add_metric(key, link["rtt_ns"] / 1e9)
        if link["busy_percent"] is not None:
            busy.add_metric(key, link["busy_percent"] / 100)
            for room in ("reservation", "peer"):
                waiting.add_metric((*key, room), link[f"{room}_percent"] / 100)
            again.add_metric(key, link["retransmitted_segments"])
    yield from (limited, flight, limit, window, delay, busy, waiting, again, sent)
    yield GaugeMetricFamily(
        "sancredit_array_connections_not_listed",
        f"Connections beyond the first {CONNECTIONS_LIMIT}, which have no series of their own.",
        value=len(links) - len(listed),
    )


def _cache(rows: Rows) -> Iterator[Metric]:
    for row in rows:
        for name in ("size", "free"):
            yield GaugeMetricFamily(
                f"sancredit_array_cache_{name}_bytes",
                "Of the cache memory 102.",
                value=row[f"{name}_bytes"],
            )
