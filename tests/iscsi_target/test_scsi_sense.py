# SPDX-License-Identifier: Apache-2.0
"""Sense data, byte by byte from SPC-4 4.5."""

from __future__ import annotations

import pytest

from iscsi_target.scsi.sense import Condition, FieldPointer, SenseData

VECTORS = [
    # response code 70h, key 5h at byte 2, additional length 0Ah at byte 7, ASC/ASCQ at 12 and 13
    (
        SenseData(Condition.INVALID_COMMAND_OPERATION_CODE),
        "70 00 05 00 00 00 00 0a 00 00 00 00 20 00 00 00 00 00",
    ),
    # VALID at bit 7 of byte 0, INFORMATION at bytes 3 to 6
    (
        SenseData(Condition.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE, information=0x01020304),
        "f0 00 05 01 02 03 04 0a 00 00 00 00 21 00 00 00 00 00",
    ),
    # SKSV, C/D, BPV and BIT POINTER at byte 15, FIELD POINTER at 16 and 17
    (
        SenseData(Condition.INVALID_FIELD_IN_CDB, field_pointer=FieldPointer(1, 7)),
        "70 00 05 00 00 00 00 0a 00 00 00 00 24 00 00 cf 00 01",
    ),
    (
        SenseData(
            Condition.INVALID_FIELD_IN_PARAMETER_LIST, field_pointer=FieldPointer(0x0104, in_cdb=False)
        ),
        "70 00 05 00 00 00 00 0a 00 00 00 00 26 00 00 80 01 04",
    ),
    # progress indication: SKSV and 16 bits
    (
        SenseData(Condition.NOT_READY_SANITIZE_IN_PROGRESS, progress=0x8000),
        "70 00 02 00 00 00 00 0a 00 00 00 00 04 1b 00 80 80 00",
    ),
]


@pytest.mark.parametrize(("sense", "expected"), VECTORS)
def test_fixed_format_is_that_of_the_standard(sense: SenseData, expected: str) -> None:
    assert sense.fixed() == bytes.fromhex(expected)


def test_information_over_32_bits_is_left_out_of_the_fixed_format() -> None:
    sense = SenseData(Condition.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE, information=1 << 32)
    assert sense.fixed()[0] == 0x70
    assert sense.fixed()[3:7] == bytes(4)


def test_descriptor_format_carries_information_and_field_pointer() -> None:
    plain = SenseData(Condition.RESERVATIONS_PREEMPTED)
    assert plain.descriptor() == bytes.fromhex("72 06 2a 03 00 00 00 00")
    located = SenseData(Condition.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE, information=0x1122334455667788)
    assert located.descriptor() == bytes.fromhex(
        "72 05 21 00 00 00 00 0c  00 0a 80 00 11 22 33 44 55 66 77 88"
    )
    pointing = SenseData(Condition.INVALID_FIELD_IN_CDB, field_pointer=FieldPointer(2, 5))
    assert pointing.descriptor() == bytes.fromhex("72 05 24 00 00 00 00 08  02 06 00 00 cd 00 02 00")


def test_no_two_conditions_have_the_same_code() -> None:
    codes = [condition.value for condition in Condition]
    assert len(codes) == len(set(codes))
