# SPDX-License-Identifier: Apache-2.0
"""The blocks of one medium error, until they are rewritten."""

from __future__ import annotations


class BadBlocks:
    """A set of LBAs as ranges; at most `MAX_RANGES` of them (beyond it a rewritten part stays bad)."""

    MAX_RANGES = 10_000

    def __init__(self, lba: int, blocks: int) -> None:
        self._ranges = [(lba, lba + blocks)]

    def first_in(self, lba: int, blocks: int) -> int | None:
        """The first bad LBA of a range; None: it is good."""
        end = lba + blocks
        return min((max(lba, low) for low, high in self._ranges if low < end and lba < high), default=None)

    def rewritten(self, lba: int, blocks: int) -> None:
        """The blocks of a range are good again."""
        end = lba + blocks
        left: list[tuple[int, int]] = []
        for low, high in self._ranges:
            if high <= lba or end <= low:
                left.append((low, high))
                continue
            if low < lba:
                left.append((low, lba))
            if end < high:
                left.append((end, high))
        if len(left) <= self.MAX_RANGES:
            self._ranges = left
