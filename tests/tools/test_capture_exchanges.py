"""Commands and answers out of captures: times, counts, rules; against tshark where it is right."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from iscsi_target.initiator import Initiator
from iscsi_target.running import serve
from iscsi_target.wire.codec import encode_pdu
from iscsi_target.wire.requests import TaskManagementRequest
from iscsi_target.wire.responses import TaskManagementResponse
from mgmt.cli.main import make_cli
from tests.tools import capture_packets as made
from tests.tools.capture_packets import T0, Packet
from tests.tools.capture_talk import Talk, broken, data_out, r2t, write_command
from tests.twins import plain
from tools.capture import figures_kernel
from tools.capture.analysis import analyse
from tools.capture.flows import distribution, flow_rows
from tools.capture.rows import Part
from tools.capture.rules import Rule
from tools.capture.scan import Scan
from tools.capture.sessions import Sessions
from tools.capture.summary import summary_of


def test_a_read_and_a_write_have_their_three_latencies(tmp_path: Path) -> None:
    talk = Talk()
    talk.out(made.read_command(1))
    talk.back(made.read_answer(1, bytes(512)), 5_000)
    talk.out(write_command(2, 1024, final=True))
    talk.back(r2t(2, 0, 1024), 3_000)
    talk.out(data_out(2, 0, bytes(512), final=False), 7_000)
    talk.out(data_out(2, 512, bytes(512), data_sn=1), 1_000)
    talk.back(made.response(2), 9_000)
    with talk.analysis(tmp_path / "a") as analysis:
        read, write = analysis.store.exchanges()
        assert (read.ect_ns, read.first_ns - read.start_ns, read.bytes_in) == (5_000, 5_000, 512)
        assert (write.ect_ns, write.bytes_out, write.r2ts) == (20_000, 1024, 1)
        assert write.ready_ns - write.start_ns == 3_000
        assert write.data_ns - write.ready_ns == 7_000
        assert (read.cdb[0], write.cdb[0]) == (0x28, 0x2A)
        assert broken(analysis) == set()
        (row,) = flow_rows(analysis)
    assert (row["initiator"], row["target"], row["lun"]) == (
        "iqn.2026-11.example:host",
        "iqn.2026-11.example:disk",
        "0",
    )
    assert (row["commands"], row["reads"], row["writes"], row["outstanding_max"]) == (2, 1, 1, 1)
    assert row["hrl_ns"]["max"] == 7_000
    assert row["dal_ns"]["min"] == 3_000
    assert row["connections"][0]["login"]["target"]["InitialR2T"] == "Yes"


def test_statuses_tasks_and_commands_without_an_answer_are_counted(tmp_path: Path) -> None:
    talk = Talk()
    for number, status in enumerate((0x02, 0x08, 0x18, 0x28, 0x40), 1):
        talk.out(made.read_command(number))
        talk.back(made.response(number, status))
    for number in (6, 7, 8):
        talk.out(made.read_command(number))
    talk.out(
        encode_pdu(
            TaskManagementRequest(
                function=1,
                initiator_task_tag=99,
                referenced_task_tag=7,
                cmd_sn=9,
                exp_stat_sn=6,
                immediate=True,
            )
        )
    )
    talk.back(
        encode_pdu(
            TaskManagementResponse(response=0, initiator_task_tag=99, stat_sn=7, exp_cmd_sn=9, max_cmd_sn=40)
        )
    )
    with talk.analysis(tmp_path / "a") as analysis:
        (row,) = flow_rows(analysis)
    assert [
        row[name]
        for name in ("check_condition", "busy", "reservation_conflict", "task_set_full", "task_aborted")
    ] == [1] * 5
    assert row["task_management"] == {"abort_task": 1}
    assert (row["aborted"], row["unanswered"], row["outstanding_max"]) == (1, 2, 3)


def test_the_command_window_shows_how_far_it_was_used(tmp_path: Path) -> None:
    talk = Talk()
    for number in range(1, 11):
        talk.out(made.read_command(number))
    with talk.analysis(tmp_path / "a") as analysis:
        (row,) = flow_rows(analysis)
    window = row["connections"][0]["command_window"]
    assert (window["used_max"], window["free_min"], window["closed_times"]) == (10, 22, 0)


def test_two_connections_of_one_session_are_one_row_and_share_their_cmdsn(tmp_path: Path) -> None:
    first, second = Talk(), Talk()
    first.out(made.read_command(1))
    second.out(made.read_command(2))
    first.out(write_command(3, 512))
    packets = list(first.packets)
    for packet in second.packets:  # the same addresses, another port of the initiator
        data = bytearray(packet.data)
        at = 14 + 20 + (2 if data[26:30] == bytes((10, 0, 0, 2)) else 0)
        data[at : at + 2] = (51001).to_bytes(2, "big")
        packets.append(Packet(packet.time_ns + 100, bytes(data)))
    path = tmp_path / "a"
    path.write_bytes(made.pcap(sorted(packets, key=lambda packet: packet.time_ns)))
    with analyse([path]) as analysis:
        assert [name.lun for name in analysis.groups] == ["0"]
        assert len(flow_rows(analysis)[0]["connections"]) == 2
        assert Rule.CMD_SN_ORDER not in broken(analysis)


def test_percentiles_are_those_of_the_nearest_rank() -> None:
    values = array("q", reversed(range(1, 1001)))
    found = distribution(values, 0, 1000)
    assert found == {
        "min": 1,
        "p50": 500,
        "p90": 900,
        "p99": 990,
        "p99_9": 999,
        "max": 1000,
        "mean": 500.5,
        "count": 1000,
    }
    assert distribution(values, 5, 5) is None
    one = array("q", [7])
    assert distribution(one, 0, 1) == dict.fromkeys(("min", "p50", "p90", "p99", "p99_9", "max"), 7) | {
        "mean": 7,
        "count": 1,
    }


def test_the_sort_and_its_twin_sort(tmp_path: Path) -> None:
    import random

    chance = random.Random(4)
    twin = plain("tools.capture.figures_kernel")
    for size in (0, 1, 2, 3, 50, 1000):
        numbers = [chance.randrange(-10, 100) for _ in range(size)]
        for kernel in (figures_kernel, twin):
            values = array("q", numbers)
            assert kernel.sort(values, 0, size) == sum(numbers)
            assert list(values) == sorted(numbers)
            counted = Counter(numbers).most_common()
            found = kernel.runs(values, 0, size, 5)
            assert [often for _, often in found] == [often for _, often in counted[:5]]


KERNELS = (
    "tools.capture.header_kernel",
    "tools.capture.row_kernel",
    "tools.capture.stream_kernel",
    "tools.capture.frame_kernel",
    "tools.capture.peaks_kernel",
    "tools.capture.packet_kernel",
)


def twin_scan(path: Path) -> tuple[list[Part], Any, Any]:
    """A scan and a matching by the uncompiled twins."""
    scanner = plain("tools.capture.scan_kernel", *KERNELS).Scanner((), False)
    scanner.ports = frozenset((3260,))
    matching = "tools.capture.task_kernel", "tools.capture.fcp_kernel"
    matcher = plain("tools.capture.exchange_kernel", *matching).Matcher(Sessions())
    data = path.read_bytes()
    scanner.begin()
    at, parts = 0, []
    while at < len(data):
        at = scanner.feed(data, at, len(data), 0, True)
        parts += scanner.take()
    scanner.end()
    parts += scanner.take()
    for part in parts:
        matcher.receive(part)
    matcher.end(scanner.last_ns)
    return parts, scanner, matcher


def captures(name: str) -> Path:
    folder = os.environ.get("SANCREDIT_CAPTURES")
    if not folder:
        pytest.skip(f"SANCREDIT_CAPTURES does not name the folder with {name}")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"{path} is missing")
    return path


FILES = (
    *("fcip_trace.cap", "fcoe-linux-fabric.pcap", "fcoe-linux-vn2vn.pcap", "fcoe-t11.pcap"),
    "iscsi-scsi-data-cdrom.pcap",
)


def assert_twins_agree(path: Path) -> None:
    twin_parts, twin, twin_matcher = twin_scan(path)
    with analyse([path]) as analysis:
        parts = list(Scan([path]).parts())
        assert [bytes(part.octets()) for part in parts] == [bytes(part.octets()) for part in twin_parts]
        assert [part.kept for part in parts] == [part.kept for part in twin_parts]
        assert analysis.scanner.remarks == twin.remarks
        blocks = [
            bytes(memoryview(block).cast("B")[: count * 120]) for block, count in analysis.store.blocks()
        ]
        twin_blocks = [
            bytes(memoryview(block).cast("B")[: count * 120]) for block, count in twin_matcher.take()
        ]
        assert blocks == twin_blocks
        for pair, twin_pair in zip(analysis.scanner.flows, twin.flows, strict=True):
            for one, other in zip(pair, twin_pair, strict=True):
                for name in (
                    "payload",
                    "retransmitted",
                    "max_in_flight",
                    "window_max",
                    "rtt_min_ns",
                    "pdus",
                    "frames",
                ):
                    assert getattr(one, name) == getattr(other, name), name
        for mine, theirs in zip(
            analysis.matcher.connections.values(), twin_matcher.connections.values(), strict=True
        ):
            assert list(mine.rules) == list(theirs.rules)


@pytest.mark.parametrize("name", FILES)
def test_the_kernels_and_their_twins_read_real_captures_alike(name: str) -> None:
    assert_twins_agree(captures(name))


# --- against tshark ---


def tshark(path: Path, *words: str) -> str:
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not there: apt install tshark")
    done = subprocess.run(
        ["tshark", "-r", str(path), *words], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def tshark_counts(path: Path, field: str, *words: str) -> Counter[int]:
    found = tshark(path, "-T", "fields", "-e", field, *words).replace(",", "\n").split()
    return Counter(int(value, 0) for value in found)


def srt(path: Path, *words: str) -> dict[int, tuple[int, float, float, float]]:
    """Calls, min, max and mean response times in seconds by SCSI opcode."""
    found = {}
    for line in tshark(path, "-q", "-z", "scsi,srt,0", *words).splitlines():
        match = re.match(r"\s*(\d+)\s+\S.*?\s+(\d+)\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)\s+[\d.]+$", line)
        if match and int(match[2]):
            found[int(match[1])] = (int(match[2]), float(match[3]), float(match[4]), float(match[5]))
    return found


def assert_like_tshark(path: Path, *words: str) -> None:
    """Opcodes and response times, exact to the microsecond that tshark shows."""
    scan = Scan([path])
    scan.run()
    ours = {int(key, 0): count for key, count in summary_of(scan)["protocols"]["iscsi"]["pdus"].items()}
    assert ours == dict(tshark_counts(path, "iscsi.opcode", "-Y", "iscsi", *words))
    times: dict[int, list[int]] = {}
    with analyse([path]) as analysis:
        for exchange in analysis.store.exchanges():
            if exchange.status == 0:  # tshark leaves the others out
                times.setdefault(exchange.cdb[0], []).append(exchange.ect_ns)
    # What every device has, tshark counts once it has seen what kind of device it is: reads and writes are all there.
    theirs = {
        opcode: values for opcode, values in srt(path, *words).items() if opcode in (0x28, 0x2A, 0x88, 0x8A)
    }
    assert theirs
    for opcode, (calls, shortest, longest, mean) in theirs.items():
        mine = times[opcode]
        assert len(mine) == calls
        for value, expected in ((min(mine), shortest), (max(mine), longest), (sum(mine) / len(mine), mean)):
            assert abs(value / 1e9 - expected) < 2e-6


@pytest.mark.slow
def test_tshark_counts_the_same_pdus_and_times_in_what_our_target_captured(tmp_path: Path) -> None:
    """Tools of libiscsi and our own initiator against the target, which captures itself."""
    tools = [name for name in ("iscsi-inq", "iscsi-readcapacity16") if shutil.which(name) is None]
    if tools:
        pytest.skip(f"{', '.join(tools)} missing: apt install libiscsi-bin")
    path = tmp_path / "target.pcapng"
    with serve("4MiB", capture=path) as target:
        for name in ("iscsi-inq", "iscsi-readcapacity16"):
            subprocess.run([name, target.url], check=True, capture_output=True, timeout=60)
        for _ in range(5):
            asyncio.run(some_io(target.host, target.port, target.iqn))
        port = target.port
    assert_like_tshark(path, "-d", f"tcp.port=={port},iscsi")


async def some_io(host: str, port: int, iqn: str) -> None:
    """Writes and reads of many sizes, some of them at the same time."""
    session = await Initiator.login(host, port, iqn)
    try:
        for blocks in (1, 8, 64, 300, 1000):
            await session.write(0, 8, bytes(range(256)) * 2 * blocks)
            await asyncio.gather(*(session.read(0, 8 * n, blocks) for n in range(4)))
    finally:
        await session.logout()


@pytest.mark.slow
def test_tshark_counts_the_same_commands_in_a_real_capture_and_the_same_frames_in_others() -> None:
    path = captures("iscsi-scsi-data-cdrom.pcap")
    scan = Scan([path])
    scan.run()
    ours = {int(key, 0): count for key, count in summary_of(scan)["protocols"]["iscsi"]["pdus"].items()}
    theirs = tshark_counts(path, "iscsi.opcode", "-Y", "iscsi")
    # The file lacks most of the data segments: tshark waits for them and shows 15 of the Data-In headers there are.
    assert ours.pop(0x25) > theirs.pop(0x25)
    assert ours == dict(theirs)
    for name in FILES[:4]:
        path = captures(name)
        scan = Scan([path])
        scan.run()
        _, types, r_ctls = scan.scanner.counts()
        assert {code: count for code, count in enumerate(r_ctls) if count} == dict(
            tshark_counts(path, "fc.r_ctl", "-Y", "fc && !fip")
        )
        assert sum(types) == scan.scanner.frames


def test_real_fcp_captures_have_the_completion_times_that_tshark_gets_wrong() -> None:
    """fcoe-t11: OX_ID 4 is command 25, data, response 27: 284 µs, of which tshark shows 6."""
    with analyse([captures("fcoe-t11.pcap")]) as analysis:
        found = [one for one in analysis.store.exchanges() if one.tag >> 16 == 4]
        assert [(one.packet, one.end_packet, one.ect_ns // 1000) for one in found if one.packet == 25] == [
            (25, 27, 284)
        ]
        rows = flow_rows(analysis)
    assert all(row["protocol"] == "fcp" and not row["violations"] for row in rows)
    assert sum(row["commands"] for row in rows) == len([1 for row in rows for _ in range(row["commands"])])


# --- the commands ---


def run(*words: object) -> Any:
    return CliRunner().invoke(make_cli(), ["capture", *map(str, words)])


def test_the_commands_give_the_shapes_that_others_rely_on(tmp_path: Path) -> None:
    talk = Talk()
    for number in range(1, 6):
        talk.out(made.read_command(number))
        talk.back(made.read_answer(number, bytes(512)))
    path = tmp_path / "a.pcap"
    path.write_bytes(made.pcap(talk.packets))
    summary = json.loads(run("summary", path, "-o", "json").stdout)
    assert summary["protocols"]["iscsi"]["pdus"] == {"0x01": 5, "0x03": 1, "0x23": 1, "0x25": 5}
    assert {"packets", "bytes", "flows", "protocols"} <= set(summary)
    (flow,) = json.loads(run("flows", path, "-o", "json").stdout)
    assert flow["commands"] == flow["reads"] == 5
    assert {"min", "p50", "p99", "max", "mean"} <= set(flow["ect_ns"])
    assert "READ(10)" in run("pdus", path).stdout.replace("READ (10)", "READ(10)")
    filtered = json.loads(
        run("pdus", path, "--filter", "iscsi.opcode == 0x25 and iscsi.datasn == 0", "-o", "json").stdout
    )
    assert [one["number"] for one in filtered] == [4, 6, 8, 10, 12]
    shown = run("pdus", path, "--show", 3).stdout
    assert "initiator_task_tag  0x1" in re.sub(" +", "  ", shown).replace(
        "initiator_task_tag  0x1", "initiator_task_tag  0x1"
    )
    assert run("pdus", path, "--show", 99).exit_code == 1
    assert run("flows", tmp_path / "none").exit_code == 2
    assert run("pdus", path, "--filter", "iscsi.opcod == 1").exit_code == 2
    assert run("flows", path, "-i", "lo").exit_code == 2
    assert run("flows", path, "--interval", "0.000001", "-o", "csv").exit_code == 0
    tcp = json.loads(run("credits", path, "-o", "json").stdout)["tcp"]
    assert len(tcp) == 2


def test_a_size_can_be_computed_from_a_capture(tmp_path: Path) -> None:
    talk = Talk()
    for number in range(1, 50):
        talk.out(made.read_command(number))
        talk.back(made.read_answer(number, bytes(512)), 100_000)
    syn = [
        Packet(T0 - 10**6, made.segment(b"", 999, flags=0x02)),
        Packet(T0 - 10**6 + 10**5, made.segment(b"", 6999, back=True, flags=0x12, ack=1000)),
        Packet(T0 - 10**6 + 10**6 // 2, made.segment(b"", 1000, flags=0x10, ack=7000)),
    ]
    path = tmp_path / "a.pcap"
    path.write_bytes(made.pcap(syn + talk.packets))
    done = CliRunner().invoke(make_cli(), ["recommend", "--capture", str(path), "-o", "json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["terms"]["rtt_ns"] == 500_000
    rate = answer["terms"]["bandwidth_bps"]
    assert answer["bytes"] == -(-rate * 500_000 // (8 * 10**9))
    from mgmt.cli.captured import captured_size

    assert captured_size(f"capture:{path}") == answer["bytes"]


def test_plots_are_drawn_in_every_kind_and_say_what_they_cannot(tmp_path: Path) -> None:
    talk = Talk()
    for number in range(1, 30):
        talk.out(made.read_command(number))
        talk.back(made.read_answer(number, bytes(512)), 3000 * number)
    path = tmp_path / "a.pcap"
    path.write_bytes(made.pcap(talk.packets))
    for suffix, begins in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".html", b"<!DOCTYPE html>")):
        assert run("flows", path, "--plot", tmp_path / f"f{suffix}").exit_code == 0
        assert (tmp_path / f"f{suffix}").read_bytes().startswith(begins)
    assert b"http-equiv" not in (tmp_path / "f.html").read_bytes()
    assert run("flows", path, "--plot", tmp_path / "f.gif").exit_code == 2
    assert run("pdus", path, "--show", 3, "--sequence", tmp_path / "s.svg").exit_code == 0
    assert "READ" in (tmp_path / "s.svg").read_text() or (tmp_path / "s.svg").stat().st_size > 5000


def test_every_exchange_can_be_had_as_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install 'sancredit[scale]'")
    talk = Talk()
    for number in range(1, 30):
        talk.out(made.read_command(number))
        talk.back(made.read_answer(number, bytes(512)), 3000 * number)
    path = tmp_path / "a.pcap"
    path.write_bytes(made.pcap(talk.packets))
    assert run("flows", path, "--parquet", tmp_path / "a.parquet").exit_code == 0
    rows = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["end_ns"] - row["start_ns"] for row in rows] == [3000 * number for number in range(1, 30)]
    assert rows[4]["cdb"][:10] == made.read_command(5)[32:42]
    assert rows[0]["initiator"] == "iqn.2026-11.example:host"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_files_spread_over_dask_workers_give_what_one_process_gives(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="pip install 'sancredit[scale]'")
    paths = []
    for name in range(3):
        talk = Talk()
        for number in range(1, 20):
            talk.out(made.read_command(number))
            talk.back(made.read_answer(number, bytes(512)), 1000 * (number + name))
        paths.append(tmp_path / f"{name}.pcap")
        paths[-1].write_bytes(made.pcap(talk.packets))
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, processes=True
    ) as cluster:
        done = run("flows", *paths, "--scheduler", cluster.scheduler_address, "-o", "json")
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    values = sorted(1000 * (number + name) for name in range(3) for number in range(1, 20))
    assert row["commands"] == len(values)
    assert (row["ect_ns"]["min"], row["ect_ns"]["p50"], row["ect_ns"]["max"]) == (
        values[0],
        values[28],
        values[-1],
    )
