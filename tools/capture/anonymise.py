"""A capture without names and data: what may be shown to others of it.

The capture is made anew from its PDUs and frames. What stays: when each passed, who talked to whom (under other names),
headers, tags, sequence numbers, CDBs, statuses, sense data, login keys that name nobody. What goes: addresses, ports,
iSCSI names, aliases, ISIDs, CHAP, world wide names, all data (zeros of the same length). Digests are left out and their
keys say None. Segment boundaries, retransmissions and TCP's own times are those of no connection that ever was.
Ethernet and FIP are left out.

A name stands for the same party wherever it occurs; which one, only who has the ``key`` can tell.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from fcsim.errors import MalformedFrame
from fcsim.wire.codes import FcType, RCtl
from fcsim.wire.eight_b_ten_b import POSITIVE, disparity_after_data
from fcsim.wire.frame import CRC_BYTES, HEADER_BYTES, crc_bytes, decode_frame
from fcsim.wire.ordered_sets import eof_word, sof_word
from iscsi_target.buffers import ConnectionInfo
from iscsi_target.faults.matching import Direction as Way
from iscsi_target.trace.pcapng import LINKTYPE_RAW, PcapngWriter
from iscsi_target.trace.stream import TcpStream
from iscsi_target.wire.opcodes import BHS_BYTES
from tools.capture.pdu_parts import parts_of
from tools.capture.rows import Note, Part, Row, RowKind
from tools.capture.scan import Scan
from tools.capture.sessions import initiator_side

LINKTYPE_FC_DELIMITED = 225
_LOGIN, _TEXT, _LOGIN_ANSWER, _TEXT_ANSWER, _SCSI_RESPONSE = 0x03, 0x04, 0x23, 0x24, 0x21
_TEXTS = frozenset((_LOGIN, _TEXT, _LOGIN_ANSWER, _TEXT_ANSWER))
_ISID = slice(8, 14)
_NAMES = frozenset(("InitiatorName", "TargetName"))
_ALIASES = frozenset(("InitiatorAlias", "TargetAlias"))
_DIGESTS = frozenset(("HeaderDigest", "DataDigest"))
_SECRETS = frozenset(("CHAP_N", "CHAP_R", "CHAP_C", "CHAP_I"))
_WELL_KNOWN = 0xFFFFF0
_ELS_LOGINS = frozenset((0x03, 0x04))
_KEPT_OF_ELS = 4
_LOGIN_BYTES = 116
_COMMON_PARAMETERS = slice(4, 20)
_ACCEPT = 0x02
#: FCP information units without data: commands, XFER_RDY, responses (FCP-4).
_UNITS = frozenset((0x05, 0x06, 0x07))


@dataclass(slots=True)
class Anonymised:
    """What was written, and what could not be."""

    pdus: int = 0
    frames: int = 0
    left_out: int = 0
    parties: int = 0


class Pseudonyms:
    """Other names for parties, the same one for the same party; ``key`` says which."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._numbers: dict[tuple[str, bytes], int] = {}
        self._counts: dict[str, int] = {}

    @property
    def parties(self) -> int:
        """How many there are."""
        return len(self._numbers)

    def number(self, kind: str, value: bytes) -> int:
        """1, 2, … in the order in which the parties of a kind came."""
        known = self._numbers.get((kind, value))
        if known is None:
            known = self._counts[kind] = self._counts.get(kind, 0) + 1
            self._numbers[kind, value] = known
        return known

    def token(self, kind: str, value: bytes, length: int) -> bytes:
        """``length`` bytes that stand for the value."""
        return hmac.digest(self._key, kind.encode() + b"\0" + value, sha256)[:length]

    def iscsi_name(self, name: str) -> str:
        """An iSCSI name; which of them it was is told by its number."""
        return f"iqn.2026-11.example.anonymous:node-{self.number('name', name.encode())}"

    def address(self, packed: bytes) -> str:
        """An IPv4 address of the documentation's networks (RFC 5737) or, beyond them, of 198.18.0.0/15 (RFC 2544)."""
        number = self.number("address", packed)
        if number < 255:
            return f"192.0.2.{number}"
        return f"198.18.{number >> 8 & 0xFF}.{number & 0xFF}"

    def fc_id(self, value: int) -> int:
        """A Fibre Channel address; well-known ones stay."""
        if value >= _WELL_KNOWN or value == 0:
            return value
        return 0x010000 | self.number("fc_id", value.to_bytes(3, "big")) << 8 & 0xFFFF00


@dataclass(slots=True)
class _Rest:
    """A text that goes on in the next PDU is rewritten pair by pair; an unfinished pair waits here."""

    text: list[bytes] = field(default_factory=lambda: [b"", b""])


def anonymise(
    paths: Sequence[Path | str],
    stream: BinaryIO,
    key: bytes,
    *,
    ports: Sequence[int] = (),
    progress: Callable[[int], None] = lambda _: None,
) -> Anonymised:
    """Write captures anew to ``stream`` as pcapng. Raises :class:`~tools.capture.scan.CaptureError`."""
    writer = _Writer(stream, Pseudonyms(key))
    scan = Scan(paths, ports=ports, keep_all=True)
    for part in scan.parts():
        for row in part.rows():
            writer.row(scan, part, row)
        progress(part.first + part.count)
    writer.done.parties = writer.names.parties
    return writer.done


class _Writer:
    def __init__(self, stream: BinaryIO, names: Pseudonyms) -> None:
        self.names = names
        self.done = Anonymised()
        self._out = PcapngWriter(stream, application="sancredit capture anonymise", comment="anonymised")
        self._ip = self._out.add_interface(LINKTYPE_RAW)
        self._fc = self._out.add_interface(LINKTYPE_FC_DELIMITED)
        self._streams: dict[int, TcpStream] = {}
        self._rests: dict[int, _Rest] = {}

    def row(self, scan: Scan, part: Part, row: Row) -> None:
        whole = part.whole(row)
        if row.kind == RowKind.ORDERED_SET:
            self._out.write(row.time_ns, row.header[:4], interface=self._fc)
            self.done.frames += 1
        elif row.kind == RowKind.ISCSI and (whole := _whole_pdu(row, whole)) is not None:
            self._pdu(scan, row, whole)
        elif whole is None or row.notes & Note.CUT:
            self.done.left_out += 1
        elif row.kind == RowKind.FC and (record := self._frame(row, whole)) is not None:
            self._out.write(row.time_ns, record, interface=self._fc)
            self.done.frames += 1
        else:
            self.done.left_out += 1

    # -- iSCSI --------------------------------------------------------------------------------------------------

    def _pdu(self, scan: Scan, row: Row, whole: bytes) -> None:
        flow = row.flow >> 1
        stream = self._streams.get(flow)
        if stream is None:
            side = initiator_side(scan.scanner.flows[flow])
            info = ConnectionInfo(
                local_host=self.names.address(side.peer.key[: len(side.peer.key) // 2 - 2]),
                local_port=3260,
                peer_host=self.names.address(side.key[: len(side.key) // 2 - 2]),
                peer_port=49152 + flow % 16384,
            )
            stream = self._streams[flow] = TcpStream(info)
            for packet in stream.handshake():
                self._out.write(row.begin_ns, packet, interface=self._ip)
        pdu = self._plain(row, whole)
        way = Way.TO_INITIATOR if row.flow & 1 else Way.TO_TARGET
        for packet in stream.segments(way, pdu):
            self._out.write(row.time_ns, packet, interface=self._ip)
        stream.passed(way, len(pdu))
        self.done.pdus += 1

    def _plain(self, row: Row, whole: bytes) -> bytes:
        """The PDU without digests, names and data."""
        header = bytearray(whole[:BHS_BYTES])
        opcode, (head, start, length) = header[0] & 0x3F, parts_of(whole, row.notes)
        ahs, data = whole[BHS_BYTES:head], whole[start : start + length]
        if opcode in (_LOGIN, _LOGIN_ANSWER):
            header[_ISID] = b"\x80" + self.names.token("isid", bytes(header[_ISID]), 5)
        if opcode in _TEXTS:
            data = self._text(row.flow, header, data)
            header[5:8] = len(data).to_bytes(3, "big")
        elif opcode != _SCSI_RESPONSE:
            data = bytes(len(data))
        return bytes(header) + ahs + data + bytes(-len(data) % 4)

    def _text(self, flow: int, header: bytearray, data: bytes) -> bytes:
        rest = self._rests.setdefault(flow >> 1, _Rest()).text
        text = rest[flow & 1] + data
        rest[flow & 1] = b""
        if header[1] & 0x40:  # C: a pair may be cut
            text, _, rest[flow & 1] = text.rpartition(b"\0")
            text += b"\0" if text else b""
        return b"".join(self._pair(pair) + b"\0" for pair in text.split(b"\0") if pair)

    def _pair(self, pair: bytes) -> bytes:
        key, _, value = pair.decode(errors="replace").partition("=")
        if key in _NAMES:
            value = self.names.iscsi_name(value)
        elif key in _ALIASES or key in _SECRETS:
            value = "0" if key == "CHAP_I" else "anonymous"
        elif key == "TargetAddress":
            tag = value.rpartition(",")[2]
            value = f"{self.names.address(value.encode())}:3260,{tag if tag.isdigit() else '1'}"
        elif key in _DIGESTS:
            value = "None"
        elif key.startswith(("X-", "X#", "Y-", "Z-")):
            value = "anonymous"  # a vendor's own key may say anything
        return f"{key}={value}".encode()

    # -- Fibre Channel ------------------------------------------------------------------------------------------

    def _frame(self, row: Row, whole: bytes) -> bytes | None:
        """A record of link type 225; None for what is no frame."""
        try:
            frame = decode_frame(whole)
        except MalformedFrame:
            return None
        head = len(whole) - len(frame.payload) - len(frame.fill)
        content = bytearray(whole)
        for at in (1, 5):
            content[at : at + 3] = self.names.fc_id(int.from_bytes(content[at : at + 3], "big")).to_bytes(
                3, "big"
            )
        if head > HEADER_BYTES:
            content[HEADER_BYTES:head] = bytes(head - HEADER_BYTES)
        content[head:] = self._payload(frame.header.r_ctl, frame.header.type_, bytes(content[head:]))
        crc = crc_bytes(bytes(content))
        try:
            opening = sof_word(row.sof)
            closing = eof_word(row.eof, disparity_after_data(bytes(content) + crc, POSITIVE))
        except (MalformedFrame, KeyError, ValueError):
            return None
        assert len(crc) == CRC_BYTES
        return opening + bytes(content) + crc + closing

    def _payload(self, r_ctl: int, kind: int, payload: bytes) -> bytes:
        if kind == FcType.FCP and r_ctl & 0x0F in _UNITS:
            return payload
        if kind == FcType.BLS or RCtl.NOP <= r_ctl <= RCtl.PRMT:
            return payload
        if kind not in (FcType.ELS, FcType.SW_ILS):
            return bytes(len(payload))
        kept = bytearray(len(payload))
        kept[:_KEPT_OF_ELS] = payload[:_KEPT_OF_ELS]
        if (
            kind == FcType.ELS
            and payload[:1]
            and (payload[0] in _ELS_LOGINS or (payload[0] == _ACCEPT and len(payload) >= 116))
        ):
            kept[_COMMON_PARAMETERS] = payload[_COMMON_PARAMETERS]
            for at in (
                20,
                28,
            ):  # port name, node name (FC-LS, common service parameters): locally assigned, NAA 3
                kept[at : at + 8] = b"\x30" + self.names.token("wwn", payload[at : at + 8], 7)
        return bytes(kept)


def _whole_pdu(row: Row, whole: bytes | None) -> bytes | None:
    """A PDU whose data are not all captured has zeros for them, as it will have anyway; None for texts, which are not
    data."""
    if whole is not None and not row.notes & Note.CUT:
        return whole
    header = row.header[:BHS_BYTES]
    if header[0] & 0x3F in _TEXTS:
        return None
    parts = parts_of(header, row.notes)
    return header.ljust(parts.data + parts.length, b"\0")
