# SPDX-License-Identifier: Apache-2.0
"""Fibre Channel over Ethernet: the encapsulation of one frame (FC-BB-5, FCoE PDU)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from construct import BitsInteger, BitStruct, Int8ub, Padding, Struct

from fcsim.errors import MalformedFrame
from fcsim.wire.derive import Buffer, derive
from fcsim.wire.frame import CRC_BYTES, HEADER_BYTES, DelimitedFrame, decode_content, encode_content
from fcsim.wire.layout import Coded
from fcsim.wire.ordered_sets import EOF, SOF

__all__ = [
    "FCOE_ETHERTYPE",
    "FCOE_HEADER_BYTES",
    "FCOE_TRAILER_BYTES",
    "FcoeHeader",
    "FcoeTrailer",
    "decode_fcoe",
    "encode_fcoe",
]

FCOE_ETHERTYPE = 0x8906
FCOE_HEADER_BYTES = 14
FCOE_TRAILER_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class FcoeHeader:
    """What stands before the frame, 14 bytes (FC-BB-5)."""

    LAYOUT: ClassVar[Struct] = Struct(
        "first" / BitStruct("version" / BitsInteger(4), Padding(4)), Padding(12), "sof" / Coded(Int8ub, SOF)
    )
    version: int = 0
    sof: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FcoeTrailer:
    """What stands after the CRC, 4 bytes (FC-BB-5)."""

    LAYOUT: ClassVar[Struct] = Struct("eof" / Coded(Int8ub, EOF), Padding(3))
    eof: int


def encode_fcoe(delimited: DelimitedFrame) -> bytes:
    """The payload of an Ethernet frame of type 8906h. Raises ValueError when a field does not fit."""
    return b"".join(
        (
            derive(FcoeHeader).encode(FcoeHeader(sof=delimited.sof)),
            encode_content(delimited.frame, delimited.crc),
            derive(FcoeTrailer).encode(FcoeTrailer(eof=delimited.eof)),
        )
    )


def decode_fcoe(payload: Buffer) -> DelimitedFrame:
    """Decode the payload of an Ethernet frame of type 8906h. Raises :class:`~fcsim.errors.MalformedFrame`."""
    smallest = FCOE_HEADER_BYTES + HEADER_BYTES + CRC_BYTES + FCOE_TRAILER_BYTES
    if len(payload) < smallest:
        raise MalformedFrame(f"{len(payload)} bytes are no FCoE frame, which has {smallest} at least")
    header, start = derive(FcoeHeader).decode_prefix(payload)
    if header.version != 0:
        raise MalformedFrame(f"FCoE version {header.version} is not known")
    trailer = derive(FcoeTrailer).decode(payload, len(payload) - FCOE_TRAILER_BYTES)
    frame, crc, good = decode_content(payload[start : len(payload) - FCOE_TRAILER_BYTES])
    return DelimitedFrame(sof=header.sof, frame=frame, crc=crc, eof=trailer.eof, crc_ok=good)
