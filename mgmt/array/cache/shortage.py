"""When a copy asks for a larger reservation because the cache memory is short (embodiment 5, paragraph 104). Sans-IO.

Looked at now and then while a copy is under way: free at the warning threshold or below asks once for each target
(M12), and again only after the cache has been well above it: at the threshold and five percent of the cache more
(GAP-21).
"""

from __future__ import annotations

from collections.abc import Iterable

from credits.targets import Target

REARM_PERCENT = 5


class ShortageWatch:
    """Follows the free size of a cache of ``size_bytes``; a ``threshold_bytes`` of 0 never asks."""

    def __init__(self, size_bytes: int, threshold_bytes: int) -> None:
        self._size_bytes = size_bytes
        self.threshold_bytes = threshold_bytes
        self._asked: set[Target] = set()

    def set_threshold(self, threshold_bytes: int) -> None:
        """M16. Whoever was asked for is asked for again where the new one says so."""
        if threshold_bytes != self.threshold_bytes:
            self.threshold_bytes = threshold_bytes
            self._asked.clear()

    def observe(self, free_bytes: int, targets: Iterable[Target]) -> list[Target]:
        """The targets, of those that copies under way draw on, to ask for now."""
        if not self.threshold_bytes:
            return []
        if free_bytes > self.threshold_bytes:
            if free_bytes >= self.threshold_bytes + self._size_bytes * REARM_PERCENT // 100:
                self._asked.clear()
            return []
        due = [target for target in dict.fromkeys(targets) if target not in self._asked]
        self._asked.update(due)
        return due

    def not_heard(self, target: Target) -> None:
        """What was asked for did not reach the station: ask again."""
        self._asked.discard(target)
