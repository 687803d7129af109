"""The remote copy against plain TCP on the same kind of channel: ``python -m tools.bench.copy_bench [-o json]``.

In turns, ``--rounds`` times: one bulk TCP connection without any limit and with nothing else on the channel (the
peer), then ``sancredit demo``: the copy with the recommended reservation, with the host storm running. ``ratio`` is
the copy's goodput over the peer's, of medians; ``share`` is the copy's share of the channel's payload limit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tools.bench.wan_bench import measure

CASES = ((100_000_000, 20_000_000), (50_000_000, 80_000_000))
"""(bandwidth in bit/s, round-trip time in ns)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Medians over the rounds of one channel; goodputs in bit/s."""

    kind: str
    bandwidth_bps: int
    rtt_ns: int
    rounds: int
    peer_goodput_bps: float
    copy_goodput_bps: float
    ratio: float
    share: float
    lowest_share: float
    baseline_share: float


def demo(kind: str, bandwidth_bps: int, rtt_ns: int) -> dict[str, dict[str, float]]:
    """The verdict of one demo. Raises :class:`RuntimeError` where it did not pass."""
    command = [sys.executable, "-m", "mgmt.cli", "demo", "-o", "json", "--channel", kind]
    command += ["--bandwidth", str(bandwidth_bps), "--rtt", f"{rtt_ns // 1_000_000}ms", "--size", "64MiB"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the demo did not pass: {done.stderr.strip().splitlines()[-1:]}")
    verdict: dict[str, dict[str, float]] = json.loads(done.stdout)
    return verdict


def compare(kind: str, bandwidth_bps: int, rtt_ns: int, rounds: int) -> Comparison:
    """Both sides in turns."""
    peers, copies, shares, baselines = [], [], [], []
    used = kind
    for _ in range(rounds):
        peer = measure(kind, bandwidth_bps, rtt_ns, seconds=6.0)
        used = peer.kind
        verdict = demo(kind, bandwidth_bps, rtt_ns)
        peers.append(peer.goodput_bps)
        copies.append(verdict["reserved"]["goodput_bps"])
        shares.append(verdict["reserved"]["channel_utilisation"])
        baselines.append(verdict["baseline"]["channel_utilisation"])
    peer_bps, copy_bps = statistics.median(peers), statistics.median(copies)
    return Comparison(
        kind=used,
        bandwidth_bps=bandwidth_bps,
        rtt_ns=rtt_ns,
        rounds=rounds,
        peer_goodput_bps=peer_bps,
        copy_goodput_bps=copy_bps,
        ratio=copy_bps / peer_bps,
        share=statistics.median(shares),
        lowest_share=min(shares),
        baseline_share=max(baselines),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 where there is no channel or a demo did not pass."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.copy_bench", description="bench the remote copy"
    )
    parser.add_argument("--kind", choices=("auto", "netem", "tun"), default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", dest="output", choices=("table", "json"), default="table")
    options = parser.parse_args(arguments)
    try:
        rows = [compare(options.kind, *case, options.rounds) for case in CASES]
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if options.output == "json":
        sys.stdout.write(json.dumps([asdict(row) for row in rows]) + "\n")
        return 0
    sys.stdout.write(
        "kind  Mbit/s  RTT ms  plain TCP  copy under storm  ratio  share  lowest  without reservation\n"
    )
    for row in rows:
        sys.stdout.write(
            f"{row.kind:5} {row.bandwidth_bps / 1e6:7.0f} {row.rtt_ns / 1e6:7.0f}"
            f" {row.peer_goodput_bps / 1e6:10.1f} {row.copy_goodput_bps / 1e6:17.1f} {row.ratio:6.2f}"
            f" {row.share:6.1%} {row.lowest_share:7.1%} {row.baseline_share:20.1%}\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
