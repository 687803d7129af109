# SPDX-License-Identifier: Apache-2.0
"""Building blocks of the construct descriptions: the parts every PDU shares (RFC 7143 section 11.2)."""

from __future__ import annotations

from construct import (
    BitsInteger,
    BitStruct,
    Bytes,
    Const,
    Construct,
    Flag,
    Int8ub,
    Int24ub,
    Padding,
    Rebuild,
    Struct,
    this,
)

from iscsi_target.wire.opcodes import Opcode

TAIL = ("ahs", "data")
"""Names of the variable parts after the basic header segment."""


def request(opcode: Opcode, flags: Construct, *fields: Construct) -> Struct:
    """Describe a PDU from the initiator: its first byte carries the I (immediate) bit."""
    first = BitStruct(Padding(1), "immediate" / Flag, Const(int(opcode), BitsInteger(6)))
    return _pdu(first, flags, fields)


def response(opcode: Opcode, flags: Construct, *fields: Construct) -> Struct:
    """Describe a PDU from the target: the I bit is reserved."""
    return _pdu(BitStruct(Padding(2), Const(int(opcode), BitsInteger(6))), flags, fields)


def _pdu(first: Construct, flags: Construct, fields: tuple[Construct, ...]) -> Struct:
    """Header, the two lengths, the opcode-specific bytes 8-47, additional headers, data and its padding.

    `fields` begins with the two opcode-specific bytes 2 and 3.
    """
    byte_2_and_3, rest, size = [], list(fields), 0
    while size < 2:
        size += rest[0].sizeof()
        byte_2_and_3.append(rest.pop(0))
    layout = Struct(
        "byte_0" / first,
        "flags" / flags,
        *byte_2_and_3,
        "total_ahs_length" / Rebuild(Int8ub, lambda context: len(context.ahs) // 4),
        "data_segment_length" / Rebuild(Int24ub, lambda context: len(context.data)),
        *rest,
        "ahs" / Bytes(this.total_ahs_length * 4),
        "data" / Bytes(this.data_segment_length),
        Padding(-this.data_segment_length % 4),
    )
    header_bytes = sum(part.sizeof() for part in layout.subcons[:-3])
    if header_bytes != 48:
        raise ValueError(f"a basic header segment has 48 bytes, this description has {header_bytes}")
    return layout


def flags(*fields: Construct) -> Construct:
    """The eight bits of byte 1."""
    return BitStruct(*fields)
