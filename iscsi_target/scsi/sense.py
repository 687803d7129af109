# SPDX-License-Identifier: Apache-2.0
"""Sense data in fixed and descriptor format (SPC-4 4.5), and the conditions by name.

One description of each format, in construct; sense data is never on a hot path.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

import construct as c


class SenseKey(IntEnum):
    """SPC-4 table 53."""

    NO_SENSE = 0x0
    RECOVERED_ERROR = 0x1
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    BLANK_CHECK = 0x8
    COPY_ABORTED = 0xA
    ABORTED_COMMAND = 0xB
    VOLUME_OVERFLOW = 0xD
    MISCOMPARE = 0xE


class Condition(Enum):
    """The conditions this device server reports: sense key, ASC, ASCQ (SPC-4 table 54 and annex F)."""

    NO_ADDITIONAL_SENSE = (SenseKey.NO_SENSE, 0x00, 0x00)
    NOT_READY_SANITIZE_IN_PROGRESS = (SenseKey.NOT_READY, 0x04, 0x1B)
    NOT_READY_ASYMMETRIC_ACCESS_STATE_TRANSITION = (SenseKey.NOT_READY, 0x04, 0x0A)
    NOT_READY_STANDBY_STATE = (SenseKey.NOT_READY, 0x04, 0x0B)
    NOT_READY_UNAVAILABLE_STATE = (SenseKey.NOT_READY, 0x04, 0x0C)
    MEDIUM_NOT_PRESENT_TRAY_OPEN = (SenseKey.NOT_READY, 0x3A, 0x02)

    UNRECOVERED_READ_ERROR = (SenseKey.MEDIUM_ERROR, 0x11, 0x00)
    WRITE_ERROR = (SenseKey.MEDIUM_ERROR, 0x0C, 0x00)
    SANITIZE_COMMAND_FAILED = (SenseKey.MEDIUM_ERROR, 0x31, 0x03)

    PARAMETER_LIST_LENGTH_ERROR = (SenseKey.ILLEGAL_REQUEST, 0x1A, 0x00)
    INVALID_COMMAND_OPERATION_CODE = (SenseKey.ILLEGAL_REQUEST, 0x20, 0x00)
    LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE = (SenseKey.ILLEGAL_REQUEST, 0x21, 0x00)
    INVALID_FIELD_IN_CDB = (SenseKey.ILLEGAL_REQUEST, 0x24, 0x00)
    LOGICAL_UNIT_NOT_SUPPORTED = (SenseKey.ILLEGAL_REQUEST, 0x25, 0x00)
    INVALID_FIELD_IN_PARAMETER_LIST = (SenseKey.ILLEGAL_REQUEST, 0x26, 0x00)
    INVALID_RELEASE_OF_PERSISTENT_RESERVATION = (SenseKey.ILLEGAL_REQUEST, 0x26, 0x04)
    TOO_MANY_TARGET_DESCRIPTORS = (SenseKey.ILLEGAL_REQUEST, 0x26, 0x06)
    UNSUPPORTED_TARGET_DESCRIPTOR_TYPE_CODE = (SenseKey.ILLEGAL_REQUEST, 0x26, 0x07)
    TOO_MANY_SEGMENT_DESCRIPTORS = (SenseKey.ILLEGAL_REQUEST, 0x26, 0x08)
    UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE_CODE = (SenseKey.ILLEGAL_REQUEST, 0x26, 0x09)
    INLINE_DATA_LENGTH_EXCEEDED = (SenseKey.ILLEGAL_REQUEST, 0x26, 0x0B)
    SAVING_PARAMETERS_NOT_SUPPORTED = (SenseKey.ILLEGAL_REQUEST, 0x39, 0x00)
    MEDIUM_REMOVAL_PREVENTED = (SenseKey.ILLEGAL_REQUEST, 0x53, 0x02)
    INSUFFICIENT_REGISTRATION_RESOURCES = (SenseKey.ILLEGAL_REQUEST, 0x55, 0x04)

    NOT_READY_TO_READY_CHANGE = (SenseKey.UNIT_ATTENTION, 0x28, 0x00)
    POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED = (SenseKey.UNIT_ATTENTION, 0x29, 0x00)
    POWER_ON_OCCURRED = (SenseKey.UNIT_ATTENTION, 0x29, 0x01)
    BUS_DEVICE_RESET_FUNCTION_OCCURRED = (SenseKey.UNIT_ATTENTION, 0x29, 0x03)
    I_T_NEXUS_LOSS_OCCURRED = (SenseKey.UNIT_ATTENTION, 0x29, 0x07)
    MODE_PARAMETERS_CHANGED = (SenseKey.UNIT_ATTENTION, 0x2A, 0x01)
    RESERVATIONS_PREEMPTED = (SenseKey.UNIT_ATTENTION, 0x2A, 0x03)
    RESERVATIONS_RELEASED = (SenseKey.UNIT_ATTENTION, 0x2A, 0x04)
    REGISTRATIONS_PREEMPTED = (SenseKey.UNIT_ATTENTION, 0x2A, 0x05)
    ASYMMETRIC_ACCESS_STATE_CHANGED = (SenseKey.UNIT_ATTENTION, 0x2A, 0x06)
    COMMANDS_CLEARED_BY_ANOTHER_INITIATOR = (SenseKey.UNIT_ATTENTION, 0x2F, 0x00)
    REPORTED_LUNS_DATA_HAS_CHANGED = (SenseKey.UNIT_ATTENTION, 0x3F, 0x0E)

    WRITE_PROTECTED = (SenseKey.DATA_PROTECT, 0x27, 0x00)
    SOFTWARE_WRITE_PROTECTED = (SenseKey.DATA_PROTECT, 0x27, 0x02)
    SPACE_ALLOCATION_FAILED_WRITE_PROTECT = (SenseKey.DATA_PROTECT, 0x27, 0x07)

    COPY_ABORTED = (SenseKey.COPY_ABORTED, 0x00, 0x00)
    THIRD_PARTY_DEVICE_FAILURE = (SenseKey.COPY_ABORTED, 0x0D, 0x01)
    COPY_TARGET_DEVICE_NOT_REACHABLE = (SenseKey.COPY_ABORTED, 0x0D, 0x02)

    MISCOMPARE_DURING_VERIFY_OPERATION = (SenseKey.MISCOMPARE, 0x1D, 0x00)

    @property
    def key(self) -> SenseKey:
        """The sense key."""
        return self.value[0]

    @property
    def asc(self) -> int:
        """The additional sense code."""
        return self.value[1]

    @property
    def ascq(self) -> int:
        """The additional sense code qualifier."""
        return self.value[2]


@dataclass(frozen=True, slots=True)
class FieldPointer:
    """Which field of the CDB or of the parameter list is wrong (SPC-4 4.5.2.4.2)."""

    byte: int
    bit: int | None = None
    in_cdb: bool = True


SENSE_KEY_SPECIFIC = c.BitStruct(
    "sksv" / c.Flag,
    "command_data" / c.Flag,
    c.Padding(2),
    "bit_pointer_valid" / c.Flag,
    "bit_pointer" / c.BitsInteger(3),
    "field_pointer" / c.BitsInteger(16),
)
"""Field pointer sense key specific data, SPC-4 table 47; progress (table 49) has SKSV and the last 16 bits."""

FIXED_FORMAT = c.Struct(
    "header" / c.BitStruct("valid" / c.Flag, "response_code" / c.BitsInteger(7)),
    c.Padding(1),
    "flags"
    / c.BitStruct(
        "filemark" / c.Flag,
        "end_of_medium" / c.Flag,
        "incorrect_length" / c.Flag,
        c.Padding(1),
        "sense_key" / c.BitsInteger(4),
    ),
    "information" / c.Int32ub,
    "additional_sense_length" / c.Const(10, c.Int8ub),
    "command_specific_information" / c.Int32ub,
    "asc" / c.Int8ub,
    "ascq" / c.Int8ub,
    "field_replaceable_unit_code" / c.Const(0, c.Int8ub),
    "sense_key_specific" / SENSE_KEY_SPECIFIC,
)
"""SPC-4 table 53 (4.5.3), 18 bytes."""

INFORMATION_DESCRIPTOR = c.Struct(
    "descriptor_type" / c.Const(0x00, c.Int8ub),
    "additional_length" / c.Const(0x0A, c.Int8ub),
    "valid" / c.Const(0x80, c.Int8ub),
    c.Padding(1),
    "information" / c.Int64ub,
)
"""SPC-4 4.5.2.2."""

SENSE_KEY_SPECIFIC_DESCRIPTOR = c.Struct(
    "descriptor_type" / c.Const(0x02, c.Int8ub),
    "additional_length" / c.Const(0x06, c.Int8ub),
    c.Padding(2),
    "sense_key_specific" / SENSE_KEY_SPECIFIC,
    c.Padding(1),
)
"""SPC-4 4.5.2.4."""

DESCRIPTOR_FORMAT = c.Struct(
    "response_code" / c.Int8ub,
    "sense_key" / c.Int8ub,
    "asc" / c.Int8ub,
    "ascq" / c.Int8ub,
    c.Padding(3),
    "descriptors" / c.Prefixed(c.Int8ub, c.GreedyBytes),
)
"""SPC-4 table 39 (4.5.2)."""

_NO_SENSE_KEY_SPECIFIC = {
    "sksv": False,
    "command_data": False,
    "bit_pointer_valid": False,
    "bit_pointer": 0,
    "field_pointer": 0,
}


@dataclass(frozen=True, slots=True)
class SenseData:
    """One piece of sense data, independent of its format.

    `information` is an LBA, or an offset for MISCOMPARE; `progress` counts 0…65535 (SPC-4 4.5.2.4.4). At most one
    of `field_pointer` and `progress` is given: both live in the sense key specific field.
    """

    condition: Condition
    information: int | None = None
    field_pointer: FieldPointer | None = None
    progress: int | None = None

    def _sense_key_specific(self) -> dict[str, int | bool]:
        if self.field_pointer is not None:
            pointer = self.field_pointer
            return {
                "sksv": True,
                "command_data": pointer.in_cdb,
                "bit_pointer_valid": pointer.bit is not None,
                "bit_pointer": pointer.bit or 0,
                "field_pointer": min(pointer.byte, 0xFFFF),
            }
        if self.progress is not None:
            return {
                "sksv": True,
                "command_data": False,
                "bit_pointer_valid": False,
                "bit_pointer": 0,
                "field_pointer": self.progress,
            }
        return dict(_NO_SENSE_KEY_SPECIFIC)

    def fixed(self) -> bytes:
        """The 18 bytes of the fixed format. INFORMATION over 32 bits is left out with VALID=0 (SPC-4 4.5.3)."""
        fits = self.information is not None and self.information < 1 << 32
        built: bytes = FIXED_FORMAT.build(
            {
                "header": {"valid": fits, "response_code": 0x70},
                "flags": {
                    "filemark": False,
                    "end_of_medium": False,
                    "incorrect_length": False,
                    "sense_key": self.condition.key,
                },
                "information": self.information if fits else 0,
                "command_specific_information": 0,
                "asc": self.condition.asc,
                "ascq": self.condition.ascq,
                "sense_key_specific": self._sense_key_specific(),
            }
        )
        return built

    def descriptor(self) -> bytes:
        """The descriptor format, with an information and a sense key specific descriptor where there is one."""
        descriptors = b""
        if self.information is not None:
            descriptors += INFORMATION_DESCRIPTOR.build({"information": self.information})
        if self.field_pointer is not None or self.progress is not None:
            descriptors += SENSE_KEY_SPECIFIC_DESCRIPTOR.build(
                {"sense_key_specific": self._sense_key_specific()}
            )
        built: bytes = DESCRIPTOR_FORMAT.build(
            {
                "response_code": 0x72,
                "sense_key": self.condition.key,
                "asc": self.condition.asc,
                "ascq": self.condition.ascq,
                "descriptors": descriptors,
            }
        )
        return built

    def encode(self, *, descriptor_format: bool) -> bytes:
        """Fixed or descriptor format, as the D_SENSE bit of the control mode page says (SPC-4 7.5.8)."""
        return self.descriptor() if descriptor_format else self.fixed()
