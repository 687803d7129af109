"""Data-Out of many WRITEs at once: what is asked for is bounded, and what gets lost on the way is answered."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcsim.fcp.initiator import CommandCompleted, ExchangeFailed, FcpInitiator
from fcsim.fcp.target import ExchangeDropped, FcpTarget, FcpTargetLimits
from fcsim.live.link_services import els_request
from fcsim.live.n_port import NPort, NPortConfig
from fcsim.port.login import Offer
from fcsim.wire.codes import FCtl, RCtl
from fcsim.wire.els import decode_els
from fcsim.wire.els_commands import ElsCommand
from fcsim.wire.els_login import FcpService, Plogi, Prli, ServiceParameterPage
from fcsim.wire.els_services import ExchangeStatus, Rec, RecAccept
from fcsim.wire.fcp import decode_fcp
from fcsim.wire.frame import Frame
from tests.fcsim.test_fcp_exchanges import BLOCK, HERE, LUN_0, THERE, Disk, read_10, write_10

ABORTED_COMMAND, DATA_PHASE_ERROR = 0x0B, (0x4B, 0)


class Shared:
    """Initiators and a target behind one buffer of ``room`` frames: a frame that finds it full is lost, as on a socket.

    The target reads its buffer only when the initiators have nothing more to send: the worst that can happen.
    """

    def __init__(self, limits: FcpTargetLimits, room: int = 1 << 30, initiators: int = 1) -> None:
        self.target = FcpTarget(THERE, Disk(), limits)
        self.initiators = [
            FcpInitiator(HERE + number, THERE, max_payload=1024) for number in range(initiators)
        ]
        for initiator in self.initiators:
            self.target.log_in(initiator.s_id, 1024)
        self.room = room
        self.lost = 0
        self.most_granted = 0
        self.lose: Callable[[Frame], bool] = lambda _: False
        self.run()
        for initiator in self.initiators:
            initiator.command(LUN_0, bytes(6), 0)  # the unit attention of a new nexus
        self.run()
        self.events()

    def run(self, now_ps: int = 0) -> None:
        buffer: deque[Frame] = deque()
        while True:
            for initiator in self.initiators:
                for frame in initiator.frames():
                    if self.lose(frame) or len(buffer) >= self.room:
                        self.lost += 1
                    else:
                        buffer.append(frame)
            while buffer:
                self.target.receive(buffer.popleft(), now_ps)
            answers = list(self.target.frames())
            self.most_granted = max(self.most_granted, self.target.granted_bytes)
            if not answers:
                return
            for frame in answers:
                for initiator in self.initiators:
                    if initiator.s_id == frame.header.d_id:
                        initiator.receive(frame, now_ps)

    def events(self) -> list[CommandCompleted | ExchangeFailed]:
        return [event for initiator in self.initiators for event in initiator.events()]


def contents(number: int, blocks: int) -> bytes:
    return random.Random(number).randbytes(blocks * BLOCK)


def test_thirty_two_large_writes_at_once_ask_for_no_more_than_the_buffer_holds() -> None:
    room_bytes, blocks = 64 << 10, 60
    shared = Shared(FcpTargetLimits(burst_bytes=16 << 10, granted_bytes=room_bytes), room=room_bytes // 1024)
    (initiator,) = shared.initiators
    for number in range(32):
        initiator.command(LUN_0, write_10(number * blocks, blocks), 0, data_out=contents(number, blocks))
    shared.run()
    assert [getattr(event, "status", event) for event in shared.events()] == [0] * 32
    assert (shared.lost, shared.most_granted) == (0, room_bytes)
    for number in range(32):
        initiator.command(LUN_0, read_10(number * blocks, blocks), 0, data_in_length=blocks * BLOCK)
        shared.run()
        (event,) = shared.events()
        assert isinstance(event, CommandCompleted) and event.data_in == contents(number, blocks)


def test_without_the_bound_the_same_buffer_loses_frames() -> None:
    """What the test above would not see if its buffer were large enough for anything."""
    shared = Shared(FcpTargetLimits(burst_bytes=16 << 10), room=64)
    for number in range(32):
        shared.initiators[0].command(LUN_0, write_10(0, 60), 0, data_out=contents(number, 60))
    shared.run()
    assert shared.lost


@given(st.integers(0, 2**32), st.integers(1, 12), st.sampled_from([1024, 4096, 10_000]))
def test_every_write_ends_whatever_frames_are_lost_and_no_room_is_lost_with_them(
    seed: int, commands: int, granted_bytes: int
) -> None:
    rng = random.Random(seed)
    shared = Shared(FcpTargetLimits(burst_bytes=4096, granted_bytes=granted_bytes))
    shared.lose = lambda frame: frame.header.r_ctl == RCtl.SOLICITED_DATA and rng.random() < 0.1
    for number in range(commands):
        blocks = rng.randint(1, 40)
        shared.initiators[0].command(LUN_0, write_10(0, blocks), 0, data_out=contents(number, blocks))
    now_ps = 0
    shared.run()
    while (due_ps := shared.target.next_deadline()) is not None:
        now_ps = due_ps
        shared.target.handle_timer(now_ps)
        shared.run(now_ps)
    assert shared.most_granted <= max(granted_bytes, 4096)
    assert (shared.target.outstanding, shared.target.granted_bytes) == (0, 0)
    shared.initiators[0].handle_timer(now_ps + 10**14)
    assert len(shared.events()) == commands


@pytest.mark.parametrize("lost", [0, 1, 14])
def test_a_write_that_lost_a_frame_is_aborted_with_a_status_and_is_not_written(lost: int) -> None:
    shared = Shared(FcpTargetLimits())
    executed = len(shared.target._executor.executed)  # type: ignore[attr-defined]
    shared.lose = lambda frame: frame.header.r_ctl == RCtl.SOLICITED_DATA and frame.header.seq_cnt == lost
    shared.initiators[0].command(LUN_0, write_10(0, 32), 0, data_out=contents(1, 32))
    shared.run()
    (event,) = shared.events()
    assert isinstance(event, CommandCompleted)
    assert (event.status, event.sense[2], tuple(event.sense[12:14])) == (2, ABORTED_COMMAND, DATA_PHASE_ERROR)
    assert event.residual == -32 * BLOCK
    (dropped,) = shared.target.events()
    assert isinstance(dropped, ExchangeDropped) and "lost" in dropped.reason
    assert len(shared.target._executor.executed) == executed  # type: ignore[attr-defined]


def test_nothing_is_said_before_the_last_frame_has_handed_the_initiative_back() -> None:
    shared = Shared(FcpTargetLimits())
    initiator, target = shared.initiators[0], shared.target
    initiator.command(LUN_0, write_10(0, 8), 0, data_out=contents(1, 8))
    for frame in initiator.frames():
        target.receive(frame, 0)
    (ready,) = target.frames()
    initiator.receive(ready, 0)
    first, second, third, last = initiator.frames()
    assert last.header.f_ctl & FCtl.END_SEQUENCE
    for frame in (first, third):
        target.receive(frame, 0)
    assert list(target.frames()) == []
    target.receive(last, 0)
    (answer,) = target.frames()
    assert decode_fcp(answer.header.r_ctl, answer.payload).scsi_status == 2  # type: ignore[union-attr]
    del second


def test_a_write_whose_last_frame_is_lost_gives_its_room_back_after_a_while() -> None:
    shared = Shared(FcpTargetLimits(burst_bytes=4096, granted_bytes=4096))
    shared.lose = lambda frame: bool(
        frame.header.r_ctl == RCtl.SOLICITED_DATA and frame.header.f_ctl & FCtl.END_SEQUENCE
    )
    for _ in range(2):
        shared.initiators[0].command(LUN_0, write_10(0, 8), 0, data_out=contents(1, 8))
    shared.run()
    shared.lose = lambda _: False
    due_ps = shared.target.next_deadline()
    assert due_ps == 10**13, "the second has not begun and waits for no deadline of its own"
    shared.target.handle_timer(due_ps)
    shared.run(due_ps)
    assert [getattr(event, "status", None) for event in shared.events()] == [0]


def test_an_initiator_that_stalls_holds_another_up_by_one_time_limit_at_most() -> None:
    limits = FcpTargetLimits(burst_bytes=4096, granted_bytes=8192)
    shared = Shared(limits, initiators=2)
    liar, honest = shared.initiators
    shared.lose = lambda frame: frame.header.s_id == liar.s_id and frame.header.r_ctl == RCtl.SOLICITED_DATA
    for _ in range(100):
        liar.command(LUN_0, write_10(0, 8), 0, data_out=contents(1, 8))
    shared.run()
    honest.command(LUN_0, write_10(0, 8), 0, data_out=contents(2, 8))
    shared.run()
    assert not shared.events()
    due_ps = shared.target.next_deadline()
    assert due_ps is not None
    shared.target.handle_timer(due_ps)
    shared.run(due_ps)
    (event,) = shared.events()
    assert isinstance(event, CommandCompleted) and not event.status


def test_a_logout_gives_the_room_of_its_exchanges_to_others_at_once() -> None:
    shared = Shared(FcpTargetLimits(burst_bytes=4096, granted_bytes=4096), initiators=2)
    gone, stays = shared.initiators
    shared.lose = lambda frame: frame.header.s_id == gone.s_id and frame.header.r_ctl == RCtl.SOLICITED_DATA
    gone.command(LUN_0, write_10(0, 8), 0, data_out=contents(1, 8))
    shared.run()
    stays.command(LUN_0, write_10(0, 8), 0, data_out=contents(2, 8))
    shared.run()
    shared.target.log_out(gone.s_id)
    shared.run()
    assert [getattr(event, "status", None) for event in shared.events()] == [0]


def test_data_out_that_is_kept_is_bounded_whatever_is_asked_for() -> None:
    kept = []
    shared = Shared(FcpTargetLimits(burst_bytes=1024, data_out_bytes=32 * BLOCK), initiators=4)
    for initiator in shared.initiators:
        for number in range(4):
            initiator.command(LUN_0, write_10(0, 10), 0, data_out=contents(number, 10))
    original = shared.target.receive

    def receive(frame: Frame, now_ps: int) -> None:
        original(frame, now_ps)
        kept.append(sum(len(one.collector.data) for one in shared.target._exchanges.values()))

    shared.target.receive = receive  # type: ignore[method-assign]
    shared.run()
    assert [getattr(event, "status", None) for event in shared.events()] == [0] * 16
    assert 0 < max(kept) <= 32 * BLOCK


def test_a_target_that_has_too_much_to_send_takes_no_more_commands() -> None:
    shared = Shared(FcpTargetLimits())
    shared.target.busy = True
    shared.initiators[0].command(LUN_0, read_10(0, 1), 0, data_in_length=BLOCK)
    shared.run()
    (event,) = shared.events()
    assert isinstance(event, CommandCompleted) and event.status == 0x28


def test_rec_says_whose_turn_it_is_and_how_much_has_come() -> None:
    """Linux asks after three seconds: a write that only waits for its XFER_RDY must not look like one that was lost."""
    limits = FcpTargetLimits(burst_bytes=4096, granted_bytes=4096)
    port = NPort(NPortConfig(2, 2, Offer(8)), n_port_id=THERE, executor=Disk(), limits=limits)

    def tell(frame: Frame) -> list[Frame]:
        port.receive(frame, 0)
        return list(port.frames())

    page = ServiceParameterPage(establish_image_pair=True, service_parameters=FcpService.INITIATOR)
    for message in (
        Plogi(bb_credit=8, bb_receive_data_field_size=2112, port_name=1, node_name=1),
        Prli(pages=(page,)),
    ):
        tell(els_request(message, s_id=HERE, d_id=THERE, ox_id=0xF000))
    initiator = FcpInitiator(HERE, THERE, max_payload=1024)
    running, waiting = (
        initiator.command(LUN_0, write_10(0, 16), 0, data_out=contents(number, 16)) for number in range(2)
    )
    answers = [answer for frame in initiator.frames() for answer in tell(frame)]
    (ready,) = (frame for frame in answers if frame.header.r_ctl == RCtl.DATA_DESCRIPTOR)
    assert ready.header.ox_id == running
    initiator.receive(ready, 0)
    tell(next(initiator.frames()))

    def asked(ox_id: int) -> RecAccept:
        request = Rec(originator_s_id=HERE, exchange_ox_id=ox_id)
        (reply,) = tell(els_request(request, s_id=HERE, d_id=THERE, ox_id=0xF001))
        accept = decode_els(reply.payload, ElsCommand.REC)
        assert isinstance(accept, RecAccept)
        return accept

    assert (asked(running).fc4_value, asked(running).e_stat) == (1024, ExchangeStatus.RESPONDER)
    held = ExchangeStatus.RESPONDER | ExchangeStatus.SEQUENCE_INITIATIVE_HELD
    assert (asked(waiting).fc4_value, asked(waiting).e_stat) == (0, held)
