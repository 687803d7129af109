"""Capturing on the interface of a site, while real TCP runs through the channel."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from iscsi_target.trace.pcapng import LINKTYPE_ETHERNET, LINKTYPE_RAW
from tools.capture.inflight import analyse
from tools.capture.pcapng import read_file
from tools.capture.ring import PacketRing
from tools.capture.sniff import sniff_command
from tools.wan.channel import Channel
from tools.wan.errors import ChannelUnavailable

pytestmark = pytest.mark.slow

MBIT = 1_000_000
MS = 1_000_000
PIPE = {"stdout": subprocess.PIPE, "text": True}
BULK = [sys.executable, "-m", "tools.wan.bulk"]
GATED = """
import fcntl, socket, struct, sys, time
address, port, limit, total = sys.argv[1], *map(int, sys.argv[2:])
with socket.create_connection((address, port)) as connection:
    sent = 0
    queued = 0
    while sent < total or queued:
        (queued,) = struct.unpack("i", fcntl.ioctl(connection, 0x5411, bytes(4)))  # SIOCOUTQ
        if sent < total and queued < limit:
            connection.sendall(bytes(min(limit - queued, total - sent)))
            sent += min(limit - queued, total - sent)
        else:
            time.sleep(0.001)
"""


@contextlib.contextmanager
def running(channel: Channel, site: str, argv: list[str], **more) -> Iterator[subprocess.Popen]:
    """A program inside a site; killed at the end, so that a failing test does not wait for it."""
    child = channel.popen(site, argv, **more)
    with child:
        try:
            yield child
        finally:
            child.kill()


@pytest.fixture
def channel():
    try:
        channel = Channel.open("tun", bandwidth_bps=100 * MBIT, rtt_ns=20 * MS)
    except ChannelUnavailable as unavailable:
        pytest.skip(f"no emulated channel on this machine: {unavailable}")
    with channel:
        yield channel


def captured_transfer(channel: Channel, path: Path, sender: list[str], interface: str, site: str) -> dict:
    """Run a sender in the master site against a receiver at ``site``, capture, and return the sniffer's last words."""
    address = channel.remote_address if site == "remote" else "127.0.0.1"
    with running(channel, "master", sniff_command(interface, path), **PIPE) as sniffer:
        assert sniffer.stdout.readline() == f"capturing {interface} to {path}\n"
        with running(channel, site, [*BULK, "receive", address, "0"], **PIPE) as receiver:
            port = receiver.stdout.readline().split()[1]
            words = [word.format(address=address, port=port) for word in sender]
            with running(channel, "master", words) as sending:
                assert sending.wait(30) == 0
            assert receiver.wait(30) == 0
        sniffer.send_signal(signal.SIGTERM)
        told = json.loads(sniffer.communicate(timeout=30)[0])
        assert sniffer.returncode == 0
    return told


def test_the_gate_on_bytes_in_flight_is_seen_byte_for_byte_and_tshark_agrees(channel, tmp_path):
    path = tmp_path / "gated.pcapng"
    limit, total = 150_000, 3_000_000
    sender = [sys.executable, "-c", GATED.replace("{", "{{").replace("}", "}}"), "{address}", "{port}"]
    told = captured_transfer(channel, path, [*sender, str(limit), str(total)], channel.interface, "remote")
    packets = list(read_file(path))
    assert told == {"packets": len(packets), "dropped": 0}
    assert {packet.link_type for packet in packets} == {LINKTYPE_RAW}
    assert max(len(packet.data) for packet in packets) <= 128
    report = analyse(packets)
    (flow,) = report.flows
    assert flow.payload_bytes == flow.acknowledged_bytes == total
    assert 0.8 * limit < report.max_in_flight_bytes <= limit
    assert max(flight for _time, flight in report.series) == report.max_in_flight_bytes
    assert 0 < report.goodput_bps < channel.payload_limit_bps()
    if shutil.which("tshark") is None:
        pytest.skip("the second opinion is missing; to fix it: apt-get install tshark")
    fields = ["-e", "frame.len", "-e", "tcp.analysis.bytes_in_flight"]
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", *fields]
    lines = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True
    ).stdout.splitlines()
    assert [int(line.split("\t")[0]) for line in lines] == [packet.original_bytes for packet in packets]
    assert max(int(flight) for line in lines if (flight := line.split("\t")[1])) == report.max_in_flight_bytes


def test_loopback_is_captured_once_per_packet(channel, tmp_path):
    path = tmp_path / "lo.pcapng"
    sender = [*BULK, "send", "{address}", "{port}", "--bytes", "2000000"]
    captured_transfer(channel, path, sender, "lo", "master")
    packets = list(read_file(path))
    assert {packet.link_type for packet in packets} == {LINKTYPE_ETHERNET}
    (flow,) = analyse(packets).flows
    assert flow.payload_bytes == 2_000_000
    # Seen twice, all would count as sent again. TCP itself may probe with its last segment when the receiver is slow.
    assert flow.retransmitted_bytes < 200_000


def test_what_cannot_be_captured_is_said_in_one_line(channel, tmp_path):
    for interface, path, says in (
        ("wan9", tmp_path / "x.pcapng", "No such device"),
        ("lo", tmp_path / "missing" / "x.pcapng", "No such file"),
    ):
        with running(
            channel, "master", sniff_command(interface, path), stderr=subprocess.PIPE, text=True
        ) as child:
            _, error = child.communicate(timeout=30)
        assert child.returncode == 1
        assert says in error
        assert len(error.splitlines()) == 1


def test_a_full_ring_drops_and_says_how_many():
    try:
        ring = PacketRing("lo", snap_bytes=64, buffer_bytes=1)  # the smallest: one block
    except PermissionError:
        pytest.skip("capturing needs CAP_NET_RAW; to fix it: run the tests as root")
    with ring, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("127.0.0.1", 0))
        for number in range(3000):
            sender.sendto(number.to_bytes(4, "big"), sender.getsockname())
        received, dropped = ring.statistics()
        kept = sum(1 for packet in ring.packets() if packet.original_bytes)
        assert dropped > 0
        assert 0 < kept < 3000
        assert received >= kept + dropped
        sender.sendto(b"once more", sender.getsockname())  # there is room again
        assert any(b"once more" in packet.data for packet in ring.packets())


@pytest.mark.parametrize("snap_bytes", [0, 13, 65_536])
def test_a_snap_length_without_meaning_is_refused(snap_bytes):
    with pytest.raises(ValueError, match="snap length"):
        PacketRing("lo", snap_bytes=snap_bytes)
