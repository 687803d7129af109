"""Pairs and groups as the control API serves them: one row for each pair."""

from __future__ import annotations

from typing import Any

from mgmt.pair_messages import GroupStatus
from mgmt.plain import to_plain


def group_rows(array: str, status: GroupStatus) -> list[dict[str, Any]]:
    """One row for each pair of a group: its own state and progress, and what holds for the whole group."""
    plain: dict[str, Any] = to_plain(status)
    members = plain.pop("pairs")
    return [
        plain
        | {"array": array, "rpo_ns": status.rpo_ns, "group_state": status.state}
        | member
        | {"progress": 1 - member["dirty_bytes"] / member["total_bytes"] if member["total_bytes"] else 1.0}
        for member in members
    ]
