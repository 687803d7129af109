"""UNH-IOL full feature phase for initiators, chapters 7 and 19: rejects, lost connections, reassignment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from iscsi_target.errors import ConnectionLost, TaskAborted
from iscsi_target.initiator import Reconnection
from iscsi_target.wire.opcodes import LogoutReason, RejectReason, TaskFunction, TaskResponse
from iscsi_target.wire.requests import (
    LoginRequest,
    LogoutRequest,
    NopOut,
    ScsiCommandPdu,
    TaskManagementRequest,
    TextRequest,
)
from tests.iscsi_target.rules.initiator_rig import asking, fails, logged_in, reading, scripted, serving
from tests.iscsi_target.rules.raw_initiator import BLOCK, pattern


@pytest.mark.parametrize(
    "reason",
    [RejectReason.PROTOCOL_ERROR, RejectReason.COMMAND_NOT_SUPPORTED, RejectReason.INVALID_PDU_FIELD],
)
@scripted
async def test_a_reject_fails_the_request_that_it_names_and_no_other(reason: RejectReason) -> None:
    """A Reject ends the command whose header it carries; what else is under way goes on.

    UNH-IOL FFP-I reject
    RFC 7143 11.17, 11.17.4, 7.3
    """
    async with logged_in() as (session, peer):
        one = asking(session)
        rejected = await peer.expect(ScsiCommandPdu)
        other = reading(session)
        command = await peer.expect(ScsiCommandPdu, read=True)
        await peer.send(peer.reject(rejected, reason))
        await fails(one, TaskAborted, f"{reason:#04x}")
        await peer.send(peer.data_in(command, bytes(BLOCK), last=True))
        assert await other == bytes(BLOCK)
        await peer.assert_alive(session)


@scripted
async def test_a_reject_of_a_request_ends_its_wait() -> None:
    """A rejected text or ping fails at once instead of waiting for the time-out.

    UNH-IOL FFP-I reject
    RFC 7143 11.17
    """
    async with logged_in() as (session, peer):
        text = asyncio.create_task(session.text(("SendTargets", "All")))
        await peer.send(peer.reject(await peer.expect(TextRequest), RejectReason.PROTOCOL_ERROR))
        await fails(text, TaskAborted, "rejected")
        ping = asyncio.create_task(session.nop())
        await peer.send(peer.reject(await peer.expect(NopOut), RejectReason.COMMAND_NOT_SUPPORTED))
        await fails(ping, TaskAborted, "rejected")
        await peer.assert_alive(session)


@scripted
async def test_a_task_is_reassigned_when_its_connection_is_lost() -> None:
    """At level 2 a lost connection is made anew (same CID and TSIH) and the task reassigned with TASK REASSIGN.

    UNH-IOL FFP-I 7.1, 19.5
    RFC 7143 6.3.4, 7.2.2, 11.5.1, 11.5.6
    """
    data = pattern(2 * BLOCK)
    async with serving(error_recovery_level=2) as (session, peer, server):
        task = reading(session, 2)
        command = await peer.expect(ScsiCommandPdu)
        await peer.send(peer.data_in(command, data[:BLOCK], 0, 0))
        await peer.send(peer.nop_in(target_transfer_tag=8))
        await peer.expect(NopOut, target_transfer_tag=8)  # it has the first half
        peer.close()
        again = await server.accept()
        login = await again.log_in()
        assert (login.tsih, login.cid) == (1, 0)
        reassign = await again.expect(
            TaskManagementRequest,
            function=TaskFunction.TASK_REASSIGN,
            referenced_task_tag=command.initiator_task_tag,
            exp_data_sn=1,
        )
        await again.send(again.task_management_response(reassign))
        await again.send(again.data_in(command, data[BLOCK:], 1, BLOCK, last=True))
        assert await task == data
        await again.assert_alive(session)


@scripted
async def test_a_task_moves_to_another_connection_after_a_logout_for_recovery() -> None:
    """With a second connection the lost one is removed for recovery and its task reassigned to the one that is left.

    UNH-IOL FFP-I 7.1, 19.5
    RFC 7143 7.2.2, 11.14.1
    """
    options = {"max_connections": 2, "reconnection": Reconnection(to_another=True)}
    async with serving(error_recovery_level=2, max_connections=2, options=options) as (session, peer, server):
        adding = asyncio.create_task(session.add_connection(1))
        second = await server.accept()
        await second.log_in()
        await adding
        task = asking(session, connection=1)
        command = await second.expect(ScsiCommandPdu)
        second.close()
        logout = await peer.expect(LogoutRequest, reason=LogoutReason.REMOVE_FOR_RECOVERY, cid=1)
        await peer.send(peer.logout_response(logout))
        reassign = await peer.expect(
            TaskManagementRequest,
            function=TaskFunction.TASK_REASSIGN,
            referenced_task_tag=command.initiator_task_tag,
        )
        await peer.send(peer.task_management_response(reassign), peer.response(command))
        await task
        await peer.assert_alive(session)


@scripted
async def test_a_task_that_the_target_lost_fails() -> None:
    """When TASK REASSIGN is answered "no such task", and the command had been received, it fails; the session goes on.

    UNH-IOL FFP-I 7.1
    RFC 7143 11.6.1, 7.2.2
    """
    async with serving(error_recovery_level=2) as (session, peer, server):
        task = asking(session)
        await peer.expect(ScsiCommandPdu)
        await peer.send(peer.nop_in())  # ExpCmdSN confirms it
        await peer.send(peer.nop_in(target_transfer_tag=9))
        await peer.expect(NopOut, target_transfer_tag=9)
        peer.close()
        again = await server.accept()
        await again.log_in()
        reassign = await again.expect(TaskManagementRequest, function=TaskFunction.TASK_REASSIGN)
        await again.send(again.task_management_response(reassign, TaskResponse.TASK_DOES_NOT_EXIST))
        await fails(task, TaskAborted)
        await again.assert_alive(session)


@scripted
async def test_below_level_2_a_lost_connection_ends_the_session_cleanly() -> None:
    """Below level 2 a lost connection fails what is under way and all that comes after; nothing hangs.

    UNH-IOL FFP-I connection-lost
    RFC 7143 7.14, 7.15
    """
    async with logged_in(error_recovery_level=1) as (session, peer):
        tasks: list[asyncio.Task[Any]] = [
            asking(session),
            asyncio.create_task(session.nop()),
        ]
        for _ in tasks:
            await peer.receive()
        peer.close()
        for task in tasks:
            await fails(task, ConnectionLost)
        await fails(session.text(("SendTargets", "")), ConnectionLost)


@scripted
async def test_a_lost_session_is_made_anew_where_that_is_wanted() -> None:
    """Where the policy wants it a lost session is reinstated under the same ISID with TSIH 0, and commands go on.

    UNH-IOL FFP-I session-reinstatement
    RFC 7143 6.3.5, 7.1.5
    """
    options = {"reconnection": Reconnection(sessions=True)}
    async with serving(options=options) as (session, peer, server):
        peer.close()
        again = await server.accept()
        login: LoginRequest = await again.log_in()
        assert login.tsih == 0
        await again.assert_alive(session)
