"""The tables of captures: what is in them, who did how much I/O, PDUs and frames, credits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mgmt.columns import Column, Layout, Row, at, delay, percent, rate, size

_REPLAYED = ("min", "p50", "p90", "p99", "max", "mean")
_HEADS = {"captured": "WAS", "measured": "IS", "late": "LATE"}
_WIDE = ("min", "p90", "max")
_LATENCIES = ("min", "p50", "p90", "p99", "p99_9", "max", "mean", "count")


def _errors(row: Row) -> int | None:
    """Answers that were not good."""
    names = ("check_condition", "busy", "reservation_conflict", "task_set_full", "task_aborted", "aca_active")
    values = [row.get(name) for name in (*names, "target_failures")]
    return sum(value for value in values if isinstance(value, int)) or None


def _short(value: str) -> str:
    """An iSCSI name's own part, where a table has no room for the rest."""
    name = value.partition(":")[2] if value.startswith(("iqn.", "eui.", "naa.")) and ":" in value else value
    return name if len(name) <= 14 else f"…{name[-13:]}"


def _setting(value: Mapping[str, Any]) -> str:
    """A channel in short."""
    if value.get("kind") == "tcp":
        return f"{rate(value['bandwidth_bps'])} {delay(value['rtt_ns'])} {size(value['buffer_bytes'])}"
    return f"{value['speed']} {value['distance_m']}m {value['bb_credit']} credits {value['payload_bytes']} B"


def _nanoseconds(value: float) -> str:
    return delay(round(value))


def _distribution(name: str) -> tuple[str, ...]:
    return tuple(f"{name}.{part}" for part in _LATENCIES)


CAPTURE_LAYOUTS: Mapping[str, Layout] = {
    "capture-counts": Layout(
        "What is in a capture",
        (
            Column("PROTOCOL", at("protocol")),
            Column("WHAT", at("what")),
            Column("COUNT", at("count"), numeric=True),
        ),
        ("protocol", "what", "count"),
    ),
    "capture-replay": Layout(
        "Replayed beside captured, by initiator, target and LUN",
        (
            Column("INITIATOR", at("initiator"), _short),
            Column("TARGET", at("target"), _short, wide=True),
            Column("LUN", at("lun"), numeric=True),
            Column("COMMANDS", at("commands"), numeric=True),
            *(
                Column(
                    f"{_HEADS[what]} {part.upper()}",
                    at(f"{what}_ns.{part}"),
                    delay,
                    numeric=True,
                    wide=part in _WIDE,
                )
                for what in ("captured", "measured", "late")
                for part in ("min", "p50", "p90", "p99", "max")
            ),
        ),
        (
            *("initiator", "target", "lun", "commands"),
            *(f"{what}_ns.{part}" for what in ("captured", "measured", "late") for part in _REPLAYED),
        ),
    ),
    "capture-whatif": Layout(
        "What if the channel were another",
        (
            Column("CHANNEL", at("channel")),
            Column("SETTING", at("setting"), _setting),
            Column("ECT P50", at("ect_ns.p50"), delay, numeric=True),
            Column("P99", at("ect_ns.p99"), delay, numeric=True),
            Column("MAX", at("ect_ns.max"), delay, numeric=True, wide=True),
            Column("MEASURED", at("measured_ns.p50"), delay, numeric=True),
            Column("P99", at("measured_ns.p99"), delay, numeric=True, wide=True),
            Column("ERROR", at("error.p50"), percent, numeric=True),
            Column("RATE", at("rate_bps"), rate, numeric=True, wide=True),
            Column("STALLS", at("stalls"), numeric=True),
            Column("STALLED", at("stalled_ns"), delay, numeric=True, wide=True),
        ),
        (
            *("channel", "setting.kind", "setting.bandwidth_bps", "setting.rtt_ns", "setting.buffer_bytes"),
            *("setting.speed", "setting.distance_m", "setting.bb_credit", "setting.payload_bytes"),
            *(f"ect_ns.{part}" for part in _REPLAYED),
            *(f"measured_ns.{part}" for part in _REPLAYED),
            *("error.p50", "error.p99", "error.mean", "rate_bps", "stalls", "stalled_ns"),
        ),
    ),
    "capture-simulate": Layout(
        "Captured commands in a simulated fabric",
        (
            Column("INITIATOR", at("initiator"), _short),
            Column("TARGET", at("target"), _short),
            Column("KIND", at("kind")),
            Column("COMMANDS", at("commands"), numeric=True),
            Column("UNANSWERED", at("unanswered"), numeric=True, wide=True),
            Column("MEASURED", at("measured_ns.p50"), delay, numeric=True),
            Column("P99", at("measured_ns.p99"), delay, numeric=True, wide=True),
            Column("MAX", at("measured_ns.max"), delay, numeric=True, wide=True),
            Column("PREDICTED P50", at("predicted_ns.p50"), delay, numeric=True),
            Column("P99", at("predicted_ns.p99"), delay, numeric=True),
            Column("MAX", at("predicted_ns.max"), delay, numeric=True, wide=True),
        ),
        (
            *("initiator", "target", "kind", "commands", "unanswered"),
            *(f"measured_ns.{part}" for part in _REPLAYED),
            *(f"predicted_ns.{part}" for part in _REPLAYED),
        ),
    ),
    "capture-flows": Layout(
        "I/O by initiator, target and LUN",
        (
            Column("INITIATOR", at("initiator"), _short),
            Column("TARGET", at("target"), _short),
            Column("LUN", at("lun"), numeric=True),
            Column("CMDS", at("commands"), numeric=True),
            Column("READS", at("reads"), numeric=True, wide=True),
            Column("WRITES", at("writes"), numeric=True, wide=True),
            Column("IOPS", at("iops"), lambda value: f"{value:.0f}", numeric=True, wide=True),
            Column("RATE", at("throughput_bps"), rate, numeric=True, wide=True),
            Column("ECT MIN", at("ect_ns.min"), delay, numeric=True, wide=True),
            Column("P50", at("ect_ns.p50"), delay, numeric=True),
            Column("P90", at("ect_ns.p90"), delay, numeric=True, wide=True),
            Column("P99", at("ect_ns.p99"), delay, numeric=True),
            Column("P99.9", at("ect_ns.p99_9"), delay, numeric=True, wide=True),
            Column("MAX", at("ect_ns.max"), delay, numeric=True),
            Column("DAL P99", at("dal_ns.p99"), delay, numeric=True, wide=True),
            Column("HRL P99", at("hrl_ns.p99"), delay, numeric=True, wide=True),
            Column("QD", at("outstanding_max"), numeric=True),
            Column("UNANSWERED", at("unanswered"), lambda n: str(n) if n else "-", numeric=True, wide=True),
            Column("ERR", _errors, numeric=True),
        ),
        (
            *(
                "protocol",
                "initiator",
                "target",
                "lun",
                "commands",
                "reads",
                "writes",
                "others",
                "unanswered",
            ),
            *("aborted", "read_bytes", "written_bytes", "first_ns", "duration_ns", "iops", "throughput_bps"),
            *_distribution("ect_ns"),
            *_distribution("dal_ns"),
            *_distribution("hrl_ns"),
            *_distribution("read_ect_ns"),
            *_distribution("write_ect_ns"),
            *("outstanding_max", "outstanding_mean", "busy_ns", "ready_to_transfers", "unsolicited_bytes"),
            *("read_size_bytes.mean", "write_size_bytes.mean", "underflows", "overflows", "check_condition"),
            *("condition_met", "busy", "reservation_conflict", "task_set_full", "aca_active", "task_aborted"),
            *("target_failures", "task_management"),
        ),
    ),
    "capture-lines": Layout(
        "PDUs and frames",
        (
            Column("NO", at("number"), numeric=True),
            Column("PACKET", at("packet"), numeric=True),
            Column("WHAT", at("text"), sentence=True),
        ),
        (
            *("number", "packet", "time_ns", "relative_ns", "source", "destination", "length_bytes", "kind"),
            *("flow", "offset", "text"),
        ),
    ),
    "capture-fields": Layout(
        "One PDU or frame in full",
        (Column("FIELD", at("field")), Column("VALUE", at("value"), sentence=True)),
        ("field", "value"),
    ),
    "capture-violations": Layout(
        "Rules that were broken",
        (
            Column("FLOW", at("flow"), wide=True),
            Column("TIMES", at("count"), numeric=True),
            Column("PACKET", at("packet"), numeric=True),
            Column("CLAUSE", at("clause")),
            Column("WHAT", at("text"), sentence=True),
        ),
        ("flow", "rule", "count", "packet", "clause", "text"),
    ),
    "capture-intervals": Layout(
        "I/O over time",
        (
            Column("AT", at("at_ns"), _nanoseconds, numeric=True),
            Column("COMMANDS", at("commands"), numeric=True),
            Column("IOPS", at("iops"), lambda value: f"{value:.0f}", numeric=True),
            Column("RATE", at("throughput_bps"), rate, numeric=True),
            Column("ECT MEAN", at("ect_mean_ns"), _nanoseconds, numeric=True),
            Column("ECT P99", at("ect_p99_ns"), _nanoseconds, numeric=True),
            Column("ECT MAX", at("ect_max_ns"), _nanoseconds, numeric=True),
            Column("OUTSTANDING", at("outstanding_max"), numeric=True),
        ),
        (
            *("initiator", "target", "lun", "at_ns", "commands", "reads", "writes", "iops", "throughput_bps"),
            *("ect_mean_ns", "ect_p99_ns", "ect_max_ns", "outstanding_max"),
        ),
    ),
    "capture-fc-credits": Layout(
        "Credits of captured links",
        (
            Column("PORT", at("port")),
            Column("PEER", at("peer"), optional=True),
            Column("FRAMES", at("frames"), numeric=True),
            Column("AVG FRAME", at("frame_bytes_mean"), size, numeric=True, wide=True),
            Column("LOGIN", at("login_credit"), numeric=True),
            Column("IN USE", at("outstanding_max"), numeric=True),
            Column("MEAN", at("outstanding_mean"), numeric=True, wide=True),
            Column("INFERRED", at("inferred_credit"), numeric=True),
            Column("BURSTS", at("supporting_bursts"), numeric=True, wide=True),
            Column("AT ZERO", at("zero_share"), percent, numeric=True),
            Column("NEEDED", at("recommended_credits"), numeric=True),
            Column("BASIS", at("exact"), lambda exact: "counted" if exact else "bound"),
        ),
        (
            *(
                "port",
                "peer",
                "frames",
                "frame_bytes_mean",
                "login_credit",
                "outstanding_max",
                "outstanding_mean",
            ),
            *(
                "inferred_credit",
                "supporting_bursts",
                "zero_ns",
                "zero_share",
                "recommended_credits",
                "basis",
            ),
        ),
    ),
    "capture-tcp-credits": Layout(
        "Bytes in flight of captured connections",
        (
            Column("FLOW", at("flow")),
            Column("SENT", at("payload_bytes"), size, numeric=True, wide=True),
            Column("IN FLIGHT", at("in_flight_max_bytes"), size, numeric=True),
            Column("WINDOW", at("window_max_bytes"), size, numeric=True, wide=True),
            Column("AT LIMIT", at("window_limited_share"), percent, numeric=True, wide=True),
            Column("RTT", at("rtt_ns"), delay, numeric=True),
            Column("RATE", at("rate_bps"), rate, numeric=True, wide=True),
            Column("NEEDED", at("recommended_bytes"), size, numeric=True),
        ),
        (
            *("flow", "payload_bytes", "in_flight_max_bytes", "window_max_bytes", "window_limited_ns"),
            *("window_limited_share", "rtt_ns", "rate_bps", "recommended_bytes"),
        ),
    ),
}
