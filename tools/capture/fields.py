"""Fields of a row by the names that Wireshark has for them, where it has any: what filters compare.

A field is a function of the row; None where the row has no such field: then every comparison is
false, as with Wireshark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from tools.capture.rows import CARRIER_MASK, FC_PAYLOAD_AT, Carrier, Note, Row, RowKind

Value = int | bytes | str | None
Fetch = Callable[["Seen"], Value]

_REQUESTS = frozenset((0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10))
_STATUS_OPCODES = frozenset((0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x31, 0x32, 0x3F))


class Seen(NamedTuple):
    """A row with what it may be asked for: the first packet's time, its whole bytes where they were kept, its ends."""

    row: Row
    first_ns: int
    whole: bytes | None
    source: str
    destination: str


def _number(at: int, size: int, opcodes: frozenset[int], mask: int = 0, shift: int = 0) -> Fetch:
    def fetch(seen: Seen) -> Value:
        row = seen.row
        if row.kind != RowKind.ISCSI or row.header[0] & 0x3F not in opcodes:
            return None
        value = int.from_bytes(row.header[at : at + size], "big")
        return (value & mask) >> shift if mask else value

    return fetch


def _flag(bit: int, opcodes: frozenset[int]) -> Fetch:
    return _number(1, 1, opcodes, bit, bit.bit_length() - 1)


def _ops(*opcodes: int) -> frozenset[int]:
    return frozenset(opcodes)


_ALL = _REQUESTS | _STATUS_OPCODES
_ISCSI: Mapping[str, Fetch] = {
    "iscsi": lambda seen: 1 if seen.row.kind == RowKind.ISCSI else None,
    "iscsi.opcode": _number(0, 1, _ALL, 0x3F),
    "iscsi.I": _number(0, 1, _REQUESTS, 0x40, 6),
    "iscsi.flags": _number(1, 1, _ALL),
    "iscsi.scsicommand.F": _flag(0x80, _ops(0x01)),
    "iscsi.scsicommand.R": _flag(0x40, _ops(0x01)),
    "iscsi.scsicommand.W": _flag(0x20, _ops(0x01)),
    "iscsi.scsicommand.attr": _number(1, 1, _ops(0x01), 0x07),
    "iscsi.scsidata.F": _flag(0x80, _ops(0x05, 0x25)),
    "iscsi.scsidata.S": _flag(0x01, _ops(0x25)),
    "iscsi.totalahslength": _number(4, 1, _ALL),
    "iscsi.datasegmentlength": _number(5, 3, _ALL),
    "iscsi.lun": _number(8, 8, _ALL - _ops(0x03, 0x06, 0x10, 0x21, 0x22, 0x23, 0x26, 0x3F)),
    "iscsi.initiatortasktag": _number(16, 4, _ALL),
    "iscsi.scsicommand.expecteddatatransferlength": _number(20, 4, _ops(0x01)),
    "iscsi.targettransfertag": _number(20, 4, _ops(0x00, 0x04, 0x05, 0x10, 0x20, 0x24, 0x25, 0x31)),
    "iscsi.cmdsn": _number(24, 4, _ops(0x00, 0x01, 0x02, 0x03, 0x04, 0x06)),
    "iscsi.expstatsn": _number(28, 4, _REQUESTS),
    "iscsi.statsn": _number(24, 4, _STATUS_OPCODES),
    "iscsi.expcmdsn": _number(28, 4, _STATUS_OPCODES),
    "iscsi.maxcmdsn": _number(32, 4, _STATUS_OPCODES),
    "iscsi.datasn": _number(36, 4, _ops(0x05, 0x25)),
    "iscsi.bufferOffset": _number(40, 4, _ops(0x05, 0x25, 0x31)),
    "iscsi.r2tsn": _number(36, 4, _ops(0x31)),
    "iscsi.desireddatalength": _number(44, 4, _ops(0x31)),
    "iscsi.expdatasn": _number(36, 4, _ops(0x02, 0x21)),
    "iscsi.scsiresponse.response": _number(2, 1, _ops(0x21)),
    "iscsi.scsiresponse.status": _number(3, 1, _ops(0x21, 0x25)),
    "iscsi.scsiresponse.residualcount": _number(44, 4, _ops(0x21, 0x25)),
    "iscsi.taskmanfun.function": _number(1, 1, _ops(0x02), 0x7F),
    "iscsi.taskmanfun.referencedtasktag": _number(20, 4, _ops(0x02)),
    "iscsi.taskmanfun.response": _number(2, 1, _ops(0x22)),
    "iscsi.login.T": _flag(0x80, _ops(0x03, 0x23)),
    "iscsi.login.csg": _number(1, 1, _ops(0x03, 0x23), 0x0C, 2),
    "iscsi.login.nsg": _number(1, 1, _ops(0x03, 0x23), 0x03),
    "iscsi.login.status": _number(36, 2, _ops(0x23)),
    "iscsi.isid": lambda seen: _bytes(seen, 8, 6, _ops(0x03, 0x23)),
    "iscsi.tsih": _number(14, 2, _ops(0x03, 0x23)),
    "iscsi.cid": _number(20, 2, _ops(0x03, 0x06)),
    "iscsi.logout.reason": _number(1, 1, _ops(0x06), 0x7F),
    "iscsi.logout.response": _number(2, 1, _ops(0x26)),
    "iscsi.asyncevent": _number(36, 1, _ops(0x32)),
    "iscsi.reject.reason": _number(2, 1, _ops(0x3F)),
    "iscsi.keyvalue": lambda seen: _text(seen),
}


def _bytes(seen: Seen, at: int, size: int, opcodes: frozenset[int]) -> Value:
    row = seen.row
    if row.kind != RowKind.ISCSI or row.header[0] & 0x3F not in opcodes:
        return None
    return row.header[at : at + size]


def _text(seen: Seen) -> Value:
    row = seen.row
    if (
        row.kind != RowKind.ISCSI
        or row.header[0] & 0x3F not in (0x03, 0x04, 0x23, 0x24)
        or seen.whole is None
    ):
        return None
    return seen.whole[48:].decode(errors="replace").replace("\0", "\n")


def _is_fc(seen: Seen) -> bool:
    return seen.row.kind == RowKind.FC


def _fc(at: int, size: int) -> Fetch:
    def fetch(seen: Seen) -> Value:
        return int.from_bytes(seen.row.header[at : at + size], "big") if _is_fc(seen) else None

    return fetch


def _fcp(r_ctl: int, at: int, size: int) -> Fetch:
    """A field of an FCP information unit: of frames with this R_CTL."""

    def fetch(seen: Seen) -> Value:
        header = seen.row.header
        if not _is_fc(seen) or header[8] != 0x08 or header[0] != r_ctl:
            return None
        return int.from_bytes(header[FC_PAYLOAD_AT + at : FC_PAYLOAD_AT + at + size], "big")

    return fetch


_FIBRE: Mapping[str, Fetch] = {
    "fc": lambda seen: 1 if _is_fc(seen) else None,
    "fcoe": lambda seen: 1 if _is_fc(seen) and seen.row.carrier & CARRIER_MASK == Carrier.FCOE else None,
    "fcip": lambda seen: 1 if _is_fc(seen) and seen.row.carrier & CARRIER_MASK == Carrier.FCIP else None,
    "fip": lambda seen: 1 if seen.row.kind == RowKind.FIP else None,
    "fc.r_ctl": _fc(0, 1),
    "fc.d_id": _fc(1, 3),
    "fc.cs_ctl": _fc(4, 1),
    "fc.s_id": _fc(5, 3),
    "fc.type": _fc(8, 1),
    "fc.f_ctl": _fc(9, 3),
    "fc.seq_id": _fc(12, 1),
    "fc.df_ctl": _fc(13, 1),
    "fc.seq_cnt": _fc(14, 2),
    "fc.ox_id": _fc(16, 2),
    "fc.rx_id": _fc(18, 2),
    "fc.parameter": _fc(20, 4),
    "fc.sof": lambda seen: seen.row.sof if _is_fc(seen) else None,
    "fc.eof": lambda seen: seen.row.eof if _is_fc(seen) else None,
    "fcp": lambda seen: 1 if _is_fc(seen) and seen.row.header[8] == 0x08 else None,
    "fcp.lun": _fcp(0x06, 0, 8),
    "fcp.taskmgmt": _fcp(0x06, 10, 1),
    "fcp.dl": _fcp(0x06, 28, 4),
    "fcp.rsp.retry_delay_timer": _fcp(0x07, 8, 2),
    "fcp.status": _fcp(0x07, 11, 1),
    "fcp.resid": _fcp(0x07, 12, 4),
    "fcp.data_ro": _fcp(0x05, 0, 4),
    "fcp.burstlen": _fcp(0x05, 4, 4),
    "fcels.opcode": lambda seen: (
        seen.row.header[FC_PAYLOAD_AT] if _is_fc(seen) and seen.row.header[8] == 0x01 else None
    ),
    "swils.opcode": lambda seen: (
        seen.row.header[FC_PAYLOAD_AT] if _is_fc(seen) and seen.row.header[8] == 0x22 else None
    ),
    "fc.ordered_set": lambda seen: seen.row.header[:4] if seen.row.kind == RowKind.ORDERED_SET else None,
}


def _cdb(seen: Seen) -> bytes | None:
    row = seen.row
    if row.kind == RowKind.ISCSI and row.header[0] & 0x3F == 0x01:
        return row.header[32:48]
    if row.kind == RowKind.FC and row.header[8] == 0x08 and row.header[0] == 0x06:
        return row.header[FC_PAYLOAD_AT + 12 : FC_PAYLOAD_AT + 28]
    return None


def _opcode(seen: Seen) -> Value:
    cdb = _cdb(seen)
    return None if cdb is None else cdb[0]


_LBA = {
    **dict.fromkeys((0x28, 0x2A, 0x2E, 0x2F, 0x35, 0x34, 0x41, 0x42), (2, 4)),
    **dict.fromkeys((0x88, 0x8A, 0x8E, 0x8F, 0x89, 0x91, 0x90, 0x93, 0x9C), (2, 8)),
    **dict.fromkeys((0xA8, 0xAA, 0xAE, 0xAF), (2, 4)),
}
_BLOCKS = {
    **dict.fromkeys((0x28, 0x2A, 0x2E, 0x2F, 0x35, 0x34, 0x41), (7, 2)),
    **dict.fromkeys((0x88, 0x8A, 0x8E, 0x8F, 0x91, 0x90, 0x93), (10, 4)),
    **dict.fromkeys((0xA8, 0xAA, 0xAE, 0xAF), (6, 4)),
    0x89: (13, 1),
    0x9C: (12, 2),
}


def lba_of(cdb: bytes) -> int | None:
    """The logical block address of a command that has one (SBC-4)."""
    if cdb[0] in (0x08, 0x0A):
        return int.from_bytes(cdb[1:4], "big") & 0x1FFFFF
    place = _LBA.get(cdb[0])
    return None if place is None else int.from_bytes(cdb[place[0] : place[0] + place[1]], "big")


def blocks_of(cdb: bytes) -> int | None:
    """The transfer length of a command that has one, in blocks (SBC-4)."""
    if cdb[0] in (0x08, 0x0A):
        return cdb[4] or 256
    place = _BLOCKS.get(cdb[0])
    return None if place is None else int.from_bytes(cdb[place[0] : place[0] + place[1]], "big")


def _of_cdb(function: Callable[[bytes], int | None]) -> Fetch:
    def fetch(seen: Seen) -> Value:
        cdb = _cdb(seen)
        return None if cdb is None else function(cdb)

    return fetch


FIELDS: Mapping[str, Fetch] = {
    **_ISCSI,
    **_FIBRE,
    "scsi_sbc.opcode": _opcode,
    "scsi.cdb": _cdb,
    "scsi.lba": _of_cdb(lba_of),
    "scsi.blocks": _of_cdb(blocks_of),
    "frame.number": lambda seen: seen.row.packet,
    "frame.time_relative": lambda seen: seen.row.time_ns - seen.first_ns,
    "frame.time_epoch": lambda seen: seen.row.time_ns,
    "frame.interface_id": lambda seen: seen.row.interface,
    "ip.src": lambda seen: seen.source.rpartition(":")[0] or None,
    "ip.dst": lambda seen: seen.destination.rpartition(":")[0] or None,
    "tcp.srcport": lambda seen: _port(seen.source),
    "tcp.dstport": lambda seen: _port(seen.destination),
    "flow": lambda seen: seen.row.flow >> 1,
    "length": lambda seen: seen.row.length_bytes,
    "split": lambda seen: 1 if seen.row.notes & Note.SPLIT else None,
    "cut": lambda seen: 1 if seen.row.notes & Note.CUT else None,
}
"""Every field by name. Times are nanoseconds; a filter may say ``5ms``. ``flow``, ``length``, ``split``, ``cut``,
``scsi.lba`` and ``scsi.blocks`` are ours."""


def _port(endpoint: str) -> Value:
    port = endpoint.rpartition(":")[2]
    return int(port) if ":" in endpoint and port.isdigit() else None
