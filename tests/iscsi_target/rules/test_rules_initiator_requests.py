"""UNH-IOL full feature phase for initiators, chapters 15, 18 and 19: NOP, text, task management."""

from __future__ import annotations

import asyncio

import pytest

from iscsi_target.errors import ConnectionLost, TaskAborted
from iscsi_target.wire.lun import lun_to_bytes
from iscsi_target.wire.opcodes import RESERVED_TAG, TaskFunction
from iscsi_target.wire.requests import NopOut, ScsiCommandPdu, TaskManagementRequest, TextRequest
from tests.iscsi_target.rules.initiator_rig import asking, fails, logged_in, scripted
from tests.iscsi_target.rules.raw_initiator import pattern


@pytest.mark.parametrize("size", [0, 1, 4, 1000])
@scripted
async def test_a_ping_of_the_target_is_answered(size: int) -> None:
    """NOP-In with a transfer tag is answered: immediate, reserved task tag, same transfer tag, LUN and data.

    UNH-IOL FFP-I 15.1
    RFC 7143 11.18, 11.18.1, 11.18.2, 11.19
    """
    async with logged_in() as (session, peer):
        await peer.send(peer.nop_in(target_transfer_tag=0x99, lun=lun_to_bytes(3), data=pattern(size)))
        await peer.expect(
            NopOut,
            immediate=True,
            initiator_task_tag=RESERVED_TAG,
            target_transfer_tag=0x99,
            lun=lun_to_bytes(3),
            data=pattern(size),
        )
        await peer.assert_alive(session)


@scripted
async def test_a_ping_carries_a_task_tag_and_gets_its_echo() -> None:
    """NOP-Out as a ping has a task tag of its own and the reserved transfer tag; the echo reaches the caller.

    UNH-IOL FFP-I 15.2
    RFC 7143 11.18, 11.18.1, 11.18.2
    """
    async with logged_in() as (session, peer):
        task = asyncio.create_task(session.nop(b"echo"))
        ping = await peer.expect(NopOut, target_transfer_tag=RESERVED_TAG, data=b"echo")
        assert ping.initiator_task_tag != RESERVED_TAG
        await peer.send(peer.nop_in(ping))
        assert await task == b"echo"
        await peer.assert_alive(session)


@scripted
async def test_what_came_is_confirmed_by_exp_stat_sn() -> None:
    """Every PDU that goes out confirms with ExpStatSN the statuses that have come.

    UNH-IOL FFP-I 15.3
    RFC 7143 11.18, 4.2.2.2, 11.3.3
    """
    async with logged_in() as (session, peer):
        for _ in range(3):
            task = asking(session)
            await peer.send(peer.response(await peer.expect(ScsiCommandPdu)))
            await task
            await peer.send(peer.nop_in(target_transfer_tag=1))
            await peer.expect(NopOut, exp_stat_sn=peer.stat_sn)


@scripted
async def test_a_nop_in_that_only_tells_the_window_is_not_answered() -> None:
    """NOP-In with both tags reserved is not answered.

    UNH-IOL FFP-I nop-in-bare
    RFC 7143 11.19
    """
    async with logged_in() as (session, peer):
        await peer.send(peer.nop_in(), peer.nop_in())
        await peer.assert_alive(session)


@scripted
async def test_an_answer_to_no_ping_is_ignored() -> None:
    """NOP-In with a task tag that no ping has changes nothing.

    UNH-IOL FFP-I nop-in-unknown
    RFC 7143 11.19.1
    """
    async with logged_in() as (session, peer):
        await peer.send(peer.nop_in(initiator_task_tag=0xBEEF, **peer.numbers()))
        await peer.assert_alive(session)


@scripted
async def test_a_text_request_begins_an_exchange() -> None:
    """A text has F, the reserved transfer tag, null-ended key=value pairs, and numbers as every request.

    UNH-IOL FFP-I 18.1, 18.3.1, 18.4
    RFC 7143 11.10, 11.10.1, 11.10.4, 6.1
    """
    async with logged_in() as (session, peer):
        task = asyncio.create_task(session.text(("SendTargets", ""), ("X-net.example.key", "1")))
        request = await peer.expect(
            TextRequest,
            final=True,
            continue_=False,
            target_transfer_tag=RESERVED_TAG,
            data=b"SendTargets=\0X-net.example.key=1\0",
            cmd_sn=peer.session.exp_cmd_sn,
            exp_stat_sn=peer.stat_sn,
        )
        await peer.send(peer.text_response(request, ("X-net.example.key", "NotUnderstood")))
        assert await task == [("X-net.example.key", "NotUnderstood")]
        await peer.assert_alive(session)


@scripted
async def test_each_exchange_has_a_task_tag_of_its_own() -> None:
    """Text requests that are under way, one after the other, have different task tags and start anew.

    UNH-IOL FFP-I 18.2, 18.5
    RFC 7143 11.10.3, 11.10.4
    """
    async with logged_in() as (session, peer):
        tags = []
        for _ in range(3):
            task = asyncio.create_task(session.text(("SendTargets", "")))
            request = await peer.expect(TextRequest, target_transfer_tag=RESERVED_TAG)
            tags.append(request.initiator_task_tag)
            await peer.send(peer.text_response(request))
            await task
        assert len(set(tags)) == 3
        await peer.assert_alive(session)


@scripted
async def test_a_continued_answer_is_fetched_to_its_end() -> None:
    """While answers come without F the rest is fetched with empty texts that carry task tag, transfer tag and LUN.

    UNH-IOL FFP-I 18.3.2
    RFC 7143 11.10.4, 11.11.2, 11.11.4
    """
    whole = b"".join(b"TargetName=iqn.2026-11.example:%d\0" % number for number in range(50))
    async with logged_in() as (session, peer):
        task = asyncio.create_task(session.text(("SendTargets", "All")))
        request = await peer.expect(TextRequest)
        for start in range(0, len(whole), 600):
            more = start + 600 < len(whole)
            await peer.send(
                peer.text_response(
                    request,
                    data=whole[start : start + 600],
                    final=not more,
                    continue_=more,
                    target_transfer_tag=0x31 if more else RESERVED_TAG,
                    lun=lun_to_bytes(0),
                )
            )
            if more:
                request = await peer.expect(
                    TextRequest,
                    initiator_task_tag=request.initiator_task_tag,
                    target_transfer_tag=0x31,
                    data=b"",
                )
        assert len(await task) == 50
        await peer.assert_alive(session)


@scripted
async def test_an_answer_without_end_is_given_up() -> None:
    """A text answer that never ends is bounded: the connection ends instead of the memory.

    UNH-IOL FFP-I text-endless
    RFC 7143 7.13, 11.11.2
    """
    async with logged_in() as (session, peer):
        task = asyncio.create_task(session.text(("SendTargets", "All")))
        request = await peer.expect(TextRequest)
        chunk = b"TargetName=" + b"x" * 200 + b"\0"
        with pytest.raises((AssertionError, asyncio.IncompleteReadError, ConnectionError)):
            for _ in range(5000):
                await peer.send(
                    *[
                        peer.text_response(
                            request, data=chunk * 38, final=False, continue_=True, target_transfer_tag=1
                        )
                    ]
                    * 1
                )
                await peer.expect(TextRequest)
        await fails(task, ConnectionLost, "text")


@scripted
async def test_task_management_names_the_unit_and_the_command() -> None:
    """A function carries the LUN, for ABORT TASK the task tag and CmdSN of the command, and is immediate.

    UNH-IOL FFP-I 19.2, 19.3
    RFC 7143 11.5.3, 11.5.4, 11.5.5
    """
    async with logged_in() as (session, peer):
        late = asking(session, timeout_s=0.05)
        command = await peer.expect(ScsiCommandPdu)
        abort = await peer.expect(
            TaskManagementRequest,
            function=TaskFunction.ABORT_TASK,
            immediate=True,
            lun=command.lun,
            referenced_task_tag=command.initiator_task_tag,
            ref_cmd_sn=command.cmd_sn,
        )
        await fails(late, TimeoutError)
        await peer.send(peer.task_management_response(abort))
        reset = asyncio.create_task(session.task_management(TaskFunction.LOGICAL_UNIT_RESET, 5))
        request = await peer.expect(
            TaskManagementRequest,
            function=TaskFunction.LOGICAL_UNIT_RESET,
            lun=lun_to_bytes(5),
            referenced_task_tag=RESERVED_TAG,
        )
        await peer.send(peer.task_management_response(request, 2))
        assert await reset == 2
        await peer.assert_alive(session)


@scripted
async def test_abort_task_set_ends_the_commands_of_the_unit() -> None:
    """With the response to ABORT TASK SET every command sent before it to that LUN is over, and no other.

    UNH-IOL FFP-I 19.4.1, 19.4.3
    RFC 7143 11.5.1, 4.2.3.3
    """
    async with logged_in() as (session, peer):
        tasks = [asking(session) for _ in range(3)]
        commands = [await peer.expect(ScsiCommandPdu) for _ in tasks]
        other = asking(session, 1)
        elsewhere = await peer.expect(ScsiCommandPdu, lun=lun_to_bytes(1))
        function = asyncio.create_task(session.task_management(TaskFunction.ABORT_TASK_SET, 0))
        request = await peer.expect(TaskManagementRequest, function=TaskFunction.ABORT_TASK_SET)
        await peer.send(peer.response(commands[1]))  # ended before the abort took effect
        assert await tasks[1] == 0
        await peer.send(peer.task_management_response(request))
        assert await function == 0
        await fails(tasks[0], TaskAborted)
        await fails(tasks[2], TaskAborted)
        assert not other.done()
        await peer.send(peer.response(elsewhere))
        await other
        await peer.assert_alive(session)


@scripted
async def test_commands_after_abort_task_set_are_not_ended_by_it() -> None:
    """A command that is sent after ABORT TASK SET is not taken for one of those it ends.

    UNH-IOL FFP-I 19.4.2
    RFC 7143 4.2.3.2, 4.2.3.3
    """
    async with logged_in() as (session, peer):
        before = asking(session)
        await peer.expect(ScsiCommandPdu)
        function = asyncio.create_task(session.task_management(TaskFunction.ABORT_TASK_SET, 0))
        request = await peer.expect(TaskManagementRequest)
        after = asking(session)
        command = await peer.expect(ScsiCommandPdu)
        await peer.send(peer.task_management_response(request))
        assert await function == 0
        await fails(before, TaskAborted)
        assert not after.done()
        await peer.send(peer.response(command))
        assert await after == 0
        await peer.assert_alive(session)
