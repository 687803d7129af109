"""Captures read: CPU of the whole process, cold, beside tshark's on the same file in the same run; anonymous memory.

``python -m tools.bench capture``. The iSCSI capture is made with our target and libiscsi on loopback (reads and writes
mixed), the Fibre Channel one by our simulator. Bars: ``summary`` takes at most 1/12 of the CPU of ``tshark -T fields``
with five fields, ``flows`` at most 1/3 of ``tshark -q -z scsi,srt,0``; 80 bytes of anonymous memory per PDU
above 80 MiB.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from tools.bench.capture_files import CaptureMissing, make_fibre, make_iscsi
from tools.bench.measured import Measured, command_line, write

ISCSI_FIELDS = (
    "frame.time_epoch",
    "iscsi.opcode",
    "iscsi.initiatortasktag",
    "iscsi.cmdsn",
    "iscsi.datasegmentlength",
)
FC_FIELDS = ("frame.time_epoch", "fc.s_id", "fc.d_id", "fc.ox_id", "fc.seq_cnt")
_FIXED_BYTES = 80 << 20
_PER_PDU_BYTES = 80


def cpu_s(command: Sequence[str]) -> float:
    """User and system time of a whole process. Raises :class:`subprocess.CalledProcessError`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def anonymous_peak(command: Sequence[str]) -> int:
    """The most RssAnon that was seen of a process, in bytes; looked at every few milliseconds."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    status = Path(f"/proc/{process.pid}/status")
    peak = 0
    ended = threading.Event()
    while process.poll() is None:
        try:
            text = status.read_text()
        except OSError:
            break
        for line in text.splitlines():
            if line.startswith("RssAnon:"):
                peak = max(peak, int(line.split()[1]) * 1024)
        ended.wait(0.003)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak


def ratio(ours: Sequence[str], theirs: Sequence[str], times: int) -> tuple[float, float, float]:
    """CPU of theirs over ours, and both: medians of runs that take turns."""
    pairs = [(cpu_s(ours), cpu_s(theirs)) for _ in range(times)]
    mine, other = (statistics.median(values) for values in zip(*pairs, strict=True))
    return other / mine, mine, other


def fields(tshark: str, path: Path, names: Sequence[str], *words: str) -> list[str]:
    """tshark printing these fields of every packet."""
    return [
        tshark,
        "-r",
        str(path),
        *words,
        "-T",
        "fields",
        *(word for name in names for word in ("-e", name)),
    ]


def measure(folder: Path, times: int, commands: int, frames: int) -> list[Measured]:
    """Make the captures, read them. Raises :class:`CaptureMissing`."""
    tshark = shutil.which("tshark")
    if tshark is None:
        raise CaptureMissing("tshark is not there: apt install tshark")
    ours = [sys.executable, "-m", "mgmt.cli", "capture"]
    iscsi, fibre = folder / "iscsi.pcapng", folder / "fc.pcapng"
    port = make_iscsi(iscsi, commands=commands)
    pdus = sum(
        int(text)
        for text in subprocess.run(
            [sys.executable, "-c", _COUNT, str(iscsi)], check=True, capture_output=True, text=True
        ).stdout.split()
    )
    decode = ("-d", f"tcp.port=={port},iscsi")
    results = [
        Measured(
            name="iSCSI capture",
            value=iscsi.stat().st_size / 1e6,
            unit="MB",
            bar=">= 400",
            met=iscsi.stat().st_size >= 4e8,
        ),
        Measured(name="iSCSI PDUs", value=pdus, unit="", bar=">= 200,000", met=pdus >= 200_000),
    ]
    found, mine, other = ratio(
        [*ours, "summary", str(iscsi)], fields(tshark, iscsi, ISCSI_FIELDS, *decode), times
    )
    results += _beside("summary, iSCSI", found, mine, other, 12)
    srt = [tshark, "-r", str(iscsi), *decode, "-q", "-z", "scsi,srt,0"]
    found, mine, other = ratio([*ours, "flows", str(iscsi)], srt, times)
    results += _beside("flows, iSCSI", found, mine, other, 3)
    for verb in ("summary", "flows"):
        peak = anonymous_peak([*ours, verb, str(iscsi)])
        per_pdu = max(0, peak - _FIXED_BYTES) / pdus
        results.append(
            Measured(
                name=f"{verb}: RssAnon - 80 MiB",
                value=per_pdu,
                unit="B/PDU",
                bar="<= 80",
                met=per_pdu <= _PER_PDU_BYTES,
            )
        )
        results.append(Measured(name=f"{verb}: RssAnon", value=peak / 2**20, unit="MiB", bar="", met=True))
    count = make_fibre(fibre, frames=frames)
    results.append(Measured(name="FC frames", value=count, unit="", bar=">= 200,000", met=count >= 200_000))
    found, mine, other = ratio([*ours, "summary", str(fibre)], fields(tshark, fibre, FC_FIELDS), times)
    return results + _beside("summary, FC", found, mine, other, 12)


def _beside(name: str, found: float, mine: float, other: float, bar: int) -> list[Measured]:
    return [
        Measured(name=f"{name}: CPU", value=mine, unit="s", bar="", met=True),
        Measured(name=f"{name}: tshark's CPU", value=other, unit="s", bar="", met=True),
        Measured(name=f"{name}: tshark / ours", value=found, unit="x", bar=f">= {bar}", met=found >= bar),
    ]


_COUNT = """
import sys
from tools.capture.scan import Scan
print(sum(part.count for part in Scan(sys.argv[1:]).parts()))
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 when a bar is missed, 2 when nothing can be measured."""
    parser = command_line("capture", __doc__)
    parser.add_argument("--times", type=int, default=3, help="runs of each, taking turns")
    parser.add_argument("--commands", type=int, default=110_000)
    parser.add_argument("--frames", type=int, default=210_000)
    parser.add_argument(
        "--folder", type=Path, help="for the captures, half a gigabyte (default: a temporary one)"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder or os.environ.get("TMPDIR") or "/var/tmp") as folder:
        try:
            results = measure(Path(folder), options.times, options.commands, options.frames)
        except CaptureMissing as error:
            sys.stderr.write(f"{error}\n")
            return 2
    return write(results, options.output, decimals=2)


if __name__ == "__main__":
    sys.exit(main())
