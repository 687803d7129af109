"""A consistency group at its secondary: the journal volume's lane, and the way to be written by hosts."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from mgmt.array.replication import remote_log, secondary
from mgmt.array.replication.bitmap import ChangeBitmap
from mgmt.array.replication.group_record import GroupFiles, GroupRecord
from mgmt.array.replication.lanes import NotingLane
from mgmt.array.replication.pair_state import PairInput, PairState, Role, after, follow
from mgmt.array.replication.remote_log import LogDamaged, Superblock
from mgmt.array.replication.replicated_store import ReplicatedStore
from mgmt.array.replication.tracker import ChangeTracker


class TakeoverRefused(Exception):
    """The image is no point in time, or nobody knows; one line with the way out."""


class SecondaryGroup:
    """One group with this array as secondary. All of it blocks. Raises RecordError, BitmapError, StoreError."""

    def __init__(
        self,
        record: GroupRecord,
        stores: Sequence[ReplicatedStore],
        journal: ReplicatedStore,
        files: GroupFiles,
    ) -> None:
        self.record = record
        self.stores = tuple(stores)
        self.journal = journal
        self._files = files
        self._lock = threading.RLock()
        self._trackers: list[ChangeTracker] = []
        self.superblock: Superblock | None = None
        self.damaged = ""
        self._recover()
        if self.taken_over:
            self._note_changes()
        self._lane = secondary.JournalVolumeLane(
            lambda: [store.inner for store in self.stores], self._told, record.group_id
        )
        journal.attach(self._lane)

    @property
    def taken_over(self) -> bool:
        """The hosts of this array write; the old primary does not."""
        return any(pair.state is PairState.SSWS for pair in self.record.pairs)

    # -- following the primary --------------------------------------------------------------------------------

    def _recover(self) -> None:
        """What was named and perhaps half applied when the process ended is applied."""
        try:
            found = secondary.read_superblock(self.journal.inner)
            if found is None or found.group != self.record.group_id:
                return
            self.superblock = found
            if not self.taken_over:
                secondary.apply(self.journal.inner, [store.inner for store in self.stores], found)
        except LogDamaged as error:
            self.damaged = str(error)

    def _told(self, found: Superblock) -> None:
        """The primary has written its record, and the epoch that it names is applied."""
        with self._lock:
            self.superblock = found
            states = {
                pair.volume: follow((Role.SECONDARY, pair.state), told)[1]
                for pair, told in zip(self.record.pairs, found.states, strict=False)
            }
            record = self.record.with_states(states)
            if found.generation != record.generation:
                record = replace(record, generation=found.generation)
            if record != self.record:
                self._files.save(record)
                self.record = record

    # -- verbs ------------------------------------------------------------------------------------------------

    def check_takeover(self) -> None:
        """WrongState where the group cannot be taken over as it stands."""
        for pair in self.record.pairs:
            after((self.record.role, pair.state), PairInput.TAKEOVER)

    def takeover(self, *, force: bool) -> None:
        """SSWS: the last epoch that the primary named is applied, hosts may write. The primary is kept out already.

        :class:`TakeoverRefused`, StoreError, LogDamaged; nothing is changed then.
        """
        found = self._image(force=force)
        generation = max(self.record.generation, 0 if found is None else found.generation) + 1
        if found is not None:
            secondary.apply(self.journal.inner, [store.inner for store in self.stores], found)
            self.superblock = found.next(generation=generation)
            secondary.write_superblock(self.journal.inner, self.superblock)
        self._note_changes()
        with self._lock:
            states = {pair.volume: PairState.SSWS for pair in self.record.pairs}
            record = replace(self.record.with_states(states, ""), generation=generation)
            self._files.save(record)
            self.record = record

    def _image(self, *, force: bool) -> Superblock | None:
        forced = "with --force it is taken as it is"
        try:
            found = secondary.read_superblock(self.journal.inner)
        except LogDamaged as error:
            found = None
            if not force:
                raise TakeoverRefused(f"{error}; {forced}") from None
        if (found is None or found.group != self.record.group_id) and not force:
            raise TakeoverRefused(f"the primary has never written here, so there is no image; {forced}")
        if found is not None and found.group != self.record.group_id:
            return None
        if found is not None and not found.consistent and not force:
            raise TakeoverRefused(
                f"the image is no point in time: a copy was under way and had not ended (epoch {found.epoch}); {forced}"
            )
        return found

    def _note_changes(self) -> None:
        self._trackers = [
            ChangeTracker(ChangeBitmap(self._files.bitmap(self.record.name, pair.volume), store.size_bytes))
            for pair, store in zip(self.record.pairs, self.stores, strict=True)
        ]
        for store, tracker in zip(self.stores, self._trackers, strict=True):
            store.attach(NotingLane(tracker))

    def release(self) -> None:
        """Out of the volumes' way: the group ends here, or this array becomes its primary."""
        for store in (*self.stores, self.journal):
            store.attach(None)
        for tracker in self._trackers:
            tracker.bitmap.close()
        self._trackers = []

    def write_changes(self, runs: list[tuple[int, int, int]], *, paired: bool) -> None:
        """After a demotion: leave the list of what has changed here for the new primary to read."""
        table = remote_log.change_table(runs)
        if table:
            self.journal.inner.write(remote_log.EPOCH_AT, table)
        block = Superblock(
            group=self.record.group_id,
            generation=self.record.generation,
            version=1 if self.superblock is None else self.superblock.version + 1,
            epoch=0 if self.superblock is None else self.superblock.epoch,
            last_seq=0,
            consistent=paired,
            states=tuple(pair.state for pair in self.record.pairs),
            primary="",
            table_bytes=len(table),
            entries=len(runs),
            table_crc=remote_log.table_crc(table),
            changes=True,
        )
        self.journal.inner.flush()
        secondary.write_superblock(self.journal.inner, block)
        self.superblock = block

    def dirty_bytes_of(self, index: int) -> int:
        """What hosts have changed in a volume since the takeover."""
        return self._trackers[index].bitmap.dirty_bytes if self._trackers else 0
