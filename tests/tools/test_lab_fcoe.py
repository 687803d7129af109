"""Linux' own Fibre Channel, in a guest of the lab, against ours over a tap: its FCoE initiator on our endpoint, as a
VN2VN port and behind our forwarder with its name server, through a killed endpoint and a link that goes down; and our
initiator on its target (tcm_fc). tshark and we read every frame alike. A guest of their own: its second interface is a
tap in a namespace.

Our end keeps quiet until the guest's first claim: a beacon that arrives as the guest creates its port crashes Linux
6.1.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from fcsim.live.fcp import port_name_of
from iscsi_target.lio.model import (
    Acl,
    Backstore,
    Description,
    KernelTarget,
    Lun,
    MappedLun,
    Plugin,
    PortalGroup,
)
from tests import lab_guest
from tests.tools.fcoe_frames import differences, ours, tsharks
from tools.capture.pcapng import read_file
from tools.lab import machine as machines
from tools.lab.driver import CLEAR, apply
from tools.lab.errors import LabUnavailable
from tools.lab.machine import Settings
from tools.lab.project import install

pytestmark = lab_guest.MARKS

MAC = "02:54:00:99:00:02"
MIB = 1 << 20
CREATE = {"vn2vn": "create_vn2vn", "fabric": "create"}
DESTROY = "echo eth1 > /sys/module/libfcoe/parameters/destroy"
_TAP = """set -e
ip link set lo up; ip tuntap add dev tap0 mode tap; ip link set tap0 mtu 2500 up
echo ready; exec sleep 3600"""


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
    settings = Settings(network=(*network, device), prefix=site, lifetime_s=3600, owner_pid=os.getpid())
    try:
        machine = machines.up(f"fcoe-{os.getpid()}", settings)
    except LabUnavailable as unavailable:
        pytest.skip(f"no lab here: {unavailable.reason}; to fix it: {unavailable.fix}")
    try:
        machine.run("modprobe fcoe; modprobe sd_mod; ip link set eth1 up")
        yield machine
    finally:
        machine.down()


class Endpoint:
    """Our end on the tap, as a process: a target whose disk is a file."""

    def __init__(self, site, mode, disk, captures):
        self._command = [*site, sys.executable, "-m", "mgmt.cli", "fc", "fcoe", "serve", "tap0"]
        self._command += ["--mode", mode, "--lun", str(disk)]
        self._captures = captures
        self._runs = itertools.count(1)
        self.process = None

    def start(self):
        """Until it listens; each run has a capture of its own."""
        capture = self._captures / f"run-{next(self._runs)}.pcapng"
        self.process = subprocess.Popen(
            [*self._command, "--capture", str(capture)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        ready = self.process.stdout.readline()
        assert ready.startswith("listening fcoe://tap0 "), ready

    def end(self, number=signal.SIGTERM):
        """Its exit status."""
        if self.process is None:
            return None
        self.process.send_signal(number)
        self.process.communicate(timeout=60)
        process, self.process = self.process, None
        return process.returncode


@contextmanager
def disk_of(guest, mode):
    """The name of the disk that appears once the guest has made its port.

    A machine with other work may be long about a command, or about starting our end again: the guest waits for a lost
    port and tries a command again for as long as the test runs.
    """
    try:
        yield guest.run(
            f"echo eth1 > /sys/module/libfcoe/parameters/{CREATE[mode]};"
            " until set -- /sys/class/fc_host/host*/device/rport*/target*/*/block/* && [ -e $1 ];"
            " do usleep 50000; done;"
            " for port in /sys/class/fc_remote_ports/*/dev_loss_tmo; do echo 300 > $port; done;"
            " for disk in ${1%/block/*}/scsi_disk/*/max_retries; do echo -1 > $disk; done; basename $1",
        ).strip()
    finally:
        guest.agent.run(f"umount /mnt; {DESTROY}; rm -f /tmp/random")


def beyond(guest, disk, column, size, running):
    """Until the guest has moved so much (diskstats' column of sectors), while something runs there."""
    guest.run(
        f"until set -- $(cat /sys/block/{disk}/stat); [ ${{{column + 1}}} -ge {size // 512} ]; do usleep 5000; done",
        timeout_s=300,
    )
    assert running.poll() is None, "it was over before anything could happen to it"


READ, WRITTEN = 2, 6


@pytest.mark.parametrize("mode", ["vn2vn", "fabric"])
def test_the_kernels_file_system_lives_through_a_killed_endpoint_and_a_broken_link(
    guest, site, mode, tmp_path
):
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(96 * MIB)
    endpoint = Endpoint(site, mode, image, tmp_path)
    endpoint.start()
    try:
        with disk_of(guest, mode) as disk:
            guest.run(
                f"""set -e
                [ -b /dev/{disk} ]
                # FCoE has no flow control on a tap: bursts as small as a socket holds while others use the processor
                echo 64 > /sys/block/{disk}/queue/max_sectors_kb
                echo 2 > /sys/block/{disk}/device/queue_depth
                mkfs.ext4 -q -F /dev/{disk}; mount /dev/{disk} /mnt
                dd if=/dev/urandom of=/tmp/random bs=1M count=64 2>/dev/null""",
            )
            written = int(guest.run(f"cat /sys/block/{disk}/stat").split()[WRITTEN]) * 512
            writing = guest.agent.spawn("dd if=/tmp/random of=/mnt/random bs=1M conv=fsync", timeout_s=400)
            beyond(guest, disk, WRITTEN, written + 8 * MIB, writing)
            endpoint.end(signal.SIGKILL)  # without a LOGO: what it knew of logins is gone
            endpoint.start()
            outcome = writing.wait()
            assert outcome.status == 0, outcome.output

            guest.run(f"umount /mnt; echo 3 > /proc/sys/vm/drop_caches; mount /dev/{disk} /mnt")
            read = int(guest.run(f"cat /sys/block/{disk}/stat").split()[READ]) * 512
            comparing = guest.agent.spawn("cmp /tmp/random /mnt/random", timeout_s=400)
            beyond(guest, disk, READ, read + 8 * MIB, comparing)
            guest.monitor("set_link fc off")
            guest.run("until [ $(cat /sys/class/net/eth1/carrier) = 0 ]; do usleep 20000; done")
            guest.monitor("set_link fc on")
            outcome = comparing.wait()
            assert outcome.status == 0, outcome.output
            checked = guest.run(
                f"umount /mnt; e2fsck -fn /dev/{disk}; grep -H . /sys/class/fc_remote_ports/*/roles"
            )
            assert "non-contiguous" in checked
            assert "FCP Target" in checked
        assert endpoint.end() == 0
    finally:
        endpoint.end(signal.SIGKILL)
    judge_all_frames(sorted(tmp_path.glob("run-*.pcapng")), least=2 * 64 * MIB // 2112)


def judge_all_frames(captures, least):
    """tshark says of every frame what we say."""
    if shutil.which("tshark") is None:
        pytest.skip("the frames were not judged by others: apt-get install tshark")
    count = 0
    for capture in captures:
        packets = read_file(capture, allow_truncated=True)  # an endpoint was killed while it wrote one
        for number, (packet, (theirs, malformed)) in enumerate(
            zip(packets, tsharks(capture), strict=True), 1
        ):
            found = differences(ours(packet.data), theirs)
            assert not found, (capture.name, number, found)
            assert not malformed, (capture.name, number, malformed)
            count += 1
    assert count > least


def test_our_initiator_writes_to_the_kernels_target_and_reads_it_back(guest, site, tmp_path):
    """tcm_fc in the guest, set up by our driver; 64 MiB over VN2VN."""
    install(guest)
    guest.run(f"modprobe tcm_fc; echo eth1 > /sys/module/libfcoe/parameters/{CREATE['vn2vn']}")
    try:
        # a beacon while the guest makes its port would crash it: we begin when it is on line
        port = guest.run(
            "until grep -q Online /sys/class/fc_host/host*/port_state; do usleep 50000; done;"
            " cat /sys/class/fc_host/host*/port_name"
        ).strip()
        initiator = f"naa.{port_name_of('lab-initiator'):016x}"
        store = Backstore(plugin=Plugin.RAMDISK, name="fc", size_bytes=96 * MIB)
        group = PortalGroup(
            luns=[Lun(number=0, plugin=Plugin.RAMDISK, backstore="fc")],
            acls=[Acl(initiator=initiator, mapped_luns=[MappedLun(number=0, lun=0)])],
        )
        target = KernelTarget(
            wwn=f"naa.{port.removeprefix('0x')}", fabric="tcm_fc", groups=[group], parameters={}
        )
        apply(guest, Description(backstores=[store], targets=[target]))
        capture = tmp_path / "initiator.pcapng"
        command = [*site, sys.executable, "-m", "mgmt.cli", "fc", "fcoe", "load", "tap0", "--mode", "vn2vn"]
        command += ["--name", "lab-initiator", "--write", "64MiB", "--read", "64MiB", "--depth", "2"]
        command += ["--timeout", "400", "--capture", str(capture), "-o", "json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == 0, done.stderr + guest.run("dmesg | tail -20")
        runs = json.loads(done.stdout)["runs"]
        assert [(run["direction"], run["payload_bytes"]) for run in runs] == [
            ("write", 64 * MIB),
            ("read", 64 * MIB),
        ]
    finally:
        guest.agent.run(f"{CLEAR}; {DESTROY}")
    judge_all_frames([capture], least=2 * 64 * MIB // 2112)
