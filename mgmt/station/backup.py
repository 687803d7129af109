"""Backup and restore: everything the station keeps as one file, from either database into either.

A backup is gzipped JSON lines: a head with the version of the store, then ``[table, row]`` for each row, then a tail
with the number of rows and their SHA-256, without which it is no whole backup. It is read from one snapshot, also while
a station runs on the database; restoring needs the database for itself, and replaces all or nothing.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, create_engine, delete, insert, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from mgmt.station.canonical_json import utc_text
from mgmt.station.database import StationStoreError, Transaction, make_sqlite_transactional
from mgmt.station.opening import FILE, open_database, postgresql_url
from mgmt.station.schema import METADATA
from mgmt.station.versions import HEAD, version_of

FORMAT = "sancredit station backup"
#: The longest line that is read: a row with every text at its limit fits.
_LINE_LIMIT = 1024 * 1024
#: Rows that are read from one backup.
ROW_LIMIT = 20_000_000
_CHUNK = 500
#: Words of the running station in the store that are none of its state.
_NOT_STATE = ("owner",)


class BackupError(Exception):
    """The file is no backup, or cannot be read or written; one line."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What a backup holds."""

    rows: int
    sha256: str
    taken_at: str


def backup(state: Path | None, file: Path, url: str | None = None, *, password: str | None = None) -> Saved:
    """Write all that is kept in ``state`` or at ``url`` into ``file`` (mode 0600, there whole or not at all).

    Raises :class:`BackupError` and :class:`StationStoreError`.
    """
    partial = file.with_name(f".{file.name}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as raw:
                with gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as packed:
                    saved = _write(packed, state, url, password)
                raw.flush()
                os.fsync(raw.fileno())
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise BackupError(f"cannot write {file}: {(error.strerror or str(error)).lower()}") from error
    return saved


def restore(
    state: Path | None,
    file: Path,
    url: str | None = None,
    *,
    password: str | None = None,
    replace: bool = False,
) -> Saved:
    """Bring ``state`` or the database at ``url`` to what a backup holds; with ``replace`` also where something is kept.

    Raises :class:`BackupError` (nothing is changed then) and :class:`StationStoreError` (in use by a station, …).
    """
    saved = check(file)
    database = open_database(state, url, password=password)
    try:
        # However long it takes: a commit of everything is no usual change.
        database.submit(lambda transaction: _replace(transaction, file, replace=replace)).result()
    finally:
        database.close()
    return saved


def check(file: Path) -> Saved:
    """Read a backup to its end. Raises :class:`BackupError` unless it is whole and of a version that is read here."""
    digest, rows, head, tail = hashlib.sha256(), 0, None, None
    for line in _lines(file):
        if tail is not None:
            raise BackupError(f"{file} goes on after its end")
        plain = _json(line, file)
        if head is None:
            head = plain
            if not isinstance(head, dict) or head.get("format") != FORMAT:
                raise BackupError(f"{file} is no backup of a station")
            if head.get("version") != HEAD:
                raise BackupError(
                    f"{file} is of version {head.get('version')!r:.20}, this version reads {HEAD}: "
                    "restore it with the version that wrote it"
                )
        elif isinstance(plain, dict):
            tail = plain
        else:
            _row_of(plain, file)
            rows += 1
            digest.update(line)
            if rows > ROW_LIMIT:
                raise BackupError(f"{file} has more than {ROW_LIMIT} rows")
    if head is None or tail is None:
        raise BackupError(f"{file} is cut off: it has no end")
    if (tail.get("rows"), tail.get("sha256")) != (rows, digest.hexdigest()):
        raise BackupError(f"{file} is damaged: its rows are not those that were written")
    return Saved(rows, digest.hexdigest(), str(head.get("taken_at")))


def _write(packed: gzip.GzipFile, state: Path | None, url: str | None, password: str | None) -> Saved:
    taken_at = utc_text(datetime.now(UTC))
    digest, rows = hashlib.sha256(), 0

    def put(plain: Any) -> bytes:
        line = json.dumps(plain, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        packed.write(line)
        return line

    put({"format": FORMAT, "version": HEAD, "taken_at": taken_at})
    for table, row in _all_rows(state, url, password):
        digest.update(put([table, row]))
        rows += 1
    put({"rows": rows, "sha256": digest.hexdigest()})
    return Saved(rows, digest.hexdigest(), taken_at)


def _all_rows(
    state: Path | None, url: str | None, password: str | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row, from one snapshot; the database may be in use."""
    if url is None:
        file = None if state is None else state / FILE
        if file is None or not file.is_file():
            raise StationStoreError(f"there is no station's state in {state}")
        wanted = make_url("sqlite://").set(database=str(file))
    else:
        wanted = postgresql_url(url, password)
    where = wanted.render_as_string(hide_password=True)
    engine = create_engine(wanted)
    if wanted.get_backend_name() == "sqlite":
        make_sqlite_transactional(engine, on_disk=False)
    else:
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    try:
        with engine.begin() as connection:
            found = version_of(connection)
            if found != HEAD:
                raise StationStoreError(
                    f"{where} has version {found}, this version saves {HEAD}: start the station once, or use the newer"
                )
            for table in METADATA.sorted_tables:
                yield from _rows(connection, table)
    except SQLAlchemyError as error:
        cause = " ".join(str(getattr(error, "orig", None) or error).split())
        raise StationStoreError(f"cannot read {where}: {cause}") from None
    finally:
        engine.dispose()


def _rows(connection: Connection, table: Table) -> Iterator[tuple[str, dict[str, Any]]]:
    query = select(table).order_by(*table.primary_key.columns)
    found = connection.execution_options(yield_per=_CHUNK).execute(query)
    for row in found.mappings():
        if table.name != "meta" or row["key"] not in _NOT_STATE:
            yield table.name, dict(row)


def _replace(transaction: Transaction, file: Path, *, replace: bool) -> None:
    tables = {table.name: table for table in METADATA.sorted_tables}
    for table in tables.values():
        if table.name != "meta":
            if not replace and transaction.execute(select(table).limit(1)).first() is not None:
                raise BackupError("there is a station's state already: say --replace to lose it")
            transaction.execute(delete(table))
    transaction.execute(delete(tables["meta"]).where(tables["meta"].c.key.not_in(_NOT_STATE)))
    waiting: list[dict[str, Any]] = []
    name = ""
    for line in _lines(file):
        plain = _json(line, file)
        if isinstance(plain, dict):
            continue
        table_name, row = _row_of(plain, file)
        if table_name != name or len(waiting) == _CHUNK:
            _insert(transaction, tables.get(name), waiting)
            name, waiting = table_name, []
        waiting.append(row)
    _insert(transaction, tables.get(name), waiting)
    if transaction.connection.dialect.name == "postgresql":  # its counters go on after the highest number
        for counted in ("events", "alarms"):
            transaction.execute(
                text(
                    f"SELECT setval(pg_get_serial_sequence('{counted}', 'number'),"
                    f" (SELECT COALESCE(MAX(number), 0) + 1 FROM {counted}), false)"
                )
            )


def _insert(transaction: Transaction, table: Table | None, rows: list[dict[str, Any]]) -> None:
    if table is not None and rows:
        transaction.execute(insert(table), rows)


def _row_of(plain: Any, file: Path) -> tuple[str, dict[str, Any]]:
    """A row as it was written: of a table of ours, with its columns and nothing else."""
    if (
        isinstance(plain, list)
        and len(plain) == 2
        and isinstance(plain[0], str)
        and isinstance(plain[1], dict)
    ):
        table = METADATA.tables.get(plain[0])
        if table is not None and set(plain[1]) == set(table.columns.keys()):
            return plain[0], plain[1]
    raise BackupError(f"{file} is damaged: it has a row that is none of a station's")


def _lines(file: Path) -> Iterator[bytes]:
    try:
        with gzip.open(file, "rb") as packed:
            while line := packed.readline(_LINE_LIMIT):
                if not line.endswith(b"\n"):
                    raise BackupError(f"{file} is cut off, or has a line that is too long")
                yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BackupError(f"{file} is no backup of a station, or is cut off") from error
    except OSError as error:
        raise BackupError(f"cannot read {file}: {(error.strerror or str(error)).lower()}") from error


def _json(line: bytes, file: Path) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BackupError(f"{file} is damaged: it has a line that is no JSON") from error
