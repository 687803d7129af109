# SPDX-License-Identifier: Apache-2.0
"""The contract of backing stores, which every kind of store passes."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iscsi_target.scsi.errors import InvalidConfiguration, StoreError
from iscsi_target.scsi.stores.description import open_store, parse_size
from iscsi_target.scsi.stores.file import BlockDeviceStore, FileStore
from iscsi_target.scsi.stores.linux import lives_in_memory
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.stores.null import NullStore
from iscsi_target.scsi.stores.snapshot import SnapshotStore
from iscsi_target.scsi.stores.store import BackingStore

SIZE = 1 << 20
SMALL_SIZE = 300 * 1024 + 512  # no multiple of a page or of a snapshot's granule


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of store: how to make it, and which promises beyond the common ones it keeps."""

    make: Callable[[Path, int], BackingStore]
    remembers: bool = True
    tells_holes: bool = True


def _snapshot(path: Path, size: int) -> BackingStore:
    return SnapshotStore(MemoryStore(size), MemoryStore(size))


def _snapshot_of_file(path: Path, size: int) -> BackingStore:
    FileStore(path / "origin", size).close()
    return SnapshotStore(FileStore(path / "origin", read_only=True), FileStore(path / "overlay", size))


def _snapshot_in_files(path: Path, size: int) -> BackingStore:
    FileStore(path / "origin", size).close()
    return open_store(f"snapshot:{path / 'origin'},overlay={path / 'overlay'}")


def _direct(path: Path, size: int) -> BackingStore:
    try:
        return FileStore(path / "disk", size, direct=True)
    except StoreError as refused:
        if "O_DIRECT" in str(refused):
            pytest.skip(str(refused))
        raise


def _without_holes(path: Path, size: int) -> BackingStore:
    """A file on a file system that cannot punch holes, as far as the store can tell."""
    store = FileStore(path / "disk", size)
    store._thin = store._anchors = False
    return store


class _LoopDeviceStore(BlockDeviceStore):
    """A block device that is made for the test, and taken down when it is closed."""

    def close(self) -> None:
        gone = self._fd < 0
        super().close()
        if not gone:
            subprocess.run(["losetup", "--detach", self.path], check=True)


def _loop(path: Path) -> Path:
    """A loop device over a file; skips the test where there can be none."""
    if os.geteuid() != 0:
        pytest.skip("a loop device needs root")
    try:
        made = subprocess.run(
            ["losetup", "--find", "--show", path], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("a loop device needs losetup (package mount)")
    if made.returncode:
        pytest.skip(f"no loop device here: {made.stderr.strip()}")
    return Path(made.stdout.strip())


def _block_device(path: Path, size: int) -> BackingStore:
    (path / "loop.img").write_bytes(bytes(size))
    return _LoopDeviceStore(_loop(path / "loop.img"))


KINDS = {
    "memory": Kind(lambda path, size: MemoryStore(size)),
    "file": Kind(lambda path, size: FileStore(path / "disk", size)),
    "file, O_DIRECT": Kind(_direct),
    "file without holes": Kind(_without_holes, tells_holes=False),
    "null": Kind(lambda path, size: NullStore(size), remembers=False, tells_holes=False),
    "snapshot of memory": Kind(_snapshot),
    "snapshot of a file": Kind(_snapshot_of_file),
    "snapshot that survives": Kind(_snapshot_in_files),
    "block device": Kind(_block_device, tells_holes=False),
}


def _joined(store: BackingStore, offset: int, length: int) -> bytes:
    return b"".join(bytes(buffer) for buffer in store.read(offset, length))


@pytest.fixture(params=KINDS.items(), ids=lambda item: item[0])
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param[1]
    return chosen


@pytest.fixture
def store(kind: Kind, tmp_path: Path) -> Iterator[BackingStore]:
    made = kind.make(tmp_path, SIZE)
    yield made
    made.close()


def test_a_new_store_has_its_size_and_reads_as_zeros(store: BackingStore) -> None:
    assert store.size_bytes == SIZE
    assert _joined(store, 0, SIZE) == bytes(SIZE)
    assert store.granularity_bytes & store.granularity_bytes - 1 == 0


def test_what_was_written_is_read_and_its_neighbours_stay(store: BackingStore, kind: Kind) -> None:
    store.write(0, b"\xee" * SIZE)
    store.write(4096 - 512, b"\x11" * 1024)
    expected = b"\xee" * 512 + b"\x11" * 1024 + b"\xee" * 512
    assert _joined(store, 4096 - 1024, 2048) == (expected if kind.remembers else bytes(2048))


def test_every_form_of_buffer_can_be_written(store: BackingStore, kind: Kind) -> None:
    for offset, data in ((0, b"a" * 512), (512, bytearray(b"b" * 512)), (1024, memoryview(b"c" * 512))):
        store.write(offset, data, durable=True)
    wanted = b"a" * 512 + b"b" * 512 + b"c" * 512
    assert _joined(store, 0, 1536) == (wanted if kind.remembers else bytes(1536))


def test_reading_and_writing_nothing_is_fine(store: BackingStore) -> None:
    store.write(SIZE, b"")
    assert _joined(store, SIZE, 0) == b""
    store.discard(SIZE, 0)
    assert list(store.extents(SIZE, 0)) == []


@pytest.mark.parametrize(("offset", "length"), [(SIZE, 1), (SIZE - 511, 512), (-1, 1), (1 << 63, 512)])
def test_outside_its_size_a_store_raises_and_changes_nothing(
    store: BackingStore, offset: int, length: int
) -> None:
    for call in (
        lambda: store.read(offset, length),
        lambda: store.write(offset, b"x" * length),
        lambda: store.discard(offset, length),
        lambda: list(store.extents(offset, length)),
    ):
        with pytest.raises(ValueError, match="outside a store"):
            call()
    assert store.size_bytes == SIZE
    assert _joined(store, SIZE - 512, 512) == bytes(512)


@pytest.mark.parametrize(
    ("offset", "length"), [(0, SIZE), (4096, 8192), (512, 512), (4096 - 512, 8192), (65536, 131072)]
)
def test_a_discarded_range_reads_as_zeros_and_its_neighbours_stay(
    store: BackingStore, kind: Kind, offset: int, length: int
) -> None:
    store.write(0, b"\xaa" * SIZE)
    store.discard(offset, length)
    assert _joined(store, offset, length) == bytes(length)
    if kind.remembers:
        assert _joined(store, 0, offset) == b"\xaa" * offset
        assert _joined(store, offset + length, SIZE - offset - length) == b"\xaa" * (SIZE - offset - length)


def test_extents_are_whole_in_order_and_alternate(store: BackingStore, kind: Kind) -> None:
    store.write(256 << 10, b"\x01" * (128 << 10))
    extents = list(store.extents(0, SIZE))
    assert sum(extent.length for extent in extents) == SIZE
    assert [extent.offset for extent in extents] == [
        sum(extent.length for extent in extents[:index]) for index in range(len(extents))
    ]
    assert all(one.mapped != two.mapped for one, two in itertools.pairwise(extents))
    if kind.tells_holes:
        assert [(extent.offset, extent.mapped) for extent in extents] == [
            (0, False),
            (256 << 10, True),
            (384 << 10, False),
        ]


def test_a_discard_gives_its_granules_back(store: BackingStore, kind: Kind) -> None:
    store.write(0, b"\x01" * SIZE)
    store.discard(128 << 10, 64 << 10)
    unmapped = [(extent.offset, extent.length) for extent in store.extents(0, SIZE) if not extent.mapped]
    assert unmapped == ([(128 << 10, 64 << 10)] if kind.tells_holes else [])
    assert store.thin or not kind.tells_holes


def test_what_is_anchored_reads_as_zeros_takes_space_and_is_told_apart(
    store: BackingStore, kind: Kind
) -> None:
    """SBC-3 4.7.3.2; only where the store says that it can."""
    store.write(0, b"\x01" * SIZE)
    if not store.anchors:
        with pytest.raises(StoreError):
            store.anchor(128 << 10, 64 << 10)
        return
    store.anchor(128 << 10, 64 << 10)
    store.discard(256 << 10, 64 << 10)
    store.anchor(SIZE, 0)
    with pytest.raises(ValueError, match="outside a store"):
        store.anchor(SIZE - 512, 1024)
    kinds = [(extent.offset, extent.mapped, extent.anchored) for extent in store.extents(0, SIZE)]
    assert kinds == [
        (0, True, False),
        (128 << 10, False, True),
        (192 << 10, True, False),
        (256 << 10, False, False),
        (320 << 10, True, False),
    ]
    assert _joined(store, (128 << 10) - 1, (64 << 10) + 2) == b"\x01" + bytes(64 << 10) + b"\x01"
    store.write((128 << 10) + 4096, b"\x02" * 4096)
    assert [extent[1:] for extent in store.extents(128 << 10, 64 << 10)] == [
        (4096, False, True),
        (4096, True, False),
        (56 << 10, False, True),
    ]
    store.discard(128 << 10, 64 << 10)
    assert [extent[1:] for extent in store.extents(128 << 10, 64 << 10)] == [(64 << 10, False, False)]


def test_a_flush_and_a_durable_write_leave_the_data_as_they_are(store: BackingStore, kind: Kind) -> None:
    store.write(0, b"\x05" * 4096, durable=True)
    store.write(4096, b"\x06" * 4096)
    store.flush()
    assert _joined(store, 4095, 2) == (b"\x05\x06" if kind.remembers else b"\0\0")


def test_closing_twice_is_fine_and_buffers_outlive_it(store: BackingStore, kind: Kind) -> None:
    store.write(0, b"\x07" * 512)
    buffers = store.read(0, 512)
    store.close()
    store.close()
    assert b"".join(bytes(buffer) for buffer in buffers) == (b"\x07" if kind.remembers else b"\0") * 512


_STEP = st.tuples(
    st.sampled_from(("write", "durable", "discard")),
    st.integers(0, 600),
    st.integers(1, 200),
    st.integers(1, 255),
)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.remembers])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(_STEP, max_size=12))
def test_a_store_behaves_as_a_bytearray_does(
    name: str, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int, int]]
) -> None:
    store, model = KINDS[name].make(tmp_path_factory.mktemp("store"), SMALL_SIZE), bytearray(SMALL_SIZE)
    try:
        for what, block, blocks, byte in steps:
            offset = block * 512
            length = min(blocks * 512, SMALL_SIZE - offset)
            data = bytes((byte,)) * length
            if what == "discard":
                store.discard(offset, length)
                data = bytes(length)
            else:
                store.write(offset, data, durable=what == "durable")
            model[offset : offset + length] = data
        assert _joined(store, 0, SMALL_SIZE) == bytes(model)
        for extent in store.extents(0, SMALL_SIZE):
            if not extent.mapped:
                assert not any(model[extent.offset : extent.offset + extent.length])
    finally:
        store.close()


# -- what only one kind promises --------------------------------------------------------------------------------------


def test_memory_takes_no_page_before_it_is_written() -> None:
    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident_bytes()
    store = MemoryStore(1 << 40)
    store.write(1 << 39, b"x" * 4096)
    assert [extent.length for extent in store.extents(1 << 38, 1 << 39) if extent.mapped] == [4096]
    assert resident_bytes() - before < 64 << 20
    store.close()


def test_reading_memory_that_nobody_wrote_takes_no_page_either() -> None:
    store = MemoryStore(1 << 30)
    store.write(300_000, b"here")
    pages = _own_pages()
    for offset in range(0, 1 << 30, 1 << 24):
        for piece in store.read(offset, 1 << 24):
            bytes(piece[::4096])
    got = b"".join(map(bytes, store.read(290_000, 20_000)))
    assert got == bytes(10_000) + b"here" + bytes(9_996)
    assert _own_pages() - pages < (16 << 20) // 4096
    store.close()


def _own_pages() -> int:
    """Pages of memory of this process, those of anonymous files among them."""
    return int(Path("/proc/self/statm").read_text().split()[1])


def test_memory_is_read_without_a_copy() -> None:
    store = MemoryStore(SIZE)
    store.write(0, b"a" * 512)
    (view,) = store.read(0, 512)
    store.write(0, b"z" * 512)
    assert bytes(view) == b"z" * 512
    store.close()


def test_a_file_keeps_its_data_and_a_discard_punches_a_hole(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    store = FileStore(path, SIZE)
    assert path.stat().st_blocks == 0
    store.write(0, b"\x09" * SIZE)
    store.flush()
    full = path.stat().st_blocks
    store.discard(0, SIZE // 2)
    store.flush()
    assert path.stat().st_blocks < full
    assert path.stat().st_size == SIZE
    store.close()
    again = FileStore(path)
    assert _joined(again, SIZE // 2 - 1, 2) == b"\0\x09"
    again.close()


def test_a_file_in_memory_never_waits_and_one_on_a_disk_may(tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir():
        pytest.skip("there is no /dev/shm here")
    with tempfile.NamedTemporaryFile(dir=shared) as file:
        store = FileStore(file.name, SIZE)
        assert not store.blocking
        store.write(4096, b"t" * 4096)
        store.discard(4096, 4096)
        assert _joined(store, 4096, 4096) == bytes(4096)
        store.close()
    proc_file = os.open("/proc/self/status", os.O_RDONLY)
    assert not lives_in_memory(proc_file)
    os.close(proc_file)
    store = FileStore(tmp_path / "disk", SIZE, waits=True)
    assert store.blocking
    store.close()


def test_neighbours_inside_one_page_do_not_undo_each_other_past_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _direct(tmp_path, SIZE)
    assert isinstance(store, FileStore)
    fill = store._fill

    def slow_fill(view: memoryview, offset: int) -> None:
        fill(view, offset)
        time.sleep(0.001)

    monkeypatch.setattr(store, "_fill", slow_fill)
    threads = [
        threading.Thread(target=store.write, args=(index * 512, bytes((index + 1,)) * 512))
        for index in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _joined(store, 0, 4096) == b"".join(bytes((index + 1,)) * 512 for index in range(8))
    store.close()


def test_a_read_only_file_can_be_read_and_not_written(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"\x03" * 8192)
    store = FileStore(path, read_only=True)
    assert store.read_only
    assert _joined(store, 0, 1) == b"\x03"
    with pytest.raises(StoreError, match="writing"):
        store.write(0, b"x" * 512)
    store.close()
    assert path.read_bytes() == b"\x03" * 8192


def test_a_failing_medium_is_a_store_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path / "disk", SIZE)

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwritev", fail)
    with pytest.raises(StoreError, match=r"disk: No space left"):
        store.write(0, b"x" * 512)
    monkeypatch.undo()
    store.close()


def test_a_snapshot_leaves_its_origin_and_rolls_back() -> None:
    origin = MemoryStore(SIZE)
    origin.write(0, b"\x01" * SIZE)
    snapshot = SnapshotStore(origin, MemoryStore(SIZE))
    snapshot.write(100 * 512, b"\x02" * 512)
    snapshot.discard(0, 512)
    assert _joined(snapshot, 0, 1) == b"\0"
    assert _joined(snapshot, 512, 1) == b"\x01"
    assert _joined(snapshot, 100 * 512, 1) == b"\x02"
    assert _joined(origin, 0, SIZE) == b"\x01" * SIZE
    snapshot.roll_back()
    assert _joined(snapshot, 0, SIZE) == b"\x01" * SIZE
    snapshot.close()


def _survivor(path: Path) -> SnapshotStore:
    store = open_store(f"snapshot:{path / 'origin'},overlay={path / 'overlay'}")
    assert isinstance(store, SnapshotStore)
    return store


def test_a_snapshot_in_files_survives_a_restart_and_rolls_back_for_good(tmp_path: Path) -> None:
    (tmp_path / "origin").write_bytes(b"\x01" * SIZE)
    store = _survivor(tmp_path)
    store.write(100 * 512, b"\x02" * 512)
    store.discard(512 << 10, 64 << 10)
    changed = _joined(store, 0, SIZE)
    store.close()
    again = _survivor(tmp_path)
    assert _joined(again, 0, SIZE) == changed
    assert changed != b"\x01" * SIZE
    again.roll_back()
    assert _joined(again, 0, SIZE) == b"\x01" * SIZE
    again.close()
    third = _survivor(tmp_path)
    assert _joined(third, 0, SIZE) == b"\x01" * SIZE
    third.close()
    assert (tmp_path / "origin").read_bytes() == b"\x01" * SIZE
    assert (tmp_path / "overlay").stat().st_blocks == 0


def _crash(store: SnapshotStore, path: Path) -> None:
    """What a process leaves that is killed: the files as they are, without the flush of a close."""
    assert store._record is not None
    shutil.copy(path / "overlay.record", path / "record")
    store.close()
    shutil.copy(path / "record", path / "overlay.record")


def test_after_a_crash_a_snapshot_has_what_was_flushed_or_durable_and_the_origin_elsewhere(
    tmp_path: Path,
) -> None:
    (tmp_path / "origin").write_bytes(b"\x01" * SIZE)
    store = _survivor(tmp_path)
    store.write(0, b"\x02" * 512)
    store.flush()
    store.write(128 << 10, b"\x03" * 512, durable=True)
    store.write(256 << 10, b"\x04" * 512)
    _crash(store, tmp_path)
    again = _survivor(tmp_path)
    for offset, byte in ((0, b"\x02"), (128 << 10, b"\x03"), (256 << 10, b"\x01")):
        assert _joined(again, offset, 513) == byte * 512 + b"\x01"
    again.close()


def test_what_a_snapshot_records_is_in_the_overlay_before(tmp_path: Path) -> None:
    """Else a power loss between the two leaves a granule of zeros where the origin had data."""
    (tmp_path / "origin").write_bytes(b"\x01" * SIZE)
    store = _survivor(tmp_path)
    order: list[str] = []
    record, overlay = store._record, store._overlay
    assert record is not None

    def noted(owner: object, name: str) -> Callable[..., None]:
        was = getattr(owner, name)

        def note(*arguments: object) -> None:
            order.append(name)
            was(*arguments)

        return note

    with pytest.MonkeyPatch.context() as patched:
        for owner, name in ((overlay, "flush"), (overlay, "discard"), (record, "add"), (record, "clear")):
            patched.setattr(owner, name, noted(owner, name))
        store.write(0, b"\x02" * 512, durable=True)
        store.roll_back()
    assert order == ["flush", "add", "clear", "discard"]
    store.close()


def test_a_flush_that_fails_is_made_up_for_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "origin").write_bytes(b"\x01" * SIZE)
    store = _survivor(tmp_path)
    store.write(0, b"\x02" * 512)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fail)
        with pytest.raises(StoreError, match="Input/output"):
            store.flush()
    store.flush()
    _crash(store, tmp_path)
    again = _survivor(tmp_path)
    assert _joined(again, 0, 1) == b"\x02"
    again.close()


def test_a_record_of_another_origin_is_refused_in_one_line(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    origin.write_bytes(b"\x01" * SIZE)
    _survivor(tmp_path).close()
    before = origin.stat()
    os.utime(origin, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(InvalidConfiguration, match="origin has changed"):
        _survivor(tmp_path)
    os.utime(origin, ns=(before.st_atime_ns, before.st_mtime_ns))
    store = _survivor(tmp_path)
    with pytest.raises(StoreError, match="another process"):
        _survivor(tmp_path)
    store.close()
    record = tmp_path / "overlay.record"
    whole = record.read_bytes()
    for damaged, says in (
        (b"x" + whole[1:], "no record"),
        (whole[:20], "no record"),
        (whole[:-1], "damaged"),
        (whole[:16] + b"\0\0\0\x09" + whole[20:], "version is 9"),
    ):
        record.write_bytes(damaged)
        with pytest.raises(InvalidConfiguration, match=says):
            _survivor(tmp_path)


def test_a_snapshot_refuses_an_overlay_that_is_too_small_or_read_only(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="cannot hold"):
        SnapshotStore(MemoryStore(SIZE), MemoryStore(SIZE // 2))
    FileStore(tmp_path / "overlay", SIZE).close()
    with (
        pytest.raises(InvalidConfiguration, match="read-only overlay"),
    ):
        overlay = FileStore(tmp_path / "overlay", read_only=True)
        try:
            SnapshotStore(MemoryStore(SIZE), overlay)
        finally:
            overlay.close()


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[Path]:
    image = tmp_path / "loop.img"
    image.write_bytes(bytes(SIZE))
    device = _loop(image)
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


def test_a_block_device_is_a_store(loop_device: Path) -> None:
    store = open_store(str(loop_device))
    assert isinstance(store, BlockDeviceStore)
    assert store.size_bytes == SIZE
    store.write(4096, b"\x04" * 8192, durable=True)
    store.discard(4096, 4096)
    assert _joined(store, 4096, 8192) == bytes(4096) + b"\x04" * 4096
    assert [extent.mapped for extent in store.extents(0, SIZE)] == [True], "mapped, or unknown"
    store.discard(8192, 512)
    assert _joined(store, 8192, 1024) == bytes(512) + b"\x04" * 512
    store.flush()
    store.close()


def test_discards_reach_the_block_device(loop_device: Path, tmp_path: Path) -> None:
    """A loop device gives the space of its file back, which shows that the discard came through."""
    store = open_store(str(loop_device))
    if not store.thin:
        pytest.skip("this loop device takes no discards: its file system punches no holes")
    store.write(0, b"\x04" * SIZE, durable=True)
    full = (tmp_path / "loop.img").stat().st_blocks
    store.discard(256 << 10, 512 << 10)
    store.flush()
    assert (tmp_path / "loop.img").stat().st_blocks <= full - 1024
    assert _joined(store, 0, SIZE) == b"\x04" * (256 << 10) + bytes(512 << 10) + b"\x04" * (256 << 10)
    store.close()


def test_a_block_device_that_takes_no_discards_is_zeroed(
    loop_device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iscsi_target.scsi.stores.file.discards", lambda fd: 0)
    store = open_store(str(loop_device))
    assert not store.thin
    store.write(0, b"\x04" * SIZE, durable=True)
    store.discard(0, SIZE // 2)
    assert _joined(store, 0, SIZE) == bytes(SIZE // 2) + b"\x04" * (SIZE // 2)
    store.close()


def test_a_block_device_can_be_used_past_the_page_cache(loop_device: Path) -> None:
    store = open_store(str(loop_device), direct=True)
    store.write(512, b"\x05" * 1024)
    assert _joined(store, 0, 2048) == bytes(512) + b"\x05" * 1024 + bytes(512)
    store.close()


# -- descriptions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 64 << 20),
        ("1 GB", 10**9),
        ("4096", 4096),
        ("2TiB", 2 << 40),
        ("disk.img", None),
        ("64Mib", None),
    ],
)
def test_a_size_is_told_from_a_name(text: str, size: int | None) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["0", "0GiB", "9999999TiB"])
def test_a_size_without_meaning_is_refused(text: str) -> None:
    with pytest.raises(InvalidConfiguration, match="size"):
        parse_size(text)


def test_a_description_opens_the_right_kind_of_store(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(8192))
    made = {
        "64MiB": MemoryStore,
        "null:1TiB": NullStore,
        str(tmp_path / "disk"): FileStore,
        f"snapshot:{tmp_path / 'disk'}": SnapshotStore,
        f"snapshot:{tmp_path / 'disk'},overlay={tmp_path / 'overlay'}": SnapshotStore,
    }
    for description, expected in made.items():
        store = open_store(description)
        assert type(store) is expected
        store.close()


def test_a_description_can_ask_to_go_past_the_page_cache(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(8192))
    try:
        store = open_store(f"direct:{path}")
    except StoreError as refused:
        assert "O_DIRECT" in str(refused)
        pytest.skip(str(refused))
    assert isinstance(store, FileStore)
    assert fcntl.fcntl(store._fd, fcntl.F_GETFL) & os.O_DIRECT
    store.write(512, b"x" * 512)
    store.close()
    plain = open_store(str(path))
    assert isinstance(plain, FileStore)
    assert not fcntl.fcntl(plain._fd, fcntl.F_GETFL) & os.O_DIRECT
    assert _joined(plain, 0, 1536) == bytes(512) + b"x" * 512 + bytes(512)
    plain.close()


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("missing", StoreError, "does not exist"),
        ("empty", InvalidConfiguration, "is empty"),
        (".", InvalidConfiguration, "neither a regular file"),
    ],
)
def test_a_path_that_is_no_disk_is_refused_in_one_line(
    tmp_path: Path, name: str, error: type[Exception], says: str
) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(error, match=says) as refused:
        open_store(str(tmp_path / name))
    assert "\n" not in str(refused.value)


def test_a_size_too_large_for_the_address_space_is_refused() -> None:
    with pytest.raises(InvalidConfiguration, match="address space"):
        MemoryStore(1 << 60)


def test_a_file_of_another_size_than_asked_for_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * 4096)
    with pytest.raises(InvalidConfiguration, match="4096 bytes, not 8192"):
        FileStore(path, 8192)
    assert path.read_bytes() == b"x" * 4096
