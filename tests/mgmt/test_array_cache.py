"""The cache memory before real disks: what is read is what was written, and a process that is killed loses nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from iscsi_target.executor import Buffer
from iscsi_target.scsi.errors import StoreError
from iscsi_target.scsi.stores.file import FileStore
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.stores.store import BackingStore
from mgmt.array.cache.memory import CachedVolume, CacheFileError, CacheMemory, Level, WatermarkCrossed
from mgmt.array.cache.pages import AGE_NS, PAGE_BYTES
from mgmt.array.cache.store import CachedStore
from mgmt.array.description import CacheConfig

MIB = 1 << 20


class Disk(MemoryStore):
    """A disk that can be told to wait or to fail."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.go = threading.Event()
        self.go.set()
        self.failing = False
        self.flushes = 0

    def write(self, offset: int, data: Buffer, *, durable: bool = False) -> None:
        self.go.wait(60)
        if self.failing:
            raise StoreError("the disk is broken")
        super().write(offset, data, durable=durable)

    def flush(self) -> None:
        self.flushes += 1
        super().flush()


@contextmanager
def cached(
    disk: BackingStore, size_bytes: int = MIB, file: Path | None = None, room_timeout_s: float = 60
) -> Iterator[tuple[CacheMemory, CachedStore]]:
    cache = CacheMemory(
        CacheConfig(size_bytes=size_bytes, file=file),
        [CachedVolume("vol0", disk)],
        room_timeout_s=room_timeout_s,
    )
    try:
        yield cache, CachedStore(cache, 0, disk)
    finally:
        if isinstance(disk, Disk):
            disk.go.set()
            disk.failing = False
        cache.close()


def joined(parts: Sequence[Buffer]) -> bytes:
    return b"".join(bytes(part) for part in parts)


def test_a_write_is_read_back_before_and_after_it_went_to_the_disk() -> None:
    disk = Disk(4 * MIB)
    with cached(disk) as (cache, store):
        disk.go.clear()
        data = os.urandom(3 * PAGE_BYTES)
        store.write(PAGE_BYTES // 2, data)
        assert joined(store.read(PAGE_BYTES // 2, len(data))) == data
        assert joined(disk.read(0, PAGE_BYTES)) == bytes(PAGE_BYTES), "the host did not wait for the disk"
        assert joined(store.read(0, 4 * PAGE_BYTES)) == (
            bytes(PAGE_BYTES // 2) + data + bytes(PAGE_BYTES // 2)
        )
        disk.go.set()
        store.flush()
        assert joined(disk.read(PAGE_BYTES // 2, len(data))) == data
        assert (disk.flushes, cache.statistics().dirty_bytes) == (1, 0)
        assert joined(store.read(PAGE_BYTES // 2, len(data))) == data


def test_any_sequence_of_writes_discards_and_flushes_reads_as_one_disk_would() -> None:
    size = 6 * PAGE_BYTES
    disk, model, rng = Disk(size), bytearray(size), random.Random(7)
    with cached(disk, size_bytes=MIB // 4) as (_, store):
        for step in range(600):
            offset = rng.randrange(size // 512) * 512
            length = min(rng.randrange(1, 200) * 512, size - offset)
            what = rng.random()
            if what < 0.5:
                data = rng.randbytes(length)
                store.write(offset, data, durable=what < 0.05)
                model[offset : offset + length] = data
            elif what < 0.6:
                store.discard(offset, length)
                model[offset : offset + length] = bytes(length)
            elif what < 0.62:
                store.flush()
                assert joined(disk.read(0, size)) == bytes(model)
            else:
                assert joined(store.read(offset, length)) == bytes(model[offset : offset + length]), step
    assert joined(disk.read(0, size)) == bytes(model), "closing writes back"


def test_a_full_cache_holds_the_host_back_and_goes_on_when_the_disk_does() -> None:
    disk = Disk(4 * MIB)
    with cached(disk) as (cache, store):
        disk.go.clear()
        for page in range(16):
            store.write(page * PAGE_BYTES, b"x" * PAGE_BYTES)
        assert cache.statistics().free_bytes == 0
        one_more = threading.Thread(target=store.write, args=(16 * PAGE_BYTES, b"y" * PAGE_BYTES))
        one_more.start()
        one_more.join(0.2)
        assert one_more.is_alive()
        disk.go.set()
        one_more.join(60)
        assert not one_more.is_alive()
        assert joined(store.read(16 * PAGE_BYTES, PAGE_BYTES)) == b"y" * PAGE_BYTES


def test_a_disk_that_fails_is_told_of_and_loses_nothing_that_was_acknowledged() -> None:
    disk = Disk(4 * MIB)
    with cached(disk, room_timeout_s=0.3) as (cache, store):
        disk.failing = True
        for page in range(16):
            store.write(page * PAGE_BYTES, bytes([page]) * PAGE_BYTES)
        with pytest.raises(StoreError, match=r"no room in the cache.*the disk is broken"):
            store.write(20 * PAGE_BYTES, b"y" * 512)
        assert cache.failing() == {"vol0": "the disk is broken"}
        with pytest.raises(StoreError, match="broken"):
            store.flush()
        disk.failing = False
        store.flush()
        assert cache.failing() == {}
        for page in range(16):
            assert joined(disk.read(page * PAGE_BYTES, 1)) == bytes([page])


def test_watermarks_are_told_and_hosts_are_slowed_down_between_high_and_full() -> None:
    disk = Disk(4 * MIB)
    told: list[WatermarkCrossed] = []
    with cached(disk) as (cache, store):
        cache.watch(told.append)
        disk.go.clear()
        for page in range(11):
            store.write(page * PAGE_BYTES, b"x" * PAGE_BYTES)
        assert [event.level for event in told] == [Level.HIGH]
        assert cache.write_delay_ns() == 0
        for page in range(11, 16):
            store.write(page * PAGE_BYTES, b"x" * PAGE_BYTES)
        assert cache.write_delay_ns() == 20_000_000
        cache.add_slow_down(lambda: 55_000_000)
        assert cache.write_delay_ns() == 55_000_000
        disk.go.set()
        store.flush()
        assert [event.level for event in told] == [Level.HIGH, Level.LOW]


def test_what_others_charge_is_not_free_and_is_refused_when_there_is_none() -> None:
    with cached(Disk(4 * MIB)) as (cache, _):
        assert cache.charge("pair 1", MIB // 2)
        assert cache.statistics().free_bytes == MIB // 2
        assert not cache.charge("pair 2", MIB // 2 + 1)
        cache.discharge("pair 1", MIB // 2)
        assert cache.statistics().free_bytes == MIB


def test_a_clean_end_leaves_no_file(tmp_path: Path) -> None:
    file = tmp_path / "cache"
    with cached(Disk(MIB), file=file) as (_, store):
        store.write(0, b"x" * 512)
        assert file.stat().st_mode & 0o777 == 0o600
    assert not file.exists()


def test_a_file_that_another_array_uses_is_refused(tmp_path: Path) -> None:
    with (
        cached(Disk(MIB), file=tmp_path / "cache"),
        pytest.raises(CacheFileError, match="in use by another array"),
        cached(Disk(MIB), file=tmp_path / "cache"),
    ):
        pass


_KILLED = """
import os, sys
from pathlib import Path
from iscsi_target.scsi.stores.file import FileStore
from mgmt.array.cache.memory import CacheMemory, CachedVolume
from mgmt.array.cache.store import CachedStore
from mgmt.array.description import CacheConfig
import random

class Stuck(FileStore):  # takes nothing: all that is acknowledged is in the cache alone
    def write(self, offset, data, *, durable=False):
        import time
        time.sleep(1000)

disk = Stuck(Path(sys.argv[1]), 4 << 20)
cache = CacheMemory(CacheConfig(size_bytes=1 << 20, file=Path(sys.argv[2])), [CachedVolume("vol0", disk)])
store = CachedStore(cache, 0, disk)
rng = random.Random(3)
written = 0
while True:
    offset, data = rng.randrange(100) * 512, rng.randbytes(512 * rng.randrange(1, 30))
    store.write(offset, data)
    written += 1
    print(written, flush=True)
"""


def replay(writes: int, size: int) -> bytearray:
    """What a disk has after so many writes of the program above."""
    model, rng = bytearray(size), random.Random(3)
    for _ in range(writes):
        offset, data = rng.randrange(100) * 512, rng.randbytes(512 * rng.randrange(1, 30))
        model[offset : offset + len(data)] = data
    return model


@pytest.mark.slow
@pytest.mark.parametrize("writes", [1, 57, 400])
def test_what_was_acknowledged_survives_a_kill_at_any_moment(tmp_path: Path, writes: int) -> None:
    disk, file = tmp_path / "disk", tmp_path / "cache"
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(disk), str(file)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process:
        for _ in range(writes):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        acknowledged = writes + len(process.stdout.read().splitlines())
    assert disk.read_bytes() == bytes(4 << 20), "the disk had got nothing yet"
    store = FileStore(disk)
    with cached(store, file=file) as (cache, _):
        assert cache.recovered_bytes > 0
        got = disk.read_bytes()
    store.close()
    # The write that was under way when the kill came may be there in part, as on any disk.
    before, after = replay(acknowledged, 4 << 20), replay(acknowledged + 1, 4 << 20)
    wrong = [
        at
        for at in range(0, len(got), 512)
        if got[at : at + 512] not in (before[at : at + 512], after[at : at + 512])
    ]
    assert wrong == [] or all(before[at : at + 512] != after[at : at + 512] for at in wrong)
    assert not file.exists()


def left_behind(tmp_path: Path) -> Path:
    """A cache file with dirty sectors of vol0, as a killed array leaves it."""
    file = tmp_path / "cache"
    disk = Disk(MIB)
    disk.go.clear()
    cache = CacheMemory(CacheConfig(size_bytes=MIB, file=file), [CachedVolume("vol0", disk)])
    CachedStore(cache, 0, disk).write(0, b"x" * 512)
    kept = file.read_bytes()
    disk.go.set()
    cache.close()
    file.write_bytes(kept)
    return file


def test_sectors_of_a_volume_that_is_gone_or_has_another_size_are_not_thrown_away(tmp_path: Path) -> None:
    file = left_behind(tmp_path)
    kept = file.read_bytes()
    with (
        pytest.raises(CacheFileError, match=r"1 sectors .* acknowledged for volume vol0"),
        cached(Disk(2 * MIB), file=file),
    ):
        pass
    assert file.read_bytes() == kept


def test_a_disk_that_fails_at_the_recovery_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    file = left_behind(tmp_path)
    kept = file.read_bytes()
    disk = Disk(MIB)
    disk.failing = True
    with pytest.raises(StoreError, match="broken"):
        CacheMemory(CacheConfig(size_bytes=MIB, file=file), [CachedVolume("vol0", disk)])
    assert file.read_bytes() == kept


@pytest.mark.parametrize("content", [b"hello" * 1000, b"SANCACHE" + b"\1\0\0\0\5\0\0\0[1,2]" + bytes(9000)])
def test_a_file_that_is_no_cache_is_not_overwritten(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "cache"
    file.write_bytes(content)
    with pytest.raises(CacheFileError, match="is no cache of this version"), cached(Disk(MIB), file=file):
        pass
    assert file.read_bytes() == content


def test_a_page_goes_to_its_disk_by_itself_when_it_is_old() -> None:
    disk = Disk(MIB)
    clock = [0]
    cache = CacheMemory(CacheConfig(size_bytes=MIB), [CachedVolume("vol0", disk)], clock=lambda: clock[0])
    try:
        CachedStore(cache, 0, disk).write(0, b"x" * 512)
        clock[0] = AGE_NS
        while cache.statistics().dirty_bytes:
            threading.Event().wait(0.01)
        assert joined(disk.read(0, 512)) == b"x" * 512
    finally:
        cache.close()
