"""The change bitmap and the books kept on it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgmt.array.replication.bitmap import (
    BLOCK_BYTES,
    CHUNK_BYTES,
    BitmapError,
    ChangeBitmap,
    announced_file,
)
from mgmt.array.replication.group_record import GroupFiles
from mgmt.array.replication.tracker import ChangeTracker

TIB = 1 << 40


def runs(bitmap: ChangeBitmap, most: int = 1 << 30) -> list[tuple[int, int]]:
    found, start = [], 0
    while (run := bitmap.next_run(start, most)) is not None:
        found.append(run)
        start = run[0] + run[1]
    return found


def test_the_bitmap_of_a_tebibyte_has_32_mebibytes(tmp_path: Path) -> None:
    bitmap = ChangeBitmap(tmp_path / "b", TIB)
    bitmap.mark_all()
    assert bitmap.dirty_bytes == TIB
    assert bitmap.next_run(0, 64) == (0, 64)
    assert (tmp_path / "b").stat().st_size == 32 << 20
    assert announced_file(tmp_path / "b").stat().st_size == 12 << 10
    bitmap.close()


@pytest.mark.parametrize("lost", ["no file", "an empty header"])
def test_bits_whose_header_is_lost_say_nothing_so_everything_counts_as_changed(
    tmp_path: Path, lost: str
) -> None:
    bitmap = ChangeBitmap(tmp_path / "b", 3 * BLOCK_BYTES)
    bitmap.mark(0, 1)
    bitmap.close()
    header = announced_file(tmp_path / "b")
    if lost == "no file":
        header.unlink()
    else:
        header.write_bytes(bytes(header.stat().st_size))
    again = ChangeBitmap(tmp_path / "b", 3 * BLOCK_BYTES)
    assert runs(again) == [(0, 3)]
    again.close()


def test_a_header_whose_bits_are_lost_is_refused(tmp_path: Path) -> None:
    ChangeBitmap(tmp_path / "b", CHUNK_BYTES).close()
    (tmp_path / "b").unlink()
    for _ in range(2):  # and is so the next time
        with pytest.raises(BitmapError, match="has lost its bitmap"):
            ChangeBitmap(tmp_path / "b", CHUNK_BYTES)


def test_removing_a_group_leaves_the_files_of_one_whose_name_begins_like_it(tmp_path: Path) -> None:
    files = GroupFiles(tmp_path)
    for name in ("db", "db.1"):
        ChangeBitmap(files.bitmap(name, "vol0"), CHUNK_BYTES).close()
    files.remove("db")
    left = {files.bitmap("db.1", "vol0"), announced_file(files.bitmap("db.1", "vol0"))}
    assert set(tmp_path.iterdir()) == left


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 700), st.integers(1, 400)), max_size=20),
    st.integers(1, 90),
)
def test_marks_clears_and_runs_agree_with_a_set(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[bool, int, int]], most: int
) -> None:
    bitmap = ChangeBitmap(tmp_path_factory.mktemp("b") / "b", 1000 * BLOCK_BYTES)
    expected: set[int] = set()
    for mark, first, count in changes:
        count = min(count, 1000 - first)
        if mark:
            bitmap.mark(first * BLOCK_BYTES, count * BLOCK_BYTES)
            expected |= set(range(first, first + count))
        else:
            bitmap.clear(first, count)
            expected -= set(range(first, first + count))
    assert bitmap.dirty_bytes == len(expected) * BLOCK_BYTES
    found = runs(bitmap, most)
    assert {block for first, count in found for block in range(first, first + count)} == expected
    assert all(count <= most for _, count in found)
    bitmap.close()


def test_what_was_marked_is_found_by_the_next_process(tmp_path: Path) -> None:
    bitmap = ChangeBitmap(tmp_path / "b", TIB)
    bitmap.mark(TIB - 1, 1)
    bitmap.mark(5 * BLOCK_BYTES + 17, BLOCK_BYTES)
    again = ChangeBitmap(tmp_path / "b", TIB)  # the first was never closed, as after SIGKILL
    assert runs(again) == [(5, 2), (TIB // BLOCK_BYTES - 1, 1)]
    again.close()
    bitmap.close()


def test_after_a_reboot_everything_announced_counts_as_changed(tmp_path: Path) -> None:
    bitmap = ChangeBitmap(tmp_path / "b", 4 * CHUNK_BYTES, boot="a" * 36)
    bitmap.announce(CHUNK_BYTES - 1, 2)
    bitmap.close()
    same = ChangeBitmap(tmp_path / "b", 4 * CHUNK_BYTES, boot="a" * 36)
    assert same.dirty_bytes == 0
    same.close()
    rebooted = ChangeBitmap(tmp_path / "b", 4 * CHUNK_BYTES, boot="b" * 36)
    assert rebooted.dirty_bytes == 2 * CHUNK_BYTES
    rebooted.close()


def test_a_file_that_is_damaged_or_of_another_volume_is_refused(tmp_path: Path) -> None:
    ChangeBitmap(tmp_path / "b", CHUNK_BYTES).close()
    with pytest.raises(BitmapError, match="another size"):
        ChangeBitmap(tmp_path / "b", 99 * CHUNK_BYTES)
    header = announced_file(tmp_path / "b")
    data = bytearray(header.read_bytes())
    data[12] ^= 1
    header.write_bytes(data)
    with pytest.raises(BitmapError, match="damaged"):
        ChangeBitmap(tmp_path / "b", CHUNK_BYTES)


def test_no_block_is_called_equal_that_a_write_touched_meanwhile(tmp_path: Path) -> None:
    """Random hosts and a random copier: after every checkpoint, a clear bit means that both ends are equal."""
    rng = random.Random(4)
    bitmap = ChangeBitmap(tmp_path / "b", 32 * BLOCK_BYTES)
    tracker = ChangeTracker(bitmap)
    local, remote = [0] * 32, [0] * 32
    under_way: list[tuple[int, int]] = []
    sending: list[tuple[object, list[int]]] = []
    cleared = 0
    for number in range(1, 6000):
        match rng.randrange(6):
            case 0:
                block = rng.randrange(32)
                if block not in [held for held, _ in under_way]:  # the logical unit orders those that overlap
                    tracker.begin(block * BLOCK_BYTES, BLOCK_BYTES)
                    under_way.append((block, number))
            case 1 if under_way:
                block, value = under_way.pop(rng.randrange(len(under_way)))
                local[block] = value
                tracker.end(block * BLOCK_BYTES, BLOCK_BYTES, replicated=False)
            case 2 if (run := tracker.take(0, 4)) is not None:
                sending.append((run, [local[block] for block in range(run.first, run.first + run.count)]))
            case 3 if sending:
                run, values = sending.pop(rng.randrange(len(sending)))  # type: ignore[assignment]
                for block, value in zip(range(run.first, run.first + run.count), values, strict=True):
                    remote[block] = value
                tracker.sent(run)
            case 4 if rng.random() < 0.2:
                tracker.checkpoint_done(tracker.checkpoint_begins())
                held = {block for block, _ in under_way}
                for block in range(32):
                    if not bitmap.is_set(block):
                        cleared += 1
                        assert block not in held and local[block] == remote[block]
            case 5 if rng.random() < 0.02:
                tracker.forget_all()
                sending.clear()
    assert cleared > 100
    bitmap.close()
