"""UNH-IOL full feature phase for initiators, chapters 14, 17 and 20: asynchronous messages, logout, nonsense."""

from __future__ import annotations

import asyncio

import pytest

from iscsi_target.errors import ConnectionLost
from iscsi_target.wire.codec import encode_pdu
from iscsi_target.wire.opcodes import RESERVED_TAG, AsyncEvent, LogoutReason, Opcode
from iscsi_target.wire.requests import LogoutRequest, ScsiCommandPdu, TextRequest
from tests.iscsi_target.rules.initiator_rig import asking, fails, logged_in, scripted, serving


@scripted
async def test_a_requested_logout_is_made() -> None:
    """Async event 1 on the only connection: commands under way may end, then the session is logged out.

    UNH-IOL FFP-I 14.1, 20.1
    RFC 7143 11.9.1, 11.14
    """
    async with logged_in() as (session, peer):
        task = asking(session)
        command = await peer.expect(ScsiCommandPdu)
        await peer.send(peer.async_message(AsyncEvent.LOGOUT_REQUESTED, 0, 0, 5))
        await peer.send(peer.response(command))
        assert await task == 0
        logout = await peer.expect(LogoutRequest, reason=LogoutReason.CLOSE_SESSION)
        await peer.send(peer.logout_response(logout))
        await peer.expect_closed()
        await fails(session.nop(), ConnectionLost)


@scripted
async def test_a_requested_logout_of_one_connection_leaves_the_other() -> None:
    """Async event 1 on one of two connections: that one is logged out, and the session goes on with the other.

    UNH-IOL FFP-I 14.2
    RFC 7143 11.9.1, 11.14.1
    """
    async with serving(max_connections=2, options={"max_connections": 2}) as (session, peer, server):
        adding = asyncio.create_task(session.add_connection(1))
        second = await server.accept()
        await second.log_in()
        await adding
        await second.send(second.async_message(AsyncEvent.LOGOUT_REQUESTED, 0, 0, 5))
        logout = await second.expect(LogoutRequest, reason=LogoutReason.CLOSE_CONNECTION, cid=1)
        await second.send(second.logout_response(logout))
        await second.expect_closed()
        assert session.connections == (0,)
        await peer.assert_alive(session)


@scripted
async def test_a_dropped_connection_is_given_up() -> None:
    """Async event 2 for the connection: what was under way on it fails and the connection is closed.

    UNH-IOL FFP-I 20.2
    RFC 7143 11.9.1, 7.14
    """
    async with logged_in() as (session, peer):
        task = asking(session)
        await peer.expect(ScsiCommandPdu)
        await peer.send(peer.async_message(AsyncEvent.CONNECTION_DROPPED, 0, 0, 0))
        await fails(task, ConnectionLost, "dropped")
        await peer.expect_closed()


@scripted
async def test_a_dropped_session_is_given_up() -> None:
    """Async event 3: every connection of the session is closed, and everything under way fails.

    UNH-IOL FFP-I 20.3
    RFC 7143 11.9.1, 7.15
    """
    async with serving(max_connections=2, options={"max_connections": 2}) as (session, peer, server):
        adding = asyncio.create_task(session.add_connection(1))
        second = await server.accept()
        await second.log_in()
        await adding
        task = asking(session, connection=1)
        await second.expect(ScsiCommandPdu)
        await peer.send(peer.async_message(AsyncEvent.SESSION_DROPPED, 0, 0, 0))
        await fails(task, ConnectionLost, "dropped")
        await peer.expect_closed()
        await second.expect_closed()


@scripted
async def test_a_requested_negotiation_is_held() -> None:
    """Async event 4: the initiator starts a text negotiation within the time that it is given.

    UNH-IOL FFP-I 20.4
    RFC 7143 11.9.1, 6.4
    """
    async with logged_in() as (session, peer):
        await peer.send(peer.async_message(AsyncEvent.NEGOTIATION_REQUESTED, 0, 0, 5))
        request = await peer.expect(TextRequest, target_transfer_tag=RESERVED_TAG)
        assert request.data.startswith(b"MaxRecvDataSegmentLength=")
        await peer.send(peer.text_response(request))
        await peer.assert_alive(session)


@pytest.mark.parametrize("event", [AsyncEvent.SCSI_EVENT, AsyncEvent.VENDOR_SPECIFIC, 77])
@scripted
async def test_other_messages_are_kept_for_who_asks(event: AsyncEvent) -> None:
    """SCSI events, vendors' events and unknown ones are noted, number a status, and disturb nothing.

    UNH-IOL FFP-I async-other
    RFC 7143 11.9.1
    """
    async with logged_in() as (session, peer):
        await peer.send(peer.async_message(event))
        await peer.assert_alive(session)
        assert [message.pdu.async_event for message in session.async_messages] == [event]


@scripted
async def test_a_logout_closes_the_session_in_order() -> None:
    """The session ends with a logout; the connection is closed after the answer, not before.

    UNH-IOL FFP-I 17.1
    RFC 7143 11.14, 11.14.1, 4.2.6
    """
    async with logged_in() as (session, peer):
        leaving = asyncio.create_task(session.logout())
        logout = await peer.expect(LogoutRequest, reason=LogoutReason.CLOSE_SESSION)
        assert not leaving.done()
        await peer.send(peer.logout_response(logout))
        await leaving
        await peer.expect_closed()


@pytest.mark.parametrize("opcode", [Opcode.NOP_OUT, Opcode.SCSI_COMMAND, Opcode.LOGIN_RESPONSE, 0x2F, 0x3C])
@scripted
async def test_a_pdu_that_no_target_sends_ends_the_connection(opcode: int) -> None:
    """A PDU that has no place, or an opcode that nobody defined, is a protocol error: the connection ends.

    UNH-IOL FFP-I opcode
    RFC 7143 7.13, 7.7, 11.2.1.2
    """
    async with logged_in() as (session, peer):
        task = asking(session)
        await peer.expect(ScsiCommandPdu)
        await peer.send_bytes(bytes((opcode, 0x80)) + encode_pdu(peer.nop_in())[2:])
        await fails(task, ConnectionLost)
        await peer.expect_closed()


@scripted
async def test_a_segment_beyond_the_declared_length_ends_the_connection() -> None:
    """A data segment longer than the initiator's MaxRecvDataSegmentLength ends the connection at once.

    UNH-IOL FFP-I segment-length
    RFC 7143 7.7, 13.12
    """
    async with logged_in() as (session, peer):
        task = asking(session)
        await peer.expect(ScsiCommandPdu)
        header = bytearray(encode_pdu(peer.nop_in()))
        header[5:8] = (8193).to_bytes(3, "big")
        await peer.send_bytes(bytes(header))
        await fails(task, ConnectionLost, "8193")
        await peer.expect_closed()
