# SPDX-License-Identifier: Apache-2.0
"""System calls that Python's os module does not have: fallocate(2), to punch holes and to reserve space, statfs(2), and
the ioctls for what is reserved in a file and for block devices."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02
_ZERO_RANGE = 0x10
_BLKZEROOUT = 0x127F
_FS_IOC_FIEMAP = 0xC020660B
_FIEMAP = struct.Struct("=QQIIII")
_FIEMAP_EXTENT = struct.Struct("=QQQ16xI12x")
_FIEMAP_EXTENT_UNWRITTEN = 0x0800
_FIEMAP_FLAG_SYNC = 0x0001
_FIEMAP_COUNT = 64
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


def _allocate(fd: int, mode: int, offset: int, length: int) -> bool:
    while _fallocate(fd, mode | _KEEP_SIZE, offset, length) != 0:
        code = ctypes.get_errno()
        if code == errno.EINTR:
            continue
        if code in _UNSUPPORTED:
            return False
        raise OSError(code, os.strerror(code))
    return True


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Deallocate a range of an open file or block device; it reads as zeros afterwards.

    Returns False, having changed nothing, where the file system or device cannot; raises OSError for every other
    failure. On a block device this is the zeroing that gives space back: BLKDISCARD promises no zeros.
    """
    return _allocate(fd, _PUNCH_HOLE, offset, length)


def reserve_zeros(fd: int, offset: int, length: int) -> bool:
    """Make a range of an open file zeros whose space is allocated but not written; results as of `punch_hole`."""
    return _allocate(fd, _ZERO_RANGE, offset, length)


def allocated(
    fd: int, offset: int, length: int, *, written_back: bool = False
) -> Iterator[tuple[int, int, bool]]:
    """(offset, length, unwritten) of what has space in a range of an open file, in order; `unwritten` reads as zeros.

    Data that are only in the page cache may be missing, or still look unwritten; with `written_back` they are brought
    to the file first. Raises OSError where the file system does not tell (fiemap.rst in Linux's documentation).
    """
    position, end = offset, offset + length
    while position < end:
        request = bytearray(_FIEMAP.size + _FIEMAP_COUNT * _FIEMAP_EXTENT.size)
        flags = _FIEMAP_FLAG_SYNC if written_back else 0
        _FIEMAP.pack_into(request, 0, position, end - position, flags, 0, _FIEMAP_COUNT, 0)
        fcntl.ioctl(fd, _FS_IOC_FIEMAP, request)
        count = _FIEMAP.unpack_from(request)[3]
        for index in range(count):
            at = _FIEMAP.size + index * _FIEMAP_EXTENT.size
            start, _, span, flags = _FIEMAP_EXTENT.unpack_from(request, at)
            first, position = max(position, start), start + span
            if first < min(position, end):
                yield first, min(position, end) - first, bool(flags & _FIEMAP_EXTENT_UNWRITTEN)
        if count < _FIEMAP_COUNT:
            return


def zero_out(fd: int, offset: int, length: int) -> None:
    """Zeros over a range of a block device, made by the device or the kernel (BLKZEROOUT). Raises OSError."""
    fcntl.ioctl(fd, _BLKZEROOUT, struct.pack("=QQ", offset, length))


def discards(fd: int) -> int:
    """The granularity in bytes in which an open block device takes discards; 0: it takes none.

    From sysfs; a partition has the queue of its disk.
    """
    device = os.fstat(fd).st_rdev
    folder = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    for queue in (folder / "queue", folder.resolve().parent / "queue"):
        try:
            if int((queue / "discard_max_bytes").read_text()) > 0:
                return max(512, int((queue / "discard_granularity").read_text()))
        except (OSError, ValueError):
            continue
        return 0
    return 0


def lives_in_memory(fd: int) -> bool:
    """Whether an open file is in tmpfs or ramfs, where reading and writing never wait for a device."""
    answer = (ctypes.c_long * 64)()  # struct statfs begins with the type, and is shorter than this
    return _fstatfs(fd, answer) == 0 and answer[0] in _MEMORY_FILE_SYSTEMS
