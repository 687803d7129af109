"""The captures that the capture benchmark reads, made with a real target and a real initiator, and by our simulator."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.bench.iscsi_load import compile_load
from tools.bench.iscsi_targets import sancredit

LUN_BYTES = 256 << 20
_FABRIC = """\
[fabric]
duration = "{duration_us}us"

[[switch]]
name = "s1"

[[host]]
name = "h1"
switch = "s1"
speed = "32G"

[[host]]
name = "h2"
switch = "s1"
speed = "32G"

[[flow]]
name = "copy"
from = "h1"
to = "h2"
"""
_FRAME_US = 0.64
"""A full frame at 32GFC."""


class CaptureMissing(Exception):
    """A capture could not be made; the text says what is missing."""


def make_iscsi(path: Path, *, commands: int, reads_percent: int = 70, block_bytes: int = 4096) -> int:
    """Capture ``commands`` SCSI commands of libiscsi against our target on loopback; the target's port."""
    dumpcap = shutil.which("dumpcap")
    if dumpcap is None:
        raise CaptureMissing("dumpcap is not there: apt install wireshark-common")
    with tempfile.TemporaryDirectory() as folder, sancredit("target", Path(folder), 0, LUN_BYTES) as target:
        program = compile_load(Path(folder))
        sniffer = subprocess.Popen(
            [
                dumpcap,
                "-q",
                "-i",
                "lo",
                "-B",
                "256",
                "-s",
                "262144",
                "-f",
                f"tcp port {target.port}",
                "-w",
                str(path),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert sniffer.stderr is not None
            for line in sniffer.stderr:
                if line.startswith("File:"):
                    break
            else:
                raise CaptureMissing(f"dumpcap does not capture here: exit status {sniffer.wait()}")
            load = [str(program), "-s", "2", "-q", "16", "-b", str(block_bytes), "-m", str(reads_percent)]
            load += ["-n", str(commands), "-t", "600", "-w", "0", target.url]
            subprocess.run(load, check=True, capture_output=True, timeout=900)
            _wait_until_still(path)
        finally:
            sniffer.terminate()
            sniffer.wait(30)
        return target.port


def make_fibre(path: Path, *, frames: int) -> int:
    """Simulate a link that sends at least so many frames; how many are in the capture."""
    scenario = path.with_suffix(".toml")
    scenario.write_text(_FABRIC.format(duration_us=round(frames * _FRAME_US * 1.05)))
    command = [sys.executable, "-m", "mgmt.cli", "fc", "simulate", str(scenario)]
    done = subprocess.run(
        [*command, "--pcap", str(path), "--link", "h1", "-o", "json"],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(json.loads(done.stdout)["frames"])


def _wait_until_still(path: Path) -> None:
    """Until the file has not grown for half a second."""
    size, since = -1, time.monotonic()
    while time.monotonic() - since < 0.5:
        now = path.stat().st_size
        if now != size:
            size, since = now, time.monotonic()
        time.sleep(0.05)
