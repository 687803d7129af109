# SPDX-License-Identifier: Apache-2.0
"""What happened in the initiator's cores, in the past tense."""

from __future__ import annotations

from dataclasses import dataclass

from iscsi_target.wire.responses import (
    AsyncMessage,
    LogoutResponse,
    NopIn,
    Reject,
    TaskManagementResponse,
)


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """The connection reached full-feature phase."""

    cid: int


@dataclass(frozen=True, slots=True)
class CommandEnded:
    """A SCSI command has its status. `data_in` holds `received` bytes."""

    initiator_task_tag: int
    response: int
    """iSCSI service response; 0: the command was completed at the target."""
    status: int
    sense: bytes
    data_in: memoryview
    received: int
    overflow: bool
    underflow: bool
    residual_count: int
    """Of a bidirectional command: the residual of its Data-Out."""
    read_overflow: bool = False
    read_underflow: bool = False
    read_residual_count: int = 0
    """The residual of the Data-In of a bidirectional command (section 11.4.5.2)."""


@dataclass(frozen=True, slots=True)
class TextAnswered:
    """All text of an answer has come."""

    initiator_task_tag: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """A NOP, logout or task management request was answered."""

    initiator_task_tag: int
    pdu: NopIn | LogoutResponse | TaskManagementResponse


@dataclass(frozen=True, slots=True)
class Rejected:
    """The target rejected a PDU; `initiator_task_tag` is that of the rejected header."""

    initiator_task_tag: int
    pdu: Reject


@dataclass(frozen=True, slots=True)
class TaskGone:
    """The task or request ended without an answer of its own; `text` says why."""

    initiator_task_tag: int
    text: str


@dataclass(frozen=True, slots=True)
class AsyncReceived:
    """The target sent an asynchronous message."""

    cid: int
    pdu: AsyncMessage


InitiatorEvent = LoggedIn | CommandEnded | TextAnswered | Answered | Rejected | TaskGone | AsyncReceived
