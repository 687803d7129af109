"""A Fibre Channel port of an array as a row of ``get ports``, with the names that simulated ports have too."""

from __future__ import annotations

from typing import Any

from credits.results import PoolStatistics
from fcsim.live.live_end import Traffic
from fcsim.port.group import LinkCredits
from fcsim.port.port import PortStatistics
from fcsim.speeds import credits_needed, parse_speed
from mgmt.array.description import FcInterface

_NO_TRAFFIC: dict[str, Any] = {
    "tx_frames": 0,
    "rx_frames": 0,
    "tx_payload_bytes": 0,
    "rx_payload_bytes": 0,
    "discards": 0,
    "link_resets": 0,
    "lost_credits": 0,
    "recovered_credits": 0,
    "corrupted_frames": 0,
    "credit_zero_transitions": 0,
    "rx_credit_zero_transitions": 0,
    "credit_zero_time_ps": 0,
    "tx_wait_2500ns_ticks": 0,
    "tx_wait_share_1s": 0.0,
    "tx_wait_share_1m": 0.0,
    "tx_wait_share_1h": 0.0,
    "tx_wait_share_72h": 0.0,
    "bb_credit": 0,
    "rx_bb_credit": 0,
    "tx_remaining_credits": 0,
    "rx_remaining_credits": 0,
}


def port_row(
    config: FcInterface,
    peer: str | None,
    listening: str,
    granted: LinkCredits | None,
    counters: tuple[PortStatistics, Traffic] | None,
    pool: PoolStatistics,
) -> dict[str, Any]:
    """``granted`` is what the login of the other end was given; ``counters`` those of the link that is up.

    Averages that a live port does not keep are ``None``. ``bb_credit`` is the transmit side's, ``rx_bb_credit`` what
    this port grants.
    """
    row: dict[str, Any] = {
        "address": config.address,
        "interface": config.name,
        "kind": "fc",
        "link": listening,
        "name": config.name,
        "wwpn": config.address,
        "peer": peer,
        "peer_wwpn": peer,
        "type": "N",
        "mode": "point-to-point",
        "state": "up" if counters is not None else "waiting" if listening else "down",
        "speed": config.speed,
        "distance_m": config.distance_m,
        "needed_credits": credits_needed(parse_speed(config.speed), config.distance_m).credits,
        "pool_left_credits": pool.free_units,
        "in_use_average_credits": None,
        "average_frame_bytes": None,
        "rx_in_use_average_credits": None,
        "rx_average_frame_bytes": None,
    } | _NO_TRAFFIC
    if granted is not None:
        row |= {
            "rx_bb_credit": granted.bb_credit,
            "unreserved_credits": granted.unreserved,
            "reserved_credits": sum(granted.shares.values()),
            "relogin_required": granted.relogin_required,
        }
    if counters is not None:
        row |= _counted(*counters)
    return row


def _counted(port: PortStatistics, traffic: Traffic) -> dict[str, Any]:
    row: dict[str, Any] = {
        "tx_frames": port.frames_sent,
        "rx_frames": port.frames_received,
        "tx_payload_bytes": traffic.payload_bytes_sent,
        "rx_payload_bytes": traffic.payload_bytes_received,
        "discards": port.discards,
        "link_resets": port.link_resets,
        "lost_credits": port.credit_losses,
        "recovered_credits": port.r_rdys_recovered,
    }
    if port.channels:
        channel = port.channels[0]
        shares = channel.tx_wait_shares
        row |= {
            "bb_credit": channel.transmit_bb_credit,
            "rx_bb_credit": channel.receive_bb_credit,
            "tx_remaining_credits": channel.transmit_remaining,
            "rx_remaining_credits": channel.receive_remaining,
            "credit_zero_transitions": channel.zero_transitions,
            "credit_zero_time_ps": channel.zero_ps,
            "tx_wait_2500ns_ticks": channel.tx_wait_ticks,
            "tx_wait_share_1s": shares.last_1s,
            "tx_wait_share_1m": shares.last_1m,
            "tx_wait_share_1h": shares.last_1h,
            "tx_wait_share_72h": shares.last_72h,
        }
    return row
