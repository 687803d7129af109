"""UNH-IOL full feature phase for initiators, chapters 1 to 3 and 16: numbering, the command window, statuses."""

from __future__ import annotations

import asyncio

import pytest

from iscsi_target.errors import CommandFailed, ConnectionLost
from iscsi_target.wire.requests import NopOut, ScsiCommandPdu, TaskManagementRequest
from tests.iscsi_target.rules.initiator_rig import asking, command_of, fails, logged_in, scripted, writing
from tests.iscsi_target.rules.raw_initiator import BLOCK, pattern, read_10


@scripted
async def test_each_command_takes_the_next_cmd_sn() -> None:
    """CmdSN goes up by one with each command that is not immediate, whatever its kind.

    UNH-IOL FFP-I 1.1
    RFC 7143 4.2.2.1
    """
    async with logged_in() as (session, peer):
        first = peer.session.exp_cmd_sn
        for number in range(5):
            task = asking(session)
            command = await command_of(peer)
            assert command.cmd_sn == first + number
            await peer.send(peer.response(command))
            await task
        await peer.assert_alive(session)


@scripted
async def test_an_immediate_command_takes_no_cmd_sn() -> None:
    """An immediate command carries the CmdSN that the next one will have, and goes out through a closed window too.

    UNH-IOL FFP-I 2.1
    RFC 7143 4.2.2.1, 11.2.1.1
    """
    async with logged_in(window=1) as (session, peer):
        peer.session.window = 0
        held = asking(session)
        closing = await command_of(peer)
        await peer.send(peer.response(closing))  # the window stays closed
        await held
        first = peer.session.exp_cmd_sn
        task = asking(session, immediate=True)
        command = await peer.expect(ScsiCommandPdu, immediate=True, cmd_sn=first)
        await peer.send(peer.response(command))
        await task
        peer.session.window = 32
        peer.session.move()
        await peer.send(peer.nop_in())
        await peer.assert_alive(session)


@scripted
async def test_immediate_task_management_takes_no_cmd_sn() -> None:
    """Task management goes out at once, immediate, also when the command window is closed.

    UNH-IOL FFP-I 2.2, 19.1
    RFC 7143 4.2.2.1, 11.5
    """
    async with logged_in(window=1) as (session, peer):
        peer.session.window = 0
        held = asking(session)
        command = await command_of(peer)
        late = asking(session)
        function = asyncio.create_task(session.task_management(2))
        request = await peer.expect(TaskManagementRequest, immediate=True, cmd_sn=command.cmd_sn + 1)
        peer.session.window = 32
        peer.session.move()
        await peer.send(peer.response(command))
        await held
        await peer.send(peer.response(await command_of(peer)))
        await late
        await peer.send(peer.task_management_response(request))
        assert await function == 0
        await peer.assert_alive(session)


@scripted
async def test_a_closed_window_holds_commands_back() -> None:
    """With MaxCmdSN = ExpCmdSN - 1 no command is sent until the window opens; then all go in order.

    UNH-IOL FFP-I 3.1
    RFC 7143 4.2.2.1
    """
    async with logged_in(window=1) as (session, peer):
        peer.session.window = 0
        first = asking(session)
        command = await command_of(peer)
        later = [asking(session) for _ in range(3)]
        await peer.send(peer.response(command))  # MaxCmdSN stays: closed
        await first
        await peer.send(peer.nop_in(target_transfer_tag=1))
        await peer.expect(NopOut, target_transfer_tag=1)  # immediate PDUs still come, commands do not
        peer.session.window = 3
        peer.session.move()
        await peer.send(peer.nop_in())
        for _ in later:
            await peer.send(peer.response(await command_of(peer)))
        await asyncio.gather(*later)
        await peer.assert_alive(session)


@scripted
async def test_a_large_window_is_used() -> None:
    """With a large window commands go out without waiting for the answers to those before.

    UNH-IOL FFP-I 3.2
    RFC 7143 4.2.2.1
    """
    async with logged_in(window=64) as (session, peer):
        tasks = [asking(session) for _ in range(64)]
        commands = [await command_of(peer) for _ in tasks]
        assert len({command.initiator_task_tag for command in commands}) == 64
        await peer.send(*[peer.response(command) for command in reversed(commands)])
        await asyncio.gather(*tasks)
        await peer.assert_alive(session)


@scripted
async def test_a_window_of_one_lets_one_command_through() -> None:
    """With a window of one the next command waits for the answer that moves the window.

    UNH-IOL FFP-I 3.3
    RFC 7143 4.2.2.1
    """
    async with logged_in(window=1) as (session, peer):
        peer.session.window = 0  # the window moves only when this test says so
        tasks = [asking(session) for _ in range(4)]
        for _ in tasks:
            command = await command_of(peer)
            await peer.send(peer.nop_in(target_transfer_tag=2))
            await peer.expect(NopOut, target_transfer_tag=2)  # and no second command
            peer.session.max_cmd_sn += 1
            await peer.send(peer.response(command))
        await asyncio.gather(*tasks)
        peer.session.window = 32
        peer.session.move()
        await peer.send(peer.nop_in())
        await peer.assert_alive(session)


@scripted
async def test_a_window_that_goes_back_or_contradicts_itself_is_ignored() -> None:
    """ExpCmdSN and MaxCmdSN that are older than those known, or MaxCmdSN before ExpCmdSN - 1, change nothing.

    UNH-IOL FFP-I window-back
    RFC 7143 4.2.2.1
    """
    async with logged_in(window=1) as (session, peer):
        peer.session.window = 0
        first = asking(session)
        command = await command_of(peer)
        now = peer.session.exp_cmd_sn
        late = asking(session)
        await peer.send(
            peer.nop_in(exp_cmd_sn=(now - 9) & 0xFFFFFFFF, max_cmd_sn=(now - 10) & 0xFFFFFFFF),
            peer.nop_in(exp_cmd_sn=now + 20, max_cmd_sn=now + 10),
        )
        for tag in (5, 6):
            await peer.send(peer.nop_in(target_transfer_tag=tag))
            await peer.expect(NopOut, target_transfer_tag=tag)  # and not the command that waits
        peer.session.window = 32
        peer.session.move()
        await peer.send(peer.response(command))
        await first
        await peer.send(peer.response(await command_of(peer)))
        await late
        await peer.assert_alive(session)


@scripted
async def test_the_window_of_a_response_holds() -> None:
    """MaxCmdSN in a SCSI Response opens the window as far as it says and no further.

    UNH-IOL FFP-I 16.5
    RFC 7143 11.4.11, 4.2.2.1
    """
    async with logged_in(window=2) as (session, peer):
        peer.session.window = 0
        tasks = [asking(session) for _ in range(6)]
        commands = [await command_of(peer), await command_of(peer)]
        peer.session.max_cmd_sn += 3
        await peer.send(peer.response(commands[0]))
        commands += [await command_of(peer) for _ in range(3)]
        await peer.send(peer.nop_in(target_transfer_tag=3))
        await peer.expect(NopOut, target_transfer_tag=3)
        peer.session.max_cmd_sn += 1
        await peer.send(peer.response(commands[1]))
        commands.append(await command_of(peer))
        await peer.send(*[peer.response(command) for command in commands[2:]])
        await asyncio.gather(*tasks)


def sense(key: int, code: int) -> bytes:
    fixed = bytes((0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code >> 8, code & 0xFF, 0, 0, 0, 0))
    return len(fixed).to_bytes(2, "big") + fixed


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(0x4705, id="protocol service CRC error"),
        pytest.param(0x0C0C, id="unexpected unsolicited data"),
        pytest.param(0x0C0D, id="not enough unsolicited data"),
    ],
)
@scripted
async def test_a_check_condition_reaches_the_caller_with_its_sense(code: int) -> None:
    """What the target found wrong with the data reaches the caller as the sense data say it; the session goes on.

    UNH-IOL FFP-I 16.4.1, 16.4.3, 16.4.4
    RFC 7143 11.4.7.2, 11.4.2
    """
    async with logged_in() as (session, peer):
        task = writing(session, pattern(BLOCK))
        await peer.send(peer.response(await command_of(peer), status=2, data=sense(0x0B, code)))
        error = await fails(task, CommandFailed)
        assert isinstance(error, CommandFailed)
        assert (error.status, error.sense) == (2, sense(0x0B, code)[2:])
        await peer.assert_alive(session)


@pytest.mark.parametrize(
    "status", [pytest.param(0x08, id="BUSY"), pytest.param(0x18, id="RESERVATION CONFLICT")]
)
@scripted
async def test_a_status_reaches_the_caller_and_the_command_can_be_sent_again(status: int) -> None:
    """BUSY and RESERVATION CONFLICT reach the caller, who may send the command again as a new one.

    UNH-IOL FFP-I 16.4.5, 16.4.6
    RFC 7143 11.4.2
    """
    async with logged_in() as (session, peer):
        task = asking(session)
        refused = await command_of(peer)
        await peer.send(peer.response(refused, status=status))
        error = await fails(task, CommandFailed)
        assert isinstance(error, CommandFailed)
        assert error.status == status
        again = asking(session)
        command = await peer.expect(ScsiCommandPdu, cmd_sn=refused.cmd_sn + 1)
        assert command.initiator_task_tag != refused.initiator_task_tag
        await peer.send(peer.response(command))
        await again
        await peer.assert_alive(session)


@pytest.mark.parametrize(
    ("received", "fields", "overflow", "underflow", "residual"),
    [
        (BLOCK, {"underflow": True, "residual_count": BLOCK}, False, True, BLOCK),
        (2 * BLOCK, {"overflow": True, "residual_count": 7 * BLOCK}, True, False, 7 * BLOCK),
        (0, {"underflow": True, "residual_count": 2 * BLOCK}, False, True, 2 * BLOCK),
    ],
    ids=["underflow", "overflow", "nothing"],
)
@scripted
async def test_a_residual_reaches_the_caller(
    received: int, fields: dict[str, int], overflow: bool, underflow: bool, residual: int
) -> None:
    """A residual count reaches the caller with its sign, and the data are no longer than what came.

    UNH-IOL FFP-I residuals
    RFC 7143 11.4.5.1
    """
    async with logged_in() as (session, peer):
        task = asyncio.create_task(session.execute(0, read_10(0, 2), data_in_length=2 * BLOCK))
        command = await command_of(peer)
        if received:
            await peer.send(peer.data_in(command, pattern(received), 0, 0, final=True))
        await peer.send(peer.response(command, exp_data_sn=1 if received else 0, **fields))
        answer = await task
        assert bytes(answer.data_in) == pattern(received)
        assert (answer.overflow, answer.underflow, answer.residual_count) == (overflow, underflow, residual)
        await peer.assert_alive(session)


@scripted
async def test_a_status_for_a_task_nobody_has_is_ignored() -> None:
    """A SCSI Response with a task tag that no command has ends no command; the session goes on.

    UNH-IOL FFP-I unknown-task
    RFC 7143 11.2.1.8, 7.9
    """
    async with logged_in() as (session, peer):
        task = asking(session)
        command = await command_of(peer)
        await peer.send(peer.response(command, initiator_task_tag=command.initiator_task_tag ^ 0x5555))
        await peer.send(peer.nop_in(target_transfer_tag=6))
        await peer.expect(NopOut, target_transfer_tag=6)
        assert not task.done()
        await peer.send(peer.response(command))
        await task
        await peer.assert_alive(session)


@scripted
async def test_a_target_failure_is_no_success() -> None:
    """Response code "target failure" is not taken for a status.

    UNH-IOL FFP-I target-failure
    RFC 7143 11.4.3
    """
    async with logged_in() as (session, peer):
        task = asking(session)
        await peer.send(peer.response(await command_of(peer), response=1))
        error = await fails(task, Exception, "0x01")
        assert not isinstance(error, CommandFailed | ConnectionLost | AssertionError)
        await peer.assert_alive(session)
