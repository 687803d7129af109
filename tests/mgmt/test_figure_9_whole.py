"""Figure 9 whole, between namespaces: a channel gets longer under a copy, and the reservation follows by itself."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mgmt.http import Peer
from tools.wan.channel import Channel
from tools.wan.errors import ChannelUnavailable

BANDWIDTH_BPS = 50_000_000
IMAGE_BYTES = 1 << 30
"""More than the channel carries while the test may run: the copy never comes to its end by itself."""
UNIT = 16384
SHORT_NS, LONG_NS = 10_000_000, 80_000_000


def needed_bytes(channel: dict[str, Any]) -> int:
    """Step 903 for two sessions of three connections, from what table 108 has now, in whole units."""
    size: int = -(-channel["bandwidth_bps"] * channel["rtt_ns"] * 6 // 8_000_000_000)
    return -(-size // UNIT) * UNIT


def until(what: Callable[[], Any]) -> Any:
    """Poll; the test's own time-out bounds it."""
    while not (found := what()):
        time.sleep(0.05)
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_channel_that_gets_longer_under_a_copy_makes_its_reservation_grow_unasked(tmp_path: Path) -> None:
    """The station is told by the measuring devices (M9), nobody else does anything.

    Judged by what a busy machine cannot disturb: the reservation follows what table 108 has, whatever that is. How
    soon and how exactly is ``python -m tools.bench follow``.
    """
    try:
        channel = Channel.open("tun", bandwidth_bps=BANDWIDTH_BPS, rtt_ns=SHORT_NS)
    except ChannelUnavailable as reason:
        pytest.skip(str(reason))
    with (tmp_path / "master.img").open("wb") as image:
        image.truncate(IMAGE_BYTES)
    with channel:
        near, far = channel.master_addresses[0], channel.remote_addresses[0]

        def start(site: str, *words: str, lines: int = 2) -> list[str]:
            process = channel.popen(
                site, [sys.executable, "-m", "mgmt.cli", *words], stdout=subprocess.PIPE, text=True
            )
            assert process.stdout is not None
            with process.stdout as output:
                return [output.readline().strip() for _ in range(lines)]

        for site, name, address, volume in (
            ("master", "east", near, "master.img"),
            ("remote", "west", far, f"remote.img:{IMAGE_BYTES}"),
        ):
            start(
                site,
                *("array", "serve", "--name", name, "--listen", f"unix:{tmp_path}/{name}.sock"),
                *("--port-address", address, "--iscsi-port", "0", "--units", "2048", "--unit", str(UNIT)),
                *("--volume", f"vol0={tmp_path}/{volume}", "--chap-file", f"{tmp_path}/arrays.chap"),
            )
        start(
            "master",
            *(
                "station",
                "serve",
                "--listen",
                f"unix:{tmp_path}/station.sock",
                "--state",
                f"{tmp_path}/state",
            ),
            *("--probe", f"unix:{tmp_path}/near.sock"),
            *("--array", f"east=unix:{tmp_path}/east.sock", "--array", f"west=unix:{tmp_path}/west.sock"),
            lines=1,
        )
        probe = ("probe", "serve", "--address")
        device = start("remote", *probe, far, "--listen", f"unix:{tmp_path}/far.sock")[0].removeprefix(
            "listening udp://"
        )
        with Peer(f"unix:{tmp_path}/station.sock", 30.0) as station:
            pair = {"local_port": near, "remote_port": far}
            target = {"kind": "port_pair"} | pair
            station.post("/api/v1/pairs", {"target": target, "sessions": 2, "connections_per_session": 3})
            start(
                "master",
                *(*probe, near, "--listen", f"unix:{tmp_path}/near.sock", "--peer", device),
                *("--station", f"unix:{tmp_path}/station.sock", "--array", f"unix:{tmp_path}/east.sock"),
            )

            def reserved() -> int:
                rows = station.get("/api/v1/reservations")["items"]
                return int(rows[0]["reserved_bytes"]) if rows else 0

            def channel_row() -> dict[str, Any]:
                row: dict[str, Any] = station.get("/api/v1/channels")["items"][0]
                return row

            def enough() -> bool:
                """As far as the dead band of 10 % goes; a shrink may wait (GAP-12), so it may have more."""
                return reserved() >= 0.9 * needed_bytes(channel_row())

            until(lambda: channel_row()["rtt_ns"])
            station.post("/api/v1/reserve", {"target": target})
            until(enough)
            copy = station.post("/api/v1/copies", {"target": target, "volume": "vol0"})["copy_id"]
            until(lambda: station.get(f"/api/v1/copies/{copy}")["acknowledged_bytes"] > 4 << 20)
            short = reserved()
            channel.set(rtt_ns=LONG_NS)
            until(lambda: channel_row()["rtt_ns"] > LONG_NS // 2)
            until(lambda: enough() and reserved() > short)
            with Peer(f"unix:{tmp_path}/east.sock", 30.0) as east:

                def gates() -> int:
                    (row,) = east.get("/v1/copies")
                    return sum(int(link["limit_bytes"]) for link in row["links"])

                until(lambda: gates() == reserved())
                until(lambda: all(link["snd_cwnd_bytes"] for link in east.get("/v1/copies")[0]["links"]))
            status = station.get(f"/api/v1/copies/{copy}")
            assert (status["state"], status["error"]) == ("copying", ""), "it went on all the while"
