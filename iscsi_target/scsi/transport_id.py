# SPDX-License-Identifier: Apache-2.0
"""iSCSI TransportIDs (SPC-4 7.6.4.6): how an initiator port is named in parameter data."""

from __future__ import annotations

import construct as c

from iscsi_target.scsi.errors import invalid_field_in_parameter_list

TRANSPORT_ID = c.Struct(
    "header"
    / c.BitStruct(
        "tpid_format" / c.BitsInteger(2), c.Padding(2), "protocol_identifier" / c.Const(5, c.BitsInteger(4))
    ),
    c.Padding(1),
    "name" / c.Prefixed(c.Int16ub, c.GreedyBytes),
)
"""Format 00b names an initiator device, 01b an initiator port with ",i,0x" and its ISID."""

MAX_NAME_BYTES = 228 + 20
"""An iSCSI name has at most 223 bytes, the separator and ISID 17, the terminator and padding 4."""

_SEPARATOR = ",i,0x"


def build(initiator_port: str) -> bytes:
    """The TransportID of an initiator port."""
    encoded = initiator_port.encode() + b"\0"
    encoded += bytes(-len(encoded) % 4)
    built: bytes = TRANSPORT_ID.build(
        {"header": {"tpid_format": 1 if _SEPARATOR in initiator_port else 0}, "name": encoded}
    )
    return built


def parse(data: bytes, at: int) -> tuple[str, bool, int]:
    """Read the TransportID at byte `at` of a parameter list: (name, whether it names one port, its length in bytes).

    Raises INVALID FIELD IN PARAMETER LIST for another protocol, format, or a name that is not one.
    """
    try:
        parsed = TRANSPORT_ID.parse(data[at:])
    except c.ConstructError:
        raise invalid_field_in_parameter_list(at) from None
    raw: bytes = parsed.name
    if parsed.header.tpid_format > 1 or not 20 <= len(raw) <= MAX_NAME_BYTES or len(raw) % 4 or raw[-1]:
        raise invalid_field_in_parameter_list(at)
    try:
        name = raw.rstrip(b"\0").decode("utf-8")
    except UnicodeDecodeError:
        raise invalid_field_in_parameter_list(at + 4) from None
    names_port = parsed.header.tpid_format == 1
    if not name or names_port is not (_SEPARATOR in name):
        raise invalid_field_in_parameter_list(at + 4)
    return name, names_port, 4 + len(raw)
