"""The array's watch over time: holds and leases whose time has run out end (GAP-10, GAP-26)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from credits.durable import DurablePool
from credits.errors import StoreError

_log = logging.getLogger(__name__)

#: How often it looks at the latest: a lease that is overdue ends once its last unit is freed, which nobody announces.
_TICK_S = 1.0


class Expiry:
    """A thread that calls :meth:`credits.durable.DurablePool.expire`, which waits for the journal, when it is time.

    ``clock`` is the pool's, in nanoseconds; ``on_change`` is called, on this thread, when something has ended. A hold
    or lease shorter than a second ends up to a second late.
    """

    def __init__(
        self, pool: DurablePool, clock: Callable[[], int], on_change: Callable[[], None] = lambda: None
    ) -> None:
        self._on_change = on_change
        self._pool = pool
        self._clock = clock
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="expiry")

    def __enter__(self) -> Expiry:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                ended = self._pool.expire(self._clock())
            except StoreError as error:
                _log.warning("a lease that has run out stays for now: %s", error)
                ended = ()
            for target in ended:
                _log.info("the hold or lease of %s has run out", target)
            if ended:
                self._on_change()
            deadline_ns = self._pool.next_deadline()
            wait_s = _TICK_S
            if deadline_ns is not None:
                wait_s = min(_TICK_S, max(0.001, (deadline_ns - self._clock()) / 1e9))
            if self._ending.wait(wait_s):
                return
