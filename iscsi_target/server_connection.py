# SPDX-License-Identifier: Apache-2.0
"""One accepted socket of the target server: reads, writes, and the accounting of unacknowledged Data-In."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from iscsi_target.buffers import ConnectionInfo, Grant
from iscsi_target.executor import Buffer
from iscsi_target.session.target_connection import TargetConnection
from iscsi_target.tcp_info import outstanding_bytes

if TYPE_CHECKING:
    from iscsi_target.server import TargetServer


_log = logging.getLogger(__name__)
_READ_BYTES = 256 * 1024
_IOV_MAX = 1024
_SMALLEST_GRANT_BYTES = 16 * 1024
_LINGER_NS = 5_000_000_000
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
    ) -> None:
        self.core = core
        self._info = info
        self._server = server
        self._loop = loop
        self._sock = sock
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._handed_over = 0
        self._grants: deque[tuple[int, Grant]] = deque()
        self._reading = False
        self._writing = False
        self._open = True
        self._finishing_since_ns = 0
        self._scheduled = False
        self._read()

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
            self._loop.add_reader(self._sock.fileno(), self._readable)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._sock.fileno())

    def _readable(self) -> None:
        try:
            chunk = self._sock.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(f"{error.strerror}")
            return
        if not chunk:
            self._lost("the initiator closed the connection")
            return
        if self._finishing_since_ns:
            return  # the goodbye is said; what still comes is of no interest
        try:
            self.core.receive(chunk, time.monotonic_ns())
        except Exception:  # noqa: BLE001 - a defect of ours costs this connection, not the others
            _log.exception("a defect ended the connection of %s", self.core.peer)
            self._lost("internal error")
            return
        self._server.node.touched.add(self.core)
        self._server.serve_touched()

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
        budget = limits.tasks_per_turn
        ready = core.ready
        while ready and budget and self._unsent_bytes + core.output_bytes < limits.send_queue_bytes:
            if core.data_in_bytes > limits.send_queue_bytes:
                break
            budget -= 1
            self._server.execute(self, ready.popleft())
        while core.data_in_bytes and self._unsent_bytes + core.output_bytes < limits.send_queue_bytes:
            if not self._make_data_in(min(core.data_in_bytes, limits.data_in_chunk_bytes)):
                break
        if not self._flush():
            return
        backlog = self._unsent_bytes >= limits.send_queue_bytes
        if backlog or len(ready) > limits.queued_commands:
            self._stop_reading()
        elif not self._reading:
            self._read()
        more = ready and core.data_in_bytes <= limits.send_queue_bytes
        if (
            (more or (core.data_in_bytes and self not in self._server.waiting))
            and not backlog
            and not self._scheduled
        ):
            self._scheduled = True
            self._loop.call_soon(self._work_later)
        if core.closing and not self._unsent:
            self._finish()

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
        end = self._handed_over + self._unsent_bytes + self.core.output_bytes
        self._grants.append((end, grant))
        self._server.holding.setdefault(self)
        return True

    # -- writing ------------------------------------------------------------------------------------------------

    def _flush(self) -> bool:
        """Write what can be written; False when the connection was lost."""
        output = self.core.take_output()
        if not self._unsent:
            if not output:
                return True
            output = self._write(output)
        for buffer in output:
            view = memoryview(buffer).cast("B")
            self._unsent.append(view)
            self._unsent_bytes += len(view)
        if self._unsent and not self._writing and self._open:
            self._writing = True
            self._loop.add_writer(self._sock.fileno(), self._writable)
        return self._open

    def _write(self, buffers: list[Buffer]) -> list[Buffer]:
        """Hand buffers to the kernel; returns what it did not take."""
        while buffers:
            batch = buffers[:_IOV_MAX]
            try:
                sent = self._sock.sendmsg(batch)
            except (BlockingIOError, InterruptedError):
                return buffers
            except OSError as error:
                self._lost(f"{error.strerror}")
                return []
            self._handed_over += sent
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

    def _writable(self) -> None:
        rest = self._write(list(self._unsent))
        if not self._open:
            return
        self._unsent = deque(memoryview(buffer) for buffer in rest)
        self._unsent_bytes = sum(map(len, self._unsent))
        if not self._unsent:
            self._writing = False
            self._loop.remove_writer(self._sock.fileno())
        self._server.node.touched.add(self.core)
        self._server.serve_touched()

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
        if self._finishing_since_ns:
            return
        self._finishing_since_ns = time.monotonic_ns()
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
        self._open = False
        self._sock.close()
        self._unsent.clear()
        self._unsent_bytes = 0
        released = bool(self._grants)
        while self._grants:
            self._server.buffers.release(self._info, self._grants.popleft()[1])
        self._server.forget(self)
        if released:
            self._server.units_came_back()
