"""Linux' own FCoE initiator, in a guest of the lab, against our Fibre Channel endpoint over a tap: as a VN2VN port,
and as a forwarder with its name server. A guest of their own: its second interface is a tap in a namespace.

Our end keeps quiet until the guest's first claim: a beacon that arrives as the guest creates its port crashes Linux
6.1.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests import lab_guest
from tools.lab import machine as machines
from tools.lab.errors import LabUnavailable
from tools.lab.machine import Settings

pytestmark = lab_guest.MARKS

MAC = "02:54:00:99:00:02"
_TAP = """set -e
ip link set lo up; ip tuntap add dev tap0 mode tap; ip link set tap0 mtu 2500 up
echo ready; exec sleep 900"""


@pytest.fixture(scope="module")
def site():
    """Words that enter a network namespace with a tap in it."""
    if os.geteuid() != 0 or not all(shutil.which(tool) for tool in ("unshare", "nsenter", "ip")):
        pytest.skip(
            "a tap in a namespace needs root, unshare, nsenter and ip: run as root, apt-get install iproute2"
        )
    holder = subprocess.Popen(["unshare", "-n", "sh", "-c", _TAP], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        if holder.stdout.readline() != "ready\n":
            pytest.skip("no tap here: modprobe tun; in a container: --device /dev/net/tun")
        yield ("nsenter", f"--net=/proc/{holder.pid}/ns/net")
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


@pytest.fixture(scope="module")
def guest(site):
    """A guest whose eth1 is the tap; frames of the full size fit (MTU 2500)."""
    network = ("-netdev", "tap,id=fc,ifname=tap0,script=no,downscript=no", "-device")
    device = f"virtio-net-pci,netdev=fc,romfile=,mac={MAC},host_mtu=2500"
    name = f"fcoe-{os.getpid()}"
    try:
        machine = machines.up(name, Settings(network=(*network, device), prefix=site, lifetime_s=900))
    except LabUnavailable as unavailable:
        pytest.skip(f"no lab here: {unavailable.reason}; to fix it: {unavailable.fix}")
    machine.run("modprobe fcoe; modprobe sd_mod; ip link set eth1 up")
    yield machine
    machine.down()


@pytest.fixture
def endpoint(site, tmp_path, request):
    """Our end in a mode, as a process; its capture."""
    capture = tmp_path / "fcoe.pcapng"
    command = [
        "fc",
        "fcoe",
        "serve",
        "tap0",
        "--mode",
        request.param,
        "--lun",
        "64MiB",
        "--capture",
        str(capture),
    ]
    process = subprocess.Popen(
        [*site, sys.executable, "-m", "mgmt.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    ready = process.stdout.readline()
    yield ready, request.param, capture, process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)


@pytest.mark.parametrize("endpoint", ["vn2vn", "fabric"], indirect=True)
def test_the_kernels_initiator_makes_a_file_system_on_our_end_and_reads_it_back(guest, endpoint):
    ready, mode, capture, process = endpoint
    assert ready.startswith(f"listening fcoe://tap0 {mode} "), ready
    create = "create_vn2vn" if mode == "vn2vn" else "create"
    disk = guest.run(
        f"echo eth1 > /sys/module/libfcoe/parameters/{create};"
        " for i in $(seq 1200); do set -- /sys/class/fc_host/host*/device/rport*/target*/*/block/*;"
        " [ -e $1 ] && break; usleep 50000; done; basename $1",
        timeout_s=90,
    ).strip()
    try:
        output = guest.run(
            f"""set -e
            [ -b /dev/{disk} ]
            # FCoE has no flow control on a tap: bursts as small as a socket holds while others have the processor
            echo 64 > /sys/block/{disk}/queue/max_sectors_kb
            echo 2 > /sys/block/{disk}/device/queue_depth
            mkfs.ext4 -q -F /dev/{disk}
            mount /dev/{disk} /mnt
            dd if=/dev/urandom of=/tmp/random bs=1M count=16 2>/dev/null
            cp /tmp/random /mnt/random
            umount /mnt; echo 3 > /proc/sys/vm/drop_caches; mount /dev/{disk} /mnt
            cmp /tmp/random /mnt/random
            umount /mnt
            e2fsck -fn /dev/{disk}
            grep -H . /sys/class/fc_remote_ports/*/roles
            """,
            timeout_s=240,
        )
    finally:
        guest.agent.run("umount /mnt; echo eth1 > /sys/module/libfcoe/parameters/destroy; rm -f /tmp/random")
    assert "non-contiguous" in output
    assert "FCP Target" in output
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    assert process.returncode == 0
    if shutil.which("tshark") is None:
        pytest.skip("the frames were not judged by others: apt-get install tshark")
    names = ("_ws.malformed", "fip.opcode", "fcels.opcode", "fc.type", "scsi_sbc.opcode")
    fields = [word for name in names for word in ("-e", name)]
    read = ["tshark", "-r", str(capture), "-c", "3000", "-T", "fields", *fields]
    said = subprocess.run(read, capture_output=True, text=True, check=True).stdout.splitlines()
    columns = [{line.split("\t")[number] for line in said} - {""} for number in range(len(names))]
    malformed, fip, els, types, commands = columns
    assert malformed == set()
    assert fip
    assert els
    assert {"0x01", "0x08"} <= {value[:4] for value in types}
    assert commands
