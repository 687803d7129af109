"""The captures that the capture benchmark reads, made with a real target and a real initiator, and by our simulator."""

from __future__ import annotations

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
[scenario]
name = "capture-bench"
duration = "{duration}"

[[switch]]
name = "s1"
domain = 1

[[host]]
name = "h1"
switch = "s1"

[[host]]
name = "h2"
switch = "s1"

[[flow]]
from = "h1"
to = "h2"
payload = "2048"
"""


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
            [dumpcap, "-q", "-i", "lo", "-B", "256", "-s", "262144"]
            + ["-f", f"tcp port {target.port}", "-w", str(path)],
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


def _wait_until_still(path: Path) -> None:
    """Until the file has not grown for half a second."""
    size, since = -1, time.monotonic()
    while time.monotonic() - since < 0.5:
        now = path.stat().st_size
        if now != size:
            size, since = now, time.monotonic()
        time.sleep(0.05)


if __name__ == "__main__":
    sys.stdout.write(f"{make_iscsi(Path(sys.argv[1]), commands=int(sys.argv[2]))}\n")
