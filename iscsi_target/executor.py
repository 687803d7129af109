# SPDX-License-Identifier: Apache-2.0
"""The seam between the iSCSI session layer and the SCSI device server.

The session layer never interprets a CDB: it collects the Data-Out bytes a command needs, hands one complete
:class:`ScsiCommand` to a :class:`LogicalUnits`, and turns the :class:`ScsiResult` into Data-In and SCSI Response
PDUs, computing the residual counts of RFC 7143 section 11.4.5 itself.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = [
    "Buffer",
    "Deferred",
    "LogicalUnits",
    "PreemptingResult",
    "ResetKind",
    "ScsiCommand",
    "ScsiResult",
    "TaskAttribute",
]

Buffer = bytes | bytearray | memoryview
"""Bytes in any of the forms that cross the seam without a copy."""


class TaskAttribute(enum.IntEnum):
    """Task attributes, RFC 7143 section 11.3.1 (ATTR) and SAM-5 8.6."""

    UNTAGGED = 0
    SIMPLE = 1
    ORDERED = 2
    HEAD_OF_QUEUE = 3
    ACA = 4


class ResetKind(enum.Enum):
    """Task management that the device server has to know of, SAM-5 clause 7 and RFC 7143 section 11.5.1."""

    ABORT_TASK_SET = "abort task set"
    CLEAR_TASK_SET = "clear task set"
    LOGICAL_UNIT_RESET = "logical unit reset"
    TARGET_WARM_RESET = "target warm reset"
    TARGET_COLD_RESET = "target cold reset"


@dataclass(slots=True, unsafe_hash=True)
class ScsiCommand:
    """One SCSI command as the device server sees it (SAM-5 5.1, Execute Command).

    Nobody changes one once it is made. It is not frozen, nor is :class:`ScsiResult`, because a frozen one takes four
    times as long to make, and there is one of each for every command.
    """

    initiator_name: str
    """What masking and access checks go by: the initiator's iSCSI name, or the name of the access rule under which it
    logged in (:meth:`iscsi_target.session.access.AccessList.view_of`)."""
    initiator_port: str
    """SCSI initiator port name, RFC 7143 section 4.4.1.1: ``<iSCSI name>,i,0x<ISID as 12 hex digits>``. Names the
    I_T nexus together with `target_port`."""
    target_port: int
    """Target portal group tag through which the command came; the relative target port."""
    lun: int
    """Logical unit number, decoded from peripheral or flat space addressing; a LUN in another form is handed on as
    the unsigned value of its eight bytes, which no logical unit has."""
    cdb: bytes
    """The whole CDB: 16 bytes from the header, and those of an Extended CDB additional header."""
    data_out: Buffer
    """All Data-Out, at most ``data_out_length(...)`` bytes; shorter when the initiator announced less
    (``expected_length``)."""
    read: bool
    """The R bit: the initiator expects Data-In."""
    write: bool
    """The W bit: the initiator brings Data-Out."""
    expected_length: int
    """Expected Data Transfer Length in bytes, of Data-In for reads, of Data-Out for writes (and bidirectional)."""
    task_attribute: int = TaskAttribute.SIMPLE
    expected_data_in_length: int = 0
    """Bidirectional commands only: the Bidirectional Read Expected Data Transfer Length, in bytes."""


@dataclass(slots=True, unsafe_hash=True)
class ScsiResult:
    """What the device server answers."""

    status: int
    """SCSI status byte, SAM-5 5.3."""
    data_in: Sequence[Buffer] = ()
    """Data-In, in order; may be longer than the initiator expects, the session cuts it and reports overflow.
    The buffers hold single bytes (a memoryview has format 'B') and must not change until they are sent."""
    sense: bytes = b""
    """Sense data without the two-byte SenseLength; empty unless `status` is CHECK CONDITION."""
    transfer_length: int | None = None
    """Bytes the command would have moved with an unlimited EDTL. None: the length of `data_in` for reads,
    the number of Data-Out bytes asked for (``data_out_length``) for writes. Set it when a read stops at
    the expected length instead of building bytes that the session would cut."""


@dataclass(slots=True, unsafe_hash=True)
class PreemptingResult(ScsiResult):
    """The answer to a PERSISTENT RESERVE OUT that also ends tasks of other I_T nexuses (PREEMPT AND ABORT, SPC-4
    5.13.11.2.6). The session layer ends them, without an answer of their own, before it sends this status."""

    preempted: Sequence[tuple[str, int, int]] = ()
    """(initiator port, target port, LUN as that initiator counts) whose tasks end; never the task answered here."""


@dataclass(frozen=True, slots=True)
class Deferred:
    """An answer that exists now and is given later, without a thread that waits: latency of a medium, say. A task that
    is aborted meanwhile is gone at once, and the answer is thrown away."""

    due_ns: int
    """When to answer, on the monotonic clock, in nanoseconds."""
    result: ScsiResult


@runtime_checkable
class LogicalUnits(Protocol):
    """The logical units behind one target. One instance serves every session of that target.

    `execute` is called from the event loop's thread when `blocking` said False, else from a thread pool, several
    calls at a time; everything else is called from the event loop's thread. Implementations are thread-safe for the
    commands they call blocking.
    """

    def data_out_length(self, command: ScsiCommand) -> int:
        """Bytes of Data-Out that this command needs, from its CDB alone (``command.data_out`` is still empty).

        0 for a command that takes none, that is not supported or that will fail whatever data follow
        (LUN missing, LBA out of range, write protected, more than the maximum transfer length); the session then asks
        for no data and executes the command at once. The session solicits ``min(expected_length, this)``.
        """
        ...

    def blocking(self, command: ScsiCommand) -> bool:
        """True when `execute` may wait (disk, fsync, a long loop): it then runs in a thread of the pool."""
        ...

    def execute(self, command: ScsiCommand) -> ScsiResult | Deferred:
        """Run the command to completion. Never raises for what the initiator sent: that is a CHECK CONDITION.
        A missing LUN is answered here too (LOGICAL UNIT NOT SUPPORTED; INQUIRY and REPORT LUNS have their own rules).
        """
        ...

    def abandon(self, command: ScsiCommand) -> None:
        """Nobody waits any more for the answer to `command`, which `execute` is running in a thread: let `execute`
        return soon where it can. What the command began for good goes on by itself (SANITIZE, SBC-3 4.11.1)."""
        ...

    def luns_for(self, initiator_name: str) -> Sequence[int]:
        """The LUNs this initiator may see, ascending."""
        ...

    def i_t_nexus_established(self, initiator_name: str, initiator_port: str, target_port: int) -> None:
        """A session reached full-feature phase (unit attention POWER ON OCCURRED is due to this nexus)."""
        ...

    def i_t_nexus_loss(self, initiator_port: str, target_port: int) -> None:
        """The session ended for good: logout, time-out or reinstatement (SAM-5 6.3.4)."""
        ...

    def reset(self, kind: ResetKind, lun: int | None, initiator_port: str, target_port: int) -> bool:
        """Task management arrived from this nexus; `lun` is None for the target resets.

        The session layer has already ended the tasks it holds. Returns False when there is no such LUN
        (response "LUN does not exist").
        """
        ...
