# SPDX-License-Identifier: Apache-2.0
"""The threads that carry out commands which may wait.

:class:`concurrent.futures.ThreadPoolExecutor` makes a future, a work item and two more lock operations of each call,
and its thread goes on with its books while the event loop waits for the interpreter lock to send the answer. Nobody
asks for those futures here: the command's end is reported by the command itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

_log = logging.getLogger(__name__)


class CommandThreads:
    """At most ``limit`` threads, made when they are needed. Used by one thread."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(self, call: Callable[[], None], under_way: int) -> None:
        """Have a thread make the call; ``under_way`` calls have not ended, with this one."""
        if len(self._threads) < min(under_way, self._limit):
            # Daemons: a program that ends without stopping its server ends all the same.
            thread = threading.Thread(
                target=self._work, name=f"{self._name}_{len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        self._calls.put(call)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception:  # noqa: BLE001 - the thread is there for other commands too
                _log.exception("a defect ended a command")
            del call  # what it refers to is not kept until the next one

    def stop(self) -> None:
        """Wait until every call has been made, and end the threads."""
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
