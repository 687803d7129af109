"""One guest for a whole test session, whichever of its processes needs it first; a lock gives it to one at a time.

The name of the guest is in the environment, so that the workers of pytest-xdist share it. Whoever began the session
ends it, also by being killed: the guest does not outlive that process, whose number is in the name, nor an hour.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.lab import machine as machines
from tools.lab.errors import LabUnavailable
from tools.lab.machine import Machine, Settings
from tools.lab.project import install

VARIABLE = "SANCREDIT_LAB_SESSION"
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
    machine = machines.running(name)
    if machine is not None:
        machine.down()
    _lock(name).unlink(missing_ok=True)


def _lock(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"sancredit-{name}.lock"


def _owner(name: str) -> int:
    """The process that began the session."""
    return int(name.split("-")[1])


@contextmanager
def guest() -> Iterator[Machine]:
    """The session's guest, with our packages in it, for this caller alone.

    Raises :class:`LabUnavailable` with the reason and the fix where there can be none.
    """
    name = os.environ.get(VARIABLE)
    if name is None:
        raise LabUnavailable("no test session has begun", "use the pytest plugin of sancredit")
    with _lock(name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        machine = machines.running(name)
        if machine is None:
            machine = machines.up(name, Settings(lifetime_s=_LIFETIME_S, owner_pid=_owner(name)))
            try:
                install(machine)
            except BaseException:
                machine.down()
                raise
        yield machine
