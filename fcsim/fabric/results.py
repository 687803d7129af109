# SPDX-License-Identifier: Apache-2.0
"""A run as an operator reads it: a row for each port (the superset of what switches print), one for each flow, and
what is wrong where. Values are base units with the unit in the name, ready for JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from credits.sizing import ceil_div
from fcsim.clock import TICKS_PER_SECOND, ps_of_ticks
from fcsim.fabric.plan import Direction, Plan
from fcsim.fabric.simulation import DirectionCounters, Outcome
from fcsim.port.congestion import Finding, Interval, Verdict, judge
from fcsim.port.waiting import TICK_PS, WaitHistory, WaitShares
from fcsim.speeds import (
    FRAME_OVERHEAD_BYTES,
    IDLE_BYTES,
    MAX_PAYLOAD_BYTES,
    PROPAGATION_PS_PER_METRE,
    PS_PER_SECOND,
)

Row = dict[str, Any]
AROUND_BYTES = FRAME_OVERHEAD_BYTES + IDLE_BYTES


def report(outcome: Outcome) -> Row:
    """Everything: ``{frames, throughput_bps, ports: […], flows: […], …}``."""
    flows = flow_rows(outcome)
    scsi = scsi_rows(outcome)
    scenario = outcome.plan.scenario
    return {
        "scenario": scenario.name,
        "seed": outcome.seed,
        "duration_ps": ps_of_ticks(outcome.end_ticks),
        "events": outcome.events,
        "frames": sum(flow["delivered_frames"] for flow in flows) + outcome.scsi_frames.delivered,
        "payload_bytes": sum(flow["payload_bytes"] for flow in flows) + outcome.scsi_frames.bytes,
        "throughput_bps": sum(row["throughput_bps"] for row in (*flows, *scsi)),
        "virtual_channels": list(outcome.plan.channels) if len(outcome.plan.channels) > 1 else [],
        "ports": port_rows(outcome),
        "flows": flows,
        "scsi": scsi,
    }


def flow_rows(outcome: Outcome) -> list[Row]:
    """Each flow: frames, payload rate over the time it had, latency from when a frame was due until it was drained."""
    rows = []
    plan = outcome.plan
    for flow, counted, place in zip(plan.scenario.flows, outcome.flows, plan.channel_of, strict=True):
        ran_ps = ps_of_ticks(outcome.end_ticks) - flow.start_ns * 1000
        mean = counted.latency_ticks // counted.delivered if counted.delivered else None
        rows.append(
            {
                "name": flow.name,
                "from": flow.source,
                "to": flow.to or "any",
                "virtual_channel": plan.channels[place] if len(plan.channels) > 1 else None,
                "sent_frames": counted.sent,
                "delivered_frames": counted.delivered,
                "payload_bytes": counted.bytes,
                "throughput_bps": counted.bytes * 8 * PS_PER_SECOND // ran_ps if ran_ps > 0 else 0,
                "latency_mean_ps": None if mean is None else ps_of_ticks(mean),
                "latency_max_ps": ps_of_ticks(counted.worst_ticks) if counted.delivered else None,
            }
        )
    return rows


def scsi_rows(outcome: Outcome) -> list[Row]:
    """Each load: commands, bytes, latency from FCP_CMND to FCP_RSP, and whether what was read is what was written."""
    rows = []
    for load, counted in zip(outcome.plan.scenario.scsi, outcome.scsi, strict=True):
        ran_ps = ps_of_ticks(counted.last_ticks - (counted.first_ticks or 0)) if counted.commands else 0
        moved = counted.read_bytes + counted.written_bytes
        mean = counted.latency_ticks // counted.commands if counted.commands else None
        rows.append(
            {
                "name": load.name,
                "from": load.source,
                "to": load.to,
                "commands": counted.commands,
                "reads": counted.reads,
                "writes": counted.writes,
                "read_bytes": counted.read_bytes,
                "written_bytes": counted.written_bytes,
                "failed_commands": counted.failed,
                "mismatches": counted.mismatches,
                "commands_per_second": counted.commands * PS_PER_SECOND // ran_ps if ran_ps else 0,
                "throughput_bps": moved * 8 * PS_PER_SECOND // ran_ps if ran_ps else 0,
                "latency_mean_ps": None if mean is None else ps_of_ticks(mean),
                "latency_max_ps": ps_of_ticks(counted.worst_ticks) if counted.commands else None,
            }
        )
    return rows


def port_rows(outcome: Outcome) -> list[Row]:
    """Each port: what it sends under the credit that its peer granted, and what it receives."""
    plan = outcome.plan
    rows = {direction.number: _port_row(outcome, direction) for direction in plan.directions}
    for number, row in rows.items():
        row["behind"] = behind = _blockers(plan, number, rows)
        if behind:
            row["why"] += f"; what it sends goes on through {', '.join(behind)}: see there first"
    order = {port.name: n for n, port in enumerate(plan.ports)}
    return sorted(rows.values(), key=lambda row: order[row["name"]])


def _blockers(plan: Plan, number: int, rows: Mapping[int, Row]) -> list[str]:
    """The ports that are not well on the switch behind a stalled port: back pressure comes from there."""
    end = plan.directions[number].destination_end
    if rows[number]["verdict"] != Verdict.CREDIT_STALL.value or end[0] != "switch":
        return []
    leaving = [d for d in plan.directions if d.source_end == end and d.number != number ^ 1]
    return [rows[d.number]["name"] for d in leaving if rows[d.number]["verdict"] != Verdict.OK.value]


def _port_row(outcome: Outcome, tx: Direction) -> Row:
    plan = outcome.plan
    rx = plan.reverse(tx.number)
    sent, received = outcome.directions[tx.number], outcome.directions[rx.number]
    port, peer = plan.ports[tx.source], plan.ports[tx.destination]
    elapsed_ps = max(1, ps_of_ticks(outcome.end_ticks))
    finding = finding_of(outcome, tx)
    shares = wait_shares(outcome, tx.number)
    wait_ps = ps_of_ticks(sent.wait_ticks)
    return {
        "name": port.name,
        "peer": peer.name,
        "wwpn": _wwn(port.wwpn),
        "peer_wwpn": _wwn(peer.wwpn),
        "fc_id": f"{port.fc_id:06x}",
        "type": port.type_,
        "mode": "VC_RDY" if _has_channels(plan, tx) else "R_RDY",
        "link": tx.link,
        "speed": tx.speed.name,
        "members": tx.members,
        "virtual_channels": _channels(plan, tx),
        "bb_credit": tx.granted,
        "rx_bb_credit": rx.granted,
        "tx_remaining_credits": max(0, tx.granted - sent.held),
        "rx_remaining_credits": max(0, rx.granted - received.held),
        "in_use_peak_credits": sent.peak,
        "in_use_average_credits": _average(outcome, tx.number),
        "rx_in_use_average_credits": _average(outcome, rx.number),
        "average_frame_bytes": _average_frame(sent),
        "rx_average_frame_bytes": _average_frame(received),
        "distance_m": tx.distance_m,
        "rtt_ps": 2 * tx.distance_m * PROPAGATION_PS_PER_METRE,
        "needed_credits": needed_credits(tx, _average_payload(sent)),
        "needed_full_frame_credits": needed_credits(tx, MAX_PAYLOAD_BYTES),
        "pool_left_credits": plan.pool_left.get(port.switch) if port.switch is not None else None,
        "credit_zero_transitions": sent.zero_transitions,
        "rx_credit_zero_transitions": received.zero_transitions,
        "credit_zero_time_ps": ps_of_ticks(sent.zero_ticks),
        "credit_zero_share": ps_of_ticks(sent.zero_ticks) / elapsed_ps,
        "tx_wait_ps": wait_ps,
        "tx_wait_2500ns_ticks": wait_ps // TICK_PS,
        "tx_wait_share": wait_ps / elapsed_ps,
        "tx_wait_share_1s": shares.last_1s,
        "tx_wait_share_1m": shares.last_1m,
        "tx_wait_share_1h": shares.last_1h,
        "tx_wait_share_72h": shares.last_72h,
        "load": _load(outcome, tx),
        "tx_frames": sent.tx_frames,
        "tx_payload_bytes": sent.tx_bytes,
        "throughput_bps": sent.tx_bytes * 8 * PS_PER_SECOND // elapsed_ps,
        "rx_frames": received.rx_frames,
        "queued_frames": sent.queued,
        "bb_sc_n": tx.bb_sc_n,
        "lost_credits": _lost(sent),
        "lost_frames": sent.lost_frames,
        "corrupted_frames": sent.corrupted_frames,
        "lost_r_rdys": sent.lost_r_rdys,
        "recovered_credits": sent.recovered,
        "link_resets": sent.link_resets,
        "discards": sent.discards,
        "verdict": finding.verdict.value,
        "missing_credits": finding.missing_credits,
        "why": finding.text,
    }


def finding_of(outcome: Outcome, direction: Direction) -> Finding:
    """The verdict on one direction over the whole run, in the words of :mod:`fcsim.port.congestion`; where credits are
    missing, with the throughput that they cost."""
    counted = outcome.directions[direction.number]
    wait = counted.wait_ticks / max(1, outcome.end_ticks)
    payload = _average_payload(counted)
    used = sum(direction.credits)
    needed = needed_credits(direction, payload) if counted.tx_frames else None
    finding = judge(Interval(_load(outcome, direction), wait, used, needed, _lost(counted)))
    if finding.verdict is not Verdict.DISTANCE_SHORT:
        return finding
    line, through = line_rate(direction, payload), credit_rate(direction, used, payload)
    text = f"{finding.text}; {(line - through) / 1e6:.1f} of {line / 1e6:.1f} MB/s are lost"
    return Finding(finding.verdict, text, finding.severity, finding.missing_credits)


def needed_credits(direction: Direction, payload_bytes: int) -> int:
    """``ceil(RTT × decoded byte rate / (payload + 36 + 24))``, one at least."""
    rtt_ps = 2 * direction.distance_m * PROPAGATION_PS_PER_METRE
    return max(
        1, ceil_div(rtt_ps * direction.bytes_per_second, (payload_bytes + AROUND_BYTES) * PS_PER_SECOND)
    )


def line_rate(direction: Direction, payload_bytes: int) -> int:
    """Payload bytes per second of a direction that never waits."""
    return direction.bytes_per_second * payload_bytes // (payload_bytes + AROUND_BYTES)


def credit_rate(direction: Direction, credits: int, payload_bytes: int) -> int:
    """Payload bytes per second that so many credits let through: each comes back a round trip after its frame."""
    rtt_ps = 2 * direction.distance_m * PROPAGATION_PS_PER_METRE
    frame_ps = (payload_bytes + AROUND_BYTES) * PS_PER_SECOND // direction.bytes_per_second
    by_credits = credits * payload_bytes * PS_PER_SECOND // max(1, rtt_ps + frame_ps)
    return min(line_rate(direction, payload_bytes), by_credits)


def wait_shares(outcome: Outcome, number: int) -> WaitShares:
    """Share of time waiting for credit in the last second, minute, hour and 72 hours, as far as the run goes; to the
    resolution of the samples."""
    history = WaitHistory()
    for at, waited in zip(outcome.series.at_ticks, outcome.series.waited[number], strict=True):
        if waited:
            history.add(ps_of_ticks(max(0, at - waited)), ps_of_ticks(at))
    return history.shares(ps_of_ticks(outcome.end_ticks))


def series_rows(outcome: Outcome) -> list[Row]:
    """The time series: for each sample and port the rate since the sample before, the credits outstanding, the frames
    queued, and the share of the time in which frames waited for credit."""
    series, before = outcome.series, 0
    rows = []
    for place, at in enumerate(series.at_ticks):
        span = max(1, at - before)
        before = at
        for direction in outcome.plan.directions:
            n = direction.number
            rows.append(
                {
                    "at_ps": ps_of_ticks(at),
                    "port": outcome.plan.ports[direction.source].name,
                    "throughput_bps": series.bytes[n][place] * 8 * TICKS_PER_SECOND // span,
                    "outstanding_credits": series.outstanding[n][place],
                    "queued_frames": series.queued[n][place],
                    "tx_wait_share": min(1.0, series.waited[n][place] / span),
                }
            )
    return rows


def findings(result: Mapping[str, Any]) -> list[Row]:
    """The ports of a :func:`report` that are not well: causes before what stands behind them, then the worst first."""
    order = [verdict.value for verdict in Verdict]
    bad = [row for row in result["ports"] if row["verdict"] != Verdict.OK.value]
    return sorted(
        bad, key=lambda row: (bool(row["behind"]), order.index(row["verdict"]), -row["tx_wait_share"])
    )


def _load(outcome: Outcome, direction: Direction) -> float:
    counted = outcome.directions[direction.number]
    busy = (counted.tx_bytes + counted.tx_frames * AROUND_BYTES) * direction.byte_ticks
    return min(1.0, busy / max(1, outcome.end_ticks))


def _lost(counted: DirectionCounters) -> int:
    """Credits: a frame with a bad CRC costs none."""
    return counted.lost_frames + counted.lost_r_rdys


def _average(outcome: Outcome, number: int) -> float:
    samples = outcome.series.outstanding[number]
    return round(sum(samples) / len(samples), 1) if samples else 0.0


def _average_payload(counted: DirectionCounters) -> int:
    return counted.tx_bytes // counted.tx_frames if counted.tx_frames else MAX_PAYLOAD_BYTES


def _average_frame(counted: DirectionCounters) -> int | None:
    return counted.tx_bytes // counted.tx_frames + FRAME_OVERHEAD_BYTES if counted.tx_frames else None


def _has_channels(plan: Plan, direction: Direction) -> bool:
    return any(
        direction.link.partition("#")[0] == isl.name and len(isl.credits) > 1 for isl in plan.scenario.isls
    )


def _channels(plan: Plan, direction: Direction) -> dict[str, int]:
    """Credits of the virtual channels in use, by number; empty in R_RDY mode."""
    if not _has_channels(plan, direction):
        return {}
    return {str(vc): credit for vc, credit in zip(plan.channels, direction.credits, strict=True)}


def _wwn(value: int) -> str:
    return value.to_bytes(8, "big").hex(":")
