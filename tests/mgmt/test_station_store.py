"""The station's state on disk."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, replace
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import insert

from mgmt.station import database, versions
from mgmt.station import store as store_module
from mgmt.station.database import Transaction
from mgmt.station.schema import CHANNELS, METADATA
from mgmt.station.store import Channel, CopyRecord, OpenEnd, StationStoreError, Store, open_store, put_channel
from mgmt.station.versions import HEAD
from tests.mgmt.databases import PASSWORD, Opener, Server

ROW = Channel(local_port="a", remote_port="b", sessions=2, connections_per_session=3)


def copy(number: int) -> CopyRecord:
    return CopyRecord(
        copy_id=f"c{number}",
        array="M",
        remote_array="R",
        volume="v",
        remote_volume="w",
        local_port="a",
        remote_port="b",
        started_at=f"2026-01-0{number}T00:00:00+00:00",
    )


def reopened(open_it: Opener, store: Store) -> Store:
    store.close()
    return open_it()


def test_nobody_else_may_read_the_database(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "station.sqlite").touch(0o644)
    store = open_store(state)
    try:
        store.channels()
        modes = {file.name: file.stat().st_mode & 0o777 for file in state.iterdir()}
    finally:
        store.close()
    assert "station.sqlite" in modes and set(modes.values()) == {0o600}, modes


def test_what_was_put_is_there_after_a_restart(open_it: Opener) -> None:
    measured = Channel(
        local_port="a",
        remote_port="b",
        remote_port_number=25,
        bandwidth_bps=2**62,
        rtt_ns=1,
        sessions=1,
        connections_per_session=1,
        measured_at="2026-01-01T00:00:00+00:00",
        method="m",
        failed=True,
        sequence=7,
    )
    store = open_it()
    store.put_channel(ROW)
    store.put_channel(measured)
    store = reopened(open_it, store)
    assert store.channels() == [ROW, measured]
    assert store.channel("a", "b", None) == ROW
    assert store.channel("a", "b", 25) == measured
    assert store.channel("a", "b", 26) is None
    store.close()


def test_a_row_with_the_same_key_is_replaced(open_it: Opener) -> None:
    store = open_it()
    store.put_channel(ROW)
    store.put_channel(Channel(local_port="a", remote_port="b", sessions=9, connections_per_session=9))
    assert [row.sessions for row in store.channels()] == [9]
    assert store.remove_channel(ROW) is True
    assert store.remove_channel(ROW) is False
    store.close()


def test_copies_are_kept_in_the_order_in_which_they_were_started(open_it: Opener) -> None:
    store = open_it()
    for number in (2, 1):
        store.put_copy(copy(number))
    store = reopened(open_it, store)
    assert list(store.copies()) == ["c1", "c2"]
    store.close()


def test_the_oldest_copies_are_forgotten_where_there_are_too_many(
    open_it: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "COPY_LIMIT", 2)
    store = open_it()
    for number in range(1, 6):
        store.put_copy(copy(number))
    assert list(store.copies()) == ["c4", "c5"]
    store.remove_copy("c4")
    assert list(store.copies()) == ["c5"]
    store.close()


def test_the_state_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    state = tmp_path / "deep" / "state"
    open_store(state).close()
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_two_stations_do_not_share_a_directory(tmp_path: Path) -> None:
    first = open_store(tmp_path)
    with pytest.raises(StationStoreError, match="in use by another station"):
        open_store(tmp_path)
    first.close()
    open_store(tmp_path).close()


def test_a_newer_format_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    file = tmp_path / "station.sqlite"
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = file.read_bytes()
    with pytest.raises(StationStoreError, match="has version 9999, this version reads up to"):
        open_store(tmp_path)
    assert file.read_bytes() == before


def test_a_file_that_is_no_database_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "station.sqlite").write_bytes(b"not a database at all, but long enough to be looked at" * 20)
    with pytest.raises(StationStoreError, match="file is not a database"):
        open_store(tmp_path)


def test_a_state_directory_that_is_a_file_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(StationStoreError, match=r"cannot use the state directory .*: file exists"):
        open_store(tmp_path / "state")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_place_is_said_in_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StationStoreError, match="permission denied"):
            open_store(tmp_path / "state")
    finally:
        tmp_path.chmod(0o700)


def test_a_full_table_refuses_another_row_and_keeps_those_it_has(
    open_it: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "ROW_LIMIT", 1)
    store = open_it()
    store.put_channel(ROW)
    with pytest.raises(StationStoreError, match="has its 1 rows"):
        store.put_channel(Channel(local_port="x", remote_port="y", sessions=1, connections_per_session=1))
    store.put_channel(ROW)
    assert store.channels() == [ROW]
    store.close()


def test_a_disk_that_fills_up_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put_channel(ROW)
    with store.database.engine.connect() as connection:  # the pool hands the same connection out again
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StationStoreError, match="full"):
        for number in range(10_000):
            name = f"{number:0200}"
            store.put_channel(
                Channel(local_port=name, remote_port="y", sessions=1, connections_per_session=1)
            )
    kept = store.channels()
    assert ROW in kept
    store = reopened(lambda: open_store(tmp_path), store)
    assert store.channels() == kept
    store.close()


def test_a_store_in_memory_works_without_a_directory() -> None:
    store = open_store(None)
    store.put_channel(ROW)
    assert store.channels() == [ROW]
    store.close()


def test_a_url_of_an_unknown_database_is_said_in_one_line() -> None:
    with pytest.raises(StationStoreError, match="cannot use the database"):
        open_store(None, "nonsense://user:secret@h/db")


def test_a_database_may_be_named_by_its_url(tmp_path: Path) -> None:
    store = open_store(None, f"sqlite:///{tmp_path}/by-url.sqlite")
    store.put_channel(ROW)
    assert store.channels() == [ROW]
    store.close()


def test_the_ends_of_an_attempt_are_written_down_all_or_none(open_it: Opener) -> None:
    near = OpenEnd(
        attempt="x",
        number=0,
        array="M",
        hold="run-1",
        local_port="a",
        remote_port="b",
        previous_bytes=2**40,
    )
    far = replace(near, number=1)
    store = open_it()
    with pytest.raises(StationStoreError):
        store.put_ends([near, far, near])
    assert store.open_ends() == []
    store.put_ends([near, far])
    store.close()
    store = open_it()
    assert store.open_ends() == [near, far]
    store.remove_ends([near])
    assert store.open_ends() == [far]
    store.close()


# --- versions -----------------------------------------------------------------------------------------------


def test_a_store_of_the_first_format_is_brought_to_this_version_with_all_it_has(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "station.sqlite") as connection:
        connection.executescript(FIRST_FORMAT)
    connection.close()
    store = open_store(tmp_path)
    assert store.channel("a", "b", 25) == replace(
        ROW, remote_port_number=25, bandwidth_bps=10**7, rtt_ns=280, method="m"
    )
    store.put_channel(ROW)
    store.close()
    with sqlite3.connect(tmp_path / "station.sqlite") as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (HEAD,)
        assert connection.execute("SELECT value FROM meta WHERE key = 'format'").fetchone() == ("2",)
    connection.close()


def test_the_migrations_make_what_the_schema_describes(open_it: Opener) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    store = open_it()
    with store.database.engine.connect() as connection:
        found = compare_metadata(
            MigrationContext.configure(connection, opts={"compare_type": True}), METADATA
        )
    store.close()
    assert found == []


def test_the_newest_migration_is_the_version_that_is_read() -> None:
    from alembic.script import ScriptDirectory

    directory = ScriptDirectory(str(Path(versions.__file__).parent / "migrations"))
    assert directory.get_heads() == [HEAD]
    assert {script.revision for script in directory.walk_revisions()} == set(versions.KNOWN)


# --- many changes at once -----------------------------------------------------------------------------------


def test_changes_that_come_together_are_all_made_and_a_refused_one_spoils_no_other(open_it: Opener) -> None:
    store = open_it()
    gate = threading.Event()
    first = store.database.submit(lambda _: gate.wait(60))  # the others gather behind it: one batch

    def put(number: int) -> Future[None]:
        row = replace(ROW, local_port=f"p{number:02}")

        def change(transaction: Transaction) -> None:
            put_channel(transaction, row)
            if number % 3 == 0:
                raise ValueError(number)
            if number % 3 == 1:
                transaction.execute(insert(CHANNELS).values(asdict(row) | {"remote_port_number": 0}))

        return store.database.submit(change)

    waiting = {number: put(number) for number in range(12)}
    gate.set()
    assert first.result(60) is True
    for number, future in waiting.items():
        error = future.exception(60)
        expected = {0: ValueError, 1: StationStoreError, 2: None}[number % 3]
        assert (error is None) if expected is None else isinstance(error, expected), (number, error)
    store = reopened(open_it, store)
    assert [row.local_port for row in store.channels()] == ["p02", "p05", "p08", "p11"]
    store.close()


def test_more_changes_than_may_wait_are_refused_and_none_that_waited_is_lost(
    open_it: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_WAITING_LIMIT", 4)
    store = open_it()
    gate, busy = threading.Event(), threading.Event()

    def hold(_: Transaction) -> None:
        busy.set()
        gate.wait(60)

    first = store.database.submit(hold)
    assert busy.wait(60)
    waiting = [
        store.database.submit(lambda t, n=n: put_channel(t, replace(ROW, local_port=n))) for n in "abcd"
    ]
    with pytest.raises(StationStoreError, match="too many changes are waiting"):
        store.put_copy(copy(1))
    gate.set()
    first.result(60)
    assert [future.result(60) for future in waiting] == [None] * 4
    assert len(store.channels()) == 4
    store.close()


# --- PostgreSQL ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_station_at_a_time_uses_a_database(postgresql: Callable[[], Server]) -> None:
    at = postgresql()
    url = at.url(at.make_database())
    first = open_store(None, url, password=PASSWORD)
    with pytest.raises(StationStoreError, match="in use by another station"):
        open_store(None, url, password=PASSWORD)
    first.close()
    open_store(None, url, password=PASSWORD).close()


@pytest.mark.slow
def test_a_station_whose_database_another_has_taken_over_writes_nothing_more(
    postgresql: Callable[[], Server],
) -> None:
    at = postgresql()
    name = at.make_database()
    store = open_store(None, at.url(name), password=PASSWORD)
    with psycopg.connect(
        host=str(at.directory), user="station", password=PASSWORD, dbname=name, autocommit=True
    ) as administrator:  # the connection that holds the lock breaks, as when a network fails
        administrator.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database ="
            " (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
    other = open_store(None, at.url(name), password=PASSWORD)
    with pytest.raises(StationStoreError, match="another station has taken"):
        store.put_channel(ROW)
    other.put_channel(ROW)
    assert other.channels() == [ROW]
    other.close()
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize("password", ["wrong", None])
def test_a_password_that_is_wrong_is_said_in_one_line_without_it(
    postgresql: Callable[[], Server], password: str | None
) -> None:
    at = postgresql()
    with pytest.raises(StationStoreError) as error:
        open_store(
            None, at.url("postgres", password=password is None).replace("for", "not"), password=password
        )
    text = str(error.value)
    assert "cannot use the database" in text and "\n" not in text
    assert "wrong" not in text and "this%20test" not in text and "this test" not in text


@pytest.mark.slow
def test_a_database_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StationStoreError, match="cannot use the database") as error:
        open_store(None, f"postgresql://u:secret@/d?host={tmp_path}")
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


FIRST_FORMAT = """
CREATE TABLE meta (key VARCHAR(64) NOT NULL, value VARCHAR(255) NOT NULL, PRIMARY KEY (key));
INSERT INTO meta VALUES ('format', '1');
CREATE TABLE channels (local_port VARCHAR(255) NOT NULL, remote_port VARCHAR(255) NOT NULL,
  remote_port_number INTEGER NOT NULL, bandwidth_bps BIGINT, rtt_ns BIGINT, sessions INTEGER NOT NULL,
  connections_per_session INTEGER NOT NULL, measured_at VARCHAR(40), method VARCHAR(255) NOT NULL,
  failed BOOLEAN NOT NULL, sequence BIGINT NOT NULL, PRIMARY KEY (local_port, remote_port, remote_port_number));
INSERT INTO channels VALUES ('a', 'b', 25, 10000000, 280, 2, 3, NULL, 'm', 0, 0);
CREATE TABLE copies (copy_id VARCHAR(128) NOT NULL, "array" VARCHAR(255) NOT NULL, remote_array VARCHAR(255) NOT NULL,
  volume VARCHAR(255) NOT NULL, remote_volume VARCHAR(255) NOT NULL, local_port VARCHAR(255) NOT NULL,
  remote_port VARCHAR(255) NOT NULL, started_at VARCHAR(40) NOT NULL, PRIMARY KEY (copy_id));
CREATE TABLE open_ends (attempt VARCHAR(64) NOT NULL, number INTEGER NOT NULL, "array" VARCHAR(255) NOT NULL,
  hold VARCHAR(255) NOT NULL, local_port VARCHAR(255) NOT NULL, remote_port VARCHAR(255) NOT NULL,
  previous_bytes BIGINT NOT NULL, PRIMARY KEY (attempt, number));
"""
