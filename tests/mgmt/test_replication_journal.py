"""The journal at the primary, and the epochs made of it."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iscsi_target.scsi.stores.memory import MemoryStore
from mgmt.array.replication import remote_log, secondary
from mgmt.array.replication.journal import Journal, JournalError, JournalFull, Record
from mgmt.array.replication.pair_state import PairState
from mgmt.array.replication.remote_log import LogDamaged, Superblock

CAPACITY = 64 * 1024


def clock() -> int:
    return 7


def journal(path: Path, capacity: int = CAPACITY) -> Journal:
    return Journal(path, capacity, clock)


def plain(records: list[Record]) -> list[tuple[int, int, int, bytes | None]]:
    return [(record.seq, record.volume, record.offset_bytes, record.data) for record in records]


def test_records_are_numbered_kept_and_found_again_after_a_kill(tmp_path: Path) -> None:
    first = journal(tmp_path / "j")
    for number in range(10):
        first.append(number % 3, number * 4096, os.urandom(512 * (1 + number)), 512 * (1 + number))
    first.append(0, 0, None, 1 << 30)
    first.release(4, epoch=2)
    again = journal(tmp_path / "j")  # the first was never closed
    assert plain(again.pending()) == plain(first.pending())
    assert [record.seq for record in again.pending()] == list(range(5, 12))
    assert (again.epoch, again.released_seq, again.last_seq) == (2, 4, 11)
    assert again.pending_bytes == first.pending_bytes
    again.close()
    first.close()


def test_a_journal_that_began_anew_while_it_was_empty_is_found_again(tmp_path: Path) -> None:
    """The place that the head of the file named is written over before anything leaves at the front."""
    ring = journal(tmp_path / "j")
    for _ in range(3):
        last = ring.append(0, 0, bytes(16 * 1024), 16 * 1024)
    ring.release(last.seq, epoch=1)  # empty, the head at some 48 KiB of 64
    for number in range(3):
        ring.append(1, number, bytes((number,)) * 20 * 1024, 20 * 1024)
        again = journal(tmp_path / "j")
        assert plain(again.pending()) == plain(ring.pending())
        again.close()
    ring.close()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_comes_and_goes_the_next_process_finds_what_was_there(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    rng, path = random.Random(seed), tmp_path_factory.mktemp("j") / "j"
    ring = journal(path)
    for step in range(120):
        if rng.random() < 0.6:
            length = rng.randrange(1, 24) * 512
            try:
                ring.append(rng.randrange(3), step * 4096, rng.randbytes(length), length)
            except JournalFull:
                ring.release(ring.pending()[rng.randrange(ring.records)].seq, step)
        elif ring.records and rng.random() < 0.5:
            ring.release(ring.pending()[0].seq, step)
        elif rng.random() < 0.02:
            ring.reset()
        assert 0 <= ring.used_bytes <= CAPACITY
        if rng.random() < 0.1:
            again = journal(path)
            assert plain(again.pending()) == plain(ring.pending())
            assert again.last_seq == ring.last_seq
            ring.close()
            ring = again
    ring.close()


@pytest.mark.parametrize("cut", [1, 30, 41, 2000, 4000])
def test_a_torn_last_record_counts_as_never_written(tmp_path: Path, cut: int) -> None:
    ring = journal(tmp_path / "j")
    ring.append(0, 0, b"a" * 4096, 4096)
    torn = ring.append(0, 4096, b"b" * 4096, 4096)
    ring.close()
    with (tmp_path / "j").open("r+b") as file:
        file.seek(torn.position + cut)
        file.write(bytes(8192))
    again = journal(tmp_path / "j")
    assert [record.seq for record in again.pending()] == [1]
    assert again.append(0, 0, b"c" * 512, 512).seq == 2
    again.close()


def test_a_full_journal_says_so_and_takes_more_when_records_have_left(tmp_path: Path) -> None:
    ring = journal(tmp_path / "j")
    with pytest.raises(JournalFull):
        for _ in itertools.count():
            ring.append(0, 0, bytes(5000), 5000)
    count = ring.records
    ring.release(2, 1)
    ring.append(0, 0, bytes(5000), 5000)
    assert ring.records == count - 1
    ring.close()


def test_a_head_that_is_torn_is_replaced_by_the_other_and_both_are_an_error(tmp_path: Path) -> None:
    ring = journal(tmp_path / "j")
    ring.append(0, 0, b"a" * 512, 512)
    ring.release(1, 5)
    ring.append(0, 0, b"b" * 512, 512)
    ring.release(2, 6)
    ring.close()
    data = bytearray((tmp_path / "j").read_bytes())
    newer = max((0, 4096), key=lambda at: int.from_bytes(data[at + 12 : at + 20], "little"))
    data[newer + 20] ^= 1
    (tmp_path / "j").write_bytes(data)
    again = journal(tmp_path / "j")
    assert again.epoch == 5
    assert [record.seq for record in again.pending()] == [2]
    again.close()
    data[4096 - newer + 20] ^= 1
    (tmp_path / "j").write_bytes(data)
    with pytest.raises(JournalError, match="damaged"):
        journal(tmp_path / "j")


# -- epochs ---------------------------------------------------------------------------------------------------

GROUP = b"0123456789abcdef"


def named(epoch: remote_log.Epoch, number: int = 1) -> Superblock:
    return Superblock(
        group=GROUP,
        generation=1,
        version=number,
        epoch=number,
        last_seq=epoch.last_seq,
        consistent=True,
        states=(PairState.PAIR, PairState.PAIR),
        primary="east",
        table_bytes=len(epoch.table),
        entries=len(epoch.entries),
        table_crc=epoch.table_crc,
    )


def put(store: MemoryStore, epoch: remote_log.Epoch) -> None:
    store.write(remote_log.EPOCH_AT, epoch.table + b"".join(epoch.data))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 60), st.integers(1, 30), st.booleans()), min_size=1)
)
def test_an_applied_epoch_is_what_its_writes_in_order_make(writes: list[tuple[int, int, int, bool]]) -> None:
    records, expected = [], [bytearray(b"\xee" * 128 * 512) for _ in range(2)]
    for seq, (volume, first, count, zeros) in enumerate(writes, 1):
        data = None if zeros else bytes([seq % 251]) * (count * 512)
        records.append(Record(seq, volume, first * 512, count * 512, data, 0, 0, 0))
        expected[volume][first * 512 : (first + count) * 512] = data or bytes(count * 512)
    epoch = remote_log.build(records)
    covered = [
        (entry.volume, at)
        for entry in epoch.entries
        for at in range(entry.offset_bytes, entry.offset_bytes + entry.length_bytes, 512)
    ]
    assert len(covered) == len(set(covered)), "no byte is written twice, so the order within an epoch is free"
    stores, area = [MemoryStore(128 * 512) for _ in range(2)], MemoryStore(8 << 20)
    for store in stores:
        store.write(0, b"\xee" * 128 * 512)
    put(area, epoch)
    superblock = named(epoch)
    assert secondary.apply(area, stores, superblock) > 0
    assert [b"".join(store.read(0, 128 * 512)) for store in stores] == [bytes(data) for data in expected]
    assert secondary.apply(area, stores, superblock) == 0, "it is noted that it is applied"


@pytest.mark.parametrize(("count", "least", "most"), [(7, 0, 0), (80, 10, 10), (4096, 32, 64)])
def test_an_epoch_is_built_and_applied_with_breaths_in_between_and_a_long_one_not_held_up(
    count: int, least: int, most: int
) -> None:
    """Each of the two passes over its records: hosts' threads wait for the interpreter no longer than a step."""
    records = [Record(seq, 0, seq * 512, 512, b"x" * 512, 0, 0, 0) for seq in range(count)]
    breaths: list[None] = []
    epoch = remote_log.build(records, lambda: breaths.append(None))
    assert 2 * least <= len(breaths) <= 2 * most
    store, area = MemoryStore(count * 512), MemoryStore(8 << 20)
    put(area, epoch)
    breaths.clear()
    assert secondary.apply(area, [store], named(epoch), lambda: breaths.append(None)) == count * 512
    assert 2 * least <= len(breaths) <= 2 * most


def test_a_damaged_epoch_is_never_applied_even_in_part(tmp_path: Path) -> None:
    records = [Record(seq, 0, seq * 4096, 4096, bytes([seq]) * 4096, 0, 0, 0) for seq in range(1, 5)]
    epoch = remote_log.build(records)
    for flipped in (remote_log.EPOCH_AT + 3, remote_log.EPOCH_AT + len(epoch.table) + 3 * 4096 + 5):
        area, store = MemoryStore(8 << 20), MemoryStore(1 << 20)
        put(area, epoch)
        byte = b"".join(area.read(flipped, 1))
        area.write(flipped, bytes([byte[0] ^ 1]))
        with pytest.raises(LogDamaged, match="damaged"):
            secondary.apply(area, [store], named(epoch))
        assert not b"".join(store.read(0, 1 << 20)).strip(b"\0")


def test_the_newer_whole_superblock_counts() -> None:
    epoch = remote_log.build([Record(1, 0, 0, 512, bytes(512), 0, 0, 0)])
    old, new = named(epoch, 1), named(epoch, 2)
    assert remote_log.decode_superblock(new.encode()) == new
    assert remote_log.newest(new.encode(), old.encode()) == new
    torn = bytearray(new.encode())
    torn[40] ^= 1
    assert remote_log.newest(bytes(torn), old.encode()) == old
    assert remote_log.newest(bytes(4096), bytes(4096)) is None
    assert {old.slot_at, new.slot_at} == {0, 4096}


def test_the_end_of_a_copy_is_one_batch_of_its_own_and_hides_its_age(tmp_path: Path) -> None:
    ring = journal(tmp_path / "j")
    ring.append(0, 0, b"a" * 4096, 4096)
    for number in range(1, 5):
        ring.append(0, number * 4096, b"b" * 4096, 4096, copied=True)
    ring.append(0, 0, b"c" * 4096, 4096)

    def taken(released: int) -> list[int]:
        ring.release(released, 1)
        return [record.seq for record in ring.batch(8192, 100, 65536)]

    assert ring.copied_seqs() == (2, 5)
    assert not ring.ages_known, "what is copied was written by a host long before"
    assert taken(0) == [1]
    assert taken(1) == [2, 3, 4, 5]
    ring.close()
    again = journal(tmp_path / "j")
    assert (again.copied_seqs(), again.ages_known) == ((2, 5), False)
    again.release(5, 1)
    assert [record.seq for record in again.batch(8192, 100, 65536)] == [6]
    assert (again.copied_seqs(), again.ages_known) == (None, True)
    again.close()
