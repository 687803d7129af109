"""The disks 200 to 202 of an array: volumes in files, on block devices or in memory, each also a logical unit.

Everything here may block; it is called on worker threads.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from iscsi_target.scsi.errors import InvalidConfiguration, StoreError
from iscsi_target.scsi.stores.file import BlockDeviceStore, FileStore
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.stores.store import BackingStore
from mgmt.array.cache.memory import CachedVolume, CacheMemory
from mgmt.array.cache.store import CachedStore
from mgmt.array.description import VolumeConfig

BLOCK_BYTES = 512
_DIGEST_CHUNK_BYTES = 1 << 20


class VolumeError(ValueError):
    """A volume's disk cannot be used; the text is one line (exit code 2)."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume: its name, its logical unit number, and where its bytes are.

    ``store`` is what is read and written; ``disk`` what is behind the cache memory, or the same.
    """

    name: str
    lun: int
    store: BackingStore
    disk: BackingStore
    hosts: bool = True
    cached: bool = True

    @property
    def size_bytes(self) -> int:
        """Its length, whole blocks."""
        return self.store.size_bytes

    def digest(self) -> str:
        """SHA-256 (hex) of the volume as it stands on the disk, after a flush. :class:`StoreError`."""
        self.store.flush()
        sha256 = hashlib.sha256()
        for offset in range(0, self.size_bytes, _DIGEST_CHUNK_BYTES):
            length = min(_DIGEST_CHUNK_BYTES, self.size_bytes - offset)
            for part in self.disk.read(offset, length):
                sha256.update(part)
        return sha256.hexdigest()


class Volumes:
    """The volumes of an array, by name; their order is that of the logical unit numbers, from 0."""

    def __init__(self, volumes: Sequence[Volume]) -> None:
        self._by_name = {volume.name: volume for volume in volumes}

    def __iter__(self) -> Iterator[Volume]:
        return iter(self._by_name.values())

    def get(self, name: str) -> Volume | None:
        """The volume ``name``, or ``None``."""
        return self._by_name.get(name)

    def names(self) -> str:
        """All names, for an error message."""
        return ", ".join(self._by_name) or "none"

    def disks(self) -> list[CachedVolume]:
        """What is to be behind the cache memory, in the order of its numbers there."""
        return [CachedVolume(volume.name, volume.disk) for volume in self._to_cache()]

    def behind(self, cache: CacheMemory) -> Volumes:
        """The same volumes, with ``cache`` (made from :meth:`disks`) before those that are cached."""
        stores = {
            volume.name: CachedStore(cache, number, volume.disk)
            for number, volume in enumerate(self._to_cache())
        }
        return Volumes([replace(volume, store=stores.get(volume.name, volume.store)) for volume in self])

    def close(self) -> None:
        """Close every disk."""
        for volume in self:
            volume.disk.close()

    def _to_cache(self) -> list[Volume]:
        return [volume for volume in self if volume.cached and not volume.disk.read_only]


def open_volumes(configs: Sequence[VolumeConfig]) -> Volumes:
    """Open, or create, the volumes. :class:`VolumeError`; nothing stays open then."""
    opened: list[Volume] = []
    try:
        for lun, config in enumerate(configs):
            disk = _disk(config)
            opened.append(Volume(config.name, lun, disk, disk, config.hosts, config.cached))
    except BaseException:
        Volumes(opened).close()
        raise
    return Volumes(opened)


def _disk(config: VolumeConfig) -> BackingStore:
    try:
        disk = _open(config)
    except (StoreError, InvalidConfiguration) as error:
        raise VolumeError(f"volume {config.name}: {error}") from None
    except OSError as error:
        raise VolumeError(f"volume {config.name}: cannot open {config.path}: {error.strerror}") from None
    if disk.size_bytes % BLOCK_BYTES:
        disk.close()
        raise VolumeError(
            f"volume {config.name}: {config.path or 'memory'} has {disk.size_bytes} bytes, "
            f"not a multiple of the {BLOCK_BYTES}-byte block"
        )
    return disk


def _open(config: VolumeConfig) -> BackingStore:
    """The disk: for reading only where the file is not writable, as a source of a copy may be."""
    if config.path is None:
        if config.size_bytes is None or config.size_bytes < BLOCK_BYTES:
            raise InvalidConfiguration(f"a disk in memory has a size of {BLOCK_BYTES} bytes or more")
        return MemoryStore(config.size_bytes)
    path: Path = config.path
    read_only = config.read_only or (path.exists() and not os.access(path, os.W_OK))
    if path.is_block_device():
        return BlockDeviceStore(path, config.size_bytes, read_only=read_only)
    return FileStore(path, config.size_bytes, read_only=read_only)
