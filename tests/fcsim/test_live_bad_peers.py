"""Peers of a live link and of an FCoE endpoint that lie, stall, flood or repeat: bounded, and nothing changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fcsim.errors import PeerViolation
from fcsim.fcoe import ethernet
from fcsim.fcoe.enode import Enode, EnodeConfig
from fcsim.fcoe.vn2vn import Vn2vnPort
from fcsim.fcp.initiator import CommandCompleted, FcpInitiator
from fcsim.fcp.target import FcpTargetLimits
from fcsim.live import live_end, shell
from fcsim.live.fcp import connect_as_initiator, end_config, listen_as_target
from fcsim.live.framing import HELLO_BYTES, Hello, encode_record
from fcsim.live.live_end import LiveEnd, delimited_bytes
from fcsim.live.measure import carry, plain_frame
from fcsim.port.events import PeerViolated
from fcsim.speeds import SPEEDS
from fcsim.wire import ordered_sets
from fcsim.wire.codes import RCtl
from tests.fcsim.test_fcoe_cores import HOSTS, SECOND_PS, Segment, fcf, host_names, vn2vn
from tests.fcsim.test_fcp_data_out import Shared, contents
from tests.fcsim.test_fcp_exchanges import BLOCK, LUN_0, Disk, read_10, write_10

R_RDY = ordered_sets.R_RDY.encode()
UP_PS = 20 * 10**9


def ends(queue_limit: int = 65_536, credits: int = 16) -> tuple[LiveEnd, LiveEnd]:
    """An initiator and a target in memory, without distance, logged in."""
    first = end_config("liar", port_name=2, wants_targets=True, speed=SPEEDS["32G"])
    second = end_config("victim", port_name=1, speed=SPEEDS["32G"], bb_credit=credits, bb_sc_n=8)
    pair = LiveEnd(first, 1), LiveEnd(replace(second, queue_limit=queue_limit), 2, executor=Disk())
    carry(pair, UP_PS)
    assert pair[0].n_port.initiators
    return pair


def test_a_peer_that_reads_nothing_is_left_when_too_much_is_on_its_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shell, "UNREAD_LIMIT_BYTES", 1 << 20)

    async def main() -> None:
        async with asyncio.timeout(60):
            config = end_config("victim", speed=SPEEDS["32G"], port_name=1)
            async with await listen_as_target(("127.0.0.1", 0), Disk(), config, time_scale=300) as listener:
                liar = await connect_as_initiator(
                    listener.address, end_config("liar", port_name=2, bb_credit=60_000, wants_targets=True)
                )
                victim = await listener.accept()
                await victim.wait_for(lambda end: end.granted.transmit == {None: 60_000})
                assert liar._transport is not None
                liar._transport.pause_reading()

                def flood(end: LiveEnd, now_ps: int) -> None:
                    for _ in range(20_000):
                        end.submit(plain_frame(bytes(2112)), now_ps)

                victim.call(flood)
                await victim.closed
                assert victim.error == "the peer has left more than 1048576 bytes unread"
                await liar.close()

    asyncio.run(main())


def test_records_far_ahead_of_their_time_are_taken_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_end, "INBOX_LIMIT_BYTES", 1 << 16)
    _, victim = ends()
    record = encode_record(10**18, plain_frame(bytes(2112)))
    with pytest.raises(PeerViolation, match="clock runs away"):
        for _ in range(100):
            victim.receive_data(record)


def test_a_peer_that_greets_and_then_stalls_costs_a_login_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "PEER_PATIENCE_S", 0.2)
    monkeypatch.setattr(shell, "LINK_UP_FLIGHTS", 0)
    hello = Hello(
        speed_name=b"8G".ljust(8, b"\0"),
        distance_m=10_000,
        time_scale=50,
        epoch_ns=0,
        port_name=1,
        node_name=1,
    )

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(hello.encode())
        await reader.readexactly(HELLO_BYTES)
        await reader.read()
        writer.close()
        gone.set()

    async def main() -> None:
        server = await asyncio.start_unix_server(silent, tmp_path / "link")
        async with server, asyncio.timeout(30):
            with pytest.raises(PeerViolation, match="the link did not come up within 0 s"):
                await connect_as_initiator(tmp_path / "link")
            await gone.wait()

    gone = asyncio.Event()
    asyncio.run(main())


def test_an_end_goes_on_without_the_promises_of_a_peer_that_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shell, "SILENCE_S", 0.05)

    async def main() -> None:
        async with asyncio.timeout(60):
            config = end_config("victim", speed=SPEEDS["8G"], distance_m=100_000, port_name=1)
            async with await listen_as_target(("127.0.0.1", 0), Disk(), config, time_scale=50) as listener:
                liar = await connect_as_initiator(
                    listener.address, end_config("liar", port_name=2, wants_targets=True)
                )
                victim = await listener.accept()
                assert liar._timer is not None and liar._transport is not None
                liar._timer.cancel()
                liar._transport.pause_reading()
                before_ps = victim.now_ps
                while victim.now_ps < before_ps + 10**10:  # ten round trips of which it hears nothing
                    await asyncio.sleep(0.01)
                assert victim.end.active
                await liar.close()

    asyncio.run(main())


def test_reads_whose_answers_are_never_credited_fill_the_queue_half_and_are_refused_then() -> None:
    liar, victim = ends(queue_limit=2000)
    initiator = FcpInitiator(liar.n_port.n_port_id, 2)
    before = victim.statistics().frames_received
    most, moment = 0, UP_PS + 1
    for _ in range(200):
        initiator.command(LUN_0, read_10(0, 128), moment, data_in_length=128 * BLOCK)
        for frame in initiator.frames():
            victim.receive_data(encode_record(moment, delimited_bytes(frame)))
        victim.run_until(moment)
        moment += 1000
        (channel,) = victim.statistics().channels
        most = max(most, channel.waiting_frames)
    assert victim.statistics().frames_received == before + 200, "every command came"
    assert 1000 < most < 1000 + 64 * 1024 // 2048 + 300, most
    assert victim.statistics().discards == 0


def test_a_flood_of_marks_and_r_rdys_gives_no_credit_and_sends_nothing_back() -> None:
    _, victim = ends(credits=8)
    granted = victim.statistics().channels[0].transmit_remaining
    sent = victim.statistics().r_rdys_sent
    word = encode_record(UP_PS + 1, R_RDY)
    marks = b"".join(
        encode_record(UP_PS + 1, mark.encode()) for mark in (ordered_sets.BB_SCS, ordered_sets.BB_SCR)
    )
    victim.receive_data((word + marks) * 2000)
    victim.run_until(UP_PS + 2)
    (channel,) = victim.statistics().channels
    assert (channel.transmit_remaining, channel.excess_r_rdy > 1000) == (granted, True)
    assert victim.statistics().r_rdys_sent - sent <= 256, "one window at most"


def test_words_of_no_meaning_are_told_and_change_nothing() -> None:
    _, victim = ends()
    before = victim.statistics()
    for word in (b"\xbc\x00\x00\x00", bytes(4), b"\xbc\x95\xb5\x00", ordered_sets.vc_rdy(3).encode()):
        victim.receive_data(encode_record(UP_PS + 1, word))
    victim.run_until(UP_PS + 2)
    told = [event for event in victim.events() if isinstance(event, PeerViolated)]
    assert len(told) == 4
    after = victim.statistics()
    assert (after.state, after.channels, after.frames_received) == (
        before.state,
        before.channels,
        before.frames_received,
    )


@pytest.mark.parametrize("what", ["data", "command", "whole burst"])
def test_frames_that_are_repeated_write_nothing_twice(what: str) -> None:
    shared = Shared(FcpTargetLimits())
    initiator, target = shared.initiators[0], shared.target
    executed = target._executor.executed  # type: ignore[attr-defined]
    executed.clear()
    initiator.command(LUN_0, write_10(0, 8), 0, data_out=contents(1, 8))
    (command,) = initiator.frames()
    target.receive(command, 0)
    if what == "command":
        for _ in range(5):
            target.receive(command, 0)
    readies = list(target.frames())
    initiator.receive(readies[0], 0)
    frames = list(initiator.frames())
    for frame in frames:
        target.receive(frame, 0)
        if what == "data":
            target.receive(frame, 0)
    if what == "whole burst":
        for frame in frames:
            target.receive(frame, 0)
    answers = [frame for frame in target.frames() if frame.header.r_ctl == RCtl.COMMAND_STATUS]
    assert len(answers) == 1
    assert len(executed) == (0 if what == "data" else 1), "a sequence that does not add up is not written"
    for answer in answers:
        initiator.receive(answer, 0)
    (event,) = initiator.events()
    assert isinstance(event, CommandCompleted)
    target.handle_timer(10**14)
    assert target.outstanding == target.granted_bytes == 0


def test_an_fcoe_target_that_is_asked_for_too_much_says_task_set_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("fcsim.fcoe.vn2vn", "fcsim.fcoe.fcf"):
        monkeypatch.setattr(f"{module}.UNSENT_LIMIT", 100)
    assert ethernet.UNSENT_LIMIT > 100
    port: Vn2vnPort = vn2vn(2, quiet=True, executor=Disk())
    host: Vn2vnPort = vn2vn(1)
    segment = Segment(host, port)
    segment.run(30 * SECOND_PS)
    (initiator,) = host.n_port.initiators.values()
    list(host.events())
    asked = []
    for _ in range(40):
        initiator.command(LUN_0, read_10(0, 128), segment.now_ps, data_in_length=128 * BLOCK)
    host.handle_timer(segment.now_ps)
    for data in list(host.frames()):
        asked.append(data)
        port.receive(data, segment.now_ps)  # nothing of its is taken away
    assert len(asked) == 40
    assert len(port._output) < 100 + 2 * 40 + 64
    for data in list(port.frames()):
        host.receive(data, segment.now_ps)
    statuses = {event.status for event in host.events() if isinstance(event, CommandCompleted)}
    assert 0x28 in statuses


@pytest.mark.parametrize("make", [lambda: vn2vn(2, executor=Disk()), fcf])
def test_an_fcoe_peer_that_repeats_every_frame_changes_nothing(make: Callable[[], Any]) -> None:
    """Whatever is said twice leaves one login, and what was written is written."""
    host: Any = vn2vn(1) if make is not fcf else Enode(EnodeConfig(HOSTS[0], host_names(1)))
    target = make()
    segment = Segment(host, target)
    twice = target.receive

    def receive(data: bytes, now_ps: int) -> None:
        twice(data, now_ps)
        twice(data, now_ps)

    target.receive = receive
    segment.run(40 * SECOND_PS)
    assert len(host.n_port.initiators) == 1
    port = target.target if make is fcf else target.n_port
    assert len(port.logged_in) == 1
    assert port.target.outstanding == 0
