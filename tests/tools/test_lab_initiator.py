"""Linux' own initiator, in the lab's guest, against the emulator on this machine: a file system on it, two paths under
dm-multipath of which one dies under load, and a target that is killed and comes back."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests import lab_guest
from tools.lab.machine import HOST_ADDRESS

pytestmark = lab_guest.MARKS

IQN = "iqn.2003-10.example.test:emulator"
MIB = 1 << 20


class Served:
    """``sancredit target serve`` as a process, always at the same port."""

    def __init__(self, store: str) -> None:
        self._store = store
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [
            "target",
            "serve",
            "--portal",
            f"127.0.0.1:{self.port}",
            "--iqn",
            IQN,
            "--lun",
            self._store,
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mgmt.cli", *command], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        ready = self.process.stdout.readline()
        assert ready.startswith("listening iscsi://127.0.0.1:"), ready
        self.port = int(ready.split("/")[2].rpartition(":")[2])

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(20)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


@pytest.fixture
def served(tmp_path):
    store = tmp_path / "disk.img"
    with store.open("wb") as file:
        file.truncate(96 * MIB)
    target = Served(str(store))
    target.start()
    yield target
    target.end()


@contextmanager
def logged_in(lab, *ports: int, timeout_s: int = 60) -> Iterator[list[str]]:
    """Sessions of the guest with the target through ``ports``; the disks that appear."""
    lab.run(
        "for m in iscsi_tcp sd_mod sg; do modprobe $m; done; mkdir -p /run/lock/iscsi;"
        # One that iscsiadm has started for another test writes no log: ours takes its place.
        " [ -e /tmp/iscsid.log ] || { kill $(pidof iscsid) && while pidof iscsid; do usleep 50000; done; };"
        " pidof iscsid >/dev/null || (iscsid -f >/tmp/iscsid.log 2>&1 &);"
        " for i in $(seq 100); do pidof iscsid >/dev/null && break; usleep 50000; done;"
        " iscsiadm -m node -o delete; true"
    )
    disks = []
    for port in ports:
        where = f"-T {IQN} -p {HOST_ADDRESS}:{port}"
        lab.run(
            f"iscsiadm -m node -o new {where} && iscsiadm -m node {where} -o update"
            f" -n node.session.timeo.replacement_timeout -v {timeout_s} && iscsiadm -m node {where} --login"
        )
        found = lab.run(
            "for i in $(seq 200); do set -- /sys/class/iscsi_session/session*/device/target*/*/block/*;"
            f" [ $# -ge {len(disks) + 1} ] && [ -e $1 ] && break; usleep 50000; done; basename -a $*"
        )
        disks = [f"/dev/{name}" for name in found.split()]
    assert len(disks) == len(ports)
    try:
        yield disks
    finally:
        lab.agent.run("umount /mnt; iscsiadm -m node --logoutall=all; iscsiadm -m node -o delete")


def test_a_file_system_is_made_written_checked_and_verified(lab, served):
    with logged_in(lab, served.port) as (disk,):
        output = lab.run(
            f"""set -e
            mkfs.ext4 -q -F {disk}
            mount {disk} /mnt
            dd if=/dev/urandom of=/tmp/random bs=1M count=16 2>/dev/null
            cp /tmp/random /mnt/random; sync
            umount /mnt; echo 3 > /proc/sys/vm/drop_caches; mount {disk} /mnt
            cmp /tmp/random /mnt/random
            fio --name=verified --filename=/mnt/fio --size=24M --rw=randwrite --bs=4k --iodepth=32 \\
                --ioengine=libaio --direct=1 --number_ios=1024 --verify=crc32c --do_verify=1 --verify_fatal=1 --minimal
            umount /mnt
            e2fsck -fn {disk}
            echo everything is as it should be
            """,
            timeout_s=120,
        )
    assert output.endswith("everything is as it should be\n")
    assert "non-contiguous" in output  # e2fsck has looked


class Path:
    """A second way to a port, which can be cut: a relay that passes bytes both ways."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._to = port
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="relay")]
        self.moved_bytes = 0
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._to))
            self._ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                thread = threading.Thread(target=self._pass, args=(source, sink), name="relay")
                self._threads.append(thread)
                thread.start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
                self.moved_bytes += len(data)
        except OSError:
            pass  # cut
        finally:
            for end in (source, sink):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def cut(self) -> None:
        """Nothing goes through any more, and nobody is let in."""
        for end in (self._listener, *self._ends):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        for end in (self._listener, *self._ends):
            end.close()


def test_one_of_two_paths_dies_under_load_and_nothing_is_lost(lab, served):
    second = Path(served.port)
    try:
        with logged_in(lab, second.port, served.port, timeout_s=1) as disks:
            numbers = [lab.run(f"cat /sys/class/block/{disk[5:]}/dev").strip() for disk in disks]
            lab.run(
                "modprobe dm_multipath; modprobe dm_round_robin;"
                f" sectors=$(cat /sys/class/block/{disks[0][5:]}/size);"
                ' echo "0 $sectors multipath 1 queue_if_no_path 0 1 1 round-robin 0 2 1'
                f' {numbers[0]} 1 {numbers[1]} 1" | DM_DISABLE_UDEV=1 dmsetup create both'
            )
            try:
                lab.run("dd if=/dev/urandom of=/tmp/random bs=1M count=32 2>/dev/null")
                writing = lab.agent.spawn(
                    "dd if=/tmp/random of=/dev/mapper/both bs=64k oflag=direct conv=fsync", timeout_s=120
                )
                before = second.moved_bytes
                while second.moved_bytes < before + 2 * MIB:
                    assert writing.poll(0.02) is None, "the load was over before the path could die"
                second.cut()
                outcome = writing.wait()
                assert outcome.status == 0, outcome.output
                status = lab.run("dmsetup status both")
                assert f"{numbers[0]} F" in status, status
                assert f"{numbers[1]} A" in status, status
                lab.run(
                    "echo 3 > /proc/sys/vm/drop_caches; cmp -n 33554432 /tmp/random /dev/mapper/both",
                    timeout_s=120,
                )
            finally:
                lab.agent.run("DM_DISABLE_UDEV=1 dmsetup remove --force both; rm -f /tmp/random")
    finally:
        second.cut()


def test_a_session_recovers_from_a_target_that_is_killed_and_comes_back(lab, served):
    with logged_in(lab, served.port) as (disk,):
        lab.run("dd if=/dev/urandom of=/tmp/random bs=1M count=32 2>/dev/null")
        writing = lab.agent.spawn(f"dd if=/tmp/random of={disk} bs=64k oflag=direct", timeout_s=120)
        written = f"cat /sys/class/block/{disk[5:]}/stat"
        while int(lab.run(written).split()[6]) * 512 < 4 * MIB:
            assert writing.poll(0.02) is None, "the load was over before the target could die"
        served.end(signal.SIGKILL)
        served.start()
        outcome = writing.wait()
        assert outcome.status == 0, outcome.output
        lab.run(
            f"echo 3 > /proc/sys/vm/drop_caches; cmp -n 33554432 /tmp/random {disk}; rm /tmp/random",
            timeout_s=120,
        )
        assert "operational after recovery" in lab.run(
            "cat /tmp/iscsid.log; dmesg | grep -i iscsi | tail -20"
        )
