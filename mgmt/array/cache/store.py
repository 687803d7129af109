"""A disk behind the cache memory: what the SCSI target and remote copy read and write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from iscsi_target.executor import Buffer
from iscsi_target.scsi.stores.store import BackingStore, Extent, Space, inside
from mgmt.array.cache.memory import CacheMemory


class CachedStore:
    """Implements :class:`iscsi_target.scsi.stores.store.BackingStore`: writes go to ``disk`` later.

    ``volume`` is the disk's number in the cache. Writes with ``durable`` (FUA) and discards go past it to the disk.
    Closing it leaves both to their owners.
    """

    def __init__(self, cache: CacheMemory, volume: int, disk: BackingStore) -> None:
        self._cache = cache
        self._volume = volume
        self._disk = disk

    @property
    def size_bytes(self) -> int:
        return self._disk.size_bytes

    @property
    def blocking(self) -> bool:
        return True  # a write may have to wait for room

    @property
    def read_only(self) -> bool:
        return self._disk.read_only

    @property
    def thin(self) -> bool:
        return self._disk.thin

    @property
    def anchors(self) -> bool:
        return self._disk.anchors

    @property
    def granularity_bytes(self) -> int:
        return self._disk.granularity_bytes

    def read(self, offset: int, length: int) -> Sequence[Buffer]:
        inside(self.size_bytes, offset, length)
        return self._cache.read(self._volume, offset, length)

    def write(self, offset: int, data: Buffer, *, durable: bool = False) -> None:
        inside(self.size_bytes, offset, len(data))
        if durable:
            self._cache.forget(self._volume, offset, len(data))
            self._disk.write(offset, data, durable=True)
        else:
            self._cache.write(self._volume, offset, data)

    def flush(self) -> None:
        self._cache.flush(self._volume)

    def discard(self, offset: int, length: int) -> None:
        inside(self.size_bytes, offset, length)
        self._cache.forget(self._volume, offset, length)
        self._disk.discard(offset, length)

    def anchor(self, offset: int, length: int) -> None:
        inside(self.size_bytes, offset, length)
        self._cache.forget(self._volume, offset, length)
        self._disk.anchor(offset, length)

    def space(self) -> Space | None:
        return self._disk.space()

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        self._cache.flush(self._volume)  # the disk knows only of what has reached it
        return self._disk.extents(offset, length)

    def close(self) -> None:
        """The cache and the disk are closed by who opened them."""
