"""What vendors published about buffers, ticks and distances, against what this project says of the same."""

from __future__ import annotations

import pytest

from credits import Code, Pool, PoolConfig, Refused, UnitKind
from credits.sizing import recommend
from fcsim.clock import TICKS_PER_METRE, TICKS_PER_SECOND, ticks_per_byte
from fcsim.engine.fabric_kernel import Engine
from fcsim.engine.fabric_state import BYTES, NEVER, FlowSpec, LinkSpec, lay_out
from fcsim.errors import InvalidScenario
from fcsim.fabric.plan import make_plan
from fcsim.fabric.results import report
from fcsim.fabric.scenario import BROCADE_CREDITS
from fcsim.fabric.scenario_file import read_scenario
from fcsim.fabric.simulation import simulate
from fcsim.fabric.switch_views import fos
from fcsim.fabric.toml_document import parse_document
from fcsim.port.group import PortGroup
from fcsim.port.waiting import SECOND_PS, TICK_PS, WaitHistory
from fcsim.speeds import SPEEDS, credits_needed, throughput_bytes_per_second

MS_PS = 10**9


def brocade_300() -> PortGroup:
    """676 buffers, of which each of the 24 ports has its 8."""
    ports = PortGroup(Pool(PoolConfig(name="asic", kind=UnitKind.FC, unit_bytes=2148, total_units=676)))
    for number in range(24):
        ports.log_in(f"port {number}", "device")
    return ports


def test_a_brocade_300_has_484_buffers_left_and_a_port_can_have_492() -> None:
    ports = brocade_300()
    assert ports.pool.statistics().free_units == 484
    assert ports.log_in("port 0", "device", 492).bb_credit == 492
    assert ports.pool.statistics().free_units == 0
    # FOS: (492 + 6) x 2 / 2 = 498 km at 2G, and its rule for that distance gives the 6 once more.
    assert credits_needed(SPEEDS["2G"], 498_000).rules["fos"] == 492 + 6 + 6


@pytest.mark.parametrize(("speed", "needed", "count"), [("8G", 206, 2), ("1G", 31, 21)])
def test_so_many_ports_of_a_brocade_300_reach_50_km(speed: str, needed: int, count: int) -> None:
    ports = brocade_300()
    assert credits_needed(SPEEDS[speed], 50_000).rules["fos"] == needed
    for number in range(count):
        ports.log_in(f"port {number}", "device", needed)
    with pytest.raises(Refused) as refused:
        ports.log_in(f"port {count}", "device", needed)
    assert refused.value.code is Code.NO_MEMORY
    assert ports.link(f"port {count}", "device").bb_credit == 8, "a refusal leaves the login before it"


@pytest.mark.parametrize(("speed", "km"), [("2G", 5), ("4G", 2), ("8G", 1)])
def test_l0_mode_reaches_as_far_as_the_five_credits_of_one_data_channel(speed: str, km: int) -> None:
    credits = BROCADE_CREDITS[2]
    assert credits == 5
    assert credits_needed(SPEEDS[speed], km * 1000).credits <= credits
    assert credits_needed(SPEEDS[speed], km * 1000 + 1000).credits > credits


@pytest.mark.parametrize(("speed", "per_km"), [("1G", 0.5), ("2G", 1), ("4G", 2)])
@pytest.mark.parametrize("km", [50, 100])
def test_half_a_credit_a_kilometre_and_gigabit_is_right_to_two_percent_and_a_half(
    speed: str, per_km: float, km: int
) -> None:
    """BCSM in a nutshell, 2008; a count has no parts, so 24.46 credits are 25."""
    assert credits_needed(SPEEDS[speed], km * 1000).credits == pytest.approx(per_km * km, rel=0.025)


@pytest.mark.parametrize(("data", "with_qos", "without"), [(100, 120, 106), (400, 420, 406)])
def test_buffers_for_other_channels_come_on_top(data: int, with_qos: int, without: int) -> None:
    """portCfgLongDistance -buffers: 6 for channels without data, 14 for those of QoS."""
    for qos, total in ((True, with_qos), (False, without)):
        sized = recommend("fos", unit_bytes=2148, distance_m=data * 1000, speed_gbit=2, qos=qos)
        assert sized.units == total


@pytest.mark.parametrize(("ticks", "seconds"), [(16_682_205, 41.7), (1_222_049_738, 3055)])
def test_ticks_of_2500_ns_are_so_many_seconds(ticks: int, seconds: float) -> None:
    history = WaitHistory()
    history.add(0, round(ticks * 2.5e-6 * SECOND_PS))
    assert history.ticks == ticks
    assert ticks * TICK_PS / SECOND_PS == pytest.approx(seconds, rel=2e-3)


def test_a_slowport_count_of_3_with_an_operational_delay_of_4_ms_is_12_of_100_ms() -> None:
    history = WaitHistory()
    for begin in (10, 40, 70):
        history.add(begin * MS_PS, (begin + 4) * MS_PS)
    assert history.total_ps == 12 * MS_PS
    assert history.shares(100 * MS_PS).last_1m == pytest.approx(0.12)


LS = """[fabric]
duration = "2ms"
[[switch]]
name = "a"
[[switch]]
name = "b"
buffers = 4000
[[isl]]
between = ["a", "b"]
distance = "100km"
speed = "{speed}"
bb_credit = 550
[[host]]
name = "h"
switch = "a"
[[host]]
name = "t"
switch = "b"
[[flow]]
from = "h"
to = "t"
"""


def test_550_buffers_for_100_km_are_530_for_data_and_20_and_enough_up_to_10g() -> None:
    """The LS sample of portBufferShow says no speed: 5.3 credits a km are more than 8G takes, and less than 10G."""
    data = 550 - 20
    assert (
        credits_needed(SPEEDS["8G"], 100_000).credits < data < credits_needed(SPEEDS["10G"], 100_000).credits
    )
    outcome = simulate(make_plan(read_scenario(parse_document(LS.format(speed="8G")))))
    shown = fos(report(outcome)["ports"])
    (line,) = [line.split() for line in shown.splitlines() if line.startswith("b/1 ")]
    assert line[:4] == ["b/1", "E", "LS", "550"]
    assert "100km" in line


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("distance_m", [0, 100, 1_000, 10_000, 100_000, 1_000_000])
def test_throughput_in_the_fabric_engine_falls_off_as_the_formula_says(speed: str, distance_m: int) -> None:
    """min(full, credits x payload / (RTT + frame)) to 0.1 %; an R_RDY takes no line time there."""
    byte = ticks_per_byte(SPEEDS[speed])
    for credits in (1, 2, 3, 8, 40, 300):
        for payload in (2112, 1024, 64):
            count = max(60 * credits, 3000)
            ends = ("host", 0), ("host", 1)
            links = [
                LinkSpec(*way, byte, distance_m * TICKS_PER_METRE, (credits,), r_rdy_bytes=0)
                for way in (ends, ends[::-1])
            ]
            flow = FlowSpec(0, to=1, low_bytes=payload, high_bytes=payload, count=count)
            state = lay_out(links, [flow], {}, hosts=2, switches=0)
            engine = Engine(state)
            engine.run(NEVER - 1, 10**9)
            # Time stops with the last R_RDY, a flight after the last frame; the first frame had to fly as well.
            gone = engine.now - 2 * distance_m * TICKS_PER_METRE
            rate = state.flow_counters[BYTES] * TICKS_PER_SECOND / gone
            expected = throughput_bytes_per_second(SPEEDS[speed], credits, distance_m, payload)
            # The last round trip is not waited for: count frames go in count / credits - 1 of them and a burst.
            frame = (payload + 60) * byte
            if credits * frame < 2 * distance_m * TICKS_PER_METRE + frame:
                rounds = count // credits
                ticks = (rounds - 1) * (2 * distance_m * TICKS_PER_METRE + frame) + credits * frame
                assert gone == ticks
                rate = (count - credits) * payload * TICKS_PER_SECOND / (gone - credits * frame)
            assert rate == pytest.approx(expected, rel=1e-3)


def test_an_r_rdy_of_no_length_or_too_much_is_told() -> None:
    link = LinkSpec(("host", 0), ("host", 1), 1, 0, (1,), r_rdy_bytes=65)
    with pytest.raises(InvalidScenario, match="R_RDY"):
        lay_out([link], [], {}, hosts=2, switches=0)
