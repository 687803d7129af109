"""The station's state on disk."""

from __future__ import annotations

import os
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from mgmt.station import store as store_module
from mgmt.station.store import Channel, CopyRecord, OpenEnd, StationStoreError, Store, open_store

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


def reopened(state: Path, store: Store) -> Store:
    store.close()
    return open_store(state)


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


def test_what_was_put_is_there_after_a_restart(tmp_path: Path) -> None:
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
    store = open_store(tmp_path)
    store.put_channel(ROW)
    store.put_channel(measured)
    store = reopened(tmp_path, store)
    assert store.channels() == [ROW, measured]
    assert store.channel("a", "b", None) == ROW
    assert store.channel("a", "b", 25) == measured
    assert store.channel("a", "b", 26) is None
    store.close()


def test_a_row_with_the_same_key_is_replaced(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put_channel(ROW)
    store.put_channel(Channel(local_port="a", remote_port="b", sessions=9, connections_per_session=9))
    assert [row.sessions for row in store.channels()] == [9]
    assert store.remove_channel(ROW) is True
    assert store.remove_channel(ROW) is False
    store.close()


def test_copies_are_kept_in_the_order_in_which_they_were_started(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for number in (2, 1):
        store.put_copy(copy(number))
    store = reopened(tmp_path, store)
    assert list(store.copies()) == ["c1", "c2"]
    store.close()


def test_the_oldest_copies_are_forgotten_where_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "COPY_LIMIT", 2)
    store = open_store(tmp_path)
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "ROW_LIMIT", 1)
    store = open_store(tmp_path)
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
    store = reopened(tmp_path, store)
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


def test_the_ends_of_an_attempt_are_written_down_all_or_none(tmp_path: Path) -> None:
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
    store = open_store(tmp_path)
    with pytest.raises(StationStoreError):
        store.put_ends([near, far, near])
    assert store.open_ends() == []
    store.put_ends([near, far])
    store.close()
    store = open_store(tmp_path)
    assert store.open_ends() == [near, far]
    store.remove_ends([near])
    assert store.open_ends() == [far]
    store.close()
