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
    connections_per_address: int = 512
    """TCP connections from one address, so that no single machine keeps all others out."""
    sessions: int = 512
    login_connections: int = 128
    """Connections that have not finished their login."""
    login_connections_per_address: int = 64
    """... and from one address."""
    login_timeout_ns: int = 15 * _SECOND
    """From accept to full-feature phase."""
    login_text_bytes: int = 16 * 1024
    """Text of one login or text negotiation, continued PDUs together."""
    text_keys: int = 64
    """Keys in one text. The standard has 35, and the answer to each unknown one is longer than the key."""
    login_exchanges: int = 32
    """Login Requests on one connection."""
    text_response_bytes: int = 1024 * 1024
    idle_ping_ns: int = 20 * _SECOND
    """Silence after which the target sends a NOP-In ping."""
    ping_timeout_ns: int = 20 * _SECOND
    """Silence after a ping that ends the connection; a peer that still takes what we send is not silent."""
    pdu_timeout_ns: int = 60 * _SECOND
    """From the first byte of a PDU to its last, in full-feature phase."""
    abort_wait_ns: int = 2 * _SECOND
    """How long a multi-task abort waits for commands and Data-Out that the initiator owes."""
    queued_commands: int = 128
    """Width of the command window of one session; also its limit of immediate commands, and of commands that were
    ended while the device server works on them."""
    executing_commands: int = 4096
    """Commands of all sessions that are in, or wait for, the threads of the device server; more wait to be begun."""
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


def seconds(time_ns: int) -> str:
    """A time for people: "15 s", "0.25 s"."""
    return f"{time_ns / _SECOND:g} s"
