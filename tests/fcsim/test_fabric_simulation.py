"""Fabrics simulated: published numbers, slow drains, losses and their recovery, and what must be conserved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcsim.engine.sweep import run_sweep
from fcsim.errors import InvalidScenario
from fcsim.fabric.plan import make_plan
from fcsim.fabric.results import findings, report, series_rows
from fcsim.fabric.scenario_file import read_scenario
from fcsim.fabric.simulation import Outcome, TraceEvent, simulate
from fcsim.fabric.toml_document import Document, load_document, parse_document
from fcsim.fabric.variation import changed, make_runs, parse_variation, run_one
from fcsim.speeds import SPEEDS, throughput_bytes_per_second
from tests import twins

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
TWO_HOSTS = """[fabric]
duration = "{duration}"
[[host]]
name = "a"
peer = "b"
speed = "{speed}"
distance = "{distance}"
bb_credit = {credit}
bb_sc_n = {bb_sc_n}
[[host]]
name = "b"
peer = "a"
speed = "{speed}"
distance = "{distance}"
bb_credit = {credit}
bb_sc_n = {bb_sc_n}
[[flow]]
from = "a"
to = "b"
{flow}
"""


BESIDE_A_SWITCH = """[fabric]
duration = "20ms"
[[switch]]
name = "s"
[[host]]
name = "a"
switch = "s"
bb_sc_n = 8
[[host]]
name = "b"
switch = "s"
[[flow]]
from = "a"
to = "b"
frames = 1000
"""


def two_hosts(
    *,
    duration: str = "20ms",
    speed: str = "8G",
    distance: str = "0m",
    credit: int = 16,
    bb_sc_n: int = 0,
    flow: str = "",
    faults: str = "",
) -> Document:
    text = TWO_HOSTS.format(
        duration=duration, speed=speed, distance=distance, credit=credit, bb_sc_n=bb_sc_n, flow=flow
    )
    return parse_document(text + faults)


def run(document: Document, **options: Any) -> Outcome:
    return simulate(make_plan(read_scenario(document)), **options)


def port(outcome: Outcome, name: str) -> dict[str, Any]:
    return next(row for row in report(outcome)["ports"] if row["name"] == name)


def flow(outcome: Outcome, name: str) -> dict[str, Any]:
    return next(row for row in report(outcome)["flows"] if row["name"] == name)


def lose(kind: str, count: int, extra: str = "") -> str:
    return f'[[fault]]\nkind = "{kind}"\nport = "a"\ncount = {count}\n{extra}'


@pytest.mark.parametrize(
    ("speed", "credit", "distance_km", "published_mb"),
    [
        ("2G", 8, 50, 33.1),
        ("4G", 16, 10, 321.5),
        ("8G", 16, 50, 67.2),
        ("8G", 8, 2, 749.1),
        ("1G", 48, 180, 55.7),
    ],
)
def test_throughput_falls_off_as_the_formula_says(
    speed: str, credit: int, distance_km: int, published_mb: float
) -> None:
    """The reference's section 4: min(full, credits x payload / (RTT + frame)), to 0.1 % beside the R_RDY's own word."""
    outcome = run(two_hosts(speed=speed, credit=credit, distance=f"{distance_km}km", duration="100ms"))
    exact = throughput_bytes_per_second(SPEEDS[speed], credit, distance_km * 1000)
    assert exact / 1e6 == pytest.approx(published_mb, abs=0.06)
    # The first frames arrive a trip late, and the last window may be cut.
    windows = 0.1 / (10e-6 * distance_km + 2172 / SPEEDS[speed].bytes_per_second)
    tolerance = 0.001 + 1.5 / windows
    assert port(outcome, "a")["throughput_bps"] / 8 == pytest.approx(exact, rel=tolerance)


def test_a_cable_too_long_for_its_credits_is_found_with_what_it_costs() -> None:
    row = port(run(two_hosts(credit=16, distance="50km")), "a")
    assert (row["verdict"], row["needed_credits"], row["missing_credits"]) == ("distance-short", 196, 180)
    assert "180 credits short" in row["why"] and "759.3 of 826.5 MB/s are lost" in row["why"]


def test_a_slow_drain_starves_others_and_virtual_channels_prevent_it() -> None:
    without = run(load_document(EXAMPLES / "fabric-slow-drain.toml"))
    with_channels = run(load_document(EXAMPLES / "fabric-slow-drain-vc.toml"))
    # 5 ms as fast as it goes, then a frame in 50 us.
    assert flow(without, "backups")["delivered_frames"] == pytest.approx(1960 + 300, abs=10)
    assert flow(without, "queries")["throughput_bps"] < 0.2 * flow(with_channels, "queries")["throughput_bps"]
    assert flow(with_channels, "queries")["throughput_bps"] / 8 > 1.4e9
    # The cause comes first, and the others point to it.
    causes = findings(report(without))
    assert (causes[0]["name"], causes[0]["verdict"], causes[0]["behind"]) == ("east/0", "credit-stall", [])
    assert port(without, "west/2")["behind"] == ["east/0"]
    assert port(without, "database")["behind"] == ["west/2"]


def test_a_link_in_r_rdy_mode_shares_its_credits_between_the_virtual_channels_behind_it() -> None:
    """A host that sends to a slow and to a fast disk blocks itself: its own link has no channels."""
    document = load_document(EXAMPLES / "fabric-slow-drain-vc.toml")
    one_sender = changed(document, "flow.backups.from", "database")
    both = run(one_sender)
    assert flow(both, "queries")["throughput_bps"] < 0.3 * flow(run(document), "queries")["throughput_bps"]
    assert port(both, "database")["in_use_peak_credits"] == 8


def test_frames_that_wait_longer_than_the_hold_time_are_discarded() -> None:
    document = load_document(EXAMPLES / "fabric-slow-drain.toml")
    document = changed(changed(document, "host.slow.hold_time", "500us"), "fault.service_time", "2ms")
    outcome = run(document)
    assert port(outcome, "east/0")["discards"] > 10
    assert port(outcome, "west/2")["discards"] == 0
    plenty, backups = flow(outcome, "queries"), flow(outcome, "backups")
    assert backups["sent_frames"] - backups["delivered_frames"] > port(outcome, "east/0")["discards"]
    assert (
        plenty["delivered_frames"]
        > flow(run(load_document(EXAMPLES / "fabric-slow-drain.toml")), "queries")["delivered_frames"]
    )


# -- BB_SC_N ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lose-frames", "lose-r-rdys"])
def test_lost_credits_come_back_at_the_next_boundary(kind: str) -> None:
    """N = 8: three of 256 frames, or R_RDYs, lost are found, and given back."""
    outcome = run(two_hosts(bb_sc_n=8, flow="frames = 1000", faults=lose(kind, 3)))
    row = port(outcome, "a")
    assert (row["lost_credits"], row["recovered_credits"], row["link_resets"]) == (3, 3, 0)
    assert row["tx_remaining_credits"] == 16
    assert row["corrupted_frames"] == 0
    assert row["verdict"] == "lost credit"


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("place", ["between two hosts", "into a switch"])
def test_a_frame_with_a_bad_crc_is_dropped_and_its_credit_comes_back(
    place: str, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R_RDY says that a buffer is free, whatever became of the frame (FC-FS, buffer-to-buffer flow control)."""
    if plain:
        twin = twins.plain(
            "fcsim.engine.fabric_kernel",
            "fcsim.engine.fabric_memory_kernel",
            "fcsim.engine.fabric_traffic_kernel",
        )
        monkeypatch.setattr("fcsim.fabric.simulation.Engine", twin.Engine)
    if place == "between two hosts":
        document = two_hosts(bb_sc_n=8, flow="frames = 1000", faults=lose("corrupt-frames", 3))
    else:
        document = parse_document(BESIDE_A_SWITCH + lose("corrupt-frames", 3))
    outcome = run(document)
    row = port(outcome, "a")
    assert (row["lost_credits"], row["recovered_credits"], row["link_resets"]) == (0, 0, 0)
    assert row["tx_remaining_credits"] == row["bb_credit"]
    assert row["corrupted_frames"] == 3
    assert flow(outcome, "flow1")["delivered_frames"] == 997


def test_exactly_256_lost_in_a_window_of_256_are_not_seen() -> None:
    outcome = run(two_hosts(credit=300, bb_sc_n=8, flow="frames = 1024", faults=lose("lose-r-rdys", 256)))
    row = port(outcome, "a")
    assert (row["lost_r_rdys"], row["recovered_credits"], row["tx_remaining_credits"]) == (256, 0, 44)
    assert flow(outcome, "flow1")["delivered_frames"] == 1024


def test_without_recovery_credits_stay_lost_until_a_link_reset() -> None:
    document = two_hosts(credit=4, flow="frames = 100", faults=lose("lose-r-rdys", 4), duration="50ms")
    stuck = run(document)
    assert flow(stuck, "flow1")["delivered_frames"] == 4
    assert port(stuck, "a")["tx_remaining_credits"] == 0
    reset = run(changed(document, "fabric.link_reset_after", "10ms"))
    assert flow(reset, "flow1")["delivered_frames"] == 100
    assert (port(reset, "a")["link_resets"], port(reset, "a")["tx_remaining_credits"]) == (1, 4)


def test_a_bounced_link_loses_what_was_on_it_and_comes_back_with_all_credits() -> None:
    bounce = '[[fault]]\nkind = "link-bounce"\nlink = "a-b"\nfrom = "5ms"\nuntil = "10ms"\n'
    document = two_hosts(distance="50km", credit=200, faults=bounce)
    outcome = run(document)
    row = port(outcome, "a")
    assert row["discards"] > 0
    whole = port(run(two_hosts(distance="50km", credit=200)), "a")
    assert row["tx_frames"] == pytest.approx(0.75 * whole["tx_frames"], rel=0.02)
    quiet = [s for s in series_rows(outcome) if s["port"] == "a" and 5.2e9 < s["at_ps"] < 9.9e9]
    assert quiet and all(sample["throughput_bps"] == 0 for sample in quiet)


# -- the rest -----------------------------------------------------------------------------------------------------


def test_equal_links_between_two_switches_are_all_used_and_a_trunk_is_one_link() -> None:
    def text(trunk: str) -> str:
        hosts = "".join(
            f'[[host]]\nname = "h{n}"\nswitch = "s{n % 2 + 1}"\nspeed = "8G"\nbb_credit = 20\n'
            for n in range(8)
        )
        return (
            '[fabric]\nduration = "5ms"\n[[switch]]\nname = "s1"\n[[switch]]\nname = "s2"\n'
            f'{hosts}[[isl]]\nbetween = ["s1", "s2"]\nspeed = "8G"\ncount = 4\n{trunk}'
            '[[flow]]\nfrom = ["h0", "h2", "h4", "h6"]\nto = ["h1", "h3", "h5", "h7"]\n'
        )

    several = run(parse_document(text("")))
    sent = [row["tx_frames"] for row in report(several)["ports"] if row["type"] == "E"]
    assert len(sent) == 8 and all(sent[::2]) and not any(sent[1::2])
    trunk = run(parse_document(text("trunk = true\n")))
    (member,) = [row for row in report(trunk)["ports"] if row["name"] == "s1/4"]
    assert (member["members"], member["bb_credit"]) == (4, 64)
    assert report(trunk)["throughput_bps"] / 8 == pytest.approx(4 * 826.5e6, rel=0.02)


def test_a_hot_spot_gets_its_share_and_a_seed_repeats_itself() -> None:
    hosts = "".join(f'[[host]]\nname = "h{n}"\nswitch = "s"\n' for n in range(6))
    text = (
        f'[fabric]\nduration = "10ms"\n[[switch]]\nname = "s"\n{hosts}'
        '[[flow]]\nfrom = ["h1", "h2", "h3"]\nto = "any"\nhot = "h0"\nhot_share = 0.6\nrate = "800Mbit"\n'
    )
    outcome = run(parse_document(text))
    received = {row["peer"]: row["tx_frames"] for row in report(outcome)["ports"] if row["type"] == "F"}
    assert received["h0"] / sum(received.values()) == pytest.approx(0.6 + 0.4 / 5, abs=0.05)
    assert report(outcome) == report(run(parse_document(text)))
    assert report(outcome) != report(run(parse_document(text), seed=2))


def test_a_traced_link_tells_its_events_in_the_order_of_time() -> None:
    told: list[TraceEvent] = []
    document = two_hosts(distance="1km", flow="frames = 3000", credit=20)
    plan = make_plan(read_scenario(document))
    outcome = simulate(plan, traced=plan.directions_of("a-b"), on_trace=told.append)
    assert sum(event.frame for event in told) == 3000 == outcome.directions[0].tx_frames
    assert sum(not event.frame for event in told) == 3000
    assert [event.at_ticks for event in told] == sorted(event.at_ticks for event in told)
    untraced = simulate(plan)
    assert untraced.directions == outcome.directions


def test_a_trace_longer_than_its_room_is_told_whole() -> None:
    told: list[TraceEvent] = []
    plan = make_plan(read_scenario(two_hosts(speed="128G", flow="payload = 0", duration="1ms", credit=50)))
    outcome = simulate(plan, traced=[0], on_trace=told.append)
    assert sum(event.frame for event in told) == outcome.directions[0].tx_frames > 100_000


def test_too_many_samples_are_refused_with_the_least_that_fits() -> None:
    document = changed(two_hosts(duration="1s"), "fabric.sample", "10ns")
    with pytest.raises(InvalidScenario, match="take at least 50000ns"):
        read_scenario(document)


@pytest.mark.slow
def test_a_sweep_gives_every_run_its_own_row_on_several_processes() -> None:
    document = two_hosts(distance="10km", duration="2ms")
    runs = make_runs(document, [parse_variation("host.bb_credit=4,8,60")])
    rows = run_sweep(run_one, runs, workers=2)
    assert [row["host.bb_credit"] for row in rows] == [4, 8, 60]
    assert rows == [run_one(each) for each in runs]
    rates = [int(row["throughput_bps"]) for row in rows]
    assert rates[0] < rates[1] < rates[2]


def test_a_sweep_with_a_value_that_makes_no_sense_never_begins() -> None:
    with pytest.raises(InvalidScenario, match="from 1 to 65535"):
        make_runs(two_hosts(), [parse_variation("host.bb_credit=4,0")])


@settings(max_examples=25)
@given(
    st.integers(1, 40),
    st.integers(0, 30),
    st.sampled_from([0, 2, 5]),
    st.sampled_from(["lose-frames", "lose-r-rdys", "corrupt-frames", "slow-receiver", "link-bounce"]),
    st.floats(0, 0.2),
    st.integers(0, 2**31 - 1),
)
def test_every_frame_and_every_credit_is_accounted_for(
    credit: int, distance_km: int, bb_sc_n: int, kind: str, probability: float, seed: int
) -> None:
    """granted = remaining + lost and not recovered, once nothing is on its way; sent = delivered + lost + dropped."""
    what = {
        "slow-receiver": 'port = "b"\nservice_time = "20us"\n',
        "link-bounce": 'link = "a-b"\n',
    }.get(kind, f'link = "a-b"\nprobability = {probability}\n')
    faults = f'[[fault]]\nkind = "{kind}"\n{what}from = "1ms"\nuntil = "2ms"\n'
    document = two_hosts(
        duration="1s",
        distance=f"{distance_km}km",
        credit=credit,
        bb_sc_n=bb_sc_n,
        flow="frames = 3000\npayload = [0, 2112]",
        faults=faults,
    )
    outcome = run(changed(document, "fabric.link_reset_after", "0s"), seed=seed)
    counted, row = outcome.directions[0], port(outcome, "a")
    lost = counted.lost_frames + counted.corrupted_frames
    if not counted.tx_frames == outcome.flows[0].sent == 3000:
        assert row["tx_remaining_credits"] == 0  # so much was lost that nothing moves any more
    assert outcome.flows[0].sent == outcome.flows[0].delivered + lost + counted.discards
    if kind != "link-bounce":
        missing = row["lost_credits"] - row["recovered_credits"]
        assert row["bb_credit"] == row["tx_remaining_credits"] + missing
    else:
        assert row["tx_remaining_credits"] == row["bb_credit"]
