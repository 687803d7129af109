# SPDX-License-Identifier: Apache-2.0
"""Everything a peer can influence, bounded (sizes in bytes, times in nanoseconds)."""

from __future__ import annotations

from dataclasses import dataclass

_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a target. The defaults suit one storage array with some hundred hosts."""

    connections: int = 1024
    """TCP connections of all portals together; more are closed at once."""
    sessions: int = 512
    login_connections: int = 128
    """Connections that have not finished their login."""
    login_timeout_ns: int = 15 * _SECOND
    """From accept to full-feature phase."""
    login_text_bytes: int = 16 * 1024
    """Text of one login or text negotiation, continued PDUs together."""
    login_exchanges: int = 32
    """Login Requests on one connection."""
    text_response_bytes: int = 1024 * 1024
    idle_ping_ns: int = 20 * _SECOND
    """Silence after which the target sends a NOP-In ping."""
    ping_timeout_ns: int = 20 * _SECOND
    """Silence after a ping that ends the connection."""
    queued_commands: int = 128
    """Width of the command window of one session; also its limit of immediate commands."""
    transfer_bytes: int = 32 * 1024 * 1024
    """Data-Out of one command."""
    solicited_bytes: int = 32 * 1024 * 1024
    """Data-Out solicited at one time by one session; further commands wait for their turn."""
    retained_bytes: int = 32 * 1024 * 1024
    """Data-In of one connection kept until acknowledged (error recovery level 1 and above)."""
    send_queue_bytes: int = 1024 * 1024
    """Bytes waiting in user space for a slow reader; beyond it no further Data-In is made."""
    data_in_chunk_bytes: int = 256 * 1024
    """Data-In made, and charged, at one time."""
    tasks_per_turn: int = 64
    """Commands executed for one connection before others get their turn."""
