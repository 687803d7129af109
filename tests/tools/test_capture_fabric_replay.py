"""Captured commands in a simulated fabric: what was simulated is predicted again, and other fabrics come true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fcsim.fabric.scenario import Arrival
from fcsim.fcp.executor import FcpCommand, FcpResult
from iscsi_target.running import serve
from mgmt.cli.fc_fabric import simulate as fc_simulate
from tests.tools.test_capture_replay import some_work
from tools.capture.fabric_replay.cli import simulate
from tools.capture.fabric_replay.device import CapturedDevice
from tools.capture.fabric_replay.load import LoadConfig, LoadError, read_load

FABRIC = """
[fabric]
duration = "60ms"
[[switch]]
name = "west"
[[switch]]
name = "east"
[[isl]]
between = ["west", "east"]
speed = "8G"
distance = "50km"
bb_credit = {credits}
[[host]]
name = "database"
switch = "west"
speed = "8G"
bb_credit = 64
[[host]]
name = "disk"
switch = "east"
speed = "8G"
bb_credit = 64
[[host]]
name = "other"
switch = "west"
speed = "8G"
[[scsi]]
from = "database"
to = "disk"
read_share = 0.5
command = "32KiB"
depth = 4
latency = "200us"
"""
FLOW = """
[[flow]]
from = "other"
to = "disk"
"""


def run(command: Any, *arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(command, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def found(*arguments: object) -> dict[str, Any]:
    code, text = run(simulate, *arguments, "-o", "json")
    assert code == 0, text
    told: dict[str, Any] = json.loads(text)
    return told


def mean_of(told: dict[str, Any], which: str) -> float:
    rows = [row for row in told["flows"] if row["kind"] != "other"]
    return float(
        sum(row["commands"] * row[which]["mean"] for row in rows) / sum(row["commands"] for row in rows)
    )


def fabric(folder: Path, credits: int, more: str = "") -> Path:
    path = folder / f"fabric-{credits}-{len(more)}.toml"
    path.write_text(FABRIC.format(credits=credits) + more)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fabric-replay")


@pytest.fixture(scope="module")
def fibre(folder: Path) -> Path:
    """A capture at the host of a fabric with credits enough."""
    path = folder / "fabric.pcapng"
    code, text = run(fc_simulate, fabric(folder, 300), "--pcap", path, "--link", "database-west")
    assert code == 0, text
    return path


@pytest.fixture(scope="module")
def iscsi(folder: Path) -> Path:
    import asyncio

    path = folder / "iscsi.pcapng"
    with serve("4MiB", capture=path, log_limit=None) as target:
        asyncio.run(some_work(target))
    return path


CAPTURED = ("--captured", "distance=50km,credits=300")


@pytest.mark.parametrize("wait", [(), ("--wait",)])
def test_a_simulated_fabric_is_predicted_as_it_was(folder: Path, fibre: Path, wait: tuple[str, ...]) -> None:
    told = found(fibre, "--fabric", fabric(folder, 300), *CAPTURED, *wait)
    kinds = {row["kind"]: row for row in told["flows"]}
    assert set(kinds) == {"read", "write", "other"}
    assert told["unanswered"] == 0
    for row in kinds.values():
        for part in ("min", "p50", "p99", "mean"):
            assert row["predicted_ns"][part] == pytest.approx(row["measured_ns"][part], rel=0.02)


@pytest.mark.parametrize("credits", [16, 32])
def test_what_is_predicted_of_fewer_credits_comes_true(folder: Path, fibre: Path, credits: int) -> None:
    scenario = fabric(folder, credits)
    code, text = run(fc_simulate, scenario, "-o", "json")
    assert code == 0, text
    truth = json.loads(text)["scsi"][0]["latency_mean_ps"] / 1000
    told = found(fibre, "--fabric", scenario, *CAPTURED, "--wait")
    assert mean_of(told, "predicted_ns") == pytest.approx(truth, rel=0.1)
    assert truth > 1.1 * mean_of(told, "measured_ns"), "else it would be no prediction"


def test_without_waiting_what_does_not_fit_piles_up(folder: Path, fibre: Path) -> None:
    scenario = fabric(folder, 16)
    open_loop = found(fibre, "--fabric", scenario, *CAPTURED)
    closed = found(fibre, "--fabric", scenario, *CAPTURED, "--wait")
    assert mean_of(open_loop, "predicted_ns") > 2 * mean_of(closed, "predicted_ns")


def test_the_other_loads_of_the_scenario_go_on_beside_it(folder: Path, fibre: Path) -> None:
    alone = found(fibre, "--fabric", fabric(folder, 300), *CAPTURED, "--limit", 40)
    beside = found(fibre, "--fabric", fabric(folder, 300, FLOW), *CAPTURED, "--limit", 40)
    assert alone["fabric"]["flows"] == []
    assert beside["fabric"]["flows"][0]["delivered_frames"] > 1000
    assert mean_of(beside, "predicted_ns") > mean_of(alone, "predicted_ns") + 10_000


def test_an_iscsi_capture_makes_a_load_with_its_times_and_sizes(folder: Path, iscsi: Path) -> None:
    load = read_load([iscsi], LoadConfig())
    times = [one.at_ns for one in load.arrivals]
    assert times == sorted(times)
    assert times[0] == 0
    moved = [(source.kind, one) for source, one in zip(load.sources, load.arrivals, strict=True)]
    assert sum(source.kind != "other" and source.status == 0 for source in load.sources) == 64
    assert all(
        one.cdb[0] in (0x28, 0x88) and one.read_bytes % 4096 == 0 for kind, one in moved if kind == "read"
    )
    assert all(one.write_bytes % 4096 == 0 and one.write_bytes for kind, one in moved if kind == "write")
    halved = read_load([iscsi], LoadConfig(speed=2))
    assert [one.at_ns for one in halved.arrivals] == [round(at / 2) for at in times]
    told = found(iscsi, "--fabric", fabric(folder, 300))
    assert told["unanswered"] == 0
    least = {row["kind"]: row["predicted_ns"]["min"] for row in told["flows"]}
    assert least["read"] >= 500_000, "there and back over 50 km"
    assert least["write"] >= 1_000_000, "FCP_XFER_RDY first"


def test_the_table_has_a_row_for_each_kind_and_says_what_is_wrong_with_the_fabric(
    folder: Path, fibre: Path
) -> None:
    code, text = run(simulate, fibre, "--fabric", fabric(folder, 16), *CAPTURED, "--limit", 100)
    assert code == 0, text
    assert [line.split()[2] for line in text.splitlines()[1:4]] == ["other", "read", "write"]
    assert "distance-short" in text
    assert "left out:" in text


class Nothing:
    """A device server that knows none of it."""

    def data_out_length(self, command: FcpCommand) -> int:
        return 0

    def execute(self, command: FcpCommand) -> FcpResult:
        return FcpResult(0x02)

    def reset(self, initiator: int, lun: bytes | None) -> bool:
        return False


def test_the_captured_device_answers_in_the_captured_order_and_leaves_others_to_the_one_behind() -> None:
    lun, cdb = bytes(8), bytes((0x28,)).ljust(16, b"\0")
    arrival = Arrival(0, lun, cdb, read_bytes=512)
    device = CapturedDevice(7, [(arrival, 0x08), (arrival, 0)], Nothing())
    known = FcpCommand(7, lun, cdb, read=True, data_length=512)
    assert [device.execute(known).status for _ in range(3)] == [0x08, 0, 0]
    assert device.execute(known).data_in == bytes(512)
    assert device.execute(FcpCommand(8, lun, cdb, read=True, data_length=512)).status == 0x02
    assert device.execute(FcpCommand(7, lun, cdb, read=True, data_length=1024)).status == 0x02


@pytest.mark.parametrize("wrong", [{"speed": 0.0}, {"speed": float("nan")}, {"limit": 0}])
def test_a_load_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(LoadError):
        LoadConfig(**wrong)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--from", "nobody"), "no host 'nobody'; there are database, disk, other"),
        (("--from", "disk"), "between which hosts"),
        (("--from", "disk", "--to", "disk"), "cannot be its own target"),
        (("--initiator", "iqn.2026-11.example:nobody"), "sent no commands; the capture has"),
        (("--speed", "0"), "not between"),
        (("--captured", "colour=red"), "there is no setting"),
        (("--captured", "distance"), "write NAME=VALUE"),
    ],
)
def test_bad_input_gets_one_line(folder: Path, fibre: Path, arguments: tuple[str, ...], why: str) -> None:
    code, text = run(simulate, fibre, "--fabric", fabric(folder, 300), *arguments)
    assert (code, text.count("\n")) == (2, 1), text
    assert why in text


def test_a_scenario_that_is_none_and_a_capture_that_is_none_are_said(folder: Path, fibre: Path) -> None:
    (folder / "none.toml").write_text("[fabric\n")
    assert run(simulate, fibre, "--fabric", folder / "none.toml")[0] == 2
    code, text = run(simulate, folder / "none.toml", "--fabric", fabric(folder, 300))
    assert (code, text.count("\n")) == (2, 1), text
    assert "neither a pcapng nor a pcap file" in text
