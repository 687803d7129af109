# SPDX-License-Identifier: Apache-2.0
"""What a snapshot has copied, in a file that survives a restart."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

import construct as c

from iscsi_target.scsi.errors import InvalidConfiguration, StoreError

MAGIC = b"SANCREDIT COW\0\0\0"
VERSION = 1

HEADER = c.Struct(
    "magic" / c.Const(MAGIC),
    "version" / c.Int32ub,
    "granule_bytes" / c.Int32ub,
    "size_bytes" / c.Int64ub,
    "origin_mtime_ns" / c.Int64ub,
)
"""The beginning of the file. One byte for each granule follows: 1 when it is in the overlay."""


class SnapshotRecord:
    """The file beside an overlay. Its bytes follow the overlay's: a granule is recorded when its data are safe there.

    One process at a time has it open (flock(2)).
    """

    def __init__(
        self, path: Path | str, *, size_bytes: int, granule_bytes: int, origin_mtime_ns: int
    ) -> None:
        """Open the record of a snapshot, or begin one. `origin_mtime_ns`: when the origin last changed; 0: unknown.

        Raises StoreError for a file that cannot be used, InvalidConfiguration for one that belongs to another origin.
        """
        self.path = Path(path)
        self._granules = -(-size_bytes // granule_bytes)
        wanted: dict[str, bytes | int] = {
            "magic": MAGIC,
            "version": VERSION,
            "granule_bytes": granule_bytes,
            "size_bytes": size_bytes,
            "origin_mtime_ns": origin_mtime_ns,
        }
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"cannot open {self.path}: {error.strerror}") from None
        try:
            self._lock()
            self._check(wanted)
        except BaseException:
            os.close(self._fd)
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreError(f"{self.path} is in use: another process serves this snapshot") from None

    def _check(self, wanted: dict[str, bytes | int]) -> None:
        found = os.pread(self._fd, HEADER.sizeof(), 0)
        if not found:
            os.ftruncate(self._fd, HEADER.sizeof() + self._granules)
            os.pwrite(self._fd, HEADER.build(wanted), 0)
            return
        try:
            header = HEADER.parse(found)
        except c.ConstructError:
            raise InvalidConfiguration(f"{self.path} is no record of a snapshot") from None
        if header.origin_mtime_ns != wanted["origin_mtime_ns"]:
            raise InvalidConfiguration(
                f"{self.path}: the origin has changed since the snapshot was made; remove the overlay and its record"
            )
        length = HEADER.sizeof() + self._granules
        for name in ("version", "granule_bytes", "size_bytes"):
            if header[name] != wanted[name]:
                raise InvalidConfiguration(
                    f"{self.path} belongs to another origin: {name} is {header[name]}, not {wanted[name]!r}"
                )
        if os.fstat(self._fd).st_size != length:
            raise InvalidConfiguration(f"{self.path} is damaged: it should have {length} bytes")

    def load(self) -> bytearray:
        """One byte for each granule."""
        with open(self._fd, "rb", closefd=False) as file:
            file.seek(HEADER.sizeof())
            return bytearray(file.read(self._granules))

    def add(self, granules: Iterable[int]) -> None:
        """These are in the overlay, durably. Raises StoreError."""
        self._change([(granule, granule + 1) for granule in granules], b"\1")

    def clear(self) -> None:
        """None is any more, durably. Raises StoreError."""
        self._change([(0, self._granules)], b"\0")

    def _change(self, runs: list[tuple[int, int]], mark: bytes) -> None:
        try:
            for first, last in runs:
                os.pwrite(self._fd, mark * (last - first), HEADER.sizeof() + first)
            os.fdatasync(self._fd)
        except OSError as error:
            raise StoreError(f"writing {self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Let go of the file. Closing twice is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
