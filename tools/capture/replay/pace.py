"""Being on time: a timer of the kernel wakes the event loop, and the scheduler is asked not to keep us waiting.

Timers of an event loop are as coarse as a millisecond. Here the kernel's own (``timerfd_create(2)``, absolute, without
slack) wakes the loop shortly before the moment, and the rest is spent in turns of the loop, so that answers are still
read. What is left then is other load on the machine: a thread of higher priority is not put back for it.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import platform
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SPIN_NS = 40_000
"""The last part of a wait is spent awake: as long as it takes to wake up. Longer, and a thread of real-time priority
would use so much of its core that the kernel takes it away for a while (sched(7), 95 %)."""
SWITCH_S = 0.0002
"""How long another thread of this process may keep the interpreter from us (default: 5 ms)."""
_SLICE_NS = 100_000
_TFD_NONBLOCK, _TFD_CLOEXEC, _TFD_TIMER_ABSTIME = 0o4000, 0o2000000, 1
_ITIMERSPEC = struct.Struct("@qqqq")
_SCHED_ATTR = struct.Struct("=IIQiIQQQ")
_SYS_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
_NS_PER_S = 1_000_000_000


class Pacer:
    """Waits for moments of ``time.monotonic_ns()`` in the running event loop, one at a time; a context manager."""

    def __init__(self) -> None:
        """Raises :class:`OSError`."""
        self._loop = asyncio.get_running_loop()
        self._library = ctypes.CDLL(None, use_errno=True)
        self._timer = self._library.timerfd_create(time.CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self._timer < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._rung: asyncio.Future[None] | None = None
        self._loop.add_reader(self._timer, self._ring)

    def _ring(self) -> None:
        try:
            os.read(self._timer, 8)
        except BlockingIOError:
            return  # set anew meanwhile
        if self._rung is not None and not self._rung.done():
            self._rung.set_result(None)

    async def until(self, moment_ns: int) -> None:
        """To the moment, and not before it; at once where it has passed."""
        if moment_ns - time.monotonic_ns() > 2 * SPIN_NS:
            seconds, rest = divmod(moment_ns - SPIN_NS, _NS_PER_S)
            self._rung = self._loop.create_future()
            wanted = _ITIMERSPEC.pack(0, 0, seconds, rest)
            self._library.timerfd_settime(self._timer, _TFD_TIMER_ABSTIME, wanted, None)
            await self._rung
        while time.monotonic_ns() < moment_ns:
            await asyncio.sleep(0)

    def close(self) -> None:
        """Give the timer back."""
        self._loop.remove_reader(self._timer)
        os.close(self._timer)

    def __enter__(self) -> Pacer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def undisturbed() -> Iterator[str]:
    """While it lasts nothing of this process holds its thread up for long, and other processes as little as the system
    grants: real-time priority, else the best of the ordinary ones, else short turns. Gives what was granted in words.
    """
    collects = gc.isenabled()
    gc.collect()
    gc.disable()  # else the collector looks through all commands meanwhile, for tens of milliseconds
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    thread = threading.get_native_id()
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    nice = os.getpriority(os.PRIO_PROCESS, thread)
    try:
        yield _before_others(thread)
    finally:
        os.sched_setscheduler(0, policy, parameter)
        os.setpriority(os.PRIO_PROCESS, thread, nice)
        sys.setswitchinterval(interval)
        if collects:
            gc.enable()


def _before_others(thread: int) -> str:
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:
        pass
    else:
        return "real-time priority"
    try:
        os.setpriority(os.PRIO_PROCESS, thread, -20)
    except OSError:
        pass
    else:
        return "highest ordinary priority"
    number = _SYS_SCHED_SETATTR.get(platform.machine())
    if number is not None:
        # Without a privilege: short turns, which the scheduler of Linux 6.12 and later gives sooner (sched(7)).
        nice = os.getpriority(os.PRIO_PROCESS, thread)
        wanted = _SCHED_ATTR.pack(_SCHED_ATTR.size, os.SCHED_OTHER, 0, nice, 0, _SLICE_NS, 0, 0)
        if ctypes.CDLL(None).syscall(number, 0, wanted, 0) == 0:
            return "ordinary priority, short turns"
    return "ordinary priority"
