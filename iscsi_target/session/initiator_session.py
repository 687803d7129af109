# SPDX-License-Identifier: Apache-2.0
"""A session at the initiator: command numbering, window, tasks over several connections (RFC 7143). Sans-IO."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from iscsi_target.executor import Buffer
from iscsi_target.session.initiator_events import CommandEnded, InitiatorEvent, TaskGone
from iscsi_target.session.parameters import Agreed
from iscsi_target.session.serial import before
from iscsi_target.wire.ahs import AdditionalHeaders, encode_ahs
from iscsi_target.wire.opcodes import RESERVED_TAG

if TYPE_CHECKING:
    from iscsi_target.session.initiator_connection import InitiatorConnection
    from iscsi_target.session.initiator_output import InitiatorOutput
    from iscsi_target.session.initiator_recovery import InitiatorRecovery

_MASK = 0xFFFFFFFF
_CDB_BYTES = 16


class InitiatorTask:
    """One SCSI command at the initiator. `data_out` is sent without copies, `data_in` filled in place.

    With both it is bidirectional. A CDB of more than 16 bytes goes on in an additional header segment.
    """

    __slots__ = (
        "ahs",
        "attr",
        "cdb",
        "cmd_sn",
        "cmd_sn_assigned",
        "connection",
        "data_in",
        "data_out",
        "expected_length",
        "extents",
        "immediate",
        "initiator_task_tag",
        "lun_field",
        "missing",
        "next_data_sn",
        "pending_status",
        "received",
        "renumbered",
        "stopped",
    )

    def __init__(
        self,
        connection: InitiatorRecovery,
        initiator_task_tag: int,
        lun_field: bytes,
        cdb: bytes,
        *,
        data_out: Buffer = b"",
        data_in: memoryview | None = None,
        attr: int = 1,
        immediate: bool = False,
    ) -> None:
        self.connection = connection
        self.initiator_task_tag = initiator_task_tag
        self.lun_field = lun_field
        self.cdb = cdb if len(cdb) == _CDB_BYTES else cdb[:_CDB_BYTES].ljust(_CDB_BYTES, b"\0")
        self.data_out = memoryview(data_out).cast("B")
        self.data_in = data_in
        self.attr = attr
        self.immediate = immediate
        self.expected_length = len(self.data_out)
        read_length = None
        if data_in is not None:
            if len(self.data_out):
                read_length = len(data_in)
            else:
                self.expected_length = len(data_in)
        self.ahs = b""
        if read_length is not None or len(cdb) > _CDB_BYTES:
            self.ahs = encode_ahs(AdditionalHeaders(cdb[_CDB_BYTES:], read_length))
        self.cmd_sn = 0
        self.cmd_sn_assigned = False
        self.received = 0
        self.extents: list[tuple[int, int]] = []
        """Where Data-In came and how much, where it may come in any order."""
        self.next_data_sn = 0
        self.missing: set[int] = set()
        """DataSNs that were lost and asked for again (error recovery level 1 and above)."""
        self.pending_status: CommandEnded | None = None
        """The status that came before the missing data."""
        self.stopped = False
        """The task is being ended: R2Ts are not answered any more."""
        self.renumbered = False
        """The next DataSN or R2TSN may leave a gap."""

    def data_in_flaw(self, residual_count: int) -> str:
        """What is wrong with the Data-In of a command that ended well: too little of it, or with holes; "" if nothing.

        ``residual_count`` is what the target said it left out (RFC 7143 section 11.4.5.1)."""
        assert self.data_in is not None
        promised = len(self.data_in) - residual_count
        if self.received != promised:
            return f"{self.received} bytes of Data-In came where {promised} are due"
        end = 0
        for offset, size in sorted(self.extents):
            if offset != end:
                return f"Data-In begins at {offset} where {end} comes next"
            end += size
        return ""

    def restart(self) -> None:
        """Nothing of the data counts any more: they come again from the beginning."""
        self.received = 0
        self.extents.clear()
        self.next_data_sn = 0
        self.missing.clear()
        self.pending_status = None


class InitiatorSession:
    """What the connections of one session share."""

    def __init__(self, *, initial_cmd_sn: int = 1, first_task_tag: int = 0) -> None:
        self.tsih = 0
        self.cmd_sn = initial_cmd_sn
        self.exp_cmd_sn = initial_cmd_sn
        self.max_cmd_sn = initial_cmd_sn
        self.agreed = Agreed()
        self.connections: dict[int, InitiatorConnection] = {}
        self.tasks: dict[int, InitiatorTask] = {}
        self.events: deque[InitiatorEvent] = deque()
        self.touched: set[InitiatorOutput] = set()
        self._task_tag = first_task_tag

    def drop(self, task: InitiatorTask, text: str) -> None:
        """End a task that will get no status."""
        if self.tasks.get(task.initiator_task_tag) is not task:
            return
        del self.tasks[task.initiator_task_tag]
        task.connection.forget(task)
        self.events.append(TaskGone(task.initiator_task_tag, text))

    def new_task_tag(self) -> int:
        """An Initiator Task Tag that is neither reserved nor in use."""
        while True:
            self._task_tag = (self._task_tag + 1) & _MASK
            if self._task_tag != RESERVED_TAG and self._task_tag not in self.tasks:
                return self._task_tag

    @property
    def last_task_tag(self) -> int:
        """The task tag that was given last."""
        return self._task_tag

    @property
    def window(self) -> int:
        """How many further commands may be sent now."""
        room = (self.max_cmd_sn - self.cmd_sn + 1) & _MASK
        return 0 if room >= 0x80000000 else room

    def take_cmd_sn(self) -> int:
        """Number one command."""
        cmd_sn = self.cmd_sn
        self.cmd_sn = (cmd_sn + 1) & _MASK
        return cmd_sn

    def update_window(self, exp_cmd_sn: int, max_cmd_sn: int) -> None:
        """ExpCmdSN and MaxCmdSN of a PDU from the target; older values are ignored (section 4.2.2.1)."""
        if before(max_cmd_sn, (exp_cmd_sn - 1) & _MASK):
            return
        if before(self.exp_cmd_sn, exp_cmd_sn):
            self.exp_cmd_sn = exp_cmd_sn
        if before(self.max_cmd_sn, max_cmd_sn):
            opened = not self.window
            self.max_cmd_sn = max_cmd_sn
            if opened:
                self.touched.update(self.connections.values())
