# SPDX-License-Identifier: Apache-2.0
"""UNMAP, WRITE SAME and GET LBA STATUS."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from iscsi_target.scsi.logical_unit import LogicalUnitConfig
from iscsi_target.scsi.stores.file import FileStore
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.stores.null import NullStore
from tests.iscsi_target.scsi_rig import BLOCK, Answer, Initiator, rig

BLOCKS = 2048


def _unmap(host: Initiator, *extents: tuple[int, int], anchor: bool = False) -> Answer:
    descriptors = b"".join(struct.pack(">QI4x", *extent) for extent in extents)
    data = struct.pack(">HH4x", len(descriptors) + 6, len(descriptors)) + descriptors
    return host.send(bytes((0x42, anchor, 0, 0, 0, 0, 0)) + len(data).to_bytes(2, "big") + b"\0", data)


def _write(host: Initiator, lba: int, blocks: int, byte: bytes = b"m") -> None:
    assert host.send(struct.pack(">BBQIBB", 0x8A, 0, lba, blocks, 0, 0), byte * blocks * BLOCK).status == 0


def _read(host: Initiator, lba: int, blocks: int) -> bytes:
    return host.send(struct.pack(">BBQIBB", 0x88, 0, lba, blocks, 0, 0)).data


def _status(host: Initiator, lba: int, allocation_length: int = 256) -> list[tuple[int, int, int]]:
    data = host.send(struct.pack(">BBQIBB", 0x9E, 0x12, lba, allocation_length, 0, 0)).data
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    return [struct.unpack(">QIB3x", data[at : at + 16]) for at in range(8, len(data), 16)]


def test_unmapped_blocks_read_as_zeros_and_are_reported() -> None:
    host = rig().initiator()
    _write(host, 0, 64)
    assert _status(host, 0) == [(0, 64, 0), (64, BLOCKS - 64, 1)]
    assert _unmap(host, (8, 16), (40, 8)).status == 0
    assert _status(host, 0) == [
        (0, 8, 0),
        (8, 16, 1),
        (24, 16, 0),
        (40, 8, 1),
        (48, 16, 0),
        (64, BLOCKS - 64, 1),
    ]
    assert _read(host, 7, 18) == b"m" * 512 + bytes(16 * 512) + b"m" * 512


def test_status_starts_at_the_lba_asked_for_and_gives_at_least_one_descriptor() -> None:
    host = rig().initiator()
    _write(host, 0, 64)
    assert _status(host, 5, 24) == [(5, 59, 0)]
    assert _status(host, 100, 40) == [(100, BLOCKS - 100, 1)]
    assert host.send(struct.pack(">BBQIBB", 0x9E, 0x12, BLOCKS, 24, 0, 0)).sense == (5, 0x21, 0x00)


def test_blocks_smaller_than_the_granule_read_as_zeros_and_stay_mapped() -> None:
    host = rig().initiator()
    _write(host, 0, 8)
    _unmap(host, (1, 1))
    assert _read(host, 0, 3) == b"m" * 512 + bytes(512) + b"m" * 512
    assert _status(host, 0)[0] == (0, 8, 0)


def test_a_wrong_descriptor_unmaps_nothing() -> None:
    host = rig().initiator()
    _write(host, 0, 16)
    assert _unmap(host, (0, 8), (BLOCKS - 1, 2)).sense == (5, 0x21, 0x00)
    assert _read(host, 0, 8) == b"m" * 8 * BLOCK


def test_unmap_without_descriptors_or_blocks_is_no_error() -> None:
    host = rig().initiator()
    assert host.send("42 00 00 00 00 00 00 00 00 00").status == 0
    assert _unmap(host).status == 0
    assert _unmap(host, (BLOCKS, 0)).status == 0


@pytest.mark.parametrize(
    ("cdb", "data", "sense"),
    [
        ("42 01 00 00 00 00 00 00 18 00", bytes(24), (5, 0x24, 0x00)),  # ANCHOR
        ("42 00 00 00 00 00 00 00 07 00", bytes(7), (5, 0x1A, 0x00)),  # half a header
        ("42 00 00 00 00 00 00 00 18 00", bytes(8), (5, 0x1A, 0x00)),  # less than announced
    ],
)
def test_a_malformed_unmap_is_refused(cdb: str, data: bytes, sense: tuple[int, int, int]) -> None:
    assert rig().initiator().send(cdb, data).sense == sense


@pytest.fixture
def anchoring(tmp_path: Path) -> Iterator[Initiator]:
    """An initiator at a unit in a file whose file system can reserve space."""
    store = FileStore(tmp_path / "disk", BLOCKS * BLOCK)
    if not store.anchors:
        store.close()
        pytest.skip(f"the file system of {tmp_path} does not tell what is reserved in a file (FIEMAP)")
    yield rig(store=store).initiator()
    store.close()


def test_a_unit_that_anchors_says_so_and_one_that_does_not_refuses(anchoring: Initiator) -> None:
    """ANC_SUP of the logical block provisioning page (SBC-3 6.6.4)."""
    for host, anc_sup in ((anchoring, 0x02), (rig().initiator(), 0)):
        assert host.send("12 01 b2 00 ff 00").data[5] & 0x02 == anc_sup
    assert _unmap(rig().initiator(), (0, 8), anchor=True).sense == (5, 0x24, 0x00)


def test_anchored_blocks_read_as_zeros_until_they_are_written_or_unmapped(anchoring: Initiator) -> None:
    """SBC-3 4.7.3.2: mapped and deallocated blocks become anchored; GET LBA STATUS tells the three states apart."""
    _write(anchoring, 0, 64)
    assert _unmap(anchoring, (8, 16), (64, 8), anchor=True).status == 0
    assert _unmap(anchoring, (40, 8)).status == 0
    assert _status(anchoring, 0) == [
        (0, 8, 0),
        (8, 16, 2),
        (24, 16, 0),
        (40, 8, 1),
        (48, 16, 0),
        (64, 8, 2),
        (72, BLOCKS - 72, 1),
    ]
    assert _read(anchoring, 7, 18) == b"m" * 512 + bytes(16 * 512) + b"m" * 512
    _write(anchoring, 8, 8)
    assert _unmap(anchoring, (16, 8)).status == 0
    assert _status(anchoring, 0)[:3] == [(0, 16, 0), (16, 8, 1), (24, 16, 0)]


def test_write_same_with_unmap_and_anchor_anchors(anchoring: Initiator) -> None:
    """SBC-3 5.42; ANCHOR without UNMAP has no meaning."""
    _write(anchoring, 0, 64)
    assert _same_16(anchoring, ANCHOR, 0, 8, bytes(512)).sense == (5, 0x24, 0x00)
    assert _same_16(anchoring, UNMAP | ANCHOR, 0, 8, bytes(512)).status == 0
    assert _same_16(anchoring, UNMAP | ANCHOR | NDOB, 8, 8).status == 0
    assert anchoring.send("41 18 00 00 00 10 00 00 08 00", bytes(512)).status == 0
    assert _status(anchoring, 0)[:2] == [(0, 24, 2), (24, 40, 0)]
    assert _read(anchoring, 0, 25) == bytes(24 * 512) + b"m" * 512


def test_when_space_runs_out_anchoring_says_so(anchoring: Initiator, monkeypatch: pytest.MonkeyPatch) -> None:
    """DATA PROTECT, SPACE ALLOCATION FAILED WRITE PROTECT (SBC-3 4.7.3.6)."""

    def full(*_: object) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("iscsi_target.scsi.stores.file.reserve_zeros", full)
    assert _unmap(anchoring, (0, 8), anchor=True).sense == (7, 0x27, 0x07)


def test_more_descriptors_than_the_limit_are_refused() -> None:
    host = rig().initiator()
    assert _unmap(host, *[(index, 1) for index in range(256)]).status == 0
    assert _unmap(host, *[(index, 1) for index in range(257)]).sense == (5, 0x26, 0x00)


def test_one_unmap_is_bounded_as_a_whole() -> None:
    host = rig(store=MemoryStore(4 << 40)).initiator()
    assert _unmap(host, (0, 0xFFFFFFFF)).status == 0
    assert _unmap(host, (0, 0xFFFFFFFF), (0, 1)).sense == (5, 0x26, 0x00)


def test_one_get_lba_status_looks_only_so_far() -> None:
    host = rig(store=MemoryStore(4 << 40)).initiator()
    assert _status(host, 8) == [(8, (64 << 30) // BLOCK, 1)]


def _same_16(host: Initiator, flags: int, lba: int, blocks: int, data: bytes = b"") -> Answer:
    return host.send(struct.pack(">BBQIBB", 0x93, flags, lba, blocks, 0, 0), data, expected_length=len(data))


UNMAP, ANCHOR, NDOB = 0x08, 0x10, 0x01


def test_write_same_repeats_its_block() -> None:
    host = rig().initiator()
    pattern = bytes(range(256)) * 2
    assert host.send("41 00 00 00 00 04 00 00 03 00", pattern).status == 0
    assert _read(host, 3, 5) == bytes(512) + pattern * 3 + bytes(512)
    assert _same_16(host, 0, 10, 100, pattern).status == 0
    assert _read(host, 10, 100) == pattern * 100


def test_write_same_with_ndob_writes_zeros_and_takes_no_data() -> None:
    host = rig().initiator()
    _write(host, 0, 32)
    answer = _same_16(host, NDOB, 1, 2)
    assert (answer.status, answer.asked_bytes) == (0, 0)
    assert _read(host, 0, 4) == b"m" * 512 + bytes(1024) + b"m" * 512
    assert _status(host, 0)[0] == (0, 32, 0)


def test_write_same_with_unmap_unmaps() -> None:
    host = rig().initiator()
    _write(host, 0, 32)
    assert _same_16(host, UNMAP, 8, 8, bytes(512)).status == 0
    assert _same_16(host, UNMAP | NDOB, 16, 8).status == 0
    assert _same_16(host, UNMAP, 24, 8).status == 0  # no data at all, as some initiators send it
    assert _status(host, 0)[:2] == [(0, 8, 0), (8, BLOCKS - 8, 1)]


@pytest.mark.parametrize(("strict", "expected"), [(False, bytes(512)), (True, b"p" * 512)])
def test_write_same_with_unmap_of_a_block_that_is_not_zeros_follows_the_setting(
    strict: bool, expected: bytes
) -> None:
    host = rig(LogicalUnitConfig(strict_write_same=strict)).initiator()
    _write(host, 0, 8)
    assert _same_16(host, UNMAP, 0, 8, b"p" * 512).status == 0
    assert _read(host, 0, 8) == expected * 8


def test_write_same_of_0_blocks_reaches_to_the_end() -> None:
    host = rig().initiator()
    assert _same_16(host, 0, BLOCKS - 3, 0, b"e" * 512).status == 0
    assert _read(host, BLOCKS - 4, 4) == bytes(512) + b"e" * 1536


@pytest.mark.parametrize("flags", [ANCHOR, UNMAP | ANCHOR, 0x20])
def test_write_same_refuses_anchors_and_protection(flags: int) -> None:
    assert _same_16(rig().initiator(), flags, 0, 1, b"p" * 512).sense == (5, 0x24, 0x00)


@pytest.mark.parametrize("size", [256, 511, 1024])
def test_write_same_takes_exactly_one_block(size: int) -> None:
    host = rig().initiator()
    assert _same_16(host, 0, 0, 4, b"p" * size).sense == (5, 0x24, 0x00)
    assert _read(host, 0, 4) == bytes(2048)


def test_write_same_is_limited_and_bounded() -> None:
    host = rig(store=NullStore(1 << 30)).initiator()
    assert _same_16(host, 0, 0, 32768, b"p" * 512).status == 0
    assert _same_16(host, 0, 0, 32769, b"p" * 512).sense == (5, 0x24, 0x00)
    assert _same_16(host, 0, 0, 0, b"p" * 512).sense == (5, 0x24, 0x00)
    assert _same_16(host, 0, 1 << 63, 1, b"p" * 512).sense == (5, 0x21, 0x00)
    assert _same_16(host, UNMAP, 0, 1, b"p" * 512).sense == (5, 0x24, 0x00)  # not thin


@pytest.mark.parametrize("cdb", ["42 00 00 00 00 00 00 00 18 00", "41 08 00 00 00 00 00 00 01 00"])
def test_a_write_protected_unit_is_not_unmapped(cdb: str) -> None:
    answer = rig(LogicalUnitConfig(read_only=True)).initiator().send(cdb, bytes(512))
    assert (answer.sense, answer.asked_bytes) == ((7, 0x27, 0x00), 0)
