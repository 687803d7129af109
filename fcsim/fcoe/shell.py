# SPDX-License-Identifier: Apache-2.0
"""An FCoE core on a network interface: packet sockets, a timer, nothing else. Linux, and CAP_NET_RAW.

One socket for FIP and one for FCoE, each bound to its EtherType, so that an endpoint never sees its own frames. For
frames of full size the interface needs an MTU of 2158 bytes; with less, offer a smaller receive data field.

Ethernet has no credits, so what peers may send at once is bounded by what this end asks them for: the socket's buffer
is made as large as the XFER_RDYs that are open together, or these as small as the buffer that the kernel gives.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from fcsim.errors import FibreChannelError
from fcsim.fcoe.ethernet import UNSENT_LIMIT
from fcsim.wire.fcoe import FCOE_ETHERTYPE
from fcsim.wire.fip import FIP_ETHERTYPE

__all__ = ["EthernetCore", "FcoeEndpoint", "InterfaceUnusable"]

_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _PACKET_MR_PROMISC = 263, 1, 1
_PACKET_STATISTICS, _STATISTICS = 6, struct.Struct("II")
_SO_RCVBUFFORCE = 33
#: Data that is asked for at once: of WRITEs by XFER_RDY, of READs by commands. Enough for a fast link, see docs/fc.md.
GRANTED_BYTES = 512 << 10
#: What the kernel charges a frame of full size against a socket's buffer: 4 KiB of data, and what describes it.
FRAME_COST_BYTES = 5120
#: The data field that a frame has at least, as long as there is more: Linux sends 1024 over an MTU of 1500.
USUAL_DATA_FIELD_BYTES = 1024
#: Half of the buffer is for data that was asked for, half for everything else.
RECEIVE_FRAMES = 2 * GRANTED_BYTES // USUAL_DATA_FIELD_BYTES
FRAME_LIMIT_BYTES = 4096
_FRAMES_AT_A_TIME = 256
PS_PER_NS = 1000


class InterfaceUnusable(FibreChannelError):
    """The interface is not there, or this process may not open packet sockets on it."""


class EthernetCore(Protocol):
    """:class:`~fcsim.fcoe.fcf.Fcf` or :class:`~fcsim.fcoe.vn2vn.Vn2vnPort`."""

    def receive(self, data: bytes, now_ps: int) -> None:
        """An Ethernet frame came."""
        ...

    def frames(self) -> Iterator[bytes]:
        """Ethernet frames to send."""
        ...

    def events(self) -> Iterable[Any]:
        """What happened since the last call."""
        ...

    def next_deadline(self) -> int | None:
        """When handle_timer wants to be called, in picoseconds."""
        ...

    def handle_timer(self, now_ps: int) -> None:
        """A moment has come."""
        ...

    def grant_at_most(self, granted_bytes: int) -> None:
        """Ask for no more Data-Out at once."""
        ...


class FcoeEndpoint:
    """Runs a core on an interface of this process's network namespace, from :meth:`start` to :meth:`close`.

    Time is the monotonic clock's, in picoseconds. ``seen`` is shown every Ethernet frame, for captures; ``events``
    collects what the core tells, the newest 4096.
    """

    def __init__(
        self, interface: str, core: EthernetCore, *, seen: Callable[[int, bytes, bool], None] | None = None
    ) -> None:
        self.core = core
        self.events: deque[Any] = deque(maxlen=4096)
        self.changed = asyncio.Event()
        """Set whenever something happened; clear it yourself."""
        self.on_event: Callable[[Any], None] | None = None
        """Called with each event as well, before ``changed`` is set."""
        self.room_bytes = GRANTED_BYTES
        """How much data may be on its way here at once."""
        self._interface = interface
        self._seen = seen
        self._dropped = 0
        self._reading = False
        self._sockets: dict[int, socket.socket] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: deque[bytes] = deque()
        self._loop = asyncio.get_running_loop()

    @staticmethod
    def now_ps() -> int:
        """The endpoint's time."""
        return time.monotonic_ns() * PS_PER_NS

    def start(self) -> None:
        """Open the sockets. Raises InterfaceUnusable with one clear line."""
        try:
            for ethertype in (FIP_ETHERTYPE, FCOE_ETHERTYPE):
                self._sockets[ethertype] = self._open(ethertype)
        except OSError as error:
            self._close_sockets()
            why = "needs CAP_NET_RAW" if error.errno == errno.EPERM else error.strerror
            raise InterfaceUnusable(f"no packet socket on {self._interface}: {why}") from None
        got = self._sockets[FCOE_ETHERTYPE].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.room_bytes = min(GRANTED_BYTES, got // FRAME_COST_BYTES // 2 * USUAL_DATA_FIELD_BYTES)
        self.core.grant_at_most(self.room_bytes)
        self._read(True)
        self.pump()

    def dropped(self) -> int:
        """Frames that the kernel could not put into the sockets' buffers since :meth:`start`: lost to the core."""
        for sock in self._sockets.values():
            told = sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
            self._dropped += _STATISTICS.unpack(told)[1]  # reading it sets it to 0
        return self._dropped

    def close(self) -> None:
        """Close the sockets; nothing is sent any more."""
        if self._timer is not None:
            self._timer.cancel()
        self.dropped()
        self._close_sockets()

    def pump(self) -> None:
        """Send what the core has to send, and ask to be woken for what comes next. Call it after telling the core
        something (``core.n_port.log_in(...)``)."""
        now_ps = self.now_ps()
        deadline = self.core.next_deadline()
        if deadline is not None and deadline <= now_ps:
            self.core.handle_timer(now_ps)
            deadline = self.core.next_deadline()
        self._waiting.extend(self.core.frames())
        self._send()
        happened = list(self.core.events())
        self.events.extend(happened)
        if self.on_event is not None:
            for event in happened:
                self.on_event(event)
        self.changed.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline is not None and self._sockets:
            self._timer = self._loop.call_later(max(deadline - now_ps, 0) / 1e12, self.pump)

    # -- inside -------------------------------------------------------------------------------------------------

    def _open(self, ethertype: int) -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            index = socket.if_nametoindex(self._interface)
            promiscuous = struct.pack("iHH8s", index, _PACKET_MR_PROMISC, 0, b"")
            sock.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, promiscuous)
            wanted = RECEIVE_FRAMES * FRAME_COST_BYTES // 2  # the kernel doubles it
            try:
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, wanted)
            except PermissionError:  # without CAP_NET_ADMIN: as much as everybody may have
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted)
            sock.setblocking(False)
            sock.bind((self._interface, ethertype))
        except BaseException:
            sock.close()
            raise
        return sock

    def _close_sockets(self) -> None:
        for sock in self._sockets.values():
            self._loop.remove_reader(sock.fileno())
            self._loop.remove_writer(sock.fileno())
            sock.close()
        self._sockets.clear()
        self._reading = False

    def _read(self, reading: bool) -> None:
        """Read from the sockets, or not while too much waits to be sent: then Ethernet loses frames, as it does."""
        if reading == self._reading:
            return
        self._reading = reading
        for sock in self._sockets.values():
            if reading:
                self._loop.add_reader(sock.fileno(), self._readable, sock)
            else:
                self._loop.remove_reader(sock.fileno())

    def _readable(self, sock: socket.socket) -> None:
        for _ in range(_FRAMES_AT_A_TIME):
            try:
                data = sock.recv(FRAME_LIMIT_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENETDOWN:  # the interface may come up again
                    raise
                break
            if self._seen is not None:
                self._seen(self.now_ps(), data, False)
            self.core.receive(data, self.now_ps())
        self.pump()
        self._read(len(self._waiting) < UNSENT_LIMIT)

    def _send(self) -> None:
        while self._waiting and self._sockets:
            data = self._waiting[0]
            ethertype = int.from_bytes(data[12:14], "big")
            sock = self._sockets[ethertype]
            try:
                sock.send(data)
            except BlockingIOError:
                self._loop.add_writer(sock.fileno(), self._writable, sock)
                return
            except OSError as error:
                # Ethernet loses frames: where the interface is down or a frame too long for it, this is one.
                if error.errno not in (errno.ENETDOWN, errno.EMSGSIZE, errno.ENOBUFS):
                    raise
            self._waiting.popleft()
            if self._seen is not None:
                self._seen(self.now_ps(), data, True)

    def _writable(self, sock: socket.socket) -> None:
        self._loop.remove_writer(sock.fileno())
        self._send()
        self._read(len(self._waiting) < UNSENT_LIMIT)
