# cython: boundscheck=True, wraparound=False, cdivision=False, initializedcheck=False, annotation_typing=False
# cython: infer_types=True, language_level=3
"""Fibre Channel frames, ordered sets, FIP and FCIP as rows of the table; connections and pairs of addresses.

Compiled by Cython where a compiler is at hand (types in the .pxd beside), plain Python where not; the same code.
"""

from __future__ import annotations

from array import array

from tools.capture import rows
from tools.capture.stream_kernel import Direction, Streams

COMPILED = not __file__.endswith(".py")

# Typed copies: a module's own constants would be looked up by name in compiled code.
ROW_WORDS, HEADER_BYTES = rows.ROW_WORDS, rows.HEADER_BYTES
FC, ORDERED_SET, FIP = int(rows.RowKind.FC), int(rows.RowKind.ORDERED_SET), int(rows.RowKind.FIP)
NATIVE, FCOE, FCIP = int(rows.Carrier.NATIVE), int(rows.Carrier.FCOE), int(rows.Carrier.FCIP)
CUT, PAYLOAD_CUT = int(rows.Note.CUT), int(rows.Note.PAYLOAD_CUT)
OTHER_STREAM = 3
CACHE = 4096
DIRECTION_LIMIT = 1 << 16
"""Directions of connections that are followed at a time."""
FRAME_HEADER = 24
DELIMITERS = 12
"""Start of frame, CRC and end of frame, as they count on a Fibre Channel link."""
FCIP_HEADER, FCIP_FRAME_LIMIT, FCIP_WORD = 28, 4096, 0x0101FEFE
DELIMITER_CACHE = 256


def u16(data: bytes, at: int) -> int:
    """Two bytes, big-endian."""
    high = data[at]
    return high << 8 | data[at + 1]


def u32(data: bytes, at: int) -> int:
    """Four bytes, big-endian."""
    b0, b1, b2, b3 = data[at], data[at + 1], data[at + 2], data[at + 3]
    return b0 << 24 | b1 << 16 | b2 << 8 | b3


def delimiter(word: int, start: bool) -> int:
    """The one-byte code of a start or end of frame, 0 for what is none. Seldom called: the answers are remembered."""
    from tools.capture import links

    octets = word.to_bytes(4, "big")
    return links.sof_of(octets) if start else links.eof_of(octets)


def eof_table() -> bytes:
    """1 at each code of an end of frame."""
    from tools.capture import links

    return links.eof_codes()


BLANK = Direction(-1, 0, b"")
"""What is in the cache where nothing is."""


class Frames(Streams):
    """Takes frames one by one. What finds them in packets is a subclass of it."""

    def __init__(self, ports: tuple[int, ...] = (), keep_all: bool = False) -> None:
        Streams.__init__(self, ports, keep_all)
        self.directions: dict[bytes, Direction] = {}
        self.sof_words = array("q", (-1,)) * DELIMITER_CACHE
        self.sof_codes = array("q", bytes(8 * DELIMITER_CACHE))
        self.eof_words = array("q", (-1,)) * DELIMITER_CACHE
        self.eof_codes = array("q", bytes(8 * DELIMITER_CACHE))
        self.eof_known = array("q", bytes(8 * 256))
        self.cache = [BLANK] * CACHE
        self.r_ctls = array("q", bytes(8 * 256))
        self.types = array("q", bytes(8 * 256))
        self.others = self.frames = self.frame_bytes = self.ordered_sets = self.fips = 0

    def counts(self) -> tuple[list[int], list[int], list[int]]:
        """PDUs by opcode, frames by TYPE, frames by R_CTL."""
        return list(self.opcodes), list(self.types), list(self.r_ctls)

    def pair(self, key: bytes, back: bytes) -> Direction | None:
        """A new connection, or pair of Fibre Channel addresses; None where there are too many."""
        if len(self.directions) >= DIRECTION_LIMIT:
            self._forget()
            if len(self.directions) >= DIRECTION_LIMIT:
                self.remark("too many connections at a time: this one is passed over", -1)
                return None
        number = len(self.flows)
        d = Direction(number, 0, key)
        d.peer = Direction(number, 1, back)
        d.peer.peer = d
        self.directions[key] = d
        self.directions[back] = d.peer
        self.flows.append((d, d.peer))
        return d

    def _forget(self) -> None:
        """Make room: connections that carry something else are no longer followed."""
        for key, d in list(self.directions.items()):
            if d.protocol == OTHER_STREAM or (d.protocol == 0 and d.frames == 0):
                del self.directions[key]
        self.cache = [BLANK] * CACHE
        followed = {id(d) for d in self.directions.values()}
        empty = (Direction(-1, 0, b""), Direction(-1, 1, b""))
        for number, pair in enumerate(self.flows):
            if (
                id(pair[0]) not in followed
                and id(pair[1]) not in followed
                and pair[0].pdus + pair[1].pdus == 0
            ):
                self.flows[number] = empty

    # --- Fibre Channel ---

    def fcoe(self, at: int, end: int, wire_end: int) -> int:
        """FC-BB-5, FCoE PDU: 13 bytes, SOF, frame, CRC, EOF, 3 bytes."""
        data = self.data
        if end - at < 14 + FRAME_HEADER:
            self.others += 1
            self.remark("an FCoE frame is too short", -1)
            return 0
        content_end = wire_end - 4
        eof = 0
        if end == wire_end:
            eof = data[end - 4]
            if self._is_eof(eof) == 0 and end - at >= 14 + FRAME_HEADER + 12 and self._is_eof(data[end - 8]):
                content_end = wire_end - 8  # the capture has Ethernet's own check sequence
                eof = data[end - 8]
        return self.frame(
            at + 14,
            end if end < content_end - 4 else content_end - 4,
            content_end - 4,
            at,
            data[at + 13],
            eof,
            FCOE,
        )

    def _is_eof(self, code: int) -> int:
        """Whether this is the one-byte code of an end of frame."""
        if self.eof_known[0x41] == 0:
            codes = eof_table()
            for one in range(256):
                self.eof_known[one] = codes[one]
        return self.eof_known[code]

    def delimited(self, at: int, end: int, wire_end: int) -> int:
        """Link type 225: SOF, frame, CRC, EOF; or one or two ordered sets."""
        data = self.data
        if wire_end - at <= 8:
            while end - at >= 4:
                self.ordered_sets += 1
                if self.figures_only:
                    at += 4
                    continue
                place = self.row(self.now, self.base + at, self.interface * 2, 4, ORDERED_SET, 0)
                for i in range(HEADER_BYTES):
                    self.octets[place + i] = data[at + i] if i < 4 else 0
                at += 4
            return 0
        if end - at < 4 + FRAME_HEADER:
            self.others += 1
            self.remark("a Fibre Channel record is too short", -1)
            return 0
        sof = eof = 0
        if self.figures_only == 0:
            word = u32(data, at)
            index = (word >> 16 ^ word) & DELIMITER_CACHE - 1
            if self.sof_words[index] != word:
                self.sof_words[index] = word
                self.sof_codes[index] = delimiter(word, True)
            sof = self.sof_codes[index]
            if end == wire_end:
                word = u32(data, end - 4)
                index = (word >> 16 ^ word) & DELIMITER_CACHE - 1
                if self.eof_words[index] != word:
                    self.eof_words[index] = word
                    self.eof_codes[index] = delimiter(word, False)
                eof = self.eof_codes[index]
        frame_end = wire_end - 8
        return self.frame(at + 4, end if end < frame_end else frame_end, frame_end, at, sof, eof, NATIVE)

    def frame(self, at: int, end: int, wire_end: int, record: int, sof: int, eof: int, carrier: int) -> int:
        """One frame without delimiters and CRC: ``wire_end`` is where its data field ends."""
        data = self.data
        if end - at < FRAME_HEADER:
            self.others += 1
            self.remark("a Fibre Channel frame is too short", -1)
            return 0
        start = at
        vsan = 0
        for _ in range(4):  # extended headers (FC-FS)
            first = data[at]
            if first == 0x50:
                vsan = u16(data, at + 2) >> 1 & 0xFFF
                step = 8
            elif first == 0x51:
                step = 8
            elif first == 0x52:
                step = 24
            else:
                break
            if end - at < FRAME_HEADER + step:
                break
            at += step
        extended = at - start
        d = self._addresses(
            data[at + 1] << 16 | u16(data, at + 2), data[at + 5] << 16 | u16(data, at + 6), vsan
        )
        payload = at + FRAME_HEADER
        df_ctl = data[at + 13]
        if df_ctl:
            if df_ctl & 0x40:
                payload += 8
            if df_ctl & 0x20:
                payload += 16
            if df_ctl & 0x10:
                payload += 32
            if df_ctl & 0x03:
                payload += 8 << (df_ctl & 0x03)
        notes = CUT if end < wire_end else 0
        if end < wire_end and end - payload < HEADER_BYTES - FRAME_HEADER:
            notes |= PAYLOAD_CUT
        length = wire_end - start + DELIMITERS
        offset = self.base + start if self.base >= 0 else -1
        flow = 0
        if d is not None:
            flow = d.number * 2 + d.side
            d.frames += 1
            d.payload += wire_end - payload if wire_end > payload else 0
            d.wire_bytes += length
            if d.first_ns < 0:
                d.first_ns = self.now
            d.last_ns = self.now
        frame_type, r_ctl = data[at + 8], data[at]
        self.types[frame_type] += 1
        self.r_ctls[r_ctl] += 1
        self.frames += 1
        self.frame_bytes += length
        if self.figures_only:
            return 0
        place = self.row(self.now, offset, flow, length, FC, notes)
        words, octets = self.words, self.octets
        word = (self.count - 1) * ROW_WORDS
        words[word + 4] |= sof << 40 | eof << 48
        words[word + 5] |= carrier << 24 | extended >> 3 << 28
        for i in range(FRAME_HEADER):
            octets[place + i] = data[at + i]
        for i in range(HEADER_BYTES - FRAME_HEADER):
            octets[place + FRAME_HEADER + i] = data[payload + i] if payload + i < end else 0
        if self.keep_all or frame_type != 0x08 or (r_ctl == 0x07 and wire_end - payload > 24):
            self.keep_bytes(bytes(self.view[start:end]))
        return 0

    def _addresses(self, d_id: int, s_id: int, vsan: int) -> Direction | None:
        """The direction from one address to another."""
        index = (s_id * 40503 + d_id * 31 + vsan) >> 3 & CACHE - 1
        d: Direction = self.cache[index]
        if d.family == 1 and d.a0 == s_id and d.b0 == d_id and d.ports == vsan:
            return d
        key = bytes((0xFC, s_id >> 16, s_id >> 8 & 255, s_id & 255, d_id >> 16, d_id >> 8 & 255, d_id & 255))
        tail = bytes((vsan >> 8, vsan & 255))
        found = self.directions.get(key + tail)
        if found is None:
            found = self.pair(key + tail, b"\xfc" + key[4:] + key[1:4] + tail)
            if found is None:
                return None
        d = found
        d.family, d.a0, d.b0, d.ports = 1, s_id, d_id, vsan
        self.cache[index] = d
        return d

    def fip(self, at: int, end: int, wire_end: int) -> int:
        """FC-BB-5, FIP: kept whole, for it is rare."""
        place = self.row(self.now, self.base + at, 0, wire_end - at, FIP, CUT if end < wire_end else 0)
        for i in range(HEADER_BYTES):
            self.octets[place + i] = self.data[at + i] if at + i < end else 0
        self.fips += 1
        self.keep_bytes(bytes(self.view[at:end]))
        return 0

    # --- FCIP ---

    def deliver_fcip(self, d: Direction, at: int, captured: int, wire: int) -> int:
        """Bytes of an FCIP stream (RFC 3821): frames are put together one by one."""
        if d.lost:
            place = self._search_fcip(at, captured)
            if place < 0:
                return 0
            d.lost = 0
            at += place
            captured -= place
            wire -= place
        cut = captured < wire
        p = 0
        while p < captured:
            if d.keeping is None:
                d.keeping = bytearray()
                d.total = 0
            need = (d.total if d.total else FCIP_HEADER) - len(d.keeping)
            take = need if need < captured - p else captured - p
            d.keeping += self.view[at + p : at + p + take]
            p += take
            if take < need:
                break
            if d.total == 0:
                d.total = (u16(d.keeping, 12) & 0x3FF) * 4
                if u32(d.keeping, 0) != FCIP_WORD or d.total < FCIP_HEADER or d.total > FCIP_FRAME_LIMIT:
                    self.remark("no FCIP header where one must be", -1)
                    d.lost = 1
                    d.keeping = None
                    return 0
                if d.total > FCIP_HEADER:
                    continue
            whole = bytes(d.keeping)
            d.keeping = None
            self._fcip_frame(d, whole)
        if cut:
            self.cut_headers += 1
            d.lost = 1
            d.keeping = None
        return 0

    def _search_fcip(self, at: int, captured: int) -> int:
        for place in range(captured - 7):
            if u32(self.data, at + place) == FCIP_WORD and u32(self.data, at + place + 4) == FCIP_WORD:
                return place
        return -1

    def _fcip_frame(self, d: Direction, whole: bytes) -> int:
        """One encapsulated frame (RFC 3643 section 3): header, SOF word, frame, CRC, EOF word."""
        d.pdus += 1
        if whole[8] & 1 or len(whole) < FCIP_HEADER + 4 + FRAME_HEADER + 8:
            return 0  # the special frame that opens a connection
        before = self.data, self.view, self.base
        self.data, self.view, self.base = whole, memoryview(whole), -1
        try:
            end = len(whole) - 8
            self.frame(FCIP_HEADER + 4, end, end, 0, whole[FCIP_HEADER], whole[len(whole) - 4], FCIP)
        finally:
            self.data, self.view, self.base = before
        return 0
