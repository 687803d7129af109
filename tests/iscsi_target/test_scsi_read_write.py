# SPDX-License-Identifier: Apache-2.0
"""READ, WRITE, SYNCHRONIZE CACHE, PRE-FETCH, READ DEFECT DATA, and what can be wrong with them."""

from __future__ import annotations

import errno
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iscsi_target.executor import ScsiCommand
from iscsi_target.scsi.errors import StoreError
from iscsi_target.scsi.logical_unit import LogicalUnitConfig, cdrom_config
from iscsi_target.scsi.stores.file import FileStore
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.stores.null import NullStore
from tests.iscsi_target.scsi_rig import BLOCK, rig

BLOCKS = 2048  # of the rig's 1 MiB


def _cdb(code: int, lba: int, blocks: int) -> bytes:
    """A READ or WRITE CDB of the length that the opcode's group code says (SPC-4 4.2.5.1)."""
    match code >> 5:
        case 0:
            return bytes((code,)) + (lba & 0x1FFFFF).to_bytes(3, "big") + bytes((blocks & 0xFF, 0))
        case 1:
            return bytes((code, 0)) + lba.to_bytes(4, "big") + b"\0" + blocks.to_bytes(2, "big") + b"\0"
        case 5:
            return bytes((code, 0)) + lba.to_bytes(4, "big") + blocks.to_bytes(4, "big") + b"\0\0"
        case _:
            return bytes((code, 0)) + lba.to_bytes(8, "big") + blocks.to_bytes(4, "big") + b"\0\0"


READS = {6: 0x08, 10: 0x28, 12: 0xA8, 16: 0x88}
WRITES = {6: 0x0A, 10: 0x2A, 12: 0xAA, 16: 0x8A}


@pytest.mark.parametrize("length", READS)
def test_what_one_length_of_write_wrote_every_length_of_read_reads(length: int) -> None:
    host = rig().initiator()
    data = bytes(range(256)) * 4
    written = host.send(_cdb(WRITES[length], 5, 2), data)
    assert (written.status, written.asked_bytes) == (0, 1024)
    for code in READS.values():
        assert host.send(_cdb(code, 4, 4)).data == bytes(512) + data + bytes(512)


def test_six_byte_commands_of_0_blocks_mean_256() -> None:
    host = rig().initiator()
    assert host.send(_cdb(0x0A, 0, 0), b"y" * 256 * BLOCK).asked_bytes == 256 * BLOCK
    assert host.send(_cdb(0x08, 0, 0)).data == b"y" * 256 * BLOCK


@pytest.mark.parametrize("code", [*READS.values(), *WRITES.values()])
@pytest.mark.parametrize(("lba", "blocks"), [(BLOCKS, 1), (BLOCKS - 1, 2), (BLOCKS + 1, 1)])
def test_past_the_end_the_lba_is_out_of_range_and_nothing_is_asked_for(
    code: int, lba: int, blocks: int
) -> None:
    host = rig().initiator()
    data = b"z" * blocks * BLOCK if code in WRITES.values() else b""
    answer = host.send(_cdb(code, lba, blocks), data)
    assert (answer.status, answer.sense, answer.asked_bytes) == (2, (5, 0x21, 0x00), 0)
    assert answer.data == b""
    assert host.send(_cdb(0x28, BLOCKS - 1, 1)).data == bytes(BLOCK)


@pytest.mark.parametrize("code", [0x88, 0x8A])
def test_the_largest_lba_and_length_do_not_wrap(code: int) -> None:
    host = rig().initiator()
    data = b"x" * BLOCK if code == 0x8A else b""
    assert host.send(_cdb(code, (1 << 64) - 1, 0xFFFFFFFF), data).sense == (5, 0x21, 0x00)


@pytest.mark.parametrize("code", [0x28, 0xA8, 0x88, 0x2A, 0xAA, 0x8A])
def test_0_blocks_move_nothing_and_are_no_error(code: int) -> None:
    host = rig().initiator()
    answer = host.send(_cdb(code, 0, 0))
    assert (answer.status, answer.data, answer.asked_bytes) == (0, b"", 0)


@pytest.mark.parametrize("code", [0x28, 0xA8, 0x88, 0x2A, 0xAA, 0x8A])
def test_protection_information_is_refused_where_there_is_none(code: int) -> None:
    host = rig().initiator()
    cdb = bytearray(_cdb(code, 0, 1))
    cdb[1] |= 0x20
    answer = host.send(bytes(cdb), b"x" * BLOCK if code in WRITES.values() else b"")
    assert (answer.sense, answer.asked_bytes) == ((5, 0x24, 0x00), 0)
    assert answer.result.sense[15:18] == bytes.fromhex("cf 00 01")


def test_more_than_the_maximum_transfer_length_is_refused() -> None:
    host = rig(store=NullStore(1 << 30)).initiator()
    assert len(host.send(_cdb(0xA8, 0, 32768)).data) == 16 << 20
    assert host.send(_cdb(0xA8, 0, 32769)).sense == (5, 0x24, 0x00)
    assert host.send(_cdb(0xAA, 0, 32769), b"x").asked_bytes == 0


def test_naca_is_refused() -> None:
    cdb = bytearray(_cdb(0x28, 0, 1))
    cdb[9] = 0x04
    assert rig().initiator().send(bytes(cdb)).sense == (5, 0x24, 0x00)


def test_a_read_stops_at_the_expected_length_and_tells_the_whole() -> None:
    answer = rig().initiator().send(_cdb(0x28, 0, 4), expected_length=1000)
    assert len(answer.data) == 1000
    assert answer.result.transfer_length == 2048


def test_a_write_cut_short_writes_its_whole_blocks_and_tells_the_whole() -> None:
    host = rig().initiator()
    answer = host.send(_cdb(0x2A, 0, 2), b"q" * 700)
    assert (answer.status, answer.result.transfer_length) == (0, 1024)
    assert host.send(_cdb(0x28, 0, 2)).data == b"q" * 512 + bytes(512)


def test_an_initiator_that_brings_more_than_the_command_takes_writes_no_more() -> None:
    host = rig().initiator()
    assert host.send(_cdb(0x2A, 0, 1), b"r" * 2048).asked_bytes == 512
    assert host.send(_cdb(0x28, 0, 2)).data == b"r" * 512 + bytes(512)


def test_memory_is_answered_with_views_of_itself() -> None:
    lab = rig()
    lab.unit().store.write(0, b"\xaa")
    (view,) = lab.initiator().send(_cdb(0x28, 0, 8)).result.data_in
    assert isinstance(view, memoryview)
    lab.unit().store.write(0, b"\x55")
    assert view[0] == 0x55


def test_fua_flushes_before_it_reads(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore(1 << 20)
    flushed: list[bool] = []
    monkeypatch.setattr(store, "flush", lambda: flushed.append(True))
    host = rig(store=store).initiator()
    host.send("28 00 00 00 00 00 00 00 01 00")
    assert flushed == []
    host.send("28 08 00 00 00 00 00 00 01 00")
    assert flushed == [True]


@pytest.mark.parametrize("cdb", ["35 00 00 00 00 00 00 00 00 00", "91 02" + "00" * 14])
def test_synchronize_cache_flushes_the_store(cdb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(1 << 20)
    flushed: list[bool] = []
    monkeypatch.setattr(store, "flush", lambda: flushed.append(True))
    assert rig(store=store).initiator().send(cdb).status == 0
    assert flushed == [True]


@pytest.mark.parametrize("cdb", ["35 00 00 00 08 01 00 00 00 00", "34 00 00 00 07 ff 00 00 02 00"])
def test_ranges_past_the_end_are_refused(cdb: str) -> None:
    assert rig().initiator().send(cdb).sense == (5, 0x21, 0x00)


@pytest.mark.parametrize("cdb", ["34 02 00 00 00 00 00 00 00 00", "90" + "00" * 15])
def test_pre_fetch_is_accepted(cdb: str) -> None:
    assert rig().initiator().send(cdb).status == 0


def test_defect_lists_are_there_and_empty() -> None:
    host = rig().initiator()
    assert host.send("37 00 1d 00 00 00 00 00 ff 00").data == bytes.fromhex("00 1d 00 00")
    assert host.send("b7 1d 00 00 00 00 00 00 00 ff 00 00").data == bytes.fromhex("00 1d 00 00 00 00 00 00")


@pytest.mark.parametrize("code", [0x2A, 0xAA, 0x8A])
def test_a_read_only_unit_refuses_writes_and_reads_on(code: int) -> None:
    host = rig(LogicalUnitConfig(read_only=True)).initiator()
    answer = host.send(_cdb(code, 0, 1), b"x" * BLOCK)
    assert (answer.sense, answer.asked_bytes) == ((7, 0x27, 0x00), 0)
    assert host.send(_cdb(0x28, 0, 1)).data == bytes(BLOCK)


def test_a_cd_rom_is_read_in_blocks_of_2048_bytes_and_has_no_writes() -> None:
    store = MemoryStore(64 * 2048)
    store.write(2048, b"\x01CD001")
    host = rig(cdrom_config(), store=store).initiator()
    assert host.send(_cdb(0x28, 1, 1)).data[:6] == b"\x01CD001"
    assert host.send("25" + "00" * 9).data == bytes.fromhex("0000003f 00000800")
    assert host.send(_cdb(0x2A, 0, 1), b"x" * 2048).sense == (5, 0x20, 0x00)


def test_a_failing_medium_is_a_medium_error(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(1 << 20)

    def fail(*_: object, **__: object) -> None:
        raise StoreError("the disk is gone")

    monkeypatch.setattr(store, "read", fail)
    monkeypatch.setattr(store, "write", fail)
    host = rig(store=store).initiator()
    for flags in (0x00, 0x10):  # the second goes the general way
        assert host.send(bytes((0x28, flags)) + _cdb(0x28, 0, 1)[2:]).sense == (3, 0x11, 0x00)
        assert host.send(bytes((0x2A, flags)) + _cdb(0x2A, 0, 1)[2:], b"x" * BLOCK).sense == (3, 0x0C, 0x00)


def test_a_full_disk_is_told_from_a_failing_one(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = rig(store=FileStore(tmp_path_factory.mktemp("disk") / "disk", 1 << 20))
    host = lab.initiator()

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwritev", fail)
    assert host.send(_cdb(0x2A, 0, 1), b"x" * BLOCK).sense == (7, 0x27, 0x07)
    monkeypatch.undo()
    assert host.send(_cdb(0x2A, 0, 1), b"x" * BLOCK).status == 0
    lab.device.close()


def test_only_what_may_wait_is_called_blocking(tmp_path_factory: pytest.TempPathFactory) -> None:
    def blocking(device_rig: object, cdb: bytes) -> bool:
        host = device_rig.initiator()  # type: ignore[attr-defined]
        command = ScsiCommand(host.name, host.port, 1, 0, cdb.ljust(16, b"\0"), b"", True, False, 512)
        return bool(host.device.blocking(command))

    in_memory = rig()
    in_file = rig(store=FileStore(tmp_path_factory.mktemp("disk") / "disk", 1 << 20, waits=True))
    assert not blocking(in_memory, _cdb(0x28, 0, 1))
    assert blocking(in_file, _cdb(0x28, 0, 1))
    assert not blocking(in_file, bytes((0x12,)))
    assert blocking(in_memory, bytes.fromhex("48 02"))  # SANITIZE takes long on any store
    in_file.device.close()


def test_commands_of_many_threads_leave_whole_blocks(tmp_path_factory: pytest.TempPathFactory) -> None:
    lab = rig(store=FileStore(tmp_path_factory.mktemp("disk") / "disk", 1 << 20, waits=True))
    hosts = [lab.initiator() for _ in range(4)]
    errors: list[object] = []

    def work(index: int) -> None:
        mine = bytes((index + 1,)) * 8 * BLOCK
        for turn in range(40):
            if hosts[index].send(_cdb(0x2A, turn % 4, 8), mine).status:
                errors.append("write")
            seen = hosts[index].send(_cdb(0x28, turn % 4, 8)).data
            errors.extend("torn" for at in range(0, len(seen), BLOCK) if len(set(seen[at : at + BLOCK])) != 1)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    lab.device.close()


@settings(max_examples=300, deadline=None)
@given(
    code=st.sampled_from((0x28, 0x88, 0x2A, 0x8A)),
    flags=st.sampled_from((0, 0, 0, 0x08, 0x10, 0x20)),
    lba=st.integers(0, BLOCKS + 2),
    blocks=st.integers(0, 9),
    short=st.sampled_from((0, 0, 0, 100, 600)),
)
def test_the_hot_path_gives_what_the_general_way_gives(
    code: int, flags: int, lba: int, blocks: int, short: int
) -> None:
    """The same command on two equal units, one of which has a general way only."""
    answers = []
    for hot in (True, False):
        lab = rig()
        lab.unit().store.write(0, bytes(range(256)) * 4096)
        host = lab.initiator()
        server = lab.device._servers[0]
        if not hot:
            server._hot = server._hot_lengths = (None,) * 256
        raw = _cdb(code, lba, blocks)
        raw = raw[:1] + bytes((flags,)) + raw[2:]
        write = code in (0x2A, 0x8A)
        size = max(0, blocks * BLOCK - short)
        answer = host.send(raw, b"w" * size if write else b"", expected_length=size)
        answers.append(
            (
                answer.status,
                answer.result.sense,
                answer.asked_bytes,
                answer.data,
                bytes(lab.unit().store.read(0, 1 << 20)[0]),
            )
        )
    assert answers[0] == answers[1]


@settings(max_examples=300, deadline=None)
@given(cdb=st.binary(min_size=0, max_size=20), data=st.binary(max_size=64))
def test_no_cdb_whatever_makes_the_device_server_raise_or_ask_for_too_much(cdb: bytes, data: bytes) -> None:
    lab = rig(store=MemoryStore(1 << 20), target_ports=(1, 2))
    host = lab.initiator()
    command = ScsiCommand(host.name, host.port, 1, 0, cdb, b"", True, False, 4096)
    asked = host.device.data_out_length(command)
    assert 0 <= asked <= 16 << 20
    assert isinstance(host.device.blocking(command), bool)
    if cdb[:1] == b"\x48":
        return  # SANITIZE may start a thread
    answer = host.device.execute(
        ScsiCommand(
            host.name, host.port, 1, 0, cdb, data[: min(asked, len(data))], not data, bool(data), len(data)
        )
    )
    assert answer.status in (0x00, 0x02, 0x18)
    assert bool(answer.sense) is (answer.status == 0x02)
