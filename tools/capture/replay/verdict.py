"""What a replay showed: measured beside captured, and whether it was the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tools.capture.replay.play import Outcome

_NAMED = 20


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One command whose answer was another than the captured one."""

    packet: int
    cdb: bytes
    what: str


def latencies(values: Sequence[int]) -> dict[str, int] | None:
    """min, p50, p90, p99, max and mean of latencies in nanoseconds (nearest rank); None without any."""
    if not values:
        return None
    ordered = sorted(values)

    def at(part: float) -> int:
        return ordered[min(len(ordered) - 1, max(0, -int(-part * len(ordered) // 1) - 1))]

    return {
        "min": ordered[0],
        "p50": at(0.5),
        "p90": at(0.9),
        "p99": at(0.99),
        "max": ordered[-1],
        "mean": sum(ordered) // len(ordered),
    }


def mismatches(outcomes: Sequence[Outcome]) -> list[Mismatch]:
    """Commands that got another status, other data, or no answer though the captured one did."""
    found = []
    for outcome in outcomes:
        command = outcome.step.command
        if outcome.matches is False:
            what = "other data than in the capture"
        elif outcome.status is None and command.status is not None:
            what = f"no answer: {outcome.error}"
        elif command.status is not None and outcome.status != command.status:
            what = f"status {outcome.status:#04x}, captured {command.status:#04x}"
        else:
            continue
        found.append(Mismatch(command.packet, command.cdb, what))
    return found


def rows(outcomes: Sequence[Outcome], nexuses: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """By initiator, target and LUN: commands, and the latencies captured and measured."""
    groups: dict[tuple[int, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.step.command.nexus, outcome.step.command.lun), []).append(outcome)
    made = []
    for (nexus, lun), members in groups.items():
        captured = [
            one.step.command.end_ns - one.step.command.start_ns for one in members if one.step.command.end_ns
        ]
        measured = [one.end_ns - one.start_ns for one in members if one.status is not None]
        made.append(
            {
                "initiator": nexuses[nexus][0],
                "target": nexuses[nexus][1],
                "lun": lun,
                "commands": len(members),
                "captured_ns": latencies(captured),
                "measured_ns": latencies(measured),
                "late_ns": latencies([one.late_ns for one in members]),
            }
        )
    return made


def report(
    outcomes: Sequence[Outcome],
    nexuses: Sequence[tuple[str, str]],
    skipped: Mapping[str, int],
    *,
    paced: bool,
) -> dict[str, Any]:
    """The whole verdict. ``ok``: every answer was the captured one."""
    wrong = mismatches(outcomes)
    found = rows(outcomes, nexuses)
    if not paced:
        for row in found:
            row["late_ns"] = None
    last_ns = max((one.end_ns for one in outcomes), default=0)
    captured = [one.step.command for one in outcomes]
    return {
        "ok": not wrong,
        "commands": len(outcomes),
        "compared": sum(one.matches is not None for one in outcomes),
        "mismatches": len(wrong),
        "first_mismatches": [
            {"packet": one.packet, "cdb": one.cdb.hex(), "what": one.what} for one in wrong[:_NAMED]
        ],
        "skipped": dict(skipped),
        "seconds": last_ns / 1e9,
        "captured_seconds": (
            (max(max(c.end_ns, c.start_ns) for c in captured) - captured[0].start_ns) / 1e9
            if captured
            else 0.0
        ),
        "flows": found,
    }
