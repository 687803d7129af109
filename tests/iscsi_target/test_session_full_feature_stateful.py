"""Full-feature phase against a model: what is on the disk, which tasks are open, which numbers come next.

Up to three connections of one session do what the standard allows in any order: reads, writes with immediate,
unsolicited and solicited data, commands out of order over the connections, pings, texts, task management, lost
connections and reassigned tasks, logout. The shell's part (executing, making Data-In) is done by rules, too. Every
PDU that comes back is held against RFC 7143.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from iscsi_target.session.limits import Limits
from iscsi_target.session.parameters import Parameters
from iscsi_target.session.serial import before
from iscsi_target.session.target_output import Phase
from iscsi_target.session.task import TaskState
from iscsi_target.wire.codec import Pdu, encode_pdu
from iscsi_target.wire.opcodes import RESERVED_TAG, LogoutReason, TaskFunction, TaskResponse
from iscsi_target.wire.requests import (
    DataOut,
    LogoutRequest,
    NopOut,
    ScsiCommandPdu,
    TaskManagementRequest,
    TextRequest,
)
from iscsi_target.wire.responses import (
    R2T,
    DataIn,
    LogoutResponse,
    NopIn,
    ScsiResponse,
    TaskManagementResponse,
    TextResponse,
)
from iscsi_target.wire.text import encode_text
from tests.iscsi_target.imaginary_wire import BLOCK, Conversation, RamDisk, make_node, read_16, write_16

BLOCKS = 64
WINDOW = 6
LIMITS = Limits(queued_commands=WINDOW, solicited_bytes=24 * BLOCK, retained_bytes=1 << 20)
SECOND = 1_000_000_000
GOOD = 0


@dataclass
class Open:
    """A SCSI task without status, as its initiator knows it."""

    tag: int
    connection: int
    write: bool
    start: int
    size: int
    expected: int
    immediate: bool
    data: bytes = b""
    unsolicited_at: int | None = None
    """Where unsolicited data go on; None: there are none (any more)."""
    unsolicited_sn: int = 0
    r2ts: list[R2T] = field(default_factory=list)
    done: int = 0
    """Bytes sent for the first of `r2ts`."""
    data_sn: int = 0
    r2t_sn: int = 0
    data_in_sn: int = 0
    came: bytearray = field(default_factory=bytearray)
    content: bytes | None = None
    """What the disk held when the read was executed."""
    gone: bool = False
    """Its connection is lost and it is not reassigned."""

    @property
    def transfer(self) -> int:
        return min(self.size, self.expected)


class Peer(Conversation):
    """One connection."""

    next_stat_sn: int = 0
    window: tuple[int, int] | None = None
    """ExpCmdSN and MaxCmdSN as they last came on this connection."""


class FullFeature(RuleBasedStateMachine):
    """See the module."""

    @initialize(
        recovery=st.sampled_from([0, 0, 2]),
        initial_r2t=st.booleans(),
        immediate_data=st.booleans(),
        burst=st.sampled_from([512, 1024, 1536, 4096]),
        outstanding=st.integers(1, 3),
        segment=st.sampled_from([512, 1024, 8192]),
    )
    def begin(
        self,
        recovery: int,
        initial_r2t: bool,
        immediate_data: bool,
        burst: int,
        outstanding: int,
        segment: int,
    ) -> None:
        self.disk = RamDisk(BLOCKS)
        self.model = bytearray(BLOCKS * BLOCK)
        parameters = Parameters(
            error_recovery_level=recovery,
            initial_r2t=initial_r2t,
            immediate_data=immediate_data,
            max_burst_length=burst,
            first_burst_length=min(burst, 1024),
            max_outstanding_r2t=outstanding,
            max_connections=3,
        )
        self.recovery, self.segment = recovery, segment
        self.node = make_node(self.disk, limits=LIMITS, parameters=parameters)
        self.peers: dict[int, Peer] = {}
        self.tasks: dict[int, Open] = {}
        self.delayed: list[tuple[int, ScsiCommandPdu]] = []
        """Commands whose CmdSN is given and which are still on their way, by connection."""
        self.cmd_sn = 1
        self.next_tag = 1
        self.tsih = 0
        self.cid = -1
        self.now_ns = 0
        self.keys = [
            ("ErrorRecoveryLevel", str(recovery)),
            ("InitialR2T", "No"),
            ("MaxConnections", "3"),
            ("MaxOutstandingR2T", "8"),
            ("MaxRecvDataSegmentLength", str(segment)),
        ]
        self.connect()

    # -- helpers ---------------------------------------------------------------------------------------------------

    @property
    def session(self) -> Any:
        return self.node.sessions[self.tsih]

    def connect(self) -> None:
        self.cid += 1
        peer = Peer(self.node, cid=self.cid, tsih=self.tsih)
        peer.cmd_sn = self.cmd_sn
        response = peer.log_in(*(self.keys if not self.tsih else self.keys[-1:]))
        self.tsih = response.tsih
        peer.next_stat_sn = response.stat_sn + 1
        self.peers[self.cid] = peer

    def pick(self, number: int) -> int:
        return sorted(self.peers)[number % len(self.peers)]

    def number(self, immediate: bool) -> int:
        if not immediate:
            self.cmd_sn += 1
        return self.cmd_sn - (0 if immediate else 1)

    def room(self) -> bool:
        """Whether the window, as it was last announced, has room for one more."""
        return not before(self.session.max_cmd_sn, self.cmd_sn)

    def send(self, cid: int, *pdus: Pdu) -> list[Pdu]:
        """Send PDUs; returns what comes back on all connections, after holding it against the standard."""
        self.peers[cid].target.receive(b"".join(encode_pdu(pdu) for pdu in pdus), self.now_ns)
        return self.take_all()

    def take_all(self) -> list[Pdu]:
        came: list[Pdu] = []
        for cid, peer in self.peers.items():
            for pdu in peer.answers(execute=False):
                self.take(cid, pdu)
                came.append(pdu)
        return came

    def take(self, cid: int, pdu: Any) -> None:
        """Hold one PDU of the target against the standard."""
        peer = self.peers[cid]
        unnumbered = isinstance(pdu, R2T) or (isinstance(pdu, DataIn) and not pdu.status_present)
        if isinstance(pdu, NopIn) and pdu.initiator_task_tag == RESERVED_TAG:
            unnumbered = True
        if not unnumbered:
            assert pdu.stat_sn == peer.next_stat_sn, "StatSN is not contiguous"
            peer.next_stat_sn += 1
        elif isinstance(pdu, R2T):
            assert pdu.stat_sn == peer.next_stat_sn, "an R2T carries the next StatSN"
        if peer.window is not None:
            assert not before(pdu.exp_cmd_sn, peer.window[0]), "ExpCmdSN goes back"
            assert not before(pdu.max_cmd_sn, peer.window[1]), "MaxCmdSN goes back"
        assert not before(self.cmd_sn, pdu.exp_cmd_sn), "ExpCmdSN beyond what was sent"
        peer.window = (pdu.exp_cmd_sn, pdu.max_cmd_sn)
        if isinstance(pdu, DataIn):
            self.take_data(cid, pdu)
        elif isinstance(pdu, R2T):
            self.take_r2t(cid, pdu)
        elif isinstance(pdu, ScsiResponse):
            self.take_status(cid, pdu)

    def open_task(self, cid: int, tag: int) -> Open:
        assert tag in self.tasks, "a PDU for a task that is answered, aborted or unknown"
        task = self.tasks[tag]
        assert task.connection == cid, "connection allegiance"
        return task

    def take_data(self, cid: int, pdu: DataIn) -> None:
        task = self.open_task(cid, pdu.initiator_task_tag)
        assert not task.write
        assert task.content is not None, "data before the command was executed"
        assert pdu.data_sn == task.data_in_sn, "DataSN is not contiguous"
        assert pdu.buffer_offset == len(task.came), "Data-In out of order"
        assert 0 < len(pdu.data) <= self.segment
        task.data_in_sn += 1
        burst = self.session.agreed.max_burst_length
        start = len(task.came)
        task.came += pdu.data
        assert len(task.came) <= task.transfer
        assert (start // burst) == ((len(task.came) - 1) // burst), "a PDU goes over the end of its sequence"
        ends = len(task.came) % burst == 0 or len(task.came) == task.transfer
        assert pdu.final == ends, "the F bit ends each sequence"
        if pdu.status_present:
            assert pdu.status == GOOD
            self.finish_read(task, pdu)

    def finish_read(self, task: Open, pdu: Any) -> None:
        assert task.content is not None, "an answer before the command was executed"
        assert bytes(task.came) == task.content[: task.transfer], "other data than the disk held"
        self.check_residual(task, pdu)
        del self.tasks[task.tag]

    def check_residual(self, task: Open, pdu: Any) -> None:
        assert pdu.residual_count == abs(task.expected - task.size)
        assert pdu.overflow == (task.size > task.expected)
        assert pdu.underflow == (task.size < task.expected)

    def take_r2t(self, cid: int, pdu: R2T) -> None:
        task = self.open_task(cid, pdu.initiator_task_tag)
        assert task.write
        assert pdu.r2t_sn == task.r2t_sn, "R2TSN is not contiguous"
        task.r2t_sn += 1
        agreed = self.session.agreed
        assert 0 < pdu.desired_data_transfer_length <= agreed.max_burst_length
        assert pdu.buffer_offset + pdu.desired_data_transfer_length <= task.transfer
        task.r2ts.append(pdu)
        assert len(task.r2ts) <= agreed.max_outstanding_r2t, "more R2Ts than MaxOutstandingR2T"

    def take_status(self, cid: int, pdu: ScsiResponse) -> None:
        task = self.open_task(cid, pdu.initiator_task_tag)
        assert pdu.status == GOOD, f"status {pdu.status}, sense {pdu.data.hex()}"
        if not task.write:
            assert pdu.exp_data_sn == task.data_in_sn
            self.finish_read(task, pdu)
            return
        assert task.content is not None, "an answer before the command was executed"
        assert not task.r2ts, "an answer while data are asked for"
        assert pdu.exp_data_sn == task.r2t_sn
        self.check_residual(task, pdu)
        del self.tasks[task.tag]

    # -- commands --------------------------------------------------------------------------------------------------

    def command(self, cid: int, task: Open, cdb: bytes, later: bool, **fields: Any) -> None:
        pdu = ScsiCommandPdu(
            cdb=cdb,
            initiator_task_tag=task.tag,
            cmd_sn=self.number(task.immediate),
            exp_stat_sn=self.peers[cid].next_stat_sn,
            immediate=task.immediate,
            expected_data_transfer_length=task.expected,
            **fields,
        )
        self.tasks[task.tag] = task
        if (later and not task.immediate) or any(other == cid for other, _ in self.delayed):
            self.delayed.append((cid, pdu))  # what TCP delays, it delays with everything behind it
        else:
            self.send(cid, pdu)

    def new_tag(self) -> int:
        self.next_tag += 1
        return self.next_tag - 1

    @rule(
        which=st.integers(0, 9),
        lba=st.integers(0, BLOCKS - 1),
        blocks=st.integers(0, 12),
        expected=st.sampled_from([None, None, 0, 512, 700, 8192]),
        immediate=st.booleans(),
        later=st.booleans(),
    )
    @precondition(lambda self: self.peers and self.room() and len(self.tasks) < 2 * WINDOW)
    def read(
        self, which: int, lba: int, blocks: int, expected: int | None, immediate: bool, later: bool
    ) -> None:
        if immediate and self.immediates() >= WINDOW:
            return
        blocks = min(blocks, BLOCKS - lba)
        size = blocks * BLOCK
        cid = self.pick(which)
        task = Open(
            self.new_tag(), cid, False, lba * BLOCK, size, size if expected is None else expected, immediate
        )
        self.command(cid, task, read_16(lba, blocks), later, read=True)

    @rule(
        which=st.integers(0, 9),
        lba=st.integers(0, BLOCKS - 1),
        blocks=st.integers(1, 12),
        fill=st.integers(1, 255),
        cut=st.sampled_from([None, 0, 100, 512, 1000]),
        unsolicited=st.booleans(),
        immediate=st.booleans(),
        later=st.booleans(),
    )
    @precondition(lambda self: self.peers and self.room() and len(self.tasks) < 2 * WINDOW)
    def write(
        self,
        which: int,
        lba: int,
        blocks: int,
        fill: int,
        cut: int | None,
        unsolicited: bool,
        immediate: bool,
        later: bool,
    ) -> None:
        if immediate and self.immediates() >= WINDOW:
            return
        agreed = self.session.agreed
        blocks = min(blocks, BLOCKS - lba)
        size = blocks * BLOCK
        data = bytes((fill + number) & 0xFF for number in range(size))
        first = min(agreed.first_burst_length, size)
        sent = min(cut or 0, first) if agreed.immediate_data else 0
        cid = self.pick(which)
        task = Open(self.new_tag(), cid, True, lba * BLOCK, size, size, immediate, data)
        final = agreed.initial_r2t or not unsolicited or sent == first
        if not final:
            task.unsolicited_at = sent
        self.command(cid, task, write_16(lba, blocks), later, write=True, final=final, data=data[:sent])

    def immediates(self) -> int:
        return sum(task.immediate for task in self.tasks.values())

    @rule(which=st.integers(0, 99))
    @precondition(lambda self: self.delayed)
    def a_delayed_command_arrives(self, which: int) -> None:
        """TCP connections are independent: commands of a session arrive in any order over them, in order on each."""
        cid = self.delayed[which % len(self.delayed)][0]
        first = next(entry for entry in self.delayed if entry[0] == cid)
        self.delayed.remove(first)
        self.send(*first)

    @rule(which=st.integers(0, 99), size=st.sampled_from([1, 100, 512, 4096]))
    @precondition(lambda self: self.sendable())
    def send_data(self, which: int, size: int) -> None:
        """The next Data-Out PDU of a task: of its unsolicited sequence, or of its oldest R2T."""
        tasks = self.sendable()
        task = tasks[which % len(tasks)]
        common: dict[str, Any] = {
            "initiator_task_tag": task.tag,
            "exp_stat_sn": self.peers[task.connection].next_stat_sn,
        }
        if task.unsolicited_at is not None:
            start = task.unsolicited_at
            end = min(start + size, self.session.agreed.first_burst_length, task.size)
            last = end == min(self.session.agreed.first_burst_length, task.size)
            pdu = DataOut(
                final=last,
                data_sn=task.unsolicited_sn,
                buffer_offset=start,
                data=task.data[start:end],
                **common,
            )
            task.unsolicited_sn += 1
            task.unsolicited_at = None if last else end
        else:
            r2t = task.r2ts[0]
            start = r2t.buffer_offset + task.done
            whole = r2t.buffer_offset + r2t.desired_data_transfer_length
            end = min(start + size, whole)
            pdu = DataOut(
                final=end == whole,
                target_transfer_tag=r2t.target_transfer_tag,
                data_sn=task.data_sn,
                buffer_offset=start,
                data=task.data[start:end],
                **common,
            )
            task.done += end - start
            task.data_sn += 1
            if end == whole:
                task.r2ts.pop(0)
                task.done = task.data_sn = 0
        self.send(task.connection, pdu)

    def sendable(self) -> list[Open]:
        late = {pdu.initiator_task_tag for _, pdu in self.delayed}
        return [
            task
            for task in self.tasks.values()
            if (task.unsolicited_at is not None or task.r2ts)
            and task.tag not in late
            and task.connection in self.peers
            and not task.gone
        ]

    # -- the shell's part ------------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 9), count=st.integers(1, 4))
    @precondition(lambda self: any(peer.target.ready for peer in self.peers.values()))
    def execute(self, which: int, count: int) -> None:
        ready = [peer for peer in self.peers.values() if peer.target.ready]
        target = ready[which % len(ready)].target
        for _ in range(min(count, len(target.ready))):
            self.execute_one(target.ready.popleft())
        self.take_all()

    def execute_one(self, core_task: Any) -> None:
        task = self.tasks[core_task.initiator_task_tag]
        assert task.content is None, "a command was executed twice"
        if task.write:
            self.model[task.start : task.start + task.size] = task.data
        task.content = bytes(self.model[task.start : task.start + task.size])
        self.session.complete(core_task, self.disk.execute(core_task.command))

    @rule(which=st.integers(0, 9), limit=st.sampled_from([1, 512, 2000, 1 << 20]))
    @precondition(lambda self: any(peer.target.data_in_bytes for peer in self.peers.values()))
    def make_data_in(self, which: int, limit: int) -> None:
        having = [peer for peer in self.peers.values() if peer.target.data_in_bytes]
        having[which % len(having)].target.emit_data_in(limit)
        self.take_all()

    # -- other requests --------------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 9), immediate=st.booleans(), data=st.binary(max_size=40))
    @precondition(lambda self: self.peers and self.room() and not self.delayed)
    def ping(self, which: int, immediate: bool, data: bytes) -> None:
        cid = self.pick(which)
        answers = self.send(
            cid,
            NopOut(
                immediate=immediate,
                initiator_task_tag=0x7000,
                cmd_sn=self.number(immediate),
                exp_stat_sn=self.peers[cid].next_stat_sn,
                data=data,
            ),
        )
        assert [pdu.data for pdu in answers if isinstance(pdu, NopIn)] == [data]

    @rule(which=st.integers(0, 9), immediate=st.booleans(), length=st.sampled_from([512, 1024, 8192]))
    @precondition(lambda self: self.peers and self.room() and not self.delayed)
    def declare_another_segment_length(self, which: int, immediate: bool, length: int) -> None:
        cid = self.pick(which)
        if length < self.segment:
            return  # data that are made already would be larger
        text = encode_text([("MaxRecvDataSegmentLength", str(length)), ("SendTargets", "")])
        answers = self.send(
            cid,
            TextRequest(
                immediate=immediate,
                initiator_task_tag=0x7001,
                cmd_sn=self.number(immediate),
                exp_stat_sn=self.peers[cid].next_stat_sn,
                data=text,
            ),
        )
        (answer,) = [pdu for pdu in answers if isinstance(pdu, TextResponse)]
        assert answer.final
        assert b"TargetName=" in answer.data
        self.segment = max(self.segment, length)

    @rule(which=st.integers(0, 9), offset=st.sampled_from([-3, -1, WINDOW + 3, 1 << 20, 1 << 31]))
    @precondition(lambda self: self.peers and not self.delayed)
    def a_command_outside_the_window(self, which: int, offset: int) -> None:
        """Silently ignored (section 4.2.2.1)."""
        cid, number = self.pick(which), (self.cmd_sn + offset) & 0xFFFFFFFF
        if offset > 0 and not before(self.session.max_cmd_sn, number):
            return
        tasks, ignored = len(self.session.tasks), self.session.ignored_pdus
        pdu = ScsiCommandPdu(
            cdb=read_16(0, 1), initiator_task_tag=0xBAD, cmd_sn=number, exp_stat_sn=0, read=True
        )
        assert self.send(cid, pdu) == []
        assert len(self.session.tasks) == tasks
        assert self.session.ignored_pdus == ignored + 1

    def function(self, cid: int, function: TaskFunction, **fields: Any) -> TaskManagementRequest:
        return TaskManagementRequest(
            immediate=True,
            function=function,
            initiator_task_tag=0x7002,
            cmd_sn=self.cmd_sn,
            exp_stat_sn=self.peers[cid].next_stat_sn,
            **fields,
        )

    def manage(self, cid: int, function: TaskFunction, **fields: Any) -> TaskResponse:
        answers = self.send(cid, self.function(cid, function, **fields))
        (answer,) = [pdu for pdu in answers if isinstance(pdu, TaskManagementResponse)]
        return TaskResponse(answer.response)

    @rule(which=st.integers(0, 99), other=st.integers(0, 9))
    @precondition(lambda self: self.peers and self.tasks and not self.delayed)
    def abort_a_task(self, which: int, other: int) -> None:
        tag = sorted(self.tasks)[which % len(self.tasks)]
        task = self.tasks.pop(tag)
        response = self.manage(self.pick(other), TaskFunction.ABORT_TASK, referenced_task_tag=tag)
        assert response is TaskResponse.FUNCTION_COMPLETE
        assert task.tag not in self.session.tasks

    @rule(
        which=st.integers(0, 9),
        function=st.sampled_from(
            [TaskFunction.ABORT_TASK_SET, TaskFunction.CLEAR_TASK_SET, TaskFunction.LOGICAL_UNIT_RESET]
        ),
    )
    @precondition(
        lambda self: self.peers and not self.delayed and not any(task.gone for task in self.tasks.values())
    )
    def end_all_tasks(self, which: int, function: TaskFunction) -> None:
        """The answer comes when every R2T of the ended tasks has got its data, and not before (section 4.2.3.3)."""
        ended, self.tasks = self.tasks, {}
        cid = self.pick(which)
        answers = self.send(cid, self.function(cid, function))
        assert not self.session.tasks
        for task in ended.values():
            for r2t in task.r2ts:
                assert not [pdu for pdu in answers if isinstance(pdu, TaskManagementResponse)]
                start = r2t.buffer_offset + task.done
                end = r2t.buffer_offset + r2t.desired_data_transfer_length
                pdu = DataOut(
                    final=True,
                    initiator_task_tag=task.tag,
                    target_transfer_tag=r2t.target_transfer_tag,
                    exp_stat_sn=self.peers[task.connection].next_stat_sn,
                    data_sn=task.data_sn,
                    buffer_offset=start,
                    data=task.data[start:end],
                )
                task.done = task.data_sn = 0
                answers = self.send(task.connection, pdu)
        (answer,) = [pdu for pdu in answers if isinstance(pdu, TaskManagementResponse)]
        assert answer.response == TaskResponse.FUNCTION_COMPLETE

    # -- connections -----------------------------------------------------------------------------------------------

    @rule()
    @precondition(lambda self: self.peers and len(self.peers) < 3)
    def another_connection(self) -> None:
        self.connect()

    @rule(which=st.integers(0, 9), polite=st.booleans())
    @precondition(lambda self: len(self.peers) > 1 and not self.delayed)
    def lose_a_connection(self, which: int, polite: bool) -> None:
        cid = self.pick(which)
        if polite:
            request = LogoutRequest(
                immediate=True,
                reason=LogoutReason.CLOSE_CONNECTION,
                initiator_task_tag=0x7003,
                cid=cid,
                cmd_sn=self.cmd_sn,
                exp_stat_sn=self.peers[cid].next_stat_sn,
            )
            (answer,) = [pdu for pdu in self.send(cid, request) if isinstance(pdu, LogoutResponse)]
            assert answer.response == 0
        else:
            self.peers[cid].target.eof()
        assert self.peers[cid].target.phase is Phase.CLOSING
        del self.peers[cid]
        for tag, task in list(self.tasks.items()):
            if task.connection != cid:
                continue
            if self.recovery == 2 and not polite:
                task.gone = True
            else:
                del self.tasks[tag]
        self.take_all()  # others may be asked for their data now

    @rule(which=st.integers(0, 99), to=st.integers(0, 9))
    @precondition(lambda self: self.peers and any(task.gone for task in self.tasks.values()))
    def reassign_a_task(self, which: int, to: int) -> None:
        gone = [task for task in self.tasks.values() if task.gone]
        task, cid = gone[which % len(gone)], self.pick(to)
        lost = cid != task.connection
        assert lost
        task.gone = False
        task.connection = cid
        # What was asked for and has not come is asked for again (section 7.2.2), numbered on.
        task.r2ts.clear()
        task.done = task.data_sn = 0
        task.unsolicited_at = None
        response = self.manage(
            cid,
            TaskFunction.TASK_REASSIGN,
            referenced_task_tag=task.tag,
            exp_data_sn=0 if task.write else task.data_in_sn,
        )
        assert response is TaskResponse.FUNCTION_COMPLETE

    @rule(which=st.integers(0, 99), to=st.integers(0, 9))
    @precondition(lambda self: self.peers and self.tasks and self.recovery == 2 and not self.delayed)
    def reassign_a_task_that_is_where_it_belongs(self, which: int, to: int) -> None:
        tag = sorted(self.tasks)[which % len(self.tasks)]
        if not self.tasks[tag].gone:
            response = self.manage(self.pick(to), TaskFunction.TASK_REASSIGN, referenced_task_tag=tag)
            assert response is TaskResponse.TASK_STILL_ALLEGIANT

    @rule()
    @precondition(lambda self: self.recovery == 2 and self.peers)
    def patience_ends(self) -> None:
        """Time2Wait and Time2Retain are over: tasks that nobody took are gone."""
        self.node.handle_timer(self.now_ns)
        self.now_ns += 100 * SECOND
        self.node.handle_timer(self.now_ns)
        for tag in [tag for tag, task in self.tasks.items() if task.gone]:
            del self.tasks[tag]
        self.take_all()

    # -- always ----------------------------------------------------------------------------------------------------

    @invariant()
    def the_disk_holds_what_the_model_holds(self) -> None:
        if hasattr(self, "disk"):
            assert self.disk.content == self.model

    @invariant()
    def the_target_has_the_tasks_that_are_open_and_no_others(self) -> None:
        if not hasattr(self, "peers"):
            return
        session = self.session
        on_their_way = {pdu.initiator_task_tag for _, pdu in self.delayed}
        held = len(session.held_commands())
        known = set(session.tasks)
        assert known <= set(self.tasks) - on_their_way
        assert len(known) + held == len(self.tasks) - len(on_their_way)

    @invariant()
    def the_window_is_as_wide_as_promised(self) -> None:
        if hasattr(self, "peers"):
            session = self.session
            taken = sum(not task.immediate and not task.released for task in session.tasks.values())
            assert (session.max_cmd_sn - session.exp_cmd_sn + 1) & 0xFFFFFFFF == WINDOW - taken
            if not self.delayed:
                assert session.exp_cmd_sn == self.cmd_sn & 0xFFFFFFFF

    @invariant()
    def every_solicited_byte_is_accounted_to_an_open_task(self) -> None:
        if hasattr(self, "peers"):
            session = self.session
            assert session.solicited_bytes == sum(task.solicited for task in session.tasks.values())
            assert 0 <= session.solicited_bytes <= LIMITS.solicited_bytes
            waiting = list(session.waiting_for_budget)
            assert len(set(waiting)) == len(waiting)
            assert all(task.state is TaskState.COLLECTING for task in waiting)

    def teardown(self) -> None:
        """Everything that is open can be brought to its end, and then nothing is left."""
        if not hasattr(self, "peers"):
            return
        for _ in range(800):
            if self.delayed:
                self.a_delayed_command_arrives(0)
            elif any(task.gone for task in self.tasks.values()):
                self.reassign_a_task(0, 0)
            elif self.sendable():
                self.send_data(0, 4096)
            elif any(peer.target.ready for peer in self.peers.values()):
                self.execute(0, 4)
            elif any(peer.target.data_in_bytes for peer in self.peers.values()):
                self.make_data_in(0, 1 << 20)
            else:
                break
        assert self.tasks == {}, "tasks that are never answered"
        session = self.session
        assert not session.tasks
        assert session.solicited_bytes == 0
        assert not session.waiting_for_budget
        for peer in self.peers.values():
            if peer.target.retention is not None:
                peer.send(NopOut(immediate=True, cmd_sn=self.cmd_sn, exp_stat_sn=peer.next_stat_sn))
                assert peer.target.retention.kept_bytes == 0
        assert not session.allegiance.suspended or not session.allegiance.answered or self.recovery == 2
        cid = next(iter(self.peers))
        request = LogoutRequest(
            immediate=True,
            reason=LogoutReason.CLOSE_SESSION,
            initiator_task_tag=0x7004,
            cmd_sn=self.cmd_sn,
            exp_stat_sn=self.peers[cid].next_stat_sn,
        )
        self.peers[cid].send(request)
        assert not self.node.sessions
        assert len(self.disk.lost) == len(self.disk.established) == 1


FullFeature.TestCase.settings = settings(max_examples=120, stateful_step_count=50)
TestFullFeature = FullFeature.TestCase
