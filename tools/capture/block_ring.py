"""Whole packets of an interface from the kernel's ring of blocks (``packet(7)``, TPACKET_V3).

Unlike :mod:`tools.capture.ring`, whose places are all as long as the longest packet, packets lie one behind the other
here, so that 32 MiB hold ten thousands of small ones and hundreds of 64 KiB. The price is that a packet is seen when
its block is full or has been open for :data:`RETIRE_MS`. Needs CAP_NET_RAW in the interface's network namespace.
"""

from __future__ import annotations

import ctypes
import select
import socket
import struct
from collections.abc import Iterator

from tools.capture.packet_socket import (
    PACKET_OUTGOING,
    PACKET_STATISTICS,
    SOL_PACKET,
    TP_STATUS_USER,
    PacketSocket,
    RingPacket,
)

RETIRE_MS = 20
BLOCK_BYTES = 1 << 20
_SO_ATTACH_FILTER = 26
_TPACKET_V3 = 2
_TP_STATUS_VLAN_VALID, _TP_STATUS_VLAN_TPID_VALID = 0x10, 0x40
_BPF_RET_K = 0x06

_REQUEST = struct.Struct("=7I")  # struct tpacket_req3
_BLOCK = struct.Struct("=8xIII")  # struct tpacket_block_desc: status, packets, offset of the first
_STATUS_AT = 8
_PACKET = struct.Struct(
    "=IIIIIIHHIIH"
)  # tpacket3_hdr: next, s, ns, kept, length, status, mac, net, hash, tci, tpid
_PACKET_TYPE_AT = 48 + 10  # struct sockaddr_ll follows the header of 48 bytes


class BlockRing(PacketSocket):
    """A capture on one interface from the moment it is made; a context manager. ``dropped`` packets were lost because
    nobody looked at the ring in time."""

    def __init__(self, interface: str, *, snap_bytes: int = 65535, buffer_bytes: int = 32 << 20) -> None:
        """Start capturing; keeps ``snap_bytes`` of each packet. Raises what :class:`PacketSocket` does."""
        self._blocks = max(2, buffer_bytes // BLOCK_BYTES)
        self._next = self.dropped = 0
        frames = self._blocks * (BLOCK_BYTES // 2048)
        super().__init__(
            interface,
            snap_bytes=snap_bytes,
            version=_TPACKET_V3,
            request=_REQUEST.pack(BLOCK_BYTES, self._blocks, 2048, frames, RETIRE_MS, 0, 0),
            memory_bytes=self._blocks * BLOCK_BYTES,
        )

    def _prepare(self, snap_bytes: int) -> None:
        """A filter that passes every packet and keeps so much of it."""
        program = ctypes.create_string_buffer(struct.pack("=HBBI", _BPF_RET_K, 0, 0, snap_bytes))
        self.socket.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", 1, ctypes.addressof(program))
        )

    def wait(self, timeout_ms: int) -> None:
        """Until a block is ready, or so long."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        poll.poll(timeout_ms)

    def packets(self) -> Iterator[RingPacket]:
        """What is in the blocks that are ready, at most once around; a block goes back as the next is asked for."""
        memory = self._memory
        for _ in range(self._blocks):
            block = self._next * BLOCK_BYTES
            status, count, at = _BLOCK.unpack_from(memory, block)
            if not status & TP_STATUS_USER:
                return
            at += block
            for _ in range(count):
                ahead, seconds, nanoseconds, kept, length, flags, mac, _, _, tci, tpid = _PACKET.unpack_from(
                    memory, at
                )
                if not (self._skip_outgoing and memory[at + _PACKET_TYPE_AT] == PACKET_OUTGOING):
                    data = memory[at + mac : at + mac + kept]
                    if flags & _TP_STATUS_VLAN_VALID and len(data) >= 12:  # the interface took the tag out
                        kind = tpid if flags & _TP_STATUS_VLAN_TPID_VALID else 0x8100
                        data = data[:12] + struct.pack("!HH", kind, tci & 0xFFFF) + data[12:]
                        length += 4
                    yield RingPacket(seconds * 1_000_000_000 + nanoseconds, length, data)
                at += ahead
            struct.pack_into("=I", memory, block + _STATUS_AT, 0)
            self._next = (self._next + 1) % self._blocks

    def count_dropped(self) -> int:
        """Packets lost so far."""
        data = self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 12)
        self.dropped += struct.unpack("=III", data)[1]  # reading sets the kernel's counters to zero
        return self.dropped
