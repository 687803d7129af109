# SPDX-License-Identifier: Apache-2.0
"""What happened in the target's cores, in the past tense; the shell logs and counts it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionEstablished:
    """A session reached full-feature phase with its leading connection."""

    initiator_name: str
    target_name: str
    """Empty for a discovery session."""
    tsih: int
    cid: int
    peer: str


@dataclass(frozen=True, slots=True)
class ConnectionAdded:
    """A further connection joined a session, or replaced one with the same CID."""

    initiator_name: str
    tsih: int
    cid: int
    peer: str


@dataclass(frozen=True, slots=True)
class LoginRefused:
    """A login was answered with a failure status."""

    peer: str
    status: int
    text: str


@dataclass(frozen=True, slots=True)
class ConnectionFailed:
    """A connection ended by an error or a time-out: of the peer's making, or a limit of ours."""

    peer: str
    text: str


@dataclass(frozen=True, slots=True)
class PduRejected:
    """A PDU was answered with Reject."""

    peer: str
    reason: int
    text: str


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """A session is gone and its I_T nexus lost."""

    initiator_name: str
    target_name: str
    tsih: int
    text: str


Event = SessionEstablished | ConnectionAdded | LoginRefused | ConnectionFailed | PduRejected | SessionEnded
