# SPDX-License-Identifier: Apache-2.0
"""CDB layouts: bytes written down from SPC-4 and SBC-3, and the derived codecs against construct."""

from __future__ import annotations

import construct as c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iscsi_target.scsi import atomic, capacity, inquiry, mode, provisioning, read_write, verify
from iscsi_target.scsi.layout import CdbLayout, bits, fast_struct, opcode
from iscsi_target.scsi.opcode_table import OPERATIONS

# Each row: bytes as the standard's CDB table places the fields, the layout, and what they say.
VECTORS = [
    ("08 1f ff ff 01 00", read_write.READ_6, {"lba": 0x1FFFFF, "blocks": 1}),
    (
        "28 18 01 02 03 04 00 00 08 00",
        read_write.READ_10,
        {"lba": 0x01020304, "blocks": 8, "dpo": 1, "fua": 1},
    ),
    ("2a e0 00 00 00 10 1f ff ff 00", read_write.WRITE_10, {"lba": 16, "blocks": 0xFFFF, "protect": 7}),
    ("a8 00 00 00 00 01 00 01 00 00 00 00", read_write.READ_12, {"lba": 1, "blocks": 0x10000}),
    (
        "8a 08 00 00 00 01 00 00 00 00 00 00 02 00 00 00",
        read_write.WRITE_16,
        {"lba": 1 << 32, "blocks": 512, "fua": 1},
    ),
    (
        "91 02 00 00 00 00 00 00 00 05 00 00 00 06 00 00",
        read_write.SYNCHRONIZE_CACHE_16,
        {"lba": 5, "blocks": 6},
    ),
    ("12 01 83 01 04 00", inquiry.LAYOUT, {"evpd": 1, "page_code": 0x83, "allocation_length": 260}),
    (
        "5a 18 bf ff 00 00 00 01 00 00",
        mode.SENSE_10,
        {"dbd": 1, "llbaa": 1, "page_control": 2, "page_code": 0x3F},
    ),
    ("15 11 00 00 18 00", mode.SELECT_6, {"page_format": 1, "save_pages": 1, "parameter_list_length": 24}),
    ("9e 10 00 00 00 00 00 00 00 00 00 00 00 20 00 00", capacity.LAYOUT_16, {"allocation_length": 32}),
    ("2f 06 00 00 00 07 00 00 02 00", verify.VERIFY_10, {"bytchk": 3, "lba": 7, "blocks": 2}),
    (
        "89 08 00 00 00 00 00 00 00 09 00 00 00 04 00 00",
        atomic.COMPARE_AND_WRITE,
        {"lba": 9, "blocks": 4, "fua": 1},
    ),
    ("9c 00 00 00 00 00 00 00 00 03 00 00 00 10 00 00", atomic.WRITE_ATOMIC, {"lba": 3, "blocks": 16}),
    (
        "41 18 00 00 00 02 00 00 03 00",
        provisioning.WRITE_SAME_10,
        {"anchor": 1, "unmap": 1, "lba": 2, "blocks": 3},
    ),
    (
        "93 09 00 00 00 00 00 00 00 02 00 00 00 03 00 00",
        provisioning.WRITE_SAME_16,
        {"unmap": 1, "ndob": 1, "lba": 2},
    ),
    ("42 01 00 00 00 00 00 00 18 00", provisioning.UNMAP, {"anchor": 1, "parameter_list_length": 24}),
]


@pytest.mark.parametrize(("cdb", "layout", "expected"), VECTORS)
def test_a_cdb_of_the_standard_is_taken_apart(
    cdb: str, layout: CdbLayout[tuple[int, ...]], expected: dict[str, int]
) -> None:
    parsed = layout.parse(bytes.fromhex(cdb))
    assert {name: getattr(parsed, name) for name in expected} == expected
    assert layout.length == len(bytes.fromhex(cdb))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
@given(raw=st.binary(min_size=16, max_size=16))
def test_the_derived_parser_agrees_with_construct_on_every_command(operation, raw: bytes) -> None:  # type: ignore[no-untyped-def]
    layout = operation.layout
    head = bytearray(raw[: layout.length])
    head[0] = layout.opcode
    if layout.service_action is not None:
        head[1] = head[1] & 0xE0 | layout.service_action
    by_construct = layout.construct.parse(bytes(head))
    parsed = layout.parse(bytes(head))
    for name in parsed._fields:
        assert getattr(parsed, name) == by_construct.get(name, 0)


@given(raw=st.binary(min_size=16, max_size=16))
def test_the_derived_struct_of_the_hot_path_agrees_with_construct(raw: bytes) -> None:
    for layout in (read_write.READ_10, read_write.WRITE_10, read_write.READ_16, read_write.WRITE_16):
        fast = fast_struct(layout)
        unpacked = fast.unpack.unpack(raw[: layout.length])
        by_construct = layout.construct.parse(bytes((layout.opcode or 0,)) + raw[1 : layout.length])
        for name, (index, shift, mask) in fast.where.items():
            if name != "opcode":
                assert unpacked[index] >> shift & mask == by_construct[name]


def test_usage_data_marks_every_bit_that_is_evaluated() -> None:
    # READ (10): RDPROTECT, DPO, FUA, LBA, TRANSFER LENGTH, NACA; group number is ignored.
    assert read_write.READ_10.usage == bytes.fromhex("28 f8 ff ff ff ff 00 ff ff 04")
    # READ CAPACITY (16): the service action is given as it is.
    assert capacity.LAYOUT_16.usage[:2] == bytes.fromhex("9e 10")


def test_a_layout_that_the_deriver_does_not_know_is_refused_when_it_is_declared() -> None:
    with pytest.raises(TypeError, match="no fast codec"):
        CdbLayout(read_write.Transfer, opcode(0x28), "lba" / c.Bytewise(c.Int32ub), bits("blocks", 8))


def test_a_layout_that_is_not_whole_bytes_is_refused() -> None:
    with pytest.raises(TypeError, match="not whole bytes"):
        CdbLayout(read_write.Transfer, opcode(0x28), bits("lba", 21), bits("blocks", 8))


def test_a_layout_with_a_name_nobody_reads_is_refused() -> None:
    with pytest.raises(TypeError, match="unknown"):
        CdbLayout(read_write.Transfer, opcode(0x28), bits("lba", 32), bits("blocks", 8), bits("blcoks", 8))
