"""The one guest of a test session, for every process of it: booted by whoever needs it first, ended with the session.

Tests that use it say ``pytestmark = MARKS``. Where qemu or the packages cannot be had they are skipped, with the
reason and the fix. Only one test at a time has the guest: a lock keeps the others waiting, so `--dist loadgroup` (all
of them in one worker) is what wastes no worker.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tools.lab import machine as machines
from tools.lab.errors import LabUnavailable
from tools.lab.image import cache_directory
from tools.lab.machine import Machine, Settings
from tools.lab.project import install

SESSION = "SANCREDIT_LAB_SESSION"
_LIFETIME_S = 3600

#: slow: real kernels take their time; the group keeps them in one worker; the time-out covers building the image.
MARKS = [
    pytest.mark.slow,
    pytest.mark.lab,
    pytest.mark.xdist_group("lab"),
    pytest.mark.timeout(600),
]


def begin_session() -> bool:
    """The name of the guest, for this process and all that it starts; whether it is this one that ends it."""
    if SESSION in os.environ:
        return False
    os.environ[SESSION] = f"pytest-{uuid.uuid4().hex[:12]}"
    return True


def end_session() -> None:
    """Switch the guest off, if there was one."""
    name = os.environ.pop(SESSION)
    machine = machines.running(name)
    if machine is not None:
        machine.down()
    (cache_directory() / "machines" / f"{name}.lock").unlink(missing_ok=True)


@contextmanager
def guest() -> Iterator[Machine]:
    """The session's guest, for one test alone."""
    name = os.environ[SESSION]
    folder = cache_directory() / "machines"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        pytest.skip(
            f"no lab here: {folder}: {error.strerror}; set SANCREDIT_CACHE to a place that can be written"
        )
    lock = folder / f"{name}.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        machine = machines.running(name)
        if machine is None:
            try:
                machine = machines.up(name, Settings(lifetime_s=_LIFETIME_S))
            except LabUnavailable as unavailable:
                pytest.skip(f"no lab here: {unavailable.reason}; to fix it: {unavailable.fix}")
            try:
                install(machine)
            except BaseException:
                machine.down()
                raise
        yield machine
