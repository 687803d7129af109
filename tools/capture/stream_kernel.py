# cython: boundscheck=True, wraparound=False, cdivision=False, initializedcheck=False, annotation_typing=False
# cython: infer_types=True, language_level=3
"""TCP directions put together again and cut into iSCSI PDUs and FCIP frames, row by row of the table.

Sequence numbers are followed as RFC 9293 section 3.4 has them: what was seen before is trimmed, what comes too early
waits in a bounded side buffer, what the capture lost is given up once its receiver has acknowledged it or the buffer
is full. After that, and where a capture begins in mid-stream, the next header is searched for: it must be one that
RFC 7143 section 11 allows, with its reserved fields as they must be.

Compiled by Cython where a compiler is at hand (types in the .pxd beside), plain Python where not; the same code.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from tools.capture import rows
from tools.capture.header_kernel import known, plausible
from tools.capture.row_kernel import Rows

COMPILED = not __file__.endswith(".py")

# Typed copies: a module's own constants would be looked up by name in compiled code.
HEADER_BYTES = rows.HEADER_BYTES
KEPT_LIMIT = rows.KEPT_LIMIT_BYTES
ISCSI = int(rows.RowKind.ISCSI)
SPLIT, CUT = int(rows.Note.SPLIT), int(rows.Note.CUT)
HEADER_DIGEST, DATA_DIGEST = int(rows.Note.HEADER_DIGEST), int(rows.Note.DATA_DIGEST)
AFTER_GAP, REPEATED = int(rows.Note.AFTER_GAP), int(rows.Note.REPEATED)
PEER_WAITS = int(rows.Note.PEER_WAITS)

BHS = 48
MASK = 0xFFFFFFFF
HALF = 0x80000000
UNDECIDED, ISCSI_STREAM, FCIP_STREAM, OTHER_STREAM = 0, 1, 2, 3
TRIES = 16
"""Segments in which a protocol may be recognised, before a connection counts as something else."""
CERTAIN = 3
"""Headers in a row that make an unknown connection iSCSI."""
SURE_AFTER = 8
"""Headers in a row after which the digests are known."""
HELD_SEGMENTS = 512
HELD_BYTES = 4 << 20
HELD_ALL_BYTES = 64 << 20
GIVE_UP_AFTER = 8
"""Segments held behind a gap that its receiver has acknowledged, before the gap is given up."""
KEPT_OPCODES = (1 << 0x03) | (1 << 0x23) | (1 << 0x04) | (1 << 0x24) | (1 << 0x32) | (1 << 0x21)
"""Login, text, asynchronous messages, rejects, and SCSI responses (for their sense data)."""


def u16(data: Sequence[int], at: int) -> int:
    """Two bytes, big-endian."""
    high = data[at]
    return high << 8 | data[at + 1]


def u32(data: Sequence[int], at: int) -> int:
    """Four bytes, big-endian."""
    b0, b1, b2, b3 = data[at], data[at + 1], data[at + 2], data[at + 3]
    return b0 << 24 | b1 << 16 | b2 << 8 | b3


class Direction:
    """One direction of a TCP connection (or from one FC address to another): its place in the stream, its figures."""

    def __init__(self, number: int, side: int, key: bytes) -> None:
        self.number = number
        self.side = side
        self.key = key
        self.a0 = self.a1 = self.a2 = self.a3 = self.b0 = self.b1 = 0
        self.b2 = self.b3 = self.ports = self.source_port = self.destination_port = self.protocol = 0
        self.role = self.tries = self.score = self.sure = self.agreed = self.slipped = 0
        self.lost = self.started = self.expected = self.have = self.skip = self.total = 0
        self.last_length = self.begin_ns = self.begin_offset = self.notes = self.header_digest = (
            self.data_digest
        ) = 0
        self.wanted_header = self.wanted_data = self.held_bytes = self.initial = self.packets = (
            self.payload
        ) = 0
        self.pdus = self.frames = self.retransmitted = self.out_of_order = self.gaps = self.gap_bytes = 0
        self.cut_headers = self.high = self.any_acknowledged = self.acknowledged = self.max_in_flight = (
            self.max_in_flight_ns
        ) = 0
        self.window = self.mss = self.window_max = self.window_full_ns = self.timed_end = self.rtt_sum_ns = 0
        self.rtt_count = self.family = self.opened = self.high_known = self.window_fulls = self.fresh = (
            self.zero_windows
        ) = 0
        self.wire_bytes = 0
        self.window_scale = self.full_since = -1
        self.first_ns = self.last_ns = self.syn_ns = self.handshake_ns = self.timed_ns = self.rtt_min_ns = -1
        self.header = array("B", bytes(BHS))
        self.keeping: Any = None
        self.prefix: bytes | None = None
        self.held: list[tuple[int, bytes, int, int, int]] | None = None
        self.flight: Any = None
        self.windows: Any = None
        self.in_flight = 0
        self.peer: Direction = self


class Streams(Rows):
    """Streams of TCP connections, and the rows they make. What walks through the packets is a subclass of it."""

    def __init__(self, ports: tuple[int, ...] = (), keep_all: bool = False) -> None:
        Rows.__init__(self)
        self.held_bytes = self.cut_headers = self.incomplete = self.figures_only = 0
        self.flows: list[tuple[Direction, Direction]] = []
        self.ports = frozenset(ports)
        self.only_ports = 1 if ports else 0
        self.keep_all = 1 if keep_all else 0
        self.opcodes = array("q", bytes(8 * 64))

    # --- TCP ---

    def segment(self, d: Direction, seq: int, at: int, captured: int, wire: int) -> int:
        """``wire`` bytes of a stream from sequence number ``seq`` on, of which ``captured`` stand at ``at``."""
        if d.started == 0:
            d.started = 1
            d.expected = seq
            if d.fresh == 0:
                d.lost = 1
                d.notes = AFTER_GAP
        ahead = (seq - d.expected) & MASK
        if ahead >= HALF:
            behind = HALF * 2 - ahead
            d.retransmitted += behind if behind < wire else wire
            if behind >= wire:
                return 0
            d.notes |= REPEATED
            at += behind
            captured = captured - behind if captured > behind else 0
            wire -= behind
        elif ahead > 0:
            if d.protocol == OTHER_STREAM:
                d.expected = (seq + wire) & MASK
                return 0
            return self._hold(d, seq, at, captured, wire)
        d.expected = (d.expected + wire) & MASK
        self._deliver(d, at, captured, wire)
        if d.held is not None:
            self._release(d, True)
        return 0

    def _hold(self, d: Direction, seq: int, at: int, captured: int, wire: int) -> int:
        """A segment that came too early waits for those before it."""
        d.out_of_order += 1
        if d.held is None:
            d.held = []
        held = d.held
        held.append((seq, bytes(self.view[at : at + captured]), wire, self.now, self.packet))
        d.held_bytes += captured
        self.held_bytes += captured
        if (
            len(held) > HELD_SEGMENTS
            or d.held_bytes > HELD_BYTES
            or self.held_bytes > HELD_ALL_BYTES
            or (len(held) >= GIVE_UP_AFTER and self._acknowledged(d))
        ):
            self._give_up(d)
        return 0

    def _acknowledged(self, d: Direction) -> bool:
        """Whether the receiver has what the capture lacks."""
        return bool(d.any_acknowledged) and ((d.acknowledged - d.expected) & MASK) - 1 < HALF - 1

    def _release(self, d: Direction, late: bool) -> int:
        """Deliver what waited and is in place now. ``late``: it could not be understood before this packet came; else
        (a gap was given up) it keeps the time of its own packet."""
        moved = True
        while moved and d.held:
            moved = False
            for place, waiting in enumerate(d.held):
                if (waiting[0] - d.expected) & MASK == 0 or (waiting[0] - d.expected) & MASK >= HALF:
                    del d.held[place]
                    self._deliver_held(d, waiting, late)
                    moved = True
                    break
        if not d.held:
            d.held = None
        return 0

    def _deliver_held(self, d: Direction, waiting: tuple[int, bytes, int, int, int], late: bool) -> None:
        """Deliver one segment that waited."""
        seq, octets, wire, time_ns, packet = waiting
        d.held_bytes -= len(octets)
        self.held_bytes -= len(octets)
        behind = (d.expected - seq) & MASK
        if behind >= wire:
            return
        before = self.data, self.view, self.base, self.now, self.packet
        self.data, self.view, self.base = octets, memoryview(octets), -1
        if not late:
            self.now, self.packet = time_ns, packet
        try:
            d.expected = (d.expected + wire - behind) & MASK
            self._deliver(d, behind, max(0, len(octets) - behind), wire - behind)
        finally:
            self.data, self.view, self.base, self.now, self.packet = before

    def _give_up(self, d: Direction) -> int:
        """What comes before the first waiting segment will not come any more: the capture lost it."""
        while d.held:
            nearest = min(d.held, key=lambda waiting: (waiting[0] - d.expected) & MASK)
            missing = (nearest[0] - d.expected) & MASK
            if missing < HALF and missing > 0:
                d.gaps += 1
                d.gap_bytes += missing
                if d.protocol in (ISCSI_STREAM, FCIP_STREAM):
                    self.remark("bytes of a connection are missing in the capture", -1)
                d.expected = nearest[0]
                self._skip_gap(d, missing)
            self._release(d, False)
        return 0

    def _skip_gap(self, d: Direction, missing: int) -> int:
        """Go on behind a gap: in the same PDU, if it reaches beyond the gap, else wherever the next header is."""
        if d.skip >= missing and d.protocol == ISCSI_STREAM and d.lost == 0:
            d.skip -= missing
            d.notes |= CUT
            d.keeping = None
            if d.skip == 0:
                self._complete(d)
            return 0
        if d.skip and d.lost == 0 and d.protocol == ISCSI_STREAM:
            d.skip = 0
            d.notes |= CUT
            d.keeping = None
            self._complete(d)  # its header is known, the end of its data is not
        elif d.have or d.keeping is not None:
            self.incomplete += 1
        self._lose(d)
        return 0

    def _lose(self, d: Direction) -> int:
        d.lost = 1
        d.have = d.skip = 0
        d.keeping = None
        d.notes = AFTER_GAP
        return 0

    def end(self) -> int:
        """The capture is over: what waits is delivered, what is not whole is counted."""
        for pair in self.flows:
            for d in pair:
                if d.held is not None:
                    self._give_up(d)
                if d.protocol in (ISCSI_STREAM, FCIP_STREAM) and (d.have or d.skip or d.keeping is not None):
                    self.incomplete += 1
        self.finish_part()
        return 0

    # --- what the bytes are ---

    def _decide(self, d: Direction, at: int, captured: int) -> int:
        """Find out what a connection carries; 1 if it is known now."""
        peer = d.peer
        if captured >= 8 and u32(self.data, at) == 0x0101FEFE and u32(self.data, at + 4) == 0x0101FEFE:
            d.protocol = peer.protocol = FCIP_STREAM
            d.lost = peer.lost = 0
            return 1
        mine = self.ours(d)
        opcode = plausible(self.data, at, 0) - 1 if captured >= BHS else -1
        login = opcode == 0x03 or opcode == 0x23
        if (login or (mine and opcode >= 0)) and (not login or not self.only_ports or mine):
            if opcode >= 0:
                d.role = 2 if opcode >= 0x20 else 1
                peer.role = 3 - d.role
            d.protocol = peer.protocol = ISCSI_STREAM
            d.lost = 0
            if login:
                d.notes = peer.notes = 0  # this is where the connection begins
                peer.fresh = 1
            return 1
        if mine and captured >= BHS:
            # Mid-stream on a port for iSCSI: a header may begin anywhere in this segment.
            place = self._search(d, at, 0, captured, 1)
            if place >= 0:
                d.role = 2 if self.data[at + place] & 0x3F >= 0x20 else 1
                peer.role = 3 - d.role
                d.protocol = peer.protocol = ISCSI_STREAM
                d.lost = 1
                return 1
        if not self.only_ports and opcode >= 0 and self._chain(at, captured, d.role):
            d.score += 1
            if d.score >= CERTAIN:
                d.role = 2 if opcode >= 0x20 else 1
                peer.role = 3 - d.role
                d.protocol = peer.protocol = ISCSI_STREAM
                d.lost = 0
                return 1
        d.tries += 1
        if d.tries > TRIES and not mine and d.score == 0:
            d.protocol = OTHER_STREAM
        return 0

    def ours(self, d: Direction) -> int:
        """Whether one of the ports is one that iSCSI is expected on."""
        return 1 if d.source_port in self.ports or d.destination_port in self.ports else 0

    def _chain(self, at: int, captured: int, role: int) -> int:
        """Whether headers follow each other from here to the end of the segment, or as far as it shows."""
        place = 0
        while captured - place >= BHS:
            if not plausible(self.data, at + place, role):
                return 0
            lengths = u32(self.data, at + place + 4)
            place += BHS + (lengths >> 24) * 4 + ((lengths & 0xFFFFFF) + 3 & ~3)
        return 1

    def _search(self, d: Direction, at: int, p: int, captured: int, least: int) -> int:
        """The first place from ``p`` on where a header can stand; -1: none. In the middle of a segment it takes
        ``least`` headers in a row, or one whose PDU ends with the segment."""
        data = self.data
        role = d.role
        place = p
        last = captured - BHS
        while place <= last:
            if plausible(data, at + place, role):
                if place == 0:
                    return place
                chain = 0
                follow = place
                while True:
                    if follow == captured or (captured - follow < BHS and chain >= least):
                        return place
                    if follow > last or not plausible(data, at + follow, role):
                        break
                    chain += 1
                    if chain > least:
                        return place
                    lengths = u32(data, at + follow + 4)
                    follow += BHS + (lengths >> 24) * 4 + ((lengths & 0xFFFFFF) + 3 & ~3)
                    follow += d.header_digest * 4
                    if lengths & 0xFFFFFF:
                        follow += d.data_digest * 4
            place += 1
        return -1

    # --- PDUs ---

    def _deliver(self, d: Direction, at: int, captured: int, wire: int) -> int:
        """The next ``wire`` bytes of a stream, of which ``captured`` stand at ``at``."""
        d.payload += wire
        if d.protocol == OTHER_STREAM:
            return 0
        if d.prefix is not None or (d.protocol == UNDECIDED and captured < BHS):
            return self._deliver_beginning(d, at, captured, wire)
        if d.protocol == UNDECIDED and self._decide(d, at, captured) == 0:
            return 0
        if d.protocol == FCIP_STREAM:
            return self.deliver_fcip(d, at, captured, wire)
        p = 0
        while p < wire:
            if d.skip > 0:
                take = d.skip if d.skip < wire - p else wire - p
                if p + take > captured:
                    d.notes |= CUT
                if d.keeping is not None:
                    self._gather(d, at + p, take if p + take <= captured else captured - p, take)
                p += take
                d.skip -= take
                if d.skip == 0:
                    self._complete(d)
                continue
            left = captured - p
            if d.lost:
                p = self._find_again(d, at, p, captured)
                if p < 0:
                    return 0
                left = captured - p
            if d.have == 0 and left >= BHS:
                if self._header_is_bad(d, at + p):
                    continue
                d.begin_ns = self.now
                d.begin_offset = self.base + at + p if self.base >= 0 else -1
                self._copy(d, at + p)
                p += BHS
                self._begun(d, wire - p)
                continue
            if left <= 0:
                # The header is beyond the snap length: the next one is found in the next segment.
                self.cut_headers += 1
                self._lose(d)
                return 0
            if d.have == 0:
                d.begin_ns = self.now
                d.begin_offset = -1
            take = BHS - d.have if BHS - d.have < left else left
            for i in range(take):
                d.header[d.have + i] = self.data[at + p + i]
            d.have += take
            p += take
            d.notes |= SPLIT
            if d.have == BHS:
                d.have = 0
                good = known(d.header, 0) if self._lenient(d) else plausible(d.header, 0, d.role)
                if not good:
                    self._no_header(d)
                    continue
                d.sure += 1
                self._begun(d, wire - p)
        return 0

    def _deliver_beginning(self, d: Direction, at: int, captured: int, wire: int) -> int:
        """What a connection carries is found out from its first bytes together, however small its segments are."""
        octets = (d.prefix if d.prefix is not None else b"") + bytes(self.view[at : at + captured])
        d.prefix = None
        if d.protocol == UNDECIDED and len(octets) < BHS:
            if captured == wire:
                d.prefix = octets
            return 0
        d.payload -= len(octets)
        before = self.data, self.view, self.base
        self.data, self.view, self.base = octets, memoryview(octets), -1
        try:
            if d.protocol != UNDECIDED or self._decide(d, 0, len(octets)):
                self._deliver(d, 0, len(octets), len(octets) + wire - captured)
            else:
                d.payload += len(octets)
        finally:
            self.data, self.view, self.base = before
        return 0

    def _find_again(self, d: Direction, at: int, p: int, captured: int) -> int:
        """Where the next header is in this segment, or -1. A shift by one or two digests tells that there are some."""
        place = -1
        if d.slipped and not d.agreed:
            for shift in (4, 8):
                if p + shift + BHS <= captured and plausible(self.data, at + p + shift, d.role):
                    place = p + shift
                    break
        if place < 0:
            place = self._search(d, at, p, captured, 1)
        if place < 0:
            return -1
        shift = place - p
        if d.slipped and (shift == 4 or shift == 8) and not d.agreed:
            # A PDU with data does not tell which of the two digests it is; one without data does.
            if shift == 8:
                d.header_digest = d.data_digest = 1
            elif d.slipped == 1:
                d.data_digest = 1 if d.header_digest else 0
                d.header_digest = 1
            else:
                d.data_digest = 1
            d.peer.header_digest, d.peer.data_digest = d.header_digest, d.data_digest
        d.slipped = 0
        d.lost = 0
        d.notes |= AFTER_GAP
        return place

    def _header_is_bad(self, d: Direction, at: int) -> int:
        """Whether no header can be there; then it is searched for."""
        good = known(self.data, at) if self._lenient(d) else plausible(self.data, at, d.role)
        if good:
            d.sure += 1
            return 0
        self._no_header(d)
        return 1

    def _lenient(self, d: Direction) -> bool:
        """Whether the place of headers is beyond doubt, so that they may be as wrong as they like."""
        return bool(d.agreed or (d.sure >= SURE_AFTER and d.header_digest == 0 and d.data_digest == 0))

    def _no_header(self, d: Direction) -> int:
        if d.agreed:
            self.remark("no iSCSI header where one must be", -1)
        self._lose(d)
        d.slipped = 2 if d.last_length else 1
        return 0

    def _copy(self, d: Direction, at: int) -> int:
        header = d.header
        data = self.data
        for i in range(BHS):
            header[i] = data[at + i]
        return 0

    def _begun(self, d: Direction, left: int) -> int:
        """A header is whole: how much follows it, and whether it is kept."""
        header = d.header
        lengths = u32(header, 4)
        length = lengths & 0xFFFFFF
        opcode = header[0] & 0x3F
        body = (lengths >> 24) * 4 + (length + 3 & ~3)
        if d.header_digest:
            body += 4
            d.notes |= HEADER_DIGEST
        if d.data_digest and length:
            body += 4
            d.notes |= DATA_DIGEST
        d.total = BHS + body
        d.last_length = length
        d.skip = body
        wanted = self.keep_all or lengths >> 24 or (KEPT_OPCODES >> opcode) & 1 or opcode == 0x3F
        if wanted and (length or self.keep_all or lengths >> 24) and (self.keep_all or length <= KEPT_LIMIT):
            d.keeping = bytearray(header)
        if body > left:
            d.notes |= SPLIT
        if body == 0:
            self._complete(d)
        return 0

    def _gather(self, d: Direction, at: int, captured: int, wire: int) -> int:
        """Keep more of a PDU; bytes that were not captured count as zero."""
        if captured > 0:
            d.keeping += self.view[at : at + captured]
        else:
            captured = 0
        if wire > captured:
            d.keeping += bytes(wire - captured)
        return 0

    def _complete(self, d: Direction) -> int:
        """The PDU whose header is at hand is whole."""
        header = d.header
        opcode = header[0] & 0x3F
        back = 1 if opcode >= 0x20 else 0
        if self.figures_only == 0:
            peer = d.peer
            if peer.held is not None or self._acknowledged(peer):
                d.notes |= PEER_WAITS
            at = self.row(d.begin_ns, d.begin_offset, d.number * 2 + back, d.total, ISCSI, d.notes & 0x7F)
            octets = self.octets
            for i in range(BHS):
                octets[at + i] = header[i]
            for i in range(BHS, HEADER_BYTES):
                octets[at + i] = 0
        self.opcodes[opcode] += 1
        d.pdus += 1
        d.notes = 0
        if d.keeping is not None:
            whole = bytes(d.keeping)
            d.keeping = None
            if self.figures_only == 0:
                self.keep_bytes(whole)
            if opcode == 0x03 or opcode == 0x23:
                self._login(d, whole)
        elif opcode == 0x23:
            self._login(d, bytes(header))
        return 0

    def _login(self, d: Direction, pdu: bytes) -> None:
        """What a login says about digests, and its end, from which on they are used (RFC 7143 section 13.1)."""
        peer = d.peer
        for pair in pdu[BHS:].split(b"\0"):
            name, _, value = pair.partition(b"=")
            if b"," not in value:
                if name == b"HeaderDigest":
                    d.wanted_header = peer.wanted_header = value == b"CRC32C"
                elif name == b"DataDigest":
                    d.wanted_data = peer.wanted_data = value == b"CRC32C"
        if pdu[0] & 0x3F == 0x23 and pdu[1] & 0x83 == 0x83 and pdu[36] == 0:
            for side in (d, peer):
                side.header_digest, side.data_digest = side.wanted_header, side.wanted_data
                side.agreed = 1

    def deliver_fcip(self, d: Direction, at: int, captured: int, wire: int) -> int:
        """Bytes of an FCIP stream; what reads Fibre Channel frames does this."""
        return 0
