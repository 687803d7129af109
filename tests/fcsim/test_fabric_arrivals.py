"""Loads with arrivals in a simulated fabric: commands at their times, a target that takes its time, to the tick."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fcsim.clock import TICKS_PER_METRE, TICKS_PER_NS, ticks_per_byte
from fcsim.fabric.plan import make_plan
from fcsim.fabric.scenario import Arrival
from fcsim.fabric.scenario_file import read_scenario
from fcsim.fabric.simulation import Outcome, simulate
from fcsim.fabric.toml_document import parse_document
from fcsim.fcp.executor import FcpCommand, FcpResult
from fcsim.speeds import SPEEDS
from tests.fcsim.test_fabric_scsi import TWO

_LUN, _CDB = bytes(8), bytes(16)
_US = 1000
_AROUND = 60


class Zeros:
    """Answers as long as it is asked, good; nothing comes of nothing."""

    def __init__(self, host: str, size: int) -> None:
        self.commands = 0

    def data_out_length(self, command: FcpCommand) -> int:
        return command.data_length if command.write else 0

    def execute(self, command: FcpCommand) -> FcpResult:
        self.commands += 1
        return FcpResult(0, bytes(command.data_length) if command.read else b"", b"", command.data_length)

    def reset(self, initiator: int, lun: bytes | None) -> bool:
        return True


def run(*arrivals: Arrival, distance: str = "1km", credit: int = 64, flow: str = "") -> Outcome:
    text = TWO.format(duration="200ms", distance=distance, credit=credit, load="") + flow
    scenario = read_scenario(parse_document(text))
    load = replace(scenario.scsi[0], arrivals=arrivals)
    return simulate(make_plan(replace(scenario, scsi=(load,))), make_executor=Zeros)


def latencies(outcome: Outcome) -> list[int]:
    (counted,) = outcome.scsi
    assert counted.commands == len(counted.latencies)
    return list(counted.latencies)


BYTE = ticks_per_byte(SPEEDS["8G"])
WAY = 1000 * TICKS_PER_METRE


def test_a_read_takes_its_frames_the_way_and_the_targets_time_to_the_tick() -> None:
    (took,) = latencies(run(Arrival(7 * _US, _LUN, _CDB, read_bytes=2048, served_ns=30 * _US)))
    assert took == (32 + 2048 + 24 + 3 * _AROUND) * BYTE + 2 * WAY + 30 * _US * TICKS_PER_NS


def test_a_write_waits_for_xfer_rdy_and_for_what_the_target_does_at_its_end() -> None:
    write = Arrival(0, _LUN, _CDB, write_bytes=8192, served_ns=30 * _US, finished_ns=50 * _US)
    (took,) = latencies(run(write))
    frames = (32 + 12 + 4 * 2048 + 24 + 7 * _AROUND) * BYTE
    assert took == frames + 4 * WAY + 80 * _US * TICKS_PER_NS


def test_a_command_without_data_takes_two_frames() -> None:
    (took,) = latencies(run(Arrival(0, _LUN, _CDB)))
    assert took == (32 + 24 + 2 * _AROUND) * BYTE + 2 * WAY


def test_commands_are_sent_at_their_times_whatever_is_under_way() -> None:
    slow, quick = Arrival(0, _LUN, _CDB, served_ns=900 * _US), Arrival(100 * _US, _LUN, _CDB)
    first, second = latencies(run(slow, quick))
    assert second == first - 900 * _US * TICKS_PER_NS


def test_a_command_waits_for_those_that_have_to_end_before_it() -> None:
    slow = Arrival(0, _LUN, _CDB, served_ns=900 * _US)
    later = Arrival(100 * _US, _LUN, _CDB, after=1, rank=1)
    outcome = run(slow, later)
    first, second = latencies(outcome)
    assert second < first / 2, "its time counts from when it was sent"
    assert outcome.scsi[0].last_ticks == first + second


@pytest.mark.parametrize("credit", [2, 64])
def test_more_commands_than_exchanges_are_all_answered_and_the_wait_for_one_counts(credit: int) -> None:
    found = latencies(run(*(Arrival(0, _LUN, _CDB, read_bytes=512) for _ in range(1500)), credit=credit))
    assert len(found) == 1500
    assert found == sorted(found)
    assert found[-1] > 1500 * (512 + 24 + 2 * _AROUND) * BYTE


def test_the_run_ends_with_the_last_answer_though_other_frames_go_on() -> None:
    flow = '[[flow]]\nfrom = "a"\nto = "b"\nrate = "100Mbit"\n'
    outcome = run(Arrival(5000 * _US, _LUN, _CDB, read_bytes=4096), flow=flow)
    assert 5000 * _US * TICKS_PER_NS < outcome.end_ticks < 8000 * _US * TICKS_PER_NS
    assert outcome.flows[0].delivered > 20
