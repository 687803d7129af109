"""``sancredit fc simulate`` and ``fc sweep``: what they print, draw and capture, and how they fail."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mgmt.cli.main import main

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples"
DISTANCE = str(EXAMPLES / "fabric-distance.toml")
SLOW_DRAIN = str(EXAMPLES / "fabric-slow-drain.toml")
SLOW_DRAIN_VC = str(EXAMPLES / "fabric-slow-drain-vc.toml")

#: design/cli.md: fields of a port that others rely on.
PORT_FIELDS = {
    "name",
    "peer",
    "bb_credit",
    "credit_zero_transitions",
    "credit_zero_time_ps",
    "tx_frames",
    "rx_frames",
    "lost_credits",
    "recovered_credits",
    "link_resets",
    "discards",
}


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["fc", *words]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return str(out)


def test_the_json_has_the_shape_that_others_rely_on(capsys: pytest.CaptureFixture[str]) -> None:
    answer: dict[str, Any] = json.loads(said(capsys, "simulate", DISTANCE, "-o", "json"))
    assert answer["frames"] == sum(flow["delivered_frames"] for flow in answer["flows"]) > 600
    assert all(set(port) >= PORT_FIELDS for port in answer["ports"])
    isl = next(port for port in answer["ports"] if port["name"] == "main/1")
    assert (isl["peer"], isl["bb_credit"], isl["verdict"]) == ("remote/1", 16, "distance-short")
    # 16 credits over 50 km at 8G: 67.2 MB/s, within the first round trips of 20 ms.
    assert answer["throughput_bps"] / 8e6 == pytest.approx(67.2, rel=0.03)


def test_the_tables_fit_a_terminal_and_the_cause_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    for path in (DISTANCE, SLOW_DRAIN, SLOW_DRAIN_VC):
        lines = said(capsys, "simulate", path).splitlines()
        assert max(map(len, lines)) <= 80
        assert lines[0].split()[:3] == ["PORT", "PEER", "SPEED"]
    lines = said(capsys, "simulate", DISTANCE).splitlines()
    why = next(n for n, line in enumerate(lines) if re.match(r"PORT +VERDICT +WHY", line))
    assert lines[why + 1].startswith("main/1  distance-short  180 credits short")
    assert "lost" in " ".join(lines[why + 1 : why + 4])


def test_csv_has_a_line_for_each_port_and_yaml_is_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(said(capsys, "simulate", DISTANCE, "-o", "csv"))))
    assert [row["name"] for row in rows] == ["main/0", "array1", "remote/0", "array2", "main/1", "remote/1"]
    assert set(rows[0]) >= PORT_FIELDS
    import yaml

    text = said(capsys, "simulate", DISTANCE, "-o", "yaml")
    assert yaml.safe_load(text) == json.loads(said(capsys, "simulate", DISTANCE, "-o", "json"))


def test_the_time_series_is_csv_with_a_line_for_each_port_and_sample(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = list(csv.DictReader(io.StringIO(said(capsys, "simulate", DISTANCE, "--series", "-o", "csv"))))
    assert len(rows) == 200 * 6
    assert {int(row["outstanding_credits"]) for row in rows if row["port"] == "main/1"} >= {16}
    assert main(["fc", "simulate", DISTANCE, "--series"]) == 2
    assert "--series is for -o csv" in capsys.readouterr().err


def test_until_and_seed_change_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    answer = json.loads(said(capsys, "simulate", DISTANCE, "--until", "5ms", "--seed", "9", "-o", "json"))
    assert (answer["duration_ps"], answer["seed"]) == (5_000_000_000, 9)


def test_the_vendors_views_have_their_words_and_the_runs_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    fos = said(capsys, "simulate", DISTANCE, "--style", "fos")
    (isl,) = re.findall(r"^main/1 +E +LS +16 +\S+ +\S+ +(\d+) +(\d+) +(\S+)", fos, re.MULTILINE)
    assert isl == ("0", "196", "50km")
    ticks = int(re.findall(r"port:  main/1\n=+\n(?:.*\n)*?tim_txcrd_z +(\d+)", fos)[0])
    nxos = said(capsys, "simulate", DISTANCE, "--style", "nxos")
    assert "fcmain/1 is up\n    Transmit B2B Credit is 16\n    Receive B2B Credit is 16\n" in nxos
    counters = nxos[nxos.rindex("fcmain/1\n") :]
    assert f"    {ticks} 2.5us TxWait due to lack of transmit credits" in counters
    assert ticks == pytest.approx(0.918 * 20_000 / 2.5, rel=0.01)


def test_a_plot_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "run.png"
    said(capsys, "simulate", SLOW_DRAIN, "--plot", str(file))
    assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 20_000
    assert main(["fc", "simulate", DISTANCE, "--plot", str(tmp_path / "x.doc")]) == 2
    assert "doc" in capsys.readouterr().err


def tshark(file: Path, *fields: str) -> list[list[str]]:
    tool = shutil.which("tshark")
    if tool is None:
        pytest.skip("tshark is missing: apt-get install tshark")
    argv = [tool, "-r", str(file), "-T", "fields", *(word for field in fields for word in ("-e", field))]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_a_captured_link_is_read_by_tshark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "link.pcapng"
    words = ["--pcap", str(file), "--link", "dark-fibre", "--until", "5ms", "-o", "json"]
    answer = json.loads(said(capsys, "simulate", DISTANCE, *words))
    sent = next(port["tx_frames"] for port in answer["ports"] if port["name"] == "main/1")
    rows = tshark(
        file,
        "frame.interface_name",
        "fc.s_id",
        "fc.d_id",
        "fc.seq_cnt",
        "fc.ox_id",
        "fc.crc.status",
        "frame.len",
        "frame.time_epoch",
    )
    assert len(rows) == sent > 100
    assert {(row[0], row[1], row[2], row[5], row[6]) for row in rows} == {
        ("main/1", "01.00.00", "02.00.00", "1", "2148")
    }
    # 64 KiB in a sequence: 32 frames, numbered from 0, each sequence an exchange.
    assert [int(row[3]) for row in rows[:34]] == [*range(32), 0, 1]
    assert [int(row[4], 16) for row in rows[30:34]] == [0, 0, 1, 1]
    # 8G: 2172 bytes at 850 MB/s, the second right after the first.
    gap = float(rows[1][7]) - float(rows[0][7])
    assert gap == pytest.approx(2555.3e-9, abs=2e-9)


@pytest.mark.slow
def test_primitives_are_captured_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tools.capture.pcapng import read_file

    file = tmp_path / "link.pcapng"
    said(
        capsys,
        "simulate",
        DISTANCE,
        "--pcap",
        str(file),
        "--link",
        "dark-fibre",
        "--until",
        "5ms",
        "--primitives",
    )
    records = list(read_file(file))
    ready = [r for r in records if r.data == bytes.fromhex("bc954a4a")]
    assert len(ready) > 100 and {r.interface for r in ready} == {1}
    assert {r.link_type for r in records} == {225}
    assert [r.time_ns for r in records] == sorted(r.time_ns for r in records)
    said(
        capsys,
        "simulate",
        SLOW_DRAIN_VC,
        "--pcap",
        str(file),
        "--link",
        "west-east",
        "--until",
        "1ms",
        "--primitives",
    )
    words = {r.data for r in read_file(file) if len(r.data) == 4}
    assert words == {bytes.fromhex("bcf50404"), bytes.fromhex("bcf50505")}  # VC_RDY 4 and 5


@pytest.mark.slow
def test_a_sweep_has_a_row_for_each_combination(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vary = ["--vary", "isl.bb_credit=16,256", "--vary", "distance=10km,50km", "--until", "5ms"]
    kept = tmp_path / "kept"
    words = ["sweep", DISTANCE, *vary, "--jobs", "2", "--resume", str(kept)]
    rows = list(csv.DictReader(io.StringIO(said(capsys, *words, "-o", "csv"))))
    assert [(row["isl.bb_credit"], row["distance"]) for row in rows] == [
        ("16", "10km"),
        ("16", "50km"),
        ("256", "10km"),
        ("256", "50km"),
    ]
    assert [row["verdict"] for row in rows] == ["distance-short"] * 2 + ["oversubscribed"] * 2
    table = said(capsys, *words).splitlines()
    assert len(table) == 5 and max(map(len, table)) <= 80
    assert "bb_credit=16 distance=50km" in table[2]
    assert [row["verdict"] for row in json.loads(said(capsys, *words, "-o", "json"))] == [
        r["verdict"] for r in rows
    ]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("simulate nowhere.toml", "cannot read nowhere.toml: no such file"),
        (f"simulate {DISTANCE} --pcap x.pcapng", "--pcap FILE.pcapng and --link NAME go together"),
        (f"simulate {DISTANCE} --primitives", "--primitives"),
        (f"simulate {DISTANCE} --until soon", "soon"),
        (f"sweep {DISTANCE} --vary isl.bb_credit", "write key=value,value"),
        (f"sweep {DISTANCE} --vary isle.bb_credit=4", "no place in a scenario"),
        (f"sweep {DISTANCE} --vary isl.bb_credit=4,0", "from 1 to 65535 is expected, not 0"),
        (f"sweep {DISTANCE}", "--vary"),
    ],
)
def test_what_cannot_be_gets_one_line_and_exit_code_2(
    words: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fc", *words.split()]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert len(error.splitlines()) == 1


def test_a_link_that_is_not_there_is_refused_before_a_file_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.pcapng"
    assert main(["fc", "simulate", DISTANCE, "--pcap", str(file), "--link", "nope"]) == 2
    assert "there is no link or port 'nope'; there are" in capsys.readouterr().err
    assert not file.exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["simulate", "sweep"])
def test_the_example_of_the_help_works_as_typed(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    example = said(capsys, command, "--help").rstrip().splitlines()[-1]
    monkeypatch.chdir(ROOT)
    words = shlex.split(example.partition("Example: sancredit ")[2])
    assert main(words) == 0
    assert capsys.readouterr().out.count("\n") > 5


@pytest.mark.slow
def test_the_commands_in_the_comments_of_the_examples_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    found = [
        match
        for file in sorted(EXAMPLES.glob("fabric*.toml"))
        for match in re.findall(r"^# +sancredit (fc .*)$", file.read_text(), re.MULTILINE)
    ]
    assert len(found) >= 4
    for words in found:
        assert main(shlex.split(words)) == 0, words
    capsys.readouterr()
