"""The examples work as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mgmt.array.cli import serve
from mgmt.array.configuration import Settings, build, load
from tests.fcsim.test_fcoe_shell import needs_a_namespace
from tools.capture.ring import PacketRing
from tools.wan.channel import Channel

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
pytestmark = pytest.mark.timeout(300)  # programs and scripts of several processes, on whatever machine


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
    # The path of a Unix socket has at most 107 bytes, and a worker's own directory takes most of them.
    room = Path(tempfile.mkdtemp(prefix="sancredit-", dir="/tmp"))
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
    room.rmdir()  # fails where anything was left
    return done.stdout


@pytest.mark.slow
def test_two_arrays_on_loopback_copy_and_verify_and_leave_nothing(tmp_path: Path) -> None:
    assert "equal: SHA-256" in run_script("two-arrays.sh", tmp_path, timeout_s=280)


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_the_story_goes_from_a_capture_to_a_reservation_that_carries_the_copy(tmp_path: Path) -> None:
    """What the capture recommends is what is reserved, and what the copy runs on."""
    try:
        Channel.open("auto", bandwidth_bps=50_000_000, rtt_ns=20_000_000).close()
        PacketRing("lo").close()
    except OSError as error:
        pytest.skip(f"no packet sockets here ({error}): run the tests as root")
    said = run_script("story.sh", tmp_path, timeout_s=480)
    chapters = dict(part.split("\n", 1) for part in said.split("\n== ")[1:])
    (advice,) = [text for title, text in chapters.items() if title.startswith("Recommendation:")]
    (reserved,) = [text for title, text in chapters.items() if title.startswith("Reservation:")]
    (copy,) = [text for title, text in chapters.items() if title.startswith("Copy:")]
    wanted = re.search(r"^document +\S+ +(\d+) +4KiB$", advice, re.MULTILINE)
    assert wanted is not None, advice
    assert f"({wanted[1]} units)" in reserved
    assert f"in flight of {4 * int(wanted[1])}KiB reserved" in copy
    assert "equal: SHA-256" in chapters["Verdict"]


def run_program(name: str, tmp_path: Path) -> str:
    """Standard output of an example in Python that ended well."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_iscsi_by_hand_logs_in_reads_is_refused_and_is_sniffed(tmp_path: Path) -> None:
    *said, sniffed = run_program("scapy_iscsi.py", tmp_path).splitlines()
    assert said == [
        "login: status 0x0000, session 1",
        "INQUIRY: SANCREDT VIRTUAL DISK",
        "TEST UNIT READY: status 0x02, sense key 6",
        "READ(10): 512 bytes, status 0x00",
        "opcode 0x1e: iSCSI Reject, reason 0x05",
        "logout: response 0",
    ]
    # The PDU with the opcode that there is not has no layer.
    names = "LoginRequest, LoginResponse, ScsiCommand, DataIn, ScsiCommand, ScsiResponse, ScsiCommand, DataIn, Reject"
    assert sniffed.partition(": ")[2] == f"{names}, LogoutRequest, LogoutResponse"


@pytest.mark.slow
def test_fibre_channel_by_hand_finds_a_target_on_an_interface_and_asks_it(tmp_path: Path) -> None:
    needs_a_namespace()
    said = run_program("scapy_fc.py", tmp_path).splitlines()
    assert said[:3] == [
        "link: FLOGI with BB_Credit 16, CRC good",
        "link: R_RDY",
        "link: FLOGI with BB_Credit 16, CRC bad",
    ]
    assert said[4:-1] == [
        "FLOGI: N_Port_ID 010301, and a MAC address that ends with it: 01:03:01",
        "PLOGI: FC PlogiAccept",
        "PRLI: code 0x02",
        "INQUIRY: SANCREDT VIRTUAL DISK",
        "FCP_RSP: status 0x00, 0 bytes of sense data",
        "FCP_RSP: status 0x02, 18 bytes of sense data",
    ]
    assert said[-1].endswith("FC FcpCmnd, FC FcpData, FC FcpRsp, FC FcpCmnd, FC FcpRsp")
