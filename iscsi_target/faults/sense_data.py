# SPDX-License-Identifier: Apache-2.0
"""Sense data of any key and code, for answers that the device server itself would not give."""

from __future__ import annotations

from iscsi_target.scsi.sense import FIXED_FORMAT, SenseKey

_NO_SENSE_KEY_SPECIFIC = {
    "sksv": False,
    "command_data": False,
    "bit_pointer_valid": False,
    "bit_pointer": 0,
    "field_pointer": 0,
}


def fixed_sense_data(key: SenseKey, asc: int, ascq: int, information: int | None = None) -> bytes:
    """18 bytes of the fixed format (SPC-4 4.5.3); an INFORMATION of more than 32 bits is left out, with VALID = 0."""
    fits = information is not None and information < 1 << 32
    built: bytes = FIXED_FORMAT.build(
        {
            "header": {"valid": fits, "response_code": 0x70},
            "flags": {"filemark": False, "end_of_medium": False, "incorrect_length": False, "sense_key": key},
            "information": information if fits else 0,
            "command_specific_information": 0,
            "asc": asc,
            "ascq": ascq,
            "sense_key_specific": _NO_SENSE_KEY_SPECIFIC,
        }
    )
    return built
