"""Bidirectional commands and CDBs of more than 16 bytes, at both ends (RFC 7143 sections 4.2.2.4, 11.2.2, 11.4.5)."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from iscsi_target.executor import ScsiCommand, ScsiResult
from iscsi_target.initiator import Initiator
from iscsi_target.server import Target, TargetServer
from iscsi_target.session.initiator_events import CommandEnded
from iscsi_target.session.parameters import Parameters
from iscsi_target.wire.ahs import AdditionalHeaders, encode_ahs
from iscsi_target.wire.opcodes import Opcode, RejectReason
from iscsi_target.wire.requests import DataOut
from iscsi_target.wire.responses import R2T, DataIn, Reject, ScsiResponse
from tests.iscsi_target.imaginary_wire import TARGET, Conversation, Pair2Ends, RamDisk, make_node
from tests.iscsi_target.test_session_recovery import LEVEL_1, FaultyWire, damage_data

EXCHANGE = 0x53
LONG = bytes((0x7F,)) + bytes(range(1, 32))


def exchange(wants: int, gives: int) -> bytes:
    return bytes((EXCHANGE, 0)) + wants.to_bytes(4, "big") + gives.to_bytes(4, "big") + bytes(6)


class Mirror(RamDisk):
    """Takes `wants` bytes of Data-Out and gives `gives` bytes of Data-In: what came, turned over, again and again."""

    def data_out_length(self, command: ScsiCommand) -> int:
        if command.cdb[0] == EXCHANGE:
            return int.from_bytes(command.cdb[2:6], "big")
        return super().data_out_length(command)

    def execute(self, command: ScsiCommand) -> ScsiResult:
        if command.cdb[0] == LONG[0]:
            return ScsiResult(0, (command.cdb,))
        if command.cdb[0] != EXCHANGE:
            return super().execute(command)
        gives = int.from_bytes(command.cdb[6:10], "big")
        return ScsiResult(0, (mirrored(bytes(command.data_out), gives),))


def mirrored(data: bytes, size: int) -> bytes:
    return (data[::-1] * (size // max(1, len(data)) + 1))[:size]


def pattern(size: int) -> bytes:
    return bytes(index * 7 & 0xFF for index in range(size))


def run(ends: Pair2Ends, cdb: bytes, **data: Any) -> CommandEnded:
    ends.session.events.clear()
    ends.submit(cdb, **data)
    ends.transfer()
    (ended,) = [event for event in ends.session.events if isinstance(event, CommandEnded)]
    return ended


@pytest.mark.parametrize("immediate", [True, False])
@pytest.mark.parametrize("initial_r2t", [True, False])
@pytest.mark.parametrize("digest", ["None", "CRC32C"])
def test_data_go_both_ways_in_one_command(immediate: bool, initial_r2t: bool, digest: str) -> None:
    parameters = Parameters(
        immediate_data=immediate,
        initial_r2t=initial_r2t,
        header_digest=(digest,),
        data_digest=(digest,),
        max_recv_data_segment_length=1024,
        max_burst_length=4096,
        first_burst_length=2048,
    )
    ends = Pair2Ends(make_node(Mirror(), parameters=parameters), parameters=parameters)
    ends.connect()
    data = pattern(9_000)
    ended = run(ends, exchange(9_000, 12_000), data_out=data, data_in=12_000)
    assert bytes(ended.data_in) == mirrored(data, 12_000)
    assert (ended.status, ended.residual_count, ended.read_residual_count) == (0, 0, 0)
    assert not (ended.overflow or ended.underflow or ended.read_overflow or ended.read_underflow)


@pytest.mark.parametrize(
    ("announced_out", "wants", "announced_in", "gives", "out_residual", "in_residual"),
    [
        (1000, 600, 2000, 1500, -400, -500),
        (1000, 1400, 2000, 2500, 400, 500),
        (1000, 1400, 2000, 1500, 400, -500),
        (1000, 600, 2000, 2500, -400, 500),
        (1000, 1000, 2000, 0, 0, -2000),
    ],
)
def test_each_direction_has_its_own_residual(
    announced_out: int, wants: int, announced_in: int, gives: int, out_residual: int, in_residual: int
) -> None:
    ends = Pair2Ends(make_node(Mirror()))
    ends.connect()
    ended = run(ends, exchange(wants, gives), data_out=pattern(announced_out), data_in=announced_in)
    assert (ended.overflow, ended.underflow) == (out_residual > 0, out_residual < 0)
    assert ended.residual_count == abs(out_residual)
    assert (ended.read_overflow, ended.read_underflow) == (in_residual > 0, in_residual < 0)
    assert ended.read_residual_count == abs(in_residual)
    assert ended.received == min(gives, announced_in)


def test_r2ts_and_data_in_share_their_numbers_and_the_status_comes_by_itself() -> None:
    conversation = Conversation(make_node(Mirror()))
    conversation.log_in(("InitialR2T", "Yes"), ("ImmediateData", "No"), ("MaxBurstLength", "512"))
    command = dataclasses.replace(
        conversation.command(
            exchange(1024, 700), tag=1, read=True, write=True, expected_data_transfer_length=1024
        ),
        ahs=encode_ahs(AdditionalHeaders(bidirectional_read_length=700)),
    )
    asked = conversation.send(command)
    answers: list[Any] = []
    while asked:
        r2t = asked.pop(0)
        answers.append(r2t)
        if isinstance(r2t, R2T):
            out = DataOut(
                final=True,
                initiator_task_tag=1,
                target_transfer_tag=r2t.target_transfer_tag,
                exp_stat_sn=0,
                data_sn=0,
                buffer_offset=r2t.buffer_offset,
                data=bytes(r2t.desired_data_transfer_length),
            )
            asked += conversation.send(out)
    numbers = [
        pdu.r2t_sn if isinstance(pdu, R2T) else pdu.data_sn
        for pdu in answers
        if isinstance(pdu, R2T | DataIn)
    ]
    assert numbers == [0, 1, 2, 3]
    assert [type(pdu) for pdu in answers] == [R2T, R2T, DataIn, DataIn, ScsiResponse]
    assert not any(pdu.status_present for pdu in answers if isinstance(pdu, DataIn))
    assert answers[-1].exp_data_sn == 4


def test_lost_data_in_of_a_bidirectional_command_comes_again() -> None:
    wire = FaultyWire(make_node(Mirror(), parameters=LEVEL_1))
    seen = []

    def damage_second(opcode: int, pdu: bytes) -> bytes:
        if opcode == Opcode.DATA_IN:
            seen.append(pdu)
            if len(seen) == 2:
                return damage_data(pdu)
        return pdu

    wire.down = damage_second
    data = pattern(5000)
    tag = wire.submit(exchange(5000, 5000), data_out=data, data_in=5000)
    wire.exchange()
    ended = wire.ended()[tag]
    assert bytes(ended.data_in) == mirrored(data, 5000)
    assert len(seen) > 5


def test_a_cdb_of_more_than_16_bytes_arrives_whole() -> None:
    ends = Pair2Ends(make_node(Mirror()))
    ends.connect()
    assert bytes(run(ends, LONG, data_in=64).data_in)[: len(LONG)] == LONG
    assert len(LONG) == 32


def test_a_wrong_additional_header_is_rejected_and_nothing_else_happens() -> None:
    conversation = Conversation(make_node(Mirror()))
    conversation.log_in()
    command = dataclasses.replace(conversation.command(bytes(6), tag=1), ahs=b"\x00\x04\x02\x00" + bytes(4))
    (answer,) = conversation.send(command)
    assert isinstance(answer, Reject)
    assert answer.reason == RejectReason.INVALID_PDU_FIELD
    conversation.assert_alive()


def test_the_shell_runs_bidirectional_commands_and_long_cdbs() -> None:
    async def body() -> None:
        async with (
            TargetServer([Target(name=TARGET, logical_units=Mirror())]) as server,
            await Initiator.login("127.0.0.1", server.portals[0].port, TARGET) as session,
        ):
            data = pattern(300_000)
            answer = await session.execute(
                0, exchange(300_000, 200_000), data_out=data, data_in_length=250_000
            )
            assert bytes(answer.data_in) == mirrored(data, 200_000)
            assert (answer.read_underflow, answer.read_residual_count) == (True, 50_000)
            assert (answer.underflow, answer.residual_count) == (False, 0)
            assert bytes((await session.execute(0, LONG, data_in_length=32)).data_in) == LONG
            with pytest.raises(ValueError, match="1 to 260"):
                await session.execute(0, bytes(261))

    asyncio.run(asyncio.wait_for(body(), 90))
