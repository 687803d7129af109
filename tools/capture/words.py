"""Rows of a table in words: one line for each PDU or frame, and one of them in full, every field by its name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from fcsim.errors import MalformedFrame
from fcsim.wire.codes import FCtl, FcType, RCtl
from fcsim.wire.fip import decode_fip
from fcsim.wire.frame import Frame, decode_frame
from fcsim.wire.ordered_sets import decode_ordered_set
from fcsim.wire.payload import ExchangeMemory
from iscsi_target.wire.codec import decode_pdu
from iscsi_target.wire.derive import MalformedPdu
from iscsi_target.wire.digest import DIGEST_BYTES, digest
from iscsi_target.wire.opcodes import BHS_BYTES, TaskFunction
from tools.capture.fields import Seen, blocks_of, lba_of
from tools.capture.links import eof_name, sof_name
from tools.capture.pdu_parts import parts_of
from tools.capture.rows import CARRIER_MASK, FC_PAYLOAD_AT, Carrier, Note, Row, RowKind
from tools.capture.sessions import lun_text
from tools.capture.summary import opcode_name, type_name

BYTES_SHOWN = 4096
"""Of a field of bytes, so many are shown."""
_STATUSES = {
    0x00: "GOOD",
    0x02: "CHECK CONDITION",
    0x04: "CONDITION MET",
    0x08: "BUSY",
    0x18: "RESERVATION CONFLICT",
    0x28: "TASK SET FULL",
    0x30: "ACA ACTIVE",
    0x40: "TASK ABORTED",
}


def status_name(code: int) -> str:
    """A SCSI status (SAM-5 5.3)."""
    return _STATUSES.get(code, f"status {code:#04x}")


def _cdb_names() -> dict[tuple[int, int | None], str]:
    """Commands by opcode and service action, as the device server's table has them, and a few that it lacks."""
    from iscsi_target.scsi.opcode_table import OPERATIONS

    names = {(one.opcode, one.service_action): one.name for one in OPERATIONS}
    for code, name in ((0x12, "INQUIRY"), (0x5A, "MODE SENSE(10)"), (0x1A, "MODE SENSE(6)")):
        names.setdefault((code, None), name)
    return names


class Describer:
    """Puts rows into words. It remembers requests of Fibre Channel services, in order to read the answers."""

    def __init__(self) -> None:
        self._cdbs: dict[tuple[int, int | None], str] | None = None
        self._memory = ExchangeMemory()

    def cdb(self, cdb: bytes) -> str:
        """``READ(10) lba 2048 blocks 8``."""
        if self._cdbs is None:
            self._cdbs = _cdb_names()
        name = self._cdbs.get((cdb[0], None)) or self._cdbs.get((cdb[0], cdb[1] & 0x1F))
        said = name or f"CDB {cdb[0]:02x}h"
        lba, blocks = lba_of(cdb), blocks_of(cdb)
        if lba is not None:
            said += f" lba {lba}"
        if blocks is not None:
            said += f" blocks {blocks}"
        return said

    def line(self, seen: Seen) -> str:
        """What a row is, in a few words."""
        row = seen.row
        if row.kind == RowKind.ISCSI:
            return self._iscsi(row) + _noted(row)
        if row.kind == RowKind.FC:
            return self._fc(row, seen.whole) + _noted(row)
        if row.kind == RowKind.ORDERED_SET:
            try:
                return str(decode_ordered_set(row.header[:4]))
            except MalformedFrame:
                return f"no ordered set: {row.header[:4].hex(' ')}"
        if seen.whole is None:
            return "FIP"
        try:
            fip = decode_fip(seen.whole)
        except MalformedFrame as error:
            return f"FIP, malformed: {error}"
        return f"FIP operation {_value(fip.operation)} subcode {_value(fip.subcode)}"

    def _iscsi(self, row: Row) -> str:
        header = row.header
        opcode = header[0] & 0x3F
        number = _Numbers(header)
        tag = f"itt {number(16):#010x}"
        length = int.from_bytes(header[5:8], "big")
        said = f"{opcode_name(opcode)} {tag}"
        if opcode == 0x01:
            said += f" lun {lun_text(header[8:16])} cmdsn {number(24)} {self.cdb(header[32:48])}"
            said += f" edtl {number(20)}"
            if length:
                said += f" immediate {length}"
        elif opcode == 0x25:
            said += f" datasn {number(36)} offset {number(40)} length {length}"
            if header[1] & 1:
                said += f" {status_name(header[3])}"
        elif opcode == 0x05:
            said += f" ttt {number(20):#010x} datasn {number(36)} offset {number(40)} length {length}"
        elif opcode == 0x21:
            said += f" {status_name(header[3])}" + (f" response {header[2]:#04x}" if header[2] else "")
            if header[1] & 0x06:
                said += f" {'under' if header[1] & 2 else 'over'}flow {number(44)}"
        elif opcode == 0x31:
            said += f" ttt {number(20):#010x} r2tsn {number(36)} offset {number(40)} wants {number(44)}"
        elif opcode == 0x02:
            function = header[1] & 0x7F
            known = function in TaskFunction.__members__.values()
            said += f" {TaskFunction(function).name if known else function} of {number(20):#010x}"
        elif opcode == 0x22:
            said += f" response {header[2]}"
        elif opcode in (0x03, 0x23):
            said += f" csg {header[1] >> 2 & 3} nsg {header[1] & 3}{' T' if header[1] & 0x80 else ''}"
            if opcode == 0x23 and (header[36] or header[37]):
                said += f" status {number(36) >> 16:#06x}"
        return said

    def _fc(self, row: Row, whole: bytes | None) -> str:
        header = row.header
        ids = f"ox_id {header[16:18].hex()} rx_id {header[18:20].hex()}"
        payload = header[FC_PAYLOAD_AT:]
        r_ctl, kind = header[0], header[8]
        if kind == FcType.FCP and r_ctl == 0x06:
            said = f"FCP_CMND lun {lun_text(payload[:8])} {self.cdb(payload[12:28])}"
            said += f" dl {int.from_bytes(payload[28:32], 'big')}"
        elif kind == FcType.FCP and r_ctl == 0x07:
            said = f"FCP_RSP {status_name(payload[11])}"
        elif kind == FcType.FCP and r_ctl == 0x05:
            burst = int.from_bytes(payload[4:8], "big")
            said = f"FCP_XFER_RDY offset {int.from_bytes(payload[:4], 'big')} burst {burst}"
        elif kind == FcType.FCP and r_ctl == 0x01:
            said = f"FCP_DATA seq_cnt {int.from_bytes(header[14:16], 'big')} length {row.length_bytes - 36}"
        else:
            said = self._service(row, whole)
        return f"{said} {ids}"

    def _service(self, row: Row, whole: bytes | None) -> str:
        said = f"{type_name(row.header[8])} {RCtl(row.header[0]).name}"
        frame = _frame_of(whole)
        if frame is None:
            return said
        try:
            message = self._memory.decode(frame)
        except MalformedFrame:
            return f"{said}, malformed"
        return said if isinstance(message, bytes) else f"{said} {type(message).__name__}"

    # --- in full ---

    def full(self, seen: Seen, number: int) -> Iterator[tuple[str, str]]:
        """Every field of a row: names and values, bytes in hex."""
        row = seen.row
        yield "row", str(number)
        yield "packet", str(row.packet)
        yield "time", f"{row.time_ns / 1e9:.9f}"
        yield "first byte", f"{(row.time_ns - row.begin_ns)} ns before its last"
        yield "from", seen.source
        yield "to", seen.destination
        yield "offset in the file", str(row.offset) if row.offset >= 0 else "in several packets"
        yield "length", f"{row.length_bytes} bytes"
        if row.notes:
            yield (
                "notes",
                ", ".join(note.name.lower().replace("_", " ") for note in Note(row.notes) if note.name),
            )
        if row.kind == RowKind.ISCSI:
            yield from self._full_iscsi(row, seen.whole or row.header[:BHS_BYTES])
        elif row.kind == RowKind.FC:
            yield from self._full_fc(row, seen.whole)
        elif row.kind == RowKind.FIP and seen.whole is not None:
            try:
                yield from _spread("", decode_fip(seen.whole))
            except MalformedFrame as error:
                yield "malformed", str(error)
        else:
            yield "ordered set", f"{row.header[:4].hex(' ')}: {self.line(seen)}"

    def _full_iscsi(self, row: Row, whole: bytes) -> Iterator[tuple[str, str]]:
        head, start, length = parts_of(whole, row.notes)
        data = whole[start : start + (length + 3 & ~3)]
        if start > head and len(whole) >= start:
            good = digest(whole[:head]) == whole[head:start]
            yield "header digest", "right" if good else "WRONG"
        if row.notes & Note.DATA_DIGEST and length and len(whole) == row.length_bytes:
            yield "data digest", "right" if digest(data) == whole[-DIGEST_BYTES:] else "WRONG"
        yield "pdu", opcode_name(whole[0] & 0x3F)
        try:
            pdu = decode_pdu(whole[:head] + data)
        except MalformedPdu as error:
            yield "malformed", str(error)
            yield "bytes", whole[:BYTES_SHOWN].hex(" ")
            return
        for name, value in _spread("", pdu):
            if name == "data" and row.header[0] & 0x3F in (0x03, 0x04, 0x23, 0x24):
                for item in pdu.data.split(b"\0"):
                    if item:
                        yield "key", _printable(item)
            else:
                yield name, value
            if name == "lun":
                yield "lun (number)", lun_text(pdu.lun)  # type: ignore[union-attr]
            if name == "cdb":
                yield "command", self.cdb(pdu.cdb)  # type: ignore[union-attr]
            if name == "status":
                yield "status (name)", status_name(int(value, 0))
        if row.header[0] & 0x3F == 0x21 and len(pdu.data) > 2:
            yield from sense_words(pdu.data[2:])

    def _full_fc(self, row: Row, whole: bytes | None) -> Iterator[tuple[str, str]]:
        yield "carried by", Carrier(row.carrier & CARRIER_MASK).name.lower()
        if row.sof:
            yield "sof", sof_name(row.sof)
        if row.eof:
            yield "eof", eof_name(row.eof)
        if whole is None or row.notes & Note.CUT:
            yield "header", row.header[:FC_PAYLOAD_AT].hex(" ")
            yield "payload begins", row.header[FC_PAYLOAD_AT:].hex(" ")
            return
        try:
            frame = decode_frame(whole)
        except MalformedFrame as error:
            yield "malformed", str(error)
            yield "bytes", whole[:BYTES_SHOWN].hex(" ")
            return
        for name, value in _spread("", frame.header):
            if name == "f_ctl":
                value += " " + ", ".join(
                    one.name.lower() for one in FCtl if one.name and frame.header.f_ctl & one
                )
            yield name, value
        for extra in frame.extended:
            yield from _spread(type(extra).__name__ + ".", extra)
        try:
            message: Any = self._memory.decode(frame)
        except MalformedFrame as error:
            yield "malformed", str(error)
            message = frame.payload
        if isinstance(message, bytes):
            yield "payload", message[:BYTES_SHOWN].hex(" ")
            return
        yield "message", type(message).__name__
        yield from _spread("", message)
        sense = getattr(message, "sense", b"")
        if sense:
            yield from sense_words(sense)

    def remember(self, seen: Seen) -> None:
        """A frame that is passed over, but may be what a later one answers."""
        if seen.row.kind == RowKind.FC and seen.row.header[8] != FcType.FCP:
            frame = _frame_of(seen.whole)
            if frame is not None:
                try:
                    self._memory.decode(frame)
                except MalformedFrame:
                    return


class _Numbers:
    """Numbers of a header by position."""

    def __init__(self, header: bytes) -> None:
        self._header = header

    def __call__(self, at: int) -> int:
        return int.from_bytes(self._header[at : at + 4], "big")


def sense_words(sense: bytes) -> Iterator[tuple[str, str]]:
    """Sense data in words (SPC-4 4.5): key, additional code, and its name where our device server knows it."""
    from iscsi_target.scsi.sense import Condition, SenseKey

    code = sense[0] & 0x7F
    if code in (0x70, 0x71) and len(sense) >= 14:
        key, asc, ascq = sense[2] & 0x0F, sense[12], sense[13]
    elif code in (0x72, 0x73) and len(sense) >= 4:
        key, asc, ascq = sense[1] & 0x0F, sense[2], sense[3]
    else:
        yield "sense", sense[:64].hex(" ")
        return
    keys = {int(one): one.name for one in SenseKey}
    names = {(int(one.key), one.asc, one.ascq): one.name for one in Condition}
    yield "sense key", f"{key:#x} {keys.get(key, '')}".rstrip()
    said = names.get((key, asc, ascq), "")
    yield "additional sense", f"{asc:#04x}/{ascq:#04x} {said}".rstrip().lower()


def _frame_of(whole: bytes | None) -> Frame | None:
    if whole is None:
        return None
    try:
        return decode_frame(whole)
    except MalformedFrame:
        return None


def _noted(row: Row) -> str:
    if row.notes & Note.CUT:
        return " [cut]"
    return " [after a gap]" if row.notes & Note.AFTER_GAP and row.kind == RowKind.ISCSI else ""


def _spread(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """The fields of a dataclass, those within it as ``outer.inner``."""
    for field in fields(value):
        one = getattr(value, field.name)
        if is_dataclass(one):
            yield from _spread(f"{prefix}{field.name}.", one)
        elif isinstance(one, tuple) and one and is_dataclass(one[0]):
            for number, item in enumerate(one):
                yield from _spread(f"{prefix}{field.name}[{number}].", item)
        else:
            yield prefix + field.name, _value(one)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, bytes):
        return value[:BYTES_SHOWN].hex(" ") + ("…" if len(value) > BYTES_SHOWN else "")
    if isinstance(value, int):
        name = getattr(value, "name", None)
        return f"{int(value):#x} ({name})" if name and not name.startswith("0x") else f"{int(value):#x}"
    return str(value)


def _printable(octets: bytes) -> str:
    text = octets.decode(errors="replace")
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)
