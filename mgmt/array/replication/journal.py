"""The journal of a consistency group: every write of its volumes, numbered in the order in which hosts may rely on it.

A ring in a file of fixed size. A record is written as a whole before the volume is, under one lock, so numbers have
no gap and at most the last record of a killed process is torn; the checksum finds that. Records leave at the front
when the secondary has them. The records that are in the file are also in memory: nothing is read back but at start.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from iscsi_target.executor import Buffer

_HEAD_AT = 8192
_SLOT_BYTES = 4096
_SLOT = struct.Struct("<8sIQQQQQI")
_RECORD = struct.Struct("<IIQHHIQQ")
_MAGIC = b"SCJOURNL"
_RECORD_MAGIC = 0x4A524E4C
_SKIP_MAGIC = 0x534B4950
_VERSION = 1
ZEROS = 1
"""Flag of a record that says "zeros" and carries no data."""
COPIED = 2
"""Flag of a record that no host wrote just now: what a copy leaves for the end, older than it looks."""


class JournalError(Exception):
    """The journal cannot be made, read or written; one line."""


class JournalFull(Exception):
    """There is no room for a record until others have left."""


@dataclass(frozen=True, slots=True)
class Record:
    """One write: its number, its volume's number in the group, where, what, and when (monotonic ns of this boot)."""

    seq: int
    volume: int
    offset_bytes: int
    length_bytes: int
    data: bytes | None
    """None: zeros."""
    written_at_ns: int
    stored_bytes: int
    position: int
    copied: bool = False


def _padded(length: int) -> int:
    return -(-length // 8) * 8


class Journal:
    """The ring in ``path`` of ``capacity_bytes``. Thread-safe. Raises :class:`JournalError`.

    ``epoch`` and ``released_seq`` are what the secondary is known to have, kept in the head of the file.
    """

    def __init__(self, path: Path, capacity_bytes: int, clock: Callable[[], int]) -> None:
        self.path = path
        self.capacity_bytes = capacity_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._records: deque[Record] = deque()
        self.used_bytes = 0
        self._pending_bytes = 0
        self._copied_seq = 0
        self.epoch = 0
        self.released_seq = 0
        self._version = 0
        self._next_seq = 1
        self._head = _HEAD_AT
        self._end = _HEAD_AT + capacity_bytes
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            size = os.fstat(self._fd).st_size
            if size not in (0, self._end):
                raise JournalError(
                    f"{path} has {size} bytes, not {self._end}: delete the group, or set its size back"
                )
            if size == 0:
                os.posix_fallocate(self._fd, 0, self._end)
                self._write_slot(_HEAD_AT)
            else:
                self._recover()
        except OSError as error:
            raise JournalError(f"cannot open the journal {path}: {error.strerror}") from None

    # -- adding -----------------------------------------------------------------------------------------------

    @property
    def last_seq(self) -> int:
        """Number of the newest record ever written here."""
        return self._next_seq - 1

    @property
    def records(self) -> int:
        """Records that the secondary does not have yet."""
        return len(self._records)

    @property
    def pending_bytes(self) -> int:
        """Bytes of host data that the secondary does not have yet."""
        return self._pending_bytes

    def oldest_ns(self) -> int | None:
        """When the oldest write that the secondary does not have was made; see :attr:`ages_known`."""
        with self._lock:
            return self._records[0].written_at_ns if self._records else None

    @property
    def ages_known(self) -> bool:
        """Whether every record is as old as it says: none of them is the end of a copy."""
        with self._lock:
            return not self._records or self._records[0].seq > self._copied_seq

    def copied_seqs(self) -> tuple[int, int] | None:
        """The first and the last number of the records that are the end of a copy; None where there are none."""
        with self._lock:
            copied = [record.seq for record in self._records if record.copied]
        return (copied[0], copied[-1]) if copied else None

    def fits(self, length: int) -> bool:
        """Whether a record of so many bytes would ever fit."""
        return 2 * (_RECORD.size + _padded(length)) <= self.capacity_bytes

    def append(
        self, volume: int, offset: int, data: Buffer | None, length: int, *, copied: bool = False
    ) -> Record:
        """Write one record down; ``copied``: it is the end of a copy. :class:`JournalFull`, :class:`JournalError`."""
        kept = None if data is None else bytes(data)
        body = b"" if kept is None else kept
        with self._lock:
            stored = _RECORD.size + _padded(len(body))
            position = self._room(stored)
            seq = self._next_seq
            now_ns = self._clock()
            flags = (ZEROS if kept is None else 0) | (COPIED if copied else 0)
            head = _RECORD.pack(_RECORD_MAGIC, 0, seq, volume, flags, length, offset, now_ns)
            crc = zlib.crc32(body, zlib.crc32(head))
            head = _RECORD.pack(_RECORD_MAGIC, crc, seq, volume, flags, length, offset, now_ns)
            self._write(position, head, body)
            self._add(Record(seq, volume, offset, length, kept, now_ns, stored, position, copied))
            record = self._records[-1]
            self._head = position + stored
            self.used_bytes = self._used()
            self._next_seq += 1
            return record

    def _add(self, record: Record) -> None:
        self._records.append(record)
        self._pending_bytes += record.length_bytes
        if record.copied:
            self._copied_seq = record.seq

    def _used(self) -> int:
        if not self._records:
            return 0
        tail = self._records[0].position
        return self._head - tail if self._head > tail else self.capacity_bytes - (tail - self._head)

    def _room(self, stored: int) -> int:
        """Where a record of ``stored`` bytes goes; a record never wraps around the end of the file."""
        if not self._records:
            if self._head + stored <= self._end:
                return self._head
            if _HEAD_AT + stored > self._end:
                raise JournalFull
            # The head of the file must not go on naming a place that the records to come will write over.
            self._head = _HEAD_AT
            self._write_slot(_HEAD_AT)
            return _HEAD_AT
        tail = self._records[0].position
        if self._head <= tail:
            if self._head + stored < tail:
                return self._head
            raise JournalFull
        if self._head + stored <= self._end:
            return self._head
        if _HEAD_AT + stored >= tail:
            raise JournalFull
        if self._end - self._head >= _RECORD.size:
            self._write(self._head, _RECORD.pack(_SKIP_MAGIC, 0, self._next_seq, 0, 0, 0, 0, 0), b"")
        return _HEAD_AT

    def _write(self, position: int, head: bytes, body: bytes) -> None:
        try:
            done = os.pwritev(self._fd, [head, body], position)
            whole = head + body if done < len(head) + len(body) else b""
            while whole and done < len(whole):
                done += os.pwrite(self._fd, whole[done:], position + done)
        except OSError as error:
            raise JournalError(f"writing the journal {self.path}: {error.strerror}") from None

    # -- taking -----------------------------------------------------------------------------------------------

    def batch(self, most_bytes: int, most_records: int, whole_bytes: int = 0) -> list[Record]:
        """The oldest records, as many as ``most_bytes`` of data allow; one at least, unless there is none.

        The end of a copy is no point in time before all of it is there: it begins a batch of its own, which may have
        ``whole_bytes`` so that it is not split.
        """
        with self._lock:
            chosen: list[Record] = []
            size = 0
            for record in self._records:
                size += record.length_bytes
                if chosen:
                    goes_on = record.copied and chosen[-1].copied
                    most = max(whole_bytes, most_bytes) if goes_on else most_bytes
                    begins = record.copied and not goes_on
                    if begins or size > most or len(chosen) == most_records:
                        break
                chosen.append(record)
            return chosen

    def release(self, seq: int, epoch: int) -> None:
        """The secondary has everything up to ``seq``, as of its epoch ``epoch``; durable against a kill at once."""
        with self._lock:
            while self._records and self._records[0].seq <= seq:
                self._pending_bytes -= self._records.popleft().length_bytes
            self.epoch = epoch
            self.released_seq = max(self.released_seq, seq)
            self.used_bytes = self._used()
            self._write_slot(self._records[0].position if self._records else self._head)

    def pending(self) -> list[Record]:
        """Every record that is still here, oldest first."""
        with self._lock:
            return list(self._records)

    def reset(self, seq: int | None = None) -> None:
        """Forget every record: the bitmaps have noted what they changed."""
        with self._lock:
            self._records.clear()
            self._pending_bytes = 0
            if seq is not None:
                self._next_seq = max(self._next_seq, seq + 1)
            self.used_bytes = 0
            self._write_slot(self._head)

    def _write_slot(self, tail: int) -> None:
        """The head of the file: two copies by turns, the newer whole one counts."""
        self._version += 1
        first_seq = self._records[0].seq if self._records else self._next_seq
        fields = (_MAGIC, _VERSION, self._version, tail, first_seq, self.epoch, self.released_seq)
        crc = zlib.crc32(_SLOT.pack(*fields, 0))
        self._write(self._version % 2 * _SLOT_BYTES, _SLOT.pack(*fields, crc), b"")

    # -- at start ---------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        slots = []
        for at in (0, _SLOT_BYTES):
            fields = _SLOT.unpack(os.pread(self._fd, _SLOT.size, at))
            if fields[0] == _MAGIC and zlib.crc32(_SLOT.pack(*fields[:-1], 0)) == fields[-1]:
                slots.append(fields)
        if not slots:
            raise JournalError(f"{self.path} is damaged: neither of its heads is whole; delete the group")
        _, _, self._version, tail, seq, self.epoch, self.released_seq, _ = max(
            slots, key=lambda slot: slot[2]
        )
        position, wrapped = tail, False
        while True:
            record = self._read(position, seq)
            if record is None:
                if not wrapped and self._skips(position, seq):
                    position, wrapped = _HEAD_AT, True
                    continue
                break
            self._add(record)
            position += record.stored_bytes
            seq += 1
        self._next_seq = seq
        self._head = position
        self.used_bytes = self._used()

    def _skips(self, position: int, seq: int) -> bool:
        if self._end - position < _RECORD.size:
            return True
        fields = _RECORD.unpack(os.pread(self._fd, _RECORD.size, position))
        return bool(fields[0] == _SKIP_MAGIC and fields[2] == seq)

    def _read(self, position: int, seq: int) -> Record | None:
        """The record at ``position`` if it is the one numbered ``seq`` and whole."""
        head = os.pread(self._fd, _RECORD.size, position)
        if len(head) < _RECORD.size or position + _RECORD.size > self._end:
            return None
        magic, crc, found, volume, flags, length, offset, when = _RECORD.unpack(head)
        stored = 0 if flags & ZEROS else length
        if magic != _RECORD_MAGIC or found != seq or position + _RECORD.size + stored > self._end:
            return None
        data = os.pread(self._fd, stored, position + _RECORD.size)
        plain = _RECORD.pack(magic, 0, found, volume, flags, length, offset, when)
        if len(data) < stored or zlib.crc32(data, zlib.crc32(plain)) != crc:
            return None
        now_ns = self._clock()
        return Record(
            seq=seq,
            volume=volume,
            offset_bytes=offset,
            length_bytes=length,
            data=None if flags & ZEROS else data,
            written_at_ns=min(when, now_ns),
            stored_bytes=_RECORD.size + _padded(stored),
            position=position,
            copied=bool(flags & COPIED),
        )

    def sync(self) -> None:
        """What is written survives a loss of power."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise JournalError(f"flushing the journal {self.path}: {error.strerror}") from None

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
