"""A packet socket whose packets lie in memory shared with the kernel (``packet(7)``, PACKET_RX_RING).

What the two layouts of that memory have in common: :mod:`tools.capture.ring` has places of one length,
:mod:`tools.capture.block_ring` has blocks in which packets lie one behind the other.
"""

from __future__ import annotations

import mmap
import socket
from typing import NamedTuple, Self

from iscsi_target.trace.pcapng import LINKTYPE_ETHERNET, LINKTYPE_RAW

SOL_PACKET = 263
PACKET_STATISTICS = 6
TP_STATUS_USER = 1
PACKET_OUTGOING = 4
_PACKET_RX_RING, _PACKET_VERSION = 5, 10
_ETH_P_ALL = 0x0003
_ARPHRD_ETHER, _ARPHRD_LOOPBACK, _ARPHRD_NONE = 1, 772, 0xFFFE


class UnsupportedInterface(ValueError):
    """The interface carries something else than Ethernet frames or bare IP packets."""


class RingPacket(NamedTuple):
    """One packet: time since 1970 UTC, its length on the interface, its first bytes."""

    time_ns: int
    original_bytes: int
    data: bytes


class PacketSocket:
    """The open socket and its memory; a context manager. ``link_type`` is that of a pcapng interface."""

    def __init__(
        self, interface: str, *, snap_bytes: int, version: int, request: bytes, memory_bytes: int
    ) -> None:
        """Start capturing into a ring of ``memory_bytes`` as ``request`` (struct tpacket_req, or _req3) lays it out.

        Raises :class:`OSError` (no such interface, no permission), :class:`UnsupportedInterface`, and
        :class:`ValueError` for a ``snap_bytes`` outside 14 … 65535.
        """
        if not 14 <= snap_bytes <= 65535:
            raise ValueError(f"the snap length is {snap_bytes} bytes, but must be 14 to 65535")
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # protocol 0: nothing before bind
        try:
            self.socket.setsockopt(SOL_PACKET, _PACKET_VERSION, version)
            self._prepare(snap_bytes)
            self.socket.setsockopt(SOL_PACKET, _PACKET_RX_RING, request)
            self._memory = mmap.mmap(self.socket.fileno(), memory_bytes)
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

    def _prepare(self, snap_bytes: int) -> None:
        """What has to be set on the socket before its ring is made."""

    def close(self) -> None:
        """Stop capturing and give the memory back."""
        self._memory.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
