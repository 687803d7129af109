"""Devices that watch a real emulated channel while it changes, and what the station hears of it (M9)."""

from __future__ import annotations

import queue
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from mgmt.channel.watch import copies_in
from mgmt.http import ServerThread, exception_handlers, message_endpoint
from mgmt.messages import ChannelChangeNotify, Envelope, Message
from tools.wan.channel import Channel
from tools.wan.errors import ChannelUnavailable

BANDWIDTH_BPS = 50_000_000
SHORT_NS, LONG_NS = 20_000_000, 80_000_000


class ListeningStation:
    """A stand-in for a station: it only takes notifications."""

    def __init__(self) -> None:
        self.heard: queue.Queue[ChannelChangeNotify] = queue.Queue()

    def app(self) -> Starlette:
        def hear(envelope: Envelope) -> Message:
            assert isinstance(envelope.message, ChannelChangeNotify)
            self.heard.put(envelope.message)
            return envelope.message

        route = Route("/messages", message_endpoint(hear), methods=["POST"])
        return Starlette(routes=[route], exception_handlers=exception_handlers())

    def until(self, right: Callable[[int], bool]) -> list[ChannelChangeNotify]:
        """What is heard up to a notification with such a delay; the test's own time-out bounds the wait."""
        heard = [self.heard.get()]
        while not right(heard[-1].rtt_ns):
            heard.append(self.heard.get())
        return heard


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_station_hears_of_a_delay_that_changes_without_asking(tmp_path: Path) -> None:
    """With a key: the whole of it in STAMP's authenticated mode, the notifications signed.

    Judged is which of the two delays is nearer: a busy machine makes packets late, and the clocks' offset unsure.
    """
    try:
        channel = Channel.open("tun", bandwidth_bps=BANDWIDTH_BPS, rtt_ns=SHORT_NS)
    except ChannelUnavailable as reason:
        pytest.skip(str(reason))
    key = tmp_path / "devices.key"
    key.write_text("0123456789abcdef0123456789abcdef")
    key.chmod(0o600)
    station = ListeningStation()
    server = ServerThread(station.app(), f"unix:{tmp_path / 'station.sock'}")
    server.start()
    try:
        with channel:
            near, far = channel.master_addresses[0], channel.remote_addresses[0]

            def start(site: str, name: str, *arguments: str) -> list[str]:
                command: list[Any] = [sys.executable, "-m", "mgmt.cli", "probe", "serve", "--key", key]
                command += ["--listen", f"unix:{tmp_path / name}.sock", *arguments]
                probe = channel.popen(site, command, stdout=subprocess.PIPE, text=True)
                assert probe.stdout is not None
                with probe.stdout as output:
                    return [output.readline().strip() for _ in range(2)]

            device = start("remote", "far", "--address", far)[0].removeprefix("listening udp://")
            watch = ["--peer", device, "--station", str(server.address), "--local-port", "192.0.2.7"]
            start("master", "near", "--address", near, *watch)
            middle_ns = (SHORT_NS + LONG_NS) // 2
            (first, *_) = heard = station.until(lambda rtt_ns: rtt_ns < middle_ns)
            assert (first.local_port, first.remote_port) == ("192.0.2.7", far)
            assert first.bandwidth_bps > 0
            assert first.jitter_ns is not None and first.loss_ppm is not None, "for people, with the rest"
            channel.set(rtt_ns=LONG_NS)
            heard += station.until(lambda rtt_ns: rtt_ns > middle_ns)
            channel.set(rtt_ns=SHORT_NS)
            heard += station.until(lambda rtt_ns: rtt_ns < middle_ns)
            assert min(notice.rtt_ns for notice in heard) > SHORT_NS // 2
            numbers = [notice.sequence for notice in heard]
            assert numbers == sorted(set(numbers)), "later ones have higher numbers (GAP-12)"
    finally:
        server.stop()


@pytest.mark.parametrize(
    "rows",
    [
        None,
        {},
        "rows",
        [5],
        [{}],
        [{"copy_id": "c", "remote_port": "r"}],
        [{"copy_id": "c", "acknowledged_bytes": 5}],
        [{"copy_id": "c", "remote_port": "r", "acknowledged_bytes": "many"}],
        [{"copy_id": "c", "remote_port": "r", "acknowledged_bytes": 1.5}],
    ],
)
def test_what_an_array_says_of_its_copies_is_left_out_where_it_makes_no_sense(rows: object) -> None:
    sound = {"copy_id": "c", "remote_port": "r", "acknowledged_bytes": 5}
    assert copies_in(rows) == []
    if isinstance(rows, list):
        assert copies_in([*rows, sound]) == [sound]
