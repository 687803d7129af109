"""Waiting for moments, and what is asked of the scheduler: nothing is early, and everything is put back."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time

import pytest
import uvloop

from tools.capture.replay.pace import SPIN_NS, Pacer, undisturbed

_GRANTED = (
    "real-time priority",
    "highest ordinary priority",
    "ordinary priority, short turns",
    "ordinary priority",
)


@pytest.mark.parametrize("ahead_ns", [-1_000_000, 0, SPIN_NS, 3 * SPIN_NS, 5_000_000])
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_nothing_is_early_and_the_loop_goes_on_meanwhile(ahead_ns: int, loop: object) -> None:
    async def wait() -> tuple[int, int]:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.0005)

        beside = asyncio.create_task(other())
        with Pacer() as pacer:
            for _ in range(3):  # the same timer, again and again
                moment = time.monotonic_ns() + ahead_ns
                await pacer.until(moment)
                late = time.monotonic_ns() - moment
        beside.cancel()
        return late, turns

    with asyncio.Runner(loop_factory=loop) as runner:  # type: ignore[arg-type]
        late, turns = runner.run(wait())
    assert late >= 0
    assert turns >= (2 if ahead_ns > 2_000_000 else 0)


def _settings() -> tuple[object, ...]:
    return (
        os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK,
        os.sched_getparam(0).sched_priority,
        os.getpriority(os.PRIO_PROCESS, threading.get_native_id()),
        sys.getswitchinterval(),
        gc.isenabled(),
    )


def test_what_the_system_granted_is_given_back_however_it_ends() -> None:
    before = _settings()
    with pytest.raises(KeyError), undisturbed() as priority:
        assert priority in _GRANTED
        assert not gc.isenabled()
        if priority == _GRANTED[0]:
            assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO
        raise KeyError
    assert _settings() == before


def test_without_a_privilege_it_is_said_so() -> None:
    if os.geteuid() != 0:
        pytest.skip("privileges can only be given up by root")
    program = (
        "import os; from tools.capture.replay.pace import undisturbed\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "with undisturbed() as priority: print(priority)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""
    assert done.stdout.strip() in _GRANTED[2:]
