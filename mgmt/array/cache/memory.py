"""The cache memory 102 as it runs: pages, slots, and the thread that writes back. Thread-safe.

Others use it too. Asynchronous remote copy keeps what it has to send in it (:meth:`CacheMemory.charge`), is told of the
watermarks (:meth:`CacheMemory.watch`) and may ask for hosts to be slowed down (:meth:`CacheMemory.add_slow_down`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from iscsi_target.executor import Buffer
from iscsi_target.scsi.errors import StoreError
from iscsi_target.scsi.stores.store import BackingStore
from mgmt.array.cache.pages import (
    ALL_SECTORS,
    PAGE_BYTES,
    SECTOR_BYTES,
    CachePages,
    CacheStatistics,
    Destage,
    Level,
    WatermarkCrossed,
)
from mgmt.array.cache.slots import CacheFileError, CacheSlots, Left, recover
from mgmt.array.description import CacheConfig

__all__ = ["CacheFileError", "CacheMemory", "CacheStatistics", "Level", "WatermarkCrossed"]

_log = logging.getLogger(__name__)

#: How long a host's write waits for room before it fails.
ROOM_TIMEOUT_S = 30.0
#: How often write-back looks for pages that have become old.
_TICK_S = 0.25
#: How long it leaves a disk in peace that has failed.
_AFTER_FAILURE_S = 1.0
#: What a host's write waits when the cache is full; in proportion from the high watermark on.
SLOWEST_NS = 20_000_000


@dataclass(frozen=True, slots=True)
class CachedVolume:
    """A disk behind the cache. Its position in the list is its number there."""

    name: str
    disk: BackingStore


@dataclass(frozen=True, slots=True)
class _Part:
    """What of an access lies in one page; offsets in bytes."""

    page: int
    start: int
    length: int
    position: int

    @property
    def sectors(self) -> int:
        return _sectors(self.start, self.length)


class CacheMemory:
    """A cache of ``config.size_bytes`` before ``volumes``. Close it: that writes everything back.

    What an earlier run left in the file is on the disks before this returns. Raises :class:`CacheFileError`, and
    StoreError where a disk does not take it.
    """

    def __init__(
        self,
        config: CacheConfig,
        volumes: Sequence[CachedVolume],
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        room_timeout_s: float = ROOM_TIMEOUT_S,
    ) -> None:
        self.config = config
        self._clock = clock
        self._room_timeout_s = room_timeout_s
        self._volumes = tuple(volumes)
        sizes = {volume.name: volume.disk.size_bytes for volume in volumes}
        self.recovered_bytes = 0
        if config.file is not None:
            self.recovered_bytes = self._recover(config, sizes)
        slots = config.size_bytes // PAGE_BYTES
        self._slots = CacheSlots(slots, config.file, sizes)
        self._pages = CachePages(slots, high_percent=config.high_percent, low_percent=config.low_percent)
        self._changed = threading.Condition()
        self._watchers: list[Callable[[WatermarkCrossed], None]] = []
        self._slow_downs: list[Callable[[], int]] = []
        self._failing: dict[int, str] = {}
        self._ending = False
        self._thread = threading.Thread(target=self._write_back, name="write-back", daemon=True)
        self._thread.start()

    # -- hosts and remote copy ------------------------------------------------------------------------------

    def write(self, volume: int, offset: int, data: Buffer) -> None:
        """Keep ``data``, whole sectors, for the volume's disk. Raises StoreError where there is no room."""
        view = memoryview(data).cast("B")
        for part in _parts(offset, len(view)):
            key = volume, part.page
            slot = self._claim(volume, part.page)
            try:
                self._slots.slot(slot, part.start, part.length)[:] = view[
                    part.position : part.position + part.length
                ]
            except BaseException:
                with self._changed:
                    self._pages.release(key)
                raise
            with self._changed:
                dirty = self._pages.written(key, part.sectors, self._clock())
                self._slots.mark(slot, dirty)
                self._tell()

    def read(self, volume: int, offset: int, length: int) -> Sequence[Buffer]:
        """Bytes of the volume: from the cache where it has them, else from the disk. Raises StoreError."""
        disk = self._volumes[volume].disk
        with self._changed:
            found = []
            if self._pages.holds(volume):
                for part in _parts(offset, length):
                    held = self._pages.look_up((volume, part.page))
                    if held is not None:
                        found.append((part, *held))
        if not found:
            return disk.read(offset, length)
        try:
            if len(found) == -(-(offset % PAGE_BYTES + length) // PAGE_BYTES) and all(
                not part.sectors & ~valid for part, _, valid in found
            ):
                return [bytes(self._slots.slot(slot, part.start, part.length)) for part, slot, _ in found]
            whole = bytearray().join(disk.read(offset, length))
            for part, slot, valid in found:
                for start, size in _runs(part.sectors & valid):
                    at = part.position + start - part.start
                    whole[at : at + size] = self._slots.slot(slot, start, size)
            return (whole,)
        finally:
            with self._changed:
                for part, _, _ in found:
                    self._pages.release((volume, part.page))
                self._changed.notify_all()

    def flush(self, volume: int) -> None:
        """All that was written to the volume is on its disk's medium when this returns. Raises StoreError."""
        self._drain(volume)
        self._volumes[volume].disk.flush()

    def forget(self, volume: int, offset: int, length: int) -> None:
        """What the cache has of the range counts no more: the caller writes or discards it on the disk itself."""
        with self._changed:
            if not self._pages.holds(volume):
                return
            for part in _parts(offset, length):
                key = volume, part.page
                while self._pages.is_going(key):
                    self._changed.wait()
                if (left := self._pages.forget(key, part.sectors)) is not None:
                    self._slots.mark(*left)
            self._tell()

    # -- what others keep in it -----------------------------------------------------------------------------

    def charge(self, holder: str, size_bytes: int) -> bool:
        """Take ``size_bytes`` for ``holder``; False, and nothing is taken, when there is not so much free."""
        with self._changed:
            taken = self._pages.charge(holder, size_bytes)
            self._tell()
            return taken

    def discharge(self, holder: str, size_bytes: int) -> None:
        """Give back what ``holder`` has charged. Raises ValueError for more than that."""
        with self._changed:
            self._pages.discharge(holder, size_bytes)
            self._tell()

    def watch(self, watcher: Callable[[WatermarkCrossed], None]) -> None:
        """Call ``watcher`` when a watermark is crossed; on any thread, under the cache's lock: it may only pass on."""
        with self._changed:
            self._watchers.append(watcher)

    def add_slow_down(self, delay_ns: Callable[[], int]) -> None:
        """Ask ``delay_ns`` too, from now on, how long the answer to a host's write is to be held back."""
        with self._changed:
            self._slow_downs.append(delay_ns)

    def write_delay_ns(self) -> int:
        """How long the answer to a host's write is to be held back now: the most that anybody wants."""
        with self._changed:
            fill, slow_downs = self._pages.fill_percent(), tuple(self._slow_downs)
        high = self.config.high_percent
        own = SLOWEST_NS * (fill - high) // (100 - high) if high < fill else 0
        return max(own, *(ask() for ask in slow_downs)) if slow_downs else own

    # -- looking at it --------------------------------------------------------------------------------------

    def statistics(self) -> CacheStatistics:
        """A snapshot (M13 asks for ``free_bytes``)."""
        with self._changed:
            return self._pages.statistics()

    def failing(self) -> dict[str, str]:
        """The disks that do not take what is written back, by volume, and why."""
        with self._changed:
            return {self._volumes[number].name: text for number, text in self._failing.items()}

    def close(self) -> None:
        """Write everything back and end. What a disk does not take stays in the file for the next run, and is said."""
        clean = True
        for number, volume in enumerate(self._volumes):
            try:
                self._drain(number)
                if not volume.disk.read_only:
                    volume.disk.flush()
            except StoreError as error:
                clean = False
                where = self.config.file or "the memory, and is lost"
                _log.error("volume %s: what was not written back stays in %s: %s", volume.name, where, error)
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join()
        self._slots.close(remove=clean)

    # -- inside ---------------------------------------------------------------------------------------------

    def _recover(self, config: CacheConfig, sizes: dict[str, int]) -> int:
        disks = {volume.name: volume.disk for volume in self._volumes}

        def write(left: Left) -> None:
            for start, length in _runs(left.sectors):
                disks[left.volume].write(
                    left.page * PAGE_BYTES + start, bytes(left.data[start : start + length])
                )

        assert config.file is not None
        sectors = recover(config.file, sizes, write)
        if sectors:
            for disk in disks.values():
                if not disk.read_only:
                    disk.flush()
            _log.info("%d sectors of an earlier run went from %s to their disks", sectors, config.file)
        return sectors * SECTOR_BYTES

    def _claim(self, volume: int, page: int) -> int:
        key = volume, page
        with self._changed:
            claimed = self._pages.claim(key)
            deadline = time.monotonic() + self._room_timeout_s
            while claimed is None:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or self._ending:
                    why = self._failing.get(volume) or "the disks do not keep up"
                    raise StoreError(f"no room in the cache for {self._room_timeout_s:g} s: {why}")
                self._changed.notify_all()
                self._changed.wait(min(left_s, _TICK_S))
                claimed = self._pages.claim(key)
            slot, fresh = claimed
            if fresh:
                self._slots.place(slot, key)
            return slot

    def _drain(self, volume: int) -> None:
        by_ns = self._clock()
        while True:
            with self._changed:
                destage = self._pages.next_destage(by_ns, volume=volume, at_once=True)
                if destage is None:
                    if not self._pages.is_dirty(volume, by_ns):
                        return
                    self._changed.wait(_TICK_S)
                    continue
            self._destage(destage)

    def _write_back(self) -> None:
        while True:
            with self._changed:
                destage = None
                while not self._ending:
                    full = self._pages.statistics().free_bytes < PAGE_BYTES
                    destage = self._pages.next_destage(self._clock(), at_once=full)
                    if destage is not None:
                        break
                    self._changed.wait(_TICK_S)
                if destage is None:
                    return
            try:
                self._destage(destage)
            except StoreError:
                with self._changed:
                    if not self._ending:
                        self._changed.wait(_AFTER_FAILURE_S)

    def _destage(self, destage: Destage) -> None:
        """Bring a page to its disk. Raises StoreError; the page is dirty as before then."""
        volume, page = destage.key
        failure: StoreError | None = None
        try:
            for start, length in _runs(destage.sectors):
                with self._slots.slot(destage.slot, start, length) as data:
                    self._volumes[volume].disk.write(page * PAGE_BYTES + start, data)
        except StoreError as error:
            failure = error
        with self._changed:
            dirty = self._pages.destaged(destage, self._clock(), failed=failure is not None)
            self._slots.mark(destage.slot, dirty)
            self._note(volume, failure)
            self._tell()
        if failure is not None:
            raise failure

    def _note(self, volume: int, failure: StoreError | None) -> None:
        if failure is None:
            self._failing.pop(volume, None)
            return
        if volume not in self._failing:
            _log.error(
                "volume %s: write-back fails, and is tried again: %s", self._volumes[volume].name, failure
            )
        self._failing[volume] = str(failure)

    def _tell(self) -> None:
        """Under the lock: pass the watermarks on, and wake who waits for room or for work."""
        for event in self._pages.events():
            for watcher in self._watchers:
                watcher(event)
        self._changed.notify_all()


@contextmanager
def running_cache(
    config: CacheConfig | None, volumes: Sequence[CachedVolume]
) -> Iterator[CacheMemory | None]:
    """The cache until the block ends; ``None`` where there is to be none."""
    if config is None:
        yield None
        return
    cache = CacheMemory(config, volumes)
    try:
        yield cache
    finally:
        cache.close()


def _parts(offset: int, length: int) -> Iterator[_Part]:
    """An access page by page. Raises ValueError for what is not whole sectors."""
    if offset % SECTOR_BYTES or length % SECTOR_BYTES:
        raise ValueError(f"{length} bytes at {offset} are not whole sectors of {SECTOR_BYTES} bytes")
    position = 0
    while position < length:
        page, start = divmod(offset + position, PAGE_BYTES)
        size = min(PAGE_BYTES - start, length - position)
        yield _Part(page, start, size, position)
        position += size


def _sectors(start: int, length: int) -> int:
    count = length // SECTOR_BYTES
    return ((1 << count) - 1) << (start // SECTOR_BYTES)


def _runs(sectors: int) -> Iterator[tuple[int, int]]:
    """The runs of set bits as (start, length) in bytes."""
    at = 0
    sectors &= ALL_SECTORS
    while sectors:
        skip = (sectors & -sectors).bit_length() - 1
        sectors >>= skip
        count = ((sectors + 1) & -(sectors + 1)).bit_length() - 1
        yield (at + skip) * SECTOR_BYTES, count * SECTOR_BYTES
        sectors >>= count
        at += skip + count
