"""What the readers and reports promise item by item, where no other test of them looks."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from iscsi_target.wire.codec import encode_pdu
from iscsi_target.wire.digest import digest
from iscsi_target.wire.requests import ScsiCommandPdu
from mgmt.cli.main import make_cli
from mgmt.layouts import LAYOUTS
from tests.tools import capture_packets as made
from tests.tools.capture_packets import T0, Packet, scan_bytes
from tests.tools.capture_talk import KEYS, Talk
from tests.tools.test_capture_exchanges import captures
from tools.capture.analysis import analyse
from tools.capture.flows import flow_rows
from tools.capture.rows import RowKind


def run(*words: object) -> Any:
    return CliRunner().invoke(make_cli(), ["capture", *map(str, words)])


def long_command(number: int, extra: bytes) -> bytes:
    """A command whose CDB goes on in an additional header (RFC 7143 section 11.2.2.3)."""
    ahs = len(extra).to_bytes(2, "big") + b"\1\0" + extra
    ahs += bytes(-len(ahs) % 4)
    return encode_pdu(
        ScsiCommandPdu(
            read=True,
            initiator_task_tag=number,
            expected_data_transfer_length=512,
            cmd_sn=number,
            exp_stat_sn=number,
            cdb=bytes((0x7F,)).ljust(16, b"\0"),
            ahs=ahs,
        )
    )


@pytest.mark.parametrize("header_digest", [False, True])
def test_additional_headers_are_stepped_over_shown_and_covered_by_the_digest(
    tmp_path: Path, header_digest: bool
) -> None:
    talk = Talk(KEYS | {"HeaderDigest": "CRC32C" if header_digest else "None"})
    extra = bytes(range(17))
    command = long_command(1, extra)
    answer = made.read_answer(1, bytes(512))
    if header_digest:
        command += digest(command)
        answer = answer[:48] + digest(answer[:48]) + answer[48:]
    talk.out(command)
    talk.back(answer)
    path = tmp_path / "a"
    rows, _, _ = scan_bytes(path, made.pcap(talk.packets))
    assert [row.header[0] & 0x3F for row in rows] == [0x03, 0x23, 0x01, 0x25]
    assert rows[2].length_bytes == len(command)
    shown = run("pdus", path, "--show", 3).stdout
    assert extra.hex(" ") in re.sub(r"\s+", " ", shown)


def test_what_waits_for_a_lost_segment_is_bounded_and_read_on_behind_it(tmp_path: Path) -> None:
    request, answer = made.login()
    packets = [
        Packet(T0, made.segment(request, 1000)),
        Packet(T0 + 1, made.segment(answer, 7000, back=True)),
    ]
    at = 1000 + len(request) + 48  # one command is missing
    for number in range(2, 5002):
        command = made.read_command(number)
        packets.append(Packet(T0 + number, made.segment(command, at)))
        at += len(command)
    rows, scan, _ = scan_bytes(tmp_path / "a", made.pcap(packets))
    assert sum(row.header[0] & 0x3F == 1 for row in rows) == 5000
    assert scan.scanner.remarked == {"bytes of a connection are missing in the capture": 1}
    ((sent, _),) = scan.scanner.flows
    assert (sent.gaps, sent.gap_bytes, sent.held_bytes) == (1, 48, 0)
    assert sent.out_of_order < 520  # the side buffer holds 512 segments, then the hole is given up


def test_fip_is_listed_by_its_operation() -> None:
    done = run("frames", captures("fcoe-linux-fabric.pcap"), "--filter", "fip", "-o", "json")
    rows = json.loads(done.stdout)
    assert len(rows) == 9
    assert {row["kind"] for row in rows} == {RowKind.FIP.name.lower()}
    assert all("FIP operation" in row["text"] for row in rows)


def overlapping() -> Talk:
    """Three commands: two at the same time for 4 µs of 10, nothing under way for 5 µs, then one for 1 µs."""
    talk = Talk()
    talk.out(made.read_command(1))
    talk.out(made.read_command(2), 3_000)
    talk.back(made.read_answer(1, bytes(512)), 4_000)
    talk.back(made.read_answer(2, bytes(512)), 3_000)
    talk.out(made.read_command(3), 5_000)
    talk.back(made.read_answer(3, bytes(512)), 1_000)
    return talk


def test_outstanding_commands_and_busy_time_are_those_of_a_timeline(tmp_path: Path) -> None:
    with overlapping().analysis(tmp_path / "a") as analysis:
        (row,) = flow_rows(analysis)
        depths = [one.depth for one in analysis.store.exchanges()]
    assert (row["busy_ns"], row["outstanding_max"], row["duration_ns"]) == (11_000, 2, 16_000)
    assert row["outstanding_mean"] == round((10_000 + 4_000 + 1_000) / 16_000, 2)
    assert depths == [1, 2, 1]


def test_the_parameters_of_both_sides_are_reported_without_secrets(tmp_path: Path) -> None:
    talk = Talk(KEYS | {"CHAP_R": "0x1234"})
    talk.out(made.read_command(1))
    talk.back(made.read_answer(1, bytes(512)))
    with talk.analysis(tmp_path / "a") as analysis:
        (row,) = flow_rows(analysis)
    login = row["connections"][0]["login"]
    for side in ("initiator", "target"):
        assert login[side]["MaxBurstLength"] == "16384"
        assert login[side]["CHAP_R"] == "…"
    assert (login["initiator"]["InitiatorName"], login["status"]) == ("iqn.2026-11.example:host", "0x0000")


@pytest.mark.parametrize(
    ("words", "layout"),
    [
        (("summary",), "capture-counts"),
        (("flows",), "capture-flows"),
        (("flows", "--interval", "0.00001"), "capture-intervals"),
        (("flows", "--violations"), "capture-violations"),
        (("pdus",), "capture-lines"),
        (("credits",), "capture-tcp-credits"),
    ],
)
def test_csv_has_a_line_of_names_and_the_same_fields_in_every_row(
    tmp_path: Path, words: tuple[str, ...], layout: str
) -> None:
    talk = overlapping()
    talk.out(made.read_command(9))  # a hole in CmdSN: a violation to list
    path = tmp_path / "a.pcap"
    path.write_bytes(made.pcap(talk.packets))
    done = run(*words, path, "-o", "csv")
    assert done.exit_code == 0, done.output
    names, *rows = csv.reader(io.StringIO(done.stdout))
    assert names == list(LAYOUTS[layout].fields)
    assert rows
    assert {len(row) for row in rows} == {len(names)}


def test_an_html_plot_loads_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(made.pcap(overlapping().packets))
    for words in (("flows", path), ("credits", path)):
        assert run(*words, "--plot", tmp_path / "a.html").exit_code == 0
        text = (tmp_path / "a.html").read_text()
        assert text.count("<svg") == 1
        assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)|url\((?!#)|<script|<link|@import""", text)


def test_bytes_in_flight_are_drawn_from_compressed_captures_too(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "a.pcap.gz"
    syn = [
        Packet(T0 - 3, made.segment(b"", 999, flags=0x02)),
        Packet(T0 - 2, made.segment(b"", 6999, back=True, flags=0x12, ack=1000)),
        Packet(T0 - 1, made.segment(b"", 1000, flags=0x10, ack=7000)),
    ]
    path.write_bytes(gzip.compress(made.pcap(syn + overlapping().packets)))
    assert run("credits", path, "--plot", tmp_path / "a.svg").exit_code == 0
    text = (tmp_path / "a.svg").read_text()
    assert "10.0.0.1:51000" in text or "<use" in text
    nothing = tmp_path / "none.pcap"
    nothing.write_bytes(made.pcap(syn))
    assert run("credits", nothing, "--plot", tmp_path / "b.svg").exit_code == 2


def test_a_recommended_size_is_never_less_than_what_was_in_flight_and_one_formula_gives_it(
    tmp_path: Path,
) -> None:
    """A burst now and then: its average rate alone would ask for a hundredth of what it needs."""
    request, answer = made.login()
    packets = [
        Packet(T0, made.segment(b"", 999, flags=0x02)),
        Packet(T0 + 10**6, made.segment(b"", 6999, back=True, flags=0x12, ack=1000)),
        Packet(T0 + 10**7, made.segment(request, 1000, ack=7000)),
        Packet(T0 + 2 * 10**7, made.segment(answer, 7000, back=True, ack=1000 + len(request))),
    ]
    seq, now = 1000 + len(request), T0 + 10**9
    for _ in range(5):
        for _ in range(20):
            packets.append(Packet(now, made.segment(bytes(1000), seq, ack=7000 + len(answer))))
            seq, now = seq + 1000, now + 1000
        packets.append(
            Packet(now + 10**7, made.segment(b"", 7000 + len(answer), back=True, flags=0x10, ack=seq))
        )
        now += 10**9
    path = tmp_path / "a.pcap"
    path.write_bytes(made.pcap(packets))
    with analyse([path]) as analysis:
        most = max(side.max_in_flight for pair in analysis.scanner.flows for side in pair)
    assert most == 20_000
    told = json.loads(
        CliRunner().invoke(make_cli(), ["recommend", "--capture", str(path), "-o", "json"]).stdout
    )
    rows = json.loads(run("credits", path, "-o", "json").stdout)["tcp"]
    assert told["bytes"] == max(row["recommended_bytes"] for row in rows) >= most
    assert told["bytes"] <= most + 1
