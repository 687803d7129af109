"""``sancredit doctor``: what this machine can do, and how to get what is missing.

Each :class:`Check` is a question asked of the real thing (a TUN device is opened, a namespace is made in a
child), not of a version number; the answer says what depends on it and what to do.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import click

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one check: whether it is there, what was seen, and the fix where it is not."""

    present: bool
    seen: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One question: its name, what depends on it, and the function that finds out."""

    name: str
    serves: str
    find: Callable[[], Finding]


def _python() -> Finding:
    version = platform.python_version()
    return Finding(sys.version_info >= (3, 11), version, "install Python 3.11 or newer")


def _kernels() -> Finding:
    root = Path(__file__).resolve().parent.parent
    sources = [
        path for head in ("fcsim", "iscsi_target", "tools") for path in (root / head).rglob("*_kernel.py")
    ]
    if not sources:
        return Finding(True, "none in this version: all of it is plain Python")
    compiled = [
        path for path in sources if any(path.with_suffix(suffix).exists() for suffix in EXTENSION_SUFFIXES)
    ]
    fix = "install a C compiler (apt-get install gcc libc6-dev), then pip install again"
    return Finding(len(compiled) == len(sources), f"{len(compiled)} of {len(sources)} compiled", fix)


def _module(name: str, extra: str) -> Callable[[], Finding]:
    def find() -> Finding:
        present = importlib.util.find_spec(name) is not None
        return Finding(present, "installed" if present else "missing", f"pip install 'sancredit[{extra}]'")

    return find


def _program(name: str, package: str) -> Callable[[], Finding]:
    def find() -> Finding:
        path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
        return Finding(path is not None, path or "missing", f"apt-get install {package}")

    return find


def _in_child(action: Callable[[], None]) -> str:
    """Run ``action`` in a child process, so that its namespaces die with it; the error text, or ''."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            action()
        except OSError as error:
            os.write(writer, (error.strerror or str(error)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(child, 0)
    return answer


def _unshare_site() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _CLONE_NEWNET | (0 if os.geteuid() == 0 else _CLONE_NEWUSER)
    if libc.unshare(flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _namespaces() -> Finding:
    error = _in_child(_unshare_site)
    how = "as root" if os.geteuid() == 0 else "in a user namespace"
    fix = "run as root, or allow it: sysctl kernel.unprivileged_userns_clone=1"
    return Finding(not error, error or how, fix)


def _tun() -> Finding:
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK))
    except OSError as error:
        return Finding(
            False, error.strerror or str(error), "modprobe tun; in a container: --device /dev/net/tun"
        )
    return Finding(True, "/dev/net/tun opens")


def _netem() -> Finding:
    def ask() -> None:
        _unshare_site()
        command = ["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode:
            raise OSError(0, answer.stderr.strip().splitlines()[0] if answer.stderr else "refused")

    if shutil.which("tc", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None:
        return Finding(False, "tc is missing", "apt-get install iproute2")
    error = _in_child(ask)
    return Finding(not error, error or "works", "modprobe sch_netem (the TUN emulator serves instead)")


def _packet_socket() -> Finding:
    def ask() -> None:
        _unshare_site()
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()

    error = _in_child(ask)
    return Finding(not error, error or "works", "run as root, or allow user namespaces")


def _configfs() -> Finding:
    present = Path("/sys/kernel/config/target").is_dir()
    fix = "as root: modprobe target_core_mod iscsi_target_mod; or a virtual machine (qemu-system)"
    return Finding(present, "mounted" if present else "no LIO in this kernel", fix)


CHECKS = (
    Check("python", "everything", _python),
    Check("compiled kernels", "speed of the hot paths", _kernels),
    Check("station libraries", "arrays, station, demo", _module("fastapi", "station")),
    Check("plot library", "demo --report", _module("matplotlib", "plot")),
    Check("network namespaces", "the demo's two sites", _namespaces),
    Check("TUN device", "the demo's channel, where there is no netem", _tun),
    Check("netem", "the demo's channel, by the kernel", _netem),
    Check("packet sockets", "the demo's packet capture", _packet_socket),
    Check("mkfs.ext4", "the demo's default image as a real file system", _program("mkfs.ext4", "e2fsprogs")),
    Check("tshark", "tests: third opinion on every format", _program("tshark", "tshark")),
    Check("libiscsi", "tests: a foreign initiator and its suite", _program("iscsi-test-cu", "libiscsi-bin")),
    Check("qemu-img", "tests: a foreign initiator", _program("qemu-img", "qemu-utils qemu-block-extra")),
    Check("LIO in this kernel", "sancredit lio", _configfs),
    Check("qemu-system", "the lab's virtual machine", _program("qemu-system-x86_64", "qemu-system-x86")),
)


@click.command(epilog="Example: sancredit doctor -o json")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def doctor(output: str) -> None:
    """Report what this machine can do, and how to get what is missing."""
    findings = [(check, check.find()) for check in CHECKS]
    if output == "json":
        rows = [
            {"name": check.name, "present": found.present, "seen": found.seen, "serves": check.serves}
            | ({} if found.present else {"fix": found.fix})
            for check, found in findings
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    from tabulate import tabulate

    table = [
        ("ok" if found.present else "--", check.name, found.seen, check.serves) for check, found in findings
    ]
    click.echo(tabulate(table, headers=("", "what", "seen", "serves"), tablefmt="simple"))
    missing = [(check, found) for check, found in findings if not found.present]
    if missing:
        click.echo("\nTo have what is missing:")
        for check, found in missing:
            click.echo(f"  {check.name}: {found.fix}")
