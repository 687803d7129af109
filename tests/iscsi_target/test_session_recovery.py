"""Error recovery levels 1 and 2: what a faulty wire loses or damages is sent again (RFC 7143 section 7)."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iscsi_target.session.initiator_events import CommandEnded
from iscsi_target.session.parameters import Parameters
from iscsi_target.session.status_tracker import StatusTracker
from iscsi_target.session.target_output import Phase
from iscsi_target.wire.codec import encode_pdu
from iscsi_target.wire.digest import digest
from iscsi_target.wire.opcodes import (
    RESERVED_TAG,
    Opcode,
    RejectReason,
    SnackType,
    TaskFunction,
    TaskResponse,
)
from iscsi_target.wire.requests import LogoutRequest, NopOut, SnackRequest, TaskManagementRequest, TextRequest
from iscsi_target.wire.responses import (
    R2T,
    DataIn,
    LogoutResponse,
    Reject,
    ScsiResponse,
    TaskManagementResponse,
)
from iscsi_target.wire.text import encode_text
from tests.iscsi_target.imaginary_wire import (
    BLOCK,
    Conversation,
    Pair2Ends,
    RamDisk,
    make_node,
    read_16,
    run_ready,
    write_16,
)

LEVEL_1 = Parameters(
    error_recovery_level=1,
    header_digest=("CRC32C",),
    data_digest=("CRC32C",),
    max_recv_data_segment_length=1024,
    max_burst_length=4096,
    first_burst_length=2048,
    max_outstanding_r2t=2,
)
Fault = Callable[[int, bytes], bytes]
"""(opcode, PDU with digests) to what arrives; empty: lost."""


def split(stream: bytes) -> list[bytes]:
    """The PDUs of a stream with both digests."""
    pdus = []
    while stream:
        data = int.from_bytes(stream[5:8], "big")
        size = 48 + stream[4] * 4 + 4 + (data + 3 & ~3) + (4 if data else 0)
        pdus.append(stream[:size])
        stream = stream[size:]
    return pdus


def damage_data(pdu: bytes) -> bytes:
    """Flip a bit of the data segment; the header stays good."""
    return pdu[:52] + bytes((pdu[52] ^ 1,)) + pdu[53:] if len(pdu) > 52 else pdu


class FaultyWire(Pair2Ends):
    """Two real ends in full-feature phase; `up` and `down` see every PDU on its way."""

    def __init__(self, node: Any, parameters: Parameters = LEVEL_1) -> None:
        super().__init__(node, parameters=parameters)
        self.connect()
        self.up: Fault = lambda opcode, pdu: pdu
        self.down: Fault = lambda opcode, pdu: pdu

    def exchange(self) -> None:
        initiator, target = self.links[0]
        moved = True
        while moved:
            moved = False
            for pdu in split(b"".join(bytes(buffer) for buffer in initiator.take_output())):
                moved = True
                target.receive(self.up(pdu[0] & 0x3F, pdu), 0)
            run_ready(target)
            for pdu in split(b"".join(bytes(buffer) for buffer in target.take_output())):
                moved = True
                initiator.receive(self.down(pdu[0] & 0x3F, pdu))

    def ended(self) -> dict[int, CommandEnded]:
        return {
            event.initiator_task_tag: event
            for event in self.session.events
            if isinstance(event, CommandEnded)
        }


def nth(opcode: int, number: int, action: Callable[[bytes], bytes]) -> Fault:
    """Apply `action` to the `number`-th PDU with that opcode, once."""
    seen = 0

    def fault(found: int, pdu: bytes) -> bytes:
        nonlocal seen
        if found != opcode:
            return pdu
        seen += 1
        return action(pdu) if seen == number else pdu

    return fault


def lose(pdu: bytes) -> bytes:
    return b""


def filled_disk() -> RamDisk:
    disk = RamDisk(256)
    disk.content[:] = random.Random(1).randbytes(len(disk.content))
    return disk


def make(disk: RamDisk) -> FaultyWire:
    return FaultyWire(make_node(disk, parameters=LEVEL_1))


def test_level_1_is_agreed_only_when_both_want_it() -> None:
    assert make(RamDisk()).session.agreed.error_recovery_level == 1
    plain = Pair2Ends(make_node(parameters=LEVEL_1), parameters=Parameters())
    plain.connect()
    assert plain.session.agreed.error_recovery_level == 0


@pytest.mark.parametrize("number", [1, 3, 8])
@pytest.mark.parametrize("action", [damage_data, lose])
def test_data_in_that_is_damaged_or_lost_comes_again(number: int, action: Callable[[bytes], bytes]) -> None:
    disk = filled_disk()
    wire = make(disk)
    wire.down = nth(Opcode.DATA_IN, number, action)
    tag = wire.submit(read_16(0, 16), data_in=16 * BLOCK)
    wire.submit(bytes(6))
    wire.exchange()
    wire.links[0][1].handle_timer(1 << 62)  # a ping shows that the last PDU of all was lost
    wire.exchange()
    assert wire.ended()[tag].data_in == disk.content[: 16 * BLOCK]
    assert len(wire.ended()) == 2
    assert not wire.session.tasks


@pytest.mark.parametrize("action", [damage_data, lose])
@pytest.mark.parametrize("number", [1, 2, 4, 7])
def test_data_out_that_are_damaged_or_lost_are_asked_for_again(
    number: int, action: Callable[[bytes], bytes]
) -> None:
    disk = RamDisk(256)
    wire = make(disk)
    data = random.Random(2).randbytes(20 * BLOCK)

    def not_the_last(pdu: bytes) -> bytes:
        return pdu if action is lose and pdu[1] & 0x80 else action(pdu)

    wire.up = nth(Opcode.DATA_OUT, number, not_the_last)
    tag = wire.submit(write_16(0, 20), data_out=data)
    wire.exchange()
    assert wire.ended()[tag].status == 0
    assert disk.content[: 20 * BLOCK] == data
    (session,) = wire.node.sessions.values()
    assert session.solicited_bytes == 0


@pytest.mark.parametrize("opcode", [Opcode.DATA_OUT, Opcode.R2T])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_after_a_long_silence_the_missing_data_are_asked_for_again(opcode: Opcode, number: int) -> None:
    disk = RamDisk(256)
    wire = make(disk)
    data = random.Random(3).randbytes(20 * BLOCK)
    wire.up = wire.down = nth(opcode, number, lose)
    tag = wire.submit(write_16(0, 20), data_out=data)
    wire.exchange()
    wire.links[0][1].handle_timer(1 << 62)
    wire.exchange()
    assert wire.ended()[tag].status == 0
    assert disk.content[: 20 * BLOCK] == data


def test_a_lost_status_is_asked_for_when_a_later_one_shows_the_gap() -> None:
    wire = make(RamDisk())
    wire.down = nth(Opcode.SCSI_RESPONSE, 1, lose)
    first, second = wire.submit(bytes(6)), wire.submit(bytes(6))
    wire.exchange()
    assert set(wire.ended()) == {first, second}


def test_a_lost_status_is_asked_for_when_a_ping_shows_the_gap() -> None:
    wire = make(RamDisk())
    wire.down = nth(Opcode.SCSI_RESPONSE, 1, lose)
    tag = wire.submit(bytes(6))
    wire.exchange()
    assert not wire.ended()
    wire.links[0][1].handle_timer(1 << 62)
    wire.exchange()
    assert set(wire.ended()) == {tag}


def test_a_damaged_status_with_sense_is_asked_for_again() -> None:
    wire = make(RamDisk())
    wire.down = nth(Opcode.SCSI_RESPONSE, 1, damage_data)
    failing, good = wire.submit(b"\xc1"), wire.submit(bytes(6))
    wire.exchange()
    assert wire.ended()[failing].sense[2] == 5
    assert wire.ended()[good].status == 0


def test_a_command_lost_on_the_way_can_be_sent_again_with_its_cmd_sn() -> None:
    disk = RamDisk()
    conversation = Conversation(make_node(disk, parameters=Parameters(error_recovery_level=1)))
    conversation.log_in(("ErrorRecoveryLevel", "1"))
    lost, later = conversation.command(bytes(6), tag=1), conversation.command(bytes(6), tag=2)
    assert conversation.send(later) == []
    assert len(conversation.send(lost)) == 2
    assert conversation.send(lost) == [], "a retry of what was received is ignored"


@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 20))
def test_a_wire_that_damages_one_data_segment_in_five_loses_nothing(seed: int) -> None:
    rng = random.Random(seed)
    disk = filled_disk()
    wire = make(disk)
    model = bytearray(disk.content)

    def unreliable(opcode: int, pdu: bytes) -> bytes:
        return damage_data(pdu) if opcode in (Opcode.DATA_IN, Opcode.DATA_OUT) and rng.random() < 0.2 else pdu

    wire.up = wire.down = unreliable
    for _ in range(6):
        start, blocks = rng.randrange(200), rng.randint(1, 40)
        data = rng.randbytes(blocks * BLOCK)
        model[start * BLOCK : (start + blocks) * BLOCK] = data
        tag = wire.submit(write_16(start, blocks), data_out=data)
        wire.exchange()
        assert wire.ended()[tag].status == 0
    tag = wire.submit(read_16(0, 256), data_in=256 * BLOCK)
    wire.exchange()
    assert wire.ended()[tag].data_in == model == disk.content


# -- SNACK, request by request (section 11.16) ------------------------------------------------------------------------


def at_level_1(*keys: tuple[str, str]) -> Conversation:
    conversation = Conversation(make_node(parameters=Parameters(error_recovery_level=1)))
    conversation.log_in(("ErrorRecoveryLevel", "1"), *keys)
    return conversation


def snack(
    kind: int,
    beg_run: int,
    run_length: int,
    *,
    tag: int = RESERVED_TAG,
    ttt: int = RESERVED_TAG,
    exp_stat_sn: int = 0,
) -> SnackRequest:
    return SnackRequest(
        type_=kind,
        initiator_task_tag=tag,
        target_transfer_tag=ttt,
        exp_stat_sn=exp_stat_sn,
        beg_run=beg_run,
        run_length=run_length,
    )


def test_a_run_of_data_is_sent_again_with_the_window_of_now() -> None:
    conversation = at_level_1(("MaxRecvDataSegmentLength", "512"))
    first = conversation.send(
        conversation.command(read_16(0, 6), tag=1, read=True, expected_data_transfer_length=6 * BLOCK)
    )
    conversation.send(conversation.command(bytes(6), tag=2))
    again = conversation.send(snack(SnackType.DATA_OR_R2T, 1, 3, tag=1))
    assert [pdu.data_sn for pdu in again if isinstance(pdu, DataIn)] == [1, 2, 3]
    for old, new in zip(first[1:4], again, strict=True):
        assert isinstance(old, DataIn)
        assert isinstance(new, DataIn)
        assert (new.data, new.buffer_offset) == (old.data, old.buffer_offset)
        assert new.exp_cmd_sn == 3


def test_a_run_length_of_zero_means_all_that_follow() -> None:
    conversation = at_level_1(("MaxRecvDataSegmentLength", "512"))
    conversation.send(
        conversation.command(read_16(0, 4), tag=1, read=True, expected_data_transfer_length=4 * BLOCK)
    )
    again = conversation.send(snack(SnackType.DATA_OR_R2T, 2, 0, tag=1))
    assert [pdu.data_sn for pdu in again if isinstance(pdu, DataIn)] == [2, 3]


def test_the_data_of_a_burst_are_forgotten_when_they_are_acknowledged() -> None:
    conversation = at_level_1(("MaxRecvDataSegmentLength", "512"), ("MaxBurstLength", "1024"))
    data = conversation.send(
        conversation.command(read_16(0, 5), tag=1, read=True, expected_data_transfer_length=5 * BLOCK)
    )
    asked = [pdu for pdu in data if isinstance(pdu, DataIn) and pdu.acknowledge]
    assert [pdu.data_sn for pdu in asked] == [1, 3]
    assert all(pdu.target_transfer_tag != RESERVED_TAG for pdu in asked)
    request = snack(SnackType.DATA_ACK, 2, 0, ttt=asked[0].target_transfer_tag)
    assert conversation.send(request) == []
    (reject,) = conversation.send(snack(SnackType.DATA_OR_R2T, 0, 1, tag=1))
    assert isinstance(reject, Reject)
    assert len(conversation.send(snack(SnackType.DATA_OR_R2T, 2, 0, tag=1))) == 3
    (reject,) = conversation.send(request)
    assert isinstance(reject, Reject)
    assert reject.reason == RejectReason.INVALID_DATA_ACK


def test_r_data_brings_the_data_again_in_segments_of_the_new_length() -> None:
    disk = filled_disk()
    conversation = Conversation(make_node(disk, parameters=Parameters(error_recovery_level=1)))
    conversation.log_in(("ErrorRecoveryLevel", "1"), ("MaxRecvDataSegmentLength", "2048"))
    data = conversation.send(
        conversation.command(read_16(0, 5), tag=1, read=True, expected_data_transfer_length=5 * BLOCK)
    )
    last = data[-1]
    assert isinstance(last, DataIn)
    shorter = TextRequest(
        immediate=True,
        initiator_task_tag=5,
        cmd_sn=2,
        exp_stat_sn=last.stat_sn,
        data=encode_text([("MaxRecvDataSegmentLength", "512")]),
    )
    conversation.send(shorter)
    *again, response = conversation.send(
        snack(SnackType.R_DATA, 0, 0, tag=1, ttt=0x77, exp_stat_sn=last.stat_sn)
    )
    assert [len(pdu.data) for pdu in again] == [512] * 5
    assert b"".join(pdu.data for pdu in again) == disk.content[: 5 * BLOCK]
    assert isinstance(response, ScsiResponse)
    assert (response.snack_tag, response.stat_sn, response.exp_data_sn) == (0x77, last.stat_sn, 5)
    conversation.assert_alive()


def test_an_r2t_is_sent_again() -> None:
    conversation = at_level_1()
    (r2t,) = conversation.send(
        conversation.command(write_16(0, 4), tag=1, write=True, expected_data_transfer_length=4 * BLOCK)
    )
    assert isinstance(r2t, R2T)
    assert conversation.send(snack(SnackType.DATA_OR_R2T, 0, 1, tag=1)) == [r2t]


def test_statuses_are_sent_again_until_they_are_acknowledged() -> None:
    conversation = at_level_1()
    responses = [conversation.send(conversation.command(bytes(6), tag=tag))[0] for tag in (1, 2)]
    numbers = [pdu.stat_sn for pdu in responses if isinstance(pdu, ScsiResponse)]
    again = conversation.send(snack(SnackType.STATUS, numbers[0], 2, exp_stat_sn=numbers[0]))
    assert [pdu.stat_sn for pdu in again if isinstance(pdu, ScsiResponse)] == numbers
    (reject,) = conversation.send(snack(SnackType.STATUS, numbers[0], 1, exp_stat_sn=numbers[1]))
    assert isinstance(reject, Reject)
    assert reject.reason == RejectReason.SNACK_REJECT


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (snack(SnackType.DATA_OR_R2T, 0, 1, tag=55), RejectReason.SNACK_REJECT),
        (snack(SnackType.STATUS, 500, 1), RejectReason.SNACK_REJECT),
        (snack(SnackType.STATUS, 0, 0xFFFFFFFF), RejectReason.SNACK_REJECT),
        (snack(SnackType.DATA_ACK, 0, 0), RejectReason.INVALID_DATA_ACK),
        (snack(SnackType.R_DATA, 0, 0), RejectReason.SNACK_REJECT),
    ],
)
def test_what_cannot_be_sent_again_is_rejected(request_: SnackRequest, reason: RejectReason) -> None:
    conversation = at_level_1()
    (reject,) = conversation.send(request_)
    assert isinstance(reject, Reject)
    assert reject.reason == reason
    conversation.assert_alive()


def test_a_digest_error_in_a_non_data_pdu_is_rejected_and_its_cmd_sn_stays_open() -> None:
    wire = make(RamDisk())
    target = wire.links[0][1]
    header = NopOut(initiator_task_tag=9, cmd_sn=wire.session.cmd_sn, exp_stat_sn=0, data=b"ping")
    encoded = encode_pdu(header)
    good = encoded[:48] + digest(encoded[:48]) + encoded[48:] + digest(encoded[48:])
    (session,) = wire.node.sessions.values()
    exp_cmd_sn = session.exp_cmd_sn
    target.receive(damage_data(good), 0)
    assert session.exp_cmd_sn == exp_cmd_sn
    assert target.phase is Phase.FULL_FEATURE
    target.receive(good, 0)
    assert session.exp_cmd_sn == exp_cmd_sn + 1


# -- which statuses have come (section 7.9) ---------------------------------------------------------------------------


def test_a_gap_is_asked_for_once() -> None:
    tracker = StatusTracker(5)
    assert tracker.take(8) == (True, (5, 3))
    assert tracker.take(9) == (True, None)
    assert tracker.take(6) == (True, None)
    assert tracker.expected == 5
    assert tracker.take(5) == (True, None)
    assert tracker.expected == 7
    assert tracker.take(6) == (False, None)
    assert tracker.take(7) == (True, None)
    assert tracker.expected == 10


@given(st.permutations(range(12)), st.integers(0, 0xFFFFFFFF))
def test_every_status_is_new_once_in_whatever_order_it_comes(order: list[int], start: int) -> None:
    tracker = StatusTracker(start)
    for number in order:
        assert tracker.take((start + number) & 0xFFFFFFFF)[0]
        assert not tracker.take((start + number) & 0xFFFFFFFF)[0]
    assert tracker.expected == (start + 12) & 0xFFFFFFFF


def test_an_announcement_shows_a_gap() -> None:
    tracker = StatusTracker(5)
    assert tracker.announced(5) is None
    assert tracker.announced(7) == (5, 2)
    assert tracker.announced(7) is None


def test_a_ping_of_the_target_is_answered() -> None:
    wire = make(RamDisk())
    target = wire.links[0][1]
    target.handle_timer(1 << 62)
    seen: list[int] = []
    wire.up = lambda opcode, pdu: (seen.append(opcode), pdu)[1]
    wire.exchange()
    assert seen == [Opcode.NOP_OUT]


# -- level 2: connections (sections 7.2, 7.14) ------------------------------------------------------------------------

LEVEL_2 = Parameters(
    error_recovery_level=2,
    max_connections=3,
    max_recv_data_segment_length=1024,
    max_burst_length=4096,
    first_burst_length=2048,
    default_time2wait=0,
    default_time2retain=10,
)


class CutWire(Pair2Ends):
    """A wire that can be cut at any byte; the initiator then connects anew with the same CID."""

    def __init__(self, disk: RamDisk) -> None:
        super().__init__(make_node(disk, parameters=LEVEL_2), parameters=LEVEL_2)
        self.up_left = self.down_left = 1 << 30
        """Bytes that still get through."""

    def exchange(self, cid: int = 0) -> None:
        """As `transfer` for one connection, until nothing moves or the wire is cut; then recover."""
        initiator, target = self.links[cid]
        while True:
            up = b"".join(bytes(buffer) for buffer in initiator.take_output())
            target.receive(up[: self.up_left], 0)
            self.up_left = max(0, self.up_left - len(up))
            run_ready(target)
            down = b"".join(bytes(buffer) for buffer in target.take_output())
            initiator.receive(down[: self.down_left])
            self.down_left = max(0, self.down_left - len(down))
            if not self.up_left or not self.down_left:
                self.recover(cid)
                initiator, target = self.links[cid]
            elif not up and not down:
                return

    def recover(self, cid: int = 0) -> None:
        self.up_left = self.down_left = 1 << 30
        old, target = self.links[cid]
        target.eof("cut")
        self.connect(cid)
        self.links[cid][0].take_over(old)

    def ended(self) -> dict[int, CommandEnded]:
        return {
            event.initiator_task_tag: event
            for event in self.session.events
            if isinstance(event, CommandEnded)
        }


@settings(max_examples=150)
@given(seed=st.integers(0, 1 << 20), up=st.booleans(), cut=st.integers(1, 40_000))
def test_a_connection_cut_at_any_byte_loses_no_command_and_no_byte(seed: int, up: bool, cut: int) -> None:
    rng = random.Random(seed)
    disk = filled_disk()
    wire = CutWire(disk)
    wire.connect()
    if up:
        wire.up_left = cut
    else:
        wire.down_left = cut
    model = bytearray(disk.content)
    tags = []
    for number in range(6):
        blocks = rng.randint(1, 12)
        start = number * 16
        data = rng.randbytes(blocks * BLOCK)
        model[start * BLOCK : (start + blocks) * BLOCK] = data
        tags.append(wire.submit(write_16(start, blocks), data_out=data))
        reads = wire.submit(read_16(100 + number * 20, blocks), data_in=blocks * BLOCK)
        tags.append(reads)
    wire.exchange()
    ended = wire.ended()
    assert set(ended) == set(tags)
    assert all(event.status == 0 for event in ended.values())
    assert disk.content == model
    for number, tag in enumerate(tags[1::2]):
        start = (100 + number * 20) * BLOCK
        assert ended[tag].data_in == model[start : start + len(ended[tag].data_in)]
        assert len(ended[tag].data_in) % BLOCK == 0 < len(ended[tag].data_in)
    (session,) = wire.node.sessions.values()
    assert not session.tasks
    assert len(disk.executed) == 12, "no command was executed twice"


def two_connections() -> tuple[CutWire, RamDisk]:
    disk = filled_disk()
    wire = CutWire(disk)
    wire.connect(0)
    wire.connect(1)
    return wire, disk


def test_a_session_outlives_its_connections_until_time2retain_is_over() -> None:
    wire, disk = two_connections()
    wire.links[0][1].eof()
    wire.links[1][1].eof()
    wire.node.handle_timer(0)
    wire.node.handle_timer(9_999_999_999)
    assert wire.node.sessions
    assert disk.lost == []
    wire.node.handle_timer(10_000_000_000)
    assert not wire.node.sessions
    assert len(disk.lost) == 1


def test_tasks_of_a_lost_connection_end_when_nobody_wants_them() -> None:
    wire, _ = two_connections()
    wire.submit(write_16(0, 40), data_out=bytes(40 * BLOCK))
    initiator, target = wire.links[0]
    target.receive(b"".join(bytes(buffer) for buffer in initiator.take_output()), 0)
    (session,) = wire.node.sessions.values()
    target.eof()
    assert len(session.tasks) == 1
    wire.node.handle_timer(0)
    wire.node.handle_timer(10_000_000_000)
    assert not session.tasks
    assert session.solicited_bytes == 0
    assert wire.node.sessions, "the other connection is alive"


def test_a_task_is_not_reassigned_while_its_connection_lives() -> None:
    conversation = Conversation(make_node(parameters=LEVEL_2))
    conversation.log_in(("ErrorRecoveryLevel", "2"))
    conversation.send(conversation.command(bytes(6), tag=1), execute=False)
    (answer,) = conversation.send(reassign(conversation, 1), execute=False)
    assert isinstance(answer, TaskManagementResponse)
    assert answer.response == TaskResponse.TASK_STILL_ALLEGIANT
    (answer,) = conversation.send(reassign(conversation, 99), execute=False)
    assert isinstance(answer, TaskManagementResponse)
    assert answer.response == TaskResponse.TASK_DOES_NOT_EXIST


def reassign(conversation: Conversation, tag: int) -> TaskManagementRequest:
    return TaskManagementRequest(
        immediate=True,
        function=TaskFunction.TASK_REASSIGN,
        initiator_task_tag=0x7000,
        referenced_task_tag=tag,
        cmd_sn=conversation.cmd_sn,
        exp_stat_sn=0,
    )


def test_a_logout_for_recovery_frees_the_tasks_for_another_connection() -> None:
    node = make_node(parameters=LEVEL_2)
    one = Conversation(node)
    tsih = one.log_in(("ErrorRecoveryLevel", "2"), ("MaxConnections", "2")).tsih
    two = Conversation(node, cid=1, tsih=tsih)
    two.log_in()
    one.send(one.command(bytes(6), tag=1), execute=False)
    logout = LogoutRequest(reason=2, cid=0, initiator_task_tag=8, immediate=True, cmd_sn=2, exp_stat_sn=0)
    (answer,) = two.send(logout)
    assert isinstance(answer, LogoutResponse)
    assert (answer.response, answer.time2retain) == (0, 20), "the default, as the initiator offered none"
    assert one.target.closing
    two.cmd_sn = 2
    done, status = two.send(reassign(two, 1))
    assert isinstance(done, TaskManagementResponse)
    assert done.response == TaskResponse.FUNCTION_COMPLETE
    assert isinstance(status, ScsiResponse)
    assert status.initiator_task_tag == 1
