"""The channel without privileges: a user namespace first, and everything works as for root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.wan.interfaces import TUN_DEVICE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NOBODY = 65534
ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import json, os, subprocess, sys, time
from pathlib import Path
from tools.wan.channel import Channel
from tools.wan.errors import ChannelUnavailable

def inside(site, *argv):
    return channel.popen(site, [sys.executable, *argv], stdout=subprocess.PIPE, text=True)

try:
    channel = Channel.open("tun", bandwidth_bps=50_000_000, rtt_ns=20_000_000, directory=Path(sys.argv[1]))
except ChannelUnavailable as unavailable:
    sys.exit(f"skip: {unavailable}")
with channel:
    captured = str(Path(sys.argv[1], "captured.pcapng"))
    sniffer = inside("master", "-m", "tools.capture.sniff", channel.interface, captured)
    assert sniffer.stdout.readline().startswith("capturing")
    began = time.monotonic()
    receiver = inside("remote", "-m", "tools.wan.bulk", "receive", channel.remote_address, "0")
    port = receiver.stdout.readline().split()[1]
    sender = inside("master", "-m", "tools.wan.bulk", "send", channel.remote_address, port, "--seconds", "1")
    sent = json.loads(sender.communicate(timeout=60)[0])
    received = json.loads(receiver.communicate(timeout=60)[0])
    seconds = time.monotonic() - began
    sniffer.terminate()
    sniffed = json.loads(sniffer.communicate(timeout=60)[0])
    print(json.dumps({"uid": os.geteuid(), "limit_bps": channel.payload_limit_bps(), "sent": sent, "received": received,
        "sniffed": sniffed, "seconds": seconds}))
"""


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A copy of the packages that a user without any rights can read, and a place to write (not below /root)."""
    path = Path(tempfile.mkdtemp(prefix="sancredit-rootless-"))
    try:
        path.chmod(0o755)
        for package in ("tools", "iscsi_target", "credits"):  # the sniffer writes with the target's writer
            shutil.copytree(
                ROOT / package, path / package, ignore=shutil.ignore_patterns("__pycache__", "*.so")
            )
        (path / "state").mkdir()
        (path / "state").chmod(0o777)
        yield path
    finally:
        shutil.rmtree(path)


def python_for_everybody(prefix: list[str]) -> str:
    """A Python 3.11 or newer that the unprivileged user can run."""
    # setpriv itself may still read everything, so what counts is whether that Python can start itself again.
    again = "subprocess.call([sys.executable, '-c', ''])"
    check = f"import subprocess, sys; sys.exit(sys.version_info < (3, 11) or {again})"
    for candidate in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        if (
            subprocess.run([*prefix, candidate, "-c", check], capture_output=True, check=False).returncode
            == 0
        ):
            return candidate
    pytest.skip("an unprivileged user can run no Python >= 3.11 here; to fix it: apt-get install python3")


def drop_privileges(directory: Path) -> list[str]:
    """The start of a command line that runs the rest as nobody, with a TUN device that nobody may open."""
    if os.geteuid() != 0:
        return []
    for program in ("setpriv", "unshare", "mount"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program}; to fix it: apt-get install util-linux")
    nobody = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    try:
        status = TUN_DEVICE.stat()
    except FileNotFoundError:
        pytest.skip(f"there is no {TUN_DEVICE}; to fix it: modprobe tun")
    if status.st_mode & 0o006 == 0o006:
        return nobody
    # Distributions make the device 0666; where it is not, give this one test such a node in its own mount namespace.
    node = directory / "tun"
    try:
        os.mknod(node, status.st_mode, status.st_rdev)
        node.chmod(0o666)
    except OSError as error:
        pytest.skip(f"{TUN_DEVICE} is closed to users ({error.strerror}); to fix it: chmod 0666 {TUN_DEVICE}")
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    mounted = ["unshare", "--mount", "sh", "-c", script, "sh", str(node), str(TUN_DEVICE), *nobody]
    if subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip(
            f"{TUN_DEVICE} is closed to users and mounts are refused; to fix it: chmod 0666 {TUN_DEVICE}"
        )
    return mounted


def test_a_user_without_rights_gets_the_same_channel_and_may_capture_it(public_directory):
    prefix = drop_privileges(public_directory)
    python = python_for_everybody(prefix)
    state = public_directory / "state"
    done = subprocess.run(
        [*prefix, python, "-c", PROGRAM, str(state)],
        cwd=public_directory,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(public_directory), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    if done.stderr.startswith("skip: "):
        pytest.skip(done.stderr.removeprefix("skip: ").strip())
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["uid"] == (os.geteuid() or NOBODY)
    assert told["received"]["bytes"] == told["sent"]["bytes"]
    assert told["sent"]["min_rtt_ns"] >= 20_000_000
    assert 0 < told["received"]["bytes"] * 8 <= told["limit_bps"] * told["seconds"], "as fast as it was said"
    assert told["sniffed"]["packets"] > 100
    assert told["sniffed"]["dropped"] == 0
    assert [entry.name for entry in state.iterdir()] == ["captured.pcapng"]
