"""A capture of 4 GB under a memory limit of 512 MiB, and what twenty million rows cost."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import capture_packets as made
from tests.tools.capture_packets import T0, Packet

LIMIT_BYTES = 512 << 20


def conversation(port: int, start_ns: int) -> bytes:
    """Records of one connection with 400 reads of 16 KiB, about 6.6 MB."""
    request, answer = made.login()
    out, back, now = 1000, 7000, start_ns
    packets = []
    steps = [(request, answer)]
    steps += [(made.read_command(n, 16384), made.read_answer(n, bytes(16384))) for n in range(1, 401)]
    for asked, answered in steps:
        for data, reverse in ((asked, False), (answered, True)):
            now += 10_000
            ports = (3260, port) if reverse else (port, 3260)
            ends = ("10.0.0.2", "10.0.0.1") if reverse else ("10.0.0.1", "10.0.0.2")
            segment = made.tcp(data, ports, back if reverse else out)
            packets.append(Packet(now, made.ethernet(made.ipv4(segment, *ends))))
            if reverse:
                back += len(data)
            else:
                out += len(data)
    return made.pcap(packets)[24:]


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_four_gigabytes_are_read_in_half_a_gigabyte_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.pcap"
    count = 0
    with path.open("wb") as stream:
        stream.write(made.pcap([]))
        while stream.tell() < 4 << 30:
            stream.write(conversation(10_000 + count, T0 + count * 10**10))
            count += 1
    for verb in ("summary", "flows"):
        done = subprocess.run(
            [sys.executable, "-m", "mgmt.cli", "capture", verb, str(path), "-o", "json"],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES)),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        if verb == "summary":
            assert found["protocols"]["iscsi"]["pdus"]["0x01"] == 400 * count
        else:
            assert sum(row["commands"] for row in found) == 400 * count
