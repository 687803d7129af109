"""The durable journal: SQLite in WAL mode, one writer thread, commits in groups.

Acknowledged means durable: :meth:`Journal.commit` returns after the transaction that holds its entry is synced.
Entries that arrive while a sync is under way share the next one. When a commit fails the entries in it are
refused with :class:`StoreError`; as a failed sync may or may not have reached the disk, the next transaction
first puts back what those entries would have changed.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from credits.answers import ANSWERS_LIMIT
from credits.config import PoolConfig
from credits.errors import StoreError
from credits.journal_format import (
    APPLICATION_ID,
    DELETE,
    FORMAT,
    MIGRATIONS,
    RAISE_NUMBER,
    ROW_COLUMNS,
    SCHEMA,
    UPSERT,
    Row,
)

#: Each opening starts its revisions at a new multiple of this, so that a revision, an epoch or a hold that was
#: given out but not committed before a crash never comes up again.
REVISIONS_PER_OPENING = 1_000_000

Connect = Callable[[Path], sqlite3.Connection]


@dataclass(slots=True)
class Entry:
    """What one mutation changes in the file.

    ``after`` and ``before`` map the touched keys to their rows, ``None`` for no row. ``answer`` is
    ``(request_id, request text, answer text)``. ``buffer_id`` was issued by this mutation.
    """

    revision: int
    after: dict[str, Row | None] = field(default_factory=dict)
    before: dict[str, Row | None] = field(default_factory=dict)
    answer: tuple[str, str, str] | None = None
    buffer_id: int | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """What the file held when it was opened."""

    rows: tuple[Row, ...]
    answers: tuple[tuple[str, str, str], ...]
    seeds: tuple[int, ...]
    revision: int
    next_buffer_id: int


@dataclass(slots=True, eq=False)
class _Ticket:
    entry: Entry
    done: threading.Event = field(default_factory=threading.Event)
    error: StoreError | None = None

    def wait(self) -> BaseException | None:
        """Wait for the writer, also when interrupted: only then is it known what is on the disk."""
        interruption = None
        while not self.done.is_set():
            try:
                self.done.wait()
            except BaseException as raised:  # noqa: BLE001 - handed to the caller, who raises it
                interruption = interruption or raised
        return interruption


def connect_journal(path: Path) -> sqlite3.Connection:
    """A connection for the journal: exclusive, WAL, every commit synced."""
    connection = sqlite3.connect(path, timeout=0.2, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def journal_path(path: Path, pool_name: str) -> Path:
    """The journal's file: ``path`` itself, or ``<pool name>.sqlite`` in it when it is a directory.

    A path that does not exist counts as a directory when it has no suffix.
    """
    if path.is_dir() or (not path.exists() and not path.suffix):
        return path / f"{pool_name}.sqlite"
    return path


class Journal:
    """An open journal. Open it with :meth:`open`; one process at a time."""

    def __init__(self, path: Path, connection: sqlite3.Connection, connect: Connect, stored: Stored) -> None:
        self.path = path
        self.stored = stored
        self._connect = connect
        self._connection: sqlite3.Connection | None = connection
        self._undo: dict[str, Row | None] = {}
        self._undo_answers: set[str] = set()
        self._queue: list[_Ticket] = []
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._write, name=f"journal {path.name}", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, path: Path, config: PoolConfig, connect: Connect = connect_journal) -> Journal:
        """Open or create the journal of a pool at ``path`` (see :func:`journal_path`).

        The state directory is created with mode 0700. Raises :class:`StoreError`: no access, in use, damaged,
        of another pool, or written by a newer version.
        """
        path = journal_path(path, config.name)
        connection = None
        try:
            _make_directory(path.parent)
            fresh = not path.exists() or path.stat().st_size == 0
            if fresh:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = connect(path)
            stored = _load(connection, path, config)
            if fresh:
                _sync_directory(path.parent)
            return cls(path, connection, connect, stored)
        except (sqlite3.Error, OSError) as error:
            if connection is not None:
                connection.close()
            raise StoreError(_explained(error, path)) from error
        except StoreError:
            if connection is not None:
                connection.close()
            raise

    def commit(self, entry: Entry) -> BaseException | None:
        """Make an entry durable, together with others that wait. Raises :class:`StoreError`; it is then void.

        Returns what interrupted the wait (Ctrl-C), for the caller to raise once it has brought its memory up to
        what the disk now says; ``None`` as a rule.
        """
        ticket = _Ticket(entry)
        with self._wake:
            if self._closing:
                raise StoreError(f"the journal {self.path} is closed")
            self._queue.append(ticket)
            self._wake.notify()
        interruption = ticket.wait()
        if ticket.error is not None:
            raise ticket.error from interruption
        return interruption

    def close(self) -> None:
        """Write what waits, and close the file."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    # -- the writer's thread -------------------------------------------------------------------------------

    def _write(self) -> None:
        batch: list[_Ticket] = []
        try:
            while True:
                with self._wake:
                    while not self._queue and not self._closing:
                        self._wake.wait()
                    batch, self._queue = self._queue, []
                if not batch:
                    if self._undo:
                        self._write_batch([])  # a last try to take back what was refused
                    return
                error = self._write_batch(batch)
                for ticket in batch:
                    ticket.error = error
                    ticket.done.set()
        finally:
            # Also reached when this thread fails for a reason nobody foresaw: nobody may wait for it then.
            with self._wake:
                self._closing = True
                batch += self._queue
            for ticket in batch:
                if not ticket.done.is_set():
                    ticket.error = StoreError(f"the writer of {self.path} has stopped")
                    ticket.done.set()
            self._close_connection()

    def _write_batch(self, batch: list[_Ticket]) -> StoreError | None:
        try:
            if self._connection is None:
                self._connection = self._connect(self.path)
            _write_entries(
                self._connection, self._undo, self._undo_answers, [ticket.entry for ticket in batch]
            )
        except (sqlite3.Error, OSError) as error:
            self._close_connection()
            for ticket in batch:
                for key, row in ticket.entry.before.items():
                    self._undo.setdefault(key, row)
                if ticket.entry.answer is not None:
                    self._undo_answers.add(ticket.entry.answer[0])
            return StoreError(_explained(error, self.path))
        self._undo.clear()
        self._undo_answers.clear()
        return None

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error:
                # What was acknowledged is in the file; a journal that cannot be tidied up is tidied at the next
                # opening.
                return


def _write_entries(
    connection: sqlite3.Connection, undo: dict[str, Row | None], undo_answers: set[str], entries: list[Entry]
) -> None:
    connection.execute("BEGIN IMMEDIATE")
    _write_rows(connection, undo)
    connection.executemany("DELETE FROM answers WHERE request_id = ?", [(name,) for name in undo_answers])
    for entry in entries:
        _write_rows(connection, entry.after)
        if entry.answer is not None:
            connection.execute(
                "INSERT OR REPLACE INTO answers (request_id, request, answer) VALUES (?, ?, ?)", entry.answer
            )
        if entry.buffer_id is not None:
            used_up = connection.execute("DELETE FROM seeds WHERE buffer_id = ?", (entry.buffer_id,))
            if not used_up.rowcount:
                connection.execute(RAISE_NUMBER, ("next_buffer_id", entry.buffer_id + 1))
        connection.execute(RAISE_NUMBER, ("revision", entry.revision))
    connection.execute(
        "DELETE FROM answers WHERE position <= (SELECT max(position) FROM answers) - ?", (ANSWERS_LIMIT,)
    )
    connection.execute("COMMIT")


def _write_rows(connection: sqlite3.Connection, rows: dict[str, Row | None]) -> None:
    for key, row in rows.items():
        if row is None:
            connection.execute(DELETE, (key,))
        else:
            connection.execute(UPSERT, row)


def _load(connection: sqlite3.Connection, path: Path, config: PoolConfig) -> Stored:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if not tables and not application_id:
        _create(connection, config)
    elif application_id != APPLICATION_ID:
        raise StoreError(f"{path} is some other program's database; name another file")
    elif version > FORMAT:
        raise StoreError(
            f"{path} has format {version}, written by a newer version; this one reads up to format {FORMAT}: "
            "use the newer version"
        )
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StoreError(
            f"{path} is damaged ({verdict}); restore it from a backup, or move it away to start anew"
        )
    name, kind = connection.execute("SELECT name, kind FROM pool").fetchone()
    if (name, kind) != (config.name, config.kind.value):
        raise StoreError(
            f"{path} is the journal of the {kind} pool {name!r}, not of the {config.kind.value} pool "
            f"{config.name!r}; name another file"
        )
    _migrate(connection)
    numbers = dict(connection.execute("SELECT name, value FROM numbers").fetchall())
    revision = (numbers.get("revision", -1) // REVISIONS_PER_OPENING + 1) * REVISIONS_PER_OPENING
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(RAISE_NUMBER, ("revision", revision))
    connection.execute("COMMIT")
    answers = connection.execute(
        "SELECT request_id, request, answer FROM answers ORDER BY position"
    ).fetchall()
    return Stored(
        rows=tuple(connection.execute(f"SELECT {ROW_COLUMNS} FROM reservations").fetchall()),
        answers=tuple(answers),
        seeds=tuple(row[0] for row in connection.execute("SELECT buffer_id FROM seeds ORDER BY position")),
        revision=revision,
        next_buffer_id=numbers.get("next_buffer_id", 0),
    )


def _create(connection: sqlite3.Connection, config: PoolConfig) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in SCHEMA:
        connection.execute(statement)
    connection.execute("INSERT INTO pool (name, kind) VALUES (?, ?)", (config.name, config.kind.value))
    connection.executemany(
        "INSERT INTO seeds (buffer_id) VALUES (?)", [(seed,) for seed in config.buffer_id_seeds]
    )
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.execute("COMMIT")


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring a file of an older format to the present one, in one transaction."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == FORMAT:
        return
    connection.execute("BEGIN IMMEDIATE")
    for older in range(version, FORMAT):
        for statement in MIGRATIONS[older]:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.execute("COMMIT")


def _make_directory(directory: Path) -> None:
    if not directory.is_dir():
        directory.mkdir(mode=0o700, parents=True)
        directory.chmod(0o700)
        _sync_directory(directory.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explained(error: sqlite3.Error | OSError, path: Path) -> str:
    """One clear line: what, why, what to do."""
    if isinstance(error, OSError):
        return f"cannot use {error.filename or path} as a journal: {error.strerror or error}; nothing was changed"
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith("SQLITE_FULL"):
        return f"the disk of {path} is full; nothing was changed; free some space and try again"
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"the journal {path} is in use by another process; end that one, or name another file"
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return f"{path} is damaged or no journal ({error}); restore it from a backup, or move it away"
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return f"cannot write the journal {path} ({error}); nothing was changed; check the directory's permissions"
    return f"cannot write the journal {path} ({error}); nothing was changed; check the disk"
