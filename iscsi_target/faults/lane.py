# SPDX-License-Identifier: Apache-2.0
"""One direction of one connection: PDUs that go on at once, later, or behind others. Sans-IO."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush

HELD_LIMIT_BYTES = 64 << 20
"""What one direction of a connection holds back; beyond it the oldest goes on before its time."""


@dataclass(slots=True)
class Item:
    """Something that goes on in its turn: bytes, or a step that is to be taken between the bytes before and after
    it."""

    raw: bytes = b""
    step: Callable[[], None] | None = None
    on_release: Callable[[int], None] | None = None
    """Called with the time when the item goes on."""


@dataclass(slots=True)
class _Behind:
    """An item that waits for `left` others to pass."""

    item: Item
    left: int
    deadline_ns: int


class Lane:
    """Items in, items out when they are due."""

    def __init__(self, limit_bytes: int = HELD_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._queue: deque[tuple[int, Item]] = deque()
        self._late: list[tuple[int, int, Item]] = []
        self._behind: list[_Behind] = []
        self._pushes = 0
        self.held_bytes = 0
        self.released_early = 0
        """Items that went on before their time because too much was held."""

    @property
    def empty(self) -> bool:
        """Whether nothing is held."""
        return not (self._queue or self._late or self._behind)

    def push(self, item: Item, due_ns: int = 0, *, overtaken: bool = False) -> None:
        """Let the item go on at `due_ns`: behind all that was pushed before and with what follows waiting for it, or
        when `overtaken` with what follows going on."""
        self.held_bytes += len(item.raw)
        if overtaken:
            self._pushes += 1
            heappush(self._late, (due_ns, self._pushes, item))
        else:
            self._queue.append((due_ns, item))

    def push_behind(self, item: Item, others: int, deadline_ns: int) -> None:
        """Let the item go on after the next `others`, or at `deadline_ns`."""
        self.held_bytes += len(item.raw)
        self._behind.append(_Behind(item, others, deadline_ns))

    def take(self, now_ns: int) -> list[Item]:
        """What goes on now, in order."""
        taken: list[Item] = []
        queue, late = self._queue, self._late
        while queue and (queue[0][0] <= now_ns or self.held_bytes > self._limit_bytes):
            due_ns, item = queue.popleft()
            self._pass(item, due_ns, now_ns, taken)
        while late and (late[0][0] <= now_ns or self.held_bytes > self._limit_bytes):
            due_ns, _, item = heappop(late)
            self._pass(item, due_ns, now_ns, taken)
        for waiting in list(self._behind):
            due = waiting.deadline_ns <= now_ns or self.held_bytes > self._limit_bytes
            if due and waiting in self._behind:
                self._behind.remove(waiting)
                self._pass(waiting.item, waiting.deadline_ns, now_ns, taken)
        return taken

    def put_back(self, items: list[Item]) -> None:
        """What was taken and cannot go on yet, in order."""
        for item in reversed(items):
            self.held_bytes += len(item.raw)
            self._queue.appendleft((0, item))

    def next_deadline(self) -> int | None:
        """When something goes on next."""
        times = [self._queue[0][0]] if self._queue else []
        if self._late:
            times.append(self._late[0][0])
        times += [waiting.deadline_ns for waiting in self._behind]
        return min(times) if times else None

    def _pass(self, item: Item, due_ns: int, now_ns: int, taken: list[Item]) -> None:
        self.held_bytes -= len(item.raw)
        if due_ns > now_ns:
            self.released_early += 1
        taken.append(item)
        if item.step is not None:
            return
        for waiting in list(self._behind):
            waiting.left -= 1
            if waiting.left <= 0 and waiting in self._behind:
                self._behind.remove(waiting)
                self._pass(waiting.item, 0, now_ns, taken)
