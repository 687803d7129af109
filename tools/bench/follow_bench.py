"""How soon everything follows a channel that gets longer: ``python -m tools.bench follow [--runs 5] [-o json]``.

Two arrays, a station and two measuring devices as processes, a copy of 2 sessions of 3 connections at 100 Mbit/s. The
delay goes from 20 to 80 ms; the devices notice (M9), the station asks (M3) and updates (M10), nobody else does
anything. Counted from the change: until the reservation, and what the connections' gates let be under way, are at
least 90 % of what the new channel needs, and until the goodput of a second is 90 % of what TCP can carry, for good
(to the end of the run). Medians over the runs, between which the delay goes back to 20 ms.

The document's size is 6 times bandwidth x delay here, so that what is reserved for 20 ms does for 80 ms too. With
``--times 2`` it is twice bandwidth x delay: then the goodput falls to a half until everything has followed.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mgmt.http import Peer
from tools.bench.copy_stage import MIB, CopyStage, Moment, StageConfig, copy_stage, rate_bps
from tools.bench.measured import Measured, command_line, report
from tools.demo.processes import ProcessFailed
from tools.wan.errors import WanError

SHORT_NS, LONG_NS = 20_000_000, 80_000_000
BANDWIDTH_BPS = 100_000_000
DOCUMENT = {"sessions": 2, "connections_per_session": 3}
TIMES = 6
WATCHED_S = 9.0
WINDOW_NS = 1_000_000_000
BAR_S = 5.0
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One look after the change."""

    moment: Moment
    reserved_bytes: int
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds from the change; ``lowest``: the smallest share of the payload limit of any second."""

    reservation_s: float
    gate_s: float
    goodput_s: float
    lowest: float
    at_the_end: float


def needed_bytes(rtt_ns: int, times: int) -> float:
    """What the station sizes by."""
    return BANDWIDTH_BPS * rtt_ns / 8e9 * times


def _until(what: Callable[[], bool], name: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not what():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {_PATIENCE_S:g} s: {name}")
        time.sleep(0.1)


def _look(stage: CopyStage) -> Sample:
    rows = stage.peers["master"].get("/v1/reservations")
    copies = stage.peers["master"].get("/v1/copies")
    copy = next(row for row in copies if row["copy_id"] == "c1")
    if copy["state"] not in ("copying", "starting"):
        raise RuntimeError(f"the copy is {copy['state']}: {copy['error']}")
    return Sample(
        Moment(time.monotonic_ns(), copy["acknowledged_bytes"]),
        sum(row["reserved_bytes"] for row in rows),
        sum(link["limit_bytes"] for link in copy["links"]),
    )


def run_once(stage: CopyStage, times: int) -> Run:
    """One rise in delay, watched; then back."""
    enough = 0.9 * needed_bytes(LONG_NS, times)
    stage.channel.set(rtt_ns=LONG_NS)
    began_ns = time.monotonic_ns()
    samples: list[Sample] = []
    while time.monotonic_ns() - began_ns < WATCHED_S * 1e9:
        samples.append(_look(stage))
        time.sleep(0.05)
    stage.channel.set(rtt_ns=SHORT_NS)

    def since(reached: Callable[[Sample], bool]) -> float:
        found = next((one for one in samples if reached(one)), None)
        return float("inf") if found is None else (found.moment.at_ns - began_ns) / 1e9

    shares = []
    for number, first in enumerate(samples):
        later = (one.moment for one in samples[number + 1 :])
        last = next((one for one in later if one.at_ns - first.moment.at_ns >= WINDOW_NS), None)
        if last is not None:
            share = rate_bps([first.moment, last]) / stage.limit_bps
            shares.append(((last.at_ns - began_ns) / 1e9, share))
    low = [at for at, share in shares if share < 0.9]
    at_the_end = [s.moment for s in samples if s.moment.at_ns > began_ns + BAR_S * 1e9]
    return Run(
        reservation_s=since(lambda one: one.reserved_bytes >= enough),
        gate_s=since(lambda one: one.limit_bytes >= enough),
        goodput_s=max(low, default=0.0),
        lowest=min(share for _, share in shares),
        at_the_end=rate_bps(at_the_end) / stage.limit_bps,
    )


def measure(runs: int, times: int) -> list[Measured]:
    """Rises, one after the other, under one copy."""
    config = StageConfig(
        bandwidth_bps=BANDWIDTH_BPS,
        rtt_ns=SHORT_NS,
        volume_bytes=4096 * MIB,
        units=640,
        stationed=True,
    )
    found = []
    with copy_stage(config) as stage:
        _reserve_at_the_station(stage, stage.peers["station"], times)
        stage.start_copy("c1", 2, 3)
        stage.watch_copy("c1", 4.0)
        for number in range(runs):
            _until(
                lambda: _look(stage).reserved_bytes <= 1.3 * needed_bytes(SHORT_NS, times),
                "the reservation follows the delay down",
            )
            time.sleep(2.0)  # the windows of what is measured are full of the short channel again
            found.append(one := run_once(stage, times))
            sys.stderr.write(
                f"run {number + 1}: reservation {one.reservation_s:.2f} s, gate {one.gate_s:.2f} s, "
                f"goodput {one.goodput_s:.2f} s (lowest {one.lowest:.0%}, from 5 s on {one.at_the_end:.1%})\n"
            )
    results = []
    for name in ("reservation", "gate", "goodput"):
        value = statistics.median(getattr(one, f"{name}_s") for one in found)
        results.append(
            Measured(name=f"{name} back", value=value, unit="s", bar=f"<= {BAR_S:g}", met=value <= BAR_S)
        )
    share = statistics.median(one.at_the_end for one in found)
    results.append(Measured(name="goodput after 5 s", value=share, unit="", bar=">= 0.9", met=share >= 0.9))
    return results


def _reserve_at_the_station(stage: CopyStage, station: Peer, times: int) -> None:
    local, remote = stage.channel.master_address, stage.channel.remote_address
    target = {"kind": "port_pair", "local_port": local, "remote_port": remote}
    counts = {"sessions": 1, "connections_per_session": times}
    station.post("/api/v1/pairs", {"target": target} | (DOCUMENT if times == TIMES else counts))
    # Shrinks wait for a minute as a rule: here they are made at once, for the next run.
    station.post("/api/v1/policies", {"target": target, "shrink_after_s": 1, "min_interval_s": 1})
    _until(
        lambda: station.get("/api/v1/channels")["items"][0]["rtt_ns"] is not None, "the channel is measured"
    )
    station.post("/api/v1/reserve", {"target": target})


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 when a bar is missed, or where there is no channel."""
    parser = command_line("follow", __doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--times", type=int, choices=range(1, TIMES + 1), default=TIMES)
    options = parser.parse_args(arguments)
    return report(
        lambda: measure(options.runs, options.times),
        options.output,
        decimals=3,
        failures=(WanError, ProcessFailed, RuntimeError),
    )


if __name__ == "__main__":
    sys.exit(main())
