"""The cache's memory: slots of a page each, and beside every slot which sectors of which volume its disk lacks.

With a file the memory is a shared mapping of it: what a write has put there stays in the kernel's page cache
however the process ends (a file on tmpfs costs no disk; one on a disk survives the machine as far as the kernel
has written it). The order of the stores is what makes it safe: data first, then the sectors' bits. A slot gets
another page only when all of its bits are clear, and a bit is cleared only when the disk has the sector.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mgmt.array.cache.pages import PAGE_BYTES, Key

_MAGIC = b"SANCACHE"
_VERSION = 1
_HEAD = struct.Struct("<8sII")
_RECORD = struct.Struct("<16sQI4x")
_BLOCK = 4096
_LARGEST_HEAD_BYTES = 1 << 20
_NO_SECTORS = bytes(16)


class CacheFileError(Exception):
    """The cache's file cannot be used; one line with the next step."""


@dataclass(frozen=True, slots=True)
class Left:
    """Sectors that an earlier run acknowledged and that their disk lacks."""

    volume: str
    page: int
    sectors: int
    data: memoryview


class CacheSlots:
    """``slots`` slots; ``volumes`` are the sizes of the volumes by name, whose numbers are their positions."""

    def __init__(self, slots: int, file: Path | None, volumes: Mapping[str, int]) -> None:
        head = json.dumps(
            {"slots": slots, "page_bytes": PAGE_BYTES, "volumes": list(volumes.items())}
        ).encode()
        self._records_at = _up(_HEAD.size + len(head))
        self._data_at = self._records_at + _up(slots * _RECORD.size)
        length = self._data_at + slots * PAGE_BYTES
        self._file = file
        self._fd = -1
        if file is None:
            self._map = mmap.mmap(-1, length)
        else:
            self._map = self._make(file, length, head)
        self._view = memoryview(self._map)

    def slot(self, slot: int, offset: int = 0, length: int = PAGE_BYTES) -> memoryview:
        """Part of a slot's memory."""
        start = self._data_at + slot * PAGE_BYTES + offset
        return self._view[start : start + length]

    def place(self, slot: int, key: Key) -> None:
        """The slot is to hold this page; all of its bits are clear."""
        _RECORD.pack_into(self._map, self._records_at + slot * _RECORD.size, _NO_SECTORS, key[1], key[0])

    def mark(self, slot: int, sectors: int) -> None:
        """The disk lacks these sectors of the slot's page."""
        at = self._records_at + slot * _RECORD.size
        self._map[at : at + 16] = sectors.to_bytes(16, "little")

    def close(self, *, remove: bool) -> None:
        """Give the memory back; ``remove`` the file when nothing in it is wanted any more."""
        self._view.release()
        self._map.close()
        if self._fd >= 0:
            if remove and self._file is not None:
                self._file.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    def _make(self, file: Path, length: int, head: bytes) -> mmap.mmap:
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._fd, 0)
            os.posix_fallocate(self._fd, 0, length)  # a hole that cannot be filled would be a SIGBUS later
            mapped = mmap.mmap(self._fd, length)
        except BlockingIOError:
            self._give_up()
            raise CacheFileError(
                f"the cache {file} is in use by another array: give each its own file"
            ) from None
        except OSError as error:
            self._give_up()
            reason = (error.strerror or str(error)).lower()
            raise CacheFileError(f"cannot make the cache {file} with {length} bytes: {reason}") from None
        mapped[_HEAD.size : _HEAD.size + len(head)] = head
        _HEAD.pack_into(mapped, 0, _MAGIC, _VERSION, len(head))
        return mapped

    def _give_up(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def recover(file: Path, volumes: Mapping[str, int], write: Callable[[Left], None]) -> int:
    """Hand what an earlier run has left in ``file`` to ``write``; returns the sectors. A missing file has nothing.

    Raises :class:`CacheFileError` for a file that is in use, is no cache, or holds sectors of a volume that is not
    among ``volumes`` with the same size; and what ``write`` raises. The file stays as it is.
    """
    try:
        with file.open("rb") as opened:
            fcntl.flock(opened.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
            length = os.fstat(opened.fileno()).st_size
            if length < _HEAD.size:
                return 0
            with mmap.mmap(opened.fileno(), length, access=mmap.ACCESS_READ) as mapped:
                view = memoryview(mapped)
                try:
                    return _recover(file, view, volumes, write)
                finally:
                    view.release()
    except FileNotFoundError:
        return 0
    except BlockingIOError:
        raise CacheFileError(f"the cache {file} is in use by another array: give each its own file") from None
    except OSError as error:
        raise CacheFileError(
            f"cannot read the cache {file}: {(error.strerror or str(error)).lower()}"
        ) from None


def _recover(file: Path, view: memoryview, volumes: Mapping[str, int], write: Callable[[Left], None]) -> int:
    magic, version, head_bytes = _HEAD.unpack_from(view)
    if magic == bytes(8):  # the process was killed while it made the file
        return 0
    no_cache = CacheFileError(f"{file} is no cache of this version: move it away")
    if magic != _MAGIC or version != _VERSION or head_bytes > _LARGEST_HEAD_BYTES:
        raise no_cache
    try:
        head = json.loads(bytes(view[_HEAD.size : _HEAD.size + head_bytes]))
        slots, named = int(head["slots"]), [(str(name), int(size)) for name, size in head["volumes"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise no_cache from None
    records_at = _up(_HEAD.size + head_bytes)
    data_at = records_at + _up(slots * _RECORD.size)
    if head.get("page_bytes") != PAGE_BYTES or slots < 1 or data_at + slots * PAGE_BYTES > len(view):
        raise no_cache
    left: list[tuple[int, int, int, str]] = []
    missing: dict[str, int] = {}
    for slot in range(slots):
        bits, page, number = _RECORD.unpack_from(view, records_at + slot * _RECORD.size)
        if bits == _NO_SECTORS:
            continue
        if number >= len(named):
            raise no_cache
        name, size_bytes = named[number]
        sectors = int.from_bytes(bits, "little")
        if volumes.get(name) != size_bytes:
            missing[name] = missing.get(name, 0) + sectors.bit_count()
        left.append((slot, page, sectors, name))
    if missing:
        name, count = next(iter(missing.items()))
        raise CacheFileError(
            f"the cache {file} holds {count} sectors that were acknowledged for volume {name}, which is not here in "
            "that size: configure it as it was, or move the file away to lose them"
        )
    for slot, page, sectors, name in left:
        start = data_at + slot * PAGE_BYTES
        with view[start : start + PAGE_BYTES] as data:
            write(Left(name, page, sectors, data))
    return sum(sectors.bit_count() for _, _, sectors, _ in left)


def _up(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK
