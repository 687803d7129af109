"""Bounded whatever the size: files of a rotating capture, exchanges beyond the memory that they may have, blocks."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tools import capture_packets as made
from tests.tools import live_rotation
from tests.tools.capture_packets import T0, Packet
from tests.twins import plain
from tools.capture import analysis as analysis_module
from tools.capture import peaks_kernel
from tools.capture import scan as scan_module
from tools.capture.analysis import analyse
from tools.capture.exchange_store import ExchangeStore
from tools.capture.exchanges import EXCHANGE_WORDS, EXCHANGES_PER_BLOCK
from tools.capture.flows import flow_rows
from tools.capture.inflight import analyse as in_flight
from tools.capture.pcapng import read_file
from tools.capture.scan import Scan

ROOT = Path(__file__).resolve().parents[2]


def rotated(path: Path) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, live_rotation.__file__, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    if done.returncode == 77:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    return told


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder for whoever is left when privileges are gone; those of pytest are for their owner only."""
    with tempfile.TemporaryDirectory(prefix="sancredit-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.mark.slow
def test_a_rotating_capture_keeps_its_latest_files_and_loses_nothing_between_them(open_folder: Path) -> None:
    told = rotated(open_folder / "live.pcapng")
    assert told["code"] == 0, told["err"]
    assert json.loads(str(told["out"]))["packets"] == live_rotation.COUNT
    files = sorted(open_folder.iterdir())
    # 1,042 bytes and 34 of their block: 61 packets in 64 KiB, so the last of ten files has 51.
    assert [path.name for path in files] == [f"live-{n:05}.pcapng" for n in (8, 9, 10)]
    assert all(path.stat().st_size < (64 << 10) + 1200 for path in files)
    numbers = [int.from_bytes(packet.data[42:46], "big") for path in files for packet in read_file(path)]
    assert numbers == list(range(live_rotation.COUNT - len(numbers), live_rotation.COUNT))
    scan = Scan(files)
    scan.run()
    assert (scan.scanner.packet, scan.scanner.remarks) == (len(numbers), [])


@pytest.mark.slow
def test_a_folder_that_the_user_that_is_left_cannot_write_to_is_said_before_anything_is_captured(
    open_folder: Path,
) -> None:
    if os.geteuid() != 0:
        pytest.skip("without privileges there are none to give up")
    open_folder.chmod(0o755)
    told = rotated(open_folder / "live.pcapng")
    assert told["code"] == 2
    assert "cannot make files in" in str(told["err"])
    assert str(told["err"]).count("\n") == 1


def test_exchanges_beyond_their_memory_are_in_a_file_that_nobody_else_sees(tmp_path: Path) -> None:
    os.environ["TMPDIR"], before = str(tmp_path), os.environ.get("TMPDIR")
    try:
        blocks = [
            (array("q", [number] * EXCHANGE_WORDS * EXCHANGES_PER_BLOCK), EXCHANGES_PER_BLOCK - number)
            for number in range(5)
        ]
        with ExchangeStore(memory_limit_bytes=1) as store:
            for block, count in blocks:
                store.add(block, count)
            assert store.count == sum(count for _, count in blocks)
            for _ in range(2):  # as often as one likes
                found = [(list(block[: count * EXCHANGE_WORDS]), count) for block, count in store.blocks()]
                assert found == [(list(block[: count * EXCHANGE_WORDS]), count) for block, count in blocks]
            assert list(tmp_path.iterdir()) == []
            assert len(list(deleted(tmp_path))) == 1
        assert list(deleted(tmp_path)) == []
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


def deleted(folder: Path) -> list[str]:
    """Open files in a folder that have no name there."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(descriptor.readlink()))
        except OSError:
            continue
    return [link for link in links if link.startswith(f"{folder}/") and link.endswith(" (deleted)")]


def conversation(count: int) -> bytes:
    request, answer = made.login()
    packets = [
        Packet(T0, made.segment(request, 1000)),
        Packet(T0 + 1000, made.segment(answer, 7000, back=True)),
    ]
    out, back = 1000 + len(request), 7000 + len(answer)
    for number in range(1, count + 1):
        asked, answered = made.read_command(number), made.read_answer(number, b"")
        now = T0 + number * 10_000
        packets.append(Packet(now, made.segment(asked, out)))
        packets.append(Packet(now + number % 977, made.segment(answered, back, back=True)))
        out, back = out + len(asked), back + len(answered)
    return made.pcap(packets)


def test_flows_are_the_same_when_their_exchanges_did_not_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(conversation(3 * EXCHANGES_PER_BLOCK // 2))
    with analyse([path]) as analysis:
        expected = flow_rows(analysis)
    monkeypatch.setattr(analysis_module, "ExchangeStore", partial(ExchangeStore, 1))
    with analyse([path]) as analysis:
        assert flow_rows(analysis) == expected
        assert analysis.store.count == 3 * EXCHANGES_PER_BLOCK // 2


@pytest.mark.parametrize("block_bytes", [24, 100, 1000, 4096])
def test_where_the_blocks_of_a_file_end_makes_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    path = tmp_path / "a"
    path.write_bytes(conversation(50))
    whole = [row for part in Scan([path]).parts() for row in part.rows()]
    monkeypatch.setattr(scan_module, "PLAIN_BYTES", block_bytes)
    assert [row for part in Scan([path]).parts() for row in part.rows()] == whole
    assert len(whole) == 102


@given(
    steps=st.lists(
        st.tuples(st.booleans(), st.integers(0, 900), st.integers(0, 3), st.integers(0, 10**7)),
        min_size=1,
        max_size=40,
    )
)
def test_bytes_in_flight_over_time_are_those_of_the_other_analysis(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, int, int, int]]
) -> None:
    """Data of both sides and acknowledgements that lag behind, after a login; against sums of plain integers."""
    request, answer = made.login()
    seq, acked, now = [1000 + len(request), 7000 + len(answer)], [1000, 7000], T0 + 1000
    packets = [
        Packet(T0 - 3, made.segment(b"", 999, flags=0x02)),
        Packet(T0 - 2, made.segment(b"", 6999, back=True, flags=0x12, ack=1000)),
        Packet(T0 - 1, made.segment(b"", 1000, flags=0x10, ack=7000)),
        Packet(T0, made.segment(request, 1000, ack=7000)),
        Packet(T0 + 1, made.segment(answer, 7000, back=True, ack=1000)),
    ]
    for back, size, lag, pause in steps:
        now += pause
        mine, other = (1, 0) if back else (0, 1)
        acked[other] = max(acked[other], seq[other] - 300 * lag)
        packets.append(Packet(now, made.segment(bytes(size), seq[mine], back=back, ack=acked[other])))
        seq[mine] += size
    path = tmp_path_factory.mktemp("flight") / "a"
    path.write_bytes(made.pcap(packets))
    scan = Scan([path])
    scan.scanner.follow_flights = 1
    scan.run()
    report = in_flight(read_file(path))
    assert scan.scanner.flight_all.largest == report.max_in_flight_bytes
    assert {side.flight.largest for pair in scan.scanner.flows for side in pair} == {
        flow.max_in_flight_bytes for flow in report.flows
    }
    ours = dict(scan.scanner.flight_all.points())
    assert len(ours) <= 512
    assert max(ours.values()) == report.max_in_flight_bytes


def test_peaks_and_their_twin_keep_the_same_in_the_same_memory() -> None:
    chance = random.Random(8)
    twin = plain("tools.capture.peaks_kernel")
    for span in (10**3, 10**7, 10**15):
        values = sorted((chance.randrange(span), chance.randrange(1000)) for _ in range(3000))
        found = []
        for kernel in (peaks_kernel, twin):
            peaks = kernel.PeakSteps()
            for at, value in values:
                peaks.add(T0 + at, value)
            found.append((peaks.points(), peaks.width_ns))
        assert found[0] == found[1]
        points = found[0][0]
        assert len(points) <= 512
        assert max(value for _, value in points) == max(value for _, value in values)
        assert points == sorted(points)
