"""UNH-IOL full feature phase for targets, chapters 7 to 10 and 19: unsolicited data, Data-In, R2T, lengths."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from iscsi_target.session.parameters import Parameters
from iscsi_target.wire.opcodes import RESERVED_TAG, RejectReason
from iscsi_target.wire.responses import R2T, DataIn, Reject, ScsiResponse
from tests.iscsi_target.rules.raw_initiator import BLOCK, INQUIRY, pattern, read_10
from tests.iscsi_target.rules.real_target import RealTarget

ABORTED = 0x0B
UNEXPECTED_UNSOLICITED, WRONG_AMOUNT = 0x0C0C, 0x0C0D


def test_unsolicited_data_beyond_the_first_burst_end_the_command(target: RealTarget) -> None:
    """Unsolicited Data-Out beyond FirstBurstLength ends the command with CHECK CONDITION; the session goes on.

    UNH-IOL FFP 7.1
    RFC 7143 4.2.5.2, 11.7.7, 13.14
    """
    peer = target.log_in(InitialR2T="No", ImmediateData="No", FirstBurstLength="1024")
    write = peer.write(0, 4, final=False)
    peer.send(write, peer.data_out(write, bytes(3 * BLOCK)))
    peer.expect_check_condition(write, ABORTED, WRONG_AMOUNT)
    peer.assert_alive()


def test_immediate_data_beyond_the_first_burst_end_the_command(target: RealTarget) -> None:
    """Immediate data beyond FirstBurstLength end the command with CHECK CONDITION; the session goes on.

    UNH-IOL FFP 7.2
    RFC 7143 11.3.6, 13.14
    """
    peer = target.log_in(FirstBurstLength="512")
    write = peer.write(0, 2, data=bytes(2 * BLOCK))
    peer.send(write)
    peer.expect_check_condition(write, ABORTED, WRONG_AMOUNT)
    peer.assert_alive()


def test_each_outstanding_r2t_has_a_transfer_tag_of_its_own(target: RealTarget) -> None:
    """The Target Transfer Tag of an R2T is not the reserved one and differs from those outstanding.

    UNH-IOL FFP 8.1
    RFC 7143 11.8.5, 11.7.4
    """
    peer = target.log_in(
        MaxBurstLength="512", FirstBurstLength="512", ImmediateData="No", MaxOutstandingR2T="4"
    )
    write = peer.write(0, 4)
    peer.send(write)
    r2ts = [peer.expect(R2T, initiator_task_tag=write.initiator_task_tag) for _ in range(4)]
    tags = {r2t.target_transfer_tag for r2t in r2ts}
    assert len(tags) == 4
    assert RESERVED_TAG not in tags
    for r2t in r2ts:
        peer.send(peer.data_out(r2t, pattern(BLOCK, r2t.r2t_sn)))
    peer.expect(ScsiResponse, status=0)
    assert peer.medium(0, 4) == b"".join(pattern(BLOCK, number) for number in range(4))
    peer.assert_alive()


def test_data_out_with_a_transfer_tag_nobody_gave_is_rejected(target: RealTarget) -> None:
    """Data-Out with a Target Transfer Tag that no R2T gave is rejected; the command goes on with the right one.

    UNH-IOL FFP 8.2
    RFC 7143 11.7.4, 7.9
    """
    peer = target.log_in(ImmediateData="No")
    write = peer.write(0, 1)
    peer.send(write)
    r2t = peer.expect(R2T)
    peer.send(peer.data_out(r2t, bytes(BLOCK), target_transfer_tag=r2t.target_transfer_tag ^ 0x5555))
    peer.expect(Reject, reason=RejectReason.PROTOCOL_ERROR)
    peer.send(peer.data_out(r2t, pattern(BLOCK)))
    peer.expect(ScsiResponse, initiator_task_tag=write.initiator_task_tag, status=0)
    assert peer.medium(0, 1) == pattern(BLOCK)
    peer.assert_alive()


def test_status_rides_only_on_the_last_data_in_and_never_with_sense(target: RealTarget) -> None:
    """Status comes in the last Data-In (S with F) only when it is good; with sense data a SCSI Response brings it.

    UNH-IOL FFP 9.1
    RFC 7143 11.7.3
    """
    peer = target.log_in(MaxRecvDataSegmentLength="512")
    read = peer.read(0, 3)
    peer.send(read)
    *before, last = peer.gather(read)
    assert [pdu.status_present for pdu in before] == [False, False]
    if last.status_present:
        assert (last.final, last.status) == (True, 0)
    bad = peer.command(read_10(0x7FFFFFFF, 1), read=BLOCK)
    peer.send(bad)
    peer.expect_check_condition(bad, 5, 0x2100)
    peer.assert_alive()


def test_the_f_bit_ends_each_sequence_of_data_in(target: RealTarget) -> None:
    """The F bit is set in the last Data-In of each sequence, which is at most MaxBurstLength long, and in no other.

    UNH-IOL FFP 9.2
    RFC 7143 11.7.1
    """
    peer = target.log_in(MaxRecvDataSegmentLength="512", MaxBurstLength="1536", FirstBurstLength="512")
    read = peer.read(0, 7)
    peer.send(read)
    assert [pdu.final for pdu in peer.gather(read)] == [False, False, True, False, False, True, True]
    peer.assert_alive()


@pytest.mark.parametrize("limit", [512, 1000, 4096, 65536])
def test_data_in_keeps_to_the_declared_segment_length(target: RealTarget, limit: int) -> None:
    """No Data-In carries more than the initiator's MaxRecvDataSegmentLength.

    UNH-IOL FFP 9.3.1
    RFC 7143 11.7.7, 13.12
    """
    peer = target.log_in(MaxRecvDataSegmentLength=str(limit))
    read = peer.read(0, 64)
    peer.send(read)
    sizes = [len(pdu.data) for pdu in peer.gather(read)]
    assert max(sizes) == min(limit, 64 * BLOCK)
    assert sum(sizes) == 64 * BLOCK
    peer.assert_alive()


def test_a_sequence_of_data_in_keeps_to_the_burst_length(target: RealTarget) -> None:
    """The Data-In between two F bits add up to no more than MaxBurstLength.

    UNH-IOL FFP 9.3.2
    RFC 7143 11.7.7, 13.13
    """
    peer = target.log_in(MaxRecvDataSegmentLength="1024", MaxBurstLength="2560", FirstBurstLength="512")
    read = peer.read(0, 16)
    peer.send(read)
    bursts, burst = [], 0
    for pdu in peer.gather(read):
        burst += len(pdu.data)
        if pdu.final:
            bursts.append(burst)
            burst = 0
    assert burst == 0
    assert sum(bursts) == 16 * BLOCK
    assert max(bursts) <= 2560
    peer.assert_alive()


def test_data_in_is_filled_to_whole_words(target: RealTarget) -> None:
    """Every Data-In but the last of a sequence carries whole 4-byte words, also where the declared length is odd.

    UNH-IOL FFP 9.3.3
    RFC 7143 11.7.7
    """
    peer = target.log_in(MaxRecvDataSegmentLength="1023")
    read = peer.read(0, 8)
    peer.send(read)
    pdus = peer.gather(read)
    assert sum(len(pdu.data) for pdu in pdus) == 8 * BLOCK
    assert [len(pdu.data) % 4 for pdu in pdus if not pdu.final] == [0] * (len(pdus) - 1)
    peer.assert_alive()


def test_data_sn_goes_on_across_the_sequences_of_a_command(target: RealTarget) -> None:
    """DataSN goes on over the end of a sequence, and the SCSI Response after data tells how many there were.

    UNH-IOL FFP 9.4
    RFC 7143 11.7.5, 11.4.8
    """
    peer = target.log_in(MaxRecvDataSegmentLength="512", MaxBurstLength="1024", FirstBurstLength="512")
    read = peer.read(0, 6)
    peer.send(read)
    assert [pdu.data_sn for pdu in peer.gather(read)] == [0, 1, 2, 3, 4, 5]
    peer.assert_alive()


def test_buffer_offsets_follow_each_other(target: RealTarget) -> None:
    """With DataPDUInOrder=Yes the Buffer Offset of each Data-In is where the one before it ended.

    UNH-IOL FFP 9.5
    RFC 7143 11.7.6, 13.18
    """
    peer = target.log_in(MaxRecvDataSegmentLength="700", DataPDUInOrder="Yes", DataSequenceInOrder="Yes")
    data = pattern(8 * BLOCK)
    assert peer.run(peer.write(0, 8, data=data)).status == 0
    read = peer.read(0, 8)
    peer.send(read)
    position = 0
    for pdu in peer.gather(read):
        assert pdu.buffer_offset == position
        assert pdu.data == data[position : position + len(pdu.data)]
        position += len(pdu.data)
    assert position == len(data)
    peer.assert_alive()


def test_r2ts_ask_for_all_the_data_within_the_limits_agreed(target: RealTarget) -> None:
    """R2Ts ask in order for all data, each for 1 to MaxBurstLength bytes, no more than MaxOutstandingR2T at a time.

    UNH-IOL FFP 10.1
    RFC 7143 11.8, 11.8.4, 13.13, 13.17, 13.19
    """
    peer = target.log_in(
        MaxBurstLength="1024", FirstBurstLength="512", MaxOutstandingR2T="2", ImmediateData="No"
    )
    data = pattern(9 * BLOCK)
    write = peer.write(0, 9)
    peer.send(write)
    open_r2ts = [peer.expect(R2T), peer.expect(R2T)]
    peer.send(peer.nop(immediate=True))
    assert not isinstance(peer.receive(), R2T)  # a third one does not come before one of the two is answered
    position = 0
    while open_r2ts:
        r2t = open_r2ts.pop(0)
        end = position + r2t.desired_data_transfer_length
        assert r2t.buffer_offset == position
        assert 0 < r2t.desired_data_transfer_length <= 1024
        peer.send(*peer.burst(r2t, data[position:end]))
        position = end
        if position + sum(later.desired_data_transfer_length for later in open_r2ts) < len(data):
            open_r2ts.append(peer.expect(R2T))
    assert position == len(data)
    peer.expect(ScsiResponse, status=0, exp_data_sn=5)
    assert peer.medium(0, 9) == data
    peer.assert_alive()


@pytest.mark.parametrize("expected", [0, 512, 700, 2048])
def test_no_more_than_the_expected_length_is_sent(target: RealTarget, expected: int) -> None:
    """A target never sends more Data-In than the Expected Data Transfer Length, whatever the CDB asks for.

    UNH-IOL FFP 19.1
    RFC 7143 11.3.4
    """
    peer = target.log_in()
    done = peer.run(peer.command(read_10(0, 4), read=expected))
    assert (done.status, len(done.data)) == (0, expected)
    assert (done.response.overflow, done.response.residual_count) == (expected < 2048, 2048 - expected)
    peer.assert_alive()


def test_no_more_than_the_expected_length_is_asked_for(serve: Callable[..., RealTarget]) -> None:
    """A target never asks for more Data-Out than the Expected Data Transfer Length, and says what was missing.

    UNH-IOL FFP 19.1
    RFC 7143 11.3.4, 11.4.5.1
    """
    peer = serve(parameters=Parameters(immediate_data=False)).log_in()
    write = peer.command(bytes((0x2A, 0, 0, 0, 0, 0, 0, 0, 4, 0)), write=1024)
    peer.send(write)
    r2t = peer.expect(R2T, buffer_offset=0, desired_data_transfer_length=1024)
    peer.send(peer.data_out(r2t, bytes(1024)))
    response = peer.expect(ScsiResponse, initiator_task_tag=write.initiator_task_tag)
    assert (response.overflow, response.underflow, response.residual_count) == (True, False, 1024)
    peer.assert_alive()


def test_the_transfer_tag_of_data_in_is_reserved_unless_it_is_to_be_acknowledged(target: RealTarget) -> None:
    """Data-In without the A bit carries the reserved Target Transfer Tag; at error recovery level 0 all do.

    UNH-IOL FFP 8.1
    RFC 7143 11.7.4, 11.7.2
    """
    peer = target.log_in()
    peer.send(peer.command(INQUIRY, read=36))
    pdu = peer.expect(DataIn)
    assert (pdu.acknowledge, pdu.target_transfer_tag) == (False, RESERVED_TAG)
    if not pdu.status_present:
        peer.expect(ScsiResponse)
    peer.assert_alive()
