"""UNH-IOL full feature phase for targets, chapter 15: NOP-Out and NOP-In."""

from __future__ import annotations

from dataclasses import replace

import pytest

from iscsi_target import server_connection
from iscsi_target.wire.lun import lun_to_bytes
from iscsi_target.wire.opcodes import RESERVED_TAG
from iscsi_target.wire.requests import NopOut
from iscsi_target.wire.responses import NopIn
from tests.iscsi_target.rules.raw_initiator import TEST_UNIT_READY, RawInitiator, pattern
from tests.iscsi_target.rules.real_target import RealTarget

SECOND_NS = 1_000_000_000


def make_impatient(target: RealTarget, peer: RawInitiator, ping_timeout_ns: int) -> None:
    """Have `target` ping `peer` after a tenth of a second: only now, when the login and its commands are over."""
    impatient = replace(
        target.server.node.limits, idle_ping_ns=SECOND_NS // 10, ping_timeout_ns=ping_timeout_ns
    )
    target.call(setattr, target.server.node, "limits", impatient)
    # The silence begins anew with whatever comes; a bare confirmation is not answered.
    peer.send(NopOut(immediate=True, cmd_sn=peer.session.cmd_sn, exp_stat_sn=peer.exp_stat_sn))


def test_the_answer_to_a_ping_carries_its_task_tag(target: RealTarget) -> None:
    """NOP-In answers with the task tag of the NOP-Out, the reserved transfer tag and the F bit.

    UNH-IOL FFP 15.1.1
    RFC 7143 11.19, 11.19.1
    """
    peer = target.log_in()
    ping = peer.nop(b"x")
    peer.send(ping)
    peer.expect(NopIn, initiator_task_tag=ping.initiator_task_tag, target_transfer_tag=RESERVED_TAG)
    peer.assert_alive()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 511, 8192])
def test_the_answer_to_a_ping_carries_its_data(target: RealTarget, size: int) -> None:
    """NOP-In brings the ping data back unchanged, whatever their length and padding.

    UNH-IOL FFP 15.1.2
    RFC 7143 11.18.3, 11.19
    """
    peer = target.log_in()
    peer.send(peer.nop(pattern(size)))
    assert peer.expect(NopIn).data == pattern(size)
    peer.assert_alive()


def test_an_answer_to_a_ping_is_cut_to_what_the_initiator_takes(target: RealTarget) -> None:
    """NOP-In brings no more data back than the initiator's MaxRecvDataSegmentLength.

    UNH-IOL FFP 15.1.3
    RFC 7143 11.19, 13.12
    """
    peer = target.log_in(MaxRecvDataSegmentLength="512")
    peer.send(peer.nop(pattern(4096)))
    assert peer.expect(NopIn).data == pattern(4096)[:512]
    peer.assert_alive()


def test_an_immediate_ping_takes_no_cmd_sn(target: RealTarget) -> None:
    """An immediate NOP-Out carries the next CmdSN and does not use it up.

    UNH-IOL FFP 15.1.4
    RFC 7143 4.2.2.1, 11.18
    """
    peer = target.log_in()
    before = peer.exp_cmd_sn
    for _ in range(3):
        peer.send(peer.nop(immediate=True))
        assert peer.expect(NopIn).exp_cmd_sn == before
    peer.assert_alive()


def test_a_numbered_ping_takes_one_cmd_sn(target: RealTarget) -> None:
    """A NOP-Out that is not immediate advances ExpCmdSN by one and gives its place in the window back.

    UNH-IOL FFP 15.1.5
    RFC 7143 4.2.2.1, 11.18
    """
    peer = target.log_in()
    before = peer.exp_cmd_sn
    for number in range(1, 4):
        peer.send(peer.nop())
        pdu = peer.expect(NopIn, exp_cmd_sn=before + number)
        assert pdu.max_cmd_sn - pdu.exp_cmd_sn == 127
    peer.assert_alive()


def test_a_ping_without_data_is_answered_without_data(target: RealTarget) -> None:
    """A NOP-Out without data is answered without data.

    UNH-IOL FFP 15.1.6
    RFC 7143 11.18.3
    """
    peer = target.log_in()
    peer.send(peer.nop())
    peer.expect(NopIn, data=b"")
    peer.assert_alive()


def test_the_target_pings_a_silent_initiator_and_takes_its_answer(target: RealTarget) -> None:
    """After a silence the target pings (reserved task tag, own transfer tag); an answer keeps the session alive.

    UNH-IOL FFP 15.2
    RFC 7143 11.19, 11.19.1, 11.18.2
    """
    peer = target.log_in()
    make_impatient(target, peer, 60 * SECOND_NS)
    ping = peer.expect(NopIn, initiator_task_tag=RESERVED_TAG)
    assert ping.target_transfer_tag != RESERVED_TAG
    peer.send(
        NopOut(
            immediate=True,
            lun=ping.lun,
            target_transfer_tag=ping.target_transfer_tag,
            cmd_sn=peer.session.cmd_sn,
            exp_stat_sn=peer.exp_stat_sn,
        )
    )
    again = peer.expect(NopIn, initiator_task_tag=RESERVED_TAG)  # the silence begins anew: no end, a new ping
    assert again.target_transfer_tag != ping.target_transfer_tag
    peer.assert_alive()


def test_an_unanswered_ping_ends_the_connection(target: RealTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target whose ping is not answered in time gives the connection up and serves others.

    UNH-IOL FFP 15.2
    RFC 7143 7.5, 7.14
    """
    # The end has to come with the time-out itself, not when the target has waited for the initiator to close.
    monkeypatch.setattr(server_connection, "_LINGER_NS", 10**15)
    peer = target.log_in()
    patient = target.server.node.limits
    make_impatient(target, peer, SECOND_NS // 10)
    peer.expect(NopIn, initiator_task_tag=RESERVED_TAG)
    peer.expect_closed()
    target.call(setattr, target.server.node, "limits", patient)
    target.assert_serves()


def test_a_nop_out_without_task_tag_only_confirms(target: RealTarget) -> None:
    """A NOP-Out with both tags reserved confirms ExpStatSN and is not answered.

    UNH-IOL FFP 15.3
    RFC 7143 11.18.1, 11.18
    """
    peer = target.log_in()
    bare = NopOut(immediate=True, cmd_sn=peer.session.cmd_sn, exp_stat_sn=peer.exp_stat_sn)
    peer.send(bare, bare)
    peer.assert_alive()


def test_exp_cmd_sn_is_confirmed_by_the_next_pdu(target: RealTarget) -> None:
    """Commands held up by a gap are not confirmed by ExpCmdSN; when the gap is filled, all of them are at once.

    UNH-IOL FFP 15.3
    RFC 7143 4.2.2.1, 11.19
    """
    peer = target.log_in()
    before = peer.exp_cmd_sn
    missing = peer.command(TEST_UNIT_READY)
    peer.send(peer.command(TEST_UNIT_READY), peer.command(TEST_UNIT_READY), peer.nop(immediate=True))
    peer.expect(NopIn, exp_cmd_sn=before)
    peer.send(missing)
    for _ in range(3):
        peer.receive()
    assert peer.exp_cmd_sn == before + 3
    peer.assert_alive()


def test_the_lun_of_a_ping_with_a_transfer_tag_is_ignored(target: RealTarget) -> None:
    """A NOP-Out that answers a ping nobody sent, for a LUN nobody has, harms nothing.

    UNH-IOL FFP 15.2
    RFC 7143 11.18.2
    """
    peer = target.log_in()
    peer.send(
        peer.nop(immediate=True, initiator_task_tag=RESERVED_TAG, target_transfer_tag=5, lun=lun_to_bytes(9))
    )
    peer.assert_alive()
