# SPDX-License-Identifier: Apache-2.0
"""A live link's end as an operator reads it: the same row as a simulated port's (:mod:`fcsim.fabric.results`), so that
the same tables and the look-alikes of switches show it. What a live port does not count is None.
"""

from __future__ import annotations

from typing import Any

from credits.sizing import ceil_div
from fcsim.live.live_end import LiveEnd
from fcsim.port.congestion import Interval, judge
from fcsim.speeds import (
    FRAME_OVERHEAD_BYTES,
    IDLE_BYTES,
    MAX_PAYLOAD_BYTES,
    PROPAGATION_PS_PER_METRE,
    PS_PER_SECOND,
    credits_needed,
)

__all__ = ["port_row"]


def port_row(end: LiveEnd, peer: str = "") -> dict[str, Any]:
    """The row of one end, as it is at the end's own time. ``peer`` names the other end."""
    config, traffic, statistics = end.config, end.traffic, end.statistics()
    (channel,) = statistics.channels
    speed, elapsed_ps = config.speed, max(1, end.now_ps)
    sent, received = statistics.frames_sent, statistics.frames_received
    payload = traffic.payload_bytes_sent // sent if sent else MAX_PAYLOAD_BYTES
    busy = (traffic.payload_bytes_sent + sent * (FRAME_OVERHEAD_BYTES + IDLE_BYTES)) * PS_PER_SECOND
    load = min(1.0, busy / (speed.bytes_per_second * elapsed_ps))
    needed = max(1, credits_needed(speed, config.distance_m, payload).credits)
    recovered = statistics.frames_recovered + statistics.r_rdys_recovered
    wait = channel.tx_wait_ps / elapsed_ps
    finding = judge(Interval(load, wait, channel.transmit_bb_credit, needed if sent else None, recovered))
    return {
        "name": config.name,
        "peer": peer or None,
        "wwpn": config.n_port.port_name.to_bytes(8, "big").hex(":"),
        "peer_wwpn": None,
        "fc_id": f"{end.n_port.n_port_id:06x}",
        "type": "N",
        "mode": "R_RDY",
        "link": None,
        "speed": speed.name,
        "members": 1,
        "virtual_channels": {},
        "bb_credit": channel.transmit_bb_credit,
        "rx_bb_credit": channel.receive_bb_credit,
        "tx_remaining_credits": channel.transmit_remaining,
        "rx_remaining_credits": channel.receive_remaining,
        "in_use_peak_credits": None,
        "in_use_average_credits": None,
        "rx_in_use_average_credits": None,
        "average_frame_bytes": payload + FRAME_OVERHEAD_BYTES if sent else None,
        "rx_average_frame_bytes": ceil_div(traffic.payload_bytes_received, received) + FRAME_OVERHEAD_BYTES
        if received
        else None,
        "distance_m": config.distance_m,
        "rtt_ps": 2 * config.distance_m * PROPAGATION_PS_PER_METRE,
        "needed_credits": needed,
        "needed_full_frame_credits": max(1, credits_needed(speed, config.distance_m).credits),
        "pool_left_credits": None,
        "credit_zero_transitions": channel.zero_transitions,
        "rx_credit_zero_transitions": None,
        "credit_zero_time_ps": channel.zero_ps,
        "credit_zero_share": channel.zero_ps / elapsed_ps,
        "tx_wait_ps": channel.tx_wait_ps,
        "tx_wait_2500ns_ticks": channel.tx_wait_ticks,
        "tx_wait_share": wait,
        "tx_wait_share_1s": channel.tx_wait_shares.last_1s,
        "tx_wait_share_1m": channel.tx_wait_shares.last_1m,
        "tx_wait_share_1h": channel.tx_wait_shares.last_1h,
        "tx_wait_share_72h": channel.tx_wait_shares.last_72h,
        "load": load,
        "tx_frames": sent,
        "tx_payload_bytes": traffic.payload_bytes_sent,
        "throughput_bps": traffic.payload_bytes_sent * 8 * PS_PER_SECOND // elapsed_ps,
        "rx_frames": received,
        "queued_frames": channel.waiting_frames,
        "bb_sc_n": end.granted.bb_sc_n,
        "lost_credits": recovered,
        "lost_frames": None,
        "corrupted_frames": traffic.bad_crcs,
        "lost_r_rdys": None,
        "recovered_credits": recovered,
        "link_resets": statistics.link_resets,
        "discards": statistics.discards,
        "verdict": finding.verdict.value,
        "missing_credits": finding.missing_credits,
        "why": finding.text,
    }
