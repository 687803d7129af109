# SPDX-License-Identifier: Apache-2.0
"""Locks on byte ranges of a store: what makes COMPARE AND WRITE and the atomic writes atomic (SBC-3 4.27, 5.2)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext


class RangeLocks:
    """Shared and exclusive holds on ranges. Holds are short and a thread takes one at a time, so none can deadlock.

    With `threaded` False the store never blocks: a plain read or write of it is one indivisible memory copy, and
    `shared` and `exclusive` cost nothing. `atomic` always holds, for what takes more than one step.
    """

    def __init__(self, *, threaded: bool) -> None:
        self._threaded = threaded
        self._changed = threading.Condition()
        self._held: list[_Hold] = []
        self._queue: list[_Hold] = []
        self._free: AbstractContextManager[None] = nullcontext()

    def shared(self, offset: int, length: int) -> AbstractContextManager[None]:
        """Hold a range together with other readers."""
        return self._hold(offset, offset + length, False) if self._threaded else self._free

    def exclusive(self, offset: int, length: int) -> AbstractContextManager[None]:
        """Hold a range alone."""
        return self._hold(offset, offset + length, True) if self._threaded else self._free

    def atomic(self, offset: int, length: int) -> AbstractContextManager[None]:
        """Hold a range alone, whatever the store."""
        return self._hold(offset, offset + length, True)

    @property
    def waiting(self) -> int:
        """Holds that wait for their turn."""
        return len(self._queue)

    @contextmanager
    def _hold(self, start: int, end: int, exclusive: bool) -> Iterator[None]:
        """In the order of asking where ranges collide: readers that come one after the other starve no writer."""
        mine = _Hold(start, end, exclusive)
        with self._changed:
            self._queue.append(mine)
            try:
                while mine.collides(self._held) or mine.collides(self._queue[: self._queue.index(mine)]):
                    self._changed.wait()
            finally:
                self._queue.remove(mine)
                self._changed.notify_all()
            self._held.append(mine)
        try:
            yield
        finally:
            with self._changed:
                self._held.remove(mine)
                self._changed.notify_all()


class _Hold:
    """One range that is held or asked for; equal to nothing but itself."""

    __slots__ = ("end", "exclusive", "start")

    def __init__(self, start: int, end: int, exclusive: bool) -> None:
        self.start = start
        self.end = end
        self.exclusive = exclusive

    def collides(self, others: list[_Hold]) -> bool:
        return any(
            self.start < other.end and other.start < self.end and (self.exclusive or other.exclusive)
            for other in others
        )
