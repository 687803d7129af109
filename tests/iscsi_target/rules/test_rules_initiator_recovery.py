"""UNH-IOL full feature phase for initiators, chapters 4, 5, 10, 13 and 16: what is lost or damaged on the way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from iscsi_target.errors import ConnectionLost, TaskAborted
from iscsi_target.wire.opcodes import RejectReason, SnackType, TaskFunction, TaskResponse
from iscsi_target.wire.requests import (
    DataOut,
    ScsiCommandPdu,
    SnackRequest,
    TaskManagementRequest,
    TextRequest,
)
from tests.iscsi_target.rules.initiator_rig import asking, fails, logged_in, reading, scripted, writing
from tests.iscsi_target.rules.raw_initiator import BLOCK, pattern

DIGESTS: dict[str, Any] = {"header_digest": ("CRC32C",), "data_digest": ("CRC32C",)}


@scripted
async def test_a_rejected_command_is_sent_again_with_its_cmd_sn() -> None:
    """A command rejected for its data digest left a gap in CmdSN: it is sent again with the same CmdSN and task tag.

    UNH-IOL FFP-I 4.1
    RFC 7143 7.2.1, 7.8
    """
    async with logged_in(error_recovery_level=1, immediate_data=True, **DIGESTS) as (session, peer):
        task = writing(session, pattern(BLOCK))
        command = await peer.expect(ScsiCommandPdu, data=pattern(BLOCK))
        peer.session.exp_cmd_sn = command.cmd_sn  # not taken
        await peer.send(peer.reject(command, RejectReason.DATA_DIGEST_ERROR))
        again = await peer.expect(
            ScsiCommandPdu,
            cmd_sn=command.cmd_sn,
            initiator_task_tag=command.initiator_task_tag,
            cdb=command.cdb,
            data=command.data,
        )
        await peer.send(peer.response(again))
        assert await task == 0
        await peer.assert_alive(session)


@scripted
async def test_a_rejected_text_is_sent_again_with_its_cmd_sn() -> None:
    """A text rejected for its data digest is sent again with the same CmdSN and task tag.

    UNH-IOL FFP-I 4.1
    RFC 7143 7.2.1, 7.8
    """
    async with logged_in(error_recovery_level=1, **DIGESTS) as (session, peer):
        task = asyncio.create_task(session.text(("SendTargets", "")))
        request = await peer.expect(TextRequest)
        peer.session.exp_cmd_sn = request.cmd_sn
        await peer.send(peer.reject(request, RejectReason.DATA_DIGEST_ERROR))
        again = await peer.expect(
            TextRequest,
            cmd_sn=request.cmd_sn,
            initiator_task_tag=request.initiator_task_tag,
            data=request.data,
        )
        await peer.send(peer.text_response(again, ("TargetName", "iqn.x")))
        assert await task == [("TargetName", "iqn.x")]
        await peer.assert_alive(session)


@scripted
async def test_rejected_data_out_wait_for_the_target() -> None:
    """Data-Out rejected for their digest do not end the command: the target asks again, and gets them again.

    UNH-IOL FFP-I data-out-rejected
    RFC 7143 7.8, 7.3
    """
    async with logged_in(error_recovery_level=1, **DIGESTS) as (session, peer):
        task = writing(session, pattern(BLOCK))
        command = await peer.expect(ScsiCommandPdu)
        await peer.send(peer.r2t(command, 0, BLOCK))
        spoilt = await peer.expect(DataOut)
        await peer.send(
            peer.reject(spoilt, RejectReason.DATA_DIGEST_ERROR),
            peer.r2t(command, 0, BLOCK, r2t_sn=1, tag=0x78),
        )
        await peer.expect(DataOut, data=pattern(BLOCK), target_transfer_tag=0x78, data_sn=0)
        await peer.send(peer.response(command))
        assert await task == 0
        await peer.assert_alive(session)


@scripted
async def test_a_gap_in_stat_sn_is_asked_for() -> None:
    """At level 1 a StatSN that shows missing statuses leads to a Status SNACK for exactly those.

    UNH-IOL FFP-I 5.1
    RFC 7143 4.2.2.2, 7.9, 11.16.1
    """
    async with logged_in(error_recovery_level=1) as (session, peer):
        tasks = [asking(session) for _ in range(3)]
        commands = [await peer.expect(ScsiCommandPdu) for _ in tasks]
        first, second, third = [peer.response(command) for command in commands]
        await peer.send(third)
        await peer.expect(SnackRequest, type_=SnackType.STATUS, beg_run=first.stat_sn, run_length=2)
        await tasks[2]
        await peer.send(second, first)
        await asyncio.gather(*tasks)
        await peer.assert_alive(session)


@pytest.mark.parametrize("ahead", [1, 5, 0x40000000])
@scripted
async def test_a_gap_in_stat_sn_at_level_0_ends_the_session(ahead: int) -> None:
    """At level 0 a StatSN that shows missing statuses cannot be mended: the session is given up.

    UNH-IOL FFP-I 5.1
    RFC 7143 7.9, 7.1.5
    """
    async with logged_in() as (session, peer):
        task = asking(session)
        command = await peer.expect(ScsiCommandPdu)
        await peer.send(peer.response(command, stat_sn=(peer.stat_sn + ahead) & 0xFFFFFFFF))
        await fails(task, ConnectionLost, "StatSN")
        await peer.expect_closed()


@scripted
async def test_a_status_that_came_already_is_ignored() -> None:
    """A status with a StatSN that was taken already is a duplicate: at level 1 it is dropped.

    UNH-IOL FFP-I duplicate-status
    RFC 7143 7.9, 4.2.2.2
    """
    async with logged_in(error_recovery_level=1) as (session, peer):
        task = asking(session)
        response = peer.response(await peer.expect(ScsiCommandPdu))
        await peer.send(response, response)
        await task
        await peer.assert_alive(session)


@scripted
async def test_data_in_that_are_missing_are_asked_for() -> None:
    """At level 1 a gap in DataSN leads to a Data SNACK for exactly the missing run; the data arrive whole.

    UNH-IOL FFP-I 13.1
    RFC 7143 7.9, 11.16.1, 11.16.6, 11.16.7
    """
    data = pattern(4 * BLOCK)
    async with logged_in(error_recovery_level=1) as (session, peer):
        task = reading(session, 4)
        command = await peer.expect(ScsiCommandPdu)
        pieces = [
            peer.data_in(command, data[i * BLOCK : (i + 1) * BLOCK], i, i * BLOCK, last=i == 3)
            for i in range(4)
        ]
        await peer.send(pieces[0], pieces[3])
        await peer.expect(
            SnackRequest,
            type_=SnackType.DATA_OR_R2T,
            initiator_task_tag=command.initiator_task_tag,
            beg_run=1,
            run_length=2,
        )
        assert not task.done()
        await peer.send(pieces[2], pieces[1])
        assert await task == data
        await peer.assert_alive(session)


@scripted
async def test_data_in_with_a_wrong_digest_are_asked_for() -> None:
    """At level 1 a Data-In with a wrong data digest is dropped and asked for with a SNACK.

    UNH-IOL FFP-I 13.1
    RFC 7143 7.8, 11.16.1
    """
    data = pattern(2 * BLOCK)
    async with logged_in(error_recovery_level=1, **DIGESTS) as (session, peer):
        task = reading(session, 2)
        command = await peer.expect(ScsiCommandPdu)
        bad = peer.data_in(command, data[:BLOCK], 0, 0)
        await peer.send(bad, spoil="data")
        await peer.expect(SnackRequest, type_=SnackType.DATA_OR_R2T, beg_run=0, run_length=1)
        await peer.send(bad, peer.data_in(command, data[BLOCK:], 1, BLOCK, last=True))
        assert await task == data
        await peer.assert_alive(session)


@scripted
async def test_an_a_bit_is_answered_by_a_data_ack() -> None:
    """At level 1 the A bit of a Data-In is answered with a DataACK for its tag, when all before it has come.

    UNH-IOL FFP-I 10.2, 13.2
    RFC 7143 11.7.2, 11.16.2
    """
    async with logged_in(error_recovery_level=1) as (session, peer):
        task = reading(session, 2)
        command = await peer.expect(ScsiCommandPdu)
        await peer.send(
            peer.data_in(command, bytes(BLOCK), 0, 0, final=True, acknowledge=True, target_transfer_tag=0x55)
        )
        await peer.expect(
            SnackRequest, type_=SnackType.DATA_ACK, target_transfer_tag=0x55, beg_run=1, run_length=0
        )
        await peer.send(peer.data_in(command, bytes(BLOCK), 1, BLOCK, last=True))
        assert await task == bytes(2 * BLOCK)
        await peer.assert_alive(session)


@scripted
async def test_a_rejected_snack_ends_the_command_and_not_the_session() -> None:
    """When a SNACK is rejected the data are not to be had: the command fails, is aborted, and the session goes on.

    UNH-IOL FFP-I 16.4.2
    RFC 7143 7.3, 11.16, 11.17.1
    """
    async with logged_in(error_recovery_level=1) as (session, peer):
        task = reading(session, 3)
        command = await peer.expect(ScsiCommandPdu)
        await peer.send(
            peer.data_in(command, bytes(BLOCK), 0, 0),
            peer.data_in(command, bytes(BLOCK), 2, 2 * BLOCK, last=True),
        )
        snack = await peer.expect(SnackRequest, type_=SnackType.DATA_OR_R2T)
        await peer.send(peer.reject(snack, RejectReason.SNACK_REJECT))
        await fails(task, TaskAborted, "rejected")
        abort = await peer.expect(
            TaskManagementRequest,
            function=TaskFunction.ABORT_TASK,
            referenced_task_tag=command.initiator_task_tag,
        )
        await peer.send(peer.task_management_response(abort, TaskResponse.TASK_DOES_NOT_EXIST))
        await peer.assert_alive(session)


@pytest.mark.parametrize("level", [0, 1])
@scripted
async def test_a_wrong_header_digest_ends_the_connection(level: int) -> None:
    """A PDU with a wrong header digest cannot be trusted, nor what follows: the connection ends.

    UNH-IOL FFP-I header-digest
    RFC 7143 7.8, 13.1
    """
    async with logged_in(error_recovery_level=level, **DIGESTS) as (session, peer):
        task = reading(session)
        command = await peer.expect(ScsiCommandPdu)
        await peer.send(peer.data_in(command, bytes(BLOCK), last=True), spoil="header")
        await fails(task, ConnectionLost, "header digest")
        await peer.expect_closed()


@scripted
async def test_data_with_a_wrong_digest_at_level_0_are_not_delivered() -> None:
    """At level 0 Data-In with a wrong data digest end the session; the caller never sees them.

    UNH-IOL FFP-I data-digest
    RFC 7143 7.8, 7.1.5
    """
    async with logged_in(**DIGESTS) as (session, peer):
        task = reading(session)
        command = await peer.expect(ScsiCommandPdu)
        await peer.send(peer.data_in(command, bytes(BLOCK), last=True), spoil="data")
        await fails(task, ConnectionLost, "data digest")
        await peer.expect_closed()
