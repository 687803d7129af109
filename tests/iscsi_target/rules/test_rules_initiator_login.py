"""The mirror of the login: what the real initiator makes of a target that refuses, moves away, or breaks the rules."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from iscsi_target.discovery import discover
from iscsi_target.errors import ConnectionLost, LoginFailed, NegotiationError
from iscsi_target.wire.codec import encode_pdu
from iscsi_target.wire.opcodes import LoginStatus, Stage
from iscsi_target.wire.requests import LoginRequest, LogoutRequest, TextRequest
from iscsi_target.wire.responses import NopIn
from iscsi_target.wire.text import Pair, decode_text
from tests.iscsi_target.rules.initiator_rig import RawServer, fails, logged_in, parameters, scripted
from tests.iscsi_target.rules.raw_target import RawTarget


async def begun(server: RawServer, **options: Any) -> tuple[asyncio.Task[Any], RawTarget, LoginRequest]:
    """A login whose first request has come."""
    task = server.login(parameters=parameters(), **options)
    peer = await server.accept()
    return task, peer, await peer.expect(LoginRequest)


@pytest.mark.parametrize("status", [status for status in LoginStatus if status >= 0x0200])
@scripted
async def test_a_refusal_reaches_the_caller_with_its_status(status: LoginStatus) -> None:
    """A login that the target refuses fails with the status it gave, and the connection is closed.

    UNH-IOL CHAP-I login-refused
    RFC 7143 11.13.5, 6.3.1
    """
    async with RawServer() as server:
        task, peer, request = await begun(server)
        refusal = peer.login_response(
            request, transit=False, tsih=0, status_class=status >> 8, status_detail=status & 0xFF
        )
        await peer.send(refusal)
        error = await fails(task, LoginFailed)
        assert isinstance(error, LoginFailed)
        assert error.status == status
        await peer.expect_closed()


@pytest.mark.parametrize(
    "status", [LoginStatus.TARGET_MOVED_TEMPORARILY, LoginStatus.TARGET_MOVED_PERMANENTLY]
)
@scripted
async def test_a_target_that_moved_is_followed(status: LoginStatus) -> None:
    """ "Target moved" with a TargetAddress leads to a login there.

    UNH-IOL CHAP-I login-redirected
    RFC 7143 11.13.5, 13.8
    """
    async with RawServer() as old, RawServer() as new:
        task, peer, request = await begun(old)
        address = ("TargetAddress", f"127.0.0.1:{new.port},1")
        await peer.send(
            peer.login_response(request, address, transit=False, status_class=1, status_detail=status & 0xFF)
        )
        await peer.expect_closed()
        there = await new.accept()
        await there.log_in()
        session = await task
        await there.assert_alive(session)
        await session.abort()


@scripted
async def test_a_target_that_moves_for_ever_is_given_up() -> None:
    """Redirections that go round in a circle end after a few with the redirection as the error.

    UNH-IOL CHAP-I login-redirected
    RFC 7143 11.13.5
    """
    async with RawServer() as server:
        task, peer, request = await begun(server)
        followed = 0
        while True:
            address = ("TargetAddress", f"127.0.0.1:{server.port},1")
            await peer.send(
                peer.login_response(request, address, transit=False, status_class=1, status_detail=1)
            )
            await peer.expect_closed()
            accepting = asyncio.create_task(server.accept())
            await asyncio.wait([task, accepting], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                accepting.cancel()
                break
            peer = await accepting
            request = await peer.expect(LoginRequest)
            followed += 1
            assert followed < 20
        await fails(task, LoginFailed, "moved")
        assert followed > 0


@pytest.mark.parametrize(
    "pairs", [[], [("TargetAddress", "nonsense:port:99999999")]], ids=["no address", "nonsense"]
)
@scripted
async def test_a_redirection_to_nowhere_fails_cleanly(pairs: list[Pair]) -> None:
    """ "Target moved" without an address that can be understood fails the login with one clear error.

    UNH-IOL CHAP-I login-redirected
    RFC 7143 11.13.5, 13.8
    """
    async with RawServer() as server:
        task, peer, request = await begun(server)
        await peer.send(peer.login_response(request, *pairs, transit=False, status_class=1, status_detail=1))
        error = await fails(task, Exception)
        assert isinstance(error, LoginFailed | NegotiationError | ConnectionLost), repr(error)
        await peer.expect_closed()


@pytest.mark.parametrize(
    "fields",
    [
        {"initiator_task_tag": 0x7777},
        {"isid": bytes(6)},
        {"csg": Stage.SECURITY_NEGOTIATION},
        {"csg": 2},
        {"nsg": 2},
        {"nsg": Stage.SECURITY_NEGOTIATION},
        {"tsih": 0},
    ],
    ids=["task tag", "ISID", "stage", "reserved stage", "reserved next stage", "stage back", "TSIH 0"],
)
@scripted
async def test_a_login_response_that_cannot_be_is_not_followed(fields: dict[str, Any]) -> None:
    """A Login Response with a wrong task tag, ISID, stage or final TSIH ends the login.

    UNH-IOL CHAP-I login-response
    RFC 7143 11.13, 11.13.3, 11.12.3, 7.13
    """
    async with RawServer() as server:
        task, peer, request = await begun(server)
        await peer.send(peer.login_response(request, *peer.answers(request), **fields))
        await fails(task, NegotiationError)
        await peer.expect_closed()


@pytest.mark.parametrize(
    "answer",
    [
        ("MaxBurstLength", "16777215"),
        ("HeaderDigest", "CRC32C"),
        ("InitialR2T", "No"),
        ("ImmediateData", "Yes"),
        ("ErrorRecoveryLevel", "2"),
        ("MaxConnections", "0"),
        ("MaxRecvDataSegmentLength", "1"),
        ("MaxOutstandingR2T", "many"),
    ],
    ids=lambda answer: "=".join(answer),
)
@scripted
async def test_an_answer_that_the_offer_does_not_allow_ends_the_login(answer: Pair) -> None:
    """An answer outside of what was offered is a negotiation failure: the login ends.

    UNH-IOL CHAP-I login-answers
    RFC 7143 6.2, 7.12, 13
    """
    async with RawServer() as server:
        task, peer, request = await begun(server)
        await peer.send(peer.login_response(request, *peer.answers(request, **dict([answer]))))
        await fails(task, NegotiationError, answer[0])
        await peer.expect_closed()


@scripted
async def test_a_key_of_the_targets_is_answered_in_the_login() -> None:
    """A key that the target brings up and the initiator does not know is answered NotUnderstood; the login goes on.

    UNH-IOL CHAP-I login-unknown-key
    RFC 7143 6.2, 13.22
    """
    async with RawServer() as server:
        task, peer, request = await begun(server)
        pairs = [*peer.answers(request), ("X-com.example.strange", "1")]
        await peer.send(peer.login_response(request, *pairs, transit=False, nsg=0, tsih=0))
        request = await peer.expect(LoginRequest, transit=True)
        assert decode_text(request.data) == [("X-com.example.strange", "NotUnderstood")]
        await peer.send(peer.login_response(request))
        peer.session.exp_cmd_sn = request.cmd_sn
        peer.session.move()
        session = await task
        await peer.send(peer.nop_in())
        await peer.assert_alive(session)
        await session.abort()


@scripted
async def test_a_continued_login_response_is_fetched() -> None:
    """While answers come with C the rest is asked for with empty requests without T; cut keys are joined.

    UNH-IOL CHAP-I login-continued
    RFC 7143 11.13.7, 11.12.2, 6.2
    """
    async with RawServer() as server:
        task, peer, request = await begun(server)
        whole = peer.login_response(request, *peer.answers(request)).data
        for part in (whole[:20], whole[20:33]):
            await peer.send(
                peer.login_response(request, transit=False, nsg=0, tsih=0, continue_=True, data=part)
            )
            request = await peer.expect(LoginRequest, transit=False, continue_=False, data=b"")
        await peer.send(peer.login_response(request, transit=False, nsg=0, tsih=0, data=whole[33:]))
        request = await peer.expect(LoginRequest, transit=True)
        await peer.send(peer.login_response(request))
        peer.session.exp_cmd_sn = request.cmd_sn
        peer.session.move()
        session = await task
        await peer.send(peer.nop_in())
        await peer.assert_alive(session)
        await session.abort()


@scripted
async def test_a_login_without_end_is_given_up() -> None:
    """A target that never lets the login end is given up after a bounded number of exchanges.

    UNH-IOL CHAP-I login-endless
    RFC 7143 6.3, 7.12
    """
    async with RawServer() as server:
        task, peer, request = await begun(server)
        for _ in range(100):
            await peer.send(peer.login_response(request, transit=False, nsg=0, tsih=0))
            try:
                request = await peer.expect(LoginRequest)
            except (asyncio.IncompleteReadError, ConnectionError):
                break
        await fails(task, NegotiationError, "end")


@scripted
async def test_a_silent_target_is_given_up() -> None:
    """A target that does not answer the login is given up after the time allowed.

    UNH-IOL CHAP-I login-silence
    RFC 7143 7.5, 6.3
    """
    async with RawServer() as server:
        task, peer, _ = await begun(server, timeout_s=1)
        await fails(task, ConnectionLost, "no login")
        await peer.expect_closed()


@scripted
async def test_another_pdu_in_the_login_ends_it() -> None:
    """A PDU other than a Login Response before full-feature phase is a protocol error.

    UNH-IOL CHAP-I login-other-pdu
    RFC 7143 4.2.4, 7.13
    """
    async with RawServer() as server:
        task, peer, _ = await begun(server)
        await peer.send_bytes(encode_pdu(NopIn(stat_sn=0, exp_cmd_sn=0, max_cmd_sn=0)))
        await fails(task, Exception, "login phase")
        await peer.expect_closed()


@pytest.mark.parametrize("end", ["at once", "within a PDU"])
@scripted
async def test_a_target_that_hangs_up_in_the_login_fails_it(end: str) -> None:
    """A connection that ends during the login fails it at once.

    UNH-IOL CHAP-I login-lost
    RFC 7143 7.14
    """
    async with RawServer() as server:
        task, peer, request = await begun(server)
        if end == "within a PDU":
            await peer.send_bytes(encode_pdu(peer.login_response(request))[:20])
        peer.close()
        await fails(task, ConnectionLost)


@scripted
async def test_a_further_connection_joins_with_the_tsih() -> None:
    """A further connection logs in with the TSIH of the session and a CID of its own; a refusal leaves the session.
    Keys for the leading connection only are not in it: LIO echoes them, which breaks the login.

    UNH-IOL CHAP-I connection-refused
    RFC 7143 6.3.1, 11.12.6, 11.12.7, 13.21
    """
    async with RawServer() as server:
        task = server.login(parameters=parameters(max_connections=2))
        peer = await server.accept()
        await peer.log_in()
        session = await task
        adding = asyncio.create_task(session.add_connection(1))
        second = await server.accept()
        request = await second.expect(LoginRequest, tsih=1, cid=1)
        offered = {key for key, _ in decode_text(request.data)}
        assert offered == {
            "InitiatorName",
            "TargetName",
            "HeaderDigest",
            "DataDigest",
            "MaxRecvDataSegmentLength",
        }
        await second.send(second.login_response(request, transit=False, status_class=2, status_detail=6))
        await fails(adding, LoginFailed)
        await second.expect_closed()
        await peer.assert_alive(session)
        await session.abort()


@scripted
async def test_discovery_asks_and_logs_out() -> None:
    """A discovery session asks SendTargets=All, takes names with their addresses, and logs out.

    UNH-IOL CHAP-I discovery
    RFC 7143 4.3, 13.3, Appendix C
    """
    async with RawServer() as server:
        task = asyncio.create_task(discover("127.0.0.1", server.port))
        peer = await server.accept()
        await peer.log_in()
        assert peer.offered["SessionType"] == "Discovery"
        request = await peer.expect(TextRequest, data=b"SendTargets=All\0")
        records = [
            ("TargetName", "iqn.a"),
            ("TargetAddress", "192.0.2.1:3260,1"),
            ("TargetAddress", "[2001:db8::1]:3260,2"),
            ("TargetName", "iqn.b"),
        ]
        await peer.send(peer.text_response(request, *records))
        await peer.send(peer.logout_response(await peer.expect(LogoutRequest, reason=0)))
        found = await task
        assert [target.name for target in found] == ["iqn.a", "iqn.b"]
        assert [len(target.addresses) for target in found] == [2, 0]


@scripted
async def test_the_first_numbers_are_those_of_the_login() -> None:
    """The first command carries the CmdSN of the login, and ExpStatSN follows the StatSN of its response.

    UNH-IOL CHAP-I login-numbers
    RFC 7143 11.12.8, 11.12.9, 11.13.4
    """
    async with logged_in() as (session, peer):
        assert peer.stat_sn == 0x101  # the script began at 0x100, and RawTarget checks both on every PDU
        await peer.assert_alive(session)
