"""Stands between a guest and who started it: ends the guest with its owner, or after its time; leaves nothing behind.

Run as a file, ``python keeper.py OWNER SECONDS DIRECTORY RECORD -- COMMAND``, with nothing but the standard library: it
lives as long as the guest does. ``OWNER`` is the process that the guest must not outlive, 0 for none. A keeper that is
killed takes the guest along (``PR_SET_PDEATHSIG``).
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_GRACE_S = 5.0
_ENDED = 124
"""Our exit status where the owner or the time was the reason, as timeout(1) has it."""


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(words: Sequence[str]) -> int:
    """The guest's exit status; 124 when it was ended here."""
    owner, seconds, directory, record = words[:4]
    command = words[words.index("--") + 1 :]
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    if owner != "0":
        try:
            poll.register(os.pidfd_open(int(owner)), select.POLLIN)
        except ProcessLookupError:  # gone already
            return _ENDED
    guest = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)
    poll.register(os.pidfd_open(guest.pid), select.POLLIN)
    poll.poll(float(seconds) * 1000)
    ended = guest.poll()
    if ended is not None:
        return ended
    guest.terminate()
    try:
        guest.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        guest.kill()
        guest.wait()
    shutil.rmtree(directory, ignore_errors=True)
    with suppress(OSError):
        Path(record).unlink()
    return _ENDED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
