"""UNH-IOL full feature phase for initiators, chapters 10, 11 and 16: Data-In."""

from __future__ import annotations

import pytest

from iscsi_target.errors import ConnectionLost
from iscsi_target.wire.requests import ScsiCommandPdu
from tests.iscsi_target.rules.initiator_rig import asking, command_of, fails, logged_in, reading, scripted
from tests.iscsi_target.rules.raw_initiator import BLOCK, pattern


@scripted
async def test_status_in_the_last_data_in_ends_the_command() -> None:
    """A Data-In with S brings the status: no SCSI Response is waited for.

    UNH-IOL FFP-I 10.1
    RFC 7143 11.7.3
    """
    data = pattern(3 * BLOCK)
    async with logged_in() as (session, peer):
        task = reading(session, 3)
        command = await command_of(peer)
        await peer.send(
            peer.data_in(command, data[:BLOCK], 0, 0),
            peer.data_in(command, data[BLOCK:], 1, BLOCK, last=True),
        )
        assert await task == data
        await peer.assert_alive(session)


@scripted
async def test_data_in_without_data_are_taken() -> None:
    """A Data-In without data counts by its DataSN and harms nothing.

    UNH-IOL FFP-I 11.1.2
    RFC 7143 11.7.7
    """
    async with logged_in() as (session, peer):
        task = reading(session)
        command = await command_of(peer)
        await peer.send(
            peer.data_in(command, b"", 0, 0), peer.data_in(command, pattern(BLOCK), 1, 0, last=True)
        )
        assert await task == pattern(BLOCK)
        await peer.assert_alive(session)


@scripted
async def test_the_expected_length_is_what_the_caller_has_room_for() -> None:
    """Expected Data Transfer Length and the R and W bits say what the command will move.

    UNH-IOL FFP-I 16.6
    RFC 7143 11.3.4, 11.3.1
    """
    async with logged_in() as (session, peer):
        for task, read, write, length in (
            (reading(session, 3), True, False, 3 * BLOCK),
            (asking(session), False, False, 0),
        ):
            command = await peer.expect(
                ScsiCommandPdu, read=read, write=write, expected_data_transfer_length=length
            )
            missing = {"underflow": True, "residual_count": length} if length else {}
            await peer.send(peer.response(command, **missing))
            await task
        await peer.assert_alive(session)


@pytest.mark.parametrize("extra", [1, BLOCK, 0xFFFF0000])
@scripted
async def test_data_in_beyond_the_expected_length_are_a_protocol_error(extra: int) -> None:
    """Data-In beyond the Expected Data Transfer Length end the connection; no byte is written past the buffer.

    UNH-IOL FFP-I data-in-beyond
    RFC 7143 11.3.4, 7.13
    """
    async with logged_in() as (session, peer):
        task = reading(session)
        await peer.send(peer.data_in(await command_of(peer), bytes(BLOCK), 0, extra, last=True))
        await fails(task, ConnectionLost, "Data-In")
        await peer.expect_closed()


@scripted
async def test_data_in_for_a_command_that_reads_nothing_are_a_protocol_error() -> None:
    """Data-In for a command without the R bit end the connection.

    UNH-IOL FFP-I data-in-unexpected
    RFC 7143 11.3.1, 7.13
    """
    async with logged_in() as (session, peer):
        task = asking(session)
        await peer.send(peer.data_in(await command_of(peer), bytes(BLOCK), last=True))
        await fails(task, ConnectionLost, "Data-In")
        await peer.expect_closed()


@pytest.mark.parametrize("numbers", [(1, 2), (0, 2), (0, 0)], ids=["first missing", "gap", "twice"])
@scripted
async def test_a_wrong_data_sn_at_level_0_ends_the_session(numbers: tuple[int, int]) -> None:
    """At error recovery level 0 a DataSN out of order means lost data: the command does not succeed.

    UNH-IOL FFP-I data-sn
    RFC 7143 7.9, 11.7.5, 7.1.5
    """
    async with logged_in() as (session, peer):
        task = reading(session, 2)
        command = await command_of(peer)
        await peer.send(
            peer.data_in(command, bytes(BLOCK), numbers[0], 0),
            peer.data_in(command, bytes(BLOCK), numbers[1], BLOCK, last=True),
        )
        await fails(task, ConnectionLost, "DataSN")
        await peer.expect_closed()


@scripted
async def test_data_in_with_a_hole_end_the_session() -> None:
    """DataPDUInOrder=Yes: Data-In that leave a hole in the buffer are an error, never silent zeros.

    UNH-IOL FFP-I buffer-offset
    RFC 7143 11.7.6, 13.18, 7.9
    """
    async with logged_in() as (session, peer):
        task = reading(session, 3)
        command = await command_of(peer)
        await peer.send(
            peer.data_in(command, bytes(BLOCK), 0, 0),
            peer.data_in(
                command, bytes(BLOCK), 1, 2 * BLOCK, last=True, underflow=True, residual_count=BLOCK
            ),
        )
        await fails(task, ConnectionLost, "offset")
        await peer.expect_closed()


@scripted
async def test_a_good_status_without_the_data_is_not_believed() -> None:
    """A status that promises more Data-In (ExpDataSN) than came, at level 0, ends the session, not well the command.

    UNH-IOL FFP-I exp-data-sn
    RFC 7143 11.4.8, 7.9
    """
    async with logged_in() as (session, peer):
        task = reading(session, 2)
        command = await command_of(peer)
        await peer.send(
            peer.data_in(command, bytes(BLOCK), 0, 0, final=True), peer.response(command, exp_data_sn=2)
        )
        await fails(task, ConnectionLost, "DataSN")
        await peer.expect_closed()
