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
        self._held: list[tuple[int, int, bool]] = []
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

    def _collides(self, start: int, end: int, exclusive: bool) -> bool:
        return any(
            start < other_end and other_start < end and (exclusive or other_exclusive)
            for other_start, other_end, other_exclusive in self._held
        )

    @contextmanager
    def _hold(self, start: int, end: int, exclusive: bool) -> Iterator[None]:
        mine = (start, end, exclusive)
        with self._changed:
            while self._collides(start, end, exclusive):
                self._changed.wait()
            self._held.append(mine)
        try:
            yield
        finally:
            with self._changed:
                self._held.remove(mine)
                self._changed.notify_all()
