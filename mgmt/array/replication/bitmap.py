"""Which blocks of a volume the secondary does not have: a durable bitmap, one bit for 4 KiB.

A mapped file of nothing but these bits: 32 MiB for 1 TiB. A killed process loses nothing of it: what was set is in the
page cache. Against a loss of power every write is announced beforehand in a second, coarse map (one bit for 16 MiB),
which is synced before the write goes on; after a reboot everything announced counts as changed. The coarse map lies
in a file of its own, ``NAME.announced``, behind a header that says which volume and which run of the kernel the two
are of (12 KiB for 1 TiB). Bits without that file say nothing, so everything counts as changed then.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import zlib
from contextlib import ExitStack
from pathlib import Path

BLOCK_BYTES = 4096
CHUNK_BYTES = 16 << 20
_HEADER_BYTES = 4096
_MAGIC = b"SCBITMAP"
_HEADER = struct.Struct("<8sIQ36sI")
_VERSION = 2
_SCAN_BYTES = 64 * 1024
_SMALL_BITS = 64


class BitmapError(Exception):
    """The bitmap's file cannot be made or is not one of this volume; one line."""


def boot_id() -> str:
    """What names this run of the kernel (36 characters)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def announced_file(bitmap: Path) -> Path:
    """Where the header and the coarse map of the bitmap in a file are."""
    return bitmap.with_name(f"{bitmap.name}.announced")


class ChangeBitmap:
    """The bitmap in ``path`` of a volume of ``size_bytes``; made, all clear, where there is no file.

    Thread-safe. ``boot`` names the run of the kernel: with another one than the file was written under, what was
    announced counts as changed. Raises :class:`BitmapError`.
    """

    def __init__(self, path: Path, size_bytes: int, boot: str | None = None) -> None:
        self.size_bytes = size_bytes
        self.blocks = -(-size_bytes // BLOCK_BYTES)
        self._chunks = -(-size_bytes // CHUNK_BYTES)
        self._end = -(-self.blocks // 8)
        self._lock = threading.Lock()
        self._dirty = 0
        boot = boot or boot_id()
        header = announced_file(path)
        if header.exists() and not path.exists():
            raise BitmapError(f"{header} has lost its bitmap {path}; delete the pair and make it again")
        with ExitStack() as undo:
            self._map, fresh = _mapped(path, self._end)
            undo.callback(self._map.close)
            self._announced, unknown = _mapped(header, _HEADER_BYTES + -(-self._chunks // (8 * 4096)) * 4096)
            undo.callback(self._announced.close)
            unknown |= not any(self._announced[: _HEADER.size])
            if not unknown:
                before = self._check(header)
                if before != boot:
                    self._count_announced()
            elif not fresh:  # of a pair that was never finished, or whose header was lost: nothing is known
                self._set(0, self.blocks)
            self._write_header(boot)
            self._announced.flush(0, mmap.PAGESIZE)
            self._dirty = 0 if fresh else self._count(0, self._end)
            undo.pop_all()

    def _write_header(self, boot: str) -> None:
        fields = (_MAGIC, _VERSION, self.size_bytes, boot.encode("ascii"))
        crc = zlib.crc32(_HEADER.pack(*fields, 0))
        self._announced[: _HEADER.size] = _HEADER.pack(*fields, crc)

    def _check(self, path: Path) -> str:
        magic, version, size_bytes, boot, crc = _HEADER.unpack(self._announced[: _HEADER.size])
        good = zlib.crc32(_HEADER.pack(magic, version, size_bytes, boot, 0)) == crc
        if not good or magic != _MAGIC or version != _VERSION or size_bytes != self.size_bytes:
            raise BitmapError(f"{path} is damaged; delete the pair and make it again")
        return str(boot.decode("ascii", "replace"))

    def _count_announced(self) -> None:
        for chunk in range(self._chunks):
            if self._announced[_HEADER_BYTES + chunk // 8] >> chunk % 8 & 1:
                start = chunk * CHUNK_BYTES // BLOCK_BYTES
                self._set(start, min(start + CHUNK_BYTES // BLOCK_BYTES, self.blocks))

    # -- announcing -----------------------------------------------------------------------------------------

    def announce(self, offset: int, length: int) -> None:
        """Something between ``offset`` and ``offset + length`` is about to change; synced where that is news."""
        first, last = offset // CHUNK_BYTES, (offset + length - 1) // CHUNK_BYTES
        for chunk in range(first, last + 1):
            at = _HEADER_BYTES + chunk // 8
            if self._announced[at] >> chunk % 8 & 1:
                continue
            with self._lock:
                self._announced[at] |= 1 << chunk % 8
                page = at // mmap.PAGESIZE * mmap.PAGESIZE
                self._announced.flush(page, mmap.PAGESIZE)

    def retract(self) -> None:
        """The secondary has every block and has it on its disk: nothing is announced any more."""
        with self._lock:
            if self._dirty == 0:
                self._announced[_HEADER_BYTES:] = bytes(len(self._announced) - _HEADER_BYTES)

    # -- setting and clearing -------------------------------------------------------------------------------

    @property
    def dirty_bytes(self) -> int:
        """Bytes of all blocks that are set; the last block counts whole."""
        return self._dirty * BLOCK_BYTES

    def mark(self, offset: int, length: int) -> None:
        """The blocks that these bytes touch have changed."""
        if length > 0:
            with self._lock:
                self._set(offset // BLOCK_BYTES, (offset + length - 1) // BLOCK_BYTES + 1)

    def mark_all(self) -> None:
        """Every block: what an initial copy begins with."""
        self.mark(0, self.size_bytes)

    def clear(self, first: int, count: int = 1) -> None:
        """``count`` blocks from number ``first`` on are the same at both ends."""
        with self._lock:
            self._change(first, first + count, set_them=False)

    def _set(self, first: int, end: int) -> None:
        self._change(first, end, set_them=True)

    def _change(self, first: int, end: int, *, set_them: bool) -> None:
        """Set or clear the bits of blocks ``first`` to ``end``, byte by byte or a slice at a time; keeps the count."""
        if end - first > _SMALL_BITS:
            whole, past = -(-first // 8), end // 8
            self._change(first, whole * 8, set_them=set_them)
            before = self._count(whole, past) if self._dirty else 0
            filling = b"\xff" if set_them else b"\0"
            self._map[whole:past] = filling * (past - whole)
            self._dirty += ((past - whole) * 8 if set_them else 0) - before
            self._change(past * 8, end, set_them=set_them)
            return
        while first < end:
            at, low = first // 8, first % 8
            high = min(8, low + end - first)
            mask = (1 << high) - (1 << low)
            old = self._map[at]
            new = old | mask if set_them else old & ~mask
            if new != old:
                self._map[at] = new
                self._dirty += new.bit_count() - old.bit_count()
            first += high - low

    def _count(self, start: int, end: int) -> int:
        found = 0
        for at in range(start, end, _SCAN_BYTES):
            piece = self._map[at : min(end, at + _SCAN_BYTES)]
            if piece.strip(b"\0"):
                found += int.from_bytes(piece, "little").bit_count()
        return found

    # -- looking --------------------------------------------------------------------------------------------

    def is_set(self, block: int) -> bool:
        """Whether block number ``block`` has changed."""
        return bool(self._map[block // 8] >> block % 8 & 1)

    def next_run(self, start: int, most: int) -> tuple[int, int] | None:
        """(first block, count) of the first run of set blocks from ``start`` on, at most ``most`` long; None: none."""
        with self._lock:
            first = self._first_set(start)
            if first is None:
                return None
            end = first + 1
            while end < self.blocks and end - first < most and self.is_set(end):
                end += 1
            return first, end - first

    def _first_set(self, start: int) -> int | None:
        if start >= self.blocks:
            return None
        while start < self.blocks and start % 8:
            if self.is_set(start):
                return start
            start += 1
        at = -(-start // 8)
        while at < self._end:
            piece = self._map[at : min(self._end, at + _SCAN_BYTES)]
            rest = piece.lstrip(b"\0")
            if rest:
                byte = at + len(piece) - len(rest)
                low = (rest[0] & -rest[0]).bit_length() - 1
                return byte * 8 + low
            at += len(piece)
        return None

    def sync(self) -> None:
        """What is set survives a loss of power from here on."""
        self._map.flush()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            for one in (self._map, self._announced):
                if not one.closed:
                    one.close()


def _mapped(path: Path, size_bytes: int) -> tuple[mmap.mmap, bool]:
    """The file as memory, and whether it was made just now. :class:`BitmapError`."""
    try:
        with path.open("a+b") as file:
            found = os.fstat(file.fileno()).st_size
            if not found:  # the room is taken now, so that no write to the map can fail later
                os.posix_fallocate(file.fileno(), 0, size_bytes)
            elif found != size_bytes:
                raise BitmapError(f"{path} is the bitmap of a volume of another size; delete the pair")
            return mmap.mmap(file.fileno(), size_bytes), not found
    except OSError as error:
        raise BitmapError(f"cannot open the bitmap {path}: {error.strerror}") from None
