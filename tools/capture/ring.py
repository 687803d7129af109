"""Packets of an interface from the kernel's ring buffer (``packet(7)``, PACKET_RX_RING, TPACKET_V2).

The kernel writes the first bytes of every packet, its length and its time into memory that is shared with us, so that
no packet costs a system call, and the buffer is not charged with the 64 KiB of a TCP super-packet of which 128
bytes are wanted. Needs CAP_NET_RAW in the interface's network namespace.
"""

from __future__ import annotations

import mmap
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from iscsi_target.trace.pcapng import LINKTYPE_ETHERNET, LINKTYPE_RAW

_ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_RX_RING, _PACKET_STATISTICS, _PACKET_VERSION = 5, 6, 10
_TPACKET_V2 = 1
_TP_STATUS_USER = 1
_ARPHRD_ETHER, _ARPHRD_LOOPBACK, _ARPHRD_NONE = 1, 772, 0xFFFE
_PACKET_OUTGOING = 4

_FRAME = struct.Struct("=IIIHHII")  # struct tpacket2_hdr: status, len, snaplen, mac, net, sec, nsec
_STATUS = struct.Struct("=I")
_ADDRESS_AT = 32  # struct sockaddr_ll follows tpacket2_hdr, TPACKET_ALIGNed to 16
_PACKET_TYPE_AT = _ADDRESS_AT + 10
_FRAME_OVERHEAD_BYTES = 96  # TPACKET2_HDRLEN (52) and room for a link header, aligned
_BLOCK_BYTES = 1 << 18


class UnsupportedInterface(ValueError):
    """The interface carries something else than Ethernet frames or bare IP packets."""


class RingPacket(NamedTuple):
    """One packet: time since 1970 UTC, its length on the interface, its first bytes."""

    time_ns: int
    original_bytes: int
    data: bytes


class PacketRing:
    """A capture on one interface from the moment it is made; a context manager."""

    def __init__(self, interface: str, *, snap_bytes: int = 128, buffer_bytes: int = 16 << 20) -> None:
        """Start capturing; keeps ``snap_bytes`` (14 … 65535) of each packet.

        Raises :class:`OSError` (no such interface, no permission) and :class:`UnsupportedInterface`.
        """
        if not 14 <= snap_bytes <= 65535:
            raise ValueError(f"the snap length is {snap_bytes} bytes, but must be 14 to 65535")
        self._snap_bytes = snap_bytes
        self._frame_bytes = 1 << (snap_bytes + _FRAME_OVERHEAD_BYTES - 1).bit_length()
        blocks = max(1, buffer_bytes // _BLOCK_BYTES)
        self._frames = blocks * (_BLOCK_BYTES // self._frame_bytes)
        self._next = 0
        self._received = self._dropped = 0
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # protocol 0: nothing before bind
        try:
            self.socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
            request = struct.pack("=IIII", _BLOCK_BYTES, blocks, self._frame_bytes, self._frames)
            self.socket.setsockopt(_SOL_PACKET, _PACKET_RX_RING, request)
            self._memory = mmap.mmap(self.socket.fileno(), blocks * _BLOCK_BYTES)
            self.socket.bind((interface, _ETH_P_ALL))
            hardware = self.socket.getsockname()[3]
        except BaseException:
            self.socket.close()
            raise
        self._skip_outgoing = hardware == _ARPHRD_LOOPBACK  # there, every packet is seen leaving and arriving
        if hardware in (_ARPHRD_ETHER, _ARPHRD_LOOPBACK):
            self.link_type = LINKTYPE_ETHERNET
        elif hardware == _ARPHRD_NONE:
            self.link_type = LINKTYPE_RAW
        else:
            self.close()
            raise UnsupportedInterface(
                f"{interface} is neither Ethernet nor bare IP (ARP hardware type {hardware})"
            )

    def packets(self) -> Iterator[RingPacket]:
        """What the ring holds now, at most once around; a place goes back to the kernel as the next is asked for."""
        memory, unpack = self._memory, _FRAME.unpack_from
        for _ in range(self._frames):
            offset = self._next * self._frame_bytes
            status, length, kept, mac, _net, seconds, nanoseconds = unpack(memory, offset)
            if not status & _TP_STATUS_USER:
                return
            if not (self._skip_outgoing and memory[offset + _PACKET_TYPE_AT] == _PACKET_OUTGOING):
                start = offset + mac
                data = memory[start : start + min(kept, self._snap_bytes)]
                yield RingPacket(seconds * 1_000_000_000 + nanoseconds, length, data)
            _STATUS.pack_into(memory, offset, 0)
            self._next = (self._next + 1) % self._frames

    def statistics(self) -> tuple[int, int]:
        """Packets so far: (seen by the socket, of which dropped because the ring was full)."""
        data = self.socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        received, dropped = struct.unpack("=II", data)
        self._received += received  # reading sets the kernel's counters to zero
        self._dropped += dropped
        return self._received, self._dropped

    def close(self) -> None:
        """Stop capturing and give the memory back."""
        self._memory.close()
        self.socket.close()

    def __enter__(self) -> PacketRing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
