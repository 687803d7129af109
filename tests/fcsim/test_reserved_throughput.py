"""What a reservation of credits is worth: 8G over 100 km, while the other ports of the port group take all the rest.

Counted in link time, in the engine, at a live link's two ends in memory, and over a socket.
"""

from __future__ import annotations

import asyncio
from array import array
from fractions import Fraction

import pytest

from credits import Code, Pool, PoolConfig, Refused, UnitKind, port_pair
from fcsim.clock import TICKS_PER_SECOND
from fcsim.engine.link import LinkRun, LinkScenario
from fcsim.live.fcp import end_config
from fcsim.live.live_end import LiveEnd
from fcsim.live.measure import carry, plain_frame
from fcsim.live.shell import connect, listen
from fcsim.port.events import FrameArrived
from fcsim.port.group import PortGroup
from fcsim.speeds import SPEEDS, credits_needed, throughput_bytes_per_second

SPEED, DISTANCE_M = SPEEDS["8G"], 100_000
HERE, THERE = "10:00:00:00:00:00:00:01", "10:00:00:00:00:00:00:02"
UP_PS, LATER_PS = 20 * 10**9, 10**12
PAYLOADS = [2112, 1024]


def granted(credits: int) -> int:
    """BB_Credit of the copy's login in a port group of 1,200 buffers whose other ports have taken every free one."""
    ports = PortGroup(Pool(PoolConfig(name="asic 0", kind=UnitKind.FC, unit_bytes=2148, total_units=1200)))
    if credits:
        ports.reserve(port_pair(HERE, THERE), credits, request_id="copy", now_ns=0)
    for number in range(3):
        others = ports.pool.statistics().free_units // (3 - number)
        ports.log_in(f"other {number}", f"host {number}", others)
    assert ports.pool.statistics().free_units == 0
    with pytest.raises(Refused) as refused:
        ports.log_in("one more", "host", 1)
    assert refused.value.code is Code.NO_MEMORY
    return ports.log_in(HERE, THERE, 0).bb_credit


def line_rate(payload: int) -> Fraction:
    """What the line carries of payload, in bytes per second."""
    return Fraction(SPEED.bytes_per_second * payload, payload + 60)


def in_the_engine(credits: int, payload: int) -> float:
    """Payload bytes per second once the pipe is full."""
    run = LinkRun(LinkScenario(SPEED, DISTANCE_M, credits, r_rdy_bytes=0))
    count = credits * 40 + 1
    block = run.send_block(array("q", bytes(8 * count)), array("q", [payload]) * count)
    return credits * 39 * payload * TICKS_PER_SECOND / (block.drained[count - 1] - block.drained[credits])


def on_a_live_link(credits: int, payload: int) -> float:
    """The same at two ends in memory, with their logins."""
    receiver = LiveEnd(
        end_config("low", bb_credit=credits, speed=SPEED, distance_m=DISTANCE_M, port_name=1), 2
    )
    sender = LiveEnd(end_config("high", bb_credit=8, speed=SPEED, distance_m=DISTANCE_M, port_name=2), 1)
    carry((sender, receiver), UP_PS, step_ps=DISTANCE_M * 5000)
    moments: list[int] = []

    def take(arrived: FrameArrived[bytes], moment: int) -> None:
        moments.append(moment)
        receiver.release(arrived, moment)

    receiver._deliver = take
    record, count = plain_frame(bytes(payload)), credits * 6 + 1
    for _ in range(count):
        sender.submit(record, UP_PS)
    carry((sender, receiver), LATER_PS, step_ps=DISTANCE_M * 5000)
    assert len(moments) == count
    assert sender.granted.transmit == {None: credits}
    return credits * 5 * payload * 10**12 / (moments[-1] - moments[credits])


def over_a_socket(credits: int, payload: int) -> float:
    """The same over TCP on loopback, paced by the wall's clock."""

    async def main() -> float:
        async with asyncio.timeout(60):
            low = end_config("low", bb_credit=credits, speed=SPEED, distance_m=DISTANCE_M, port_name=1)
            high = end_config("high", bb_credit=8, port_name=2)
            async with await listen(("127.0.0.1", 0), low) as listener:
                here = await connect(listener.address, high)
                there = await listener.accept()
                await here.wait_for(lambda end: end.granted.transmit == {None: credits})
                moments: list[int] = []

                def take(arrived: FrameArrived[bytes], moment: int) -> None:
                    moments.append(moment)
                    there.end.release(arrived, moment)

                there.end._deliver = take
                record, count = plain_frame(bytes(payload)), credits * 4 + 1

                def send(end: LiveEnd, now_ps: int) -> None:
                    for _ in range(count):
                        end.submit(record, now_ps)

                here.call(send)
                await there.wait_for(lambda _: len(moments) == count)
                assert here.end.lateness.exact and there.end.lateness.exact
                await here.close()
                return credits * 3 * payload * 10**12 / (moments[-1] - moments[credits])

    return asyncio.run(main())


WAYS = [
    in_the_engine,
    on_a_live_link,
    pytest.param(over_a_socket, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("way", WAYS)
def test_the_gapless_reservation_carries_what_the_line_carries(way, payload: int) -> None:  # type: ignore[no-untyped-def]
    credits = granted(credits_needed(SPEED, DISTANCE_M, payload).credits_gapless)
    assert way(credits, payload) >= 0.99 * line_rate(payload)


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("percent", [10, 50, 90])
@pytest.mark.parametrize("way", WAYS[:2])
def test_a_smaller_reservation_carries_its_fraction(way, percent: int, payload: int) -> None:  # type: ignore[no-untyped-def]
    gapless = credits_needed(SPEED, DISTANCE_M, payload).credits_gapless
    credits = granted(gapless * percent // 100)
    expected = throughput_bytes_per_second(SPEED, credits, DISTANCE_M, payload)
    assert way(credits, payload) == pytest.approx(expected, rel=0.01)
    assert expected / line_rate(payload) == pytest.approx(percent / 100, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_smaller_reservation_carries_its_fraction_over_a_socket(payload: int) -> None:
    credits = granted(credits_needed(SPEED, DISTANCE_M, payload).credits_gapless // 2)
    expected = throughput_bytes_per_second(SPEED, credits, DISTANCE_M, payload)
    assert over_a_socket(credits, payload) == pytest.approx(expected, rel=0.01)


def test_without_a_reservation_the_others_leave_nothing() -> None:
    with pytest.raises(Refused) as refused:
        granted(0)
    assert refused.value.code is Code.NO_MEMORY
