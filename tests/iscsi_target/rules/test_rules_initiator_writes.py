"""UNH-IOL full feature phase for initiators, chapters 6, 8, 9, 11, 12 and 16: Data-Out and R2T."""

from __future__ import annotations

import asyncio

import pytest

from iscsi_target.errors import ConnectionLost
from iscsi_target.wire.lun import lun_to_bytes
from iscsi_target.wire.opcodes import RESERVED_TAG
from iscsi_target.wire.requests import DataOut, NopOut, ScsiCommandPdu
from tests.iscsi_target.rules.initiator_rig import asking, command_of, fails, logged_in, scripted, writing
from tests.iscsi_target.rules.raw_initiator import BLOCK, pattern, write_10
from tests.iscsi_target.rules.raw_target import RawTarget


async def take_burst(
    peer: RawTarget, command: ScsiCommandPdu, tag: int, offset: int, end: int, limit: int
) -> bytes:
    """The Data-Out of one sequence: tags, DataSN, offsets, lengths and the F bit as they have to be."""
    data, number = b"", 0
    while offset < end:
        size = min(limit, end - offset)
        pdu = await peer.expect(
            DataOut,
            initiator_task_tag=command.initiator_task_tag,
            target_transfer_tag=tag,
            data_sn=number,
            buffer_offset=offset,
            final=offset + size == end,
        )
        assert tag == RESERVED_TAG or pdu.lun == command.lun
        assert len(pdu.data) == size
        data += pdu.data
        offset += size
        number += 1
    return data


@scripted
async def test_unsolicited_data_end_with_the_first_burst() -> None:
    """InitialR2T=No: unsolicited data up to FirstBurstLength, the rest when R2Ts ask for it.

    UNH-IOL FFP-I 8.1, 8.3, 11.2.1
    RFC 7143 4.2.5.2, 11.7.1, 13.14
    """
    data = pattern(40 * BLOCK)
    async with logged_in(initial_r2t=False) as (session, peer):
        task = writing(session, data)
        command = await peer.expect(ScsiCommandPdu, write=True, final=False, data=b"")
        assert await take_burst(peer, command, RESERVED_TAG, 0, 8192, 8192) == data[:8192]
        await peer.send(peer.r2t(command, 8192, 12288, tag=0x99))
        assert await take_burst(peer, command, 0x99, 8192, 20480, 8192) == data[8192:20480]
        await peer.send(peer.response(command))
        await task
        await peer.assert_alive(session)


@scripted
async def test_without_leave_nothing_is_sent_unsolicited() -> None:
    """InitialR2T=Yes and ImmediateData=No: the command comes alone, with F, and data only after an R2T.

    UNH-IOL FFP-I 8.2, 16.2.2, 16.1.2, 16.3.1
    RFC 7143 4.2.5.2, 11.3.1, 11.3.6
    """
    async with logged_in() as (session, peer):
        task = writing(session, pattern(BLOCK))
        command = await peer.expect(
            ScsiCommandPdu, write=True, read=False, final=True, data=b"", expected_data_transfer_length=BLOCK
        )
        assert command.cdb == write_10(0, 1).ljust(16, b"\0")
        assert command.lun == lun_to_bytes(0)
        await peer.send(peer.nop_in(target_transfer_tag=4))
        await peer.expect(NopOut, target_transfer_tag=4)  # no data before it
        await peer.send(peer.r2t(command, 0, BLOCK))
        assert await take_burst(peer, command, 0x77, 0, BLOCK, 8192) == pattern(BLOCK)
        await peer.send(peer.response(command))
        await task
        await peer.assert_alive(session)


@scripted
async def test_immediate_data_ride_with_the_command() -> None:
    """ImmediateData=Yes, InitialR2T=Yes: as much as the first burst and a segment allow rides with the command, F set.

    UNH-IOL FFP-I 16.1.1, 16.2.1
    RFC 7143 11.3.6, 11.3.1, 13.11
    """
    data = pattern(20 * BLOCK)
    async with logged_in(immediate_data=True) as (session, peer):
        task = writing(session, data)
        command = await peer.expect(ScsiCommandPdu, write=True, final=True, data=data[:8192])
        await peer.send(peer.r2t(command, 8192, len(data) - 8192))
        await take_burst(peer, command, 0x77, 8192, len(data), 8192)
        await peer.send(peer.response(command))
        await task
        await peer.assert_alive(session)


@scripted
async def test_no_immediate_data_where_they_were_not_agreed() -> None:
    """ImmediateData=No, InitialR2T=No: the command is empty and without F, unsolicited Data-Out follow it.

    UNH-IOL FFP-I 16.2.3
    RFC 7143 11.3.6, 13.10, 13.11
    """
    async with logged_in(initial_r2t=False) as (session, peer):
        task = writing(session, pattern(BLOCK))
        command = await peer.expect(ScsiCommandPdu, write=True, final=False, data=b"")
        assert await take_burst(peer, command, RESERVED_TAG, 0, BLOCK, 8192) == pattern(BLOCK)
        await peer.send(peer.response(command))
        await task
        await peer.assert_alive(session)


@scripted
async def test_immediate_and_unsolicited_data_together_keep_to_the_first_burst() -> None:
    """ImmediateData=Yes, InitialR2T=No: immediate and unsolicited data together end with FirstBurstLength.

    UNH-IOL FFP-I 16.2.4
    RFC 7143 13.14, 11.3.6
    """
    data = pattern(20 * BLOCK)
    async with logged_in(
        initial_r2t=False,
        immediate_data=True,
        answers={"MaxRecvDataSegmentLength": "1024", "FirstBurstLength": "2560"},
    ) as (session, peer):
        task = writing(session, data)
        command = await peer.expect(ScsiCommandPdu, final=False, data=data[:1024])
        assert await take_burst(peer, command, RESERVED_TAG, 1024, 2560, 1024) == data[1024:2560]
        await peer.send(peer.r2t(command, 2560, len(data) - 2560))
        await take_burst(peer, command, 0x77, 2560, len(data), 1024)
        await peer.send(peer.response(command))
        await task
        await peer.assert_alive(session)


@scripted
async def test_a_write_that_is_all_immediate_data_is_final() -> None:
    """InitialR2T=No: a command whose immediate data are all there is has the F bit, and no Data-Out follow.

    UNH-IOL FFP-I 16.3.1
    RFC 7143 11.3.1, 11.3.6
    """
    async with logged_in(initial_r2t=False, immediate_data=True) as (session, peer):
        task = writing(session, pattern(BLOCK))
        command = await peer.expect(ScsiCommandPdu, final=True, data=pattern(BLOCK))
        await peer.send(peer.response(command))
        assert await task == 0
        await peer.assert_alive(session)


@pytest.mark.parametrize("limit", [512, 1024, 4096])
@scripted
async def test_data_out_answer_each_r2t_by_itself(limit: int) -> None:
    """Each R2T is answered with its tag, DataSN from 0, offsets from its own, segments as declared, F at its end.

    UNH-IOL FFP-I 6.1, 9.1, 11.1.1, 11.2.2, 11.3, 11.4, 12.2
    RFC 7143 11.7, 11.7.1, 11.7.4, 11.7.5, 11.7.6, 11.7.7, 13.12
    """
    data = pattern(16 * BLOCK)
    async with logged_in(answers={"MaxRecvDataSegmentLength": str(limit)}) as (session, peer):
        task = writing(session, data)
        command = await command_of(peer)
        for number, offset in enumerate((0, 2560, 5632)):
            end = (2560, 5632, len(data))[number]
            tag = 0x1000 + number
            await peer.send(peer.r2t(command, offset, end - offset, r2t_sn=number, tag=tag))
            assert await take_burst(peer, command, tag, offset, end, limit) == data[offset:end]
        await peer.send(peer.response(command))
        await task
        await peer.assert_alive(session)


@scripted
async def test_segments_of_data_out_are_whole_words() -> None:
    """Every Data-Out but the last of a sequence carries whole 4-byte words, also where the declared length is odd.

    UNH-IOL FFP-I 11.1.1
    RFC 7143 11.7.7
    """
    data = pattern(8 * BLOCK)
    async with logged_in(answers={"MaxRecvDataSegmentLength": "1023"}) as (session, peer):
        task = writing(session, data)
        command = await command_of(peer)
        await peer.send(peer.r2t(command, 0, len(data)))
        received = b""
        while True:
            pdu = await peer.expect(DataOut)
            received += pdu.data
            assert len(pdu.data) <= 1023
            if pdu.final:
                break
            assert len(pdu.data) % 4 == 0
        assert received == data
        await peer.send(peer.response(command))
        await task
        await peer.assert_alive(session)


@scripted
async def test_one_r2t_may_be_answered_by_one_pdu() -> None:
    """An R2T for no more than a segment is answered with exactly one Data-Out, F set.

    UNH-IOL FFP-I 12.1
    RFC 7143 11.8, 11.8.4
    """
    async with logged_in() as (session, peer):
        task = writing(session, pattern(4 * BLOCK))
        command = await command_of(peer)
        for number in range(4):
            await peer.send(peer.r2t(command, number * BLOCK, BLOCK, r2t_sn=number, tag=number + 1))
            pdu = await peer.expect(DataOut, final=True, target_transfer_tag=number + 1, data_sn=0)
            assert pdu.data == pattern(4 * BLOCK)[number * BLOCK : (number + 1) * BLOCK]
        await peer.send(peer.response(command))
        await task
        await peer.assert_alive(session)


@scripted
async def test_r2ts_may_ask_in_any_order_where_that_was_agreed() -> None:
    """DataSequenceInOrder=No: R2Ts may ask for the sequences in any order.

    UNH-IOL FFP-I 12.3
    RFC 7143 13.19, 11.8.4
    """
    data = pattern(8 * BLOCK)
    async with logged_in(data_sequence_in_order=False, data_pdu_in_order=False) as (session, peer):
        assert peer.offered["DataSequenceInOrder"] == "No"
        task = writing(session, data)
        command = await command_of(peer)
        for number, offset in enumerate((4096 - 1024, 0, 1024, 2048)):
            await peer.send(peer.r2t(command, offset, 1024, r2t_sn=number, tag=number + 1))
            assert (
                await take_burst(peer, command, number + 1, offset, offset + 1024, 8192)
                == data[offset : offset + 1024]
            )
        await peer.send(peer.response(command))
        await task
        await peer.assert_alive(session)


@scripted
async def test_r2ts_of_parallel_commands_are_told_apart() -> None:
    """R2Ts of several commands, mixed, each get the data of their own command.

    UNH-IOL FFP-I 12.4
    RFC 7143 11.8.5, 11.7.4
    """
    async with logged_in() as (session, peer):
        contents = [pattern(2 * BLOCK, seed) for seed in (1, 50, 99)]
        tasks = [writing(session, content) for content in contents]
        commands = [await command_of(peer) for _ in tasks]
        for half in (0, 1):
            for which in (2, 0, 1):
                tag = 10 * half + which + 1
                await peer.send(peer.r2t(commands[which], half * BLOCK, BLOCK, r2t_sn=half, tag=tag))
                sent = await take_burst(peer, commands[which], tag, half * BLOCK, (half + 1) * BLOCK, 8192)
                assert sent == contents[which][half * BLOCK : (half + 1) * BLOCK]
        await peer.send(*[peer.response(command) for command in commands])
        await asyncio.gather(*tasks)
        await peer.assert_alive(session)


@pytest.mark.parametrize(("offset", "length"), [(0, BLOCK + 4), (BLOCK, 4), (0, 0), (0xFFFFFE00, 512)])
@scripted
async def test_an_r2t_outside_the_data_is_a_protocol_error(offset: int, length: int) -> None:
    """An R2T for data that the command does not have, or for none, ends the connection; nothing is made up.

    UNH-IOL FFP-I r2t-outside
    RFC 7143 11.8.4, 7.13
    """
    async with logged_in() as (session, peer):
        task = writing(session, pattern(BLOCK))
        await peer.send(peer.r2t(await command_of(peer), offset, length))
        await fails(task, ConnectionLost, "R2T")
        await peer.expect_closed()
        await fails(session.nop(), ConnectionLost)


@scripted
async def test_an_r2t_for_a_task_that_is_over_is_ignored() -> None:
    """An R2T with a task tag that no command has is ignored, and the session goes on.

    UNH-IOL FFP-I r2t-unknown-task
    RFC 7143 11.8, 7.9
    """
    async with logged_in() as (session, peer):
        task = asking(session)
        command = await command_of(peer)
        await peer.send(peer.response(command))
        await task
        await peer.send(peer.r2t(command, 0, BLOCK))
        await peer.assert_alive(session)
