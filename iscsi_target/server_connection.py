# SPDX-License-Identifier: Apache-2.0
"""One accepted socket of the target server: reads, writes, and the accounting of unacknowledged Data-In."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import struct
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from iscsi_target.buffers import ConnectionInfo, Grant, ReceiveBuffers
from iscsi_target.executor import Buffer
from iscsi_target.fast_path_kernel import FastPath
from iscsi_target.file_map import place_in_file
from iscsi_target.session.target_connection import TargetConnection
from iscsi_target.session.task import TaskState
from iscsi_target.tcp_buffers import bound_receive_window, clamp_receive_window
from iscsi_target.tcp_info import outstanding_bytes
from iscsi_target.wire_filter import WireFilter

if TYPE_CHECKING:
    from iscsi_target.server import TargetServer


_log = logging.getLogger(__name__)
_IOV_MAX = 1024
_READS_PER_TURN = 16
_BUSY_BYTES = 4096
_LOOKS = 16
_LONG_BYTES = 16 * 1024
_JOINED_BYTES = 8192
"""Up to here one copy is cheaper than many buffers."""
_BY_REFERENCE_BYTES = 64 * 1024
"""From here on sending a store's memory by reference is cheaper than copying it."""
_GRANTS_AT_ONCE = 4
"""So many grants, and those acknowledged are released at once: a timer that finds hundreds delays a command."""
_SMALLEST_GRANT_BYTES = 16 * 1024
_LINGER_NS = 5_000_000_000
_UNWRITTEN = frozenset((TaskState.COLLECTING, TaskState.READY, TaskState.EXECUTING))
_ABORT = struct.pack("ii", 1, 0)


class ServerConnection:
    """The shell around one :class:`TargetConnection`."""

    def __init__(
        self,
        server: TargetServer,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        core: TargetConnection,
        info: ConnectionInfo,
        wire: WireFilter | None = None,
    ) -> None:
        self.core = core
        self.wire = wire
        self._info = info
        self._server = server
        self._loop = loop
        self._sock = sock
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._handed_over = 0
        self._acknowledged = 0
        self._grants: deque[tuple[int, Grant]] = deque()
        self._reading = False
        self._writing = False
        self._open = True
        self._finishing_since_ns = 0
        self._goodbye_said = False
        self._scheduled = False
        self._half_closed = False
        self._wire_timer: asyncio.TimerHandle | None = None
        self._wire_due_ns: int | None = None
        self._data_out_bytes = 0, 0
        self._window_bytes: int | None = None
        self._limit_window()
        self._read()

    @property
    def held_bytes(self) -> int:
        """Data-In charged to the buffers and not acknowledged."""
        return sum(grant.size_bytes for _, grant in self._grants)

    @property
    def info(self) -> ConnectionInfo:
        """The addresses, with the names once the login is complete."""
        session = self.core.session
        if session is not None and not self._info.tsih:
            name = session.target.name if session.target is not None else ""
            self._info = replace(
                self._info,
                initiator_name=session.initiator_name,
                target_name=name,
                tsih=session.tsih,
                cid=self.core.cid,
            )
        return self._info

    # -- reading ------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        if not self._reading and self._open:
            self._reading = True
            self.core.reading_resumed(time.monotonic_ns())
            self._loop.add_reader(self._sock.fileno(), self._readable)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._sock.fileno())

    def _readable(self) -> None:
        """Read, and again at once while a peer that writes keeps more coming: cheaper than to ask the loop in between.
        Such a peer has more within microseconds, in which a few looks cost both ends less than a sleep and a wake-up.
        The rest of a long PDU is better left to gather."""
        busy_reads = looks = 0
        while busy_reads < _READS_PER_TURN:
            size = self._read_once()
            if not self._reading:
                return
            if size >= _BUSY_BYTES:
                busy_reads, looks = busy_reads + 1, _LOOKS
            elif size or not looks:
                return
            if self._server.threads_at_work:
                return  # every look takes the interpreter from them once more
            looks -= 1
            missing = self.core.missing
            if missing is not None and len(missing) > _LONG_BYTES:
                return

    def _read_once(self) -> int:
        """One read and what it leads to; returns the bytes that came."""
        buffer, missing, room = self._server.read_buffer, None, None
        if self._server.receive_buffers is not None:
            room = self._server.receive_buffers.room(self.info)
            if room is not None and room < len(buffer):
                if room <= 0:
                    self._stop_reading()
                    self._server.without_room.setdefault(self)
                    return 0
                buffer = buffer[:room]
        try:
            if self.wire is None:
                missing = self.core.missing
                if missing is not None and room is not None and room < len(missing) + len(buffer):
                    missing = missing[:room]
                    buffer = buffer[: room - len(missing)]
            if missing is None:
                size, in_place = self._sock.recv_into(buffer), 0
            else:
                size = self._sock.recvmsg_into((missing, buffer))[0]
                in_place = min(size, len(missing))
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._lost(f"{error.strerror}")
            return 0
        if not size:
            self._lost("the initiator closed the connection")
            return 0
        if self._goodbye_said:
            return 0  # what still comes is of no interest
        now_ns = time.monotonic_ns()
        if self.wire is not None:
            self._receive(self.wire.incoming(bytes(buffer[:size]), now_ns), now_ns)
        else:
            self._receive(buffer[: size - in_place], now_ns, in_place=in_place, transient=True)
        return size

    def _receive(
        self, chunk: bytes | memoryview, now_ns: int, *, in_place: int = 0, transient: bool = False
    ) -> None:
        try:
            self.core.receive(chunk, now_ns, in_place=in_place, transient=transient)
        except Exception:  # noqa: BLE001 - a defect of ours costs this connection, not the others
            _log.exception("a defect ended the connection of %s", self.core.peer)
            self._lost("internal error")
            return
        self.work()
        server = self._server
        server.node.touched.discard(self.core)
        if server.node.touched or server.node.events or not server.polling:
            server.serve_touched()

    def _lost(self, text: str) -> None:
        self._close()
        self.core.eof(text)
        self._server.serve_touched()

    # -- working ------------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Execute what is ready, make Data-In, write."""
        if not self._open:
            return
        core, limits = self.core, self._server.node.limits
        if core.fast is not None and core.fast.taken and not self._run_fast(core.fast):
            return
        budget = limits.tasks_per_turn
        ready = core.ready
        while ready and budget and self._unsent_bytes + core.output_bytes < limits.send_queue_bytes:
            if core.data_in_bytes > limits.send_queue_bytes or not self._server.has_room(self):
                break
            budget -= 1
            self._server.execute(self, ready.popleft())
        while core.data_in_bytes and self._unsent_bytes + core.output_bytes < limits.send_queue_bytes:
            if not self._make_data_in(min(core.data_in_bytes, limits.data_in_chunk_bytes)):
                break
        answered_ns = time.monotonic_ns() if core.unaccounted else 0
        sent = self._flush()
        if answered_ns:
            core.account(answered_ns)
        if not sent:
            return
        if self._server.receive_buffers is not None:
            self._hold_data_out(self._server.receive_buffers)
        backlog = self._unsent_bytes >= limits.send_queue_bytes
        if backlog or len(ready) > limits.queued_commands:
            self._stop_reading()
        elif not self._reading and self not in self._server.without_room:
            self._read()
        more = (
            ready and core.data_in_bytes <= limits.send_queue_bytes and self not in self._server.crowded_out
        )
        if (
            (more or (core.data_in_bytes and self not in self._server.waiting))
            and not backlog
            and not self._scheduled
        ):
            self._scheduled = True
            self._loop.call_soon(self._work_later)
        if not self._unsent:
            if core.closing:
                self._finish()
            if self.wire is not None:
                self._follow_wire(self.wire)

    def _run_fast(self, fast: FastPath) -> bool:
        """Run what the fast path took; what the peer or the buffers do not let out now goes the general way. False
        when the connection was lost."""
        core, server = self.core, self._server
        while True:
            limit = min(fast.data_in_bytes, server.node.limits.send_queue_bytes - self._unsent_bytes)
            grant = None
            if server.charged and limit > 0:
                grant = server.buffers.acquire(self.info, limit)
                if grant is None:
                    limit = 0
            made = core.run_fast(limit)
            if grant is not None:
                if made:
                    self._charge(grant)
                else:
                    server.buffers.release(self.info, grant)
            if not fast.taken:
                return True
            if not made or not self._flush() or self._unsent:
                core.give_up_fast()
                return self._open

    def _charge(self, grant: Grant) -> None:
        """The grant is held until everything that has been made so far is acknowledged."""
        if len(self._grants) >= _GRANTS_AT_ONCE:
            self.release_acknowledged()
        self._grants.append((self._handed_over + self._unsent_bytes + self.core.output_bytes, grant))
        self._server.holding.setdefault(self)

    def _work_later(self) -> None:
        self._scheduled = False
        self._server.node.touched.add(self.core)
        self._server.serve_touched()

    def _make_data_in(self, size: int) -> bool:
        if not self._server.charged:
            self.core.emit_data_in(size)
            return True
        grant = None
        while grant is None:
            grant = self._server.buffers.acquire(self.info, size)
            if grant is None:
                if size <= _SMALLEST_GRANT_BYTES:
                    self._server.waiting.setdefault(self)
                    return False
                size = max(size // 4, _SMALLEST_GRANT_BYTES)
        self.core.emit_data_in(size)
        self._charge(grant)
        return True

    # -- writing ------------------------------------------------------------------------------------------------

    def _flush(self) -> bool:
        """Write what can be written; False when the connection was lost."""
        size = self.core.output_bytes
        output = self.core.take_output()
        if self.wire is not None:
            output = self._filtered(self.wire, output)
            size = sum(map(len, output))
        if not self._unsent:
            if not output:
                return True
            if size <= _JOINED_BYTES and len(output) > 2:
                output = [b"".join(output)]
            output = self._write(output, size)
            if not output:
                return self._open
        for buffer in output:
            view = memoryview(buffer).cast("B")
            self._unsent.append(view)
            self._unsent_bytes += len(view)
        if self._unsent and not self._writing and self._open:
            self._writing = True
            self._loop.add_writer(self._sock.fileno(), self._writable)
        return self._open

    def _write(self, buffers: list[Buffer], size: int) -> list[Buffer]:
        """Hand buffers of `size` bytes to the kernel; returns what it did not take."""
        if size >= _BY_REFERENCE_BYTES and self._may_refer:
            return self._write_by_reference(buffers)
        while buffers:
            batch = buffers[:_IOV_MAX] if len(buffers) > _IOV_MAX else buffers
            try:
                sent = self._sock.sendmsg(batch)
            except (BlockingIOError, InterruptedError):
                return buffers
            except OSError as error:
                self._lost(f"{error.strerror}")
                return []
            self._handed_over += sent
            if sent == size:
                return []
            size -= sent
            count = 0
            for buffer in batch:
                if sent < len(buffer):
                    break
                sent -= len(buffer)
                count += 1
            if count < len(batch):
                rest: list[Buffer] = [memoryview(batch[count])[sent:], *buffers[count + 1 :]]
                return rest
            buffers = buffers[count:]
        return []

    @property
    def _may_refer(self) -> bool:
        """Whether the kernel may send the store's memory as it is when it leaves. With a data digest it may not: a
        WRITE of another session in between would belie the digest that was computed."""
        return self.wire is None and not self.core.data_digest

    def _write_by_reference(self, buffers: list[Buffer]) -> list[Buffer]:
        """As `_write`; long pieces of a store that is memory are sent without a copy (sendfile(2)).

        A WRITE that overlaps a READ under way may show in it, as SAM-5 allows of commands that are not ordered.
        """
        first = 0
        try:
            for at, buffer in enumerate(buffers):
                place = place_in_file(buffer) if len(buffer) >= _BY_REFERENCE_BYTES else None
                if place is None:
                    continue
                while first < at:
                    batch = buffers[first : min(at, first + _IOV_MAX)]
                    first, taken = _advance(buffers, first, self._sock.sendmsg(batch, (), socket.MSG_MORE))
                    self._handed_over += taken
                descriptor, offset = place
                sent, length = 0, len(buffer)
                while sent < length:
                    taken = os.sendfile(self._sock.fileno(), descriptor, offset + sent, length - sent)
                    if not taken:
                        raise OSError(errno.EIO, "the store's memory ended")
                    self._handed_over += taken
                    sent += taken
                    buffers[at] = buffer[sent:]
                first = at + 1
            while first < len(buffers):
                first, taken = _advance(buffers, first, self._sock.sendmsg(buffers[first : first + _IOV_MAX]))
                self._handed_over += taken
        except (BlockingIOError, InterruptedError):
            return buffers[first:]
        except OSError as error:
            self._lost(f"{error.strerror}")
        return []

    def _writable(self) -> None:
        rest = self._write(list(self._unsent), self._unsent_bytes)
        if not self._open:
            return
        self._unsent = deque(memoryview(buffer) for buffer in rest)
        self._unsent_bytes = sum(map(len, self._unsent))
        if not self._unsent:
            self._writing = False
            self._loop.remove_writer(self._sock.fileno())
        self._server.node.touched.add(self.core)
        self._server.serve_touched()

    # -- the wire filter ----------------------------------------------------------------------------------------

    def _filtered(self, wire: WireFilter, output: list[Buffer]) -> list[Buffer]:
        """What the filter makes of the output. Bytes it holds back or drops are charged no longer: a grant is
        released when what has left the filter so far is acknowledged."""
        now_ns = time.monotonic_ns()
        output = [*wire.take_outgoing(), *(wire.outgoing(output, now_ns) if output else ())]
        if self._half_closed:
            output = []
        if self._grants:
            position = self._handed_over + self._unsent_bytes + sum(map(len, output))
            self._grants = deque((min(end, position), grant) for end, grant in self._grants)
        self._arm_wire_timer(wire, now_ns)
        return output

    def _arm_wire_timer(self, wire: WireFilter, now_ns: int) -> None:
        due_ns = wire.next_deadline()
        if due_ns == self._wire_due_ns:
            return
        if self._wire_timer is not None:
            self._wire_timer.cancel()
            self._wire_timer = None
        self._wire_due_ns = due_ns
        if due_ns is not None and self._open:
            self._wire_timer = self._loop.call_later(max(0, due_ns - now_ns) / 1e9, self._wire_due)

    def _wire_due(self) -> None:
        self._wire_timer = self._wire_due_ns = None
        wire = self.wire
        if wire is None or not self._open:
            return
        now_ns = time.monotonic_ns()
        wire.handle_timer(now_ns)
        # What became due for sending is taken when the connection gets its turn.
        self._receive(wire.take_incoming(), now_ns)

    def _follow_wire(self, wire: WireFilter) -> None:
        """All that the filter gave is written: end the connection if that is what it wants."""
        if wire.closing is None or not self._open:
            return
        if wire.closing == "half-close":
            if not self._half_closed:
                self._half_closed = True
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_WR)
            return
        if wire.closing == "reset":
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        self._lost("the wire filter ended the connection")

    # -- memory for Data-Out ------------------------------------------------------------------------------------

    def _limit_window(self) -> None:
        """Bound what the kernel takes in for this connection by what is reserved for it."""
        buffers = self._server.receive_buffers
        window_bytes = None if buffers is None else buffers.window_bytes(self._info)
        if window_bytes is not None:
            with contextlib.suppress(OSError):
                if window_bytes == self._window_bytes:
                    clamp_receive_window(self._sock, window_bytes)
                else:
                    bound_receive_window(self._sock, window_bytes)
        self._window_bytes = window_bytes

    def _hold_data_out(self, buffers: ReceiveBuffers) -> None:
        """Say how much Data-Out is here and not written yet; who waits for room is read again when that is less."""
        session = self.core.session
        held, whole = self.core.partial_bytes, 0
        if session is not None:
            for task in session.tasks.values():
                if task.received and task.connection is self.core and task.state in _UNWRITTEN:
                    held += task.received
                    if task.state is not TaskState.COLLECTING:
                        whole += task.received
        if (held, whole) == self._data_out_bytes:
            return
        self._data_out_bytes = held, whole
        self._limit_window()  # the reservation may have another size by now
        if buffers.hold(self.info, held, whole):
            self._server.room_came_back()

    def read_again(self) -> None:
        """There may be room for more Data-Out."""
        self._read()

    # -- accounting ---------------------------------------------------------------------------------------------

    def release_acknowledged(self) -> None:
        """Give back the grants whose bytes the peer's TCP has acknowledged."""
        if not self._grants:
            self._server.holding.pop(self, None)
            return
        acknowledged = self._handed_over - outstanding_bytes(self._sock)
        released = False
        while self._grants and self._grants[0][0] <= acknowledged:
            self._server.buffers.release(self._info, self._grants.popleft()[1])
            released = True
        if not self._grants:
            self._server.holding.pop(self, None)
        if released and self._server.waiting:
            self._server.units_came_back()

    # -- the end ------------------------------------------------------------------------------------------------

    def note_progress(self, now_ns: int) -> None:
        """Before a time-out: tell the core what is no silence of the peer's."""
        if not self._open:
            return
        if not self._reading:
            self.core.reading_resumed(now_ns)
        acknowledged = self._handed_over - outstanding_bytes(self._sock)
        if acknowledged > self._acknowledged:
            self._acknowledged = acknowledged
            self.core.sent(now_ns)

    def handle_timer(self, now_ns: int) -> None:
        """A connection that is on its way out does not wait for ever."""
        if not self.core.closing or not self._open:
            return
        if not self._finishing_since_ns:
            self._finishing_since_ns = now_ns
        elif now_ns - self._finishing_since_ns > _LINGER_NS:
            self.abort()

    def _finish(self) -> None:
        """All is written: say so and wait for the peer to close, so that no answer is lost to a reset."""
        if self._goodbye_said:
            return
        self._goodbye_said = True
        self._finishing_since_ns = self._finishing_since_ns or time.monotonic_ns()
        self._read()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Close at once, with a reset when bytes are unsent."""
        if self._open and self._unsent:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        self._close()

    def _close(self) -> None:
        if not self._open:
            return
        self._stop_reading()
        if self._writing:
            self._loop.remove_writer(self._sock.fileno())
        if self._wire_timer is not None:
            self._wire_timer.cancel()
            self._wire_timer = None
        if self.wire is not None:
            self.wire.ended(time.monotonic_ns())
        self._open = False
        self._sock.close()
        self._unsent.clear()
        self._unsent_bytes = 0
        released = bool(self._grants)
        while self._grants:
            self._server.buffers.release(self._info, self._grants.popleft()[1])
        if any(self._data_out_bytes) and self._server.receive_buffers is not None:
            self._data_out_bytes = 0, 0
            self._server.receive_buffers.hold(self._info, 0, 0)
            self._server.room_came_back()
        self._server.forget(self)
        if released:
            self._server.units_came_back()


def _advance(buffers: list[Buffer], first: int, sent: int) -> tuple[int, int]:
    """After `sent` bytes from ``buffers[first]`` on: the first that is not sent whole (cut to its rest), and `sent`."""
    rest = sent
    while first < len(buffers) and rest >= len(buffers[first]):
        rest -= len(buffers[first])
        first += 1
    if rest:
        buffers[first] = memoryview(buffers[first])[rest:]
    return first, sent
