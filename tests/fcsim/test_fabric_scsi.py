"""SCSI inside a simulated fabric: exact times, real device servers, faults, captures, and loads that make no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fcsim.clock import TICKS_PER_METRE, ps_of_ticks, ticks_per_byte
from fcsim.errors import InvalidScenario
from fcsim.fabric.capture import LINK_TYPE_FC_2_DELIMITED, LinkCapture
from fcsim.fabric.plan import make_plan
from fcsim.fabric.results import report
from fcsim.fabric.scenario_file import load_scenario, read_scenario
from fcsim.fabric.simulation import Outcome, TraceEvent, simulate
from fcsim.fabric.toml_document import parse_document
from fcsim.fcp.executor import FcpCommand, FcpResult
from fcsim.speeds import SPEEDS, throughput_bytes_per_second
from iscsi_target.trace.pcapng import PcapngWriter
from mgmt.fc.executor import LogicalUnitsExecutor
from mgmt.fc.fabric import device_server
from tests import twins
from tests.fcsim.test_fc_wire_tshark import run_tshark

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "fabric-scsi.toml"
TWO = """[fabric]
duration = "{duration}"
link_reset_after = "0s"
[[host]]
name = "a"
peer = "b"
speed = "8G"
distance = "{distance}"
bb_credit = {credit}
[[host]]
name = "b"
peer = "a"
speed = "8G"
distance = "{distance}"
bb_credit = {credit}
[[scsi]]
from = "a"
to = "b"
{load}
"""


def run(
    load: str,
    *,
    duration: str = "20ms",
    distance: str = "0m",
    credit: int = 16,
    faults: str = "",
    make: Any = device_server,
    **more: Any,
) -> Outcome:
    text = TWO.format(duration=duration, distance=distance, credit=credit, load=load) + faults
    return simulate(make_plan(read_scenario(parse_document(text))), make_executor=make, **more)


def row(outcome: Outcome) -> dict[str, Any]:
    (found,) = report(outcome)["scsi"]
    return dict(found)


@pytest.mark.parametrize("latency", ["0us", "30us"])
def test_a_read_takes_its_frames_and_the_way_there_and_back_to_the_tick(latency: str) -> None:
    """FCP_CMND (32 bytes), one FCP_DATA, FCP_RSP (24): each with 60 bytes around it."""
    outcome = run(f'depth = 1\ncommand = "2KiB"\nlatency = "{latency}"', distance="1km")
    byte = ticks_per_byte(SPEEDS["8G"])
    ticks = (32 + 2048 + 24 + 3 * 60) * byte + 2 * 1000 * TICKS_PER_METRE
    told = row(outcome)
    assert told["latency_mean_ps"] == told["latency_max_ps"] == ps_of_ticks(ticks) + int(latency[:-2]) * 10**6
    assert told["commands"] > 400
    assert told["failed_commands"] == 0


def test_a_write_waits_for_xfer_rdy() -> None:
    """FCP_CMND, FCP_XFER_RDY (12), four FCP_DATA, FCP_RSP."""
    told = row(run('depth = 1\ncommand = "8KiB"\nread_share = 0.0', distance="1km"))
    byte = ticks_per_byte(SPEEDS["8G"])
    ticks = (32 + 12 + 4 * 2048 + 24 + 7 * 60) * byte + 4 * 1000 * TICKS_PER_METRE
    assert told["latency_mean_ps"] == ps_of_ticks(ticks)
    assert told["writes"] == told["commands"] > 200


@pytest.mark.parametrize("credit", [8, 32])
def test_reads_flow_as_fast_as_the_initiators_credits_let_them(credit: int) -> None:
    load = 'depth = 64\ncommand = "64KiB"\npayload = 2048'
    told = row(run(load, distance="50km", credit=credit, duration="100ms"))
    data = throughput_bytes_per_second(SPEEDS["8G"], credit, 50_000, 2048)
    # A response in every 33 frames carries no data.
    assert told["throughput_bps"] / 8 == pytest.approx(data * 32 / 33, rel=0.05)


def test_what_was_written_is_read_back() -> None:
    told = row(run('read_share = 0.5\ncommand = "4KiB"\ncapacity = "1MiB"'))
    assert told["mismatches"] == told["failed_commands"] == 0
    assert min(told["reads"], told["writes"]) > 500


class Forgetful:
    """A disk that loses its memory."""

    def __init__(self, host: str, size: int) -> None:
        self.disk: LogicalUnitsExecutor = device_server(host, size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.disk, name)

    def execute(self, command: FcpCommand) -> FcpResult:
        result = self.disk.execute(command)
        if command.cdb[0] == 0x88:
            return FcpResult(result.status, bytes(len(result.data_in)), result.sense)
        return result


def test_what_is_read_and_was_not_written_shows() -> None:
    told = row(run('read_share = 0.5\ncommand = "4KiB"\ncapacity = "1MiB"', make=Forgetful))
    assert told["mismatches"] > 100


def test_a_lost_frame_costs_the_command_its_patience_and_the_others_go_on() -> None:
    faults = '[[fault]]\nkind = "lose-frames"\nport = "b"\ncount = 3\nfrom = "2ms"\n'
    told = row(run('depth = 4\ntimeout = "3ms"\ncommand = "16KiB"', faults=faults))
    assert 1 <= told["failed_commands"] <= 3
    assert told["mismatches"] == 0
    assert told["commands"] > 200


def test_a_bounced_link_ends_what_was_on_it_and_the_load_goes_on() -> None:
    faults = '[[fault]]\nkind = "link-bounce"\nlink = "a-b"\nfrom = "2ms"\nuntil = "4ms"\n'
    load = 'depth = 4\ntimeout = "3ms"\ncommand = "16KiB"\nread_share = 0.5\ncapacity = "1MiB"'
    told = row(run(load, faults=faults, distance="10km"))
    assert 1 <= told["failed_commands"] <= 4
    assert told["mismatches"] == 0
    assert told["commands"] > 200


def test_flows_and_scsi_share_a_link_and_a_storm_slows_the_commands() -> None:
    calm = row(run("depth = 4\nread_share = 0.0"))
    text = TWO.format(duration="20ms", distance="0m", credit=16, load="depth = 4\nread_share = 0.0")
    text += '[[flow]]\nfrom = "b"\nto = "a"\n[[flow]]\nfrom = "a"\nto = "b"\n'
    outcome = simulate(make_plan(read_scenario(parse_document(text))), make_executor=device_server)
    told = row(outcome)
    assert 0 < told["commands"] < calm["commands"]
    assert min(flow.delivered for flow in outcome.flows) > 1000


def test_compiled_and_plain_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = '[[fault]]\nkind = "corrupt-frames"\nlink = "a-b"\nprobability = 0.01\nfrom = "1ms"\n'
    load = 'read_share = 0.5\ncommand = "4KiB"\ntimeout = "1ms"'
    first = report(run(load, faults=faults, duration="5ms", distance="1km"))
    twin = twins.plain(
        "fcsim.engine.fabric_kernel",
        "fcsim.engine.fabric_memory_kernel",
        "fcsim.engine.fabric_traffic_kernel",
    )
    monkeypatch.setattr("fcsim.fabric.simulation.Engine", twin.Engine)
    assert report(run(load, faults=faults, duration="5ms", distance="1km")) == first
    assert first["scsi"][0]["failed_commands"] > 0


def test_a_captured_link_shows_the_commands(tmp_path: Path) -> None:
    plan = make_plan(load_scenario(EXAMPLE))
    path = tmp_path / "scsi.pcapng"
    with path.open("wb") as stream:
        writer = PcapngWriter(stream)
        writer.add_interface(LINK_TYPE_FC_2_DELIMITED)
        capture = LinkCapture(plan)

        def write(event: TraceEvent) -> None:
            for one in capture.record(event):
                writer.write(one.at_ns, one.data)

        traced = plan.directions_of("west-east")
        simulate(plan, until_ns=4_000_000, traced=traced, on_trace=write, make_executor=device_server)
    told = run_tshark(path, "-T", "fields", "-e", "_ws.col.Info", "-e", "_ws.malformed")
    assert "Read(16)" in told
    assert "Write(16)" in told
    assert "Malformed" not in told


def test_without_a_device_server_it_says_so() -> None:
    with pytest.raises(InvalidScenario, match="device server"):
        run("", make=None)


@pytest.mark.parametrize(
    ("load", "text"),
    [
        ('command = "100B"', "too little"),
        ('command = "1000"', "multiple of 512"),
        ("depth = 0", "1 to 256"),
        ('capacity = "1MiB"\ncommand = "2MiB"', "no room"),
        ("payload = 257", "multiple of 4"),
        ("read_share = 2", "0 to 1"),
        ("reads = 1", "no such setting"),
    ],
)
def test_a_load_that_makes_no_sense_is_one_line(load: str, text: str) -> None:
    with pytest.raises(InvalidScenario, match=text):
        run(load)


def test_a_target_that_nobody_reaches_is_told() -> None:
    text = '[[host]]\nname = "c"\npeer = "d"\n[[host]]\nname = "d"\npeer = "c"\n'
    document = TWO.format(duration="1ms", distance="0m", credit=1, load="") + text
    with pytest.raises(InvalidScenario, match="no way"):
        make_plan(read_scenario(parse_document(document.replace('to = "b"', 'to = "c"'))))
