# SPDX-License-Identifier: Apache-2.0
"""Additional header segments (RFC 7143 section 11.2.2): extended CDB and bidirectional read length."""

from __future__ import annotations

from dataclasses import dataclass

from construct import Bytes, Int8ub, Int16ub, Int32ub, Padding, Struct, this

from iscsi_target.errors import ProtocolError
from iscsi_target.wire.opcodes import RejectReason

EXTENDED_CDB = 1
BIDIRECTIONAL_READ_LENGTH = 2
CDB_LIMIT_BYTES = 260
"""The longest CDB of SPC-4 (variable length, 4.2.3)."""

SEGMENT = Struct(
    "ahs_length" / Int16ub,
    "ahs_type" / Int8ub,
    "specific" / Bytes(this.ahs_length),
    Padding((-3 - this.ahs_length) % 4),
)
"""One segment: `ahs_length` counts the bytes after AHSType, without padding (section 11.2.2.2)."""

BIDIRECTIONAL = Struct(Padding(1), "expected_data_transfer_length" / Int32ub)


@dataclass(frozen=True, slots=True)
class AdditionalHeaders:
    """What the segments of one SCSI Command PDU said."""

    cdb_continuation: bytes = b""
    bidirectional_read_length: int | None = None


def decode_ahs(data: bytes) -> AdditionalHeaders:
    """Decode all segments of a PDU. Unknown types are ignored. Raises :class:`ProtocolError`."""
    continuation, read_length = b"", None
    offset = 0
    while offset < len(data):
        if len(data) - offset < 4:
            raise ProtocolError("an additional header segment is cut short", RejectReason.INVALID_PDU_FIELD)
        length, kind = int.from_bytes(data[offset : offset + 2], "big"), data[offset + 2]
        end = offset + 3 + length
        if length < 1 or end > len(data):
            raise ProtocolError(
                "an additional header segment has a wrong length", RejectReason.INVALID_PDU_FIELD
            )
        if kind == EXTENDED_CDB:
            continuation = data[offset + 4 : end]
            if len(continuation) > CDB_LIMIT_BYTES - 16:
                raise ProtocolError("the extended CDB is too long", RejectReason.INVALID_PDU_FIELD)
        elif kind == BIDIRECTIONAL_READ_LENGTH:
            if length != 5:
                raise ProtocolError(
                    "bidirectional read AHS has to be 5 bytes", RejectReason.INVALID_PDU_FIELD
                )
            read_length = int.from_bytes(data[offset + 4 : end], "big")
        offset = end + (-end + offset) % 4
    return AdditionalHeaders(continuation, read_length)


def encode_ahs(headers: AdditionalHeaders) -> bytes:
    """Encode the segments of a SCSI Command, padded to four bytes."""
    segments = b""
    if headers.cdb_continuation:
        body = b"\0" + headers.cdb_continuation
        segments += SEGMENT.build({"ahs_length": len(body), "ahs_type": EXTENDED_CDB, "specific": body})
    if headers.bidirectional_read_length is not None:
        body = BIDIRECTIONAL.build({"expected_data_transfer_length": headers.bidirectional_read_length})
        segments += SEGMENT.build({"ahs_length": 5, "ahs_type": BIDIRECTIONAL_READ_LENGTH, "specific": body})
    return segments
