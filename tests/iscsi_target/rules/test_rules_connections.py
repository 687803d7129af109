"""UNH-IOL multi-connection for targets: several connections in one session, reinstatement."""

from __future__ import annotations

from iscsi_target.wire.opcodes import LoginStatus
from iscsi_target.wire.responses import R2T, NopIn, ScsiResponse
from tests.iscsi_target.rules.raw_initiator import BLOCK, TEST_UNIT_READY, SharedSession, pattern
from tests.iscsi_target.rules.real_target import RealTarget


def test_commands_are_taken_in_cmd_sn_order_over_all_connections(target: RealTarget) -> None:
    """CmdSN counts over all connections of a session; a command waits for those before it on other connections.

    UNH-IOL MC command-order
    RFC 7143 4.2.2.1
    """
    one = target.log_in(MaxConnections="2")
    two = target.add_connection(one, 1)
    first = one.write(0, 1, data=pattern(BLOCK))
    second = two.read(0, 1)
    two.send(second, two.nop(immediate=True))
    two.expect(NopIn, exp_cmd_sn=first.cmd_sn)
    one.send(first)
    one.expect(ScsiResponse, initiator_task_tag=first.initiator_task_tag, status=0)
    assert two.finish(second).data == pattern(BLOCK)
    one.assert_alive()
    two.assert_alive()


def test_stat_sn_counts_on_each_connection_by_itself(target: RealTarget) -> None:
    """StatSN counts per connection: statuses on one leave the numbers of the other alone.

    UNH-IOL MC status-numbering
    RFC 7143 4.2.2.2
    """
    one = target.log_in(MaxConnections="2")
    two = target.add_connection(one, 1)
    before = two.exp_stat_sn
    for _ in range(5):
        assert one.run(one.command(TEST_UNIT_READY)).status == 0
    two.send(two.nop(immediate=True))
    two.expect(NopIn, stat_sn=before)
    one.assert_alive()
    two.assert_alive()


def test_one_connection_more_than_agreed_is_refused(target: RealTarget) -> None:
    """A connection beyond MaxConnections is refused with "too many connections"; the others go on.

    UNH-IOL MC too-many
    RFC 7143 13.2, 11.13.5
    """
    one = target.log_in(MaxConnections="2")
    two = target.add_connection(one, 1)
    third = target.peer(cid=2, session=one.session)
    assert third.try_log_in() == LoginStatus.TOO_MANY_CONNECTIONS
    third.expect_closed()
    one.assert_alive()
    two.assert_alive()


def test_a_connection_to_a_session_that_is_not_there_is_refused(target: RealTarget) -> None:
    """A login with a TSIH that no session of this initiator has is refused with "session does not exist".

    UNH-IOL MC unknown-session
    RFC 7143 6.3.1, 11.12.6, 11.13.5
    """
    one = target.log_in(MaxConnections="2")
    lost = target.peer(cid=1, session=SharedSession(tsih=one.session.tsih + 1))
    assert lost.try_log_in() == LoginStatus.SESSION_DOES_NOT_EXIST
    stranger = target.peer(cid=1, session=one.session, name="iqn.2026-11.example:stranger")
    assert stranger.try_log_in() == LoginStatus.SESSION_DOES_NOT_EXIST
    one.assert_alive()


def test_the_same_cid_replaces_the_connection(target: RealTarget) -> None:
    """A login with TSIH and CID of a connection that is there closes the old one and takes its place.

    UNH-IOL MC reinstatement
    RFC 7143 6.3.4
    """
    one = target.log_in(MaxConnections="2")
    two = target.add_connection(one, 1)
    again = target.add_connection(one, 1)
    two.expect_closed()
    one.assert_alive()
    again.assert_alive()


def test_the_same_isid_replaces_the_session(target: RealTarget) -> None:
    """A login with TSIH 0 and the ISID of a session that is there ends that session with all its connections.

    UNH-IOL MC session-reinstatement
    RFC 7143 6.3.5
    """
    one = target.log_in(MaxConnections="2", ImmediateData="No")
    two = target.add_connection(one, 1)
    two.send(two.write(0, 1))
    two.expect(R2T)
    fresh = target.log_in()
    one.expect_closed()
    two.expect_closed()
    assert fresh.session.tsih != one.session.tsih
    fresh.assert_alive()


def test_each_connection_has_its_own_digests_and_segment_length(target: RealTarget) -> None:
    """Digests and MaxRecvDataSegmentLength belong to the connection on which they were agreed.

    UNH-IOL MC connection-keys
    RFC 7143 13.1, 13.12
    """
    one = target.log_in(MaxConnections="2", HeaderDigest="CRC32C", DataDigest="CRC32C")
    two = target.add_connection(one, 1, MaxRecvDataSegmentLength="512")
    for peer, digests, size in ((one, True, 2048), (two, False, 512)):
        assert peer.header_digest is digests
        read = peer.read(0, 4)
        peer.send(read)
        assert max(len(pdu.data) for pdu in peer.gather(read)) == size
        peer.assert_alive()


def test_the_loss_of_one_connection_leaves_the_others(target: RealTarget) -> None:
    """When one connection of several fails, its tasks end and the commands of the others go on.

    UNH-IOL MC connection-lost
    RFC 7143 7.6, 7.14
    """
    one = target.log_in(MaxConnections="2", ImmediateData="No")
    two = target.add_connection(one, 1)
    two.send(two.write(0, 1))
    two.expect(R2T)
    kept = one.write(4, 1)
    one.send(kept)
    r2t = one.expect(R2T)
    two.close()
    one.send(one.data_out(r2t, pattern(BLOCK)))
    one.expect(ScsiResponse, initiator_task_tag=kept.initiator_task_tag, status=0)
    one.assert_alive()
