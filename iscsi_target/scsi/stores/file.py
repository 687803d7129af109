# SPDX-License-Identifier: Apache-2.0
"""Stores in a sparse file or on a block device."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from iscsi_target.executor import Buffer
from iscsi_target.scsi.errors import InvalidConfiguration, StoreError
from iscsi_target.scsi.stores.linux import (
    allocated,
    discards,
    lives_in_memory,
    punch_hole,
    reserve_zeros,
    zero_out,
)
from iscsi_target.scsi.stores.store import Extent, Space, inside, merged

_DIRECT_ALIGNMENT = 4096
_ZERO_CHUNK = 1 << 20
_WINDOW = 1 << 30  # how far a look for extents looks ahead, while its caller may want only the first few
_MAX_IO = 1 << 30  # Linux moves at most 2 GiB - 4 KiB in one call
_BLKGETSIZE64 = 0x80081272
_BLKROGET = 0x125E


class FileStore:
    """A regular file, sparse where it was never written; also the block device (:class:`BlockDeviceStore`).

    `direct` goes past the page cache (O_DIRECT): unaligned ends are read, changed and written back. `durable`
    writes use RWF_DSYNC, so that write-back and write-through can be mixed command by command. A file that cannot
    be opened for writing is an error unless `read_only`. Reads use preadv into a fresh buffer.
    """

    def __init__(
        self,
        path: Path | str,
        size_bytes: int | None = None,
        *,
        read_only: bool = False,
        direct: bool = False,
        waits: bool | None = None,
    ) -> None:
        """Open `path`; with `size_bytes` a missing file is created sparse, an existing one must have this size.

        `waits` says whether calls may wait for a device; None: they do, unless the file lives in tmpfs.
        """
        self.path = Path(path)
        self._read_only = read_only
        self._direct = direct
        self._unaligned = threading.Lock()
        self._fd = self._open(create=size_bytes is not None and not read_only)
        try:
            self._size_bytes = self._measure(size_bytes)
            self._thin = self._can_punch()
            self._anchors = self._thin and self._can_anchor()
            self._waits = not lives_in_memory(self._fd) if waits is None else waits
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def blocking(self) -> bool:
        return self._waits

    @property
    def read_only(self) -> bool:
        return self._read_only

    @property
    def thin(self) -> bool:
        return self._thin

    @property
    def anchors(self) -> bool:
        return self._anchors

    @property
    def granularity_bytes(self) -> int:
        return 4096

    def _open(self, *, create: bool) -> int:
        flags = (os.O_RDONLY if self._read_only else os.O_RDWR) | os.O_CLOEXEC
        if create:
            flags |= os.O_CREAT
        if self._direct:
            flags |= os.O_DIRECT
        try:
            return os.open(self.path, flags, 0o600)
        except OSError as error:
            hint = (
                "; this file system has no O_DIRECT" if self._direct and error.errno == errno.EINVAL else ""
            )
            raise StoreError(f"cannot open {self.path}: {error.strerror}{hint}") from None

    def _measure(self, size_bytes: int | None) -> int:
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidConfiguration(f"{self.path} is not a regular file")
        if size_bytes is not None and status.st_size == 0 and size_bytes > 0 and not self._read_only:
            try:
                os.ftruncate(self._fd, size_bytes)
            except OSError as error:
                raise StoreError(
                    f"cannot make {self.path} {size_bytes} bytes long: {error.strerror}"
                ) from None
            return size_bytes
        if size_bytes is not None and status.st_size != size_bytes:
            raise InvalidConfiguration(f"{self.path} has {status.st_size} bytes, not {size_bytes}")
        if status.st_size == 0:
            raise InvalidConfiguration(f"{self.path} is empty: a logical unit needs at least one block")
        return status.st_size

    def _can_punch(self) -> bool:
        """Whether discarding gives space back; asked past the end of the file, where nothing can be lost.

        A file open for reading has holes to tell of, and is not discarded from.
        """
        if self._read_only:
            return True
        end = -(-self._size_bytes // 4096) * 4096
        try:
            return punch_hole(self._fd, end, 4096)
        except OSError:
            return False

    def _can_anchor(self) -> bool:
        """Whether the file system reserves space without writing to it, and tells where it did (ext4, xfs); asked past
        the end of the file, and given back."""
        end = -(-self._size_bytes // 4096) * 4096
        try:
            list(allocated(self._fd, 0, 1))  # raises where nobody tells
            if self._read_only:
                return True
            anchored = reserve_zeros(self._fd, end, 4096)
            os.ftruncate(self._fd, self._size_bytes)
        except OSError:
            return False
        return anchored

    @contextmanager
    def _failing_as_store_error(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise StoreError(f"{what} {self.path}: {error.strerror or error}", full=full) from error

    def read(self, offset: int, length: int) -> Sequence[Buffer]:
        inside(self._size_bytes, offset, length)
        if not length:
            return ()
        with self._failing_as_store_error("reading"):
            if self._direct:
                return (self._read_direct(offset, length),)
            buffer = bytearray(length)
            self._fill(memoryview(buffer), offset)
            return (buffer,)

    def _fill(self, view: memoryview, offset: int) -> None:
        """Fill `view`; what lies past the end of the file (a block device's last page) stays zero."""
        done = 0
        while done < len(view):
            count = os.preadv(self._fd, [view[done : done + _MAX_IO]], offset + done)
            if count == 0:
                break
            done += count

    def _aligned(self, offset: int, length: int) -> tuple[int, int]:
        start = offset // _DIRECT_ALIGNMENT * _DIRECT_ALIGNMENT
        return start, -(-(offset + length) // _DIRECT_ALIGNMENT) * _DIRECT_ALIGNMENT - start

    def _read_direct(self, offset: int, length: int) -> memoryview:
        start, span = self._aligned(offset, length)
        view = memoryview(mmap.mmap(-1, span))  # O_DIRECT wants aligned memory, a mapping is
        self._fill(view, start)
        return view[offset - start : offset - start + length]

    def write(self, offset: int, data: Buffer, *, durable: bool = False) -> None:
        inside(self._size_bytes, offset, len(data))
        if not len(data):
            return
        with self._failing_as_store_error("writing"):
            if self._direct and (offset | len(data)) % _DIRECT_ALIGNMENT:
                with self._unaligned:  # neighbours inside one aligned page must not undo each other
                    self._write_direct(offset, data, durable)
            elif self._direct:
                self._write_direct(offset, data, durable)
            else:
                self._drain(memoryview(data), offset, durable)

    def _drain(self, view: memoryview, offset: int, durable: bool) -> None:
        flags = os.RWF_DSYNC if durable else 0
        done = 0
        while done < len(view):
            done += os.pwritev(self._fd, [view[done : done + _MAX_IO]], offset + done, flags)

    def _write_direct(self, offset: int, data: Buffer, durable: bool) -> None:
        start, span = self._aligned(offset, len(data))
        view = memoryview(mmap.mmap(-1, span))
        head = offset - start
        if head:
            self._fill(view[:_DIRECT_ALIGNMENT], start)
        if (head + len(data)) % _DIRECT_ALIGNMENT and (span > _DIRECT_ALIGNMENT or not head):
            self._fill(view[-_DIRECT_ALIGNMENT:], start + span - _DIRECT_ALIGNMENT)
        view[head : head + len(data)] = data
        grown = start + span > self._size_bytes
        self._drain(view, start, durable)
        if grown:
            os.ftruncate(self._fd, self._size_bytes)

    def flush(self) -> None:
        if not self._read_only:
            with self._failing_as_store_error("flushing"):
                os.fdatasync(self._fd)

    def discard(self, offset: int, length: int) -> None:
        inside(self._size_bytes, offset, length)
        if not length:
            return
        with self._failing_as_store_error("discarding from"):
            if self._thin and punch_hole(self._fd, offset, length):
                return
        self._write_zeros(offset, length)

    def _write_zeros(self, offset: int, length: int) -> None:
        zeros = bytes(min(length, _ZERO_CHUNK))
        for position in range(offset, offset + length, _ZERO_CHUNK):
            self.write(position, zeros[: min(_ZERO_CHUNK, offset + length - position)])

    def anchor(self, offset: int, length: int) -> None:
        inside(self._size_bytes, offset, length)
        with self._failing_as_store_error("reserving space in"):
            if not self._anchors or (length and not reserve_zeros(self._fd, offset, length)):
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def space(self) -> Space | None:
        with self._failing_as_store_error("asking"):
            used = os.fstat(self._fd).st_blocks * 512
            around = os.fstatvfs(self._fd)
        return Space(used, min(around.f_bavail * around.f_frsize, max(0, self._size_bytes - used)))

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        inside(self._size_bytes, offset, length)
        return merged(self._extents(offset, offset + length))

    def _extents(self, position: int, end: int) -> Iterator[Extent]:
        for start in range(position, end, _WINDOW):
            stop = min(end, start + _WINDOW)
            anchored = self._anchors and self._some_anchored(start, stop)
            yield from (self._allocated if anchored else self._sparse)(start, stop)

    def _sparse(self, position: int, end: int) -> Iterator[Extent]:
        """Extents as holes and data, of a range without anything anchored."""
        while position < end:
            with self._failing_as_store_error("looking for holes in"):
                data = self._seek(position, os.SEEK_DATA, end)
                if data > position:
                    yield Extent(position, data - position, False)
                    position = data
                    continue
                hole = self._seek(position, os.SEEK_HOLE, end)
            yield Extent(position, hole - position, True)
            position = hole

    def _some_anchored(self, position: int, end: int) -> bool:
        with self._failing_as_store_error("looking for extents of"):
            return any(unwritten for _, _, unwritten in allocated(self._fd, position, end - position))

    def _allocated(self, position: int, end: int) -> Iterator[Extent]:
        """Extents as the file system knows them, with what is anchored; costs a flush of the range."""
        with self._failing_as_store_error("looking for extents of"):
            found = list(allocated(self._fd, position, end - position, written_back=True))
        for start, span, unwritten in found:
            if start > position:
                yield Extent(position, start - position, False)
            yield Extent(start, span, not unwritten, anchored=unwritten)
            position = start + span
        if position < end:
            yield Extent(position, end - position, False)

    def _seek(self, position: int, whence: int, end: int) -> int:
        """The next data or hole at or after `position`, at most `end`."""
        try:
            return min(end, os.lseek(self._fd, position, whence))
        except OSError as error:
            if error.errno == errno.ENXIO:  # no more data
                return end
            raise

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class BlockDeviceStore(FileStore):
    """A block device. Discards are passed on where it takes them, and read as zeros in any case; it does not tell what
    is mapped, so all of it is reported as mapped or unknown (SBC-3 table 46)."""

    _discard_bytes = 0

    def _measure(self, size_bytes: int | None) -> int:
        if not stat.S_ISBLK(os.fstat(self._fd).st_mode):
            raise InvalidConfiguration(f"{self.path} is not a block device")
        with self._failing_as_store_error("asking"):
            (size,) = struct.unpack("Q", fcntl.ioctl(self._fd, _BLKGETSIZE64, bytes(8)))
            (locked,) = struct.unpack("i", fcntl.ioctl(self._fd, _BLKROGET, bytes(4)))
        if locked and not self._read_only:
            raise StoreError(f"{self.path} is read-only; say so to use it")
        if size_bytes is not None and size != size_bytes:
            raise InvalidConfiguration(f"{self.path} has {size} bytes, not {size_bytes}")
        if size == 0:
            raise InvalidConfiguration(f"{self.path} has no medium")
        return int(size)

    def _can_punch(self) -> bool:
        self._discard_bytes = 0 if self._read_only else discards(self._fd)
        return self._discard_bytes > 0

    def _can_anchor(self) -> bool:
        return False

    def space(self) -> Space | None:
        return None

    @property
    def granularity_bytes(self) -> int:
        return max(4096, self._discard_bytes)

    def discard(self, offset: int, length: int) -> None:
        inside(self._size_bytes, offset, length)
        if not length:
            return
        with self._failing_as_store_error("discarding from"):
            if self._thin and self._punch(offset, length):
                return
            try:
                zero_out(self._fd, offset, length)
                return
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY):
                    raise
        self._write_zeros(offset, length)  # a range that is not whole sectors of the device

    def _punch(self, offset: int, length: int) -> bool:
        try:
            return punch_hole(self._fd, offset, length)
        except OSError as error:
            if error.errno == errno.EINVAL:  # not whole sectors
                return False
            raise

    def _extents(self, position: int, end: int) -> Iterator[Extent]:
        if end > position:
            yield Extent(position, end - position, True)
