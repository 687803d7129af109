"""How much of a channel a remote copy gets: ``python -m tools.bench goodput [--only NAME]… [--plot FILE.png]``.

Two arrays as real processes at the two ends of a real channel, a copy between memory volumes, and a storm of hosts that
holds every free unit of the master array. Goodput is what the remote array has answered for, over what TCP can carry
on the channel. ``average`` counts from the first answer on for 100 round trips, at least 6 s, with slow start;
``steady`` is its second half.

- ``100M-20ms``, ``100M-280ms``, ``1G-10ms``: 2 sessions of 3 connections with the document's size (bandwidth x delay x
  connections), and 1 of 1 with 1.2 times bandwidth x delay.

``--plot`` draws the goodput over size / (bandwidth x delay), and what a rise in delay does to a copy whose reservation
is large enough for it, with cubic and with BBR.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tools.bench.copy_stage import MIB, CopyStage, Moment, StageConfig, copy_stage, rate_bps, steady_bps
from tools.bench.measured import Measured, command_line, report
from tools.demo.processes import ProcessFailed
from tools.wan.errors import WanError

#: (bandwidth in bit/s, round-trip time in ns, volume in bytes)
CHANNELS = {
    "100M-20ms": (100_000_000, 20_000_000, 256 * MIB),
    "100M-280ms": (100_000_000, 280_000_000, 512 * MIB),
    "1G-10ms": (1_000_000_000, 10_000_000, 1024 * MIB),
}
RATIOS = (0.25, 0.5, 0.75, 1.0, 1.2, 1.5, 2.0, 3.0, 4.0)
BAR = 0.90
_UNIT_BYTES = 16 * 1024
#: What hosts are left with beside the reservation.
_HOST_UNITS = 160
_AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


def measure(name: str) -> list[Measured]:
    """Both shapes of copy on one channel."""
    bandwidth_bps, rtt_ns, volume_bytes = CHANNELS[name]
    pipe_bytes = bandwidth_bps * rtt_ns // 8_000_000_000
    results = []
    for label, sessions, connections, size_bytes in (
        ("2x3, document", 2, 3, 6 * pipe_bytes),
        ("1x1, 1.2 x b x d", 1, 1, pipe_bytes * 6 // 5),
    ):
        units = -(-size_bytes // _UNIT_BYTES) + _HOST_UNITS
        config = StageConfig(
            bandwidth_bps=bandwidth_bps, rtt_ns=rtt_ns, volume_bytes=volume_bytes, units=units
        )
        with copy_stage(config) as stage:
            moments = stormed(stage, size_bytes, sessions, connections)
            average, steady = rate_bps(moments) / stage.limit_bps, steady_bps(moments) / stage.limit_bps
        where = f"{name} {label}"
        results.append(Measured(name=f"{where}, average", value=average, unit="", bar="", met=True))
        results.append(
            Measured(name=f"{where}, steady", value=steady, unit="", bar=f">= {BAR}", met=steady >= BAR)
        )
    return results


def stormed(stage: CopyStage, size_bytes: int, sessions: int, connections: int) -> list[Moment]:
    """A copy with this reservation under a storm of hosts."""
    stage.reserve(size_bytes)
    with stage.storm():
        stage.start_copy("c1", sessions, connections)
        moments = stage.watch_copy("c1", max(6.0, stage.config.rtt_ns * 100 / 1e9))
        stage.stop_copy("c1")
    return moments


# -- plots ------------------------------------------------------------------------------------------------------


def controls() -> tuple[list[str], str]:
    """The congestion controls to compare, and a remark where one of them is missing."""
    there = _AVAILABLE.read_text().split()
    compared: tuple[str, ...] = ("cubic", "bbr")
    missing = [name for name in compared if name not in there]
    remark = f"not in this kernel, so not drawn: {', '.join(missing)}" if missing else ""
    return [name for name in compared if name in there], remark


def over_ratio(congestion: str, seconds: float) -> list[tuple[float, float]]:
    """(size / (bandwidth x delay), share of the payload limit) of 2 x 3 connections at 100 Mbit/s and 20 ms."""
    config = StageConfig(
        bandwidth_bps=100_000_000,
        rtt_ns=20_000_000,
        volume_bytes=256 * MIB,
        units=1024,
        unit_bytes=2048,
        congestion=congestion,
    )
    found = []
    with copy_stage(config) as stage:
        for number, ratio in enumerate(RATIOS):
            reserved = stage.reserve(int(config.pipe_bytes * ratio))
            stage.start_copy(f"c{number}", 2, 3)
            moments = stage.watch_copy(f"c{number}", seconds)
            stage.stop_copy(f"c{number}")
            found.append((reserved / config.pipe_bytes, steady_bps(moments) / stage.limit_bps))
    return found


def after_a_rise(congestion: str, before_s: float, after_s: float) -> list[tuple[float, float]]:
    """(seconds since the rise, share of the payload limit) of one connection whose delay goes from 20 to 80 ms; its
    reservation is 1.2 times bandwidth times the longer delay all the while."""
    config = StageConfig(
        bandwidth_bps=100_000_000,
        rtt_ns=20_000_000,
        volume_bytes=512 * MIB,
        units=512,
        congestion=congestion,
    )
    with copy_stage(config) as stage:
        stage.reserve(config.pipe_bytes * 4 * 6 // 5)
        stage.start_copy("c1", 1, 1)
        moments = stage.watch_copy("c1", before_s, 0.25)
        stage.channel.set(rtt_ns=80_000_000)
        rise_ns = time.monotonic_ns()
        moments += stage.watch_copy("c1", after_s, 0.25)
        stage.stop_copy("c1")
        limit = stage.limit_bps
    pairs = zip(moments, moments[2:], strict=False)
    return [((b.at_ns - rise_ns) / 1e9, rate_bps([a, b]) / limit) for a, b in pairs]


def plot(path: Path, seconds: float) -> None:
    """Both pictures in one file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names, remark = controls()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.6))
    for name, mark in zip(names, "os", strict=False):
        points = over_ratio(name, seconds)
        left.plot([x for x, _ in points], [100 * y for _, y in points], marker=mark, label=name)
        for x, y in points:
            sys.stdout.write(f"{name:6} size / (bandwidth x delay) {x:5.2f}  goodput {y:6.1%}\n")
        line = after_a_rise(name, 6.0, 20.0)
        right.plot([x for x, _ in line], [100 * y for _, y in line], label=name)
        low = [y for x, y in line if 3 < x < 9]
        sys.stdout.write(f"{name:6} 3 to 9 s after 20 -> 80 ms: goodput {sum(low) / len(low):6.1%}\n")
    left.axhline(90, linestyle="--", linewidth=0.8, color="grey")
    left.axvline(1, linestyle=":", linewidth=0.8, color="grey")
    left.axvline(1.2, linestyle=":", linewidth=0.8, color="grey")
    left.set_xscale("log", base=2)
    left.set_xticks([0.25, 0.5, 1, 1.2, 2, 4], ["1/4", "1/2", "1", "\n1.2", "2", "4"])
    left.set_xlabel("reserved size / (bandwidth x delay)")
    left.set_ylabel("goodput, % of what TCP can carry")
    left.set_title("2 x 3 connections, 100 Mbit/s, 20 ms")
    right.axvline(0, linestyle=":", linewidth=0.8, color="grey")
    right.set_xlabel("seconds since the delay rose from 20 to 80 ms")
    right.set_title("1 connection, reserved for 80 ms all the while")
    for axis in (left, right):
        axis.set_ylim(0, 105)
        axis.grid(visible=True, alpha=0.3)
        axis.legend()
    if remark:
        figure.text(0.01, 0.01, remark, fontsize=8, color="red")
        sys.stdout.write(remark + "\n")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 when a bar is missed, or where there is no channel."""
    parser = command_line("goodput", __doc__)
    parser.add_argument("--only", action="append", choices=tuple(CHANNELS))
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="How long each point of the plot is looked at."
    )
    options = parser.parse_args(arguments)

    def measured() -> list[Measured]:
        if options.plot is not None:
            plot(options.plot, options.seconds)
            return []
        return [line for name in options.only or CHANNELS for line in measure(name)]

    failures = (WanError, ProcessFailed, RuntimeError)
    return report(measured, options.output, decimals=3, failures=failures)


if __name__ == "__main__":
    sys.exit(main())
