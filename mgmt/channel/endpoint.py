"""The sockets of a measuring device: a thread that responds, and a blocking call that measures.

Arrival times are the kernel's (SO_TIMESTAMPNS), so a receiver that is woken late still sees the packets as far
apart as they came. They are moved to the monotonic clock by their age when they are read.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from ipaddress import ip_address

from mgmt.channel.measurement import Measured, Measurement, MeasurementConfig
from mgmt.channel.responder import Responder

_SO_TIMESTAMPNS = 35  # linux/include/uapi/asm-generic/socket.h; the socket module does not name it
_IP_RECVTTL = 12  # linux/include/uapi/linux/in.h
_TIMESPEC = struct.Struct("@qq")
_INT = struct.Struct("@i")
_TTLS = ((socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT))
_ANCILLARY_BYTES = socket.CMSG_SPACE(_TIMESPEC.size) + socket.CMSG_SPACE(_INT.size)
_LARGEST_DATAGRAM = 65_535
_RECEIVE_BUFFER_BYTES = 4 << 20
_OLDEST_STAMP_NS = 1_000_000_000

#: What IP and UDP headers add to a datagram, by address family.
IP_HEADER_BYTES = {socket.AF_INET: 28, socket.AF_INET6: 48}


def udp_socket(address: str, port: int = 0) -> socket.socket:
    """A UDP socket bound to ``address`` that stamps arrivals. :class:`OSError` as the system says it."""
    family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)  # RFC 8762 clause 4.2
        sock.bind((address, port))
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def measure(
    address: str,
    peer: tuple[str, int],
    config: MeasurementConfig | None = None,
    key: bytes | None = None,
) -> Measured:
    """Measure the channel from ``address`` to the responder at ``peer``; blocks for at most ``config.limit_ns``.

    With the ``key`` of both devices in STAMP's authenticated mode.

    Raises :class:`~mgmt.channel.dispersion.NotMeasurable` when not enough came back, :class:`OSError` when
    nothing could be sent.
    """
    with udp_socket(address) as sock:
        if config is None:
            config = MeasurementConfig(ip_header_bytes=IP_HEADER_BYTES[sock.family])
        sock.connect(peer)
        core = Measurement(
            int.from_bytes(os.urandom(8), "big"),
            config,
            time.monotonic_ns(),
            utc_offset_ns=utc_offset_ns(),
            key=key,
        )
        while not core.over:
            core.handle_timer(time.monotonic_ns())
            _write(sock, core, core.datagrams_to_send(time.monotonic_ns()))
            _read(sock, core)
        return core.outcome()


def _write(sock: socket.socket, core: Measurement, datagrams: list[bytes]) -> None:
    blocked = False
    started_ns = time.monotonic_ns()
    for datagram in datagrams:
        while True:
            try:
                sock.send(datagram)
            except BlockingIOError:
                blocked = True
                select.select([], [sock], [], 0.1)
                core.handle_timer(time.monotonic_ns())
                if core.over:
                    return
            else:
                break
    if len(datagrams) > 1:
        core.burst_written(time.monotonic_ns() - started_ns, blocked=blocked)


def _read(sock: socket.socket, core: Measurement) -> None:
    """Wait for the next datagram or deadline, then hand in all that is there."""
    deadline_ns = core.next_deadline()
    if deadline_ns is None:
        return
    wait_s = max(0.0, (deadline_ns - time.monotonic_ns()) / 1e9)
    if not select.select([sock], [], [], wait_s)[0]:
        return
    while True:
        try:
            data, arrival_ns, _, _ = receive(sock)
        except BlockingIOError:
            return
        core.receive(data, arrival_ns)


def utc_offset_ns() -> int:
    """What the monotonic clock lacks of UTC at this moment."""
    return time.time_ns() - time.monotonic_ns()


def receive(sock: socket.socket) -> tuple[bytes, int, tuple[str, int], int]:
    """One datagram, when it arrived on the monotonic clock, from whom, and with which TTL (255 where unknown)."""
    data, ancillary, _, peer = sock.recvmsg(_LARGEST_DATAGRAM, _ANCILLARY_BYTES)
    # In this order: who is held up between the two takes an arrival for later than it was, never for earlier, and
    # the smallest of several delays leaves that out.
    utc_ns, now_ns = time.time_ns(), time.monotonic_ns()
    arrival_ns, ttl = now_ns, 255
    for level, kind, value in ancillary:
        if (level, kind) in _TTLS and len(value) == _INT.size:
            (ttl,) = _INT.unpack(value)
        elif level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(value) == _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack(value)
            age_ns = utc_ns - (seconds * 1_000_000_000 + nanoseconds)
            if 0 <= age_ns <= _OLDEST_STAMP_NS:
                arrival_ns = now_ns - age_ns
    return data, arrival_ns, peer, ttl & 0xFF


class ResponderThread:
    """A responder on a bound socket, in its own thread, until :meth:`close`."""

    def __init__(self, sock: socket.socket, key: bytes | None = None) -> None:
        self._sock = sock
        self._key = key
        self._wake_read, self._wake_write = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="probe-responder", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and close the socket."""
        self._wake_write.close()
        self._thread.join()
        self._wake_read.close()
        self._sock.close()

    def _run(self) -> None:
        core = Responder(utc_offset_ns(), self._key)
        header_bytes = IP_HEADER_BYTES[self._sock.family]
        while True:
            readable, _, _ = select.select([self._sock, self._wake_read], [], [])
            if self._wake_read in readable:
                return
            self._answer(core, header_bytes)

    def _answer(self, core: Responder, header_bytes: int) -> None:
        while True:
            try:
                data, arrival_ns, peer, ttl = receive(self._sock)
            except OSError:  # nothing more to read, or an ICMP error for an earlier answer
                return
            answer = core.receive(data, peer, header_bytes, arrival_ns, time.monotonic_ns(), ttl)
            if answer is not None:
                try:
                    self._sock.sendto(answer, peer)
                except OSError:
                    continue  # the asker is gone or its address takes no answer: it asks again, or not
