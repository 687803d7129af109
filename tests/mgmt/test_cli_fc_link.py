"""``sancredit fc link`` and ``sancredit fc fcoe``: real processes, at both ends of a socket or of a veth pair."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fcsim.speeds import SPEEDS, throughput_bytes_per_second
from mgmt.cli.main import main
from tests.fcsim.test_fcoe_shell import needs_a_namespace

SANCREDIT = [sys.executable, "-m", "mgmt.cli"]


@contextmanager
def serving(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``fc link serve`` in a process of its own, and its first line."""
    with subprocess.Popen(
        [*SANCREDIT, "fc", "link", "serve", *words], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        try:
            yield child, child.stdout.readline()
        finally:
            child.terminate()


@pytest.mark.slow
def test_a_load_over_the_link_is_compared_and_its_rate_is_the_formulas(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, capture = tmp_path / "link", tmp_path / "link.pcapng"
    link = ["--speed", "8G", "--distance", "100km", "--credits", "64", "--bb-sc-n", "8", "--once"]
    link += ["--time-scale", "100"]  # a machine that is busy now would choose a larger one, and take minutes
    with serving(str(path), *link, "--lun", "4MiB") as (child, line):
        assert line.startswith(f"listening fc-link://{path} 8G 100000 m, BB_Credit 64, link time ")
        words = ["fc", "link", "load", str(path), "--write", "2MiB", "--read", "2MiB", "--depth", "32"]
        words += ["--reserve", "48", "--capture", str(capture), "--bb-sc-n", "8", "--credits", "100"]
        assert main([*words, "-o", "json"]) == 0
        assert child.wait(60) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["bb_credit"], answer["rx_bb_credit"], answer["exact"]) == (64, 100, True)
    write, read = answer["runs"]
    assert (write["direction"], write["payload_bytes"], write["commands"]) == ("write", 2 << 20, 32)
    # Reads are limited by what this end granted, writes by what it reserved; round trips of the commands come on top.
    for run, credits in ((write, 48), (read, 100)):
        most = throughput_bytes_per_second(SPEEDS["8G"], credits, 100_000, 2112)
        assert 0.6 * most < run["payload_bytes_per_second"] < 1.01 * most
    assert capture.stat().st_size > 4 << 20
    assert not path.exists()


@pytest.mark.slow
def test_lost_r_rdys_are_recovered_while_the_load_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "link"
    with serving(str(path), "--distance", "10km", "--bb-sc-n", "4", "--lose-r-rdys", "0.02") as (child, _):
        words = ["fc", "link", "load", str(path), "--write", "1MiB", "--read", "64KiB", "--bb-sc-n", "4"]
        assert main([*words, "-o", "json"]) == 0
        child.terminate()
        assert child.wait(60) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["recovered_credits"] > 0
    assert answer["link_resets"] == 0
    assert answer["verdict"] in ("lost credit", "distance-short")


@pytest.mark.slow
def test_a_load_whose_frames_get_lost_sends_commands_again_and_is_compared_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "link"
    losing = ["--bb-sc-n", "6", "--lose-frames", "0.003"]
    # With these seeds frames 26, 218, 245 and 443 of the initiator's get lost, and 130 and 422 of the target's.
    with serving(str(path), "--distance", "1km", "--time-scale", "100", *losing, "--seed", "7"):
        words = ["fc", "link", "load", str(path), "--write", "1MiB", "--read", "1MiB", *losing]
        assert main([*words, "--seed", "5", "-o", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    # 549 go where nothing is lost: data, commands, a flush, logins. A WRITE of 33 that lost one goes again as a whole.
    assert answer["tx_frames"] > 549 + 33
    assert answer["recovered_credits"] > 0, "of the target's lost frames; BB_SCs told"
    assert [run["payload_bytes"] for run in answer["runs"]] == [1 << 20, 1 << 20]


@pytest.mark.slow
def test_an_echo_tells_the_links_round_trip_and_leaves_the_link_to_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "link"
    with serving(str(path), "--speed", "16G", "--distance", "50km", "--credits", "9"):
        assert main(["fc", "link", "echo", str(path), "--count", "3", "-o", "json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["rtt_ns"], answer["bandwidth_bps"]) == (500_000, 13_600_000_000)
        assert (answer["sent"], answer["lost"], answer["bb_credit"]) == (3, 0, 9)
        assert [one["waited_ps"] // 1000 for one in answer["echoes"]] == [0, 0, 0]
        assert main(["fc", "link", "echo", str(path), "--count", "2"]) == 0
        table = capsys.readouterr().out
        assert "500.000us" in table and "16G, round trip 500.000 \N{MICRO SIGN}s (50.000 km)" in table
        assert max(map(len, table.splitlines())) <= 110


@pytest.mark.slow
@pytest.mark.parametrize(
    ("style", "lines"),
    [
        ("fos", ["tim_txcrd_z", "Time TX Credit Zero (2.5Us ticks)"]),
        (
            "nxos",
            ["Transmit B2B Credit is 24", "Receive B2B Credit is 40", "24 transmit B2B credit remaining"],
        ),
    ],
)
def test_a_live_port_is_shown_as_switches_show_theirs(
    style: str, lines: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "link"
    with serving(str(path), "--distance", "10km", "--credits", "24", "--once"):
        words = ["fc", "link", "load", str(path), "--credits", "40", "--write", "64KiB", "--read", "64KiB"]
        assert main([*words, "--style", style]) == 0
    shown = capsys.readouterr().out
    for line in lines:
        assert line in shown


@pytest.mark.slow
def test_a_reservation_beyond_the_grant_says_what_would_be_granted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "link"
    with serving(str(path), "--distance", "1km", "--credits", "24"):
        assert main(["fc", "link", "load", str(path), "--reserve", "30"]) == 1
    error = capsys.readouterr().err
    assert "24 are granted" in error
    assert "reserve 24 at most" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["load", "nobody/here"], 3, "nobody listens"),
        (["load", "192.0.2.1:99"], 2, "loopback"),
        (["echo", "nobody/here"], 3, "nobody listens"),
        (["echo", "192.0.2.1:99"], 2, "loopback"),
        (["echo", "x/y", "--payload", "9"], 2, "multiple of 4"),
        (["load", "x/y", "--primitives"], 2, "--capture"),
        (["load", "x/y", "--payload", "999"], 2, "multiple of 4"),
        (["serve", "x/y", "--speed", "9G"], 2, "'9G' is not a Fibre Channel speed"),
        (["serve", "x/y", "--lun", "nonsense/no/such"], 2, "nonsense"),
        (["serve", "no/such/directory"], 1, "no such file"),
    ],
)
def test_a_link_that_cannot_be_is_one_line_and_the_right_exit_code(
    words: list[str], code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fc", "link", *words]) == code
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["vn2vn", "fabric"])
def test_a_load_over_fcoe_finds_the_target_and_compares_what_it_wrote(mode: str, tmp_path: Path) -> None:
    needs_a_namespace()
    script = f"""
        ip link add veth0 type veth peer name veth1 && ip link set veth0 mtu 2500 up && ip link set veth1 mtu 2500 up
        "$0" -m mgmt.cli fc fcoe serve veth1 --mode {mode} --lun 4MiB > "$1/serve" &
        served=$!
        "$0" -m mgmt.cli fc fcoe load veth0 --mode {mode} --write 1MiB --read 1MiB --depth 32 \\
            --capture "$1/fcoe.pcapng" -o json
        code=$?
        kill -TERM $served
        wait $served
        exit $code
    """
    command = ["unshare", "--net", "sh", "-c", script, sys.executable, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout)
    assert answer["dropped_frames"] == 0
    runs = answer["runs"]
    assert [(one["direction"], one["payload_bytes"]) for one in runs] == [
        ("write", 1 << 20),
        ("read", 1 << 20),
    ]
    told = (tmp_path / "serve").read_text()
    assert told.startswith(f"listening fcoe://veth1 {mode} ")
    assert "ProcessLoggedIn" in told
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed: what was captured stays unread")
    fields = ["-T", "fields", "-e", "_ws.col.Protocol", "-e", "_ws.malformed"]
    read = subprocess.run(
        ["tshark", "-r", str(tmp_path / "fcoe.pcapng"), *fields],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = [(line + "\t").split("\t") for line in read.stdout.splitlines()]
    assert "FCP" in {line[0] for line in lines}
    assert not any(line[1] for line in lines)


def test_an_interface_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["load", "nothing0", "--timeout", "1"], ["serve", "nothing0"]):
        assert main(["fc", "fcoe", *words]) == 1
        error = capsys.readouterr().err
        assert "nothing0" in error
        assert error.count("\n") == 1
