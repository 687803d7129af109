"""The event loop of the channel's process: epoll, one timer with nanoseconds, signals.

asyncio is not used here because its timers have the resolution of epoll's timeout, a millisecond, which is a
tenth of the delay that is emulated.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import struct
import time
from collections.abc import Callable

from tools.wan.enter import check

_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK_CLOEXEC = 0o4000 | 0o2000000
_TFD_TIMER_ABSTIME = 1
_ITIMERSPEC = struct.Struct("=qqqq")

_libc = ctypes.CDLL(None, use_errno=True)


class Timer:
    """A timer file descriptor armed for absolute moments of the monotonic clock (``timerfd_create(2)``)."""

    def __init__(self) -> None:
        self.descriptor = check(
            _libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK_CLOEXEC), "timerfd_create"
        )
        self._armed: int | None = None

    def arm(self, deadline: int | None) -> None:
        """Fire at ``deadline`` (nanoseconds); None disarms."""
        if deadline == self._armed:
            return
        self._armed = deadline
        # All zeros would disarm, so the earliest moment is 1 ns after the clock's start.
        seconds, nanoseconds = divmod(max(1, deadline), 1_000_000_000) if deadline is not None else (0, 0)
        specification = _ITIMERSPEC.pack(0, 0, seconds, nanoseconds)
        check(
            _libc.timerfd_settime(self.descriptor, _TFD_TIMER_ABSTIME, specification, None), "timerfd_settime"
        )

    def fired(self) -> None:
        """Take the expiry out of the descriptor."""
        self._armed = None
        try:
            os.read(self.descriptor, 8)
        except BlockingIOError:
            return  # armed anew since epoll reported it


class Loop:
    """Calls a handler for each readable descriptor, and ``turn`` after every batch of them."""

    def __init__(self, turn: Callable[[int], int | None]) -> None:
        """``turn(now)`` does what is due and returns the next deadline."""
        self._turn = turn
        self._epoll = select.epoll()
        self._timer = Timer()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._stopped = False
        self.watch(self._timer.descriptor, self._timer.fired)
        self._wakeup, wakeup_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.watch(self._wakeup, self._signalled)
        signal.set_wakeup_fd(wakeup_writer)
        signal.signal(signal.SIGTERM, lambda number, frame: self.stop())
        for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(
                ignored, signal.SIG_IGN
            )  # the parent decides, and its end is the end of this process

    def _signalled(self) -> None:
        os.read(self._wakeup, 64)

    def watch(self, descriptor: int, handler: Callable[[], None]) -> None:
        """Call ``handler`` whenever ``descriptor`` can be read (or its other end is gone)."""
        self._handlers[descriptor] = handler
        self._epoll.register(descriptor, select.EPOLLIN)

    def forget(self, descriptor: int) -> None:
        """No longer watch it."""
        del self._handlers[descriptor]
        self._epoll.unregister(descriptor)

    def stop(self) -> None:
        """Leave :meth:`run` after this turn, or as soon as it is called."""
        self._stopped = True

    def run(self) -> None:
        """Until :meth:`stop`."""
        poll, handlers, clock = self._epoll.poll, self._handlers, time.monotonic_ns
        while not self._stopped:
            for descriptor, _events in poll():
                handler = handlers.get(descriptor)
                if handler is not None:
                    handler()
            self._timer.arm(self._turn(clock()))
