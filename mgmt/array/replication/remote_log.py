"""What the primary writes to the journal volume at the remote array, and what whoever takes over reads there.

The journal volume is a logical unit like any other, so any standard target serves. Layout, in bytes from its start::

    0       superblock, copy A        \\  the one with the higher version that is whole counts
    4096    superblock, copy B        /
    8192    applied record: the epoch whose writes are all in the S-VOLs
    65536   the epoch: its table, padded to 4096 bytes, then its data, extent by extent

An epoch is a run of the primary's journal: every write of the group between two numbers. Its table and data are
written over all connections in any order, and flushed; then the superblock that names the epoch is written: that is
the moment at which the remote image moves on. Only then are the S-VOLs written, and only when they are flushed does
the applied record follow and the area become free for the next epoch. So what is in the S-VOLs is a point in the past
once the epoch named by the superblock is applied (again): at any moment, whatever dies.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from mgmt.array.replication.journal import Record
from mgmt.array.replication.pair_state import PairState

T = TypeVar("T")

SLOT_BYTES = 4096
APPLIED_AT = 2 * SLOT_BYTES
EPOCH_AT = 65536
PAIRS_LIMIT = 64
"""Pairs of one group: their states fit into the superblock."""
_SUPERBLOCK = struct.Struct("<8sI16sIQQQIIII64s64sI")
_APPLIED = struct.Struct("<8sI16sIQI")
_ENTRY = struct.Struct("<HHQQQI")
_MAGIC, _APPLIED_MAGIC = b"SCREMLOG", b"SCAPPLYD"
_VERSION = 1
_CONSISTENT, _CHANGES = 1, 2
_ZEROS = 1
_STATES = tuple(PairState)
_AT_ONCE = 8
"""Records of an epoch between two breaths: some 20 microseconds of work."""
_BREATHS_LIMIT = 64
_BREATH_S = 0.0001


class LogDamaged(Exception):
    """What is on the journal volume cannot be what was written there; one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """The metadata record of a group at its secondary.

    ``generation`` counts who was primary; ``epoch`` the points in time the image has had; ``last_seq`` is the number
    of the newest write in it. ``entries`` 0: nothing to apply.
    """

    group: bytes
    generation: int
    version: int
    epoch: int
    last_seq: int
    consistent: bool
    states: tuple[PairState, ...]
    primary: str
    table_bytes: int = 0
    entries: int = 0
    table_crc: int = 0
    changes: bool = False
    """The table lists what has changed at an array that was primary, for whoever is so now; it is not to be applied."""

    def encode(self) -> bytes:
        """4096 bytes."""
        states = bytes(_STATES.index(state) for state in self.states)
        name = self.primary.encode()[:64]
        fields = (
            *(_MAGIC, _VERSION, self.group, self.generation, self.version, self.epoch, self.last_seq),
            (_CONSISTENT if self.consistent else 0) | (_CHANGES if self.changes else 0),
            *(self.table_bytes, self.entries, self.table_crc),
            *(states.ljust(PAIRS_LIMIT, b"\xff"), name),
        )
        crc = zlib.crc32(_SUPERBLOCK.pack(*fields, 0))
        return _SUPERBLOCK.pack(*fields, crc).ljust(SLOT_BYTES, b"\0")

    @property
    def slot_at(self) -> int:
        """Which of the two copies it is written to, as a byte offset."""
        return self.version % 2 * SLOT_BYTES

    def next(self, **changes: object) -> Superblock:
        """The record that follows it; nothing to apply unless ``changes`` say so."""
        fresh = replace(self, version=self.version + 1, table_bytes=0, entries=0, table_crc=0, changes=False)
        return replace(fresh, **changes)  # type: ignore[arg-type]


def decode_superblock(data: bytes) -> Superblock | None:
    """The superblock in 4096 bytes; None where there is none, or half of one."""
    fields = _SUPERBLOCK.unpack(data[: _SUPERBLOCK.size])
    if fields[0] != _MAGIC or zlib.crc32(_SUPERBLOCK.pack(*fields[:-1], 0)) != fields[-1]:
        return None
    _, version, group, generation, number, epoch, last_seq, flags, table, entries, crc, states, name, _ = (
        fields
    )
    if version != _VERSION:
        raise LogDamaged(f"the journal volume is of version {version}, this is version {_VERSION}")
    return Superblock(
        group=group,
        generation=generation,
        version=number,
        epoch=epoch,
        last_seq=last_seq,
        consistent=bool(flags & _CONSISTENT),
        states=tuple(_STATES[code] for code in states if code < len(_STATES)),
        primary=name.rstrip(b"\0").decode(errors="replace"),
        table_bytes=table,
        entries=entries,
        table_crc=crc,
        changes=bool(flags & _CHANGES),
    )


def newest(first: bytes, second: bytes) -> Superblock | None:
    """The one of the two copies that counts."""
    found = [block for block in (decode_superblock(first), decode_superblock(second)) if block is not None]
    return max(found, key=lambda block: (block.generation, block.version), default=None)


def encode_applied(superblock: Superblock) -> bytes:
    """The record that says: this epoch is in the S-VOLs."""
    fields = (_APPLIED_MAGIC, _VERSION, superblock.group, superblock.generation, superblock.epoch)
    return _APPLIED.pack(*fields, zlib.crc32(_APPLIED.pack(*fields, 0))).ljust(SLOT_BYTES, b"\0")


def is_applied(data: bytes, superblock: Superblock) -> bool:
    """Whether the epoch that ``superblock`` names needs no applying."""
    if not superblock.entries or superblock.changes:
        return True
    magic, version, group, generation, epoch, crc = _APPLIED.unpack(data[: _APPLIED.size])
    whole = zlib.crc32(_APPLIED.pack(magic, version, group, generation, epoch, 0)) == crc
    return bool(
        whole
        and magic == _APPLIED_MAGIC
        and (group, generation) == (superblock.group, superblock.generation)
        and epoch >= superblock.epoch
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """One extent of an epoch: which volume, where, and where its data are on the journal volume (None: zeros)."""

    volume: int
    offset_bytes: int
    length_bytes: int
    data_at: int | None
    crc: int


@dataclass(frozen=True, slots=True)
class Epoch:
    """An epoch ready to be written: its entries, and what goes to the journal volume from ``EPOCH_AT`` on."""

    last_seq: int
    entries: tuple[Entry, ...]
    table: bytes
    data: tuple[bytes | memoryview, ...]

    @property
    def table_crc(self) -> int:
        """Checksum of the padded table."""
        return table_crc(self.table)

    @property
    def length_bytes(self) -> int:
        """Table and data."""
        return len(self.table) + sum(len(piece) for piece in self.data)


def no_breath() -> None:
    """For whoever has the process to themselves."""


def breathe() -> None:
    """Let hosts' threads have the interpreter, and the processor: an epoch is in no such hurry."""
    time.sleep(_BREATH_S)


def unhurried(items: Sequence[T], breath: Callable[[], None]) -> Iterator[T]:
    """The parts of an epoch one by one, with a breath after every few; a long epoch has no more breaths than others."""
    step = max(_AT_ONCE, len(items) // _BREATHS_LIMIT)
    for number, item in enumerate(items, 1):
        if not number % step:
            breath()
        yield item


def newest_extents(
    records: Sequence[Record], breath: Callable[[], None] = no_breath
) -> list[tuple[Record, int, int]]:
    """(record, first byte, length) of what the newest writes left of each record: nothing is there twice.

    Within an epoch the order of writes to the same place is decided here, so that they may travel in any order.
    ``breath`` is called now and then.
    """
    covered: dict[int, list[tuple[int, int]]] = {}
    chosen: list[tuple[Record, int, int]] = []
    for record in unhurried(records[::-1], breath):
        kept = covered.setdefault(record.volume, [])
        start, end = record.offset_bytes, record.offset_bytes + record.length_bytes
        chosen += [(record, first, last - first) for first, last in _gaps(kept, start, end)]
        _cover(kept, start, end)
    chosen.reverse()
    return chosen


def _touching(kept: list[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """Indices (first, past) of the intervals in the sorted, disjoint ``kept`` that touch [start, end]."""
    low, high = 0, len(kept)
    while low < high:
        middle = (low + high) // 2
        if kept[middle][1] < start:
            low = middle + 1
        else:
            high = middle
    past = low
    while past < len(kept) and kept[past][0] <= end:
        past += 1
    return low, past


def _gaps(kept: list[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    gaps = []
    low, past = _touching(kept, start, end)
    for first, last in kept[low:past]:
        if start < first:
            gaps.append((start, first))
        start = max(start, last)
    if start < end:
        gaps.append((start, end))
    return gaps


def _cover(kept: list[tuple[int, int]], start: int, end: int) -> None:
    low, past = _touching(kept, start, end)
    if low < past:
        start, end = min(start, kept[low][0]), max(end, kept[past - 1][1])
    kept[low:past] = [(start, end)]


def build(records: Sequence[Record], breath: Callable[[], None] = no_breath) -> Epoch:
    """The epoch of a run of records; at least one. ``breath`` is called every few records: who builds on a thread
    beside others lets them have the interpreter there."""
    extents = newest_extents(records, breath)
    table_bytes = -(-len(extents) * _ENTRY.size // SLOT_BYTES) * SLOT_BYTES
    at = EPOCH_AT + table_bytes
    entries: list[Entry] = []
    data: list[bytes | memoryview] = []
    for record, first, length in unhurried(extents, breath):
        if record.data is None:
            entries.append(Entry(record.volume, first, length, None, 0))
            continue
        start = first - record.offset_bytes
        piece = memoryview(record.data)[start : start + length]
        entries.append(Entry(record.volume, first, length, at, zlib.crc32(piece)))
        data.append(piece)
        at += length
    table = b"".join(
        _ENTRY.pack(
            entry.volume,
            _ZEROS if entry.data_at is None else 0,
            entry.length_bytes,
            entry.offset_bytes,
            entry.data_at or 0,
            entry.crc,
        )
        for entry in entries
    )
    return Epoch(records[-1].seq, tuple(entries), table.ljust(table_bytes, b"\0"), tuple(data))


def change_table(runs: Sequence[tuple[int, int, int]]) -> bytes:
    """(volume, offset, length) of what has changed, as a table."""
    table = b"".join(_ENTRY.pack(volume, _ZEROS, length, offset, 0, 0) for volume, offset, length in runs)
    return table.ljust(-(-len(table) // SLOT_BYTES) * SLOT_BYTES, b"\0")


def table_crc(table: bytes) -> int:
    """Checksum of a padded table."""
    return zlib.crc32(table)


def decode_table(table: bytes, superblock: Superblock) -> list[Entry]:
    """The entries of the epoch that ``superblock`` names. :class:`LogDamaged`."""
    if len(table) != superblock.table_bytes or zlib.crc32(table) != superblock.table_crc:
        raise LogDamaged(f"the table of epoch {superblock.epoch} on the journal volume is damaged")
    entries = []
    for number in range(superblock.entries):
        volume, flags, length, offset, at, crc = _ENTRY.unpack_from(table, number * _ENTRY.size)
        entries.append(Entry(volume, offset, length, None if flags & _ZEROS else at, crc))
    return entries


def check_data(entry: Entry, data: Iterable[bytes | bytearray | memoryview], epoch: int) -> None:
    """Raise :class:`LogDamaged` unless ``data`` are what the entry's checksum says."""
    crc = 0
    for piece in data:
        crc = zlib.crc32(piece, crc)
    if crc != entry.crc:
        raise LogDamaged(f"the data of epoch {epoch} at {entry.data_at} on the journal volume are damaged")
