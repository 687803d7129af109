# cython: boundscheck=True, wraparound=False, cdivision=False, initializedcheck=False, annotation_typing=False
# cython: infer_types=True, language_level=3
"""The walk through a capture file: records of pcap (draft-ietf-opsawg-pcap), blocks of pcapng (-pcapng).

Both byte orders, any time resolution, several sections and interfaces. What cannot be a record is passed over up to
the next bytes that can be one; every such place is remarked with its packet and offset.

Compiled by Cython where a compiler is at hand (types in the .pxd beside), plain Python where not; the same code.
"""

from __future__ import annotations

from array import array
from typing import Any

from tools.capture.interfaces import describe, exact_time_ns, options_of
from tools.capture.packet_kernel import Packets

COMPILED = not __file__.endswith(".py")

RECORD_LIMIT = 16 << 20
SECTION, INTERFACE, OLD_PACKET, SIMPLE, NAMES, STATISTICS, ENHANCED = 0x0A0D0D0A, 1, 2, 3, 4, 5, 6
UNKNOWN_FILE, PCAP, PCAPNG = 0, 1, 2
INTERFACE_LIMIT = 65_536
EXACT, MICRO, NANO = 0, 1, 2
NS_PER_S = 1_000_000_000
SECOND_LIMIT = 4_102_444_800
"""2100-01-01: a time beyond it is damage when a lost place is searched for."""


class Scanner(Packets):
    """Walks through files, one after the other. ``feed`` takes their bytes, ``take`` gives what became of them."""

    def __init__(self, ports: tuple[int, ...] = (), keep_all: bool = False) -> None:
        Packets.__init__(self, ports, keep_all)
        self.link_types = array("q")
        self.resolutions = array("q")
        self.snap_lengths = array("q")
        self.described: list[Any] = []
        self.names: list[str] = []
        self.reported_drops: dict[tuple[int, int], int] = {}
        self.files = self.first_ns = self.last_ns = self.format = self.searching = self.stuck = 0
        self.first_interface = self.big = self.nano = self.record_header = self.link_type = self.snap = 0

    def begin(self) -> int:
        """Another file begins."""
        self.format = UNKNOWN_FILE
        self.files += 1
        self.searching = 0
        self.first_interface = len(self.names)
        return 0

    def feed(self, buffer: Any, start: int, end: int, base: int, final: bool) -> int:
        """Walk through ``buffer[start:end]``, whose byte 0 stands at ``base`` of the file; where it stopped.

        It stops at the end of the last whole record, or earlier when a part of the table is ready. ``final``: the
        file ends there.
        """
        self.data = buffer
        self.view = memoryview(buffer)
        self.base = base
        at = start
        try:
            while at < end and not self.ready:
                if self.format == UNKNOWN_FILE:
                    at = self._recognise(at, end)
                    if self.format == UNKNOWN_FILE:
                        break
                    continue
                if self.searching:
                    self.stuck = 0
                    at = self._find_record(at, end, final)
                    if self.stuck:
                        break
                    continue
                if self.format == PCAP:
                    after = self._records(at, end)
                else:
                    after = self._blocks(at, end)
                if after == at and not self.searching:
                    break
                at = after
            if final and at < end and not self.ready:
                if self.format != UNKNOWN_FILE:
                    self.remark("the file ends inside a record", base + at)
                else:
                    self.remark("this is neither a pcapng nor a pcap file", base + at)
                at = end
        finally:
            self.data = b""
            self.view = memoryview(b"")
        return at

    def _read32(self, at: int) -> int:
        data = self.data
        b0, b1, b2, b3 = data[at], data[at + 1], data[at + 2], data[at + 3]
        if self.big:
            return b0 << 24 | b1 << 16 | b2 << 8 | b3
        return b3 << 24 | b2 << 16 | b1 << 8 | b0

    def _read16(self, at: int) -> int:
        b0, b1 = self.data[at], self.data[at + 1]
        return b0 << 8 | b1 if self.big else b1 << 8 | b0

    def _recognise(self, at: int, end: int) -> int:
        """The beginning of a file."""
        if end - at < 24:
            return at
        self.big = 0
        magic = self._read32(at)
        if magic == SECTION:
            self.format = PCAPNG
            return at
        for big in (0, 1):
            self.big = big
            magic = self._read32(at)
            if magic == 0xA1B2C3D4 or magic == 0xA1B23C4D or magic == 0xA1B2CD34:
                self.format = PCAP
                self.nano = 1 if magic == 0xA1B23C4D else 0
                self.record_header = 24 if magic == 0xA1B2CD34 else 16
                self.link_type = self._read32(at + 20) & 0xFFFF
                self.snap = self._read32(at + 16)
                self.interface = self._interface(self.link_type, MICRO, self.snap, None, "")
                return at + 24
        self.remark("this is neither a pcapng nor a pcap file", self.base + at)
        return end

    def _interface(self, link_type: int, resolution: int, snap: int, description: Any, name: str) -> int:
        """A new interface; its number over all files."""
        number = len(self.names)
        if number >= INTERFACE_LIMIT:
            self.remark("too many interfaces", self.base)
            return INTERFACE_LIMIT - 1
        self.link_types.append(link_type)
        self.resolutions.append(resolution)
        self.snap_lengths.append(snap)
        self.described.append(description)
        self.names.append(name)
        self.link_of = array("q", self.link_types)
        self.resolution_of = array("q", self.resolutions)
        self.snap_of = array("q", self.snap_lengths)
        return number

    # --- pcap ---

    def _records(self, at: int, end: int) -> int:
        """Records up to the end, or until a part of the table is ready."""
        header = self.record_header
        fraction_limit = NS_PER_S if self.nano else 1_000_000
        scale = 1 if self.nano else 1000
        link_type = self.link_type
        while end - at >= header and not self.ready:
            seconds = self._read32(at)
            fraction = self._read32(at + 4)
            captured = self._read32(at + 8)
            original = self._read32(at + 12)
            if captured > RECORD_LIMIT or fraction >= fraction_limit:
                self._lost_place("a record that cannot be", at)
                return at
            if end - at - header < captured:
                break
            original = max(original, captured)
            self.now = seconds * NS_PER_S + fraction * scale
            self._timed()
            self.packet += 1
            self.one_packet(
                link_type, at + header, captured, original if original < RECORD_LIMIT else captured
            )
            at += header + captured
        return at

    def _timed(self) -> int:
        if self.first_ns == 0 or self.now < self.first_ns:
            self.first_ns = self.now
        self.last_ns = max(self.last_ns, self.now)
        return 0

    # --- pcapng ---

    def _blocks(self, at: int, end: int) -> int:
        """Blocks up to the end, or until a part of the table is ready."""
        while end - at >= 12 and not self.ready:
            kind = self._read32(at)
            if kind == SECTION:
                if end - at < 28:
                    break
                self.big = 0
                magic = self._read32(at + 8)
                if magic != 0x1A2B3C4D:
                    self.big = 1
                    if self._read32(at + 8) != 0x1A2B3C4D:
                        self._lost_place("a section with a wrong byte-order magic", at)
                        return at
            length = self._read32(at + 4)
            if length < 12 or length & 3 or length > RECORD_LIMIT + 65_536:
                self._lost_place("a block that cannot be", at)
                return at
            if end - at < length:
                break
            if self._read32(at + length - 4) != length:
                self._lost_place("a block whose two lengths differ", at)
                return at
            if kind == ENHANCED:
                self._enhanced(at + 8, at + length - 4)
            elif kind == SECTION:
                self.first_interface = len(self.names)
            elif kind == INTERFACE:
                self._describe(bytes(self.view[at + 8 : at + length - 4]), at)
            elif kind in (SIMPLE, OLD_PACKET):
                self._other_packet(kind, at + 8, at + length - 4)
            elif kind == STATISTICS:
                self._statistics(bytes(self.view[at + 8 : at + length - 4]))
            at += length
        return at

    def _describe(self, body: bytes, at: int) -> None:
        found = describe(body, ">" if self.big else "<")
        if found is None:
            self.remark("an interface description that cannot be", self.base + at)
            self._interface(0xFFFF, EXACT, 0, (1_000_000, 0), "")
            return
        resolution = EXACT
        if found.offset_s == 0 and found.units_per_s == 1_000_000:
            resolution = MICRO
        elif found.offset_s == 0 and found.units_per_s == NS_PER_S:
            resolution = NANO
        times = (found.units_per_s, found.offset_s)
        self._interface(found.link_type, resolution, found.snap_bytes, times, found.name)

    def _enhanced(self, at: int, end: int) -> int:
        """An enhanced packet block, without its frame."""
        if end - at < 20:
            self.remark("an enhanced packet is too short", self.base + at)
            return 0
        number = self._read32(at) + self.first_interface
        high = self._read32(at + 4)
        low = self._read32(at + 8)
        captured = self._read32(at + 12)
        original = self._read32(at + 16)
        self.packet += 1
        if number >= len(self.names):
            self.remark("a packet of an interface that is not described", self.base + at)
            return 0
        if captured > end - at - 20:
            self.remark("a packet that reaches beyond its block", self.base + at)
            captured = end - at - 20
        if original < captured or original > RECORD_LIMIT:
            original = captured
        resolution = self.resolution_of[number]
        if resolution == NANO and high < 0x70000000:
            self.now = high << 32 | low
        elif resolution == MICRO and high < 2_000_000:
            self.now = (high << 32 | low) * 1000
        else:
            self.now = exact_time_ns(high, low, self.described[number])
        self._timed()
        self.interface = number if number < INTERFACE_LIMIT else INTERFACE_LIMIT - 1
        link_type = self.link_of[self.interface]
        self.way = 0
        if link_type == 225 or link_type == 224:
            options = at + 20 + (captured + 3 & ~3)
            if end - options >= 8:
                self.way = self._flags(bytes(self.view[options:end]))
        self.one_packet(link_type, at + 20, captured, original)
        return 0

    def _flags(self, options: bytes) -> int:
        """The direction in an enhanced packet's flags: 1 in, 2 out, 0 not told."""
        flags = options_of(options, ">" if self.big else "<").get(2, b"")
        return (flags[3] if self.big else flags[0]) & 3 if len(flags) == 4 else 0

    def _other_packet(self, kind: int, at: int, end: int) -> int:
        """A simple packet block, which has no time, or the packet block of old."""
        self.packet += 1
        self.way = 0
        if kind == SIMPLE:
            if end - at < 4 or self.first_interface >= len(self.names):
                self.remark("a simple packet without an interface", self.base + at)
                return 0
            number = self.first_interface
            original = self._read32(at)
            captured = original
            snap = self.snap_of[number]
            if snap and captured > snap:
                captured = snap
            at += 4
        else:
            if end - at < 20:
                self.remark("a packet block is too short", self.base + at)
                return 0
            number = self._read16(at) + self.first_interface
            captured = self._read32(at + 12)
            original = self._read32(at + 16)
            if number >= len(self.names):
                self.remark("a packet of an interface that is not described", self.base + at)
                return 0
            self.now = exact_time_ns(self._read32(at + 4), self._read32(at + 8), self.described[number])
            self._timed()
            at += 20
        if captured > end - at:
            self.remark("a packet that reaches beyond its block", self.base + at)
            captured = end - at
        if original < captured or original > RECORD_LIMIT:
            original = captured
        self.interface = number if number < INTERFACE_LIMIT else INTERFACE_LIMIT - 1
        self.one_packet(self.link_of[self.interface], at, captured, original)
        return 0

    def _statistics(self, body: bytes) -> None:
        """How many packets the capture itself lost."""
        order = ">" if self.big else "<"
        if len(body) < 12:
            return
        number = self._number(body[:4]) + self.first_interface
        dropped = options_of(body[12:], order).get(5, b"")
        if len(dropped) == 8:
            self.reported_drops[self.files, number] = int.from_bytes(dropped, "big" if self.big else "little")

    def _number(self, octets: bytes) -> int:
        return int.from_bytes(octets, "big" if self.big else "little")

    # --- a lost place ---

    def _lost_place(self, what: str, at: int) -> int:
        self.remark(what, self.base + at)
        self.searching = 1
        return 0

    def _find_record(self, at: int, end: int, final: bool) -> int:
        """The next place where a record can be: it is followed by another, or by the end of the file."""
        step = 4 if self.format == PCAPNG else 1
        place = at + step if self.searching == 1 else at
        self.searching = 2
        while end - place >= 28:
            after = self._record_end(place, end)
            if after > 0:
                if end - after >= 28:
                    good = self._record_end(after, end) > 0
                elif final:
                    good = after <= end
                else:
                    self.stuck = 1  # more must be seen
                    return place
                if good:
                    self.searching = 0
                    return place
            place += step
        if final:
            self.searching = 0
            self.remark("no record is found behind a damaged place", self.base + at)
            return end
        self.stuck = 1
        return place

    def _record_end(self, at: int, end: int) -> int:
        """Where the record that can be at this place ends; 0: none can."""
        if self.format == PCAP:
            captured = self._read32(at + 8)
            original = self._read32(at + 12)
            limit = NS_PER_S if self.nano else 1_000_000
            seconds = self._read32(at)
            near = self.last_ns // NS_PER_S
            if (
                captured == 0
                or captured > original
                or captured > (self.snap if 0 < self.snap < RECORD_LIMIT else RECORD_LIMIT)
                or original > RECORD_LIMIT
                or self._read32(at + 4) >= limit
                or seconds > SECOND_LIMIT
                or (near > 0 and (seconds > near + 86_400 or seconds < near - 86_400))
            ):
                return 0
            return at + self.record_header + captured
        kind = self._read32(at)
        length = self._read32(at + 4)
        if length < 12 or length & 3 or length > RECORD_LIMIT or end - at < length:
            return 0
        if kind != SECTION and not 1 <= kind <= 6 and kind != 0x0A and kind != 0x0BAD and kind != 0x40000BAD:
            return 0
        if self._read32(at + length - 4) != length:
            return 0
        return at + length
