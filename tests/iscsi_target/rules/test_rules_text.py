"""UNH-IOL full feature phase for targets, chapter 17: text requests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from iscsi_target.server import Portal
from iscsi_target.wire.opcodes import RESERVED_TAG, RejectReason
from iscsi_target.wire.responses import Reject, TextResponse
from iscsi_target.wire.text import Pair, decode_text
from tests.iscsi_target.rules.raw_initiator import BLOCK, TARGET, RawInitiator
from tests.iscsi_target.rules.real_target import RealTarget


def discovery(target: RealTarget, **keys: str) -> RawInitiator:
    peer = target.peer()
    peer.log_in(discovery=True, **keys)
    return peer


def assert_answers(peer: RawInitiator) -> None:
    """A session in which no SCSI command has a place goes on."""
    ping = peer.nop(b"still alive?", immediate=True)
    peer.send(ping)
    assert peer.receive() is not None


def text(peer: RawInitiator, *pairs: Pair) -> list[Pair]:
    """The answer to a text that is complete on both sides."""
    request = peer.text(*pairs)
    peer.send(request)
    answer = peer.expect(TextResponse, initiator_task_tag=request.initiator_task_tag, final=True)
    return decode_text(answer.data)


def records(target: RealTarget) -> list[Pair]:
    """What SendTargets tells of the target under test."""
    portal: Portal = target.server.portals[0]
    return [
        ("TargetName", TARGET),
        ("TargetAddress", f"{portal.host}:{portal.port},{portal.portal_group_tag}"),
    ]


def test_a_complete_answer_has_the_f_bit_and_no_transfer_tag(target: RealTarget) -> None:
    """The answer to a text with F, complete in one PDU, has F and the reserved Target Transfer Tag.

    UNH-IOL FFP 17.1.1
    RFC 7143 11.11.1, 11.11.4
    """
    peer = target.log_in()
    peer.send(peer.text(("MaxRecvDataSegmentLength", "4096")))
    peer.expect(TextResponse, final=True, continue_=False, target_transfer_tag=RESERVED_TAG)
    peer.assert_alive()


def test_an_answer_in_the_middle_has_a_transfer_tag_to_go_on_with(target: RealTarget) -> None:
    """The answer to a text without F has no F and a valid Target Transfer Tag, with which the exchange goes on.

    UNH-IOL FFP 17.1.2
    RFC 7143 11.11.1, 11.11.4, 11.10.4
    """
    peer = target.log_in()
    first = peer.text(("MaxRecvDataSegmentLength", "4096"), final=False)
    peer.send(first)
    middle = peer.expect(TextResponse, final=False, initiator_task_tag=first.initiator_task_tag)
    assert middle.target_transfer_tag != RESERVED_TAG
    peer.send(
        peer.text(
            initiator_task_tag=first.initiator_task_tag,
            target_transfer_tag=middle.target_transfer_tag,
            data=b"",
        )
    )
    peer.expect(TextResponse, final=True, target_transfer_tag=RESERVED_TAG)
    peer.assert_alive()


def test_the_target_does_not_end_an_exchange_that_the_initiator_goes_on_with(target: RealTarget) -> None:
    """A text without F is never answered with F.

    UNH-IOL FFP 17.2.1
    RFC 7143 11.11.1, 11.10.1
    """
    peer = target.log_in()
    for _ in range(2):
        peer.send(peer.text(("X-com.example.none", "1"), final=False))
        peer.expect(TextResponse, final=False)
    peer.assert_alive()


def test_a_text_that_ends_and_continues_is_rejected(target: RealTarget) -> None:
    """A text with both F and C is a protocol error: Reject, and the session goes on.

    UNH-IOL FFP 17.2.2
    RFC 7143 11.10.2, 7.13
    """
    peer = target.log_in()
    peer.send(peer.text(("MaxRecvDataSegmentLength", "4096"), final=True, continue_=True))
    peer.expect(Reject, reason=RejectReason.PROTOCOL_ERROR)
    peer.assert_alive()


def test_discovery_tells_every_target_with_its_addresses(target: RealTarget) -> None:
    """SendTargets=All in a discovery session tells each target's name and, after it, its addresses.

    UNH-IOL FFP 17.3.1
    RFC 7143 13.3, Appendix C
    """
    peer = discovery(target)
    assert text(peer, ("SendTargets", "All")) == records(target)
    assert_answers(peer)


def test_a_normal_session_is_not_told_of_all_targets(target: RealTarget) -> None:
    """SendTargets=All in a normal session is refused; the session goes on.

    UNH-IOL FFP 17.3.2
    RFC 7143 13.3, Appendix C
    """
    peer = target.log_in()
    peer.send(peer.text(("SendTargets", "All")))
    peer.expect(Reject, reason=RejectReason.PROTOCOL_ERROR)
    peer.assert_alive()


def test_an_empty_send_targets_in_a_normal_session_means_its_own_target(target: RealTarget) -> None:
    """SendTargets without a value in a normal session tells of the target of the session.

    UNH-IOL FFP 17.3.3
    RFC 7143 13.3, Appendix C
    """
    peer = target.log_in()
    assert text(peer, ("SendTargets", "")) == records(target)
    peer.assert_alive()


def test_send_targets_with_a_name_tells_of_that_target(target: RealTarget) -> None:
    """SendTargets with the name of a target tells of it, in normal and discovery sessions.

    UNH-IOL FFP 17.3.4
    RFC 7143 13.3, Appendix C
    """
    peer = target.log_in()
    assert text(peer, ("SendTargets", TARGET)) == records(target)
    peer.assert_alive()
    asker = discovery(target)
    assert text(asker, ("SendTargets", TARGET)) == records(target)


@pytest.mark.parametrize("name", ["iqn.2026-11.example:nobody", "no-name-at-all"])
def test_send_targets_with_an_unknown_name_tells_nothing(target: RealTarget, name: str) -> None:
    """SendTargets with the name of no target is answered with no record.

    UNH-IOL FFP 17.3.5
    RFC 7143 13.3, Appendix C
    """
    peer = target.log_in()
    assert text(peer, ("SendTargets", name)) == []
    peer.assert_alive()


@pytest.mark.parametrize("key", ["X-com.example.none", "X#nobody.knows", "NoSuchKey"])
def test_an_unknown_key_is_not_understood(target: RealTarget, key: str) -> None:
    """A key that the target does not know is answered NotUnderstood, and nothing else happens.

    UNH-IOL FFP 17.4.1
    RFC 7143 6.2, 13.22
    """
    peer = target.log_in()
    assert text(peer, (key, "1")) == [(key, "NotUnderstood")]
    peer.assert_alive()


@pytest.mark.parametrize(
    ("key", "value"), [("HeaderDigest", "CRC32C"), ("MaxBurstLength", "512"), ("ErrorRecoveryLevel", "2")]
)
def test_a_key_of_the_login_is_not_negotiated_again(target: RealTarget, key: str, value: str) -> None:
    """A key that belongs to the login is refused in full-feature phase; what was agreed goes on to hold.

    UNH-IOL FFP 17.4.2
    RFC 7143 6.2, 13.1, 13.13, 13.20
    """
    peer = target.log_in()
    peer.send(peer.text((key, value)))
    answer = peer.receive()
    assert isinstance(answer, Reject) or (
        isinstance(answer, TextResponse) and decode_text(answer.data) == [(key, "Reject")]
    )
    read = peer.read(0, 64)
    peer.send(read)
    assert max(len(pdu.data) for pdu in peer.gather(read)) == 8192  # no digest, no smaller burst
    peer.assert_alive()


def test_a_text_answer_carries_the_task_tag_of_its_request(target: RealTarget) -> None:
    """Each Text Response carries the task tag of the request that it answers.

    UNH-IOL FFP 17.5
    RFC 7143 11.10.3, 11.11.3
    """
    peer = target.log_in()
    for tag in (0, 1, 0x80000000, 0xFFFFFFFE):
        peer.send(peer.text(("SendTargets", ""), initiator_task_tag=tag))
        peer.expect(TextResponse, initiator_task_tag=tag)
    peer.assert_alive()


def test_a_key_is_negotiated_once_in_one_exchange(target: RealTarget) -> None:
    """The same key twice in one exchange, in one PDU or two, is a protocol error: Reject.

    UNH-IOL FFP 17.6
    RFC 7143 6.2, 6.4, 7.12
    """
    peer = target.log_in()
    peer.send(peer.text(("MaxRecvDataSegmentLength", "1024"), ("MaxRecvDataSegmentLength", "2048")))
    peer.expect(Reject, reason=RejectReason.PROTOCOL_ERROR)
    peer.assert_alive()
    first = peer.text(("MaxRecvDataSegmentLength", "1024"), final=False)
    peer.send(first)
    middle = peer.expect(TextResponse, final=False)
    peer.send(
        peer.text(
            ("MaxRecvDataSegmentLength", "2048"),
            initiator_task_tag=first.initiator_task_tag,
            target_transfer_tag=middle.target_transfer_tag,
        )
    )
    peer.expect(Reject, reason=RejectReason.PROTOCOL_ERROR)
    peer.assert_alive()


def test_a_reserved_transfer_tag_resets_the_exchange(target: RealTarget) -> None:
    """A text with the reserved transfer tag begins anew: what came of an unfinished exchange is forgotten.

    UNH-IOL FFP 17.7.1
    RFC 7143 11.10.4, 6.4
    """
    peer = target.log_in()
    peer.send(peer.text(data=b"SendTargets=iqn.20", final=False, continue_=True))
    old = peer.expect(TextResponse, final=False)
    assert text(peer, ("SendTargets", "")) == records(target)
    peer.send(peer.text(("SendTargets", ""), target_transfer_tag=old.target_transfer_tag))
    peer.expect(Reject)
    peer.assert_alive()


def test_a_transfer_tag_nobody_gave_is_rejected(target: RealTarget) -> None:
    """A text whose Target Transfer Tag names no exchange in progress is rejected.

    UNH-IOL FFP 17.7.2
    RFC 7143 11.10.4, 11.17.1
    """
    peer = target.log_in()
    peer.send(peer.text(("SendTargets", ""), target_transfer_tag=0x1234))
    peer.expect(Reject, reason=RejectReason.PROTOCOL_ERROR)
    peer.assert_alive()


@pytest.mark.parametrize(
    "data",
    [
        b"MaxRecvDataSegmentLength=511\0",
        b"MaxRecvDataSegmentLength=many\0",
        b"no equals sign\0",
        b"Torn=text",
    ],
)
def test_a_negotiation_that_fails_changes_nothing(target: RealTarget, data: bytes) -> None:
    """A negotiation that fails in full-feature phase is rejected and leaves the values that hold.

    UNH-IOL FFP 17.7.3
    RFC 7143 7.12, 6.4
    """
    peer = target.log_in(MaxRecvDataSegmentLength="1024")
    peer.send(peer.text(data=data))
    peer.expect(Reject, reason=RejectReason.PROTOCOL_ERROR)
    read = peer.read(0, 8)
    peer.send(read)
    assert max(len(pdu.data) for pdu in peer.gather(read)) == 1024
    peer.assert_alive()


def test_what_was_declared_before_a_failure_in_the_same_exchange_does_not_hold(target: RealTarget) -> None:
    """When an exchange fails after a key was answered, the value in force before the exchange is restored.

    UNH-IOL FFP 17.7.3
    RFC 7143 7.12, 6.4
    """
    peer = target.log_in(MaxRecvDataSegmentLength="2048")
    peer.send(peer.text(("MaxRecvDataSegmentLength", "512"), ("SendTargets", "All")))
    peer.expect(Reject)
    read = peer.read(0, 8)
    peer.send(read)
    assert max(len(pdu.data) for pdu in peer.gather(read)) == 2048
    peer.assert_alive()


def test_a_continued_text_is_answered_by_an_empty_one(target: RealTarget) -> None:
    """A text with C is answered by a Text Response without data and without F, with a tag to go on with.

    UNH-IOL FFP 17.8.1
    RFC 7143 11.10.2, 6.2
    """
    peer = target.log_in()
    peer.send(peer.text(data=b"SendTar", final=False, continue_=True))
    answer = peer.expect(TextResponse, final=False, continue_=False, data=b"")
    assert answer.target_transfer_tag != RESERVED_TAG
    peer.assert_alive()


def test_continued_text_is_taken_as_one(target: RealTarget) -> None:
    """Text that is cut anywhere, within a key too, and continued with C is understood when it is whole.

    UNH-IOL FFP 17.8.2
    RFC 7143 11.10.2, 6.2
    """
    peer = target.log_in()
    first = peer.text(data=b"SendTar", final=False, continue_=True)
    peer.send(first)
    tag = peer.expect(TextResponse, data=b"").target_transfer_tag
    for part, more in ((b"gets", True), (b"=\0", False)):
        peer.send(
            peer.text(
                data=part,
                final=not more,
                continue_=more,
                initiator_task_tag=first.initiator_task_tag,
                target_transfer_tag=tag,
            )
        )
        answer = peer.expect(TextResponse, initiator_task_tag=first.initiator_task_tag)
    assert decode_text(answer.data) == records(target)
    peer.assert_alive()


def test_an_answer_longer_than_a_segment_is_continued(serve: Callable[..., RealTarget]) -> None:
    """An answer longer than the initiator's MaxRecvDataSegmentLength comes in pieces with C, fetched one by one.

    UNH-IOL FFP 17.8.3
    RFC 7143 11.11.2, 11.11.4
    """
    target = serve()
    portals = target.server.node.portals * 40
    target.server.node.portals = portals
    peer = discovery(target, MaxRecvDataSegmentLength="512")
    request = peer.text(("SendTargets", "All"))
    peer.send(request)
    data = b""
    while True:
        answer = peer.expect(TextResponse, initiator_task_tag=request.initiator_task_tag)
        assert len(answer.data) <= 512
        data += answer.data
        if not answer.continue_:
            break
        assert not answer.final
        peer.send(
            peer.text(
                data=b"",
                initiator_task_tag=request.initiator_task_tag,
                target_transfer_tag=answer.target_transfer_tag,
            )
        )
    name, address = records(target)
    assert answer.final
    assert decode_text(data) == [name, *[address] * 40]
    assert_answers(peer)


def test_a_new_segment_length_holds_at_once(target: RealTarget) -> None:
    """MaxRecvDataSegmentLength declared anew in full-feature phase holds for the commands after it.

    UNH-IOL FFP 17.4.2
    RFC 7143 13.12, 6.4
    """
    peer = target.log_in(MaxRecvDataSegmentLength="4096")
    assert text(peer, ("MaxRecvDataSegmentLength", "512")) == []
    read = peer.read(0, 8)
    peer.send(read)
    assert {len(pdu.data) for pdu in peer.gather(read)} == {BLOCK}
    peer.assert_alive()
