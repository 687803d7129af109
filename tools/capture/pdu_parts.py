"""Where the parts of a captured iSCSI PDU lie (RFC 7143 section 11.1): header, additional headers, digest, data."""

from __future__ import annotations

from typing import NamedTuple

from iscsi_target.wire.digest import DIGEST_BYTES
from iscsi_target.wire.opcodes import BHS_BYTES
from tools.capture.rows import Note


class PduParts(NamedTuple):
    """In bytes: ``head`` is the length of the header segments, ``data`` where the data segment begins, behind the
    header digest where there is one, ``length`` that of the data without padding."""

    head: int
    data: int
    length: int


def parts_of(header: bytes, notes: int) -> PduParts:
    """The parts of the PDU that begins with ``header`` (48 bytes at least) in a row with these notes."""
    head = BHS_BYTES + 4 * header[4]
    digest = DIGEST_BYTES if notes & Note.HEADER_DIGEST else 0
    return PduParts(head, head + digest, int.from_bytes(header[5:8], "big"))
