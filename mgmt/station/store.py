"""What the station keeps on disk 224: channel table 108, the copies it has started, and attempts not yet finished.

SQLAlchemy Core over SQLite in the state directory (mode 0700), or another database by URL. What a function here has
returned from is durable. One station at a time uses a state directory; a newer format is refused.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    and_,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

FORMAT = 1
#: Rows of table 108 that one station keeps; nobody can fill the disk by registering pairs.
ROW_LIMIT = 10_000
#: Copies that one station remembers.
COPY_LIMIT = 1000
#: The port number of a row that has none; 0 is no port number, and NULL would not be unique.
_NO_NUMBER = 0

_METADATA = MetaData()
_META = Table(
    "meta",
    _METADATA,
    Column("key", String(64), primary_key=True),
    Column("value", String(255), nullable=False),
)
_CHANNELS = Table(
    "channels",
    _METADATA,
    Column("local_port", String(255), primary_key=True),
    Column("remote_port", String(255), primary_key=True),
    Column("remote_port_number", Integer, primary_key=True),
    Column("bandwidth_bps", BigInteger),
    Column("rtt_ns", BigInteger),
    Column("sessions", Integer, nullable=False),
    Column("connections_per_session", Integer, nullable=False),
    Column("measured_at", String(40)),
    Column("method", String(255), nullable=False),
    Column("failed", Boolean, nullable=False),
    Column("sequence", BigInteger, nullable=False),
)
_COPIES = Table(
    "copies",
    _METADATA,
    Column("copy_id", String(128), primary_key=True),
    Column("array", String(255), nullable=False),
    Column("remote_array", String(255), nullable=False),
    Column("volume", String(255), nullable=False),
    Column("remote_volume", String(255), nullable=False),
    Column("local_port", String(255), nullable=False),
    Column("remote_port", String(255), nullable=False),
    Column("started_at", String(40), nullable=False),
)
_ENDS = Table(
    "open_ends",
    _METADATA,
    Column("attempt", String(64), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("array", String(255), nullable=False),
    Column("hold", String(255), nullable=False),
    Column("local_port", String(255), nullable=False),
    Column("remote_port", String(255), nullable=False),
    Column("previous_bytes", BigInteger, nullable=False),
)


class StationStoreError(Exception):
    """The station's state cannot be read or written; one line with what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One row of table 108 (figure 3b). The measured values are ``None`` from step 801 until step 804."""

    local_port: str
    remote_port: str
    remote_port_number: int | None = None
    bandwidth_bps: int | None = None
    rtt_ns: int | None = None
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

    def __init__(self, engine: Engine, where: str, lock: int | None = None) -> None:
        self._engine = engine
        self._where = where
        self._lock = lock
        self._one_at_a_time = threading.RLock()
        with self._transaction() as connection:
            self._check_format(connection)
            _METADATA.create_all(connection)
            if connection.execute(select(_META.c.value).where(_META.c.key == "format")).first() is None:
                connection.execute(insert(_META).values(key="format", value=str(FORMAT)))

    def close(self) -> None:
        """Close the database and leave the state directory to others."""
        self._engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _check_format(self, connection: Connection) -> None:
        if not inspect(connection).has_table("meta"):
            return
        found = connection.execute(select(_META.c.value).where(_META.c.key == "format")).scalar()
        if found is not None and found != str(FORMAT):
            raise StationStoreError(
                f"{self._where} has format {found}, this version reads format {FORMAT}: use the newer version"
            )

    def exclusive(self) -> AbstractContextManager[object]:
        """For a change that depends on what was read: nobody else changes a table inside the block."""
        return self._one_at_a_time

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._one_at_a_time, self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise StationStoreError(f"cannot use the station's state in {self._where}: {cause}") from error

    def channels(self) -> list[Channel]:
        """Table 108, ordered by port pair."""
        with self._transaction() as connection:
            return [_channel(row) for row in connection.execute(select(_CHANNELS).order_by(*_KEY)).mappings()]

    def channel(self, local_port: str, remote_port: str, remote_port_number: int | None) -> Channel | None:
        """One row of table 108 by its key."""
        with self._transaction() as connection:
            found = connection.execute(
                select(_CHANNELS).where(_at(local_port, remote_port, remote_port_number))
            ).mappings()
            row = found.first()
            return _channel(row) if row is not None else None

    def put_channel(self, channel: Channel) -> None:
        """Write one row of table 108, in place of the row with its key if there is one."""
        values = asdict(channel) | {"remote_port_number": channel.remote_port_number or _NO_NUMBER}
        key = _at(channel.local_port, channel.remote_port, channel.remote_port_number)
        with self._transaction() as connection:
            if connection.execute(update(_CHANNELS).where(key).values(values)).rowcount == 0:
                self._check_room(connection)
                connection.execute(insert(_CHANNELS).values(values))

    def remove_channel(self, channel: Channel) -> bool:
        """Take a row out of table 108; whether it was there."""
        key = _at(channel.local_port, channel.remote_port, channel.remote_port_number)
        with self._transaction() as connection:
            return connection.execute(delete(_CHANNELS).where(key)).rowcount > 0

    def copies(self) -> dict[str, CopyRecord]:
        """The copies started, by ID, oldest first."""
        with self._transaction() as connection:
            rows = connection.execute(select(_COPIES).order_by(_COPIES.c.started_at)).mappings()
            return {row["copy_id"]: CopyRecord(**dict(row)) for row in rows}

    def put_copy(self, record: CopyRecord) -> None:
        """Remember a copy; the oldest are forgotten where there are too many."""
        with self._transaction() as connection:
            connection.execute(insert(_COPIES).values(asdict(record)))
            newest = select(_COPIES.c.copy_id).order_by(_COPIES.c.started_at.desc()).limit(COPY_LIMIT)
            connection.execute(delete(_COPIES).where(_COPIES.c.copy_id.not_in(newest)))

    def remove_copy(self, copy_id: str) -> None:
        """Forget a copy."""
        with self._transaction() as connection:
            connection.execute(delete(_COPIES).where(_COPIES.c.copy_id == copy_id))

    def open_ends(self) -> list[OpenEnd]:
        """The ends of attempts that are not known to be finished."""
        with self._transaction() as connection:
            rows = connection.execute(select(_ENDS).order_by(_ENDS.c.attempt, _ENDS.c.number)).mappings()
            return [OpenEnd(**dict(row)) for row in rows]

    def put_ends(self, ends: Sequence[OpenEnd]) -> None:
        """Write the ends of an attempt down, all or none."""
        with self._transaction() as connection:
            connection.execute(insert(_ENDS), [asdict(end) for end in ends])

    def remove_ends(self, ends: Sequence[OpenEnd]) -> None:
        """These ends are finished; all or none."""
        with self._transaction() as connection:
            for end in ends:
                where = and_(_ENDS.c.attempt == end.attempt, _ENDS.c.number == end.number)
                connection.execute(delete(_ENDS).where(where))

    def _check_room(self, connection: Connection) -> None:
        rows = connection.execute(select(func.count()).select_from(_CHANNELS)).scalar_one()
        if rows >= ROW_LIMIT:
            raise StationStoreError(
                f"table 108 has its {ROW_LIMIT} rows: remove some (`sancredit unregister`)"
            )


_KEY = (_CHANNELS.c.local_port, _CHANNELS.c.remote_port, _CHANNELS.c.remote_port_number)


def _at(local_port: str, remote_port: str, remote_port_number: int | None) -> Any:
    values = (local_port, remote_port, remote_port_number or _NO_NUMBER)
    return and_(*(column == value for column, value in zip(_KEY, values, strict=True)))


def _channel(row: Any) -> Channel:
    values = dict(row)
    values["remote_port_number"] = values["remote_port_number"] or None
    return Channel(**values)


def open_store(state: Path | None, url: str | None = None) -> Store:
    """The store in the directory ``state`` (made with mode 0700 where missing), at ``url``, or in memory.

    Raises :class:`StationStoreError`: unreadable, read-only, in use by another station, of a newer format.
    """
    if url is not None:
        try:
            engine = create_engine(url)
            return Store(engine, engine.url.render_as_string(hide_password=True))
        except (SQLAlchemyError, ImportError) as error:
            raise StationStoreError(f"cannot use the database: {error}") from error
    if state is None:
        from sqlalchemy.pool import StaticPool

        options = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
        return Store(create_engine("sqlite://", **options), "memory")
    lock = _take_directory(state)
    try:
        file = state / "station.sqlite"
        _make_private(file)  # SQLite gives the files beside it the same mode
        engine = create_engine(f"sqlite:///{file}", connect_args={"timeout": 5.0})
        event.listen(engine, "connect", _durable)
        return Store(engine, str(state), lock)
    except BaseException:
        os.close(lock)
        raise


def _take_directory(state: Path) -> int:
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        state.chmod(0o700)
        lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StationStoreError(f"cannot use the state directory {state}: {reason}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StationStoreError(f"the state directory {state} is in use by another station") from error
    return lock


def _make_private(file: Path) -> None:
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        file.chmod(0o600)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StationStoreError(f"cannot use the station's state in {file}: {reason}") from error


def _durable(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
