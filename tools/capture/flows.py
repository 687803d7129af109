"""Who did how much I/O with whom, and how long it took: one row per initiator, target and LUN.

The three latencies are those of Cisco's SAN Analytics: exchange completion time (command to status), data access
latency (command to the first answer of any kind), host response latency (R2T or XFER_RDY to the host's
data). Percentiles are exact, by the nearest rank.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tools.capture import figures_kernel
from tools.capture.analysis import Analysis, NexusName
from tools.capture.exchanges import Flag
from tools.capture.sessions import endpoint, initiator_side, secrets_left_out
from tools.capture.task_kernel import Nexus

COMPLETION, FIRST_DATA, HOST_RESPONSE, SIZE = 0, 1, 2, 3
QUANTILES = (("p50", 500), ("p90", 900), ("p99", 990), ("p99_9", 999))
_NS_PER_S = 1_000_000_000
_SIZES = 8

STATUS_NAMES = {
    0x02: "check_condition",
    0x04: "condition_met",
    0x08: "busy",
    0x18: "reservation_conflict",
    0x28: "task_set_full",
    0x30: "aca_active",
    0x40: "task_aborted",
}
TASK_FUNCTIONS = {
    1: "abort_task",
    2: "abort_task_set",
    3: "clear_aca",
    4: "clear_task_set",
    5: "logical_unit_reset",
    6: "target_warm_reset",
    7: "target_cold_reset",
    8: "task_reassign",
    9: "query_task",
    10: "query_task_set",
    11: "i_t_nexus_reset",
    12: "query_async_event",
}
FCP_TASK_FUNCTIONS = {
    0x40: "clear_aca",
    0x20: "target_reset",
    0x10: "logical_unit_reset",
    0x04: "clear_task_set",
    0x02: "abort_task_set",
}


def distribution(values: array[int], start: int, end: int) -> dict[str, int | float] | None:
    """min, mean, max and the quantiles of ``values[start:end]``, which is sorted thereby; None for none."""
    count = end - start
    if not count:
        return None
    total = figures_kernel.sort(values, start, end)
    found: dict[str, int | float] = {"min": values[start]}
    for name, permille in QUANTILES:
        found[name] = values[start + max(0, -(-count * permille // 1000) - 1)]
    return found | {"max": values[end - 1], "mean": round(total / count, 1), "count": count}


def gathered(
    analysis: Analysis, metric: int, flags: int, numbers: array[int], groups: int
) -> tuple[array[int], list[int]]:
    """Figures of all exchanges group by group, and where each group begins (one more: the end)."""
    counts = array("q", bytes(8 * max(1, groups)))
    for block, count in analysis.store.blocks():
        figures_kernel.count_groups(block, count, metric, flags, numbers, counts)
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    values = array("q", bytes(8 * starts[-1])) if starts[-1] else array("q", (0,))
    places = array("q", starts[:-1])
    for block, count in analysis.store.blocks():
        figures_kernel.gather(block, count, metric, flags, numbers, places, values)
    return values, starts


def flow_rows(analysis: Analysis, *, detail: bool = True) -> list[dict[str, Any]]:
    """One row per initiator, target and LUN; ``detail`` adds reads and writes apart, sizes, logins and violations."""
    names, numbers = analysis.group_numbers()
    if not names:
        return []
    wanted = [
        ("ect_ns", COMPLETION, 0),
        ("dal_ns", FIRST_DATA, 0),
        ("hrl_ns", HOST_RESPONSE, 0),
    ]
    if detail:
        wanted += [
            ("read_ect_ns", COMPLETION, int(Flag.READ)),
            ("write_ect_ns", COMPLETION, int(Flag.WRITE)),
        ]
    rows = [_row(analysis, name, analysis.groups[name]) for name in names]
    for key, metric, flags in wanted:
        values, starts = gathered(analysis, metric, flags, numbers, len(names))
        for group, row in enumerate(rows):
            row[key] = distribution(values, starts[group], starts[group + 1])
    for key, flags in (("read_size_bytes", int(Flag.READ)), ("write_size_bytes", int(Flag.WRITE))):
        values, starts = gathered(analysis, SIZE, flags, numbers, len(names))
        for group, row in enumerate(rows):
            row[key] = distribution(values, starts[group], starts[group + 1])
            if detail:
                sizes = figures_kernel.runs(values, starts[group], starts[group + 1], _SIZES)
                row[key.replace("size_bytes", "sizes")] = [
                    {"bytes": size, "commands": often} for size, often in sizes
                ]
    if detail:
        broken = analysis.violations()
        for name, row in zip(names, rows, strict=True):
            flows = {nexus.flow >> 1 for nexus in analysis.groups[name]}
            row["connections"] = [_connection(analysis, flow) for flow in sorted(flows)]
            row["violations"] = [
                {
                    "rule": one.rule.name.lower(),
                    "text": one.text,
                    "clause": one.clause,
                    "count": one.count,
                    "packet": one.packet,
                }
                for one in broken
                if one.flow in flows
            ]
    return rows


def _row(analysis: Analysis, name: NexusName, members: Sequence[Nexus]) -> dict[str, Any]:
    def total(field: str) -> int:
        return sum(getattr(nexus, field) for nexus in members)

    first = min(nexus.first_ns for nexus in members)
    last = max(nexus.last_ns for nexus in members)
    duration = max(0, last - first)
    commands, moved = total("commands"), total("bytes_in") + total("bytes_out")
    statuses: Counter[int] = Counter()
    management: Counter[str] = Counter()
    for nexus in members:
        statuses.update(nexus.statuses)
        table = FCP_TASK_FUNCTIONS if nexus.fibre else TASK_FUNCTIONS
        for function, count in nexus.management.items():
            management[table.get(function, f"function_{function}")] += count
    row: dict[str, Any] = {
        "protocol": name.protocol,
        "initiator": name.initiator,
        "target": name.target,
        "lun": name.lun,
        "commands": commands,
        "reads": total("reads"),
        "writes": total("writes"),
        "others": total("others"),
        "unanswered": total("unanswered"),
        "aborted": total("aborted"),
        "read_bytes": total("bytes_in"),
        "written_bytes": total("bytes_out"),
        "first_ns": first,
        "duration_ns": duration,
        "iops": round(commands * _NS_PER_S / duration, 1) if duration else None,
        "throughput_bps": moved * 8 * _NS_PER_S // duration if duration else None,
        # Connections of one session may overlap: their maxima bound the sum, and it is said so.
        "outstanding_max": max(nexus.outstanding_max for nexus in members)
        if len(members) == 1
        else total("outstanding_max"),
        "outstanding_mean": round(total("depth_ns") / duration, 2) if duration else None,
        "busy_ns": max(nexus.busy_ns for nexus in members),
        "ready_to_transfers": total("r2ts"),
        "unsolicited_bytes": total("unsolicited"),
        "underflows": total("underflows"),
        "overflows": total("overflows"),
        "target_failures": total("failures"),
    }
    for code, status in STATUS_NAMES.items():
        row[status] = statuses.pop(code, 0)
    row["other_statuses"] = {f"{code:#04x}": count for code, count in sorted(statuses.items())}
    row["task_management"] = dict(management)
    if name.vsan:
        row["vsan"] = name.vsan
    return row


def _connection(analysis: Analysis, flow: int) -> dict[str, Any]:
    """One connection: its ends, what TCP did, the command window, what was agreed."""
    side = initiator_side(analysis.scanner.flows[flow])
    back = side.peer
    found: dict[str, Any] = {"flow": flow, "initiator": endpoint(side), "target": endpoint(back)}
    if side.source_port:
        found["tcp"] = {
            way: {
                "payload_bytes": one.payload,
                "retransmitted_bytes": one.retransmitted,
                "out_of_order_packets": one.out_of_order,
                "lost_by_capture_bytes": one.gap_bytes,
                "in_flight_max_bytes": one.max_in_flight,
                "window_max_bytes": one.window_max or None,
            }
            for way, one in (("to_target", side), ("to_initiator", back))
        }
        found["rtt_handshake_ns"] = side.handshake_ns if side.handshake_ns >= 0 else None
        link = analysis.connection(flow)
        if link.window_samples:
            found["command_window"] = {
                "size_max": link.window_max,
                "used_max": link.window_used,
                "used_mean": round(link.window_sum / link.window_samples, 2),
                "free_min": link.window_free_min,
                "closed_times": link.window_zero,
            }
        found["digests"] = {"header": bool(side.header_digest), "data": bool(side.data_digest)}
    found["unmatched_answers"] = analysis.connection(flow).unmatched
    login = analysis.sessions.logins.get(flow)
    if login is not None:
        found["login"] = {
            "initiator": secrets_left_out(login.initiator),
            "target": secrets_left_out(login.target),
            "isid": login.isid,
            "tsih": login.tsih,
            "cid": login.cid,
            "status": None if login.status is None else f"{login.status:#06x}",
            "packet": login.packet,
        }
    return found
