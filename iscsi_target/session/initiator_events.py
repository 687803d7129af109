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
    """After the loss of a connection the target knows nothing of this request, and it cannot be sent again."""

    initiator_task_tag: int


@dataclass(frozen=True, slots=True)
class AsyncReceived:
    """The target sent an asynchronous message."""

    cid: int
    pdu: AsyncMessage


InitiatorEvent = LoggedIn | CommandEnded | TextAnswered | Answered | Rejected | TaskGone | AsyncReceived
