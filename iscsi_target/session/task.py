# SPDX-License-Identifier: Apache-2.0
"""One SCSI task at the target: its Data-Out on the way in, its Data-In on the way out. Sans-IO."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from iscsi_target.executor import Buffer, ScsiCommand, ScsiResult
from iscsi_target.session.counters import Traffic

if TYPE_CHECKING:
    from iscsi_target.session.target_connection import TargetConnection

ILLEGAL_REQUEST = 0x05
ABORTED_COMMAND = 0x0B
UNEXPECTED_UNSOLICITED_DATA = 0x0C0C
INCORRECT_AMOUNT_OF_DATA = 0x0C0D
PROTOCOL_SERVICE_CRC_ERROR = 0x4705


class TaskState(enum.Enum):
    """Life of a task."""

    COLLECTING = "Data-Out is on its way"
    READY = "waiting to be executed"
    EXECUTING = "the device server works on it"
    DEFERRED = "the answer is there and waits for its time"
    SENDING = "Data-In is on its way"
    ENDED = "answered or aborted"


class Transfer:
    """One sequence of Data-Out: unsolicited, or asked for by an R2T. Positions in bytes of the whole transfer."""

    __slots__ = ("data_sn", "end", "missing", "offset", "target_transfer_tag")

    def __init__(self, target_transfer_tag: int, offset: int, end: int) -> None:
        self.target_transfer_tag = target_transfer_tag
        self.offset = offset
        """Where the next PDU begins."""
        self.end = end
        """Where the sequence ends, at the latest."""
        self.data_sn = 0
        self.missing: list[tuple[int, int]] = []
        """Ranges that were lost on the way (error recovery level 1 and above)."""


class Task:
    """A SCSI task. Offsets and lengths in bytes."""

    __slots__ = (
        "arrived_ns",
        "cmd_sn",
        "command",
        "connection",
        "data_out",
        "data_out_needed",
        "data_out_wanted",
        "immediate",
        "initiator_task_tag",
        "lun_field",
        "next_r2t_offset",
        "r2t_sn",
        "received",
        "released",
        "result",
        "sent_data",
        "solicited",
        "state",
        "traffic",
        "transfers",
        "unsolicited",
    )

    def __init__(
        self,
        connection: TargetConnection,
        initiator_task_tag: int,
        lun_field: bytes,
        cmd_sn: int,
        immediate: bool,
        command: ScsiCommand,
        traffic: Traffic,
        arrived_ns: int,
    ) -> None:
        self.connection = connection
        self.initiator_task_tag = initiator_task_tag
        self.lun_field = lun_field
        self.cmd_sn = cmd_sn
        self.immediate = immediate
        self.command = command
        self.traffic = traffic
        """Where it is counted."""
        self.arrived_ns = arrived_ns
        """When the read that brought it was made."""
        self.state = TaskState.READY
        self.data_out: Buffer = b""
        self.data_out_needed = 0
        """What will be collected: the least of what is wanted and what the initiator announced."""
        self.data_out_wanted = 0
        """What the device server needs."""
        self.received = 0
        self.released = False
        """Its place in the command window was given back."""
        self.result: ScsiResult | None = None
        """The device server's answer, kept at error recovery level 2 until the status is acknowledged."""
        self.sent_data: list[int] = []
        """Where each Data-In PDU ended, by DataSN (error recovery level 2)."""
        self.unsolicited: Transfer | None = None
        self.next_r2t_offset = 0
        self.r2t_sn = 0
        self.solicited = 0
        self.transfers: dict[int, Transfer] = {}

    def store(self, offset: int, data: memoryview) -> None:
        """Keep Data-Out at `offset`; bytes that the command does not need are dropped."""
        end = min(offset + len(data), self.data_out_needed)
        if end <= offset:
            return
        if not isinstance(self.data_out, bytearray):
            whole = bytearray(self.data_out_needed)
            whole[: len(self.data_out)] = self.data_out
            self.data_out = whole
        self.data_out[offset:end] = data[: end - offset]
        self.received += end - offset

    @property
    def window_step(self) -> int:
        """By how much the command window moves with this task's status."""
        return 0 if self.immediate or self.released else 1

    @property
    def complete(self) -> bool:
        """True when all Data-Out has come."""
        return self.unsolicited is None and not self.transfers and self.received >= self.data_out_needed


class DataInSource:
    """The Data-In of one task, cut into PDUs as the connection can take them."""

    __slots__ = (
        "buffers",
        "burst_left",
        "data_sn",
        "index",
        "inner",
        "offset",
        "result",
        "snack_tag",
        "stat_sn",
        "task",
        "total",
        "transfer",
    )

    def __init__(self, task: Task, result: ScsiResult, total: int, transfer: int, burst: int) -> None:
        self.task = task
        self.result = result
        self.buffers = [memoryview(buffer) for buffer in result.data_in if len(buffer)]
        self.total = total
        """Bytes that will be sent."""
        self.transfer = transfer
        """Bytes the command would have moved, for the residual count."""
        self.offset = 0
        self.burst_left = burst
        self.data_sn = 0
        self.index = 0
        self.inner = 0
        self.snack_tag = 0
        """Tag of the R-Data SNACK that asked for these data; 0: none did."""
        self.stat_sn: int | None = None
        """StatSN of the status that is to be sent again; None: a new one."""

    def from_offset(self, offset: int, data_sn: int, burst: int) -> DataInSource:
        """The same data from `offset` on, numbered from `data_sn`."""
        again = DataInSource(self.task, self.result, self.total, self.transfer, burst)
        if offset:
            again.take(offset)
        again.data_sn = data_sn
        again.burst_left = burst - offset % burst
        return again

    def take(self, size: int) -> list[memoryview]:
        """The next `size` bytes, without a copy."""
        self.offset += size
        buffer = self.buffers[self.index]
        if self.inner + size < len(buffer) or (not self.inner and size == len(buffer)):
            start, self.inner = self.inner, self.inner + size
            if self.inner == len(buffer):
                self.index += 1
                self.inner = 0
                return [buffer]
            return [buffer[start : start + size]]
        pieces: list[memoryview] = []
        while size:
            buffer = self.buffers[self.index]
            piece = buffer[self.inner : self.inner + size]
            size -= len(piece)
            self.inner += len(piece)
            if self.inner == len(buffer):
                self.index += 1
                self.inner = 0
            pieces.append(piece)
        return pieces


def fixed_sense(sense_key: int, code: int) -> bytes:
    """Fixed format sense data (SPC-4 4.5.3) for the errors the session layer itself finds; `code` is ASC and ASCQ."""
    return bytes((0x70, 0, sense_key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code >> 8, code & 0xFF, 0, 0, 0, 0))
