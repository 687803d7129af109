"""The journal: acknowledged means durable, nothing half done, and one clear line when it cannot be."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from credits import (
    Code,
    DurablePool,
    InvalidRequest,
    PoolConfig,
    Refused,
    StoreError,
    UnitKind,
    connection,
    new_connection,
    port_pair,
)
from credits.journal import connect_journal
from credits.journal_format import FORMAT

CONFIG = PoolConfig(name="durable", kind=UnitKind.TCP, unit_bytes=100, total_units=1000)
P1, P2 = port_pair("10.0.0.1", "10.0.1.1"), port_pair("10.0.0.2", "10.0.1.2")


def look(pool: DurablePool) -> dict[str, tuple[int, int]]:
    return {str(row.target): (row.reserved_units, row.requested_bytes) for row in pool.reservation_table()}


def test_reservations_stand_again_after_a_restart(tmp_path: Path) -> None:
    with DurablePool.open(tmp_path / "state", CONFIG) as pool:
        pool.reserve(P1, 4001, request_id="a", now_ns=0)
        pool.reserve(P2, 2000, request_id="b", now_ns=0)
        pool.update(P2, 1000, request_id="c", now_ns=0)
        issued = pool.reserve(new_connection("l", "r"), 500, request_id="d", now_ns=0, lease_ns=7)
        pool.reserve(port_pair("x", "y"), 500, request_id="e", now_ns=0)
        pool.release(port_pair("x", "y"), request_id="f", now_ns=0)
        before = look(pool)
    with DurablePool.open(tmp_path / "state", CONFIG) as pool:
        assert look(pool) == before
        assert pool.statistics().free_units == 1000 - 41 - 10 - 5
        assert [(row.local_port, row.remote_port, row.buffer_id) for row in pool.buffer_id_table()] == [
            ("l", "r", issued.buffer_id)
        ]
        assert pool.allocation_table() == ()
        pool.audit()


def test_the_state_directory_is_private(tmp_path: Path) -> None:
    with DurablePool.open(tmp_path / "state", CONFIG):
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "state" / "durable.sqlite").stat().st_mode) == 0o600


def test_a_retry_after_a_restart_gets_the_first_answer(tmp_path: Path) -> None:
    with DurablePool.open(tmp_path, CONFIG) as pool:
        reserved = pool.reserve(P1, 4000, request_id="a", now_ns=0)
        updated = pool.update(P1, 3000, request_id="b", now_ns=0)
        released = pool.release(P1, request_id="c", now_ns=0)
    with DurablePool.open(tmp_path, CONFIG) as pool:
        assert pool.reserve(P1, 4000, request_id="a", now_ns=9) == reserved
        assert pool.update(P1, 3000, request_id="b", now_ns=9) == updated
        assert pool.release(P1, request_id="c", now_ns=9) == released
        assert look(pool) == {}
        with pytest.raises(InvalidRequest, match="something else"):
            pool.reserve(P2, 4000, request_id="a", now_ns=9)


def test_buffer_ids_are_never_reused(tmp_path: Path) -> None:
    config = PoolConfig(
        name="ids", kind=UnitKind.TCP, unit_bytes=100, total_units=1000, buffer_id_seeds=(10000, 15000)
    )
    issued = []
    for round_ in range(4):
        with DurablePool.open(tmp_path, config) as pool:
            for n in range(2):
                once = {"request_id": f"{round_}.{n}", "now_ns": 0}
                result = pool.reserve(new_connection("l", "r"), 100, **once)
                issued.append(result.buffer_id)
                pool.release(connection(issued[-1]), request_id=f"x{round_}.{n}", now_ns=0)
            held = pool.hold(new_connection("l", "r"), 100, ttl_ns=5, request_id=f"h{round_}", now_ns=0)
            issued.append(held.buffer_id)
    assert issued[:2] == [10000, 15000]
    assert len(set(issued)) == len(issued)


def test_revisions_and_epochs_never_come_up_again(tmp_path: Path) -> None:
    with DurablePool.open(tmp_path, CONFIG) as pool:
        held = pool.hold(P1, 100, ttl_ns=10**9, request_id="a", now_ns=0)
        first = pool.statistics().revision
    with DurablePool.open(tmp_path, CONFIG) as pool:
        assert pool.statistics().revision > first
        assert pool.statistics().free_units == 1000, "a hold lives in memory"
        with pytest.raises(Refused) as refusal:
            pool.confirm_hold(held.hold_id, request_id="b", now_ns=0)
        assert refusal.value.code is Code.STALE


def test_a_pool_that_became_too_small_is_degraded_and_never_cut(tmp_path: Path) -> None:
    with DurablePool.open(tmp_path, CONFIG) as pool:
        pool.reserve(P1, 60_000, request_id="a", now_ns=0)
        pool.reserve(P2, 30_000, request_id="b", now_ns=0)
    small = PoolConfig(name="durable", kind=UnitKind.TCP, unit_bytes=100, total_units=700)
    with DurablePool.open(tmp_path, small) as pool:
        assert [(row.reserved_units, row.backed_units, row.state) for row in pool.reservation_table()] == [
            (600, 600, "reserved"),
            (300, 100, "degraded"),
        ]
        assert pool.statistics().degraded_units == 200
        assert pool.statistics().conserved
        with pytest.raises(Refused):
            pool.allocate([P2], 101, holder="h")
        pool.update(P1, 45_000, request_id="c", now_ns=0)
        assert pool.statistics().degraded_units == 50, "what comes free goes to the degraded promise"
        pool.update(P2, 25_000, request_id="d", now_ns=0)
        assert pool.statistics().degraded_units == 0
        pool.audit()
    with DurablePool.open(tmp_path, CONFIG) as pool:
        assert [(row.reserved_units, row.state) for row in pool.reservation_table()] == [
            (450, "reserved"),
            (250, "reserved"),
        ]


def test_another_unit_size_keeps_the_promised_bytes(tmp_path: Path) -> None:
    with DurablePool.open(tmp_path, CONFIG) as pool:
        pool.reserve(P1, 4001, request_id="a", now_ns=0)
    halves = PoolConfig(name="durable", kind=UnitKind.TCP, unit_bytes=50, total_units=1000)
    with DurablePool.open(tmp_path, halves) as pool:
        assert look(pool) == {str(P1): (81, 4001)}


def test_a_second_process_is_told_that_the_journal_is_in_use(tmp_path: Path) -> None:
    with DurablePool.open(tmp_path, CONFIG), pytest.raises(StoreError, match="in use by another process"):
        DurablePool.open(tmp_path, CONFIG)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    DurablePool.open(tmp_path / "j.sqlite", CONFIG).close()
    database = sqlite3.connect(tmp_path / "j.sqlite")
    database.execute(f"PRAGMA user_version = {FORMAT + 1}")
    database.close()
    with pytest.raises(StoreError, match=f"format {FORMAT + 1}, written by a newer version"):
        DurablePool.open(tmp_path / "j.sqlite", CONFIG)


def test_the_journal_of_another_pool_is_refused(tmp_path: Path) -> None:
    DurablePool.open(tmp_path / "j.sqlite", CONFIG).close()
    other = PoolConfig(name="other", kind=UnitKind.FC, unit_bytes=2148, total_units=10)
    with pytest.raises(StoreError, match="journal of the tcp pool 'durable', not of the fc pool 'other'"):
        DurablePool.open(tmp_path / "j.sqlite", other)


def test_some_other_file_is_not_taken_for_a_journal(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("this is no database, it is a long text\n" * 100)
    with pytest.raises(StoreError, match="damaged or no journal"):
        DurablePool.open(tmp_path / "text.sqlite", CONFIG)
    database = sqlite3.connect(tmp_path / "other.sqlite")
    database.execute("CREATE TABLE t (x)")
    database.close()
    with pytest.raises(StoreError, match="some other program's database"):
        DurablePool.open(tmp_path / "other.sqlite", CONFIG)


def test_a_directory_that_cannot_be_used_gets_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as failure:
        DurablePool.open(tmp_path / "file" / "state", CONFIG)
    assert "\n" not in str(failure.value)
    assert str(tmp_path / "file") in str(failure.value)


def test_a_closed_pool_says_so(tmp_path: Path) -> None:
    pool = DurablePool.open(tmp_path, CONFIG)
    pool.close()
    pool.close()
    with pytest.raises(StoreError, match="closed"):
        pool.reserve(P1, 100, request_id="a", now_ns=0)
    assert pool.statistics().free_units == 1000


# -- faults ------------------------------------------------------------------------------------------------


class FaultyConnection:
    """A connection whose chosen statement fails, before or after it has had its effect."""

    def __init__(self, path: Path, faults: Iterator[str]) -> None:
        self._real = connect_journal(path)
        self._faults = faults

    def execute(self, statement: str, *arguments: Any) -> Any:
        fault = next(self._faults, "") if statement in ("BEGIN IMMEDIATE", "COMMIT") else ""
        if fault == f"{statement} fails":
            raise _error("SQLITE_FULL")
        result = self._real.execute(statement, *arguments)
        if fault == f"{statement} done but reported failed":
            raise _error("SQLITE_IOERR_FSYNC")
        return result

    def executemany(self, *arguments: Any) -> Any:
        return self._real.executemany(*arguments)

    def close(self) -> None:
        self._real.close()


def _error(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("injected")
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("BEGIN IMMEDIATE fails", "is full"),
        ("COMMIT fails", "is full"),
        ("COMMIT done but reported failed", "cannot write"),
    ],
)
def test_a_commit_that_fails_leaves_memory_and_file_as_before(tmp_path: Path, fault: str, line: str) -> None:
    # Of each pair of statements (BEGIN, COMMIT) of the four mutations, those of the second to fourth are faulty.
    healthy = ["", ""]
    broken = ["", fault] if fault.startswith("COMMIT") else [fault]
    # The opening itself has two transactions: the schema, and the revision.
    script = iter([*healthy, *healthy, *healthy, *broken, *healthy[: len(healthy)], *broken * 3])
    pool = DurablePool.open(tmp_path, CONFIG, connect=lambda path: FaultyConnection(path, script))  # type: ignore[arg-type,return-value]
    pool.reserve(P1, 4000, request_id="a", now_ns=0)
    before = look(pool), pool.statistics().free_units, pool.statistics().held_units
    with pytest.raises(StoreError, match=line) as failure:
        pool.reserve(P2, 2000, request_id="b", now_ns=0)
    assert "\n" not in str(failure.value)
    assert (look(pool), pool.statistics().free_units, pool.statistics().held_units) == before
    pool.audit()
    # The next transaction is sound, and takes back whatever the failed one may have left.
    pool.update(P1, 5000, request_id="c", now_ns=0)
    for verb, target in ((pool.release, P1), (pool.reserve, P2), (pool.update, P1)):
        size = () if verb == pool.release else (7000,)
        with pytest.raises(StoreError):
            verb(target, *size, request_id=f"d{target}{size}", now_ns=0)  # type: ignore[operator]
    assert look(pool) == {str(P1): (50, 5000)}
    pool.audit()
    pool.close()
    if fault != "COMMIT done but reported failed":
        with DurablePool.open(tmp_path, CONFIG) as again:
            assert look(again) == {str(P1): (50, 5000)}


@pytest.mark.parametrize("something_follows", [True, False], ids=["then a mutation", "then the end"])
def test_a_commit_that_was_done_but_reported_failed_is_taken_back(
    tmp_path: Path, something_follows: bool
) -> None:
    # Each opening has two transactions of its own but the schema's only the first; then a, b, and the rest.
    script = iter([*[""] * 4, *[""] * 2, "", "COMMIT done but reported failed"])
    pool = DurablePool.open(tmp_path, CONFIG, connect=lambda path: FaultyConnection(path, script))  # type: ignore[arg-type,return-value]
    pool.reserve(P1, 4000, request_id="a", now_ns=0)
    with pytest.raises(StoreError):
        pool.update_several([(P1, 2000)], request_id="b", now_ns=0)
    assert look(pool) == {str(P1): (40, 4000)}
    if something_follows:
        pool.reserve(P2, 5000, request_id="c", now_ns=0)
    after = look(pool)
    pool.close()
    with DurablePool.open(tmp_path, CONFIG) as again:
        assert look(again) == after
        assert again.update(P1, 3000, request_id="b", now_ns=0).reserved_units == 30, "b was never answered"


def test_a_failed_confirmation_leaves_the_hold_open(tmp_path: Path) -> None:
    script = iter([*[""] * 4, "BEGIN IMMEDIATE fails"])
    pool = DurablePool.open(tmp_path, CONFIG, connect=lambda path: FaultyConnection(path, script))  # type: ignore[arg-type,return-value]
    script_held = pool._pool.hold(P1, 4000, ttl_ns=100, request_id="h", now_ns=0)
    with pytest.raises(StoreError):
        pool.confirm_hold(script_held.hold_id, request_id="c", now_ns=1)
    assert pool.confirm_hold(script_held.hold_id, request_id="d", now_ns=1).reserved_units == 40
    pool.audit()
    pool.close()


CHILD = """
import sys
from pathlib import Path
from credits import *
config = PoolConfig(name="child", kind=UnitKind.TCP, unit_bytes=100, total_units=100_000)
pool = DurablePool.open(Path(sys.argv[1]), config)
print("open", flush=True)
n = 0
while True:
    n += 1
    try:
        if n % 3:
            pool.reserve(port_pair("l", f"r{n % 50}"), 100 * (n % 40 + 1), request_id=f"{sys.argv[2]}-{n}", now_ns=0)
            print("reserved", n % 50, n % 40 + 1, flush=True)
        else:
            pool.release(port_pair("l", f"r{(n - 1) % 50}"), request_id=f"{sys.argv[2]}-{n}", now_ns=0)
            print("released", (n - 1) % 50, flush=True)
    except Refused:
        pass
    except StoreError as error:
        print("failed", error, flush=True)
        break
"""


def acknowledged(lines: list[str], state: dict[str, int]) -> None:
    """Replay what the child said it had done."""
    for line in lines:
        match line.split():
            case ["reserved", port, units]:
                state[port] = int(units)
            case ["released", port]:
                del state[port]


def differences(tmp_path: Path, expected: dict[str, int]) -> dict[str, tuple[int | None, int | None]]:
    config = PoolConfig(name="child", kind=UnitKind.TCP, unit_bytes=100, total_units=100_000)
    with DurablePool.open(tmp_path, config) as pool:
        pool.audit()
        found = {str(row.target.remote_port)[1:]: row.reserved_units for row in pool.reservation_table()}
    every = found.keys() | expected.keys()
    pairs = {port: (expected.get(port), found.get(port)) for port in every}
    return {port: pair for port, pair in pairs.items() if pair[0] != pair[1]}


def test_sigkill_at_any_moment_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    state: dict[str, int] = {}
    mutations = 0
    for round_ in range(8):
        command = [sys.executable, "-c", CHILD, str(tmp_path), str(round_)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
            lines = [child.stdout.readline() for _ in range(5 + 13 * round_)]
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.readlines()
        acknowledged([line for line in lines if line.endswith("\n")], state)
        mutations += len(lines)
        # At most the one mutation whose answer was still on its way may be there besides.
        different = differences(tmp_path, state)
        assert len(different) <= 1, different
        for port, (_, found) in different.items():
            if found is None:
                del state[port]
            else:
                state[port] = found
    assert mutations > 100


def test_a_full_disk_gets_one_clear_line_and_loses_nothing(tmp_path: Path) -> None:
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))\n"
    )
    command = [sys.executable, "-c", limited + CHILD, str(tmp_path), "full"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("failed ")
    assert "nothing was changed" in lines[-1]
    state: dict[str, int] = {}
    acknowledged(lines, state)
    assert len(lines) > 5
    assert differences(tmp_path, state) == {}


def connect_small_pages(path: Path) -> sqlite3.Connection:
    """Pages of 512 bytes, so that cutting at every byte is quick, and no checkpoint, so that all is in the WAL."""
    connection = sqlite3.connect(path, timeout=0.2, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA page_size = 512")
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    return connection


def test_a_journal_cut_at_every_byte_of_its_last_transactions_is_never_half_done(tmp_path: Path) -> None:
    path, wal = tmp_path / "j.sqlite", tmp_path / "j.sqlite-wal"
    pool = DurablePool.open(path, CONFIG, connect=connect_small_pages)
    states: list[tuple[int, set[tuple[str, int]]]] = []

    def note() -> None:
        rows = {(row.target.key, row.reserved_units) for row in pool.reservation_table()}
        states.append((wal.stat().st_size, rows))

    pool.reserve(P1, 4000, request_id="a", now_ns=0)
    note()
    pool.reserve(P2, 2000, request_id="b", now_ns=0)
    note()
    pool.update_several([(P1, 1000), (P2, 6000)], request_id="c", now_ns=0)
    note()
    pool.release(P1, request_id="d", now_ns=0)
    note()
    content = wal.read_bytes()
    database = path.read_bytes()
    pool.close()

    def opened(cut: int) -> set[tuple[str, int]]:
        copy = tmp_path / "cut.sqlite"
        copy.write_bytes(database)
        copy.with_name("cut.sqlite-wal").write_bytes(content[:cut])
        connection = sqlite3.connect(copy, isolation_level=None)
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA synchronous = OFF")  # this copy is thrown away
            return set(connection.execute("SELECT key, units FROM reservations"))
        finally:
            connection.close()

    def expected(cut: int) -> set[tuple[str, int]]:
        return [rows for size, rows in states if size <= cut][-1]

    start = states[0][0]
    assert len(content) == states[-1][0] > start + 3 * 512
    for cut in range(start, len(content) + 1):
        assert opened(cut) == expected(cut), cut
    # And the pool itself opens on such a file, at and around each transaction's end.
    for cut in {size + delta for size, _ in states for delta in (-1, 0, 1)} - {states[0][0] - 1}:
        copy = tmp_path / "whole.sqlite"
        copy.write_bytes(database)
        copy.with_name("whole.sqlite-wal").write_bytes(content[:cut])
        with DurablePool.open(copy, CONFIG) as again:
            again.audit()
            assert {(row.target.key, row.reserved_units) for row in again.reservation_table()} == expected(
                cut
            )


SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
static int fails(int fd, const char *name) {
    static int calls;
    const char *from = getenv("FAIL_SYNC_FROM");
    if (from && ++calls >= atoi(from)) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, name))(fd);
}
int fsync(int fd) { return fails(fd, "fsync"); }
int fdatasync(int fd) { return fails(fd, "fdatasync"); }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler to make fsync fail")
def test_a_failing_fsync_refuses_and_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "shim.c").write_text(SHIM)
    command = ["cc", "-shared", "-fPIC", "-o", "shim.so", "shim.c", "-ldl"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    environment = {**os.environ, "LD_PRELOAD": str(tmp_path / "shim.so"), "FAIL_SYNC_FROM": "60"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "state"), "sync"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
        env=environment,
    )
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("failed cannot write the journal"), lines[-3:]
    state: dict[str, int] = {}
    acknowledged(lines, state)
    assert len(lines) > 20
    # The refused mutation may have reached the disk (nobody can know), as a whole or not at all.
    assert len(differences(tmp_path / "state", state)) <= 1


def test_a_directory_that_may_not_be_written_gets_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path / "durable.sqlite"))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreError, match=r"cannot use .*durable.sqlite as a journal: Read-only file system"):
        DurablePool.open(tmp_path, CONFIG)


def test_many_threads_share_syncs_and_all_their_reservations_stand(tmp_path: Path) -> None:
    commits = 0

    class Counting(FaultyConnection):
        def execute(self, statement: str, *arguments: Any) -> Any:
            nonlocal commits
            commits += statement == "COMMIT"
            return super().execute(statement, *arguments)

    threads, each = 8, 12
    pool = DurablePool.open(tmp_path, CONFIG, connect=lambda path: Counting(path, iter(())))  # type: ignore[arg-type,return-value]
    start = threading.Barrier(threads)

    def work(number: int) -> None:
        start.wait()
        for n in range(each):
            pool.reserve(port_pair(f"l{number}", f"r{n}"), 100, request_id=f"{number}.{n}", now_ns=0)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    pool.audit()
    pool.close()
    assert commits < threads * each, "commits were grouped"
    with DurablePool.open(tmp_path, CONFIG) as again:
        assert again.statistics().reservations == threads * each
        assert again.statistics().free_units == 1000 - threads * each


def test_the_same_request_from_many_threads_is_carried_out_once(tmp_path: Path) -> None:
    with DurablePool.open(tmp_path, CONFIG) as pool:
        answers: list[object] = []

        def work() -> None:
            answers.append(pool.reserve(new_connection("l", "r"), 100, request_id="same", now_ns=0))

        workers = [threading.Thread(target=work) for _ in range(6)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(answers) == 6
        assert len(set(answers)) == 1
        assert len(pool.buffer_id_table()) == 1


def test_allocations_go_on_while_a_commit_is_under_way(tmp_path: Path) -> None:
    in_commit, go_on = threading.Event(), threading.Event()

    class Slow(FaultyConnection):
        def execute(self, statement: str, *arguments: Any) -> Any:
            if statement == "COMMIT" and armed:
                in_commit.set()
                go_on.wait(10)
            return super().execute(statement, *arguments)

    armed = False
    pool = DurablePool.open(tmp_path, CONFIG, connect=lambda path: Slow(path, iter(())))  # type: ignore[arg-type,return-value]
    pool.reserve(P1, 4000, request_id="a", now_ns=0)
    armed = True
    worker = threading.Thread(target=lambda: pool.release(P1, request_id="b", now_ns=0))
    worker.start()
    assert in_commit.wait(10)
    allocation = pool.allocate([P2], 900, holder="host")
    assert allocation.target is None
    with pytest.raises(Refused):
        pool.allocate([P2], 100, holder="host")
    pool.free(allocation, 100)
    go_on.set()
    worker.join()
    assert pool.statistics().free_units == 200
    pool.audit()
    pool.close()


def test_threads_that_do_everything_at_once_leave_the_law_intact(tmp_path: Path) -> None:
    pool = DurablePool.open(tmp_path, CONFIG)
    targets = [port_pair("l", f"r{n}") for n in range(4)]
    failures: list[BaseException] = []

    def traffic(number: int) -> None:
        held = []
        for n in range(400):
            claims = [targets[n % 4]] if n % 3 else []
            allocation = pool.try_allocate(claims, n % 7 + 1, f"host-{number}")
            if allocation is not None:
                held.append(allocation)
            if len(held) > 5:
                freed = held.pop(n % 5)
                if n % 2 and freed.units > 1:
                    pool.free(freed, 1)
                    held.append(freed)
                else:
                    pool.free(freed)
        for allocation in held:
            pool.free(allocation)

    def management(number: int) -> None:
        for n in range(25):
            target, once = targets[(n + number) % 4], {"request_id": f"{number}.{n}", "now_ns": n}
            try:
                if n % 5 == 4:
                    pool.release(target, drain=True, **once)
                elif n % 5 == 3:
                    held = pool.hold(target, 2000, ttl_ns=1000, **once)
                    pool.confirm_hold(held.hold_id, request_id=f"c{number}.{n}", now_ns=n)
                else:
                    pool.update(target, 100 * (n * 13 % 90 + 1), **once)
            except Refused:
                continue

    def watched(work: Any, number: int) -> None:
        try:
            work(number)
        except BaseException as failure:
            failures.append(failure)
            raise

    threads = [threading.Thread(target=watched, args=(traffic, n)) for n in range(3)]
    threads += [threading.Thread(target=watched, args=(management, n)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    pool.audit()
    statistics = pool.statistics()
    assert statistics.conserved
    assert (statistics.in_use_units, statistics.held_units) == (0, 0)
    before = look(pool)
    pool.close()
    with DurablePool.open(tmp_path, CONFIG) as again:
        assert look(again) == before
