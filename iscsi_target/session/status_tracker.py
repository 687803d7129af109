# SPDX-License-Identifier: Apache-2.0
"""Which statuses have come at the initiator, and which are missing (RFC 7143 section 4.2.2.2). Sans-IO."""

from __future__ import annotations

from iscsi_target.session.serial import add, before, distance

Run = tuple[int, int]
"""First StatSN and number of a gap, as a SNACK asks for it."""


class StatusTracker:
    """`expected` is ExpStatSN: every status before it has come."""

    def __init__(self, expected: int = 0) -> None:
        self.expected = expected
        self._early: set[int] = set()
        self._asked_until = expected

    def take(self, stat_sn: int) -> tuple[bool, Run | None]:
        """A status came: (it is new, the gap to ask for if one was found just now)."""
        if before(stat_sn, self.expected) or stat_sn in self._early:
            return False, None
        gap = self.announced(stat_sn)
        self._early.add(stat_sn)
        while self.expected in self._early:
            self._early.discard(self.expected)
            self.expected = add(self.expected, 1)
        return True, gap

    def announced(self, next_stat_sn: int) -> Run | None:
        """The peer says that `next_stat_sn` is the next one: the gap before it that was not asked for yet."""
        begin = self._asked_until if before(self.expected, self._asked_until) else self.expected
        while begin in self._early:
            begin = add(begin, 1)
        if not before(begin, next_stat_sn):
            return None
        self._asked_until = next_stat_sn
        return begin, distance(begin, next_stat_sn)
