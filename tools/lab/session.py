"""One guest for a whole test session, whichever of its processes needs it first; a lock gives it to one at a time.

The name of the guest is in the environment, so that the workers of pytest-xdist share it, and so is why there can be
none: what one caller has waited for in vain, the next one need not. Whoever began the session ends it, also by being
killed: the guest does not outlive that process, whose number is in the name, nor an hour.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

from tools.lab import machine as machines
from tools.lab.errors import LabUnavailable
from tools.lab.image import cache_directory
from tools.lab.machine import Machine, Settings
from tools.lab.project import install

VARIABLE = "SANCREDIT_LAB_SESSION"
_REFUSED = "SANCREDIT_LAB_REFUSED"
_LIFETIME_S = 3600


def begin() -> bool:
    """Name the session's guest; whether it is this process that has to :func:`end` it."""
    if VARIABLE in os.environ:
        return False
    os.environ[VARIABLE] = f"pytest-{os.getpid()}-{os.urandom(4).hex()}"
    return True


def end() -> None:
    """Switch the guest off, if there was one."""
    name = os.environ.pop(VARIABLE)
    os.environ.pop(_REFUSED, None)
    machine = machines.recorded(name)
    if machine is not None:
        machine.down()


def _owner(name: str) -> int:
    """The process that began the session."""
    return int(name.split("-")[1])


@contextmanager
def _turn(name: str) -> Iterator[None]:
    """One process of the session at a time, by a byte of a file that is everybody's: a killed one leaves nothing."""
    path = cache_directory() / "sessions.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise LabUnavailable(f"{path}: {(error.strerror or '').lower()}", "set SANCREDIT_CACHE") from None
    with file:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, _owner(name))
        yield


@contextmanager
def guest() -> Iterator[Machine]:
    """The session's guest, with our packages in it, for this caller alone.

    Raises :class:`LabUnavailable` with the reason and the fix where there can be none.
    """
    name = os.environ.get(VARIABLE)
    if name is None:
        raise LabUnavailable("no test session has begun", "use the pytest plugin of sancredit")
    with _turn(name):
        machine = machines.running(name)
        if machine is None:
            machine = _booted(name)
        yield machine


def _booted(name: str) -> Machine:
    if _REFUSED in os.environ:
        raise LabUnavailable(*json.loads(os.environ[_REFUSED]))
    try:
        machine = machines.up(name, Settings(lifetime_s=_LIFETIME_S, owner_pid=_owner(name)))
    except LabUnavailable as unavailable:
        os.environ[_REFUSED] = json.dumps([unavailable.reason, unavailable.fix])
        raise
    try:
        install(machine)
    except BaseException:
        machine.down()
        raise
    return machine
