# SPDX-License-Identifier: Apache-2.0
"""EXTENDED COPY and RECEIVE COPY RESULTS."""

from __future__ import annotations

import struct

import pytest

from iscsi_target.scsi.logical_unit import LogicalUnit, LogicalUnitConfig
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.target_device import LunMap
from tests.iscsi_target.scsi_rig import BLOCK, Answer, Initiator, Rig, rig

BLOCKS = 2048
ALICE = "iqn.2026-11.org.example:alice"
PARAMETERS = "84 03 00 00 00 00 00 00 00 00 00 00 00 ff 00 00"
UNREACHABLE, ABORTED = (0xA, 0x0D, 0x02), (0xA, 0x00, 0x00)


def _cscd(unit: LogicalUnit, *, kind: int = 0xE4) -> bytes:
    """Identification descriptor CSCD descriptor with the unit's NAA (SPC-4 table 104)."""
    designator = bytes((1, 3, 0, 8)) + unit.identity.naa
    return struct.pack(">BBxx24sx3s", kind, 0, designator, unit.block_length.to_bytes(3, "big"))


def _segment(
    source: int, destination: int, blocks: int, source_lba: int, destination_lba: int, *, kind: int = 0x02
) -> bytes:
    """Block to block segment descriptor (SPC-4 table 118)."""
    return struct.pack(">BBHHHxxHQQ", kind, 0, 24, source, destination, blocks, source_lba, destination_lba)


def _copy(
    host: Initiator,
    cscds: list[bytes],
    segments: list[bytes],
    *,
    identifier: int = 1,
    usage: int = 0,
    cut: int | None = None,
) -> Answer:
    targets, listed = b"".join(cscds), b"".join(segments)
    data = struct.pack(">BBH4xII", identifier, usage << 3, len(targets), len(listed), 0) + targets + listed
    data = data[:cut]
    return host.send(struct.pack(">BB8xIxB", 0x83, 0, len(data), 0), data)


def _two_units() -> tuple[Rig, Initiator]:
    lab = rig(stores={0: MemoryStore(1 << 20), 1: MemoryStore(1 << 20)})
    for lun in (0, 1):
        lab.unit(lun).store.write(0, bytes((lun + 1,)) * (1 << 20))
    return lab, lab.initiator()


def _block(lab: Rig, lun: int, lba: int) -> bytes:
    return bytes(lab.unit(lun).store.read(lba * BLOCK, BLOCK)[0])


def test_blocks_are_copied_from_one_unit_to_another() -> None:
    lab, host = _two_units()
    cscds = [_cscd(lab.unit(0)), _cscd(lab.unit(1))]
    assert _copy(host, cscds, [_segment(0, 1, 2, 10, 20), _segment(1, 0, 1, 0, 0)]).status == 0
    assert [_block(lab, 1, lba)[0] for lba in (19, 20, 21, 22)] == [2, 1, 1, 2]
    assert _block(lab, 0, 0) == b"\x02" * BLOCK


@pytest.mark.parametrize(("source", "destination"), [(0, 1), (1, 0)])
def test_overlapping_ranges_of_one_unit_are_copied_whole(source: int, destination: int) -> None:
    lab = rig(store=MemoryStore(8 << 20))
    original = bytes(range(256)) * ((8 << 20) // 256)
    lab.unit().store.write(0, original)
    shifted = b"".join(index.to_bytes(4, "big") * 128 for index in range(8192))
    lab.unit().store.write(0, shifted[: 4 << 20])
    assert (
        _copy(lab.initiator(), [_cscd(lab.unit())], [_segment(0, 0, 6000, source, destination)]).status == 0
    )
    copied = bytes(lab.unit().store.read(destination * BLOCK, 6000 * BLOCK)[0])
    assert copied == shifted[source * BLOCK : (source + 6000) * BLOCK]


def test_only_units_that_the_initiator_may_see_are_reached() -> None:
    lab = rig(
        stores={0: MemoryStore(1 << 20), 1: MemoryStore(1 << 20)},
        lun_maps={ALICE: LunMap({0: 0})},
        masked=True,
    )
    lab.unit(1).store.write(0, b"secret" * 64)
    alice = lab.initiator(ALICE)
    answer = _copy(alice, [_cscd(lab.unit(1)), _cscd(lab.unit(0))], [_segment(0, 1, 1, 0, 0)])
    assert answer.sense == UNREACHABLE
    assert _block(lab, 0, 0) == bytes(BLOCK)


def test_reservations_and_write_protection_of_the_others_are_respected() -> None:
    lab, host = _two_units()
    other = lab.initiator()
    other.send("16 00 00 00 00 00", lun=1)
    cscds = [_cscd(lab.unit(0)), _cscd(lab.unit(1))]
    assert _copy(host, cscds, [_segment(0, 1, 1, 0, 0)]).status == 0x18
    other.send("17 00 00 00 00 00", lun=1)
    lab.unit(1).read_only = True
    assert _copy(host, cscds, [_segment(0, 1, 1, 0, 0)]).sense == (0xA, 0x0D, 0x01)
    assert _copy(host, cscds, [_segment(1, 0, 1, 0, 0)]).status == 0
    assert _block(lab, 1, 0) == b"\x02" * BLOCK


@pytest.mark.parametrize(
    ("segment", "sense"),
    [
        (_segment(0, 2, 1, 0, 0), UNREACHABLE),  # no such CSCD descriptor
        (_segment(0, 1, 2, BLOCKS - 1, 0), ABORTED),
        (_segment(0, 1, 2, 0, BLOCKS - 1), ABORTED),
        (_segment(0, 1, 1, 1 << 63, 0), ABORTED),
    ],
)
def test_a_segment_that_cannot_be_copied_ends_the_copy(segment: bytes, sense: tuple[int, int, int]) -> None:
    lab, host = _two_units()
    cscds = [_cscd(lab.unit(0)), _cscd(lab.unit(1))]
    assert _copy(host, cscds, [_segment(0, 1, 1, 0, 0), segment, _segment(0, 1, 1, 0, 5)]).sense == sense
    assert _block(lab, 1, 0) == b"\x01" * BLOCK  # what came before it is copied
    assert _block(lab, 1, 5) == b"\x02" * BLOCK
    status = host.send("84 00 01 00 00 00 00 00 00 00 00 00 00 ff 00 00").data
    assert (status[4] & 0x7F, int.from_bytes(status[5:7], "big")) == (2, 1)


def test_lists_over_the_limits_and_unknown_descriptors_are_refused() -> None:
    lab, host = _two_units()
    cscd, segment = _cscd(lab.unit(0)), _segment(0, 0, 1, 0, 1)
    assert _copy(host, [cscd] * 9, [segment]).sense == (5, 0x26, 0x06)
    assert _copy(host, [cscd], [segment] * 9).sense == (5, 0x26, 0x08)
    assert _copy(host, [cscd] * 9, [segment] * 9).sense == (5, 0x1A, 0x00)
    assert _copy(host, [_cscd(lab.unit(0), kind=0xE0)], [segment]).sense == (5, 0x26, 0x07)
    assert _copy(host, [cscd], [_segment(0, 0, 1, 0, 1, kind=0x03)]).sense == (5, 0x26, 0x09)
    assert _copy(host, [], [segment]).sense == UNREACHABLE


@pytest.mark.parametrize("cut", [1, 15, 16, 47, 48, 75])
def test_a_list_that_was_cut_is_refused(cut: int) -> None:
    lab, host = _two_units()
    answer = _copy(host, [_cscd(lab.unit(0))], [_segment(0, 0, 1, 0, 1)], cut=cut)
    assert answer.sense == (5, 0x1A, 0x00)


def test_an_empty_parameter_list_is_no_error() -> None:
    assert rig().initiator().send("83" + "00" * 15).status == 0


def test_results_are_kept_by_nexus_and_list_identifier() -> None:
    lab, host = _two_units()
    other = lab.initiator()
    cscds, segments = [_cscd(lab.unit(0))], [_segment(0, 0, 4, 0, 100)]
    ask = "84 00 07 00 00 00 00 00 00 00 00 00 00 ff 00 00"
    assert host.send(ask).sense == (5, 0x24, 0x00)
    assert _copy(host, cscds, segments, identifier=7).status == 0
    assert host.send(ask).data == bytes.fromhex("00000008 01 0001 01 00000002")  # completed, 1 segment, 2 KiB
    assert other.send(ask).sense == (5, 0x24, 0x00)
    assert _copy(host, cscds, segments, identifier=8, usage=3).status == 0
    assert host.send("84 00 08 00 00 00 00 00 00 00 00 00 00 ff 00 00").sense == (5, 0x24, 0x00)
    host.log_out()
    assert lab.unit(0).copies.segments == {}


def test_operating_parameters_are_the_limits_that_are_enforced() -> None:
    data = rig().initiator().send(PARAMETERS).data
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    assert data[8:16] == bytes.fromhex("0008 0008 000001e0")
    assert data[43:] == bytes.fromhex("02 02 e4")


def test_units_of_different_block_lengths_are_copied_by_bytes() -> None:
    lab = rig(LogicalUnitConfig(block_length=4096), stores={0: MemoryStore(1 << 20), 1: MemoryStore(1 << 20)})
    lab.unit(0).store.write(0, b"k" * 4096)
    cscds = [_cscd(lab.unit(0)), _cscd(lab.unit(1))]
    assert _copy(lab.initiator(), cscds, [_segment(0, 1, 1, 0, 3)]).status == 0
    assert bytes(lab.unit(1).store.read(3 * 4096, 4096)[0]) == b"k" * 4096
