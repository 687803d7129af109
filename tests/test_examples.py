"""The examples work as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mgmt.array.cli import serve
from mgmt.array.configuration import Settings, build, load

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


@pytest.mark.slow
def test_two_arrays_on_loopback_copy_and_verify_and_leave_nothing(tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [EXAMPLES / "two-arrays.sh"],
        env=os.environ | {"PATH": path, "TMPDIR": str(room)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "equal: SHA-256" in done.stdout
    assert list(room.iterdir()) == []
