"""The gate on bytes in flight, seen from outside: acknowledgements withheld by the channel, and what a capture shows.

Claim 9 (a sent byte keeps its memory buffer until it is acknowledged), claim 10 and paragraphs 96 and 97 (the largest
congestion window is the reserved size, at the start and after an update).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.tools.test_wan_channel import MBIT, MS, open_or_skip, running
from tools.capture.inflight import InFlightReport, analyse
from tools.capture.pcapng import read_file
from tools.capture.sniff import sniff_command
from tools.wan.channel import Channel

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

UNIT = 2048
SEGMENT = 1460
BACK = "remote_to_master"


class Sender:
    """The gate's sender inside the master site, asked line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, line: str = "stats") -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        reply: dict[str, Any] = json.loads(self._process.stdout.readline())
        return reply

    def settled(self, in_flight: int) -> dict[str, Any]:
        """Ask until so much is in flight and nothing moves any more; the test's own time-out bounds it."""
        before = self.ask()
        while True:
            time.sleep(0.05)
            now = self.ask()
            if now["in_flight"] == in_flight and now["written"] == before["written"]:
                return now
            before = now

    def judged(self, wanted: str) -> dict[str, Any]:
        """Ask until the diagnosis of a second is this; the test's own time-out bounds it."""
        while (now := self.ask())["diagnosis"] != wanted:
            time.sleep(0.05)
        return now

    def moved(self, acknowledged: int) -> dict[str, Any]:
        """Ask until more than that is acknowledged."""
        while (now := self.ask())["acknowledged"] <= acknowledged:
            time.sleep(0.01)
        return now


#: A receiver with a small buffer, so that its window is what limits the sender.
NARROW = """
import socket, sys
with socket.socket() as server:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    server.bind((sys.argv[1], 0))
    server.listen()
    print("listening", server.getsockname()[1], flush=True)
    with server.accept()[0] as connection:
        while connection.recv(65536):
            pass
"""


@contextmanager
def sending(channel: Channel, units: int, *, narrow: bool = False) -> Iterator[Sender]:
    """A sender with so many units, and a receiver that takes everything."""
    bulk = ["-m", "tools.wan.bulk", "receive", channel.remote_address, "0"]
    with running(
        channel,
        "remote",
        [sys.executable, *(["-c", NARROW, channel.remote_address] if narrow else bulk)],
        stdout=subprocess.PIPE,
        text=True,
    ) as receiver:
        assert receiver.stdout is not None
        port = receiver.stdout.readline().split()[1]
        argv = [sys.executable, "-m", "tests.tools.gate_sender", channel.remote_address, port]
        with running(
            channel,
            "master",
            [*argv, str(units), str(UNIT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            yield Sender(process)


@contextmanager
def captured(channel: Channel, path: Path) -> Iterator[None]:
    """Everything that passes the master's interface in the block, in ``path``."""
    argv = sniff_command(channel.interface, path)
    with running(channel, "master", argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)


def in_flight(path: Path, points: int = 100_000) -> InFlightReport:
    return analyse(read_file(path), lambda flow: flow.source == "10.99.0.1", points=points)


def test_a_peer_that_withholds_acknowledgements_stops_the_sender_at_the_reserved_units(
    tmp_path: Path,
) -> None:
    """Claim 9: 40 units of 2048 bytes; each acknowledgement that is let pass frees as many bytes as it confirms."""
    reserved = 40 * UNIT
    file = tmp_path / "gate.pcapng"
    with (
        open_or_skip(bandwidth_bps=100 * MBIT, rtt_ns=10 * MS, directory=tmp_path) as channel,
        captured(channel, file),
        sending(channel, 40) as sender,
    ):
        sender.moved(10 * reserved)  # it flows
        channel.hold(BACK)
        stopped = sender.settled(reserved)
        for _ in range(3):
            channel.let_pass(BACK)
            sender.moved(stopped["acknowledged"])
            after = sender.settled(reserved)
            freed = after["acknowledged"] - stopped["acknowledged"]
            assert freed > 0
            assert after["written"] - stopped["written"] == freed
            stopped = after
        channel.hold(BACK, False)
        sender.moved(stopped["acknowledged"] + 10 * reserved)
    report = in_flight(file)
    assert reserved - SEGMENT <= report.max_in_flight_bytes <= reserved + SEGMENT


def test_bytes_in_flight_reach_the_reserved_size_and_follow_a_smaller_one_within_two_round_trips(
    tmp_path: Path,
) -> None:
    """Claim 10: 350,000 bytes at 280 ms are reached and not exceeded; after an update to half, neither is that."""
    units = 171  # 350,208 bytes
    file = tmp_path / "window.pcapng"
    with (
        open_or_skip(bandwidth_bps=20 * MBIT, rtt_ns=280 * MS, directory=tmp_path) as channel,
        captured(channel, file),
        sending(channel, units) as sender,
    ):
        sender.moved(6 * units * UNIT)
        changed = sender.ask("limit 175000")
        sender.moved(changed["acknowledged"] + 6 * 175_000)
        sender.judged("sndbuf-limited")  # the channel would carry more
    report = in_flight(file)
    assert 300_000 < report.max_in_flight_bytes <= units * UNIT + SEGMENT
    # One round trip, however long a busy machine makes it: what was on its way at the change has been acknowledged.
    settled_ns = next(at_ns for at_ns, size in report.acknowledged_series if size >= changed["written"])
    later = [size for at_ns, size in report.series if at_ns > settled_ns]
    assert len(later) > 10
    assert 150_000 < max(later) <= 175_000 + SEGMENT


def test_half_of_bandwidth_times_delay_is_used_to_85_percent(tmp_path: Path) -> None:
    """With a reservation below bandwidth times delay what it allows is reached: 60 units at 80 ms are 1.5 MB/s."""
    units, rtt_ns = 60, 80 * MS
    with (
        open_or_skip(bandwidth_bps=20 * MBIT, rtt_ns=rtt_ns, directory=tmp_path) as channel,
        sending(channel, units) as sender,
    ):
        start, share = sender.moved(10 * units * UNIT), 0.0
        for _ in range(40):  # the best of some spans: a busy machine takes time from the sender in others
            end = sender.moved(start["acknowledged"] + 10 * units * UNIT)
            rate = (end["acknowledged"] - start["acknowledged"]) * 1e9 / (end["now_ns"] - start["now_ns"])
            share = max(share, rate * rtt_ns / (units * UNIT * 1e9))
            if share >= 0.85:
                break
            start = end
    assert share >= 0.85


def test_a_reservation_of_one_pipe_at_20_ms_is_used_and_not_exceeded(tmp_path: Path) -> None:
    """What a capture shows of a reservation of 0.98 times bandwidth x delay: 85 % of it and more, never beyond."""
    units, file = 24, tmp_path / "pipe.pcapng"
    with (
        open_or_skip(bandwidth_bps=20 * MBIT, rtt_ns=20 * MS, directory=tmp_path) as channel,
        captured(channel, file),
        sending(channel, units) as sender,
    ):
        sender.moved(30 * units * UNIT)
    report = in_flight(file)
    assert 0.85 * units * UNIT <= report.max_in_flight_bytes <= units * UNIT + SEGMENT


def test_each_of_the_four_limits_is_told_of_real_connections(tmp_path: Path) -> None:
    """TCP_INFO and the gate over an emulated channel: 20 Mbit/s and 100 ms are 250,000 bytes.

    The delay is long, so that what a busy machine adds is not taken for a queue.
    """
    with open_or_skip(bandwidth_bps=20 * MBIT, rtt_ns=100 * MS, directory=tmp_path) as channel:
        with sending(channel, 400) as sender:
            sender.judged("network-limited")
            sender.ask("limit 50000")
            sender.judged("sndbuf-limited")
            sender.ask("limit 800000")
            while sender.judged("network-limited")["snd_cwnd_bytes"] <= 100_000:
                time.sleep(0.05)  # M10: the kernel's own window does not stay at the old limit
            sender.ask("rest")
            sender.judged("application-limited")
        with sending(channel, 400, narrow=True) as sender:
            sender.judged("rwnd-limited")
