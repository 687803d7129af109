"""A captured load replayed: whether each command starts when it did in the capture.

``python -m tools.bench replay``. The load is our initiator's, reads and writes that arrive at random at 5,000 a second
at a target of its own process, captured on the loopback by dumpcap; it is replayed with ``sancredit capture replay
--write`` to another target process. Bar: started no more than 2 ms late in 99 of 100. Target and load have a core each
where there are two.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.bench.iscsi_targets import TargetMissing, pin, sancredit
from tools.bench.measured import Measured, write

LUN_BYTES = 256 << 20
_BAR_NS = 2_000_000
_BAR_RATE = 5000


class ReplayFailed(Exception):
    """There is nothing to measure; the text says why."""


def _last_core() -> int:
    return max(os.sched_getaffinity(0))


@contextmanager
def _captured(path: Path, port: int) -> Iterator[None]:
    """What passes the loopback meanwhile, in a file. Raises :class:`ReplayFailed` where dumpcap cannot."""
    dumpcap = shutil.which("dumpcap")
    if dumpcap is None:
        raise ReplayFailed("dumpcap is not there: apt install wireshark-common")
    command = [
        dumpcap,
        "-q",
        "-i",
        "lo",
        "-B",
        "256",
        "-s",
        "262144",
        "-f",
        f"tcp port {port}",
        "-w",
        str(path),
    ]
    sniffer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert sniffer.stderr is not None
    try:
        if not any(line.startswith("File:") for line in sniffer.stderr):
            raise ReplayFailed(f"dumpcap does not capture here: exit status {sniffer.wait()}")
        yield
        _wait_until_still(path)
    finally:
        sniffer.terminate()
        sniffer.communicate(timeout=60)


def _wait_until_still(path: Path) -> None:
    """Until the file has not grown for half a second."""
    size, since = -1, time.monotonic()
    while time.monotonic() - since < 0.5:
        now = path.stat().st_size
        if now != size:
            size, since = now, time.monotonic()
        time.sleep(0.05)


def capture_load(folder: Path, rate: float, commands: int, sessions: int) -> tuple[Path, int, float]:
    """A capture of the load; its target's port, and the rate that there was."""
    path = folder / "load.pcapng"
    with sancredit("captured", folder, 0, LUN_BYTES) as target, _captured(path, target.port):
        command = [*pin(_last_core()), sys.executable, "-m", "tools.bench.replay_load"]
        command += [target.host, str(target.port), target.iqn, "--rate", str(rate)]
        command += ["--commands", str(commands), "--sessions", str(sessions)]
        told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=900)
    found = json.loads(told.stdout)
    return path, target.port, found["commands"] / found["seconds"]


def replayed(path: Path, port: int, folder: Path) -> dict[str, Any]:
    """The verdict of a replay to a target of its own."""
    with sancredit("replayed", folder, 0, LUN_BYTES) as target:
        command = [*pin(_last_core()), sys.executable, "-m", "mgmt.cli", "capture", "replay", str(path)]
        command += ["--port", str(port), "--write", "--to", target.url, "-o", "json"]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    if done.returncode not in (0, 1) or not done.stdout:
        raise ReplayFailed(done.stderr.strip() or f"the replay ended with {done.returncode}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def measure(folder: Path, rate: float, commands: int, sessions: int) -> list[Measured]:
    """Capture, replay. Raises :class:`ReplayFailed` and TargetMissing."""
    path, port, was = capture_load(folder, rate, commands, sessions)
    told = replayed(path, port, folder)
    late = [row["late_ns"] for row in told["flows"]]
    worst = {part: max(one[part] for one in late) for part in ("p50", "p99", "max")}
    took = {
        which: max(row[f"{which}_ns"]["p99"] for row in told["flows"]) for which in ("captured", "measured")
    }
    return [
        Measured(name="captured", value=was, unit="/s", bar=f">= {rate * 0.98:,.0f}", met=was >= rate * 0.98),
        Measured(name="replayed", value=told["commands"] / told["seconds"], unit="/s", bar="", met=True),
        Measured(
            name="commands",
            value=told["commands"],
            unit="",
            bar=f">= {commands:,}",
            met=told["commands"] >= commands,
        ),
        Measured(name="answered otherwise", value=told["mismatches"], unit="", bar="0", met=told["ok"]),
        Measured(name="data compared", value=told["compared"], unit="", bar="", met=True),
        Measured(name="late, p50", value=worst["p50"] / 1e6, unit="ms", bar="", met=True),
        Measured(
            name="late, p99", value=worst["p99"] / 1e6, unit="ms", bar="<= 2", met=worst["p99"] <= _BAR_NS
        ),
        Measured(name="late, max", value=worst["max"] / 1e6, unit="ms", bar="", met=True),
        Measured(name="captured latency, p99", value=took["captured"] / 1e6, unit="ms", bar="", met=True),
        Measured(name="replayed latency, p99", value=took["measured"] / 1e6, unit="ms", bar="", met=True),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 when a bar is missed, 2 when nothing can be measured."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench replay", description=__doc__)
    parser.add_argument("--rate", type=float, default=float(_BAR_RATE), help="commands a second")
    parser.add_argument("--commands", type=int, default=50_000)
    parser.add_argument("--sessions", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="for the capture, 400 MB (default: a temporary one)")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    options = parser.parse_args(arguments)
    place = options.folder or os.environ.get("TMPDIR") or "/var/tmp"
    with tempfile.TemporaryDirectory(dir=place) as folder:
        try:
            results = measure(Path(folder), options.rate, options.commands, options.sessions)
        except (ReplayFailed, TargetMissing) as error:
            sys.stderr.write(f"{error}\n")
            return 2
    return write(results, options.output, decimals=3)


if __name__ == "__main__":
    sys.exit(main())
