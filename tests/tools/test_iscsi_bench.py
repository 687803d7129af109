"""The iSCSI benchmark judges what it measured, measures the real thing, and says what it cannot measure."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tools.bench import __main__ as bench
from tools.bench import iscsi_bench, iscsi_load
from tools.bench.iscsi_cases import COMPILED, PEER, PLAIN, SPEED_CASES, BarLine, speed_line
from tools.bench.iscsi_load import Load, Loader, LoadFailed, LoadMissing, Run, compile_load, median
from tools.bench.iscsi_targets import MeasuredTarget, TargetMissing, sancredit

FIRST = SPEED_CASES[0]


def run(iops: float, p99_us: float = 100.0, target_cpu: float = 100.0) -> Run:
    return Run(
        iops=iops,
        mbps=iops * 4096 / 1e6,
        p50_us=p99_us / 2,
        p99_us=p99_us,
        max_us=p99_us * 2,
        initiator_cpu=50,
        target_cpu=target_cpu,
    )


def test_a_case_is_met_when_speed_latency_and_the_plain_path_reach_their_bars() -> None:
    line = speed_line(FIRST, 5, {COMPILED: run(200), PLAIN: run(100), PEER: run(100)})
    assert (line.ratio, line.plain_ratio, line.p99_ratio, line.missed) == (2, 1, 1, ())
    assert line.verdict == "met"


@pytest.mark.parametrize(
    ("runs", "missed"),
    [
        ({COMPILED: run(199), PLAIN: run(100), PEER: run(100)}, ("speed",)),
        ({COMPILED: run(200, p99_us=111), PLAIN: run(100), PEER: run(100)}, ("p99",)),
        ({COMPILED: run(200), PLAIN: run(99), PEER: run(100)}, ("plain",)),
        ({COMPILED: run(1, p99_us=1e6), PLAIN: run(1), PEER: run(100)}, ("speed", "p99", "plain")),
    ],
)
def test_every_missed_bar_is_named(runs: dict[str, Run], missed: tuple[str, ...]) -> None:
    line = speed_line(FIRST, 5, runs)
    assert line.missed == missed
    assert line.verdict == "MISSED: " + ", ".join(missed)


def test_a_case_without_a_peer_is_not_called_met() -> None:
    assert speed_line(FIRST, 5, {COMPILED: run(200)}).verdict == "no peer"
    assert speed_line(FIRST, 5, {PEER: run(200)}).verdict == "not measured"


def test_the_per_core_ratio_takes_the_cpu_used_into_account() -> None:
    line = speed_line(FIRST, 5, {COMPILED: run(100, target_cpu=25), PEER: run(100, target_cpu=100)})
    assert (line.ratio, line.core_ratio) == (1, 4)


def test_a_bar_holds_in_its_own_direction() -> None:
    def line(value: float, at_least: bool) -> BarLine:
        return BarLine(case="x", value=value, unit="", bar=10, at_least=at_least)

    assert [line(value, True).met for value in (9.9, 10, 10.1)] == [False, True, True]
    assert [line(value, False).met for value in (9.9, 10, 10.1)] == [True, True, False]


def test_the_median_is_taken_of_each_figure_and_errors_are_added() -> None:
    runs = [run(1, p99_us=30), run(2, p99_us=10), run(9, p99_us=20)]
    found = median(runs)
    assert (found.iops, found.p99_us, found.errors) == (2, 20, 0)


def test_the_cases_are_those_of_the_issue() -> None:
    assert [(case.load.block_bytes >> 10, case.load.depth, case.load.sessions) for case in SPEED_CASES] == [
        *[(4, 32, 1)] * 2,
        *[(4, 32, 4)] * 2,
        *[(256, 8, 1)] * 2,
        (1024, 4, 1),
        (4, 1, 1),
    ]
    assert [case.bar for case in SPEED_CASES] == [2.0] * 7 + [0.95]
    assert SPEED_CASES[-1].least_rounds == 9


def test_a_missing_library_is_said_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "load.c"
    source.write_text("#include <iscsi/iscsi.h.not-there>\nint main(void) { return 0; }\n")
    monkeypatch.setattr(iscsi_load, "_SOURCE", source)
    if shutil.which("cc") or shutil.which("gcc"):
        with pytest.raises(LoadMissing, match=r"apt-get install .*libiscsi-dev"):
            compile_load(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LoadMissing, match=r"no C compiler.*apt-get install gcc"):
        compile_load(tmp_path)
    loader = Loader(program=None, core=0, seconds=1)
    with pytest.raises(LoadMissing, match="apt-get install"):
        loader.libiscsi(MeasuredTarget("x", 1, "127.0.0.1", 1, "iqn", 0), FIRST.load)


def test_options_go_to_one_benchmark_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["nothing"]) == 2
    assert "iscsi" in capsys.readouterr().err
    assert bench.main(["--quick"]) == 2
    assert bench.main(["credits", "iscsi", "--quick"]) == 2
    assert "is for one benchmark" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        iscsi_bench.main(["--targets", "nobody"])


def test_a_target_that_does_not_start_says_why(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    with (
        pytest.raises(TargetMissing, match=r"did not start: .*1000 bytes"),
        sancredit("x", tmp_path, core, 1000),
    ):
        raise AssertionError("it started")


@pytest.mark.slow
def test_a_target_that_ends_in_the_midst_is_told_apart_from_a_slow_one(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    with (
        pytest.raises(TargetMissing, match=r"x ended during the benchmark with -9"),
        sancredit("x", tmp_path, core, 1 << 20) as target,
    ):
        os.kill(target.pid, signal.SIGKILL)
        os.waitid(os.P_PID, target.pid, os.WEXITED | os.WNOWAIT)


def test_what_was_measured_is_shown_in_full() -> None:
    fast, slow = run(200_000, p99_us=90), run(100_000, p99_us=100)
    speeds = [speed_line(FIRST, 5, {COMPILED: fast, PLAIN: slow, PEER: slow})]
    bars = [BarLine(case="memory", value=300, unit="KiB", bar=256, at_least=False)]
    text = iscsi_bench._as_text(speeds, bars)
    for shown in (
        "200,000",
        "2.00",
        "≥ 2",
        "met",
        "45/90",
        "0.90",
        "100/50",
        "300.00 KiB",
        "≤ 256 KiB",
        "MISSED",
    ):
        assert shown in text
    figures = json.loads(iscsi_bench._as_json(speeds, bars))
    assert figures["speed"][0]["verdict"] == "met" and figures["bars"][0]["met"] is False


@pytest.fixture
def program(tmp_path: Path) -> Path:
    try:
        return compile_load(tmp_path)
    except LoadMissing as missing:
        pytest.skip(str(missing))


@pytest.mark.slow
def test_both_load_generators_measure_a_running_target(program: Path, tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    loader = Loader(program=program, core=core, seconds=0.3, warm_up=0.1, wait_s=0)
    with sancredit("x", tmp_path, core, 8 << 20) as target:
        assert target.resident_bytes() > 1 << 20
        load = Load(block_bytes=4096, depth=4, sessions=3, reads_percent=50)
        mixed = loader.libiscsi(target, load, "-V")
        assert mixed.iops > 0 and mixed.target_cpu > 0 and mixed.p50_us <= mixed.p99_us <= mixed.max_us
        assert 0 < mixed.least_session <= mixed.mean_session <= mixed.most_session
        digested = Load(block_bytes=4096, depth=4, header_digest=True, data_digest=True)
        assert loader.own(target, digested).iops > 0
        bounded = loader.libiscsi(target, load, "-n", "50", seconds=20)
        assert 50 <= bounded.commands <= 50 + 12  # and what was under way then


@pytest.mark.slow
def test_wrong_data_do_not_go_unnoticed(program: Path, tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    loader = Loader(program=program, core=core, seconds=0.2, warm_up=0.0, wait_s=0)
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    with sancredit("x", tmp_path, core, 1 << 20, lun=str(disk)) as target:
        everything = ("-V", "-n", "256")
        write = Load(block_bytes=4096, depth=4, sequential=True, reads_percent=0)
        read = Load(block_bytes=4096, depth=4, sequential=True)
        loader.libiscsi(target, write, *everything)
        loader.libiscsi(target, read, *everything)
        with disk.open("r+b") as file:  # one bit, behind the target's back
            file.seek(123_456)
            byte = file.read(1)[0]
            file.seek(123_456)
            file.write(bytes((byte ^ 1,)))
        with pytest.raises(LoadFailed, match="wrong data at byte 123456"):
            loader.libiscsi(target, read, *everything)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_benchmark_runs_and_prints_json(program: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tools.bench",
            "iscsi",
            "--quick",
            "--json",
            "--only",
            "QD 1",
            "--seconds",
            "1",
        ],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout[done.stdout.index("{") :])
    (line,) = figures["speed"]
    assert line["case"] == "4 KiB random read, QD 1"
    assert line["runs"][COMPILED]["iops"] > 0 and line["runs"][PLAIN]["iops"] > 0
    if PEER in line["runs"]:
        assert line["ratio"] == line["runs"][COMPILED]["iops"] / line["runs"][PEER]["iops"]
