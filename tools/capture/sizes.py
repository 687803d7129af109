"""What the sizing policies work from, out of a capture: ``recommend --capture``, ``reserve --size capture:FILE``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from credits.sizing import FRAME_AND_IDLE_BYTES, FULL_PAYLOAD_BYTES, Inputs, ceil_div
from tools.capture.analysis import analyse
from tools.capture.fc_credits import CreditWatch
from tools.capture.rows import Part
from tools.capture.scan import CaptureError
from tools.capture.scan_kernel import Scanner
from tools.capture.sessions import initiator_side
from tools.capture.tcp_credits import needed_rate, rate_of, rtt_of

_ISCSI = 1
DEFAULT_UNIT_BYTES = 16 * 1024


__all__ = ["CaptureError", "NothingMeasured", "measured_inputs"]


class NothingMeasured(ValueError):
    """A capture does not show what a size is computed from; the text says what is missing."""


def measured_inputs(
    paths: Sequence[Path | str], unit_bytes: int | None = None
) -> tuple[Inputs, dict[str, Any]]:
    """Inputs out of captures, and each measured term with its meaning.

    iSCSI: the busiest direction's bandwidth over all its connections, the longest round trip, sessions and connections;
    connections of discovery sessions are left out.
    Fibre Channel with primitives: the credit loop as round trip, the line's rate, the average frame.

    Raises :class:`NothingMeasured`, and :class:`~tools.capture.scan.CaptureError` for what is no capture.
    """
    watch: list[CreditWatch] = []

    def prepare(scanner: Scanner) -> Callable[[Part], None]:
        watch.append(CreditWatch(scanner.names))
        return watch[0]

    with analyse(paths, watch=prepare) as analysis:
        if any(pair[0].protocol == _ISCSI for pair in analysis.scanner.flows):
            return _of_iscsi(analysis, unit_bytes or DEFAULT_UNIT_BYTES)
        if not analysis.scanner.frames:
            raise NothingMeasured("the capture has neither iSCSI nor Fibre Channel")
        return _of_fibre(watch[0], unit_bytes)


def _of_iscsi(analysis: Any, unit_bytes: int) -> tuple[Inputs, dict[str, Any]]:
    logins = analysis.sessions.logins
    pairs = [
        pair
        for number, pair in enumerate(analysis.scanner.flows)
        if pair[0].protocol == _ISCSI
        and not (number in logins and logins[number].value("SessionType") == "Discovery")
    ]
    out = [initiator_side(pair) for pair in pairs]
    sums = []
    for sides in (out, [side.peer for side in out]):
        sums.append((sum(needed_rate(side) or 0 for side in sides), sides))
    bandwidth, busiest = max(sums, key=lambda one: one[0])
    round_trips = [rtt for rtt, _ in (rtt_of(side) for side in busiest) if rtt is not None]
    if not bandwidth or not round_trips:
        raise NothingMeasured("no connection shows both a rate and a round trip")
    sessions = {
        (login.value("InitiatorName"), login.isid, login.value("TargetName"))
        for login in logins.values()
        if login.status == 0 and login.value("SessionType") != "Discovery"
    }
    count = max(1, len(sessions)) if sessions else len(pairs)
    connections = max(1, ceil_div(len(pairs), count))
    # The document multiplies one connection's bandwidth-delay product by sessions and connections (paragraph 45).
    each = ceil_div(bandwidth, count * connections)
    rtt = max(round_trips)
    inputs = Inputs(
        unit_bytes=unit_bytes, bandwidth_bps=each, rtt_ns=rtt, sessions=count, connections=connections
    )
    terms = {
        "bandwidth_bps": (
            each,
            "bandwidth of one connection: what the busier direction needed, over all connections",
        ),
        "needed_bps": (
            bandwidth,
            "of each connection its payload over its time, or the most it had in flight in a round trip",
        ),
        "average_bps": (
            sum(rate_of(side) or 0 for side in busiest),
            "payload of the busier direction over the time that it was there",
        ),
        "rtt_ns": (rtt, "the longest round trip of a connection"),
        "sessions": (count, "sessions in the capture"),
        "connections": (connections, "connections for each of them"),
        "in_flight_max_bytes": (
            sum(side.max_in_flight for side in busiest),
            "the most each connection had sent and not acknowledged, together",
        ),
    }
    return inputs, terms


def _of_fibre(watch: CreditWatch, unit_bytes: int | None) -> tuple[Inputs, dict[str, Any]]:
    rows = [row for row in watch.rows() if row.get("recommended_credits")]
    if not rows:
        missing = {str(row["missing"]) for row in watch.rows() if row.get("missing")}
        raise NothingMeasured(
            "the capture does not show a credit loop: " + ("; ".join(sorted(missing)) or "no frames")
        )
    row = max(rows, key=lambda one: one["recommended_credits"])
    terms = row["terms"]
    frame = terms["frame_bytes"]["value"]
    loop, rate = terms["loop_ns"]["value"], terms["bytes_per_second"]["value"]
    inputs = Inputs(
        unit_bytes=unit_bytes or frame,
        bandwidth_bps=rate * 8,
        rtt_ns=loop,
        bytes_per_second=rate,
        payload_bytes=max(0, min(FULL_PAYLOAD_BYTES, frame - FRAME_AND_IDLE_BYTES)),
    )
    return inputs, {name: (one["value"], one["meaning"]) for name, one in terms.items()} | {
        "port": (row["port"], "the port whose frames these are")
    }
