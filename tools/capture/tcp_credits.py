"""Bytes in flight of captured iSCSI connections against their windows, and what a reservation for them must hold."""

from __future__ import annotations

from typing import Any

from credits.sizing import BITS_TIMES_NS, bandwidth_delay_bytes, ceil_div
from tools.capture.analysis import Analysis
from tools.capture.sessions import endpoint
from tools.capture.stream_kernel import Direction

_NS_PER_S = 1_000_000_000
_ISCSI = 1


def rtt_of(side: Direction) -> tuple[int | None, str]:
    """The round trip of a connection and how it is known: from its handshake, wherever the capture was taken; else the
    shortest time to an acknowledgement, which is the whole round trip at the sender only."""
    if side.handshake_ns > 0:
        return int(side.handshake_ns), "SYN to the first ACK: the whole round trip, wherever it was captured"
    if side.rtt_min_ns > 0:
        return int(
            side.rtt_min_ns
        ), "shortest time from data to its acknowledgement: whole at the sender only"
    return None, "neither a handshake nor an acknowledgement of new data was captured"


def rate_of(side: Direction) -> int | None:
    """Bits per second of a direction over the time that it was there."""
    duration = side.last_ns - side.first_ns
    return int(side.payload * 8 * _NS_PER_S // duration) if duration > 0 else None


def needed_rate(side: Direction) -> int | None:
    """The rate that a direction needs room for: its average, or that of the round trip with the most in flight, where
    that was more: a host that sends in bursts waits else."""
    rate = rate_of(side)
    rtt, _ = rtt_of(side)
    if rate is None or rtt is None:
        return rate
    return max(rate, ceil_div(side.max_in_flight * BITS_TIMES_NS, rtt))


def tcp_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """One row for each direction of an iSCSI connection that carried data."""
    rows = []
    for pair in analysis.scanner.flows:
        if pair[0].protocol != _ISCSI:
            continue
        for side in pair:
            if side.payload:
                rows.append(_row(side))
    return rows


def _row(side: Direction) -> dict[str, Any]:
    rtt, how = rtt_of(side)
    rate = rate_of(side)
    duration = max(0, side.last_ns - side.first_ns)
    needed = needed_rate(side)
    recommended = bandwidth_delay_bytes(needed, rtt) if needed is not None and rtt is not None else None
    return {
        "flow": f"{endpoint(side)} > {endpoint(side.peer)}",
        "payload_bytes": side.payload,
        "retransmitted_bytes": side.retransmitted,
        "in_flight_max_bytes": side.max_in_flight,
        "in_flight_max_at_ns": side.max_in_flight_ns or None,
        "window_max_bytes": side.window_max or None,
        "window_scale_known": side.window_scale >= 0 and side.peer.window_scale >= 0,
        "window_limited_ns": side.window_full_ns,
        "window_limited_share": side.window_full_ns / duration if duration else None,
        "zero_windows": side.zero_windows,
        "rtt_ns": rtt,
        "rtt_samples": side.rtt_count,
        "rtt_mean_ns": side.rtt_sum_ns // side.rtt_count if side.rtt_count else None,
        "rate_bps": rate,
        "recommended_bytes": recommended,
        "missing": None if rtt is not None else f"a round trip: {how}",
        "terms": {
            "rtt_ns": {"value": rtt, "meaning": how},
            "rate_bps": {
                "value": rate,
                "meaning": "payload of this direction over the time that it was there",
            },
            "in_flight_max_bytes": {
                "value": side.max_in_flight,
                "meaning": "the most that was sent and not yet acknowledged",
            },
            "needed_bps": {
                "value": needed,
                "meaning": "the rate, or that of the round trip with the most in flight",
            },
            "recommended_bytes": {"value": recommended, "meaning": "needed rate × round trip, rounded up"},
        },
    }
