"""The main job over Fibre Channel: real processes, an emulated line, credits instead of bytes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fcsim.speeds import MAX_FRAME_BYTES
from tools.demo.fc import LEFT_CREDITS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def demo(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mgmt.cli", "demo", "--transport", "fc", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


def test_the_demo_over_fibre_channel_starves_without_a_reservation_and_not_with_it(tmp_path: Path) -> None:
    told = demo("--size", "6MiB", "--distance", "200km", "--report", str(tmp_path), "-o", "json")
    assert told.stdout, told.stderr
    verdict = json.loads(told.stdout)
    assert verdict == json.loads((tmp_path / "demo.json").read_text())
    claims = {claim["claim"]: claim["holds"] for claim in verdict["claims"]}
    assert set(claims) == {
        "without a reservation the storm starves the copy",
        "with it the copy gets at least 90% of the channel",
        "bytes in flight never exceed the reservation (frames without R_RDY)",
        "free + reserved idle + in use + draining = total, in every sample",
        "SHA-256 of the remote disk equals the image's",
    }, "those of the demo over TCP"
    channel = verdict["channel"]
    assert (verdict["transport"], channel["speed"], channel["distance_m"]) == ("fc", "1G", 200_000)
    assert channel["measured_bandwidth_bps"] == channel["bandwidth_bps"] == 850_000_000
    assert abs(channel["measured_rtt_ns"] - 2_000_000) < 1000, "by ECHO, in the line's own time"
    baseline, reserved = verdict["baseline"], verdict["reserved"]
    assert verdict["recommended_bytes"] == 6 * 212_500, "bandwidth x delay x sessions x connections"
    assert baseline["refused"] is True
    assert "does not let this port log in" in baseline["refusal"]
    assert reserved["connections"] == 6
    assert reserved["sha256_match"] is True
    # Judged by frames without R_RDY: how fast they leave is the machine's business as much as the reservation's.
    pipe = channel["bandwidth_bps"] * channel["rtt_ns"] // 8_000_000_000
    least = max(
        pipe // 2, 10 * LEFT_CREDITS * MAX_FRAME_BYTES
    )  # ten times what there is without a reservation
    assert least < reserved["max_in_flight_bytes"] <= verdict["reserved_bytes"]
    assert verdict["conservation_ok"] is True
    assert (tmp_path / "demo.png").stat().st_size > 10_000
    tshark = shutil.which("tshark")
    if tshark is None:
        pytest.skip("the stream was not opened: tshark is missing (apt-get install tshark)")
    fields = ["-T", "fields", "-e", "_ws.col.Protocol", "-e", "_ws.malformed"]
    lines = subprocess.run(
        [tshark, "-r", str(tmp_path / "copy.pcapng"), *fields],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.splitlines()
    protocols = {line.split("\t")[0] for line in lines}
    assert "FCP" in protocols
    assert not [line for line in lines if line.split("\t")[1:] not in ([""], [])]


@pytest.mark.parametrize(
    ("flag", "text"),
    [(("--speed", "3G"), "3G"), (("--distance", "far"), "far"), (("--target", "connection"), "port pair")],
)
def test_a_line_that_cannot_be_is_wrong_usage(flag: tuple[str, str], text: str) -> None:
    told = demo(*flag)
    assert told.returncode == 2
    assert text in told.stderr
    assert "Traceback" not in told.stderr
