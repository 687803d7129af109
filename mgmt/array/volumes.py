"""The disks 200 to 202 of an array: volumes in files, each also a logical unit of its iSCSI target.

Everything here may block; it is called on worker threads.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from iscsi_target.scsi.errors import InvalidConfiguration, StoreError
from iscsi_target.scsi.stores.file import FileStore
from mgmt.array.configuration import VolumeConfig

BLOCK_BYTES = 512
_DIGEST_CHUNK_BYTES = 1 << 20


class VolumeError(ValueError):
    """A volume's file cannot be used; the text is one line (exit code 2)."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume: its name, its logical unit number, and where its bytes are."""

    name: str
    lun: int
    store: FileStore

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
            for part in self.store.read(offset, length):
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

    def close(self) -> None:
        """Close every file."""
        for volume in self:
            volume.store.close()


def open_volumes(configs: Sequence[VolumeConfig]) -> Volumes:
    """Open, or create, the volumes. :class:`VolumeError`; nothing stays open then."""
    opened: list[Volume] = []
    try:
        for lun, config in enumerate(configs):
            opened.append(Volume(config.name, lun, _store(config)))
    except BaseException:
        Volumes(opened).close()
        raise
    return Volumes(opened)


def _store(config: VolumeConfig) -> FileStore:
    """The file's store: for reading only where the file is not writable, as a source of a copy may be."""
    try:
        read_only = config.path.exists() and not os.access(config.path, os.W_OK)
        store = FileStore(config.path, config.size_bytes, read_only=read_only)
    except (StoreError, InvalidConfiguration) as error:
        raise VolumeError(f"volume {config.name}: {error}") from None
    except OSError as error:
        raise VolumeError(f"volume {config.name}: cannot open {config.path}: {error.strerror}") from None
    if store.size_bytes % BLOCK_BYTES:
        store.close()
        raise VolumeError(
            f"volume {config.name}: {config.path} has {store.size_bytes} bytes, "
            f"not a multiple of the {BLOCK_BYTES}-byte block"
        )
    return store
