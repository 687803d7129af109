# SPDX-License-Identifier: Apache-2.0
"""The seam to whoever owns communication memory: host Data-In is charged by count before the kernel gets it.

The bytes themselves go straight from the backing store to the socket; what is reserved is the right to have that many
of them unacknowledged. Login, NOP and status PDUs are not charged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """Which connection asks. Names are empty and `tsih` 0 before the login is complete."""

    local_host: str
    local_port: int
    peer_host: str
    peer_port: int
    initiator_name: str = ""
    target_name: str = ""
    tsih: int = 0
    cid: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """The right to have `size_bytes` in flight; `units` is the owner's business, `tag` too."""

    size_bytes: int
    units: int = 0
    tag: object = None


class SendBuffers(Protocol):
    """Called from the event loop's thread only; never waits."""

    def acquire(self, connection: ConnectionInfo, size_bytes: int) -> Grant | None:
        """The right to send `size_bytes` of Data-In, or None: ask again later."""
        ...

    def release(self, connection: ConnectionInfo, grant: Grant) -> None:
        """The bytes of `grant` are acknowledged by the peer's TCP, or the connection is gone."""
        ...


class UnlimitedBuffers:
    """Grants everything. The server then leaves out the accounting altogether."""

    def acquire(self, connection: ConnectionInfo, size_bytes: int) -> Grant | None:
        """Always a grant."""
        return Grant(size_bytes)

    def release(self, connection: ConnectionInfo, grant: Grant) -> None:
        """Nothing is counted."""


class ReceiveBuffers(Protocol):
    """The other direction: whose memory Data-Out lies in from its arrival until it is written. Called from the event
    loop's thread only; never waits."""

    def window_bytes(self, connection: ConnectionInfo) -> int | None:
        """What the connection's receive buffer and window are to be bounded by; None: by the system."""
        ...

    def room(self, connection: ConnectionInfo) -> int | None:
        """Bytes that may be read from the connection now; 0: none until others give back; None: any."""
        ...

    def hold(self, connection: ConnectionInfo, size_bytes: int, whole_bytes: int) -> bool:
        """The connection has so many bytes of Data-Out that are not written yet, `whole_bytes` of them of commands that
        have come whole; True: that is less than before."""
        ...
