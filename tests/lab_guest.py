"""The session's guest for our own tests: skipped, loudly, where qemu or the packages cannot be had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tools.lab import session
from tools.lab.errors import LabUnavailable
from tools.lab.image import cache_directory
from tools.lab.machine import Machine

#: Where packages and the image are; a pytest that a test starts has another home directory.
CACHE = str(cache_directory().parent)

#: slow: real kernels take their time; the group keeps them in one worker. The time-out covers fetching the packages
#: (7 minutes at most), building the image and booting (5 at most), which the first test waits for.
MARKS = [
    pytest.mark.slow,
    pytest.mark.lab,
    pytest.mark.xdist_group("lab"),
    pytest.mark.timeout(1200),
]


@contextmanager
def guest() -> Iterator[Machine]:
    """The session's guest, for one test alone."""
    with ExitStack() as stack:
        try:
            machine = stack.enter_context(session.guest())
        except LabUnavailable as unavailable:
            pytest.skip(f"no lab here: {unavailable.reason}; to fix it: {unavailable.fix}")
        yield machine
