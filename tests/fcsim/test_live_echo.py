"""ECHO over a live link: the round trip of the line in link time, whatever waits in front of it; and a new login."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from fcsim.errors import CreditMisuse, ExchangeLost, PeerViolation
from fcsim.live.echo import ECHO_LIMIT, EchoFailed, RoundTripMeasured
from fcsim.live.fcp import LiveFcpInitiator, connect_as_initiator, end_config, listen_as_target
from fcsim.live.live_end import LiveEnd
from fcsim.live.measure import carry, plain_frame
from fcsim.live.shell import LiveLink, LiveListener
from fcsim.port.login import Offer
from fcsim.speeds import SPEEDS
from fcsim.wire.codes import FcType, RCtl
from fcsim.wire.els_commands import ElsCommand
from fcsim.wire.els_services import Echo
from fcsim.wire.frame import FrameHeader
from tests.fcsim.test_fcp_exchanges import Disk

UP_PS = 20 * 10**9


def ends(distance_m: int = 100_000, speed: str = "8G", **of_the_second: object) -> tuple[LiveEnd, LiveEnd]:
    """Two ends in memory, logged in."""
    first = LiveEnd(end_config("high", speed=SPEEDS[speed], distance_m=distance_m, port_name=2), 1)
    second = LiveEnd(
        end_config("low", speed=SPEEDS[speed], distance_m=distance_m, port_name=1),
        2,
        **of_the_second,  # type: ignore[arg-type]
    )
    carry((first, second), UP_PS, step_ps=max(distance_m * 5000, 1))
    return first, second


def echoes(pair: tuple[LiveEnd, LiveEnd], until_ps: int) -> list[RoundTripMeasured | EchoFailed]:
    carry(pair, until_ps, step_ps=max(pair[0].flight_ps, 1))
    return [event for event in pair[0].events() if isinstance(event, RoundTripMeasured | EchoFailed)]


@pytest.mark.parametrize("speed", ["1G", "8G", "32G", "128G"])
@pytest.mark.parametrize("distance_m", [0, 300, 50_000, 100_000])
@pytest.mark.parametrize("payload_bytes", [0, 2108])
def test_an_echo_tells_the_round_trip_of_the_line_to_the_picosecond(
    speed: str, distance_m: int, payload_bytes: int
) -> None:
    pair = ends(distance_m, speed)
    ox_id = pair[0].echo(payload_bytes, UP_PS)
    (measured,) = echoes(pair, UP_PS + 10**10)
    assert isinstance(measured, RoundTripMeasured) and measured.ox_id == ox_id
    assert measured.round_trip_ps == pytest.approx(2 * distance_m * 5000, abs=3)
    assert measured.waited_ps == pytest.approx(0, abs=3)


def test_frames_in_front_of_an_echo_count_as_waiting_and_not_as_the_lines_length() -> None:
    pair = ends()
    for _ in range(40):
        pair[0].submit(plain_frame(bytes(2112)), UP_PS)
    pair[0].echo(0, UP_PS)
    (measured,) = echoes(pair, UP_PS + 10**11)
    assert isinstance(measured, RoundTripMeasured)
    assert measured.round_trip_ps == pytest.approx(10**9, abs=3)
    assert measured.waited_ps > 2 * 10**9, "16 credits, 100 km: the 41st frame waits for two round trips"


def test_an_echo_that_is_lost_fails_after_e_d_tov_and_the_next_one_is_measured() -> None:
    lose = [True]

    def lost(record: bytes, _now_ps: int) -> bool:
        return len(record) > 4 and record[12] == FcType.ELS and record[4] == RCtl.ELS_REPLY and lose[0]

    pair = ends()
    pair[1]._lose = lost
    pair[0].echo(0, UP_PS)
    (failed,) = echoes(pair, UP_PS + 3 * 10**12)
    assert isinstance(failed, EchoFailed) and "no answer" in failed.reason
    lose[0] = False
    pair[0].echo(0, UP_PS + 3 * 10**12)
    (measured,) = echoes(pair, UP_PS + 4 * 10**12)
    assert isinstance(measured, RoundTripMeasured)
    assert pair[0]._stamps.expected == {} and pair[0]._stamps._left == {}


@pytest.mark.parametrize("answer", ["02000000ffffffff", "0200000000", "0100000000030000", "02", ""])
def test_other_bytes_or_a_refusal_are_no_measurement(answer: str) -> None:
    pair = ends(distance_m=0)
    other = pair[1].n_port
    right = other._echo

    def wrong(header: FrameHeader, message: Echo, now_ps: int) -> None:
        right(header, message, now_ps)
        other._output.append(replace(other._output.pop(), payload=bytes.fromhex(answer)))

    other._requests = {**other._requests, ElsCommand.ECHO: wrong}
    pair[0].echo(4, UP_PS)
    (failed,) = echoes(pair, UP_PS + 10**10)
    assert isinstance(failed, EchoFailed) and "\n" not in failed.reason


def test_echoes_are_bounded_and_refused_before_the_login() -> None:
    pair = ends()
    with pytest.raises(CreditMisuse, match="0 to 2108 bytes in fours, not 6"):
        pair[0].echo(6, UP_PS)
    for _ in range(ECHO_LIMIT):
        pair[0].echo(0, UP_PS)
    with pytest.raises(CreditMisuse, match=f"{ECHO_LIMIT} ECHOs"):
        pair[0].echo(0, UP_PS)
    pair[0].lose_signal(UP_PS)
    with pytest.raises(PeerViolation, match="nobody is logged in"):
        pair[0].echo(0, UP_PS)
    failed = [event for event in pair[0].events() if isinstance(event, EchoFailed)]
    assert len(failed) == ECHO_LIMIT


# -- a new login --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", [0, 1])
def test_a_new_login_grants_the_new_offer_whichever_end_asks_for_it(who: int) -> None:
    pair = ends()
    asks, other = pair[who], pair[1 - who]
    assert other.granted.transmit == {None: 16}
    asks.log_in_again(Offer(64), UP_PS)
    carry(pair, UP_PS + 10**11, step_ps=10**8)
    assert (other.granted.transmit, asks.granted.transmit) == ({None: 64}, {None: 16})
    assert asks.active and other.active
    record = plain_frame(bytes(100))
    for _ in range(100):
        other.submit(record, UP_PS + 10**11)
    other.run_until(UP_PS + 2 * 10**11)
    (channel,) = other.statistics().channels
    assert (channel.waiting_frames, channel.transmit_remaining) == (36, 0)


def test_what_is_offered_is_asked_for_at_every_login() -> None:
    """So a port group's reservations count from the next login on, whichever end it is that logs in."""
    credits = [20]
    pair = ends(offer_now=lambda: Offer(credits[0]))
    assert pair[0].granted.transmit == {None: 20}
    credits[0] = 30
    assert pair[0].granted.transmit == {None: 20}
    pair[0].log_in_again(Offer(16), UP_PS)
    carry(pair, UP_PS + 10**11, step_ps=10**8)
    assert pair[0].granted.transmit == {None: 30}


def test_shares_outlive_a_new_login_that_grants_enough() -> None:
    pair = ends()
    pair[0].reserve({"copy": 12}, UP_PS)
    pair[1].log_in_again(Offer(12), UP_PS)
    carry(pair, UP_PS + 10**11, step_ps=10**8)
    now_ps = UP_PS + 10**11
    for share in ("copy", None):
        for _ in range(20):
            pair[0].submit(plain_frame(bytes(100)), now_ps, share=share)
    pair[0].run_until(now_ps + 10**8)
    (channel,) = pair[0].statistics().channels
    assert channel.waiting_frames == 28, "12 of the copy have gone and none of the others"


async def _linked() -> tuple[LiveListener, LiveLink, LiveLink]:
    low = end_config("low", speed=SPEEDS["32G"], distance_m=2_000, port_name=1)
    listener = await listen_as_target(("127.0.0.1", 0), Disk(), low, time_scale=300)
    here = await connect_as_initiator(listener.address, end_config("high", port_name=2, wants_targets=True))
    return listener, here, await listener.accept()


def test_over_a_socket_an_echo_is_measured_and_a_new_login_grants_more_while_data_stay() -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            listener, here, there = await _linked()
            async with listener, here:
                assert (await here.echo()).round_trip_ps == pytest.approx(2 * 2_000 * 5000, abs=3)
                disk = LiveFcpInitiator(here)
                await disk.write(0, bytes(range(256)) * 64)
                await there.log_in_again(Offer(48))
                await here.wait_for(lambda end: end.granted.transmit == {None: 48})
                await here.wait_logged_in()
                assert await disk.read(0, 32) == bytes(range(256)) * 64
                await here.log_in_again(Offer(24))
                assert there.end.granted.transmit == {None: 24}
                assert (await here.echo(400)).round_trip_ps == pytest.approx(2 * 2_000 * 5000, abs=3)
                assert await disk.read(0, 32) == bytes(range(256)) * 64

    asyncio.run(main())


def test_a_command_and_an_echo_under_way_end_with_one_line_when_the_other_end_logs_in_anew() -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            listener, here, there = await _linked()
            async with listener, here:
                waiting: list[asyncio.Future[object]] = [asyncio.ensure_future(here.echo()) for _ in range(3)]
                waiting.append(asyncio.ensure_future(LiveFcpInitiator(here).read(0, 1)))
                await asyncio.sleep(0)
                here.call(lambda end, now_ps: end.log_in_again(Offer(20), now_ps))
                told = await asyncio.gather(*waiting, return_exceptions=True)
                assert all(isinstance(one, PeerViolation | ExchangeLost) for one in told), told
                await here.wait_logged_in()
                assert there.end.granted.transmit == {None: 20}

    asyncio.run(main())
