"""The command line as other users of the machine see it (``ps``, ``/proc/PID/cmdline``): without passwords."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

#: A user name and the password of a URL, up to the last ``@`` of the word.
_PASSWORD = re.compile(rb"://[^:@/\0]*:([^\0]+)@")
_ARG_START = 48  # proc(5), /proc/PID/stat: address of the first argument; counted from 1


def blanked(command_line: bytes) -> bytes:
    """``command_line`` (arguments ended by NUL) with asterisks for the password of every URL; as long as before."""

    def asterisks(found: re.Match[bytes]) -> bytes:
        start, end = (at - found.start() for at in found.span(1))
        return found[0][:start] + b"*" * (end - start) + found[0][end:]

    return _PASSWORD.sub(asterisks, command_line)


def hide_passwords() -> bool:
    """Overwrite the passwords in this process's own arguments; whether that could be done.

    The kernel shows the memory where it put the arguments when the program was started, so the bytes are replaced
    in place. Python has copied them before. Where the kernel does not say where they are (not Linux, a hardened
    one) nothing is done.
    """
    try:
        before = Path("/proc/self/cmdline").read_bytes()
        fields = (
            Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
        start = int(fields[_ARG_START - 3])
    except (OSError, IndexError, ValueError):
        return False
    after = blanked(before)
    if not start or after == before or ctypes.string_at(start, len(before)) != before:
        return after == before
    ctypes.memmove(start, after, len(after))
    return True
