# SPDX-License-Identifier: Apache-2.0
"""The connection an initiator uses when nobody reserves memory for it; it can be made to read slowly."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterable
from typing import Protocol

from iscsi_target.errors import ConnectionLost, reason_of
from iscsi_target.executor import Buffer
from iscsi_target.tcp import connect_socket

_IOV_MAX = 1024
_READ_BYTES = 256 * 1024
_SLOW_STEP_S = 0.02
_ABORT = struct.pack("ii", 1, 0)


class Connection(Protocol):
    """What an initiator needs of a byte stream; :class:`iscsi_target.tcp.ReservedTcpConnection` is one too."""

    async def write(self, buffers: Iterable[Buffer]) -> None:
        """Send the buffers in order. Raises ConnectionLost."""
        ...

    async def read(self) -> bytes:
        """What has come; empty at the end of the stream. Raises ConnectionLost."""
        ...

    def close(self) -> None:
        """Close in order."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


class PlainConnection:
    """An ordinary TCP connection.

    `receive_rate_bps`: read no faster than that, in bits per second, so that the peer finds a slow host.
    """

    def __init__(
        self, sock: socket.socket, *, receive_rate_bps: int | None = None, timeout_s: float = 60.0
    ) -> None:
        if receive_rate_bps is not None and receive_rate_bps <= 0:
            raise ValueError("the receive rate has to be positive")
        self._sock = sock
        self._rate_bps = receive_rate_bps
        self._timeout_s = timeout_s
        self._next_read_at = 0.0

    @classmethod
    async def open(
        cls,
        host: str,
        port: int,
        *,
        timeout_s: float = 10.0,
        receive_buffer_bytes: int | None = None,
        receive_rate_bps: int | None = None,
        source_host: str = "",
    ) -> PlainConnection:
        """Connect. Raises ConnectionLost."""
        sock = await connect_socket(
            host,
            port,
            timeout_s=timeout_s,
            receive_buffer_bytes=receive_buffer_bytes,
            source_host=source_host,
        )
        return cls(sock, receive_rate_bps=receive_rate_bps)

    async def write(self, buffers: Iterable[Buffer]) -> None:
        """Send the buffers in order. Raises ConnectionLost, also when the peer takes nothing for `timeout_s`."""
        loop = asyncio.get_running_loop()
        rest = [memoryview(buffer).cast("B") for buffer in buffers]
        try:
            while rest:
                try:
                    sent = self._sock.sendmsg(rest[:_IOV_MAX])
                except (BlockingIOError, InterruptedError):
                    async with asyncio.timeout(self._timeout_s):
                        await loop.sock_sendall(self._sock, rest[0])
                    sent = len(rest[0])
                count = 0
                while count < len(rest) and sent >= len(rest[count]):
                    sent -= len(rest[count])
                    count += 1
                del rest[:count]
                if sent:
                    rest[0] = rest[0][sent:]
        except TimeoutError:
            raise ConnectionLost(f"the peer took nothing for {self._timeout_s:g} s") from None
        except OSError as error:
            raise ConnectionLost(reason_of(error)) from error

    async def read(self) -> bytes:
        """What has come. Raises ConnectionLost."""
        loop = asyncio.get_running_loop()
        try:
            if self._rate_bps is None:
                return await loop.sock_recv(self._sock, _READ_BYTES)
            delay = self._next_read_at - loop.time()
            if delay > 0:
                await asyncio.sleep(delay)
            size = max(1, int(self._rate_bps / 8 * _SLOW_STEP_S))
            chunk = await loop.sock_recv(self._sock, size)
            start = max(self._next_read_at, loop.time() - _SLOW_STEP_S)
            self._next_read_at = start + len(chunk) * 8 / self._rate_bps
            return chunk
        except OSError as error:
            raise ConnectionLost(reason_of(error)) from error

    def close(self) -> None:
        """Close in order."""
        if self._sock.fileno() >= 0:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            self._sock.close()

    def abort(self) -> None:
        """Close with a reset."""
        if self._sock.fileno() >= 0:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        self.close()
