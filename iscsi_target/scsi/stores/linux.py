# SPDX-License-Identifier: Apache-2.0
"""Two system calls that Python's os module does not have: fallocate(2), to punch holes, and statfs(2)."""

from __future__ import annotations

import ctypes
import errno
import os

_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02
_UNSUPPORTED = frozenset((errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV))
_MEMORY_FILE_SYSTEMS = frozenset((0x01021994, 0x858458F6))
"""TMPFS_MAGIC and RAMFS_MAGIC (statfs(2))."""

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fallocate.restype = ctypes.c_int
_fstatfs = _libc.fstatfs
_fstatfs.argtypes = (ctypes.c_int, ctypes.c_void_p)
_fstatfs.restype = ctypes.c_int


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Deallocate a range of an open file; it reads as zeros afterwards.

    Returns False, having changed nothing, where the file system cannot; raises OSError for every other failure.
    """
    while _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length) != 0:
        code = ctypes.get_errno()
        if code == errno.EINTR:
            continue
        if code in _UNSUPPORTED:
            return False
        raise OSError(code, os.strerror(code))
    return True


def lives_in_memory(fd: int) -> bool:
    """Whether an open file is in tmpfs or ramfs, where reading and writing never wait for a device."""
    answer = (ctypes.c_long * 64)()  # struct statfs begins with the type, and is shorter than this
    return _fstatfs(fd, answer) == 0 and answer[0] in _MEMORY_FILE_SYSTEMS
