"""What the station keeps on disk 224: channel table 108, the copies it has started, and attempts not yet finished.

SQLAlchemy Core over SQLite in the state directory (mode 0700), or PostgreSQL by URL. What a function here has
returned from is durable. The other tables are kept by the modules that use them, in the same :class:`Database`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import and_, bindparam, delete, func, insert, select, update

from mgmt.station.database import Database, Transaction
from mgmt.station.database import StationStoreError as StationStoreError
from mgmt.station.opening import open_database
from mgmt.station.schema import CHANNELS, COPIES, OPEN_ENDS

#: Rows of table 108 that one station keeps; nobody can fill the disk by registering pairs.
ROW_LIMIT = 10_000
#: Copies that one station remembers.
COPY_LIMIT = 1000
#: The port number of a row that has none; 0 is no port number, and NULL would not be unique.
_NO_NUMBER = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One row of table 108 (figure 3b). The measured values are ``None`` from step 801 until step 804."""

    local_port: str
    remote_port: str
    remote_port_number: int | None = None
    bandwidth_bps: int | None = None
    rtt_ns: int | None = None
    jitter_ns: int | None = None
    loss_ppm: int | None = None
    credit_zero_ppm: int | None = None
    """With jitter and loss: what the device told for people (M2); no size is computed from the three."""
    sessions: int
    connections_per_session: int
    measured_at: str | None = None
    method: str = ""
    failed: bool = False
    """Whether a later measurement failed: the values are then marked stale (GAP-11)."""
    sequence: int = 0
    """Number of the newest M9 taken over; older ones are dropped (GAP-12)."""

    def age_s(self, now: datetime) -> float | None:
        """Seconds since the measurement, or ``None`` without one."""
        if self.measured_at is None:
            return None
        return max(0.0, (now - datetime.fromisoformat(self.measured_at)).total_seconds())


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRecord:
    """A remote copy that this station has started: where its ends are."""

    copy_id: str
    array: str
    remote_array: str
    volume: str
    remote_volume: str
    local_port: str
    remote_port: str
    started_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenEnd:
    """One end of a pair that is being reserved at both (GAP-26): what it takes to bring it back.

    ``hold`` is its hold, ``previous_bytes`` what was asked for there before, 0 without a reservation.
    """

    attempt: str
    number: int
    array: str
    hold: str
    local_port: str
    remote_port: str
    previous_bytes: int


class Store:
    """The station's tables. Thread-safe. Every method raises :class:`StationStoreError`."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._one_at_a_time = threading.RLock()
        #: Table 108 as it was last read; nobody but this station changes it.
        self._channels: dict[Key, Channel] | None = None
        #: Another number whenever table 108 may be another.
        self.channels_version = 0
        #: The open ends in the same way.
        self._ends: dict[tuple[str, int], OpenEnd] | None = None
        self._ends_change = threading.Lock()

    def close(self) -> None:
        """Close the database and leave the state directory to others."""
        self.database.close()

    def exclusive(self) -> AbstractContextManager[object]:
        """For a change that depends on what was read: nobody else is in such a block meanwhile."""
        return self._one_at_a_time

    def channels(self) -> list[Channel]:
        """Table 108, ordered by port pair."""
        return list(self._table_108().values())

    def channel(self, local_port: str, remote_port: str, remote_port_number: int | None) -> Channel | None:
        """One row of table 108 by its key."""
        return self._table_108().get((local_port, remote_port, remote_port_number or _NO_NUMBER))

    def rows_of(self, local_port: str, remote_port: str) -> list[Channel]:
        """The rows of one port pair: with each port number that it is registered with, and without."""
        pair = (local_port, remote_port)
        return [row for key, row in self._table_108().items() if key[:2] == pair]

    def put_channel(self, channel: Channel) -> None:
        """Write one row of table 108, in place of the row with its key if there is one."""
        self.put_channels([channel])

    def put_channels(
        self, channels: Sequence[Channel], also: Callable[[Transaction], object] = lambda transaction: None
    ) -> None:
        """Write rows of table 108, and what ``also`` writes: all or none."""

        def change(transaction: Transaction) -> None:
            for channel in channels:
                put_channel(transaction, channel)
            also(transaction)
            transaction.afterwards.append(self._forget)

        with self._one_at_a_time:
            self.database.write(change)

    def remove_channel(
        self, channel: Channel, also: Callable[[Transaction], object] = lambda transaction: None
    ) -> bool:
        """Take a row out of table 108, and write what ``also`` writes; whether it was there."""

        def change(transaction: Transaction) -> bool:
            also(transaction)
            transaction.afterwards.append(self._forget)
            return bool(transaction.execute(delete(CHANNELS).where(_at(_key(channel)))).rowcount)

        with self._one_at_a_time:
            return self.database.write(change)

    def _table_108(self) -> dict[Key, Channel]:
        with self._one_at_a_time:
            if self._channels is None:
                with self.database.read() as connection:
                    rows = connection.execute(select(CHANNELS).order_by(*_KEY)).mappings()
                    found = [_channel(row) for row in rows]
                self._channels = {_key(channel): channel for channel in found}
            return self._channels

    def _forget(self) -> None:
        self._channels = None
        self.channels_version += (
            1  # after it: who reads the number first never takes the old rows for the new
        )

    def copies(self) -> dict[str, CopyRecord]:
        """The copies started, by ID, oldest first."""
        with self.database.read() as connection:
            rows = connection.execute(select(COPIES).order_by(COPIES.c.started_at)).mappings()
            return {row["copy_id"]: CopyRecord(**dict(row)) for row in rows}

    def put_copy(self, record: CopyRecord) -> None:
        """Remember a copy; the oldest are forgotten where there are too many."""

        def change(transaction: Transaction) -> None:
            transaction.execute(insert(COPIES).values(asdict(record)))
            newest = select(COPIES.c.copy_id).order_by(COPIES.c.started_at.desc()).limit(COPY_LIMIT)
            transaction.execute(delete(COPIES).where(COPIES.c.copy_id.not_in(newest)))

        self.database.write(change)

    def remove_copy(self, copy_id: str) -> None:
        """Forget a copy."""
        self.database.write(lambda t: t.execute(delete(COPIES).where(COPIES.c.copy_id == copy_id)).rowcount)

    def open_ends(self) -> list[OpenEnd]:
        """The ends of attempts that are not known to be finished, by attempt and number."""
        with self._ends_change:
            if self._ends is None:
                with self.database.read() as connection:
                    rows = connection.execute(select(OPEN_ENDS)).mappings()
                    self._ends = {(row["attempt"], row["number"]): OpenEnd(**dict(row)) for row in rows}
            return [self._ends[key] for key in sorted(self._ends)]

    def put_ends(self, ends: Sequence[OpenEnd]) -> None:
        """Write the ends of an attempt down, all or none."""

        def change(transaction: Transaction) -> None:
            transaction.execute(_INSERT_ENDS, [asdict(end) for end in ends])
            transaction.afterwards.append(lambda: self._ends_are({_end_key(end): end for end in ends}, ()))

        self.open_ends()  # what there was before is known before it becomes another
        self.database.write(change)

    def finish_ends(self, transaction: Transaction, ends: Sequence[OpenEnd]) -> None:
        """Within a change: these ends are finished."""
        if not ends:
            return
        keys = [_end_key(end) for end in ends]
        transaction.execute(
            _DELETE_END, [{"the_attempt": attempt, "the_number": number} for attempt, number in keys]
        )
        transaction.afterwards.append(lambda: self._ends_are({}, keys))

    def remove_ends(self, ends: Sequence[OpenEnd]) -> None:
        """These ends are finished; all or none."""
        self.database.write(lambda transaction: self.finish_ends(transaction, ends))

    def _ends_are(self, new: Mapping[tuple[str, int], OpenEnd], gone: Iterable[tuple[str, int]]) -> None:
        """What is durable now."""
        with self._ends_change:
            if self._ends is not None:
                self._ends |= new
                for key in gone:
                    self._ends.pop(key, None)


Key = tuple[str, str, int]
_KEY = (CHANNELS.c.local_port, CHANNELS.c.remote_port, CHANNELS.c.remote_port_number)


def put_channel(transaction: Transaction, channel: Channel) -> None:
    """Write one row of table 108. Raises :class:`StationStoreError` where the table is full."""
    values = asdict(channel) | {"remote_port_number": channel.remote_port_number or _NO_NUMBER}
    if transaction.execute(update(CHANNELS).where(_at(_key(channel))).values(values)).rowcount == 0:
        if transaction.execute(select(func.count()).select_from(CHANNELS)).scalar_one() >= ROW_LIMIT:
            raise StationStoreError(
                f"table 108 has its {ROW_LIMIT} rows: remove some (`sancredit unregister`)"
            )
        transaction.execute(insert(CHANNELS).values(values))


_INSERT_ENDS = insert(OPEN_ENDS)
_DELETE_END = delete(OPEN_ENDS).where(
    OPEN_ENDS.c.attempt == bindparam("the_attempt"), OPEN_ENDS.c.number == bindparam("the_number")
)


def _end_key(end: OpenEnd) -> tuple[str, int]:
    return end.attempt, end.number


def _key(channel: Channel) -> Key:
    return channel.local_port, channel.remote_port, channel.remote_port_number or _NO_NUMBER


def _at(key: Key) -> Any:
    return and_(*(column == value for column, value in zip(_KEY, key, strict=True)))


def _channel(row: Any) -> Channel:
    values = dict(row)
    values["remote_port_number"] = values["remote_port_number"] or None
    return Channel(**values)


def open_store(state: Path | None, url: str | None = None, *, password: str | None = None) -> Store:
    """The store in the directory ``state``, at ``url``, or in memory; as :func:`mgmt.station.opening.open_database`."""
    return Store(open_database(state, url, password=password))
