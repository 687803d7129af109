"""The targets that are measured: ours compiled, ours uncompiled, and tgtd, each a process pinned to one core."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.ports import free_port

_IQN = "iqn.2026-11.example.bench:disk"
_START_S = 60.0
_LISTENING = re.compile(rb"^listening (iscsi://\S+)$", re.MULTILINE)


class TargetMissing(Exception):
    """A target cannot be measured here; the text says why, and the fix where there is one."""


@dataclass(frozen=True, slots=True)
class MeasuredTarget:
    """A running target: its process, and the URL of its one data LUN."""

    name: str
    pid: int
    host: str
    port: int
    iqn: str
    lun: int

    @property
    def url(self) -> str:
        """The LUN as libiscsi spells it."""
        return f"iscsi://{self.host}:{self.port}/{self.iqn}/{self.lun}"

    def resident_bytes(self) -> int:
        """Memory of the process that is its own: private pages, without the shared libraries."""
        total = 0
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Private_Clean:", "Private_Dirty:")):
                total += int(line.split()[1]) * 1024
        return total


def pin(core: int) -> Sequence[str]:
    """The words that start a command on one core."""
    return ("taskset", "-c", str(core))


@contextmanager
def sancredit(
    name: str,
    directory: Path,
    core: int,
    lun_bytes: int,
    *,
    plain: bool = False,
    lun: str | None = None,
    config: Path | None = None,
    options: Sequence[str] = (),
) -> Iterator[MeasuredTarget]:
    """``sancredit target serve`` with everything that it does in service: buffers charged, counters on.

    The LUN is thin memory, or ``lun``: a path; or all is as the file ``config`` says. ``plain``: the same code without
    the compiled kernels (``SANCREDIT_PLAIN=1``).
    """
    log = directory / f"{name}.log"
    environment = {key: value for key, value in os.environ.items() if key != "SANCREDIT_PLAIN"}
    if plain:
        environment["SANCREDIT_PLAIN"] = "1"
    command = [*pin(core), sys.executable, "-m", "mgmt.cli", "target", "serve", "--portal", "127.0.0.1:0"]
    command += [*options]
    if config is None:
        command += ["--iqn", _IQN, "--lun", str(lun_bytes) if lun is None else lun]
    else:
        command += ["--config", str(config)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:
        url = _wait_for_line(name, process, log)
        host, _, port = url.split("/")[2].rpartition(":")
        yield MeasuredTarget(name, process.pid, host, int(port), _IQN, 0)
        if process.poll() is not None:
            raise TargetMissing(f"{name} ended during the benchmark with {process.returncode}: {_tail(log)}")
    finally:
        process.terminate()
        _reap(process)


def _wait_for_line(name: str, process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _START_S
    while True:
        found = _LISTENING.search(log.read_bytes())
        if found is not None:
            return found[1].decode()
        if process.poll() is not None:
            raise TargetMissing(f"{name} did not start: {_tail(log)}")
        if time.monotonic() > deadline:
            raise TargetMissing(f"{name} said nothing within {_START_S:g} s: {_tail(log)}")
        time.sleep(0.02)


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


@contextmanager
def tgtd(directory: Path, core: int, lun_bytes: int) -> Iterator[MeasuredTarget]:
    """tgtd with one file on /dev/shm (bstype rdwr); LUN 0 is its controller, the disk LUN 1.

    It has its own control port and socket, and takes no notice of SIGTERM: its own process is killed, no other.
    """
    daemon, admin = (shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin") for name in ("tgtd", "tgtadm"))
    if daemon is None or admin is None:
        raise TargetMissing("tgtd is missing: apt-get install tgt")
    if os.geteuid() != 0:
        raise TargetMissing("tgtd runs as root only")
    with ExitStack() as undo:
        disk = Path("/dev/shm") / f"sancredit-bench-{os.getpid()}"
        undo.callback(disk.unlink, missing_ok=True)
        with disk.open("wb") as file:
            file.truncate(lun_bytes)
        control, port = str(1_000 + os.getpid() % 30_000), free_port()  # the control port is a short in tgtd
        environment = os.environ | {"TGT_IPC_SOCKET": str(directory / "tgtd.socket")}
        process = subprocess.Popen(
            [*pin(core), daemon, "-f", "-C", control, "--iscsi", f"portal=127.0.0.1:{port}"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        undo.callback(process.wait, 10)
        undo.callback(process.send_signal, signal.SIGKILL)

        def tell(*words: str) -> int:
            argv = [admin, "-C", control, "--lld", "iscsi", *words]
            return subprocess.run(
                argv, env=environment, capture_output=True, timeout=10, check=False
            ).returncode

        deadline = time.monotonic() + _START_S
        while tell("--mode", "target", "--op", "new", "--tid", "1", "-T", _IQN):
            if process.poll() is not None or time.monotonic() > deadline:
                raise TargetMissing("tgtd does not answer on its control port")
            time.sleep(0.05)
        lun = ("--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", "1", "--bstype", "rdwr")
        if tell(*lun, "-b", str(disk)) or tell("--mode", "target", "--op", "bind", "--tid", "1", "-I", "ALL"):
            raise TargetMissing("tgtd refused its target description")
        for key in ("HeaderDigest", "DataDigest"):
            tell("--mode", "target", "--op", "update", "--tid", "1", "-n", key, "-v", "CRC32C,None")
        yield MeasuredTarget("tgtd", process.pid, "127.0.0.1", port, _IQN, 1)
