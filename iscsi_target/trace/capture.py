# SPDX-License-Identifier: Apache-2.0
"""What passes on the wire, written to a pcapng file by the target itself: whole PDUs as packets of the connection's own
addresses, with a comment where a fault rule fired. No privileges, no packet lost, exactly what the target got and gave.

TCP is made up around the bytes (sequence numbers from the stream, one packet per PDU, no retransmissions); the bytes
and their order are real.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from iscsi_target.faults.matching import Direction
from iscsi_target.trace.pcapng import LINKTYPE_RAW, PcapngWriter
from iscsi_target.trace.stream import TcpStream


class CaptureError(Exception):
    """The capture cannot be begun; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureConfig:
    """One capture. `snap_bytes`: keep so much of each packet, headers included (0: all). `rotate_bytes`: begin another
    file (``NAME-00002.pcapng`` …) beyond this size (0: never), and keep the latest `files` of them (0: all).
    `session` (TSIH) and `initiator` (name, * and ? as in a shell) choose what is captured."""

    path: Path
    snap_bytes: int = 0
    rotate_bytes: int = 0
    files: int = 0
    session: int | None = None
    initiator: str = ""
    overwrite: bool = True
    """Whether a file that is there is overwritten."""

    def __post_init__(self) -> None:
        if self.snap_bytes and self.snap_bytes < 60:
            raise CaptureError(
                "less than 60 bytes of a packet do not hold its headers: snap_bytes is 0, or 60 and more"
            )
        if self.rotate_bytes and self.rotate_bytes < 4096:
            raise CaptureError("rotate_bytes is 0, or 4096 and more")
        if self.snap_bytes < 0 or self.rotate_bytes < 0 or self.files < 0:
            raise CaptureError("snap_bytes, rotate_bytes and files are not negative")


class Capture:
    """A capture that is under way. Begins with the constructor, which raises CaptureError.

    `wall_offset_ns`: what makes a monotonic time a time since 1970. A file that can no longer be written ends the
    capture: `error` says why, and the target goes on.
    """

    def __init__(self, config: CaptureConfig, *, wall_offset_ns: int) -> None:
        self.config = config
        self.error: str | None = None
        self.packets = 0
        self.written_bytes = 0
        """Of all files."""
        self._wall_offset_ns = wall_offset_ns
        self._number = 1
        self._known: set[int] = set()
        try:
            self._file: BinaryIO | None = self._open()
        except OSError as error:
            raise CaptureError(
                f"cannot write {config.path}: {(error.strerror or str(error)).lower()}"
            ) from error

    @property
    def path(self) -> Path:
        """The file that is being written."""
        path = self.config.path
        return path if self._number == 1 else path.with_name(f"{path.stem}-{self._number:05}{path.suffix}")

    def wants(self, tsih: int, initiator_name: str) -> bool:
        """Whether a connection is one to capture."""
        return (
            self._file is not None
            and self.config.session in (None, tsih)
            and (not self.config.initiator or fnmatchcase(initiator_name, self.config.initiator))
        )

    def write(
        self, connection: int, stream: TcpStream, direction: Direction, data: bytes, now_ns: int, comment: str
    ) -> None:
        """Bytes that pass now."""
        if connection not in self._known:
            self._known.add(connection)
            if not stream.begun:
                self._write(stream.handshake(), now_ns, "")
        self._write(stream.segments(direction, data), now_ns, comment)

    def end(self, connection: int, stream: TcpStream, now_ns: int, *, reset: bool, comment: str) -> None:
        """The target closed the connection."""
        if connection in self._known:
            self._known.discard(connection)
            self._write(stream.end(reset=reset), now_ns, comment)

    def close(self) -> None:
        """End the capture; safe to call again."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                self.error = self.error or (error.strerror or str(error)).lower()

    def _open(self) -> BinaryIO:
        # What is captured are a host's data, and how it logged in: for the owner's eyes only.
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if self.config.overwrite else os.O_EXCL)
        descriptor = os.open(self.path, flags, 0o600)
        file = os.fdopen(descriptor, "wb", buffering=1 << 18)
        self._writer = PcapngWriter(file, application="sancredit target")
        self._writer.add_interface(LINKTYPE_RAW, snap_bytes=self.config.snap_bytes, name="iscsi-target")
        return file

    def _write(self, packets: Iterator[bytes], now_ns: int, comment: str) -> None:
        file = self._file
        if file is None:
            return
        try:
            for packet in packets:
                self._writer.write(now_ns + self._wall_offset_ns, packet, comment=comment or None)
                comment = ""
                self.packets += 1
            file.flush()  # whatever becomes of this process, the file has every PDU up to the last one
            position = file.tell()
            if self.config.rotate_bytes and position >= self.config.rotate_bytes:
                self._rotate(file, position)
        except OSError as error:
            self.error = (error.strerror or str(error)).lower()
            self.close()

    def _rotate(self, file: BinaryIO, position: int) -> None:
        file.close()
        self.written_bytes += position
        self._number += 1
        self._file = self._open()
        if self.config.files and self._number > self.config.files:
            number, self._number = self._number, self._number - self.config.files
            self.path.unlink(missing_ok=True)
            self._number = number
