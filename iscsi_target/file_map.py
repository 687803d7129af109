# SPDX-License-Identifier: Apache-2.0
"""Memory that is also a file, so that the kernel can send it by reference instead of copying it (sendfile(2))."""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref

from iscsi_target.executor import Buffer


class FileMap(mmap.mmap):
    """A sparse mapping of an anonymous file (memfd_create(2)), as zeros; pages are taken when written.

    The file goes with the last view of the map. Raises OSError, OverflowError and ValueError as mmap does.
    """

    descriptor: int
    address: int

    def __new__(cls, size_bytes: int) -> FileMap:
        descriptor = os.memfd_create("sancredit", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, size_bytes)
            made = super().__new__(cls, descriptor, size_bytes, flags=mmap.MAP_SHARED)
        except BaseException:
            os.close(descriptor)
            raise
        made.descriptor = descriptor
        made.address = _address(made)
        weakref.finalize(made, os.close, descriptor)
        return made

    def give_back(self, offset: int, length: int) -> None:
        """Whole pages read as zeros again and take no memory."""
        self.madvise(mmap.MADV_REMOVE, offset, length)


def place_in_file(buffer: Buffer) -> tuple[int, int] | None:
    """(file descriptor, offset) of a writable view of a :class:`FileMap`; None for any other buffer."""
    if not isinstance(buffer, memoryview) or buffer.readonly:
        return None
    exporter = buffer.obj
    if not isinstance(exporter, FileMap):
        return None
    return exporter.descriptor, _address(buffer) - exporter.address


def _address(buffer: mmap.mmap | memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
