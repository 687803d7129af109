# SPDX-License-Identifier: Apache-2.0
"""VERIFY, WRITE AND VERIFY, COMPARE AND WRITE, ORWRITE and WRITE ATOMIC."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import pytest

from iscsi_target.executor import Buffer
from iscsi_target.scsi.range_lock import RangeLocks
from iscsi_target.scsi.stores.file import FileStore
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.stores.null import NullStore
from tests.iscsi_target.scsi_rig import BLOCK, Initiator, rig


def _sixteen(code: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return bytes((code, flags)) + lba.to_bytes(8, "big") + blocks.to_bytes(4, "big") + b"\0\0"


def _ten(code: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return bytes((code, flags)) + lba.to_bytes(4, "big") + b"\0" + blocks.to_bytes(2, "big") + b"\0"


def _twelve(code: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return bytes((code, flags)) + lba.to_bytes(4, "big") + blocks.to_bytes(4, "big") + b"\0\0"


def _filled(host: Initiator, byte: bytes = b"v") -> Initiator:
    host.send(_sixteen(0x8A, 0, 16), byte * 16 * BLOCK)
    return host


VERIFIES = [(_ten, 0x2F), (_twelve, 0xAF), (_sixteen, 0x8F)]
WRITE_VERIFIES = [(_ten, 0x2E), (_twelve, 0xAE), (_sixteen, 0x8E)]


@pytest.mark.parametrize(("cdb", "code"), VERIFIES)
def test_verify_compares_when_bytchk_says_so(cdb: Callable[..., bytes], code: int) -> None:
    host = _filled(rig().initiator())
    assert host.send(cdb(code, 0, 16)).status == 0
    assert host.send(cdb(code, 2, 2, 0x02), b"v" * 1024).status == 0
    wrong = b"v" * 1000 + b"w" + b"v" * 23
    answer = host.send(cdb(code, 2, 2, 0x02), wrong)
    assert (answer.sense, answer.asked_bytes) == ((0xE, 0x1D, 0x00), 1024)
    assert int.from_bytes(answer.result.sense[3:7], "big") == 1000  # where the difference is


def test_verify_with_one_block_compares_it_with_every_block() -> None:
    host = _filled(rig().initiator())
    answer = host.send(_ten(0x2F, 0, 16, 0x06), b"v" * BLOCK)
    assert (answer.status, answer.asked_bytes) == (0, BLOCK)
    host.send(_ten(0x2A, 9, 1), b"u" * BLOCK)
    answer = host.send(_ten(0x2F, 0, 16, 0x06), b"v" * BLOCK)
    assert answer.sense == (0xE, 0x1D, 0x00)
    assert int.from_bytes(answer.result.sense[3:7], "big") == 9 * BLOCK


@pytest.mark.parametrize(("flags", "field"), [(0x04, "cb"), (0x20, "cf")])
def test_verify_refuses_what_it_does_not_have(flags: int, field: str) -> None:
    answer = rig().initiator().send(_ten(0x2F, 0, 1, flags))
    assert answer.sense == (5, 0x24, 0x00)
    assert answer.result.sense[16:18] == bytes.fromhex("0001")


@pytest.mark.parametrize("code", [0x8F, 0x8E])
@pytest.mark.parametrize("bytchk", [0x00, 0x02])
def test_more_than_the_maximum_transfer_length_is_not_verified(code: int, bytchk: int) -> None:
    host = rig(store=NullStore(1 << 40)).initiator()
    answer = host.send(_sixteen(code, 0, 32769, bytchk), b"x")
    assert (answer.sense, answer.asked_bytes) == ((5, 0x24, 0x00), 0)


@pytest.mark.parametrize(("cdb", "code"), WRITE_VERIFIES)
def test_write_and_verify_writes_durably(
    cdb: Callable[..., bytes], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore(1 << 20)
    durably: list[bool] = []
    write = store.write

    def watched(offset: int, data: bytes, *, durable: bool = False) -> None:
        durably.append(durable)
        write(offset, data, durable=durable)

    monkeypatch.setattr(store, "write", watched)
    host = rig(store=store).initiator()
    assert host.send(cdb(code, 3, 1, 0x02), b"n" * BLOCK).status == 0
    assert durably == [True]
    assert host.send(_ten(0x28, 3, 1)).data == b"n" * BLOCK


def test_a_medium_that_reads_back_something_else_is_a_miscompare(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(1 << 20)
    monkeypatch.setattr(store, "write", lambda *_, **__: None)
    host = rig(store=store).initiator()
    assert host.send(_ten(0x2E, 0, 1, 0x02), b"n" * BLOCK).sense == (0xE, 0x1D, 0x00)
    assert host.send(_ten(0x2E, 0, 1, 0x00), b"n" * BLOCK).status == 0


def _compare(lba: int, blocks: int, flags: int = 0) -> bytes:
    return bytes((0x89, flags)) + lba.to_bytes(8, "big") + bytes((0, 0, 0, blocks, 0, 0))


def test_compare_and_write_writes_when_the_blocks_are_as_expected() -> None:
    host = _filled(rig().initiator())
    answer = host.send(_compare(1, 2), b"v" * 1024 + b"n" * 1024)
    assert (answer.status, answer.asked_bytes) == (0, 2048)
    assert host.send(_ten(0x28, 0, 4)).data == b"v" * 512 + b"n" * 1024 + b"v" * 512


def test_compare_and_write_tells_where_the_blocks_differ_and_changes_nothing() -> None:
    host = _filled(rig().initiator())
    answer = host.send(_compare(1, 2), b"v" * 700 + b"x" * 324 + b"n" * 1024)
    assert answer.sense == (0xE, 0x1D, 0x00)
    assert answer.result.sense[0] == 0xF0
    assert int.from_bytes(answer.result.sense[3:7], "big") == 700
    assert host.send(_ten(0x28, 0, 4)).data == b"v" * 2048


@pytest.mark.parametrize("data_bytes", [512, 1023, 1536, 4096])
def test_compare_and_write_takes_exactly_two_instances(data_bytes: int) -> None:
    host = _filled(rig().initiator())
    assert host.send(_compare(0, 1), b"v" * data_bytes).sense == (5, 0x24, 0x00)
    assert host.send(_ten(0x28, 0, 1)).data == b"v" * BLOCK


class _SlowReads(FileStore):
    """Leaves others time between a comparison and the write that follows it."""

    def read(self, offset: int, length: int) -> Sequence[Buffer]:
        buffers = super().read(offset, length)
        time.sleep(0.0005)
        return buffers


def test_of_many_that_compare_and_write_the_same_block_one_wins_each_turn(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    lab = rig(store=_SlowReads(tmp_path_factory.mktemp("disk") / "disk", 1 << 20, waits=True))
    hosts = [lab.initiator() for _ in range(4)]
    won = [0] * len(hosts)

    def work(index: int) -> None:
        while True:
            seen = hosts[index].send(_ten(0x28, 0, 1)).data
            count = int.from_bytes(seen[:4], "big")
            if count >= 100:
                return
            written = (count + 1).to_bytes(4, "big") * 128
            if hosts[index].send(_compare(0, 1), seen + written).status == 0:
                won[index] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(hosts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(won) == 100
    lab.device.close()


def test_orwrite_is_the_bitwise_or() -> None:
    host = _filled(rig().initiator(), b"\x50")
    assert host.send(_sixteen(0x8B, 0, 1), b"\x0f\x00" * 256).status == 0
    assert host.send(_ten(0x28, 0, 2)).data == b"\x5f\x50" * 256 + b"\x50" * 512


def _atomic(lba: int, blocks: int, boundary: int = 0) -> bytes:
    return (
        bytes((0x9C, 0))
        + lba.to_bytes(8, "big")
        + boundary.to_bytes(2, "big")
        + blocks.to_bytes(2, "big")
        + b"\0\0"
    )


def test_write_atomic_writes_all_or_nothing() -> None:
    host = _filled(rig().initiator())
    assert host.send(_atomic(0, 2), b"a" * 1024).status == 0
    assert host.send(_ten(0x28, 0, 2)).data == b"a" * 1024
    assert host.send(_atomic(4, 2), b"a" * 512).sense == (5, 0x24, 0x00)
    assert host.send(_ten(0x28, 4, 1)).data == b"v" * 512
    assert host.send(_atomic(0, 1, boundary=1), b"a" * 512).sense == (5, 0x24, 0x00)


def test_readers_never_see_half_of_an_atomic_write(tmp_path_factory: pytest.TempPathFactory) -> None:
    lab = rig(store=FileStore(tmp_path_factory.mktemp("disk") / "disk", 1 << 20, waits=True))
    writer, reader = lab.initiator(), lab.initiator()
    halves: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            halves.append(len(set(reader.send(_sixteen(0x88, 0, 256)).data)))

    thread = threading.Thread(target=read)
    thread.start()
    for turn in range(100):
        writer.send(_atomic(0, 256), bytes((turn,)) * 256 * BLOCK)
    done.set()
    thread.join()
    assert set(halves) == {1}
    lab.device.close()


def test_a_writer_has_its_turn_before_readers_that_came_later() -> None:
    """A host that reads without a pause starves nobody who writes."""
    locks, order = RangeLocks(threaded=True), list[str]()

    def hold(name: str, lock: AbstractContextManager[None]) -> threading.Thread:
        def run() -> None:
            with lock:
                order.append(name)

        before = locks.waiting
        thread = threading.Thread(target=run)
        thread.start()
        while locks.waiting == before:
            thread.join(0.001)
        return thread

    with locks.shared(0, 100):
        threads = [hold("writer", locks.exclusive(50, 100)), hold("reader", locks.shared(60, 10))]
        with locks.shared(0, 50):  # it collides with nobody who waits
            assert order == []
    for thread in threads:
        thread.join()
    assert order == ["writer", "reader"]
