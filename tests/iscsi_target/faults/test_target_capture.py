"""Captures that the target writes, read by tshark, which knows nothing of our code, and by our own reader."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from iscsi_target.buffers import ConnectionInfo
from iscsi_target.faults import Close, Corrupt, Drop, Part, Truncate
from iscsi_target.faults.matching import Direction
from iscsi_target.running import RunningTarget, serve
from iscsi_target.trace.capture import Capture, CaptureConfig, CaptureError
from iscsi_target.trace.stream import TcpStream
from tests.iscsi_target.faults.raw_initiator import ConnectionOver, RawInitiator
from tools.capture.pcapng import CapturedPacket, read_file

DIGESTS = {"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"}


def tshark(path: Path, port: int, *fields: str, only: str = "iscsi") -> list[list[str]]:
    """One list of fields for each frame that is iSCSI."""
    if shutil.which("tshark") is None:
        pytest.skip("tshark is missing: apt-get install tshark")
    wanted = [word for field in fields for word in ("-e", field)]
    command = [
        "tshark",
        "-n",
        "-r",
        str(path),
        "-d",
        f"tcp.port=={port},iscsi",
        "-o",
        "tcp.check_checksum:TRUE",
    ]
    command += ["-o", "ip.check_checksum:TRUE", "-Y", only, "-T", "fields", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


def converse(target: RunningTarget, **keys: str) -> None:
    with RawInitiator(target.host, target.port, target.iqn, **keys) as raw:
        raw.clear_attention()
        raw.write(b"w" * 4096)
        raw.receive()
        raw.read(blocks=300)
        while raw.receive().OPCODE != 37:  # the first of the read's Data-In
            pass
        target.log.wait_for(opcode="data-in", status=0)


@pytest.mark.slow
@pytest.mark.parametrize("keys", [{}, DIGESTS], ids=["plain", "digests"])
def test_tshark_decodes_a_session_with_its_sequence_numbers(tmp_path: Path, keys: dict[str, str]) -> None:
    path = tmp_path / "session.pcapng"
    with serve("4MiB", capture=path) as target:
        port = target.port
        converse(target, **keys)
        sent = [record.opcode for record in target.log]
    rows = tshark(path, port, "iscsi.opcode", "tcp.checksum.status", "ip.checksum.status", "tcp.dstport")
    opcodes = [int(code, 0) & 0x3F for row in rows for code in row[0].split(",")]
    assert opcodes == sent
    assert {row[1] for row in rows} == {"1"}  # good
    assert {row[2] for row in rows} == {"1"}
    assert (
        tshark(path, port, "frame.number", only="tcp.analysis.flags || _ws.malformed || _ws.unreassembled")
        == []
    )
    handshake = tshark(path, port, "tcp.flags", only="tcp.len == 0")
    assert [int(flags, 0) for (flags,) in handshake] == [0x02, 0x12, 0x10, 0x11]


@pytest.mark.slow
def test_tshark_finds_every_digest_right_but_the_one_that_a_rule_corrupted(tmp_path: Path) -> None:
    path = tmp_path / "digests.pcapng"
    with serve("4MiB", capture=path) as target:
        port = target.port
        target.faults.add(Corrupt(Part.DATA_DIGEST), opcode="data-in", nth=1)
        converse(target, **DIGESTS)
        digests = sum(
            1 + bool(record.data_bytes) for record in target.log if not record.kind.startswith("login")
        )
    if shutil.which("tshark") is None:
        pytest.skip("tshark is missing: apt-get install tshark")
    command = ["tshark", "-n", "-r", str(path), "-d", f"tcp.port=={port},iscsi", "-V", "-Y", "iscsi"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    said = re.findall(r"(?:Header|Data)Digest: 0x[0-9a-f]{8} \((\w+)", done.stdout)
    assert len(said) == digests
    assert said.count("Good") == digests - 1


@pytest.mark.slow
def test_a_comment_says_which_rule_fired(tmp_path: Path) -> None:
    path = tmp_path / "rules.pcapng"
    with serve("4MiB", capture=path) as target:
        port = target.port
        target.faults.add(Truncate(1), opcode="nop-in", nth=1, name="short")
        target.faults.add(Drop(), opcode="nop-in", nth=2, name="gone")
        target.faults.add(Drop(), opcode="nop-out", nth=4, name="deaf")
        with RawInitiator(target.host, target.port, target.iqn) as raw:
            for _ in range(4):
                raw.ping(b"abcd", immediate=True)
            raw.receive()
            raw.receive()
            target.log.wait_for(4, opcode="nop-out")
    rows = tshark(path, port, "iscsi.opcode", "frame.comment", only="frame.comment")
    said = [(int(code, 0) & 0x3F, comment) for code, comment in rows]
    assert (0x20, "rule short: cut to 1 B of data") in said
    assert (0x00, "rule deaf: dropped") in said
    assert any("before this: rule gone: dropped" in comment for _, comment in said)


def payloads(packets: list[CapturedPacket]) -> bytes:
    return b"".join(packet.data[40:] for packet in packets)


def test_a_capture_is_for_its_owner_only_and_whole_after_every_pdu(tmp_path: Path) -> None:
    path = tmp_path / "now.pcapng"
    with serve("4MiB", capture=path) as target:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with RawInitiator(target.host, target.port, target.iqn) as raw:
            raw.ping(b"look for me")
            raw.receive()
            target.log.wait_for(opcode="nop-in")
            assert b"look for me" in payloads(list(read_file(path)))


def test_a_capture_may_begin_and_end_in_the_midst_of_a_session(tmp_path: Path) -> None:
    path = tmp_path / "midst.pcapng"
    with serve("4MiB", log_limit=None) as target:
        with RawInitiator(target.host, target.port, target.iqn) as raw:
            raw.ping(b"before")
            raw.receive()
            capture = target.start_capture(path)
            raw.ping(b"during")
            raw.receive()
            target.stop_capture(capture)
            raw.ping(b"after")
            raw.receive()
        packets = list(read_file(path))
    seen = payloads(packets)
    assert b"during" in seen
    assert b"before" not in seen
    assert b"after" not in seen
    assert [len(packet.data) for packet in packets] == [
        40 + 48 + 8
    ] * 2  # no handshake: the session was there
    first = int.from_bytes(packets[0].data[24:28], "big")
    assert first > 1 + 48  # behind the login
    assert int.from_bytes(packets[1].data[28:32], "big") == first + 56


def test_only_the_session_or_initiator_asked_for_is_captured(tmp_path: Path) -> None:
    path = tmp_path / "one.pcapng"
    with serve("4MiB") as target:
        capture = target.start_capture(path, initiator="iqn.*:two")
        with (
            RawInitiator(target.host, target.port, target.iqn) as one,
            RawInitiator(target.host, target.port, target.iqn, log_in=False) as two,
        ):
            two.login(InitiatorName="iqn.2026-11.example:two")
            for raw, word in ((one, b"from one"), (two, b"from two")):
                raw.ping(word)
                raw.receive()
        target.log.wait_for(2, opcode="nop-in")
        target.stop_capture(capture)
    seen = payloads(list(read_file(path)))
    assert b"from two" in seen
    assert b"from one" not in seen


def test_packets_are_cut_to_the_snap_length_and_say_how_long_they_were(tmp_path: Path) -> None:
    path = tmp_path / "snap.pcapng"
    with serve("4MiB") as target:
        capture = target.start_capture(path, snap_bytes=100)
        converse(target)
        target.stop_capture(capture)
    packets = list(read_file(path))
    assert max(len(packet.data) for packet in packets) == 100
    assert max(packet.original_bytes for packet in packets) > 4096


def test_files_rotate_by_size_and_the_oldest_go(tmp_path: Path) -> None:
    path = tmp_path / "ring.pcapng"
    with serve("4MiB") as target:
        capture = target.start_capture(path, rotate_bytes=20_000, files=2)
        with RawInitiator(target.host, target.port, target.iqn) as raw:
            for _ in range(40):
                raw.ping(bytes(1000))
                raw.receive()
        target.log.wait_for(40, opcode="nop-in")
        target.stop_capture(capture)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["ring-00004.pcapng", "ring-00005.pcapng"]
    assert all(20_000 <= file.stat().st_size < 24_000 for file in files[:-1])
    assert all(list(read_file(file)) for file in files)
    assert capture.packets >= 80


def test_a_reset_connection_ends_with_rst(tmp_path: Path) -> None:
    path = tmp_path / "reset.pcapng"
    with serve("4MiB", capture=path) as target:
        target.faults.add(Close("reset"), opcode="nop-out")
        with RawInitiator(target.host, target.port, target.iqn) as raw:
            raw.ping()
            with pytest.raises(ConnectionOver):
                raw.receive()
    assert list(read_file(path))[-1].data[33] & 0x04


def test_a_large_pdu_becomes_several_packets(tmp_path: Path) -> None:
    stream = TcpStream(ConnectionInfo("::1", 3260, "fe80::2%eth0", 40000))
    data = bytes(range(256)) * 1000
    packets = list(stream.segments(Direction.TO_INITIATOR, data))
    assert b"".join(packet[60:] for packet in packets) == data
    assert [int.from_bytes(packet[44:48], "big") for packet in packets] == [1, 65_001, 130_001, 195_001]
    assert all(packet[0] >> 4 == 6 for packet in packets)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"snap_bytes": 10}, "less than 60 bytes"),
        ({"rotate_bytes": 10}, "4096 and more"),
        ({"files": -1}, "not negative"),
    ],
)
def test_a_capture_that_makes_no_sense_is_refused(tmp_path: Path, config: dict[str, int], says: str) -> None:
    with pytest.raises(CaptureError, match=says):
        CaptureConfig(path=tmp_path / "x.pcapng", **config)  # type: ignore[arg-type]


def test_a_file_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="no such file or directory"):
        Capture(CaptureConfig(path=tmp_path / "no" / "x.pcapng"), wall_offset_ns=0)
    (tmp_path / "there").write_text("mine")
    with pytest.raises(CaptureError, match="file exists"):
        Capture(CaptureConfig(path=tmp_path / "there", overwrite=False), wall_offset_ns=0)
    assert (tmp_path / "there").read_text() == "mine"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_ends_the_capture_and_not_the_target() -> None:
    with serve("4MiB") as target, RawInitiator(target.host, target.port, target.iqn) as raw:
        capture = target.start_capture(Path("/dev/full"))
        raw.ping(b"still there")
        assert raw.receive().data == b"still there"
        assert capture.error == "no space left on device"


def test_the_log_and_the_capture_agree_on_what_was_on_the_wire(tmp_path: Path) -> None:
    path = tmp_path / "agree.pcapng"
    with serve("4MiB", capture=path, seed=5) as target:
        target.faults.add(Drop(), opcode="nop-in", probability=0.3)
        with RawInitiator(target.host, target.port, target.iqn) as raw:
            for number in range(20):
                raw.ping(bytes([number] * 4), immediate=True)
            target.log.wait_for(20, opcode="nop-in")
        logged = [
            record.header
            for record in target.log
            if record.on_wire and record.direction is Direction.TO_INITIATOR
        ]
        port = target.port
    captured = [
        packet.data[40:88]
        for packet in read_file(path)
        if len(packet.data) > 40 and int.from_bytes(packet.data[20:22], "big") == port
    ]
    assert captured == logged
