"""What the station keeps: channel history, alarms, backups, its arrays; in both databases."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from credits.errors import InvalidRequest, Refused
from credits.targets import port_pair
from mgmt.http import AddressError, ProblemError
from mgmt.station import (
    alarms,
    channels,
    events,
    history,
    inventory,
    lifecycle,
    policies,
    registry,
    reservations,
    trail,
)
from mgmt.station.alarms import Cause
from mgmt.station.assembly import assemble
from mgmt.station.backup import BackupError, Saved, backup, check, restore
from mgmt.station.database import StationStoreError, Transaction
from mgmt.station.records import AlarmKind, AlarmState, Severity
from mgmt.station.store import OpenEnd, open_store
from tests.mgmt.databases import PASSWORD, Opener, Server
from tests.mgmt.pool_arrays import LOCAL, REMOTE, UNIT, Yard, yard

PAIR = port_pair(LOCAL, REMOTE)


@pytest.fixture
def place(tmp_path: Path, open_it: Opener) -> Iterator[Yard]:
    with yard(tmp_path, open_it) as made:
        yield made


# --- channel history ----------------------------------------------------------------------------------------


def measure(place: Yard, rtt_ms: int) -> None:
    place.probe.rtt_ns = rtt_ms * 1_000_000
    place.probe.measured_at = place.clock.now.isoformat()
    channels.measure(place.station, LOCAL, REMOTE)


def thin(place: Yard) -> None:
    place.station.store.database.write(lambda transaction: history.thin(transaction, place.station))


def test_every_measurement_is_in_the_history_and_the_newest_last(place: Yard) -> None:
    channels.register(place.station, PAIR)
    for rtt_ms in (10, 20, 30):
        measure(place, rtt_ms)
        place.clock.advance(60)
    found = history.samples(place.station, LOCAL, REMOTE)
    assert [(sample.rtt_ns, sample.span_s, sample.samples) for sample in found] == [
        (rtt * 1_000_000, 1, 1) for rtt in (10, 20, 30)
    ]
    since = datetime.fromisoformat(found[1].at)
    assert [s.rtt_ns for s in history.samples(place.station, LOCAL, REMOTE, since=since)] == [
        20_000_000,
        30_000_000,
    ]
    assert [s.rtt_ns for s in history.samples(place.station, LOCAL, REMOTE, until=since)] == [
        10_000_000,
        20_000_000,
    ]
    assert [s.rtt_ns for s in history.samples(place.station, LOCAL, REMOTE, limit=1)] == [30_000_000]


def test_a_flood_of_measurements_in_one_second_is_one_row_with_its_extremes(place: Yard) -> None:
    channels.register(place.station, PAIR)
    for rtt_ms in (10, 40, 20, 30):
        measure(place, rtt_ms)
    (sample,) = history.samples(place.station, LOCAL, REMOTE)
    assert (sample.samples, sample.rtt_min_ns, sample.rtt_max_ns) == (4, 10_000_000, 40_000_000)
    assert abs(sample.rtt_ns - 25_000_000) <= 4


def test_old_rows_become_fewer_and_lose_neither_samples_nor_extremes(place: Yard) -> None:
    channels.register(place.station, PAIR)
    for number in range(30):
        measure(place, 10 + number)
        place.clock.advance(20)
    place.clock.advance(2 * 3600)
    thin(place)
    found = history.samples(place.station, LOCAL, REMOTE)
    assert {sample.span_s for sample in found} == {60} and len(found) == 10
    place.clock.advance(3 * 86_400)
    thin(place)
    thin(place)
    (sample,) = history.samples(place.station, LOCAL, REMOTE)
    assert (sample.span_s, sample.samples) == (900, 30)
    assert (sample.rtt_min_ns, sample.rtt_max_ns) == (10_000_000, 39_000_000)
    assert abs(sample.rtt_ns - 24_500_000) < 1000
    place.clock.advance(5 * 365 * 86_400)
    for _ in range(4):
        thin(place)
    assert history.samples(place.station, LOCAL, REMOTE) == []


def test_a_pass_that_takes_up_only_a_part_counts_no_row_twice(
    place: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels.register(place.station, PAIR)
    for _ in range(12):
        measure(place, 10)
        place.clock.advance(10)
    place.clock.advance(2 * 3600)
    monkeypatch.setattr(history, "_PASS_LIMIT", 5)
    for _ in range(6):
        thin(place)
    found = history.samples(place.station, LOCAL, REMOTE)
    assert sum(sample.samples for sample in found) == 12 and {sample.span_s for sample in found} == {60}


def test_history_beyond_its_limit_loses_the_oldest(place: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    channels.register(place.station, PAIR)
    for rtt_ms in (10, 20, 30):
        measure(place, rtt_ms)
        place.clock.advance(60)
    monkeypatch.setattr(history, "ROW_LIMIT", 2)
    thin(place)
    assert [sample.rtt_ns for sample in history.samples(place.station, LOCAL, REMOTE)] == [
        20_000_000,
        30_000_000,
    ]


# --- alarms -------------------------------------------------------------------------------------------------


def cause(number: int = 0, text: str = "too few") -> Cause:
    return Cause(kind=AlarmKind.SHORTAGE, subject=f"pair {number}", text=text, array="M", target=PAIR)


def test_an_alarm_is_raised_once_acknowledged_and_over_when_its_cause_is(place: Yard) -> None:
    for text in ("short by 5", "short by 5", "short by 7"):
        alarms.bring_to(place.station, (AlarmKind.SHORTAGE,), [cause(text=text)])
    (alarm,) = alarms.listed(place.station)
    assert (alarm.count, alarm.text, alarm.state, alarm.target) == (2, "short by 7", AlarmState.ACTIVE, PAIR)
    seen = alarms.acknowledge(place.station, alarm.number, by="ann", note="見ています")
    assert (seen.state, seen.acknowledged_by, seen.note) == (AlarmState.ACKNOWLEDGED, "ann", "見ています")
    assert alarms.listed(place.station, states=("active",)) == []
    alarms.bring_to(place.station, (AlarmKind.SHORTAGE,), [])
    (over,) = alarms.listed(place.station, states=("cleared",))
    assert over.state is AlarmState.CLEARED and alarms.listed(place.station) == []
    with pytest.raises(ProblemError, match="is over since"):
        alarms.acknowledge(place.station, alarm.number, by="ann")
    with pytest.raises(ProblemError, match="there is no alarm 99"):
        alarms.acknowledge(place.station, 99, by="ann")
    with pytest.raises(InvalidRequest, match="at most 500"):
        alarms.acknowledge(place.station, alarm.number, by="ann", note="x" * 501)
    kinds = [event.kind for event in events.listed(place.station)]
    assert kinds == ["alarm-raised", "alarm-acknowledged", "alarm-cleared"]


def test_alarms_are_bounded_open_and_over(place: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarms, "OPEN_LIMIT", 3)
    monkeypatch.setattr(alarms, "CLEARED_LIMIT", 1)
    alarms.bring_to(place.station, (AlarmKind.SHORTAGE,), [cause(number) for number in range(9)])
    assert len(alarms.listed(place.station)) == 3
    alarms.bring_to(place.station, (AlarmKind.SHORTAGE,), [])
    place.station.store.database.write(alarms.thin)
    assert [alarm.number for alarm in alarms.listed(place.station, states=("cleared",))] == [3]


def test_alarms_are_found_by_kind_and_array(place: Yard) -> None:
    low = Cause(kind=AlarmKind.CACHE_LOW, subject="c", text="t", severity=Severity.CRITICAL, array="R")

    def raise_both(transaction: Transaction) -> None:
        alarms.raise_alarm(transaction, place.station, cause())
        alarms.raise_alarm(transaction, place.station, low)

    place.station.store.database.write(raise_both)
    assert [alarm.array for alarm in alarms.listed(place.station, kind=AlarmKind.CACHE_LOW)] == ["R"]
    assert [alarm.kind for alarm in alarms.listed(place.station, array="M")] == [AlarmKind.SHORTAGE]
    row = alarms.row(alarms.listed(place.station, array="R")[0])
    assert (row["state"], row["severity"], row["target"], row["note"]) == ("active", "critical", None, "")


# --- arrays that come and go --------------------------------------------------------------------------------


def test_an_array_is_added_and_removed_while_the_station_runs_and_remembered(
    place: Yard, open_it: Opener
) -> None:
    address = place.address("R")
    assert registry.remove(place.station, "R", by="ann") == {"array": "R", "address": address}
    assert [row["array"] for row in place.station.inventory.table("arrays").rows] == ["M"]
    with pytest.raises(InvalidRequest, match="no array 'R'"):
        registry.remove(place.station, "R", by="ann")
    row = registry.add(place.station, "東京", address, by="ann")
    assert (row["state"], row["ports"]) == ("up", ["192.0.2.2", "192.0.2.12"])
    assert reservations.reserve(place.station, port_pair(REMOTE, LOCAL), size_bytes=UNIT).array == "東京"
    place.station.close()
    store = open_it()
    assert {name: str(found) for name, found in registry.remembered(store).items()} == {"東京": address}
    store.close()
    place.station = place.open_station()
    assert [record.verb for record in trail.listed(place.station)][:2] == ["array-remove", "array-add"]


@pytest.mark.parametrize("name", ["", " x", "a/b", "x" * 65, "a\nb"])
def test_a_name_that_is_none_adds_nothing(place: Yard, name: str) -> None:
    with pytest.raises(InvalidRequest, match="an array's name has"):
        registry.add(place.station, name, "unix:/x", by="ann")
    with pytest.raises(AddressError):
        registry.add(place.station, "x", "nonsense", by="ann")
    with pytest.raises(InvalidRequest, match="at most 1024"):
        registry.add(place.station, "x", "unix:/" + "x" * 2000, by="ann")
    assert place.station.arrays.names() == ["M", "R"] and trail.listed(place.station) == []


def test_an_array_with_an_open_end_is_not_removed(place: Yard) -> None:
    end = OpenEnd(
        attempt="x", number=0, array="R", hold="h-1", local_port=REMOTE, remote_port=LOCAL, previous_bytes=0
    )
    place.station.store.put_ends([end])
    with pytest.raises(Refused, match="has still to be brought back"):
        registry.remove(place.station, "R", by="ann")


def test_more_arrays_than_a_station_manages_are_refused(place: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mgmt.station.arrays.ARRAY_LIMIT", 2)
    with pytest.raises(InvalidRequest, match="at most 2 arrays"):
        registry.add(place.station, "third", "unix:/x", by="ann")


# --- lists --------------------------------------------------------------------------------------------------


def test_with_many_arrays_lists_come_from_what_each_last_said(
    place: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "LIVE_LIMIT", 1)
    table = place.station.inventory.table("reservations")
    assert (table.rows, table.down) == ((), ())
    reservations.reserve(place.station, PAIR, size_bytes=5 * UNIT)
    seen = place.station.inventory.table("reservations")
    assert [row["reserved_units"] for row in seen.rows] == [5], "what the station changes it sees at once"
    assert seen.revision > table.revision
    from mgmt.messages import BufferReserveRequest

    place.master.interface.reserve(
        BufferReserveRequest(target=port_pair(LOCAL, "192.0.2.9"), requested_bytes=UNIT), "x"
    )
    same = place.station.inventory.table("reservations")
    assert same.rows == seen.rows and same.revision == seen.revision
    place.clock.advance(7)
    place.station.inventory.renew("M")
    assert len(place.station.inventory.table("reservations").rows) == 2
    place.down("R")
    place.station.inventory.renew("R")
    (row,) = [row for row in place.station.inventory.table("arrays").rows if row["array"] == "R"]
    assert row["state"] == "down"


# --- backup and restore -------------------------------------------------------------------------------------


def fill(place: Yard) -> None:
    channels.register(place.station, PAIR, sessions=2)
    measure(place, 80)
    reservations.reserve(place.station, PAIR, by="東京")
    alarms.bring_to(place.station, (AlarmKind.SHORTAGE,), [cause()])
    registry.add(place.station, "R", place.address("R"), by="ann")


def kept(place: Yard) -> list[Any]:
    station = place.station
    return [
        station.store.channels(),
        trail.listed(station),
        events.listed(station),
        alarms.listed(station),
        policies.listed(station),
        lifecycle.listed(station),
        history.samples(station, LOCAL, REMOTE),
        registry.remembered(station.store),
    ]


Ends = tuple[Callable[[Path], Saved], Callable[..., Saved]]


@pytest.mark.slow
@pytest.mark.parametrize("into", ["sqlite", "postgresql"])
@pytest.mark.parametrize("source", ["sqlite", "postgresql"])
def test_a_backup_of_either_database_restores_into_either_whole_and_verified(
    tmp_path: Path, postgresql: Callable[[], Server], source: str, into: str
) -> None:
    def at(kind: str, name: str) -> tuple[Path | None, str | None]:
        if kind == "sqlite":
            return tmp_path / name, None
        return None, postgresql().url(postgresql().make_database())

    file = tmp_path / "station.backup"
    first, second = at(source, "one"), at(into, "two")
    with yard(tmp_path, lambda: open_store(*first, password=PASSWORD)) as place:
        fill(place)
        before = kept(place)
        saved = backup(first[0], file, first[1], password=PASSWORD)
        assert file.stat().st_mode & 0o777 == 0o600 and check(file) == saved
        assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
    restore(second[0], file, second[1], password=PASSWORD)
    with yard(tmp_path, lambda: open_store(*second, password=PASSWORD)) as place:
        assert kept(place) == before
        assert trail.verify(place.station).sound
        number = trail.verify(place.station).last
        reservations.reserve(place.station, PAIR, size_bytes=UNIT)
        assert trail.verify(place.station).last == (number or 0) + 2
        alarms.bring_to(place.station, (AlarmKind.SHORTAGE,), [cause(1)])
        with pytest.raises(StationStoreError, match="in use by another station"):
            restore(second[0], file, second[1], password=PASSWORD, replace=True)
    with pytest.raises(BackupError, match="say --replace"):
        restore(second[0], file, second[1], password=PASSWORD)
    restore(second[0], file, second[1], password=PASSWORD, replace=True)
    with yard(tmp_path, lambda: open_store(*second, password=PASSWORD)) as place:
        assert kept(place) == before


def rewritten(file: Path, change: Callable[[list[bytes]], list[bytes]]) -> Path:
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    file.write_bytes(gzip.compress(b"".join(change(lines))))
    return file


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: lines[:-1], "is cut off: it has no end"),
        (lambda lines: [lines[0], *lines[2:]], "is damaged: its rows are not those"),
        (lambda lines: [lines[0].replace(b'"0003"', b'"9999"'), *lines[1:]], "is of version '9999'"),
        (lambda lines: [b'{"format": "x"}\n', *lines[1:]], "is no backup of a station"),
        (lambda lines: [lines[0], b"[\n", *lines[1:]], "no JSON"),
        (lambda lines: [lines[0], b'["nonsense", {}]\n', *lines[1:]], "a row that is none of a station's"),
        (lambda lines: [*lines, lines[1]], "goes on after its end"),
        (lambda lines: [lines[0], b"x" * 2_000_000 + b"\n", *lines[1:]], "too long"),
        (lambda lines: [], "is cut off"),
    ],
)
def test_a_file_that_is_no_whole_backup_restores_nothing(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], words: str
) -> None:
    open_store(tmp_path / "one").close()
    file = tmp_path / "station.backup"
    backup(tmp_path / "one", file)
    with pytest.raises(BackupError, match=words):
        restore(tmp_path / "two", rewritten(file, change))
    assert not (tmp_path / "two").exists()


def test_a_backup_that_cannot_be_read_or_written_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StationStoreError, match="no station's state"):
        backup(tmp_path / "nothing", tmp_path / "file")
    assert not (tmp_path / "file").exists() and list(tmp_path.iterdir()) == []
    open_store(tmp_path / "one").close()
    with pytest.raises(BackupError, match="cannot write"):
        backup(tmp_path / "one", tmp_path / "missing" / "file")
    with pytest.raises(BackupError, match="cannot read"):
        check(tmp_path / "missing")
    (tmp_path / "text").write_text("not gzip")
    with pytest.raises(BackupError, match="no backup"):
        check(tmp_path / "text")
    cut = tmp_path / "cut"
    backup(tmp_path / "one", cut)
    cut.write_bytes(cut.read_bytes()[:-20])
    with pytest.raises(BackupError, match="cut off"):
        check(cut)


def test_a_station_is_put_together_with_the_arrays_it_remembers(tmp_path: Path) -> None:
    from mgmt.http import parse_address

    at = datetime(2026, 1, 1, tzinfo=UTC)
    station = assemble(tmp_path / "state", {"M": parse_address("unix:/m")}, [], utc_now=lambda: at)
    registry.add(station, "R", "unix:/nobody-there", by="ann")
    station.close()
    station = assemble(
        tmp_path / "state", {"M": parse_address("unix:/m")}, [], utc_now=lambda: at + timedelta(1)
    )
    assert sorted(station.arrays.names()) == ["M", "R"]
    assert json.loads(json.dumps(station.inventory.table("arrays").rows))[1]["state"] == "down"
    station.close()
