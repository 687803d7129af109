# SPDX-License-Identifier: Apache-2.0
"""An FCoE core on a network interface: packet sockets, a timer, nothing else. Linux, and CAP_NET_RAW.

One socket for FIP and one for FCoE, each bound to its EtherType, so that an endpoint never sees its own frames. For
frames of full size the interface needs an MTU of 2158 bytes; with less, offer a smaller receive data field.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from fcsim.errors import FibreChannelError
from fcsim.wire.fcoe import FCOE_ETHERTYPE
from fcsim.wire.fip import FIP_ETHERTYPE

__all__ = ["EthernetCore", "FcoeEndpoint", "InterfaceUnusable"]

_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _PACKET_MR_PROMISC = 263, 1, 1
_SO_RCVBUFFORCE = 33
RECEIVE_BUFFER_BYTES = 16 << 20
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
        self._interface = interface
        self._seen = seen
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
        for sock in self._sockets.values():
            self._loop.add_reader(sock.fileno(), self._readable, sock)
        self.pump()

    def close(self) -> None:
        """Close the sockets; nothing is sent any more."""
        if self._timer is not None:
            self._timer.cancel()
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
            with contextlib.suppress(PermissionError):  # then it is what everybody gets
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
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
