"""What travels from the primary to the secondary while the channel is up: epochs, copies, checkpoints.

Asyncio, on the data loop; what blocks is handed to threads. Every method may raise LinkLost or RemoteRefused; the
stream is then good for nothing any more, and a new one begins with :meth:`Stream.begin` on new connections.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from mgmt.array.replication import remote_log
from mgmt.array.replication.admission import Finding, Memory, RemoteUnfit, judge
from mgmt.array.replication.bitmap import BLOCK_BYTES
from mgmt.array.replication.group_record import GroupRecord
from mgmt.array.replication.journal import Journal, Record
from mgmt.array.replication.link_set import LinkSet, Piece
from mgmt.array.replication.pair_state import PairState
from mgmt.array.replication.remote_log import Entry, Epoch, LogDamaged, Superblock
from mgmt.array.replication.replicated_store import ReplicatedStore
from mgmt.array.replication.tracker import ChangeTracker, CopyRun
from mgmt.array.replication.transport import Buffer, RemoteRefused

T = TypeVar("T")

_SPARE_BYTES = 512 * 1024
"""Of the journal volume's epoch area, for the table."""
_RECORDS_LIMIT = 4096
_EPOCH_S = 1.0
_EPOCH_LEAST_BYTES = 256 * 1024
_READ_BYTES = 1 << 20
_SMALL_EPOCH_BYTES = 1 << 20
JOURNAL_VOLUME_LEAST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """``write_bytes``: one WRITE; ``epoch_bytes``: one epoch; ``final_bytes``: what is copied while hosts wait;
    ``pass_bytes``: what is copied between two looks at everything else; ``gentle_bytes``: one WRITE of an epoch that
    is small, so that the loop gets back to hosts soon."""

    write_bytes: int = 256 * 1024
    epoch_bytes: int = 8 << 20
    final_bytes: int = 1 << 20
    pass_bytes: int = 16 << 20
    gentle_bytes: int = 64 * 1024


class Stream:
    """One connection's life of a group."""

    def __init__(
        self,
        links: LinkSet,
        record: Callable[[], GroupRecord],
        stores: Sequence[ReplicatedStore],
        trackers: Sequence[ChangeTracker],
        journal: Journal,
        executor: Executor,
        limits: StreamLimits,
        primary: str,
    ) -> None:
        self.links = links
        self._record = record
        self._stores = stores
        self._trackers = trackers
        self._journal = journal
        self._executor = executor
        self._limits = limits
        self._primary = primary
        self._superblock: Superblock | None = None
        self._epoch_bytes = limits.epoch_bytes
        self._pace_bytes = limits.epoch_bytes
        """About what the channel takes in :data:`_EPOCH_S`: a host that waits for room waits for an epoch."""
        self._direct: set[int] = set()
        """Logical units written since their last flush."""
        self._mixed_from: int | None = None
        self._consistent_from = 0
        """From the first of these numbers on an epoch has some of the end of a copy, from the second on all of it."""
        self._cursors = [0] * len(stores)
        self.resynced_bytes = 0

    async def _thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    @property
    def _luns(self) -> list[int]:
        return [pair.remote_lun for pair in self._record().pairs]

    @property
    def superblock(self) -> Superblock:
        """The metadata record as it was last written or found."""
        assert self._superblock is not None
        return self._superblock

    # -- beginning --------------------------------------------------------------------------------------------

    async def check(self) -> None:
        """The remote volumes are there, and of the right sizes. RemoteRefused."""
        record = self._record()
        area = await self.links.capacity(record.remote_journal_lun)
        if area < JOURNAL_VOLUME_LEAST_BYTES:
            raise RemoteRefused(
                f"the remote journal volume (LUN {record.remote_journal_lun}) has {area} bytes, "
                f"at least {JOURNAL_VOLUME_LEAST_BYTES} are needed"
            )
        self._epoch_bytes = min(self._limits.epoch_bytes, area - remote_log.EPOCH_AT - _SPARE_BYTES)
        for pair, store in zip(record.pairs, self._stores, strict=True):
            there = await self.links.capacity(pair.remote_lun)
            if there != store.size_bytes:
                raise RemoteRefused(
                    f"the volumes differ in size: {pair.volume} has {store.size_bytes} bytes, "
                    f"LUN {pair.remote_lun} of the remote array has {there}"
                )

    async def begin(self) -> Finding:
        """Find out what the remote array has. RemoteUnfit; what had been named and not applied is applied."""
        await self.check()
        record, journal = self._record(), self._journal
        lun = record.remote_journal_lun
        head = bytes(await self.links.read(lun, 0, remote_log.APPLIED_AT + remote_log.SLOT_BYTES))
        try:
            found = remote_log.newest(head[: remote_log.SLOT_BYTES], head[remote_log.SLOT_BYTES :])
        except LogDamaged as error:
            raise RemoteUnfit(str(error)) from None
        memory = Memory(
            name=record.name,
            group=record.group_id,
            generation=record.generation,
            epoch=journal.epoch,
            last_seq=journal.last_seq,
        )
        finding = Finding.BEGIN if record.full else judge(found, memory)
        if finding is Finding.BEGIN or found is None or finding is Finding.CHANGES:
            if finding is Finding.CHANGES and found is not None:
                await self._take_changes(found)
            await self._first(found)
            return finding
        self._superblock = found
        if not remote_log.is_applied(head[remote_log.APPLIED_AT :], found):
            await self._apply_again(found)
        if finding is Finding.CONTINUE:
            await self._thread(partial(journal.release, found.last_seq, found.epoch))
        if not found.consistent:
            self._consistent_from = journal.last_seq
        elif (copied := journal.copied_seqs()) is not None:  # this array died before all of it was there
            self._mixed_from, self._consistent_from = copied
        return finding

    async def _first(self, before: Superblock | None) -> None:
        record = self._record()
        version = 1 if before is None else before.version + 1
        epoch = max(self._journal.epoch, 0 if before is None else before.epoch) + 1
        first = Superblock(
            group=record.group_id,
            generation=record.generation,
            version=version,
            epoch=epoch,
            last_seq=self._journal.last_seq if record.full else self._journal.released_seq,
            consistent=False,
            states=tuple(pair.state for pair in record.pairs),
            primary=self._primary,
        )
        await self._name(first)
        await self._thread(partial(self._journal.release, first.last_seq, first.epoch))

    async def _take_changes(self, found: Superblock) -> None:
        """The old primary's list: what it changed and this array does not have is to be overwritten."""
        table = await self._read_table(found)
        for entry in table:
            self._trackers[entry.volume].bitmap.mark(entry.offset_bytes, entry.length_bytes)

    async def _read_table(self, found: Superblock) -> list[Entry]:
        lun = self._record().remote_journal_lun
        pieces = []
        for at in range(0, found.table_bytes, _READ_BYTES):
            length = min(_READ_BYTES, found.table_bytes - at)
            pieces.append(bytes(await self.links.read(lun, remote_log.EPOCH_AT + at, length)))
        try:
            return remote_log.decode_table(b"".join(pieces), found)
        except (LogDamaged, struct.error) as error:
            raise RemoteUnfit(str(error)) from None

    async def _apply_again(self, found: Superblock) -> None:
        """The epoch was named, and perhaps half of it is in the S-VOLs."""
        record = self._record()
        if record.self_applying:
            # Naming it again makes the remote array apply it, under a version of its own.
            await self._name(replace(found, version=found.version + 1))
            return
        pieces: list[Piece] = []
        for entry in await self._read_table(found):
            lun = record.pairs[entry.volume].remote_lun
            if entry.data_at is None:
                pieces.append(Piece(lun, entry.offset_bytes, (), entry.length_bytes))
                continue
            first = entry.data_at // BLOCK_BYTES * BLOCK_BYTES
            end = -(-(entry.data_at + entry.length_bytes) // BLOCK_BYTES) * BLOCK_BYTES
            read = bytes(await self.links.read(record.remote_journal_lun, first, end - first))
            data = read[entry.data_at - first : entry.data_at - first + entry.length_bytes]
            try:
                remote_log.check_data(entry, (data,), found.epoch)
            except LogDamaged as error:
                raise RemoteUnfit(str(error)) from None
            pieces.append(Piece(lun, entry.offset_bytes, (data,)))
        await self._apply(pieces, found)

    # -- epochs -----------------------------------------------------------------------------------------------

    async def _name(self, superblock: Superblock) -> None:
        await self.links.write(
            self._record().remote_journal_lun, superblock.slot_at, (superblock.encode(),), durable=True
        )
        self._superblock = superblock

    def _next(self, **changes: object) -> Superblock:
        states = tuple(pair.state for pair in self._record().pairs)
        return self.superblock.next(states=states, primary=self._primary, **changes)

    async def tell(self, *, consistent: bool | None = None) -> None:
        """Write the metadata record: the pairs' states, and whether the S-VOLs are a point in time."""
        wanted = self.superblock.consistent if consistent is None else consistent
        await self._name(self._next(consistent=wanted))

    async def send_epoch(self) -> int:
        """The oldest writes of the journal become the newest in the remote image; their bytes, 0 for none."""
        most = min(self._epoch_bytes, self._pace_bytes)
        records = self._journal.batch(most, _RECORDS_LIMIT, self._epoch_bytes)
        if not records:
            return 0
        began = asyncio.get_running_loop().time()
        epoch, blob = await self._thread(partial(_built, records))
        record = self._record()
        await self._flush_direct()
        journal_lun = record.remote_journal_lun
        step = self._limits.write_bytes
        if len(blob) <= _SMALL_EPOCH_BYTES:
            step = min(step, self._limits.gentle_bytes)
        await self.links.write_all(
            [
                Piece(journal_lun, remote_log.EPOCH_AT + at, (blob[at : at + step],))
                for at in range(0, len(blob), step)
            ]
        )
        await self.links.flush((journal_lun,))
        named = self._next(
            epoch=self.superblock.epoch + 1,
            last_seq=epoch.last_seq,
            consistent=self._is_point_in_time(epoch.last_seq),
            table_bytes=len(epoch.table),
            entries=len(epoch.entries),
            table_crc=epoch.table_crc,
        )
        await self._name(named)
        if not record.self_applying:
            await self._apply(_pieces(epoch, blob, record, step), named)
        await self._thread(partial(self._journal.release, epoch.last_seq, named.epoch))
        took_s = max(1e-3, asyncio.get_running_loop().time() - began)
        self._pace_bytes = max(_EPOCH_LEAST_BYTES, int(len(blob) / took_s * _EPOCH_S))
        return sum(entry.length_bytes for entry in epoch.entries)

    def _is_point_in_time(self, last_seq: int) -> bool:
        """Whether the S-VOLs are one with everything up to a number."""
        paired = all(pair.state is not PairState.COPY for pair in self._record().pairs)
        if paired and last_seq >= self._consistent_from:
            self._mixed_from = None
            return True
        return self.superblock.consistent and (self._mixed_from is None or last_seq < self._mixed_from)

    async def _apply(self, pieces: list[Piece], named: Superblock) -> None:
        await self.links.write_all(pieces)
        await self.links.flush(sorted({piece.lun for piece in pieces}))
        lun = self._record().remote_journal_lun
        applied = remote_log.encode_applied(named)
        await self.links.write(lun, remote_log.APPLIED_AT, (applied,), durable=True)

    # -- checkpoints ------------------------------------------------------------------------------------------

    async def _flush_direct(self) -> None:
        luns, self._direct = self._direct, set()
        if luns:
            await self.links.flush(sorted(luns))

    async def checkpoint(self) -> None:
        """What the secondary has acknowledged is on its disks, and the bits that say otherwise are cleared."""
        sent = [tracker.checkpoint_begins() for tracker in self._trackers]
        self._direct |= set(self._luns)
        await self._flush_direct()
        released = self._journal.released_seq
        named = self._next(epoch=self.superblock.epoch + 1, consistent=self.superblock.consistent)
        await self._name(named)
        await self._thread(partial(self._journal.release, released, named.epoch))
        for tracker, runs in zip(self._trackers, sent, strict=True):
            await self._thread(partial(tracker.checkpoint_done, runs))

    # -- copying ----------------------------------------------------------------------------------------------

    async def copy_some(self, index: int, workers: int) -> int:
        """Some of the changed blocks of a volume, straight into its S-VOL; bytes copied."""
        if self.superblock.consistent:
            await self.tell(consistent=False)
        self._consistent_from = self._journal.last_seq + 1
        budget = [self._limits.pass_bytes]
        lun = self._luns[index]
        before = self.resynced_bytes

        async def work() -> None:
            while budget[0] > 0 and self._record().pairs[index].state is PairState.COPY:
                run = self._trackers[index].take(
                    self._cursors[index], self._limits.write_bytes // BLOCK_BYTES
                )
                if run is None:
                    self._cursors[index] = 0
                    budget[0] = 0
                    return
                self._cursors[index] = run.first + run.count
                budget[0] -= run.count * BLOCK_BYTES
                await self._copy_run(index, lun, run)

        outcomes = await asyncio.gather(*(work() for _ in range(workers)), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return self.resynced_bytes - before

    async def _copy_run(self, index: int, lun: int, run: CopyRun) -> None:
        store = self._stores[index]
        length = min(run.count * BLOCK_BYTES, store.size_bytes - run.offset_bytes)
        data = await self._thread(partial(_read, store, run.offset_bytes, length))
        self._direct.add(lun)
        if data is None:
            await self.links.zero(lun, run.offset_bytes, length)
        else:
            await self.links.write(lun, run.offset_bytes, (data,))
        self._trackers[index].sent(run)
        self.resynced_bytes += length

    def final_bytes(self) -> int:
        """So much may be left for the last step, in which hosts wait."""
        return min(self._limits.final_bytes, self._epoch_bytes // 2)

    def take_rest(self, index: int) -> int:
        """Blocking, with the volume frozen: the blocks that are still set become writes of the journal; their bytes.

        From here on the journal has everything that the secondary does not. JournalFull, JournalError.
        """
        bitmap, store, done, start = self._trackers[index].bitmap, self._stores[index], 0, 0
        if self._mixed_from is None:
            self._mixed_from = self._journal.last_seq + 1
        while (found := bitmap.next_run(start, self._limits.write_bytes // BLOCK_BYTES)) is not None:
            first, count = found
            offset = first * BLOCK_BYTES
            length = min(count * BLOCK_BYTES, store.size_bytes - offset)
            self._journal.append(index, offset, _read(store, offset, length), length, copied=True)
            start, done = first + count, done + length
        self._consistent_from = self._journal.last_seq
        bitmap.clear(0, bitmap.blocks)
        bitmap.retract()
        self.resynced_bytes += done
        return done


def _built(records: Sequence[Record]) -> tuple[Epoch, memoryview]:
    """On a thread: an epoch is in no hurry, and hosts' threads want the interpreter meanwhile."""
    epoch = remote_log.build(records, remote_log.breathe)
    blob = b"".join((epoch.table, *epoch.data))
    return epoch, memoryview(blob.ljust(-(-len(blob) // BLOCK_BYTES) * BLOCK_BYTES, b"\0"))


def _pieces(epoch: Epoch, blob: memoryview, record: GroupRecord, step: int) -> list[Piece]:
    """The writes of an epoch to the S-VOLs."""
    pieces = []
    for entry in epoch.entries:
        lun = record.pairs[entry.volume].remote_lun
        if entry.data_at is None:
            pieces.append(Piece(lun, entry.offset_bytes, (), entry.length_bytes))
            continue
        at = entry.data_at - remote_log.EPOCH_AT
        for start in range(0, entry.length_bytes, step):
            size = min(step, entry.length_bytes - start)
            data: Buffer = blob[at + start : at + start + size]
            pieces.append(Piece(lun, entry.offset_bytes + start, (data,)))
    return pieces


def _read(store: ReplicatedStore, offset: int, length: int) -> bytes | None:
    """The bytes, or None where all are zeros."""
    data = b"".join(store.read(offset, length))
    return data if data.strip(b"\0") else None
