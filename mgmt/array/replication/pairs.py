"""The pairs of one array: making, dissolving and turning them, with everything that is checked before.

Lives on the data loop; what blocks is handed to threads. A wish that cannot be fulfilled raises one line and changes
nothing.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from credits.targets import Target
from iscsi_target.scsi.errors import StoreError
from mgmt.array.replication.bitmap import BLOCK_BYTES, BitmapError
from mgmt.array.replication.group import GroupSettings, OpenLinks, PrimaryGroup
from mgmt.array.replication.group_record import GroupFiles, GroupRecord, Mode, RecordError, RemotePlace
from mgmt.array.replication.guard import Door, Guards
from mgmt.array.replication.journal import JournalError
from mgmt.array.replication.lanes import ChargedCache
from mgmt.array.replication.pair_errors import NoSuchGroup, PairRefused
from mgmt.array.replication.pair_state import PairInput, PairState, Role, WrongState, after
from mgmt.array.replication.remote_log import APPLIED_AT, PAIRS_LIMIT, LogDamaged
from mgmt.array.replication.replicated_store import ReplicatedStore
from mgmt.array.replication.secondary_group import SecondaryGroup, TakeoverRefused
from mgmt.array.replication.slow_down import SlowDownPolicy, begins, delay_ns, standing
from mgmt.array.replication.stream import JOURNAL_VOLUME_LEAST_BYTES
from mgmt.array.replication.transport import LinkLost, RemoteRefused

_log = logging.getLogger(__name__)

T = TypeVar("T")

GROUPS_LIMIT = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
#: Synchronous writes that wait for another array at once; below the array's command threads, so that two arrays that
#: are each other's secondary always have some for the other.
SYNC_WRITES_LIMIT = 10
_THREADS = 4
_GOODBYE_S = 5.0
_RUNS_LIMIT = 20_000


@dataclass(frozen=True, slots=True)
class PairVolume:
    """A volume as pairs see it: name, number, the store that hosts' changes go through."""

    name: str
    lun: int
    store: ReplicatedStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """This array: its name, and the iSCSI name of its target for other arrays."""

    name: str
    copy_iqn: str


class Pairs:
    """The groups of one array. :meth:`load` before hosts are served, :meth:`start` on the data loop, :meth:`close`.

    ``guards`` are the doors through which volumes are changed.
    """

    def __init__(
        self,
        identity: Identity,
        volumes: Mapping[str, PairVolume],
        files: GroupFiles,
        settings: GroupSettings,
        open_links: OpenLinks,
        guards: Guards | None = None,
        cache: ChargedCache | None = None,
        cache_fill: Callable[[], float] = lambda: 0.0,
        policy: SlowDownPolicy | None = None,
        reserved_units: Callable[[Target], int] = lambda target: 0,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._identity = identity
        self._volumes = dict(volumes)
        self._files = files
        self._settings = settings
        self._open_links = open_links
        self._cache = cache
        self._cache_fill = cache_fill
        self._policy = policy or SlowDownPolicy()
        self._slowed: dict[int, tuple[PrimaryGroup, float]] = {}
        self._reserved_units = reserved_units
        self._clock = clock
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="pairs")
        self._primaries: dict[str, PrimaryGroup] = {}
        self._secondaries: dict[str, SecondaryGroup] = {}
        self._verbs = asyncio.Lock()
        self._sync_slots = threading.Semaphore(SYNC_WRITES_LIMIT)
        guards = guards or Guards(volume.lun for volume in volumes.values())
        self.hosts, self.partners = guards.hosts, guards.partners
        self._at_work = guards.at_work
        guards.delay_ns = self.delay_ns

    # -- life -------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """The groups of earlier runs; blocking. RecordError, BitmapError, JournalError, StoreError, PairRefused."""
        for record in self._files.load():
            for pair in record.pairs:
                self._volume(pair.volume)
            if record.role is Role.PRIMARY:
                self._make_primary(record)
            else:
                self._make_secondary(record)

    def start(self) -> None:
        """Begin to connect."""
        for group in self._primaries.values():
            group.start()

    async def close(self) -> None:
        """End the engines; every unit is back when this returns."""
        for group in self._primaries.values():
            await group.close()

    def close_files(self) -> None:
        """When no host writes any more: let go of bitmaps and journals."""
        for group in self._primaries.values():
            group.close_files()
        self._executor.shutdown()

    async def reservations_changed(self) -> None:
        """The groups' connections share out anew what is reserved now (paragraph 97)."""
        for group in self._primaries.values():
            await group.resized(self._reserved_units)

    async def _thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _volume(self, name: str) -> PairVolume:
        volume = self._volumes.get(name)
        if volume is None:
            names = ", ".join(sorted(self._volumes)) or "none"
            raise PairRefused("NO_SUCH_VOLUME", f"there is no volume {name!r:.80} here; there are: {names}")
        return volume

    def _stores(self, record: GroupRecord) -> list[ReplicatedStore]:
        return [self._volume(pair.volume).store for pair in record.pairs]

    def _make_primary(self, record: GroupRecord, *, fresh: bool = False) -> PrimaryGroup:
        group = PrimaryGroup(
            record,
            self._stores(record),
            self._files,
            self._settings,
            self._open_links,
            self._executor,
            self._identity.name,
            self._cache,
            self._clock,
            sync_slots=self._sync_slots,
            fresh=fresh,
        )
        self._primaries[record.name] = group
        self._set_doors(record)
        self._rank()
        return group

    def _make_secondary(self, record: GroupRecord) -> SecondaryGroup:
        assert record.journal is not None
        group = SecondaryGroup(record, self._stores(record), self._volume(record.journal).store, self._files)
        self._secondaries[record.name] = group
        self._set_doors(record)
        return group

    def _set_doors(self, record: GroupRecord, *, dissolved: bool = False) -> None:
        """Blocks until nobody is inside who may not be."""
        written_here = record.role is Role.PRIMARY or any(
            pair.state is PairState.SSWS for pair in record.pairs
        )
        doors = [(self._volume(pair.volume).lun, dissolved or written_here) for pair in record.pairs]
        if record.journal is not None:
            doors.append((self._volume(record.journal).lun, dissolved))
        for lun, hosts in doors:
            self.hosts[lun].paired = self.partners[lun].paired = not dissolved
            _set(self.hosts[lun], hosts)
            journal_here = record.journal is not None and lun == self._volume(record.journal).lun
            partner = dissolved or (
                record.role is Role.SECONDARY and not written_here if not journal_here else not written_here
            )
            _set(self.partners[lun], partner)

    # -- when the cache runs low (embodiment 5) ---------------------------------------------------------------

    def _rank(self) -> None:
        """Who is slowed down from which fill on, anew."""
        order = begins(
            self._policy,
            (
                standing(name, group.record.priority, synchronous=group.record.mode is Mode.SYNC)
                for name, group in self._primaries.items()
            ),
        )
        self._slowed = {
            self._volume(pair.volume).lun: (group, order[name])
            for name, group in self._primaries.items()
            for pair in group.record.pairs
        }

    def delay_ns(self, lun: int) -> int:
        """How long the answer to a host's write to a volume is held back now; on any thread."""
        found = self._slowed.get(lun)
        if found is None:
            return 0
        group, begin = found
        if not group.side.draining:
            return 0  # nothing leaves the journal now, so nobody need wait: when it is full the bitmaps take over
        journal = group.journal
        fill = max(journal.used_bytes / journal.capacity_bytes, self._cache_fill())
        return delay_ns(self._policy, begin, fill)

    def delay_of(self, group: PrimaryGroup) -> int:
        """The same for a group's volumes."""
        return self.delay_ns(self._volume(group.record.pairs[0].volume).lun)

    # -- making -----------------------------------------------------------------------------------------------

    def _busy(self, volume: str) -> str | None:
        """What a volume is used for already, or None."""
        for group in self.groups():
            record = group.record
            if record.pair(volume) is not None:
                return f"the {record.role} of group {record.name}"
            if record.journal == volume:
                return f"the journal of group {record.name}"
        return None

    def groups(self) -> list[PrimaryGroup | SecondaryGroup]:
        """Every group, by name."""
        every: dict[str, PrimaryGroup | SecondaryGroup] = {**self._primaries, **self._secondaries}
        return [every[name] for name in sorted(every)]

    def get(self, name: str) -> PrimaryGroup | SecondaryGroup:
        """:class:`NoSuchGroup`."""
        group = self._primaries.get(name) or self._secondaries.get(name)
        if group is None:
            raise NoSuchGroup(f"there is no group {name!r:.80} here")
        return group

    def check_new(self, record: GroupRecord) -> None:
        """Everything about a new group that can be known without the other array. :class:`PairRefused`."""
        if not _NAME.fullmatch(record.name):
            raise PairRefused(
                "BAD_NAME", f"{record.name!r:.80} cannot name a group: letters, digits, . _ - to 32"
            )
        if record.name in self._primaries or record.name in self._secondaries:
            raise PairRefused("GROUP_EXISTS", f"there is a group {record.name} here already")
        if len(self._primaries) + len(self._secondaries) >= GROUPS_LIMIT:
            raise PairRefused("TOO_MANY", f"an array has at most {GROUPS_LIMIT} groups")
        if not 1 <= len(record.pairs) <= PAIRS_LIMIT:
            raise PairRefused("TOO_MANY", f"a group has 1 to {PAIRS_LIMIT} pairs")
        names = [pair.volume for pair in record.pairs] + ([record.journal] if record.journal else [])
        if len(set(names)) < len(names):
            raise PairRefused("BUSY", "each volume is named once: as one pair's, or as the journal")
        for name in names:
            volume = self._volume(name)
            if volume.store.read_only:
                raise PairRefused("READ_ONLY", f"volume {name} can only be read")
            if self._at_work(volume.lun):
                raise PairRefused(
                    "BUSY", f"volume {name} is busy: it is being sanitized; see that through first"
                )
            if (use := self._busy(name)) is not None:
                raise PairRefused("BUSY", f"volume {name} is busy: it is {use}; a volume is in one pair only")
        if record.remote is not None and record.remote.iqn == self._identity.copy_iqn:
            raise PairRefused("LOOP", "both ends of the pair would be this array")
        self._check_journal(record)

    def _check_journal(self, record: GroupRecord) -> None:
        if record.journal is None:
            if record.role is Role.SECONDARY:
                raise PairRefused("NO_JOURNAL", "a secondary needs a journal volume")
            return
        size = self._volume(record.journal).store.size_bytes
        if size < JOURNAL_VOLUME_LEAST_BYTES:
            raise PairRefused(
                "TOO_SMALL",
                f"journal volume {record.journal} has {size} bytes, at least {JOURNAL_VOLUME_LEAST_BYTES} are needed",
            )

    async def create(self, record: GroupRecord) -> GroupRecord:
        """Make a group at this end. :class:`PairRefused`; a primary whose remote array does not fit is refused too."""
        async with self._verbs:
            self.check_new(record)
            if record.role is Role.SECONDARY:
                await self._thread(partial(self._begin_secondary, record))
                return record
            await self._probe(record)
            group = await self._thread(partial(self._begin_primary, record))
            group.start()
            return group.record

    async def _probe(self, record: GroupRecord) -> None:
        """Connect once, and look at the remote volumes, before anything is kept."""
        links = self._open_links(record)
        try:
            await links.open()
            for pair in record.pairs:
                here = self._volume(pair.volume).store.size_bytes
                there = await links.capacity(pair.remote_lun)
                if there != here:
                    raise PairRefused(
                        "SIZE",
                        f"the volumes differ in size: {pair.volume} has {here} bytes, LUN {pair.remote_lun} of the "
                        f"remote array has {there}",
                    )
            area = await links.capacity(record.remote_journal_lun)
            if area < JOURNAL_VOLUME_LEAST_BYTES:
                raise PairRefused(
                    "TOO_SMALL",
                    f"the remote journal volume has {area} bytes, at least {JOURNAL_VOLUME_LEAST_BYTES} are needed",
                )
        except (LinkLost, RemoteRefused) as error:
            raise PairRefused("UNREACHABLE", str(error)) from None
        finally:
            await links.close()

    def _begin_primary(self, record: GroupRecord) -> PrimaryGroup:
        try:
            return self._make_primary(record, fresh=True)
        except (RecordError, BitmapError, JournalError) as error:
            self._undo(record)
            raise PairRefused("DISK", str(error)) from None

    def _begin_secondary(self, record: GroupRecord) -> None:
        try:
            self._files.save(record)
            self._make_secondary(record)
        except (RecordError, BitmapError, StoreError) as error:
            self._undo(record)
            raise PairRefused("DISK", str(error)) from None

    def _undo(self, record: GroupRecord) -> None:
        self._primaries.pop(record.name, None)
        self._secondaries.pop(record.name, None)
        for store in self._stores(record):
            store.attach(None)
        self._set_doors(record, dissolved=True)
        self._files.remove(record.name)

    # -- verbs ------------------------------------------------------------------------------------------------

    def _primary(self, name: str) -> PrimaryGroup:
        group = self.get(name)
        if isinstance(group, SecondaryGroup):
            raise PairRefused("WRONG_ROLE", f"group {name} has its primary at the other array; ask that one")
        return group

    def _check(self, group: PrimaryGroup | SecondaryGroup, what: PairInput) -> None:
        """At least one pair takes ``what``. :class:`PairRefused`."""
        refusals = []
        for pair in group.record.pairs:
            try:
                after((group.record.role, pair.state), what)
                return
            except WrongState as error:
                refusals.append(f"{pair.volume}: {error}")
        raise PairRefused("WRONG_STATE", refusals[0])

    async def split(self, name: str) -> None:
        """PSUS: also the pause of a copy that is under way."""
        async with self._verbs:
            group = self._primary(name)
            self._check(group, PairInput.SPLIT)
            await group.split()

    async def resync(self, name: str, *, full: bool = False) -> None:
        """COPY of what has changed: also the resuming of a paused copy. With ``full`` of everything."""
        async with self._verbs:
            group = self._primary(name)
            if not (full or group.record.held):
                self._check(group, PairInput.RESYNC)
            await group.resync(full=full)

    async def delete(self, name: str) -> None:
        """SMPL: the volumes stay as they are, at both ends; each end is told for itself."""
        async with self._verbs:
            group = self.get(name)
            if isinstance(group, PrimaryGroup):
                await group.close()
                await self._say_goodbye(group.record)
                del self._primaries[name]
                self._rank()
            else:
                del self._secondaries[name]
            await self._thread(partial(self._dissolve, group))

    async def _say_goodbye(self, record: GroupRecord) -> None:
        """The remote journal volume is free for another group from here on, if the remote array can be reached."""
        links = self._open_links(record)
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await links.open()
                await links.capacity(record.remote_journal_lun)
                await links.write(record.remote_journal_lun, 0, (bytes(APPLIED_AT),), durable=True)
        except (LinkLost, RemoteRefused, TimeoutError) as error:
            _log.warning(
                "group %s: the remote array was not told that it is dissolved: %s", record.name, error
            )
        finally:
            await links.close()

    def _dissolve(self, group: PrimaryGroup | SecondaryGroup) -> None:
        if isinstance(group, SecondaryGroup):
            group.release()
            group.journal.inner.write(0, bytes(APPLIED_AT), durable=True)  # free for another group
        else:
            for store in group.stores:
                store.attach(None)
            group.close_files()
        self._files.remove(group.record.name)
        self._set_doors(group.record, dissolved=True)

    async def takeover(self, name: str, *, force: bool = False) -> None:
        """SSWS at the secondary: its hosts may write from here on, the primary may not."""
        async with self._verbs:
            group = self.get(name)
            if isinstance(group, PrimaryGroup):
                raise PairRefused(
                    "WRONG_ROLE", f"group {name} has its primary here: there is nothing to take over"
                )
            self._check(group, PairInput.TAKEOVER)
            await self._thread(partial(self._takeover, group, force))

    def _takeover(self, group: SecondaryGroup, force: bool) -> None:
        luns = [self._volume(pair.volume).lun for pair in group.record.pairs]
        assert group.record.journal is not None
        for lun in (*luns, self._volume(group.record.journal).lun):
            self.partners[lun].shut()
        try:
            group.takeover(force=force)
        except (TakeoverRefused, LogDamaged, StoreError, RecordError, BitmapError) as error:
            raise PairRefused("TAKEOVER", str(error)) from None
        finally:
            self._set_doors(group.record)

    async def demote(self, name: str) -> None:
        """The primary becomes secondary: its hosts are kept out, what it has and the other has not is listed for it."""
        async with self._verbs:
            group = self._primary(name)
            if group.record.journal is None:
                raise PairRefused(
                    "NO_JOURNAL", f"group {name} has no journal volume here, so it cannot be secondary"
                )
            self._check(group, PairInput.DEMOTE)
            await self._thread(partial(self._shut_hosts, group))
            await group.drain()
            await group.close()
            del self._primaries[name]
            self._rank()
            await self._thread(partial(self._demote, group))

    def _shut_hosts(self, group: PrimaryGroup) -> None:
        for pair in group.record.pairs:
            self.hosts[self._volume(pair.volume).lun].shut()

    def _demote(self, group: PrimaryGroup) -> None:
        record = group.record
        paired = not group.journal.records and all(pair.state is PairState.PAIR for pair in record.pairs)
        group.side.give_up()
        runs = [] if paired else _runs(group)
        for store in group.stores:
            store.attach(None)
        group.close_files()
        state = PairState.PAIR if paired else PairState.COPY
        pairs = tuple(replace(pair, state=state, once_paired=False) for pair in record.pairs)
        record = replace(record, role=Role.SECONDARY, generation=record.generation + 1, pairs=pairs, error="")
        record = replace(record, held=False, full=False)
        self._files.save(record)
        secondary = self._make_secondary(record)
        secondary.write_changes(runs, paired=paired)

    async def promote(self, name: str, remote: RemotePlace) -> None:
        """The secondary becomes primary: what its hosts changed, and what the other lists, is copied the other way."""
        async with self._verbs:
            group = self.get(name)
            if isinstance(group, PrimaryGroup):
                raise PairRefused("WRONG_ROLE", f"group {name} has its primary here already")
            self._check(group, PairInput.PROMOTE)
            primary = await self._thread(partial(self._promote, group, remote))
            primary.start()

    def _promote(self, group: SecondaryGroup, remote: RemotePlace) -> PrimaryGroup:
        record = group.record
        group.release()
        del self._secondaries[record.name]
        generation = max(record.generation, 0 if group.superblock is None else group.superblock.generation)
        pairs = tuple(replace(pair, state=PairState.COPY, once_paired=False) for pair in record.pairs)
        record = replace(
            record,
            role=Role.PRIMARY,
            generation=generation if group.taken_over else generation + 1,
            remote=remote,
            pairs=pairs,
            error="",
        )
        self._files.journal(record.name).unlink(missing_ok=True)
        self._files.save(record)
        return self._make_primary(record)


def _set(door: Door, wide: bool) -> None:
    if wide:
        door.open()
    else:
        door.shut()


def _runs(group: PrimaryGroup) -> list[tuple[int, int, int]]:
    """(volume, offset, length) of every run of changed blocks; coarser, where there are very many."""
    gap = 0
    while True:
        runs: list[tuple[int, int, int]] = []
        for index, tracker in enumerate(group.trackers):
            start, size = 0, group.stores[index].size_bytes
            while (found := tracker.bitmap.next_run(start, 1 << 30)) is not None:
                first, end = found[0] * BLOCK_BYTES, min(size, (found[0] + found[1]) * BLOCK_BYTES)
                if runs and runs[-1][0] == index and first - runs[-1][1] - runs[-1][2] <= gap:
                    runs[-1] = (index, runs[-1][1], end - runs[-1][1])
                else:
                    runs.append((index, first, end - first))
                start = found[0] + found[1]
        if len(runs) <= _RUNS_LIMIT:
            return runs
        gap = max(BLOCK_BYTES * 16, gap * 16)
