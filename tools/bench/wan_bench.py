"""How much of a channel's payload limit one TCP connection gets, and what the emulator costs.

``python -m tools.bench.wan_bench [--kind tun] [--seconds 4] [-o json]``: at 10, 100 and 1000 Mbit/s, a bulk transfer
from the master site to the remote one. ``share`` is goodput from the first byte to the last over the payload limit
(rate * (MTU - 52) / MTU); ``steady_share`` leaves slow start out; ``emulator_cpu`` is in cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tools.wan.channel import Channel
from tools.wan.errors import WanError

CASES = ((10_000_000, 20_000_000), (100_000_000, 20_000_000), (1_000_000_000, 10_000_000))
"""(bandwidth in bit/s, round-trip time in ns)"""
_BULK = [sys.executable, "-m", "tools.wan.bulk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One transfer over one channel."""

    kind: str
    bandwidth_bps: int
    rtt_ns: int
    payload_limit_bps: int
    goodput_bps: float
    share: float
    steady_share: float
    min_rtt_ns: int
    retransmitted_segments: int
    dropped_packets: int
    emulator_cpu: float


def measure(kind: str, bandwidth_bps: int, rtt_ns: int, seconds: float) -> Measurement:
    """Open a channel, fill it for so long, close it."""
    with Channel.open(kind, bandwidth_bps=bandwidth_bps, rtt_ns=rtt_ns) as channel:
        receiver = channel.popen(
            "remote", [*_BULK, "receive", channel.remote_address, "0"], stdout=subprocess.PIPE, text=True
        )
        assert receiver.stdout is not None
        port = receiver.stdout.readline().split()[1]
        before, started_ns = channel.status()["cpu_ns"], time.monotonic_ns()
        sender = channel.popen(
            "master",
            [*_BULK, "send", channel.remote_address, port, "--seconds", str(seconds)],
            stdout=subprocess.PIPE,
            text=True,
        )
        sent = json.loads(sender.communicate()[0])
        received = json.loads(receiver.communicate()[0])
        status = channel.status()
        cpu = (status["cpu_ns"] - before) / (time.monotonic_ns() - started_ns)
        limit = channel.payload_limit_bps()
        return Measurement(
            kind=channel.kind,
            bandwidth_bps=bandwidth_bps,
            rtt_ns=rtt_ns,
            payload_limit_bps=limit,
            goodput_bps=received["goodput_bps"],
            share=received["goodput_bps"] / limit,
            steady_share=received["steady_bps"] / limit,
            min_rtt_ns=sent["min_rtt_ns"],
            retransmitted_segments=sent["retransmitted_segments"],
            dropped_packets=sum(one["dropped_packets"] for one in status["directions"].values()),
            emulator_cpu=cpu,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 where no channel can be made."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.wan_bench", description="bench the channel emulator"
    )
    parser.add_argument("--kind", choices=("auto", "netem", "tun"), default="auto")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each transfer sends")
    parser.add_argument("-o", dest="output", choices=("table", "json"), default="table")
    options = parser.parse_args(arguments)
    try:
        measurements = [measure(options.kind, *case, options.seconds) for case in CASES]
    except WanError as error:
        sys.stderr.write(f"no channel to measure: {error}\n")
        return 1
    if options.output == "json":
        sys.stdout.write(json.dumps([asdict(one) for one in measurements]) + "\n")
        return 0
    sys.stdout.write("kind  Mbit/s  RTT ms  share  steady  min RTT ms  drops  emulator CPU\n")
    for one in measurements:
        sys.stdout.write(
            f"{one.kind:5} {one.bandwidth_bps / 1e6:7.0f} {one.rtt_ns / 1e6:7.0f} {one.share:6.1%}"
            f" {one.steady_share:7.1%} {one.min_rtt_ns / 1e6:11.2f} {one.dropped_packets:6} {one.emulator_cpu:13.1%}\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
