"""Packets of an interface from the kernel's ring buffer (``packet(7)``, PACKET_RX_RING, TPACKET_V2).

The kernel writes the first bytes of every packet, its length and its time into memory that is shared with us, so that
no packet costs a system call, and the buffer is not charged with the 64 KiB of a TCP super-packet of which 128
bytes are wanted. Needs CAP_NET_RAW in the interface's network namespace.
"""

from __future__ import annotations

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

_TPACKET_V2 = 1
_FRAME = struct.Struct("=IIIHHII")  # struct tpacket2_hdr: status, len, snaplen, mac, net, sec, nsec
_STATUS = struct.Struct("=I")
_ADDRESS_AT = 32  # struct sockaddr_ll follows tpacket2_hdr, TPACKET_ALIGNed to 16
_PACKET_TYPE_AT = _ADDRESS_AT + 10
_FRAME_OVERHEAD_BYTES = 96  # TPACKET2_HDRLEN (52) and room for a link header, aligned
_BLOCK_BYTES = 1 << 18


class PacketRing(PacketSocket):
    """A capture on one interface from the moment it is made; a context manager."""

    def __init__(self, interface: str, *, snap_bytes: int = 128, buffer_bytes: int = 16 << 20) -> None:
        """Start capturing; keeps ``snap_bytes`` of each packet. Raises what :class:`PacketSocket` does."""
        self._snap_bytes = snap_bytes
        self._frame_bytes = 1 << (snap_bytes + _FRAME_OVERHEAD_BYTES - 1).bit_length()
        blocks = max(1, buffer_bytes // _BLOCK_BYTES)
        self._frames = blocks * (_BLOCK_BYTES // self._frame_bytes)
        self._next = 0
        self._received = self._dropped = 0
        super().__init__(
            interface,
            snap_bytes=snap_bytes,
            version=_TPACKET_V2,
            request=struct.pack("=IIII", _BLOCK_BYTES, blocks, self._frame_bytes, self._frames),
            memory_bytes=blocks * _BLOCK_BYTES,
        )

    def packets(self) -> Iterator[RingPacket]:
        """What the ring holds now, at most once around; a place goes back to the kernel as the next is asked for."""
        memory, unpack = self._memory, _FRAME.unpack_from
        for _ in range(self._frames):
            offset = self._next * self._frame_bytes
            status, length, kept, mac, _net, seconds, nanoseconds = unpack(memory, offset)
            if not status & TP_STATUS_USER:
                return
            if not (self._skip_outgoing and memory[offset + _PACKET_TYPE_AT] == PACKET_OUTGOING):
                start = offset + mac
                data = memory[start : start + min(kept, self._snap_bytes)]
                yield RingPacket(seconds * 1_000_000_000 + nanoseconds, length, data)
            _STATUS.pack_into(memory, offset, 0)
            self._next = (self._next + 1) % self._frames

    def statistics(self) -> tuple[int, int]:
        """Packets so far: (seen by the socket, of which dropped because the ring was full)."""
        data = self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        received, dropped = struct.unpack("=II", data)
        self._received += received  # reading sets the kernel's counters to zero
        self._dropped += dropped
        return self._received, self._dropped
