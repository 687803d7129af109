"""A capture that is under way: packets of an interface, shown to the scan as they come, and kept in files on the way.

The privilege to capture (CAP_NET_RAW) is needed to open the interface only; it is given up before the first packet is
looked at, so that what strangers send is never understood with it.
"""

from __future__ import annotations

import ctypes
import io
import os
import pwd
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from iscsi_target.trace.pcapng import PcapngWriter
from tools.capture.block_ring import RETIRE_MS, BlockRing

_PR_SET_NO_NEW_PRIVS = 38
_PR_CAPBSET_DROP = 24
_CAPABILITIES = 64
_TURN_MS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveConfig:
    """What is captured. ``seconds`` None: until it is stopped. ``write``: keep the packets in this pcapng file too;
    beyond ``rotate_bytes`` (0: never) another is begun (``NAME-00002.pcapng``), the latest ``files`` are kept (0: all).
    """

    interface: str
    snap_bytes: int = 65535
    seconds: float | None = None
    write: Path | None = None
    rotate_bytes: int = 0
    files: int = 0


def drop_privileges(user: str | None = None) -> str:
    """Become an ordinary user, for good: the one who called sudo, else ``nobody``. Without privileges nothing changes.

    Returns the user's name. Raises :class:`OSError` where the system refuses.
    """
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    uid = os.environ.get("SUDO_UID", "")
    entry = (
        pwd.getpwnam(user) if user else pwd.getpwuid(int(uid)) if uid.isdigit() else pwd.getpwnam("nobody")
    )
    if entry.pw_uid != 0:
        library = ctypes.CDLL(None, use_errno=True)
        for capability in range(_CAPABILITIES):
            library.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.setgroups([])
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
        library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return entry.pw_name


class _Files:
    """The files that a capture is kept in. The first is made before privileges are given up; those of a rotation after
    that, so their folder must be writable for the user that is left."""

    def __init__(self, config: LiveConfig, link_type: int) -> None:
        self._config = config
        self._link_type = link_type
        self._number = 0
        self._stream: BinaryIO | None = None
        self._next()

    def _path(self, number: int) -> Path:
        path = self._config.write
        assert path is not None
        return path if number == 1 else path.with_name(f"{path.stem}-{number:05}{path.suffix}")

    def _next(self) -> None:
        self.close()
        self._number += 1
        descriptor = os.open(
            self._path(self._number), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
        )
        self._stream = os.fdopen(descriptor, "wb", buffering=1 << 18)
        self._writer = PcapngWriter(self._stream)
        self._writer.add_interface(
            self._link_type, snap_bytes=self._config.snap_bytes, name=self._config.interface
        )
        if self._config.files and self._number > self._config.files:
            self._path(self._number - self._config.files).unlink(missing_ok=True)

    def write(self, time_ns: int, data: bytes, original_bytes: int) -> None:
        assert self._stream is not None
        self._writer.write(time_ns, data, original_bytes)
        if self._config.rotate_bytes and self._stream.tell() >= self._config.rotate_bytes:
            self._next()

    def write_statistics(self, time_ns: int, **counts: int) -> None:
        self._writer.write_statistics(time_ns, **counts)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class LiveSource:
    """An open capture. Opening it needs CAP_NET_RAW; :meth:`blocks` gives pcapng bytes as packets come. ``dropped``:
    packets that were lost since nobody looked in time, known at the end."""

    def __init__(self, config: LiveConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises :class:`OSError` and :class:`~tools.capture.packet_socket.UnsupportedInterface`."""
        self.config = config
        self._clock = clock
        self._ring = BlockRing(config.interface, snap_bytes=config.snap_bytes)
        self.stopped = False
        self.dropped = 0
        try:
            self._files = _Files(config, self._ring.link_type) if config.write is not None else None
        except BaseException:
            self._ring.close()
            raise

    def blocks(self) -> Iterator[bytes]:
        """A pcapng section first, then the packets of each turn as blocks (none: empty), until time is up or
        :attr:`stopped`: everything that came before that is in it. Raises :class:`OSError` where a file cannot be
        written."""
        end = None if self.config.seconds is None else self._clock() + self.config.seconds
        out = io.BytesIO()
        writer = PcapngWriter(out)
        writer.add_interface(
            self._ring.link_type, snap_bytes=self.config.snap_bytes, name=self.config.interface
        )
        files = self._files
        try:
            last, seen, began_ns = False, 0, time.time_ns()
            while not last:
                left = _TURN_MS if end is None else round((end - self._clock()) * 1000)
                last = self.stopped or left <= 0  # then what the ring has is the end
                self._ring.wait(5 * RETIRE_MS if last else min(_TURN_MS, left))
                for packet in self._ring.packets():
                    writer.write(packet.time_ns, packet.data, packet.original_bytes)
                    if files is not None:
                        files.write(packet.time_ns, packet.data, packet.original_bytes)
                    seen += 1
                if last:
                    self.dropped = self._ring.count_dropped()
                    now_ns = time.time_ns()
                    for one in (writer, files):
                        if one is not None:
                            one.write_statistics(
                                now_ns,
                                received=seen + self.dropped,
                                dropped=self.dropped,
                                started_ns=began_ns,
                            )
                yield out.getvalue()
                out.seek(0)
                out.truncate()
        finally:
            self._ring.close()
            if files is not None:
                files.close()
