"""The two sites of a channel: network namespaces that live exactly as long as the process that made them.

They are never named (nothing under ``/run/netns``): file descriptors hold them, so that the kernel takes them back
with the last process, whatever killed it. Where the caller may not make network namespaces, a user namespace is made
first, in which the caller's user is root (``user_namespaces(7)``).
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.wan.enter import CLONE_NEWNET, CLONE_NEWUSER, check, set_namespace
from tools.wan.errors import ChannelUnavailable
from tools.wan.interfaces import bring_up, disable_ipv6

SITES = ("master", "remote")

_SWEEP_ROUNDS = 100
_SWEEP_PAUSE_S = 0.01

_libc = ctypes.CDLL(None, use_errno=True)
_USER_NAMESPACE_FIX = (
    "run it as root, or allow user namespaces: sysctl user.max_user_namespaces=10000, "
    "kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0 (those that exist)"
)


def _unshare(kind: int, what: str) -> None:
    check(_libc.unshare(kind), what)


def _write_id_maps(user_id: int, group_id: int) -> None:
    """Map the one user and group to root inside; setgroups must be refused first (``user_namespaces(7)``)."""
    own = Path("/proc/self")
    (own / "setgroups").write_text("deny")
    (own / "uid_map").write_text(f"0 {user_id} 1")
    (own / "gid_map").write_text(f"0 {group_id} 1")


@dataclass(frozen=True, slots=True)
class Namespaces:
    """Descriptors of the namespaces: ``user_fd`` is None where none was needed; the other two are the sites'."""

    user_fd: int | None
    master_fd: int
    remote_fd: int

    def enter(self, site: str) -> None:
        """Move the calling thread into a site's network namespace."""
        set_namespace(self.master_fd if site == "master" else self.remote_fd, CLONE_NEWNET)


def make_namespaces() -> Namespaces:
    """Make both sites, loopback up, IPv6 off; the calling thread ends in the remote one.

    The process must be single-threaded. Raises :class:`ChannelUnavailable`.
    """
    user_fd: int | None = None
    user_id, group_id = os.geteuid(), os.getegid()
    try:
        try:
            _unshare(CLONE_NEWNET, "a network namespace")
        except OSError as error:
            if error.errno != errno.EPERM:
                raise
            _unshare(CLONE_NEWUSER, "a user namespace")
            _write_id_maps(user_id, group_id)
            user_fd = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            _unshare(CLONE_NEWNET, "a network namespace")
        descriptors = []
        for number in range(len(SITES)):
            if number:
                _unshare(CLONE_NEWNET, "a network namespace")
            descriptors.append(os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
            bring_up("lo")
            disable_ipv6()
    except OSError as error:
        raise ChannelUnavailable(f"cannot make {error.strerror}", _USER_NAMESPACE_FIX) from None
    return Namespaces(user_fd, *descriptors)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def kill_all_inside(namespaces: Sequence[int]) -> None:
    """Kill until nothing runs inside any more: a process may fork between two looks. Bounded in time (about 1 s)."""
    for _ in range(_SWEEP_ROUNDS):
        if kill_inside(namespaces) == 0:
            return
        time.sleep(_SWEEP_PAUSE_S)


def kill_inside(namespaces: Sequence[int]) -> int:
    """Kill every process whose network namespace is one of these (not this process); how many were killed.

    They are reached through pidfds, and looked at again after the pidfd is open, so that a recycled number is safe.
    """
    wanted = {_identity(os.fstat(descriptor)) for descriptor in namespaces}
    killed = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        link = entry / "ns" / "net"
        try:
            if _identity(link.stat()) not in wanted:
                continue
            process = os.pidfd_open(int(entry.name))
        except OSError:  # it has gone, or belongs to somebody else and so is not inside
            continue
        try:
            if _identity(link.stat()) in wanted:
                signal.pidfd_send_signal(process, signal.SIGKILL)
                killed += 1
        except OSError:  # gone between the two looks
            continue
        finally:
            os.close(process)
    return killed
