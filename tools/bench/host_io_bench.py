"""What a host at a fixed rate feels of a remote copy: ``python -m tools.bench host-io [-o json]``.

A host of the master array, on a path of its own (not the channel), writes blocks of 4 KiB. First as fast as it can,
alone; then at half of that rate, in turns without a copy and while one of 2 sessions of 3 connections runs at
100 Mbit/s and 20 ms with the document's size. With the copy it has to keep 90 % of the offered rate, with a 99th
percentile of the latency at most twice that without.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tools.bench.copy_stage import (
    HOST_VOLUME,
    HOST_VOLUME_BYTES,
    MIB,
    CopyStage,
    StageConfig,
    copy_stage,
    rate_bps,
)
from tools.bench.measured import Measured, command_line, report
from tools.demo.processes import ProcessFailed
from tools.wan.errors import WanError

BANDWIDTH_BPS, RTT_NS = 100_000_000, 20_000_000
KEPT, TAIL = 0.9, 2.0


@dataclass(frozen=True, slots=True)
class Load:
    """What a host got: writes in a second, and their latencies in milliseconds."""

    rate: float
    p50_ms: float
    p99_ms: float


def load(stage: CopyStage, seconds: float, rate: float = 0.0) -> Load:
    """One host for so long; rate 0: one write after the other. Raises :class:`RuntimeError` where it fails."""
    port = stage.port("master")
    argv = [sys.executable, "-m", "tools.bench.replication_load", "--seconds", str(seconds)]
    argv += ["--portal", f"{port['address']}:{port['iscsi_port']}", "--iqn", port["iqn"], "--rate", str(rate)]
    argv += ["--lun", str(stage.lun("master", HOST_VOLUME)), "--size", str(HOST_VOLUME_BYTES)]
    process = stage.channel.popen("master", [*argv, "--depth", "8" if rate else "1"], stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=seconds + 60)
    rows = [tuple(map(int, line.split())) for line in out.splitlines()]
    if process.returncode or len(rows) < 10:
        raise RuntimeError("the host's load did not run")
    latencies = sorted(latency for _, latency in rows)
    span_ns = max(due + latency for due, latency in rows) - min(due for due, _ in rows)
    return Load(
        len(rows) * 1e9 / span_ns, latencies[len(rows) // 2] / 1e6, latencies[len(rows) * 99 // 100] / 1e6
    )


def measure(seconds: float, turns: int) -> list[Measured]:
    """In turns, of one array."""
    pipe_bytes = BANDWIDTH_BPS * RTT_NS // 8_000_000_000
    config = StageConfig(
        bandwidth_bps=BANDWIDTH_BPS, rtt_ns=RTT_NS, volume_bytes=(turns + 1) * 256 * MIB, units=256
    )
    alone, company, shares = [], [], []
    with copy_stage(config) as stage:
        stage.reserve(6 * pipe_bytes)
        load(stage, 1.0)
        offered = load(stage, 3.0).rate / 2
        for number in range(turns):
            alone.append(load(stage, seconds, offered))
            copy = f"c{number}"
            stage.start_copy(copy, 2, 3)
            before = stage.watch_copy(copy, 1.0)
            company.append(load(stage, seconds, offered))
            after = stage.watch_copy(copy, 0.1)
            stage.stop_copy(copy)
            shares.append(rate_bps([before[-1], after[-1]]) / stage.limit_bps)
    kept = statistics.median(one.rate for one in company) / offered
    tails = [statistics.median(one.p99_ms for one in some) for some in (alone, company)]
    middles = [statistics.median(one.p50_ms for one in some) for some in (alone, company)]
    tail = tails[1] / tails[0]
    return [
        Measured(name="offered", value=offered, unit="/s", bar="", met=True),
        Measured(name="kept with a copy", value=kept, unit="", bar=f">= {KEPT}", met=kept >= KEPT),
        Measured(name="median without", value=middles[0], unit="ms", bar="", met=True),
        Measured(name="median with", value=middles[1], unit="ms", bar="", met=True),
        Measured(name="p99 without", value=tails[0], unit="ms", bar="", met=True),
        Measured(name="p99 with / without", value=tail, unit="x", bar=f"<= {TAIL:g}", met=tail <= TAIL),
        Measured(
            name="copy's share of the channel", value=statistics.median(shares), unit="", bar="", met=True
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 when a bar is missed, or where there is no channel."""
    parser = command_line("host-io", __doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="Of each turn.")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args(arguments)
    return report(
        lambda: measure(options.seconds, options.turns),
        options.output,
        decimals=3,
        failures=(WanError, ProcessFailed, RuntimeError),
    )


if __name__ == "__main__":
    sys.exit(main())
