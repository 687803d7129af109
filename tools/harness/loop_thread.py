"""An event loop in a thread of its own, called from a test that blocks: every wait ends."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import threading
import traceback
from collections.abc import Coroutine
from typing import Any, TypeVar

from tools.harness.errors import Hung

T = TypeVar("T")


class LoopThread:
    """A running loop. The thread is a daemon: one that hangs is left behind, and does not keep the run from ending."""

    def __init__(self, name: str) -> None:
        import uvloop

        self._name = name
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start ``work`` on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Coroutine[Any, Any, T], timeout_s: float, what: str) -> T:
        """Run ``work`` and wait. Raises what it raises, and :class:`Hung` after ``timeout_s``."""
        return self.wait(self.submit(work), timeout_s, what)

    def wait(self, future: concurrent.futures.Future[T], timeout_s: float, what: str) -> T:
        """The result of a future. Raises what the work raised, and :class:`Hung` after ``timeout_s``."""
        done, _ = concurrent.futures.wait((future,), timeout_s)
        if not done:
            future.cancel()
            raise Hung(f"{what}: no end within {timeout_s:g} s; {self.stack()}")
        return future.result()

    def stack(self) -> str:
        """Where the thread is now, for people."""
        return stack_of(self._thread.ident, f"the thread {self._name}")

    def stop(self, timeout_s: float) -> None:
        """End the loop. Raises :class:`Hung` when the thread does not come back; it is left behind then."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise Hung(f"the loop does not end within {timeout_s:g} s; {self.stack()}")
        self._loop.close()


def stack_of(ident: int | None, name: str) -> str:
    """Where the thread called ``name`` is now, for people; its last six frames."""
    frame = sys._current_frames().get(ident or 0)
    if frame is None:
        return f"{name} is gone"
    return f"{name} is at\n" + "".join(traceback.format_stack(frame)[-6:]).rstrip()
