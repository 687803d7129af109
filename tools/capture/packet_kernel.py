# cython: boundscheck=True, wraparound=False, cdivision=False, initializedcheck=False, annotation_typing=False
# cython: infer_types=True, language_level=3
"""From a packet to what it carries: link layers, IP, TCP segments with their figures, Fibre Channel frames.

Lengths come from the IP header; where a super-packet is too long for it to say (0: segmentation offload, BIG TCP), from
the length of the packet. Nothing that a packet says is believed beyond its own end.

Compiled by Cython where a compiler is at hand (types in the .pxd beside), plain Python where not; the same code.
"""

from __future__ import annotations

from tools.capture import rows
from tools.capture.fragments import Fragments
from tools.capture.frame_kernel import BLANK, Frames
from tools.capture.peaks_kernel import PeakSteps
from tools.capture.stream_kernel import Direction

COMPILED = not __file__.endswith(".py")

# Typed copies: a module's own constants would be looked up by name in compiled code.
NATIVE = int(rows.Carrier.NATIVE)
MASK, HALF = 0xFFFFFFFF, 0x80000000
SYN, FIN, RST, ACK = 0x02, 0x01, 0x04, 0x10
CACHE = 4096
FRAME_HEADER = 24
ISCSI_STREAM = 1
FLIGHTS = 256
"""Directions whose bytes in flight are followed over time each; all of them count in the sum."""


def u16(data: bytes, at: int) -> int:
    """Two bytes, big-endian."""
    high = data[at]
    return high << 8 | data[at + 1]


def u32(data: bytes, at: int) -> int:
    """Four bytes, big-endian."""
    b0, b1, b2, b3 = data[at], data[at + 1], data[at + 2], data[at + 3]
    return b0 << 24 | b1 << 16 | b2 << 8 | b3


class Packets(Frames):
    """Takes packets one by one. What walks through the file is a subclass of it."""

    def __init__(self, ports: tuple[int, ...] = (), keep_all: bool = False) -> None:
        Frames.__init__(self, ports, keep_all)
        self.fragments = Fragments()
        self.bytes = self.cut_packets = self.unknown_links = self.fragmented = self.tcp_packets = (
            self.vlan
        ) = 0
        self.family = self.addresses_at = 0
        self.follow_flights = self.flights = self.flight_sum = 0
        self.flight_all = PeakSteps()
        self.a0 = self.a1 = self.a2 = self.a3 = self.b0 = self.b1 = self.b2 = self.b3 = 0

    def one_packet(self, link_type: int, at: int, captured: int, original: int) -> int:
        """A packet of ``original`` bytes, of which ``captured`` stand at ``at``."""
        end = at + captured
        self.place = self.base + at
        self.bytes += original
        if captured < original:
            self.cut_packets += 1
        if link_type == 1:
            return self._ethernet(at, end, at + original)
        if link_type == 225:
            return self.delimited(at, end, at + original)
        if link_type == 224:
            return self.frame(at, end, at + original, at, 0, 0, NATIVE)
        skip = -1
        if link_type == 101 or link_type == 12 or link_type == 228 or link_type == 229:
            skip = 0
        elif link_type == 0 or link_type == 108:
            skip = 4
        elif link_type == 113 and captured >= 16:
            return self._network(u16(self.data, at + 14), at + 16, end, at + original)
        elif link_type == 276 and captured >= 20:
            return self._network(u16(self.data, at), at + 20, end, at + original)
        if skip < 0 or captured <= skip:
            self.unknown_links += 1
            return 0
        version = self.data[at + skip] >> 4
        if version == 4:
            return self._network(0x0800, at + skip, end, at + original)
        if version == 6:
            return self._network(0x86DD, at + skip, end, at + original)
        self.others += 1
        return 0

    def _ethernet(self, at: int, end: int, wire_end: int) -> int:
        """An Ethernet frame, with at most four VLAN tags (IEEE 802.1Q)."""
        if end - at < 14:
            self.others += 1
            return 0
        self.vlan = 0
        ethertype = u16(self.data, at + 12)
        at += 14
        for _ in range(4):
            if ethertype != 0x8100 and ethertype != 0x88A8 and ethertype != 0x9100:
                break
            if end - at < 4:
                self.others += 1
                return 0
            self.vlan = u16(self.data, at) & 0xFFF
            ethertype = u16(self.data, at + 2)
            at += 4
        return self._network(ethertype, at, end, wire_end)

    def _network(self, ethertype: int, at: int, end: int, wire_end: int) -> int:
        if ethertype == 0x0800:
            return self._ipv4(at, end, wire_end)
        if ethertype == 0x86DD:
            return self._ipv6(at, end, wire_end)
        if ethertype == 0x8906:
            return self.fcoe(at, end, wire_end)
        if ethertype == 0x8914:
            return self.fip(at, end, wire_end)
        if (ethertype == 0x8100 or ethertype == 0x88A8) and end - at >= 4:  # a tag behind a cooked header
            return self._network(u16(self.data, at + 2) | 0x10000, at + 4, end, wire_end)
        if ethertype >= 0x10000:
            return self._network(ethertype & 0xFFFF, at, end, wire_end) if ethertype & 0xFFFF != 0x8100 else 0
        self.others += 1
        return 0

    # --- IP ---

    def _ipv4(self, at: int, end: int, wire_end: int) -> int:
        """RFC 791."""
        data = self.data
        if end - at < 20 or data[at] >> 4 != 4:
            self.others += 1
            return 0
        header = (data[at] & 0xF) * 4
        total = u16(data, at + 2)
        ip_end = at + total if total else wire_end
        if header < 20 or ip_end < at + header or end - at < header:
            self.others += 1
            return 0
        ip_end = min(ip_end, wire_end)
        end = min(end, ip_end)  # the rest is Ethernet's padding
        fragment = u16(data, at + 6)
        if fragment & 0x3FFF:
            key = (
                bytes(self.view[at + 12 : at + 20])
                + bytes(self.view[at + 4 : at + 6])
                + bytes((data[at + 9],))
            )
            return self._fragment(
                key,
                data[at + 9],
                at,
                20,
                at + header,
                end,
                ip_end,
                (fragment & 0x1FFF) * 8,
                fragment & 0x2000,
            )
        if data[at + 9] != 6:
            self.others += 1
            return 0
        self.a0, self.b0 = u32(data, at + 12), u32(data, at + 16)
        self.a1 = self.a2 = self.a3 = self.b1 = self.b2 = self.b3 = 0
        self.family = 4
        self.addresses_at = at + 12
        return self._tcp(at + header, end, ip_end)

    def _ipv6(self, at: int, end: int, wire_end: int) -> int:
        """RFC 8200, with its extension headers."""
        data = self.data
        if end - at < 40 or data[at] >> 4 != 6:
            self.others += 1
            return 0
        length = u16(data, at + 4)
        ip_end = at + 40 + length if length else wire_end
        ip_end = min(ip_end, wire_end)
        end = min(end, ip_end)
        next_header = data[at + 6]
        place = at + 40
        for _ in range(16):
            if next_header == 6 or end - place < 8:
                break
            if next_header == 0 or next_header == 43 or next_header == 60:
                next_header, place = data[place], place + (data[place + 1] + 1) * 8
            elif next_header == 51:
                next_header, place = data[place], place + (data[place + 1] + 2) * 4
            elif next_header == 44:
                offset = u16(data, place + 2)
                if offset & 0xFFF9 == 0:
                    next_header, place = data[place], place + 8  # an atomic fragment
                    continue
                key = bytes(self.view[at + 8 : at + 40]) + bytes(self.view[place + 4 : place + 8])
                return self._fragment(
                    key, data[place], at, 40, place + 8, end, ip_end, offset & 0xFFF8, offset & 1
                )
            else:
                break
        if next_header != 6:
            self.others += 1
            return 0
        self.a0, self.a1 = u32(data, at + 8), u32(data, at + 12)
        self.a2, self.a3 = u32(data, at + 16), u32(data, at + 20)
        self.b0, self.b1 = u32(data, at + 24), u32(data, at + 28)
        self.b2, self.b3 = u32(data, at + 32), u32(data, at + 36)
        self.family = 6
        self.addresses_at = at + 8
        return self._tcp(place, end, ip_end)

    def _fragment(
        self,
        key: bytes,
        protocol: int,
        at: int,
        header: int,
        start: int,
        end: int,
        ip_end: int,
        offset: int,
        more: int,
    ) -> int:
        """A piece of a datagram; the piece that makes it whole brings the segment that it carries."""
        self.fragmented += 1
        if protocol != 6:
            self.others += 1
            return 0
        if end < ip_end:
            self.remark("a fragment is cut by the snap length", -1)
            return 0
        payload = bytes(self.view[start:end])
        whole = self.fragments.receive(key, offset, bool(more), payload)
        if whole is None:
            return 0
        addresses = bytes(self.view[at + (12 if header == 20 else 8) : at + header])
        before = self.data, self.view, self.base
        datagram = addresses + whole
        self.data, self.view, self.base = datagram, memoryview(datagram), -1
        try:
            self.addresses_at = 0
            self.a1 = self.a2 = self.a3 = self.b1 = self.b2 = self.b3 = 0
            if header == 20:
                self.family, self.a0, self.b0 = 4, u32(datagram, 0), u32(datagram, 4)
            else:
                self.family = 6
                self.a0, self.a1, self.a2, self.a3 = (u32(datagram, n) for n in (0, 4, 8, 12))
                self.b0, self.b1, self.b2, self.b3 = (u32(datagram, n) for n in (16, 20, 24, 28))
            return self._tcp(len(addresses), len(datagram), len(datagram))
        finally:
            self.data, self.view, self.base = before

    # --- TCP ---

    def _tcp(self, at: int, end: int, ip_end: int) -> int:
        """One segment (RFC 9293 section 3.1)."""
        data = self.data
        if end - at < 20:
            self.others += 1
            return 0
        self.tcp_packets += 1
        ports = u32(data, at)
        d = self._direction(ports, at)
        if d is None:
            return 0
        peer = d.peer
        seq = u32(data, at + 4)
        header = (data[at + 12] >> 4) * 4
        flags = data[at + 13]
        if header < 20 or at + header > ip_end:
            self.remark("a TCP header is longer than its packet", -1)
            return 0
        wire = ip_end - at - header
        captured = end - at - header
        captured = max(captured, 0)
        if flags & SYN:
            if (d.syn_ns >= 0 and d.initial != seq) or (d.started and d.syn_ns < 0 and not flags & ACK):
                d = self._again(d)
                peer = d.peer
            self._syn(d, seq, flags, at + 20, at + header if at + header < end else end)
            seq = (seq + 1) & MASK
        elif peer.syn_ns >= 0 and peer.handshake_ns < 0 and d.syn_ns >= 0 and flags & ACK:
            peer.handshake_ns = d.handshake_ns = self.now - (
                d.syn_ns if d.syn_ns < peer.syn_ns else peer.syn_ns
            )
        d.packets += 1
        if d.first_ns < 0:
            d.first_ns = self.now
        d.last_ns = self.now
        if flags & ACK:
            self._acknowledge(peer, u32(data, at + 8), u16(data, at + 14), d, flags & SYN)
        if wire > 0:
            self._sent(d, (seq + wire) & MASK)
            self.segment(d, seq, at + header, captured, wire)
        if self.follow_flights:
            self._follow(peer, flags & RST)  # what is acknowledged has left before anything is sent
            self._follow(d, flags & RST)
        return 0

    def _follow(self, d: Direction, reset: int) -> int:
        """Bytes in flight of a direction have changed, perhaps: what was sent, and not acknowledged or given up."""
        if d.protocol != ISCSI_STREAM:
            return 0
        flight = 0
        if d.any_acknowledged and d.high_known and not reset:
            flight = (d.high - d.acknowledged) & MASK
            if flight >= HALF:
                flight = 0
        if flight == d.in_flight:
            return 0
        self.flight_sum += flight - d.in_flight
        d.in_flight = flight
        self.flight_all.add(self.now, self.flight_sum)
        if d.flight is None:
            if self.flights >= FLIGHTS:
                return 0
            self.flights += 1
            d.flight = PeakSteps()
            d.windows = PeakSteps()
        d.flight.add(self.now, flight)
        if d.window > 0:
            d.windows.add(self.now, d.window)
        return 0

    def _direction(self, ports: int, at: int) -> Direction | None:
        """The direction that the addresses and ports name; a new connection where there is none."""
        index = (ports * 1000003 + self.b0 * 40503 + self.a0 + self.b3 * 31 + self.a3) >> 5 & CACHE - 1
        d: Direction = self.cache[index]
        if (
            d.ports == ports
            and d.a0 == self.a0
            and d.b0 == self.b0
            and d.family == self.family
            and d.a3 == self.a3
            and d.b3 == self.b3
            and d.a1 == self.a1
            and d.b1 == self.b1
            and d.a2 == self.a2
            and d.b2 == self.b2
        ):
            return d
        size = 8 if self.family == 4 else 32
        addresses = bytes(self.view[self.addresses_at : self.addresses_at + size])
        key = addresses + bytes(self.view[at : at + 4])
        found = self.directions.get(key)
        if found is None:
            half = size // 2
            back = addresses[half:] + addresses[:half] + key[size + 2 : size + 4] + key[size : size + 2]
            found = self.pair(key, back)
            if found is None:
                return None
            d = found
            d.source_port, d.destination_port = ports >> 16, ports & 0xFFFF
            d.peer.source_port, d.peer.destination_port = ports & 0xFFFF, ports >> 16
            self._address(d, ports)
        else:
            d = found
            if d.family == 0:
                self._address(d, ports)
        self.cache[index] = d
        return d

    def _address(self, d: Direction, ports: int) -> int:
        d.ports, d.family = ports, self.family
        d.a0, d.a1, d.a2, d.a3 = self.a0, self.a1, self.a2, self.a3
        d.b0, d.b1, d.b2, d.b3 = self.b0, self.b1, self.b2, self.b3
        return 0

    def _again(self, d: Direction) -> Direction:
        """The same ports are used for another connection."""
        key, back = d.key, d.peer.key
        source, destination, ports = d.source_port, d.destination_port, d.ports
        new = self.pair(key, back)
        if new is None:
            return d
        fresh: Direction = new
        fresh.source_port, fresh.destination_port = source, destination
        fresh.peer.source_port, fresh.peer.destination_port = destination, source
        self._address(fresh, ports)
        self.flight_sum -= d.in_flight + d.peer.in_flight
        self.cache = [BLANK] * CACHE
        return fresh

    def _syn(self, d: Direction, seq: int, flags: int, at: int, end: int) -> int:
        """The beginning of a direction: its first sequence number and its options (RFC 9293 section 3.2, RFC 7323)."""
        data = self.data
        if d.syn_ns < 0:
            d.syn_ns = self.now
            d.initial = seq
            d.started = 1
            d.lost = 0
            d.notes = 0
            d.expected = d.high = (seq + 1) & MASK
            if not flags & ACK:
                d.opened = 1
        while at + 1 < end:
            kind = data[at]
            if kind == 0:
                break
            if kind == 1:
                at += 1
                continue
            size = data[at + 1]
            if size < 2 or at + size > end:
                break
            if kind == 2 and size == 4:
                d.mss = u16(data, at + 2)
            elif kind == 3 and size == 3:
                d.window_scale = data[at + 2] if data[at + 2] <= 14 else 14
            at += size
        return 0

    def _sent(self, d: Direction, end: int) -> int:
        """Data up to this sequence number is on its way."""
        if d.high_known == 0 and d.syn_ns < 0:
            d.high = end
        d.high_known = 1
        if (end - d.high) & MASK < HALF:
            d.high = end
            if d.timed_ns < 0:
                d.timed_ns = self.now
                d.timed_end = end
        elif d.timed_ns >= 0:
            d.timed_ns = -1  # what is sent again tells nothing about the round trip (Karn's rule)
        if d.any_acknowledged:
            flight = (d.high - d.acknowledged) & MASK
            if flight < HALF:
                if flight > d.max_in_flight:
                    d.max_in_flight = flight
                    d.max_in_flight_ns = self.now
                if d.window > 0 and flight + d.mss >= d.window and d.full_since < 0:
                    d.full_since = self.now
                    d.window_fulls += 1
        return 0

    def _acknowledge(self, d: Direction, number: int, window: int, acker: Direction, syn: int) -> int:
        """The receiver of ``d`` has everything before this number, and takes ``window`` bytes more (scaled)."""
        if d.any_acknowledged == 0:
            d.any_acknowledged = 1
            d.acknowledged = number
            if d.high_known == 0 and d.syn_ns < 0:
                d.high = number
        elif (number - d.acknowledged) & MASK < HALF:
            d.acknowledged = number
        if not syn:
            if acker.window_scale > 0 and d.window_scale >= 0:
                window = window << acker.window_scale
            d.window = window
            d.window_max = max(d.window_max, window)
            if window == 0:
                d.zero_windows += 1
        if d.timed_ns >= 0 and (number - d.timed_end) & MASK < HALF:
            sample = self.now - d.timed_ns
            d.timed_ns = -1
            if sample >= 0:
                if d.rtt_min_ns < 0 or sample < d.rtt_min_ns:
                    d.rtt_min_ns = sample
                d.rtt_sum_ns += sample
                d.rtt_count += 1
        if d.full_since >= 0:
            flight = (d.high - d.acknowledged) & MASK
            if flight >= HALF or flight + d.mss < d.window:
                d.window_full_ns += self.now - d.full_since
                d.full_since = -1
        return 0
