# SPDX-License-Identifier: Apache-2.0
"""A TCP connection whose sent bytes live in reserved memory buffers until the peer's TCP has acknowledged them.

Everything in the ring is handed to the kernel at once, and ring space is freed as SIOCOUTQ falls; so the bytes that
are unacknowledged, in our memory and in the kernel's together, never exceed the reservation: the reservation is also
the largest congestion window (patent paragraph 96). SO_SNDBUF is no such bound; it is only kept from being smaller.

The kernel does not announce acknowledgements. They are polled, by one timer, and only while somebody waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from bisect import bisect_right
from collections.abc import Iterable, Sequence

from iscsi_target.errors import ConnectionLost, reason_of
from iscsi_target.executor import Buffer
from iscsi_target.flight_gate import FlightGate, TcpStatistics
from iscsi_target.tcp_buffers import widen_send_buffer
from iscsi_target.tcp_diagnosis import Diagnosis, Sample, diagnose
from iscsi_target.tcp_info import TcpInfo, outstanding_bytes, read_tcp_info

__all__ = ["ReservedTcpConnection", "TcpInfo", "TcpStatistics", "connect_socket"]

_POLL_LONGEST_S = 0.0015
_POLL_SHORTEST_S = 0.0005
_IOV_MAX = 1024
_READ_BYTES = 256 * 1024
_QUIET_POLLS = 4
_DIAGNOSIS_NS = 1_000_000_000
_ABORT = struct.pack("ii", 1, 0)


async def connect_socket(
    host: str,
    port: int,
    *,
    timeout_s: float = 10.0,
    receive_buffer_bytes: int | None = None,
    source_host: str = "",
    congestion: str = "",
) -> socket.socket:
    """A connected, non-blocking TCP socket; `congestion` names its congestion control (empty: the system's).

    Raises ConnectionLost with the address and the reason.
    """
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if congestion:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        if source_host:
            sock.bind((source_host, 0))
        async with asyncio.timeout(timeout_s):
            await loop.sock_connect(sock, (host, port))
    except TimeoutError:
        sock.close()
        raise ConnectionLost(f"cannot connect to {host}:{port} within {timeout_s:g} s") from None
    except OSError as error:
        sock.close()
        raise ConnectionLost(f"cannot connect to {host}:{port}: {reason_of(error)}") from error
    except BaseException:
        sock.close()
        raise
    return sock


class _Chain:
    """The runs of an allocation as one range of bytes."""

    def __init__(self, runs: Sequence[memoryview]) -> None:
        self._runs = [run.cast("B") for run in runs if run.nbytes]
        self._starts: list[int] = []
        total = 0
        for run in self._runs:
            if run.readonly:
                raise ValueError("reserved memory has to be writable")
            self._starts.append(total)
            total += len(run)
        self.size = total

    def pieces(self, position: int, size: int) -> list[memoryview]:
        """The memory of `size` bytes from stream position `position` on, round the ring."""
        pieces: list[memoryview] = []
        offset = position % self.size
        while size:
            index = bisect_right(self._starts, offset) - 1
            inner = offset - self._starts[index]
            piece = self._runs[index][inner : inner + size]
            pieces.append(piece)
            size -= len(piece)
            offset = (offset + len(piece)) % self.size
        return pieces


class ReservedTcpConnection:
    """Owns `sock` (connected, non-blocking) and uses `memory` until closed; `memory` is the allocation's runs.

    `stall_timeout_s`: a writer waits at most so long without any progress of the peer's acknowledgements.
    """

    def __init__(
        self, sock: socket.socket, memory: Sequence[memoryview], *, stall_timeout_s: float = 30.0
    ) -> None:
        self._sock = sock
        self._chain = _Chain(memory)
        self._gate = FlightGate(self._chain.size)
        widen_send_buffer(sock, self._chain.size)
        self._stall_timeout_s = stall_timeout_s
        self._received = memoryview(bytearray(_READ_BYTES))  # a new one for each read is slow
        self._lock = asyncio.Lock()
        self._lost: str | None = None
        self._poll_s = _POLL_SHORTEST_S
        self._poll_known_at = 0.0
        self._progress_at = time.monotonic()
        self._sample: Sample | None = None
        self._diagnosis: Diagnosis | None = None

    # -- sending ------------------------------------------------------------------------------------------------

    async def write(self, buffers: Iterable[Buffer]) -> None:
        """Send the buffers in order; returns when all of them lie in reserved memory or beyond.

        Writers take turns. Raises ConnectionLost.
        """
        async with self._lock:
            for buffer in buffers:
                view = memoryview(buffer).cast("B")
                while len(view):
                    wanted = self._gate.refill(len(view))
                    if self._gate.room < wanted:
                        await self._hand_over()
                        await self._wait_for_room(wanted)
                    size = min(len(view), self._gate.room)
                    position = self._gate.place(size)
                    done = 0
                    for piece in self._chain.pieces(position, size):
                        piece[:] = view[done : done + len(piece)]
                        done += len(piece)
                    view = view[size:]
            await self._hand_over()

    async def drained(self) -> None:
        """Wait until the peer's TCP has acknowledged everything written. Raises ConnectionLost."""
        self._progress_at = time.monotonic()
        while self._gate.in_flight:
            self._poll()
            if self._gate.in_flight:
                await asyncio.sleep(self._interval())

    async def replace_memory(self, memory: Sequence[memoryview]) -> None:
        """Let what is in flight drain, then use other memory (the reservation was grown or shrunk)."""
        chain = _Chain(memory)
        async with self._lock:
            await self.drained()
            self._gate.replace_memory(chain.size)
            self._chain = chain
            widen_send_buffer(self._sock, chain.size)

    def set_limit(self, limit_bytes: int) -> None:
        """Have at most `limit_bytes` unacknowledged, at most the capacity; what is in flight is not taken back."""
        self._gate.set_limit(limit_bytes)

    def statistics(self) -> TcpStatistics:
        """Counters, with the acknowledgements as of now."""
        if self._lost is None and self._gate.in_flight:
            with contextlib.suppress(OSError):
                self._gate.kernel_holds(outstanding_bytes(self._sock))
        return self._gate.statistics()

    def tcp_info(self) -> TcpInfo:
        """What the kernel knows of the connection. Raises OSError once it is closed."""
        return read_tcp_info(self._sock)

    def diagnosis(self) -> Diagnosis | None:
        """What has limited the connection since about a second ago; None where it is too young, or over."""
        now_ns = time.monotonic_ns()
        if self._lost is not None:
            return self._diagnosis
        if self._sample is None or now_ns - self._sample.at_ns >= _DIAGNOSIS_NS:
            with contextlib.suppress(OSError):
                sample = Sample(now_ns, read_tcp_info(self._sock), self._gate.waited_ns, self._gate.limit)
                if self._sample is not None:
                    self._diagnosis = diagnose(self._sample, sample)
                self._sample = sample
        return self._diagnosis

    async def _hand_over(self) -> None:
        gate = self._gate
        while gate.handed_over < gate.written:
            self._check()
            pieces = self._chain.pieces(gate.handed_over, gate.written - gate.handed_over)[:_IOV_MAX]
            try:
                gate.hand_over(self._sock.sendmsg(pieces))
            except (BlockingIOError, InterruptedError):
                await self._writable()
            except OSError as error:
                raise self._fail(reason_of(error)) from error

    async def _writable(self) -> None:
        """The kernel's own buffer is full: wait for it, not longer than the stall time-out."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        descriptor = self._sock.fileno()
        loop.add_writer(descriptor, _set_once, ready)
        try:
            async with asyncio.timeout(self._stall_timeout_s):
                await ready
        except TimeoutError:
            raise self._fail(f"the kernel took nothing for {self._stall_timeout_s:g} s") from None
        finally:
            loop.remove_writer(descriptor)

    async def _wait_for_room(self, wanted: int) -> None:
        gate = self._gate
        self._poll()
        if gate.room >= wanted:
            return
        gate.waits += 1
        began_ns = time.monotonic_ns()
        self._progress_at = time.monotonic()
        quiet = 0
        while gate.room < min(wanted, gate.limit):
            await asyncio.sleep(self._interval())
            now_ns = time.monotonic_ns()
            gate.waited_ns += now_ns - began_ns
            began_ns = now_ns
            quiet = 0 if self._poll() else quiet + 1
            if quiet >= _QUIET_POLLS and gate.room:
                return  # no more is coming just now: what there is may leave

    def _poll(self) -> int:
        """Ask for acknowledgements; the bytes that they have freed."""
        self._check()
        try:
            freed = self._gate.kernel_holds(outstanding_bytes(self._sock))
            error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # a reset frees everything, too
        except OSError as problem:
            raise self._fail(reason_of(problem)) from problem
        if error:
            raise self._fail(os.strerror(error))
        now = time.monotonic()
        if freed:
            self._progress_at = now
        elif now - self._progress_at > self._stall_timeout_s:
            raise self._fail(f"the peer acknowledged nothing for {self._stall_timeout_s:g} s")
        return freed

    def _interval(self) -> float:
        """A tenth of the round-trip time, between half a millisecond and one and a half; asked for once a second."""
        now = time.monotonic()
        if now - self._poll_known_at > 1.0:
            self._poll_known_at = now
            with contextlib.suppress(OSError):
                tenth = read_tcp_info(self._sock).min_rtt_ns / 10e9
                self._poll_s = min(max(tenth, _POLL_SHORTEST_S), _POLL_LONGEST_S)
        return self._poll_s

    # -- receiving and the end ----------------------------------------------------------------------------------

    async def read(self) -> bytes:
        """What has come, at least one byte; empty at the end of the stream. Raises ConnectionLost."""
        self._check()
        try:
            size = await asyncio.get_running_loop().sock_recv_into(self._sock, self._received)
            return bytes(self._received[:size])
        except OSError as error:
            raise self._fail(reason_of(error)) from error

    def close(self) -> None:
        """Close; bytes in flight are still delivered by the kernel."""
        self._end(abort=False)

    def abort(self) -> None:
        """Close at once and reset the connection: nothing of it stays in flight."""
        self._end(abort=True)

    @property
    def local_address(self) -> tuple[str, int]:
        """Host and port of our end."""
        address = self._sock.getsockname()
        return address[0], address[1]

    def _end(self, *, abort: bool) -> None:
        if self._sock.fileno() < 0:
            return
        self.statistics()
        if self._lost is None:
            self._lost = "the connection was closed"
        if abort:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _check(self) -> None:
        if self._lost is not None:
            raise ConnectionLost(self._lost)

    def _fail(self, text: str) -> ConnectionLost:
        if self._lost is None:
            self._lost = text
        return ConnectionLost(self._lost)


def _set_once(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
