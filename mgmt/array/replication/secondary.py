"""A group's end at the secondary array: epochs are applied as they are named, and the volumes can be taken over.

Everything here blocks; it runs on the threads that carry out the partner's commands, or on worker threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from iscsi_target.executor import Buffer
from iscsi_target.scsi.errors import StoreError
from iscsi_target.scsi.stores.store import BackingStore
from mgmt.array.replication import remote_log
from mgmt.array.replication.remote_log import LogDamaged, Superblock


def _bytes(store: BackingStore, offset: int, length: int) -> bytes:
    return b"".join(store.read(offset, length))


def read_superblock(journal: BackingStore) -> Superblock | None:
    """The metadata record on a journal volume of this array. StoreError, :class:`LogDamaged`."""
    if journal.size_bytes < remote_log.EPOCH_AT:
        return None
    head = _bytes(journal, 0, 2 * remote_log.SLOT_BYTES)
    return remote_log.newest(head[: remote_log.SLOT_BYTES], head[remote_log.SLOT_BYTES :])


def write_superblock(journal: BackingStore, superblock: Superblock) -> None:
    """Durable when this returns. StoreError."""
    journal.write(superblock.slot_at, superblock.encode(), durable=True)


def apply(
    journal: BackingStore,
    volumes: Sequence[BackingStore],
    superblock: Superblock,
    breath: Callable[[], None] = remote_log.no_breath,
) -> int:
    """Bring the S-VOLs to the point in time that ``superblock`` names; bytes written, 0 where they are there already.

    May be done again and again: it only ever writes what the epoch says. ``breath`` is called every few entries.
    StoreError, :class:`LogDamaged`.
    """
    if remote_log.is_applied(_bytes(journal, remote_log.APPLIED_AT, remote_log.SLOT_BYTES), superblock):
        return 0
    table = _bytes(journal, remote_log.EPOCH_AT, superblock.table_bytes)
    entries = remote_log.decode_table(table, superblock)
    # Nothing is written before all of it is known to be whole.
    for entry in remote_log.unhurried(entries, breath):
        if entry.volume >= len(volumes):
            raise LogDamaged(f"epoch {superblock.epoch} names volume {entry.volume} of {len(volumes)}")
        if entry.data_at is not None:
            remote_log.check_data(entry, journal.read(entry.data_at, entry.length_bytes), superblock.epoch)
    done = 0
    for entry in remote_log.unhurried(entries, breath):
        store = volumes[entry.volume]
        if entry.data_at is None:
            store.discard(entry.offset_bytes, entry.length_bytes)
        else:
            at = entry.offset_bytes
            for piece in journal.read(entry.data_at, entry.length_bytes):
                store.write(at, piece)
                at += len(piece)
        done += entry.length_bytes
    for number in sorted({entry.volume for entry in entries}):
        volumes[number].flush()
    journal.write(remote_log.APPLIED_AT, remote_log.encode_applied(superblock), durable=True)
    return done


class JournalVolumeLane:
    """The lane of a journal volume: whoever writes a superblock to it has the epoch applied before the answer."""

    def __init__(
        self, volumes: Callable[[], Sequence[BackingStore]], told: Callable[[Superblock], None], group: bytes
    ) -> None:
        self._volumes = volumes
        self._told = told
        self._group = group

    def write(self, store: BackingStore, offset: int, data: Buffer, *, durable: bool) -> None:
        """Write; then act on a superblock."""
        store.write(offset, data, durable=durable)
        if offset >= remote_log.APPLIED_AT:
            return
        try:
            found = read_superblock(store)
            if found is not None and found.group == self._group:
                apply(store, self._volumes(), found, remote_log.breathe)
                self._told(found)
        except LogDamaged as error:
            raise StoreError(str(error)) from None

    def discard(self, store: BackingStore, offset: int, length: int) -> None:
        """As on any volume."""
        store.discard(offset, length)

    def flush(self, store: BackingStore) -> None:
        """As on any volume."""
        store.flush()
