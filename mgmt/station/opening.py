"""Opening the station's database: SQLite in a directory of its own, PostgreSQL by URL, or SQLite in memory.

One station at a time: a directory is locked; in PostgreSQL a lock refuses the second, and each commit makes sure that
nobody has taken the store over since (a lock ends with its connection, a word in the store does not).
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, delete, insert, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from mgmt.http.address import masked
from mgmt.station.database import Database, StationStoreError, make_sqlite_transactional
from mgmt.station.schema import META
from mgmt.station.versions import bring_to_head

#: The file in a state directory.
FILE = "station.sqlite"
#: The station's advisory lock in PostgreSQL: any number that others do not use.
_LOCK_NUMBER = 0x53414E43
_OWNER = "owner"


def open_database(state: Path | None, url: str | None = None, *, password: str | None = None) -> Database:
    """The database in the directory ``state`` (made with mode 0700 where missing), at ``url``, or in memory.

    ``password`` is that of a URL without one, so that it needs to be in no argument. Raises
    :class:`StationStoreError`: unreadable, read-only, in use by another station, of a newer version.
    """
    if url is not None:
        return _at_url(url, password)
    if state is None:
        from sqlalchemy.pool import StaticPool

        options = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
        engine = create_engine("sqlite://", **options)
        make_sqlite_transactional(engine, on_disk=False)
        return _ready(engine, "memory", lambda: None, single=True)
    lock = _take_directory(state)
    try:
        file = state / FILE
        _make_private(file)  # SQLite gives the files beside it the same mode
        return _ready(_sqlite(URL.create("sqlite", database=str(file))), str(state), lambda: os.close(lock))
    except BaseException:
        os.close(lock)
        raise


def _sqlite(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": 5.0, "check_same_thread": False}, pool_timeout=10)
    make_sqlite_transactional(engine, on_disk=True)
    return engine


def _at_url(text_: str, password: str | None) -> Database:
    try:
        url = postgresql_url(text_, password)
        where = url.render_as_string(hide_password=True)
        if url.get_backend_name() == "sqlite":
            return _ready(_sqlite(url), where, lambda: None)
        # A query that takes longer than a commit may is a database that hangs.
        engine = create_engine(
            url,
            pool_pre_ping=True,
            pool_timeout=10,
            connect_args={"connect_timeout": 5, "options": "-c statement_timeout=30000"},
        )
        return _postgresql(engine, where)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        cause = " ".join(str(getattr(error, "orig", None) or error).split())
        raise StationStoreError(f"cannot use the database: {_without(cause, password)}") from None


def postgresql_url(text_: str, password: str | None) -> URL:
    """The URL with its driver, and with the ``password`` that was given apart. Raises :class:`StationStoreError`."""
    try:
        url = make_url(text_)
    except (SQLAlchemyError, ValueError):
        raise StationStoreError(
            f"{masked(text_)!r} is no database: write postgresql://USER@HOST/NAME"
        ) from None
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    return url if password is None else url.set(password=password)


def _without(cause: str, password: str | None) -> str:
    return cause.replace(password, "***") if password else cause


def _postgresql(engine: Engine, where: str) -> Database:
    lock = engine.connect()
    try:
        taken = lock.execute(text("SELECT pg_try_advisory_lock(:n)"), {"n": _LOCK_NUMBER}).scalar()
        lock.commit()
        if not taken:
            raise StationStoreError(f"the database {where} is in use by another station")
        owner = uuid.uuid4().hex

        def release() -> None:
            lock.invalidate()
            lock.close()

        return _ready(engine, where, release, owner=owner)
    except BaseException:
        lock.invalidate()
        lock.close()
        engine.dispose()
        raise


def _ready(
    engine: Engine,
    where: str,
    release: Callable[[], None],
    *,
    single: bool = False,
    owner: str | None = None,
) -> Database:
    try:
        with engine.begin() as connection:
            bring_to_head(connection, where)
            if owner is not None:
                connection.execute(delete(META).where(META.c.key == _OWNER))
                connection.execute(insert(META).values(key=_OWNER, value=owner))
    except SQLAlchemyError as error:
        engine.dispose()
        cause = " ".join(str(getattr(error, "orig", None) or error).split())
        raise StationStoreError(f"cannot use the station's state in {where}: {cause}") from error
    except StationStoreError:
        engine.dispose()
        raise

    def check(connection: Connection) -> None:
        found = connection.execute(select(META.c.value).where(META.c.key == _OWNER)).scalar()
        if found != owner:
            raise StationStoreError(f"another station has taken the database {where} over: end this one")

    return Database(engine, where, release=release, single=single, check=None if owner is None else check)


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
