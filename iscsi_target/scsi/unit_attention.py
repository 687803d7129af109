# SPDX-License-Identifier: Apache-2.0
"""Unit attention conditions of one logical unit, a queue per I_T nexus (SAM-5 5.14)."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from iscsi_target.scsi.sense import Condition

MAX_PENDING = 6
"""Bound of one nexus' queue; a condition that does not fit is dropped, as SAM-5 5.14.1 allows."""

_RESETS = frozenset(
    (
        Condition.POWER_ON_OCCURRED,
        Condition.POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED,
        Condition.BUS_DEVICE_RESET_FUNCTION_OCCURRED,
        Condition.I_T_NEXUS_LOSS_OCCURRED,
    )
)


class Nexus(NamedTuple):
    """An I_T nexus: SCSI initiator port name and relative target port (SAM-5 4.7.2)."""

    initiator_port: str
    target_port: int


class UnitAttentions:
    """Which conditions wait for whom. `pending` is empty when nobody has any, which the fast path looks at."""

    def __init__(self) -> None:
        self.pending: dict[Nexus, deque[Condition]] = {}

    def establish(self, nexus: Nexus, condition: Condition) -> None:
        """Queue a condition; a reset supersedes what waits (SAM-5 table 47), a duplicate is not queued twice."""
        queue = self.pending.setdefault(nexus, deque())
        if condition in _RESETS:
            queue.clear()
        if condition not in queue and len(queue) < MAX_PENDING:
            queue.append(condition)

    def first(self, nexus: Nexus) -> Condition | None:
        """The condition that comes next, left where it is."""
        queue = self.pending.get(nexus)
        return queue[0] if queue else None

    def report(self, nexus: Nexus) -> bytes | None:
        """UADE DEPTH (1: this one only, 2: more) and sense key, ASC, ASCQ of the first condition (SAM-5 7.10); None
        when there is none."""
        queue = self.pending.get(nexus)
        if not queue:
            return None
        key, code, qualifier = queue[0].value
        return bytes((min(len(queue), 2) << 4 | key, code, qualifier))

    def take(self, nexus: Nexus) -> Condition | None:
        """Remove and return the condition that comes next."""
        queue = self.pending.get(nexus)
        if queue is None:
            return None
        condition = queue.popleft()
        if not queue:
            del self.pending[nexus]
        return condition

    def take_one(self, nexus: Nexus, condition: Condition) -> None:
        """Remove one kind of condition, as REPORT LUNS does (SPC-4 6.33)."""
        queue = self.pending.get(nexus)
        if queue is not None and condition in queue:
            queue.remove(condition)
            if not queue:
                del self.pending[nexus]

    def forget(self, nexus: Nexus) -> None:
        """The nexus is gone."""
        self.pending.pop(nexus, None)
