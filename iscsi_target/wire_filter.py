# SPDX-License-Identifier: Apache-2.0
"""The seam to whoever changes what one connection of the target receives and sends: faults, captures.

A filter is a sans-IO core of its own: it is handed bytes and the time, keeps what it holds back, and says when it
wants to be called again. The shell (:mod:`iscsi_target.server_connection`) calls it and arms one timer. A connection
without a filter pays one test per batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from iscsi_target.buffers import ConnectionInfo
from iscsi_target.executor import Buffer
from iscsi_target.session.target_connection import TargetConnection

Closing = Literal["close", "half-close", "reset"]
"""How a filter ends a connection: with FIN in both directions, with FIN in ours only (what the initiator still sends is
read and served, what we would send is thrown away), or with RST."""


class WireFilter(Protocol):
    """Bytes of one connection, on their way in and out. Called from the event loop's thread; `now_ns` is the monotonic
    clock in nanoseconds."""

    closing: Closing | None
    """Set when the connection is to end; done after everything the filter gave has been written."""

    def incoming(self, chunk: bytes, now_ns: int) -> bytes:
        """What one read brought: returns what the target is to receive now, perhaps nothing."""
        ...

    def outgoing(self, buffers: list[Buffer], now_ns: int) -> list[Buffer]:
        """What the target wants to send, in order, headers and data as separate buffers: returns what is to be written
        now. The buffers must not be changed in place: a changed part is a new buffer."""
        ...

    def next_deadline(self) -> int | None:
        """When `handle_timer` wants to be called; None: nothing is held back."""
        ...

    def handle_timer(self, now_ns: int) -> None:
        """That moment has come; afterwards the shell takes what became due."""
        ...

    def take_incoming(self) -> bytes:
        """Bytes held back that the target is to receive now; they are handed over once."""
        ...

    def take_outgoing(self) -> list[Buffer]:
        """Buffers held back that are to be written now; they are handed over once."""
        ...

    def ended(self, now_ns: int) -> None:
        """The socket is closed, whoever closed it; no other method is called afterwards."""
        ...


FilterFactory = Callable[[ConnectionInfo, TargetConnection], WireFilter | None]
"""Called when a connection was accepted; None: it is served without a filter. The names in the
:class:`~iscsi_target.buffers.ConnectionInfo` are still empty; the core knows its session after the login."""
