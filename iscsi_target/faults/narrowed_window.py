# SPDX-License-Identifier: Apache-2.0
"""When a rule that narrowed the command window is no more, the initiator has to hear of it: it may be waiting for the
window to open, and the target has nothing to answer that would tell it."""

from __future__ import annotations

from iscsi_target.faults.actions import Window
from iscsi_target.faults.rules import ActiveRule

_LOOK_NS = 50_000_000


class NarrowedWindow:
    """What one connection's initiator was last told of the window."""

    def __init__(self) -> None:
        self.deadline_ns: int | None = None
        """When to look whether the rule is still there; None: the initiator has been told the window as it is."""
        self._rules: tuple[ActiveRule, ...] = ()

    def again(self, rules: tuple[ActiveRule, ...], now_ns: int) -> None:
        """A PDU with a narrowed window leaves, by one of these rules."""
        self._rules = rules
        self.deadline_ns = now_ns + _LOOK_NS

    def over(self, now_ns: int, rules: tuple[ActiveRule, ...]) -> bool:
        """Whether the initiator is to be told the window as it is; asked when the deadline has come."""
        if self.deadline_ns is None or now_ns < self.deadline_ns:
            return False
        if rules is self._rules and any(_has_more(active) for active in rules):
            self.deadline_ns = now_ns + _LOOK_NS
            return False
        self.deadline_ns = None
        return True


def _has_more(active: ActiveRule) -> bool:
    count = active.rule.trigger.count
    return isinstance(active.rule.action, Window) and (count is None or active.fired < count)
