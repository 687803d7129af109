"""The table of PDUs and frames: what a row holds and where, for the kernels that write it and for those who read it.

A row is 104 bytes: 48 about the PDU or frame, and the first 56 bytes of its header as they stood on the wire, so that
no field is lost and none is converted before somebody asks for it. iSCSI has its basic header segment there (48
bytes), Fibre Channel the frame header and the first 32 bytes of the payload behind its optional headers (which hold
all of an FCP_CMND), FIP its first 56 bytes, an ordered set its four.

The numbers about it are in the byte order of this machine, the header is as it came.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from array import array

ROW_BYTES = 104
ROW_WORDS = ROW_BYTES // 8
HEADER_AT = 48
"""Where in a row its header begins."""
HEADER_BYTES = ROW_BYTES - HEADER_AT
FC_PAYLOAD_AT = 24
"""Where in the header of a Fibre Channel row the payload begins."""
TABLE_ROWS = 8192
"""Rows of one part of a table."""
KEPT_LIMIT_BYTES = 64 * 1024
"""The longest PDU that is kept whole unless all are wanted."""
KEPT_TABLE_BYTES = 16 << 20
"""A part of a table ends when it keeps so much."""

_ROW = struct.Struct("=qqqIIIBBBBHBBI56s")
assert _ROW.size == ROW_BYTES


class RowKind(enum.IntEnum):
    """What a row is about."""

    ISCSI = 1
    FC = 2
    ORDERED_SET = 3
    FIP = 4


class Carrier(enum.IntEnum):
    """What carried a Fibre Channel frame."""

    NATIVE = 0
    FCOE = 1
    FCIP = 2


CARRIER_MASK = 0x0F


class Note(enum.IntFlag):
    """What is to be known about how a row was captured."""

    SPLIT = 0x01
    """It came in several packets."""
    CUT = 0x02
    """Not all of its bytes are in the file (a snap length, or lost by the capture)."""
    HEADER_DIGEST = 0x04
    DATA_DIGEST = 0x08
    AFTER_GAP = 0x10
    """The first after bytes that the capture lost, or after its start in mid-stream."""
    PAYLOAD_CUT = 0x20
    """A Fibre Channel row whose header bytes are not all captured; the missing ones are zero."""
    PEER_WAITS = 0x20
    """An iSCSI row that came while something of the other direction waited for what came before it: the capture may
    have lost that."""
    REPEATED = 0x40
    """It began in bytes that had been retransmitted."""


class Row(NamedTuple):
    """One row. Times are nanoseconds since 1970 UTC.

    ``time_ns`` is when its last byte passed, ``begin_ns`` its first. ``offset``: where its header stands in the file
    (in the decompressed bytes of a compressed one), -1 where it does not stand there in one piece. ``packet``: the
    number of the packet that completed it, from 1 on, over all files. ``flow``: number of the connection or pair of
    addresses, times 2; plus 1 for the direction back to the initiator (iSCSI) or to the first sender (FC).
    ``length_bytes``: on the wire, from header to digests, or from SOF to EOF. ``way``: 1 came in, 2 went out at the
    capturing interface, 0 not told. ``carrier``: :class:`Carrier` in its low four bits (:data:`CARRIER_MASK`), above
    them the length of a frame's extended headers in units of 8 bytes. ``kept``: 1 + index of the whole PDU or frame in
    ``kept`` of its part, 0: not kept.
    """

    time_ns: int
    begin_ns: int
    offset: int
    packet: int
    flow: int
    length_bytes: int
    kind: int
    sof: int
    eof: int
    notes: int
    interface: int
    way: int
    carrier: int
    kept: int
    header: bytes


@dataclass(slots=True)
class Part:
    """Consecutive rows of a table: ``words`` holds :data:`ROW_WORDS` numbers for each of ``count`` rows.

    ``kept`` are whole PDUs and frames that rows name: logins, texts, responses with sense data, ELS, whatever the scan
    was told to keep. ``first``: the number of its first row in the whole table.
    """

    words: array[int]
    count: int
    kept: list[bytes] = field(default_factory=list)
    first: int = 0

    def octets(self) -> memoryview:
        """The rows as bytes."""
        return memoryview(self.words).cast("B")[: self.count * ROW_BYTES]

    def row(self, number: int) -> Row:
        """The row of this number in this part. Raises :class:`IndexError`."""
        if not 0 <= number < self.count:
            raise IndexError(number)
        return Row._make(_ROW.unpack_from(self.words, number * ROW_BYTES))

    def rows(self) -> Iterator[Row]:
        """Every row."""
        return map(Row._make, _ROW.iter_unpack(self.octets()))

    def whole(self, row: Row) -> bytes | None:
        """The PDU or frame of a row as it was kept, or None."""
        return self.kept[row.kept - 1] if row.kept else None

    def columns(self) -> Any:
        """The rows as a structured numpy array (:func:`row_dtype`), which shares their memory."""
        import numpy as np

        return np.frombuffer(self.words, dtype=row_dtype(), count=self.count)


def row_dtype() -> Any:
    """The numpy type of a row: what is said about it, ``header`` as bytes, and ``bhs_*`` and ``fc_*`` fields of it.

    The fields of a header overlap: which of them mean anything follows from ``kind`` and the opcode or R_CTL.
    """
    import numpy as np

    named: list[tuple[str, str, int]] = [
        ("time_ns", "i8", 0),
        ("begin_ns", "i8", 8),
        ("offset", "i8", 16),
        ("packet", "u4", 24),
        ("flow", "u4", 28),
        ("length_bytes", "u4", 32),
        ("kind", "u1", 36),
        ("sof", "u1", 37),
        ("eof", "u1", 38),
        ("notes", "u1", 39),
        ("interface", "u2", 40),
        ("way", "u1", 42),
        ("carrier", "u1", 43),
        ("kept", "u4", 44),
        ("header", "V56", HEADER_AT),
        *((name, kind, HEADER_AT + at) for name, kind, at in (*BHS_COLUMNS, *FC_COLUMNS)),
    ]
    return np.dtype(
        {
            "names": [name for name, _, _ in named],
            "formats": [kind for _, kind, _ in named],
            "offsets": [at for _, _, at in named],
            "itemsize": ROW_BYTES,
        }
    )


BHS_COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("bhs_opcode", "u1", 0),
    ("bhs_flags", "u1", 1),
    ("bhs_byte2", "u1", 2),
    ("bhs_status", "u1", 3),
    ("bhs_lengths", ">u4", 4),
    ("bhs_lun", ">u8", 8),
    ("bhs_itt", ">u4", 16),
    ("bhs_word20", ">u4", 20),
    ("bhs_word24", ">u4", 24),
    ("bhs_word28", ">u4", 28),
    ("bhs_word32", ">u4", 32),
    ("bhs_word36", ">u4", 36),
    ("bhs_word40", ">u4", 40),
    ("bhs_word44", ">u4", 44),
)
"""Fields of a basic header segment by position (RFC 7143 section 11.2); what words 20 to 44 are depends on the opcode:
20 is EDTL or TTT, 24 CmdSN or StatSN, 28 ExpStatSN or ExpCmdSN, 32 MaxCmdSN, 36 DataSN or R2TSN, 40 the buffer offset,
44 the residual count or the desired length; the CDB is at 32 to 47."""

FC_COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("fc_word0", ">u4", 0),
    ("fc_word1", ">u4", 4),
    ("fc_type", "u1", 8),
    ("fc_word2", ">u4", 8),
    ("fc_r_ctl", "u1", 0),
    ("fc_seq_id", "u1", 12),
    ("fc_df_ctl", "u1", 13),
    ("fc_seq_cnt", ">u2", 14),
    ("fc_ox_id", ">u2", 16),
    ("fc_rx_id", ">u2", 18),
    ("fc_parameter", ">u4", 20),
    ("fc_lun", ">u8", FC_PAYLOAD_AT),
    ("fc_payload0", ">u4", FC_PAYLOAD_AT),
    ("fc_payload4", ">u4", FC_PAYLOAD_AT + 4),
)
"""Fields of a frame header by position: the low 24 bits of words 0, 1 and 2 are D_ID, S_ID and F_CTL."""
