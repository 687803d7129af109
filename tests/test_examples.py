"""The examples work as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mgmt.array.cli import serve
from mgmt.array.configuration import Settings, build, load
from tools.capture.ring import PacketRing
from tools.wan.channel import Channel

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_the_example_configuration_describes_an_array() -> None:
    config = build(Settings(), load(EXAMPLES / "array.toml"))
    assert config.name == "east"
    assert config.interfaces[0].pool.total_units == 256
    assert [volume.size_bytes for volume in config.volumes] == [64 * 1024 * 1024]


def test_the_example_with_several_interfaces_describes_an_array() -> None:
    config = build(Settings(), load(EXAMPLES / "array-several-interfaces.toml"))
    assert [interface.kind.value for interface in config.interfaces] == ["tcp", "tcp", "fc"]
    assert config.cache is not None and config.copy.usage is not None


def test_the_service_starts_an_array_with_options_that_there_are() -> None:
    unit = (EXAMPLES / "systemd" / "sancredit-array@.service").read_text()
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    options = {word for word in line.split() if word.startswith("--")}
    assert options == {"--name", "--config", "--state", "--listen"}
    assert options <= {option for parameter in serve.params for option in parameter.opts}


def run_script(name: str, tmp_path: Path, *, timeout_s: int) -> str:
    """Standard output of an example that did its work and left nothing behind."""
    room = tmp_path / "room"
    room.mkdir()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [EXAMPLES / name],
        env=os.environ | {"PATH": path, "TMPDIR": str(room)},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(room.iterdir()) == []
    return done.stdout


@pytest.mark.slow
def test_two_arrays_on_loopback_copy_and_verify_and_leave_nothing(tmp_path: Path) -> None:
    assert "equal: SHA-256" in run_script("two-arrays.sh", tmp_path, timeout_s=90)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_story_goes_from_a_capture_to_a_reservation_that_carries_the_copy(tmp_path: Path) -> None:
    """What the capture recommends is what is reserved, and the copy on it uses the channel nearly as before."""
    try:
        Channel.open("auto", bandwidth_bps=50_000_000, rtt_ns=20_000_000).close()
        PacketRing("lo").close()
    except OSError as error:
        pytest.skip(f"no packet sockets here ({error}): run the tests as root")
    said = run_script("story.sh", tmp_path, timeout_s=150)
    chapters = dict(part.split("\n", 1) for part in said.split("\n== ")[1:])
    (capture,) = [text for title, text in chapters.items() if title.startswith("Capture:")]
    (advice,) = [text for title, text in chapters.items() if title.startswith("Recommendation:")]
    (reserved,) = [text for title, text in chapters.items() if title.startswith("Reservation:")]
    (copy,) = [text for title, text in chapters.items() if title.startswith("Copy:")]
    wanted = re.search(r"^document +(\S+) +(\d+) +4KiB$", advice, re.MULTILINE)
    assert wanted is not None, advice
    assert f"({wanted[2]} units)" in reserved
    before, after = (float(re.search(r"([\d.]+)Mbit/s", text)[1]) for text in (capture, copy))  # type: ignore[index]
    assert after > before / 2, "the reservation carries the copy"
    assert "equal: SHA-256" in chapters["Verdict"]
