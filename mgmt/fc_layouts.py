"""The tables of Fibre Channel: credits of a link, and what a simulated fabric shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from credits.quantities import format_distance
from mgmt.columns import Column, Layout, Row, at, megabytes, percent, picoseconds, size


def _tx_rx(tx: str, rx: str) -> Callable[[Row], str]:
    """Two values of a port as ``12/40``; ``-`` for one that is not there."""

    def value(row: Row) -> str:
        return "/".join("-" if row.get(name) is None else str(row[name]) for name in (tx, rx))

    return value


def _channel_credits(row: Row) -> str | None:
    """Credits of the virtual channels in use: ``2:5 3:5``."""
    channels = row.get("virtual_channels")
    if not isinstance(channels, Mapping) or not channels:
        return None
    return " ".join(f"{number}:{credits}" for number, credits in channels.items())


def _microseconds(value_ps: int) -> str:
    """To the nanosecond, whatever the size: values below each other are to be compared."""
    return f"{value_ps / 1_000_000:.3f}us"


def _whole_percent(value: float) -> str:
    return f"{value:.0%}"


def _bytes_per_second(row: Row) -> int | None:
    bits = row.get("throughput_bps")
    return bits // 8 if isinstance(bits, int) else None


FC_LAYOUTS: Mapping[str, Layout] = {
    "fc-credits": Layout(
        "Credits of a Fibre Channel link",
        (
            Column("RULE", at("rule")),
            Column("CREDITS", at("credits"), numeric=True),
            Column("PAYLOAD/S", at("payload_bytes_per_second"), megabytes, numeric=True),
            Column("OF LINE", at("share"), percent, numeric=True),
            Column("MEANING", at("meaning"), sentence=True),
        ),
        ("rule", "credits", "payload_bytes_per_second", "share", "meaning"),
    ),
    "fc-load": Layout(
        "Blocks moved over Fibre Channel",
        (
            Column("DIRECTION", at("direction")),
            Column("BYTES", at("payload_bytes"), size, numeric=True),
            Column("COMMANDS", at("commands"), numeric=True),
            Column("TIME", at("time_ps"), picoseconds, numeric=True),
            Column("PAYLOAD/S", at("payload_bytes_per_second"), megabytes, numeric=True),
            Column("OF LINE", at("share"), percent, numeric=True, optional=True),
        ),
        ("direction", "payload_bytes", "commands", "time_ps", "payload_bytes_per_second", "share"),
    ),
    "fc-echo": Layout(
        "Round trips of a Fibre Channel link",
        (
            Column("ECHO", at("echo"), numeric=True),
            Column("ROUND TRIP", at("round_trip_ps"), _microseconds, numeric=True),
            Column("WAITED", at("waited_ps"), _microseconds, numeric=True),
        ),
        ("echo", "round_trip_ps", "waited_ps"),
    ),
    "fc-ports": Layout(
        "Simulated Fibre Channel ports",
        (
            Column("PORT", at("name")),
            Column("PEER", at("peer")),
            Column("LINK", at("link"), wide=True),
            Column("WWPN", at("wwpn"), wide=True),
            Column("PEER WWPN", at("peer_wwpn"), wide=True),
            Column("FC_ID", at("fc_id"), wide=True),
            Column("TYPE", at("type"), wide=True),
            Column("MODE", at("mode"), wide=True),
            Column("SPEED", at("speed")),
            Column("VC", _channel_credits, wide=True, optional=True),
            Column("CREDITS", at("bb_credit"), numeric=True),
            Column("RX CREDITS", at("rx_bb_credit"), numeric=True, wide=True),
            Column(
                "REMAINING", _tx_rx("tx_remaining_credits", "rx_remaining_credits"), numeric=True, wide=True
            ),
            Column("PEAK", at("in_use_peak_credits"), numeric=True),
            Column("AVERAGE", at("in_use_average_credits"), numeric=True, wide=True),
            Column("FRAME", _tx_rx("average_frame_bytes", "rx_average_frame_bytes"), numeric=True, wide=True),
            Column("DISTANCE", at("distance_m"), format_distance, numeric=True, wide=True),
            Column("RTT", at("rtt_ps"), picoseconds, numeric=True, wide=True),
            Column("NEEDED", at("needed_credits"), numeric=True),
            Column("NEEDED FULL", at("needed_full_frame_credits"), numeric=True, wide=True),
            Column("POOL LEFT", at("pool_left_credits"), numeric=True, wide=True, optional=True),
            Column(
                "->0 TX/RX",
                _tx_rx("credit_zero_transitions", "rx_credit_zero_transitions"),
                numeric=True,
                wide=True,
            ),
            Column("ZERO TIME", at("credit_zero_time_ps"), picoseconds, numeric=True, wide=True),
            Column("ZERO", at("credit_zero_share"), percent, numeric=True, wide=True),
            Column("WAIT", at("tx_wait_share"), _whole_percent, numeric=True),
            Column("LOAD", at("load"), _whole_percent, numeric=True),
            Column("TX", at("tx_frames"), numeric=True, wide=True),
            Column("RX", at("rx_frames"), numeric=True, wide=True),
            Column("QUEUED", at("queued_frames"), numeric=True, wide=True),
            Column("LR", at("link_resets"), numeric=True, wide=True),
            Column("BB_SC_N", at("bb_sc_n"), numeric=True, wide=True),
            Column("LOST", at("lost_credits"), numeric=True, wide=True),
            Column("RECOVERED", at("recovered_credits"), numeric=True, wide=True),
            Column("CRC", at("corrupted_frames"), numeric=True, wide=True),
            Column("DROPS C3", at("discards"), numeric=True, wide=True),
            Column("VERDICT", at("verdict")),
        ),
        (
            "name",
            "peer",
            "wwpn",
            "peer_wwpn",
            "fc_id",
            "type",
            "mode",
            "link",
            "speed",
            "members",
            "bb_credit",
            "rx_bb_credit",
            "tx_remaining_credits",
            "rx_remaining_credits",
            "in_use_peak_credits",
            "in_use_average_credits",
            "average_frame_bytes",
            "rx_average_frame_bytes",
            "distance_m",
            "rtt_ps",
            "needed_credits",
            "needed_full_frame_credits",
            "pool_left_credits",
            "credit_zero_transitions",
            "rx_credit_zero_transitions",
            "credit_zero_time_ps",
            "credit_zero_share",
            "tx_wait_ps",
            "tx_wait_2500ns_ticks",
            "tx_wait_share",
            "tx_wait_share_1s",
            "tx_wait_share_1m",
            "tx_wait_share_1h",
            "tx_wait_share_72h",
            "load",
            "throughput_bps",
            "tx_frames",
            "tx_payload_bytes",
            "rx_frames",
            "queued_frames",
            "bb_sc_n",
            "lost_credits",
            "lost_frames",
            "corrupted_frames",
            "lost_r_rdys",
            "recovered_credits",
            "link_resets",
            "discards",
            "verdict",
            "missing_credits",
            "why",
        ),
    ),
    "fc-flows": Layout(
        "Simulated flows",
        (
            Column("FLOW", at("name")),
            Column("FROM", at("from")),
            Column("TO", at("to")),
            Column("VC", at("virtual_channel"), numeric=True, optional=True),
            Column("FRAMES", at("delivered_frames"), numeric=True),
            Column("SENT", at("sent_frames"), numeric=True, wide=True),
            Column("PAYLOAD/S", _bytes_per_second, megabytes, numeric=True),
            Column("LATENCY", at("latency_mean_ps"), picoseconds, numeric=True),
            Column("WORST", at("latency_max_ps"), picoseconds, numeric=True),
        ),
        (
            "name",
            "from",
            "to",
            "virtual_channel",
            "sent_frames",
            "delivered_frames",
            "payload_bytes",
            "throughput_bps",
            "latency_mean_ps",
            "latency_max_ps",
        ),
    ),
    "fc-scsi": Layout(
        "SCSI in the simulated fabric",
        (
            Column("LOAD", at("name")),
            Column("FROM", at("from")),
            Column("TO", at("to")),
            Column("COMMANDS", at("commands"), numeric=True),
            Column("READS", at("reads"), numeric=True, wide=True),
            Column("WRITES", at("writes"), numeric=True, wide=True),
            Column("PER S", at("commands_per_second"), numeric=True),
            Column("DATA/S", _bytes_per_second, megabytes, numeric=True),
            Column("LATENCY", at("latency_mean_ps"), picoseconds, numeric=True),
            Column("WORST", at("latency_max_ps"), picoseconds, numeric=True, wide=True),
            Column("FAILED", at("failed_commands"), numeric=True),
            Column("WRONG", at("mismatches"), numeric=True, wide=True),
        ),
        (
            "name",
            "from",
            "to",
            "commands",
            "reads",
            "writes",
            "read_bytes",
            "written_bytes",
            "failed_commands",
            "mismatches",
            "commands_per_second",
            "throughput_bps",
            "latency_mean_ps",
            "latency_max_ps",
        ),
    ),
    "fc-findings": Layout(
        "What is wrong where",
        (
            Column("PORT", at("name")),
            Column("VERDICT", at("verdict")),
            Column("WHY", at("why"), sentence=True),
        ),
        ("name", "verdict", "missing_credits", "why"),
    ),
    "fc-sweep": Layout(
        "A swept scenario",
        (
            Column("VALUES", at("values")),
            Column("PAYLOAD/S", _bytes_per_second, megabytes, numeric=True),
            Column("WORST LATENCY", at("latency_max_ps"), picoseconds, numeric=True, wide=True),
            Column("WAIT", at("tx_wait_share_max"), _whole_percent, numeric=True),
            Column("SHORT", at("missing_credits"), numeric=True),
            Column("LOST", at("lost_credits"), numeric=True, wide=True),
            Column("LR", at("link_resets"), numeric=True, wide=True),
            Column("DROPS", at("discards"), numeric=True, wide=True),
            Column("PORT", at("worst_port")),
            Column("VERDICT", at("verdict")),
        ),
        (
            "values",
            "frames",
            "throughput_bps",
            "latency_max_ps",
            "credit_zero_transitions",
            "tx_wait_share_max",
            "missing_credits",
            "lost_credits",
            "recovered_credits",
            "link_resets",
            "discards",
            "worst_port",
            "verdict",
        ),
    ),
}
