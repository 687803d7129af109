"""Linux' own initiator, in the lab's guest, against the emulator on this machine: a file system on it, two paths under
dm-multipath of which one dies under load, and a target that is killed and comes back."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import zip_longest

import pytest

from tests import lab_guest
from tools.lab.machine import HOST_ADDRESS

pytestmark = lab_guest.MARKS

IQN = "iqn.2003-10.example.test:emulator"
MIB = 1 << 20


class Served:
    """``sancredit target serve`` as a process."""

    def __init__(self, store: str) -> None:
        self._store = store
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [
            "target",
            "serve",
            "--portal",
            "127.0.0.1:0",
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
            self.process.wait(60)
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
def logged_in(lab, *ports: int, lost_after_s: tuple[int, ...] = ()) -> Iterator[list[str]]:
    """Sessions of the guest with the target through ``ports``; the disks that appear, in that order.

    ``lost_after_s``: how long a lost one of these, from the first on, is waited for until its commands fail.
    """
    lab.run(
        "for m in iscsi_tcp sd_mod sg; do modprobe $m; done; mkdir -p /run/lock/iscsi;"
        # One that iscsiadm has started for another test writes no log: ours takes its place.
        " [ -e /tmp/iscsid.log ] || { kill $(pidof iscsid) && while pidof iscsid; do usleep 50000; done; };"
        " pidof iscsid >/dev/null || (iscsid -f >/tmp/iscsid.log 2>&1 &);"
        # Before its socket is there, iscsiadm would start a second one.
        " until grep -q ISCSIADM_ABSTRACT /proc/net/unix; do pidof iscsid >/dev/null || exit 1; usleep 50000; done;"
        " iscsiadm -m node -o delete; true"
    )
    disks = []
    try:
        for port, patience_s in zip_longest(ports, lost_after_s):
            where = f"-T {IQN} -p {HOST_ADDRESS}:{port}"
            patience = f"-n node.session.timeo.replacement_timeout -v {patience_s}"
            lab.run(
                f"iscsiadm -m node -o new {where}"
                + (f" && iscsiadm -m node {where} -o update {patience}" if patience_s else "")
                + f" && iscsiadm -m node {where} --login"
            )
            found = lab.run(
                "for i in $(seq 2400); do set -- /sys/class/iscsi_session/session*/device/target*/*/block/*;"
                f" [ $# -ge {len(disks) + 1} ] && [ -e $1 ] && break; usleep 50000; done;"
                ' for disk; do echo 180 > "${disk%/block/*}/timeout"; done; basename -a $*'
            )
            disks += [f"/dev/{name}" for name in found.split() if f"/dev/{name}" not in disks]
        assert len(disks) == len(ports)
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
            timeout_s=300,
        )
    assert output.endswith("everything is as it should be\n")
    assert "non-contiguous" in output  # e2fsck has looked


class Path:
    """A way to a port: a relay that passes bytes both ways, and does what it is told at a certain byte.

    What happens to a load in its midst happens there by count: a test that looked how far it is would come too late
    where the load is fast and the test is not.
    """

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.to = port
        """Where it leads; may be changed."""
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._guard = threading.Lock()
        self._moved_bytes = 0
        self._due: tuple[int, Callable[[], None]] | None = None
        self.reached = threading.Event()
        """The byte has been met, and what is to be done there is done."""
        self._accepting = threading.Thread(target=self._accept, name="relay")
        self._accepting.start()

    def after(self, more_bytes: int, do: Callable[[], None]) -> None:
        """Once so many more bytes have come, do it, and pass nothing on before it is done."""
        with self._guard:
            self._due = self._moved_bytes + more_bytes, do

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.to))
            except ConnectionRefusedError:  # the target is away
                near.close()
                continue
            self._ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                thread = threading.Thread(target=self._pass, args=(source, sink), name="relay")
                self._threads.append(thread)
                thread.start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                with self._guard:
                    self._moved_bytes += len(data)
                    if self._due is not None and self._moved_bytes >= self._due[0]:
                        _, do = self._due
                        self._due = None
                        do()
                        self.reached.set()
                sink.sendall(data)
        except OSError:
            pass  # cut
        finally:
            _shut(source, sink)

    def sever(self) -> None:
        """Nothing goes through any more, and nobody is let in."""
        _shut(self._listener)
        self._accepting.join(30)
        assert not self._accepting.is_alive()
        _shut(*self._ends)

    def close(self) -> None:
        """Cut it, and let go of everything."""
        self.sever()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        for end in (self._listener, *self._ends):
            end.close()


def _shut(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):  # it is so already
            end.shutdown(socket.SHUT_RDWR)


def test_one_of_two_paths_dies_under_load_and_nothing_is_lost(lab, served):
    second = Path(served.port)
    try:
        with logged_in(lab, second.port, served.port, lost_after_s=(1,)) as disks:
            numbers = [lab.run(f"cat /sys/class/block/{disk[5:]}/dev").strip() for disk in disks]
            lab.run(
                "modprobe dm_multipath; modprobe dm_round_robin;"
                f" sectors=$(cat /sys/class/block/{disks[0][5:]}/size);"
                ' echo "0 $sectors multipath 1 queue_if_no_path 0 1 1 round-robin 0 2 1'
                f' {numbers[0]} 1 {numbers[1]} 1" | DM_DISABLE_UDEV=1 dmsetup create both'
            )
            try:
                lab.run("dd if=/dev/urandom of=/tmp/random bs=1M count=32 2>/dev/null")
                second.after(2 * MIB, second.sever)
                outcome = lab.agent.run(
                    "dd if=/tmp/random of=/dev/mapper/both bs=64k oflag=direct conv=fsync", timeout_s=300
                )
                assert outcome.status == 0, outcome.output
                assert second.reached.is_set(), "the load went past this path"
                status = lab.run("dmsetup status both")
                assert f"{numbers[0]} F" in status, status
                assert f"{numbers[1]} A" in status, status
                lab.run(
                    "echo 3 > /proc/sys/vm/drop_caches; cmp -n 33554432 /tmp/random /dev/mapper/both",
                    timeout_s=300,
                )
            finally:
                lab.agent.run("DM_DISABLE_UDEV=1 dmsetup remove --force both; rm -f /tmp/random")
    finally:
        second.close()


def test_a_session_recovers_from_a_target_that_is_killed_and_comes_back(lab, served):
    way = Path(served.port)
    try:
        with logged_in(lab, way.port) as (disk,):
            lab.run("dd if=/dev/urandom of=/tmp/random bs=1M count=32 2>/dev/null")
            way.after(4 * MIB, lambda: served.end(signal.SIGKILL))
            writing = lab.agent.spawn(f"dd if=/tmp/random of={disk} bs=64k oflag=direct", timeout_s=300)
            assert way.reached.wait(240), "the load never came so far"
            served.start()
            way.to = served.port
            outcome = writing.wait()
            assert outcome.status == 0, outcome.output
            lab.run(
                f"echo 3 > /proc/sys/vm/drop_caches; cmp -n 33554432 /tmp/random {disk}; rm /tmp/random",
                timeout_s=300,
            )
            assert "operational after recovery" in lab.run(
                "cat /tmp/iscsid.log; dmesg | grep -i iscsi | tail -20"
            )
    finally:
        way.close()
