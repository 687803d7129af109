"""Speed of the Fibre Channel engines against plain C++ and SimPy: ``python -m tools.bench.fc_bench [-o json]``.

The C++ peers (``fc/*.cpp``) are compiled by g++ -O3 into a temporary folder. Rounds take turns, so that a busy machine
disturbs all sides alike, and all times are CPU time. Ratios are medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

from fcsim.engine import fabric_kernel, link_kernel
from fcsim.engine.fabric_kernel import Engine
from fcsim.engine.fabric_state import (
    DELIVERED,
    FLOW_COUNTERS,
    NEVER,
    RANDOM_LIMIT,
    FlowSpec,
    LinkSpec,
    State,
    lay_out,
)
from fcsim.engine.link import BLOCK_FRAMES, LinkRun, LinkScenario
from fcsim.speeds import SPEEDS
from tools.bench import fc_simpy
from tools.bench.measured import Measured, write

PEERS = Path(__file__).parent / "fc"
BYTE, PROPAGATION = 1320, 56_100
CREDITS = 16
FABRICS = ((8, 200_000, 2.0), (48, 30_000, 1.3))
"""Ports, frames of each, and how many times as fast as the C++ engine we must be."""
PEER_LEAST = 2.0e6
"""Frames per second that the C++ engine must reach at 8 ports for the ratio to count."""
LINK_BLOCKS, LINK_CREDITS = 32, 64
SIMPY_FRAMES = 6000


def star(ports: int, frames: int) -> State:
    """What ``fabric_peer.cpp`` simulates: hosts around a switch, a tenth of all to host 0, which drains at 1/4."""
    full = 2172 * BYTE
    links = [LinkSpec(("host", n), ("switch", 0), BYTE, PROPAGATION, (CREDITS,)) for n in range(ports)]
    links += [
        LinkSpec(
            ("switch", 0),
            ("host", n),
            BYTE,
            PROPAGATION,
            (CREDITS,),
            drain_frame=full // 2 if n else 4 * full,
        )
        for n in range(ports)
    ]
    flows = [
        FlowSpec(n, hot=0, hot_chance=0.1, low_bytes=512, high_bytes=2112, count=frames) for n in range(ports)
    ]
    return lay_out(links, flows, {(0, n): [ports + n] for n in range(ports)}, hosts=ports, switches=1)


def our_fabric(ports: int, frames: int) -> float:
    """CPU seconds of our engine for a fabric."""
    state = star(ports, frames)
    engine = Engine(state)
    began = time.process_time()
    engine.run(NEVER - 1, 10**12)
    took = time.process_time() - began
    delivered = sum(state.flow_counters[DELIVERED::FLOW_COUNTERS])
    if delivered != ports * frames:
        raise RuntimeError(f"{delivered} frames delivered of {ports * frames}")
    return took


def simpy_fabric(ports: int, frames: int) -> float:
    """CPU seconds of the SimPy model for the same fabric."""
    state = star(ports, frames)
    run = fc_simpy.StarRun(
        fc_simpy.Star(
            hosts=ports,
            credits=CREDITS,
            frames=frames,
            byte=BYTE,
            propagation=PROPAGATION,
            overhead=state.overhead,
            low_bytes=512,
            high_bytes=2112,
            hot_chance=int(0.1 * RANDOM_LIMIT),
            drain=tuple(state.drain_frame[ports:]),
            start=(0,) * ports,
            random=tuple(state.random[:ports]),
        )
    )
    began = time.process_time()
    run.run()
    return time.process_time() - began


def link_inputs(blocks: int) -> list[tuple[array[int], array[int]]]:
    """When frames are ready, and their payloads, as ``link_peer.cpp`` makes them."""
    made, random, when = [], 8, 0
    for _ in range(blocks):
        ready, payload = array("q"), array("q")
        for _ in range(BLOCK_FRAMES):
            random = random * 48271 % RANDOM_LIMIT
            when += random % 3_000_000
            ready.append(when)
            random = random * 48271 % RANDOM_LIMIT
            payload.append(random % 2113)
        made.append((ready, payload))
    return made


def our_link(inputs: Sequence[tuple[array[int], array[int]]]) -> tuple[float, int]:
    """CPU seconds of our link through its public call, with the whole time series kept, and its last tick."""
    run = LinkRun(LinkScenario(SPEEDS["8G"], 10_000, LINK_CREDITS, drain_ticks=1_500_000))
    began = time.process_time()
    kept = [run.send_block(ready, payload) for ready, payload in inputs]
    took = time.process_time() - began
    return took, kept[-1].drained[-1]


def simpy_link(inputs: Sequence[tuple[array[int], array[int]]], frames: int) -> float:
    """CPU seconds of the SimPy model for the first frames of the same link."""
    ready, payload = inputs[0]
    began = time.process_time()
    fc_simpy.run_link(
        ready[:frames],
        payload[:frames],
        credits=LINK_CREDITS,
        byte=BYTE,
        around=60,
        propagation=10_000 * 5610,
        drain=1_500_000,
        r_rdy=4 * BYTE,
    )
    return time.process_time() - began


def compiled_peers(directory: Path) -> dict[str, Path]:
    """The C++ programs by name; none, said aloud, without g++."""
    if shutil.which("g++") is None:
        sys.stderr.write("SKIPPED: the C++ peers need g++ (apt-get install g++); no ratio against them\n")
        return {}
    programs = {}
    for name in ("fabric_peer", "link_peer"):
        programs[name] = directory / name
        source = PEERS / f"{name}.cpp"
        subprocess.run(
            ["g++", "-O3", "-std=c++17", "-o", str(programs[name]), str(source)], check=True, timeout=120
        )
    return programs


def peer(program: Path, *numbers: int) -> tuple[float, int, int]:
    """CPU seconds, frames and last tick that a C++ peer reports."""
    words = subprocess.run(
        [str(program), *map(str, numbers)], check=True, capture_output=True, text=True, timeout=600
    ).stdout.split()
    return float(words[0]), int(words[1]), int(words[2])


def _rounds(count: int, *sides: Callable[[], float]) -> list[list[float]]:
    """Seconds of each side, by round; the sides take turns."""
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(count):
        for side, kept in zip(sides, seconds, strict=True):
            kept.append(side())
    return seconds


def _ratio(
    name: str, ours: Sequence[float], theirs: Sequence[float], factor: float, least: float
) -> Measured:
    value = statistics.median(other / own for own, other in zip(ours, theirs, strict=True)) * factor
    return Measured(name=name, value=value, unit="x", bar=f">= {least:g}", met=value >= least)


def _rate(name: str, frames: int, seconds: Sequence[float], least: float = 0.0) -> Measured:
    value = frames / statistics.median(seconds) / 1e6
    bar = f">= {least / 1e6:g}" if least else ""
    return Measured(name=name, value=value, unit="M/s", bar=bar, met=value * 1e6 >= least)


def measure_link(peers: dict[str, Path], rounds: int) -> list[Measured]:
    """One link, every frame's times kept."""
    inputs = link_inputs(LINK_BLOCKS)
    frames = LINK_BLOCKS * BLOCK_FRAMES
    sides: list[Callable[[], float]] = [
        lambda: our_link(inputs)[0],
        lambda: simpy_link(inputs, SIMPY_FRAMES),
    ]
    if peers:
        there = peer(peers["link_peer"], BLOCK_FRAMES, LINK_BLOCKS, LINK_CREDITS)
        if there[2] != our_link(inputs)[1]:
            raise RuntimeError("the C++ link and ours do not end at the same tick")
        sides.append(lambda: peer(peers["link_peer"], BLOCK_FRAMES, LINK_BLOCKS, LINK_CREDITS)[0])
    ours, slow, *cpp = _rounds(rounds, *sides)
    lines = [
        _rate("link, ours", frames, ours),
        _rate("link, SimPy", SIMPY_FRAMES, slow),
        _ratio("link, ours / SimPy", ours, slow, frames / SIMPY_FRAMES, 1000),
    ]
    if cpp:
        lines += [_rate("link, C++", frames, cpp[0]), _ratio("link, ours / C++", ours, cpp[0], 1, 1)]
    return lines


def measure_fabric(peers: dict[str, Path], rounds: int) -> list[Measured]:
    """A switch with a hot-spot, small and large."""
    lines = []
    for ports, each, least in FABRICS:
        few = SIMPY_FRAMES // ports
        sides: list[Callable[[], float]] = [
            lambda ports=ports, each=each: our_fabric(ports, each),  # type: ignore[misc]
            lambda ports=ports, few=few: simpy_fabric(ports, few),  # type: ignore[misc]
        ]
        if peers:
            sides.append(
                lambda ports=ports, each=each: peer(peers["fabric_peer"], ports, CREDITS, each)[0]  # type: ignore[misc]
            )
        ours, slow, *cpp = _rounds(rounds, *sides)
        name = f"{ports} ports"
        lines += [
            _rate(f"{name}, ours", ports * each, ours),
            _rate(f"{name}, SimPy", ports * few, slow),
            _ratio(f"{name}, ours / SimPy", ours, slow, each / few, 100),
        ]
        if cpp:
            lines += [
                _rate(f"{name}, C++", ports * each, cpp[0], PEER_LEAST if ports == 8 else 0),
                _ratio(f"{name}, ours / C++", ours, cpp[0], 1, least),
            ]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; exit code 1 when a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.fc_bench", description=__doc__)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    if not (fabric_kernel.COMPILED and link_kernel.COMPILED):
        sys.stderr.write("the kernels are not compiled: install a C compiler and pip install -e . again\n")
        return 1
    with tempfile.TemporaryDirectory(prefix="fc-bench-") as name:
        peers = compiled_peers(Path(name))
        results = [*measure_link(peers, options.rounds), *measure_fabric(peers, options.rounds)]
    return write(results, options.output, decimals=3)


if __name__ == "__main__":
    sys.exit(main())
