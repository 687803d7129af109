"""Whatever a peer sends: no exception, no endless work, no unbounded memory, and others are served on."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from iscsi_target.session.limits import Limits
from iscsi_target.session.node import Target
from iscsi_target.session.target_output import Phase
from iscsi_target.wire.codec import REQUESTS
from iscsi_target.wire.requests import (
    DataOut,
    LoginRequest,
    ScsiCommandPdu,
    SnackRequest,
    TaskManagementRequest,
    TextRequest,
)
from tests.iscsi_target.imaginary_wire import (
    HOST,
    TARGET,
    Conversation,
    RamDisk,
    make_node,
    read_16,
    write_16,
)
from tests.iscsi_target.test_wire_codec import pdus

LIMITS = Limits(
    retained_bytes=1 << 15,
    queued_commands=8,
    transfer_bytes=1 << 16,
    solicited_bytes=1 << 17,
    login_text_bytes=2000,
)
GOOD = f"{TARGET}:good"
KEYS = [
    ("ErrorRecoveryLevel", "2"),
    ("MaxRecvDataSegmentLength", "4096"),
    ("InitialR2T", "No"),
    ("MaxConnections", "2"),
]


def held_bytes(conversation: Conversation) -> int:
    """Data the target keeps for this peer."""
    total = 0
    for session in conversation.node.sessions.values():
        total += sum(len(task.data_out) for task in session.tasks.values())
        total += sum(len(frame.data) for _, _, frame in session.held_commands())
    return total


def assert_bounded(conversation: Conversation) -> None:
    for session in conversation.node.sessions.values():
        assert len(session.tasks) <= 2 * LIMITS.queued_commands
        assert len(session.held_commands()) <= LIMITS.queued_commands
        assert session.solicited_bytes <= LIMITS.solicited_bytes
    assert held_bytes(conversation) <= 4 * LIMITS.queued_commands * LIMITS.transfer_bytes
    assert conversation.target.output_bytes <= 1 << 20
    if conversation.target.retention is not None:
        assert 0 <= conversation.target.retention.kept_bytes <= LIMITS.retained_bytes


class Chaos(RuleBasedStateMachine):
    """Legal, nearly legal and illegal PDUs in any order; beside it a well-behaved session that must not notice."""

    def __init__(self) -> None:
        super().__init__()
        self.node = make_node(RamDisk(64), limits=LIMITS)
        # On a target of its own: a cold reset of the first one may end every session with that.
        self.node.targets[GOOD] = Target(name=GOOD, logical_units=RamDisk(8))
        self.good = Conversation(self.node, isid=bytes(6))
        self.good.log_in(target=GOOD)
        self.bad = Conversation(self.node)
        self.now_ns = 0

    @initialize(log_in=st.booleans())
    def begin(self, log_in: bool) -> None:
        if log_in:
            self.bad.log_in(*KEYS)

    @rule(pdu=pdus(REQUESTS))
    def any_request(self, pdu: object) -> None:
        self.bad.send(pdu)  # type: ignore[arg-type]

    @rule(data=st.binary(max_size=200))
    def any_bytes(self, data: bytes) -> None:
        self.bad.target.receive(data, 0)
        self.bad.answers()

    @rule(
        step=st.integers(-1, 3),
        tag=st.integers(0, 3),
        blocks=st.integers(0, 200),
        size=st.sampled_from([0, 512, 700, 5000]),
        expected=st.sampled_from([0, 512, 4096, 1 << 17]),
        final=st.booleans(),
        immediate=st.booleans(),
        execute=st.booleans(),
    )
    def nearly_a_write(
        self,
        step: int,
        tag: int,
        blocks: int,
        size: int,
        expected: int,
        final: bool,
        immediate: bool,
        execute: bool,
    ) -> None:
        self.bad.cmd_sn = (self.bad.cmd_sn + step) & 0xFFFFFFFF
        command = ScsiCommandPdu(
            cdb=write_16(0, blocks),
            initiator_task_tag=tag,
            cmd_sn=self.bad.cmd_sn,
            exp_stat_sn=0,
            write=True,
            final=final,
            immediate=immediate,
            expected_data_transfer_length=expected,
            data=bytes(size),
        )
        self.bad.send(command, execute=execute)

    @rule(
        tag=st.integers(0, 3),
        ttt=st.sampled_from([0xFFFFFFFF, 1, 2, 3, 4]),
        offset=st.sampled_from([0, 512, 700, 4096, 1 << 16, 0xFFFFFE00]),
        size=st.sampled_from([0, 100, 512, 4096]),
        data_sn=st.integers(0, 2),
        final=st.booleans(),
    )
    def nearly_data(self, tag: int, ttt: int, offset: int, size: int, data_sn: int, final: bool) -> None:
        self.bad.send(
            DataOut(
                final=final,
                initiator_task_tag=tag,
                target_transfer_tag=ttt,
                exp_stat_sn=0,
                data_sn=data_sn,
                buffer_offset=offset,
                data=bytes(size),
            )
        )

    @rule(
        text=st.binary(max_size=900),
        final=st.booleans(),
        continue_=st.booleans(),
        ttt=st.sampled_from([0xFFFFFFFF, 1, 2]),
        login=st.booleans(),
    )
    def nearly_text(self, text: bytes, final: bool, continue_: bool, ttt: int, login: bool) -> None:
        if login:
            request = LoginRequest(
                transit=final,
                continue_=continue_,
                csg=1,
                nsg=3,
                isid=self.bad.isid,
                initiator_task_tag=7,
                cmd_sn=1,
                data=b"InitiatorName=%s\0TargetName=%s\0" % (HOST.encode(), TARGET.encode()) + text,
            )
            self.bad.send(request)
            return
        request_text = TextRequest(
            immediate=True,
            final=final,
            continue_=continue_,
            initiator_task_tag=9,
            target_transfer_tag=ttt,
            cmd_sn=1,
            exp_stat_sn=0,
            data=text,
        )
        self.bad.send(request_text)

    @rule(
        kind=st.integers(0, 4),
        tag=st.sampled_from([0, 1, 2, 3, 0xFFFFFFFF]),
        ttt=st.sampled_from([0xFFFFFFFF, 0, 1, 2, 3]),
        beg_run=st.integers(0, 3),
        run_length=st.sampled_from([0, 1, 2, 0xFFFFFFFF]),
        exp_stat_sn=st.integers(0, 4),
    )
    def nearly_a_snack(
        self, kind: int, tag: int, ttt: int, beg_run: int, run_length: int, exp_stat_sn: int
    ) -> None:
        request = SnackRequest(
            type_=kind,
            initiator_task_tag=tag,
            target_transfer_tag=ttt,
            exp_stat_sn=exp_stat_sn,
            beg_run=beg_run,
            run_length=run_length,
        )
        self.bad.send(request)

    @rule(
        step=st.integers(-1, 2),
        tag=st.integers(0, 3),
        blocks=st.integers(0, 20),
        expected=st.sampled_from([0, 512, 9000]),
    )
    def nearly_a_read(self, step: int, tag: int, blocks: int, expected: int) -> None:
        self.bad.cmd_sn = (self.bad.cmd_sn + step) & 0xFFFFFFFF
        command = ScsiCommandPdu(
            cdb=read_16(0, blocks),
            initiator_task_tag=tag,
            cmd_sn=self.bad.cmd_sn,
            exp_stat_sn=0,
            read=True,
            expected_data_transfer_length=expected,
        )
        self.bad.send(command)

    @rule(
        function=st.integers(1, 12),
        tag=st.integers(0, 3),
        ref_cmd_sn=st.integers(0, 9),
        exp_data_sn=st.integers(0, 3),
    )
    def manage(self, function: int, tag: int, ref_cmd_sn: int, exp_data_sn: int) -> None:
        request = TaskManagementRequest(
            immediate=True,
            function=function,
            initiator_task_tag=0x600,
            referenced_task_tag=tag,
            cmd_sn=self.bad.cmd_sn,
            exp_stat_sn=0,
            ref_cmd_sn=ref_cmd_sn,
            exp_data_sn=exp_data_sn,
        )
        self.bad.send(request)

    @rule(clean=st.booleans())
    def cut_and_join_again(self, clean: bool) -> None:
        tsih = self.bad.tsih
        if clean:
            self.bad.target.eof()
        self.bad = Conversation(self.node, tsih=tsih if tsih in self.node.sessions else 0)
        pairs = [("InitiatorName", HOST), ("TargetName", TARGET), *KEYS]
        self.bad.send(self.bad.login_request(pairs))

    @rule(later_ns=st.sampled_from([0, 10**9, 30 * 10**9]))
    def time_passes(self, later_ns: int) -> None:
        self.now_ns += later_ns
        self.node.handle_timer(self.now_ns)

    @rule()
    def come_back(self) -> None:
        if self.bad.target.phase is Phase.CLOSING:
            self.bad = Conversation(self.node)
            self.bad.log_in(*KEYS)

    @invariant()
    def everything_is_bounded_and_others_are_served(self) -> None:
        assert_bounded(self.bad)
        assert len(self.node.sessions) <= 2
        self.good.assert_alive()


Chaos.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestChaos = Chaos.TestCase


@settings(max_examples=300)
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=12), st.booleans())
def test_any_bytes_before_or_after_the_login_are_survived(chunks: list[bytes], log_in: bool) -> None:
    conversation = Conversation(make_node(RamDisk(8), limits=LIMITS))
    if log_in:
        conversation.log_in()
    for chunk in chunks:
        conversation.target.receive(chunk, 0)
        conversation.answers()
    assert_bounded(conversation)
