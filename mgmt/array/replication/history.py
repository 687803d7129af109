"""What has become of the copies of an array, kept over its restarts.

One small JSON file in the state directory, replaced as a whole; a copy that was running when the array ended is found
as failed afterwards, with how far it had come. Blocking: never called on the data loop.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mgmt.array.replication.job import State
from mgmt.messages import BadMessage, CopyStatus, from_plain, to_plain

#: The largest file that is read: many times what the copies that are remembered need.
_FILE_LIMIT_BYTES = 4 * 1024 * 1024


class HistoryError(Exception):
    """The file cannot be read; one line with what to do."""


class CopyHistory:
    """The file at ``file``; nothing is kept where it is ``None``. Thread-safe."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._written = b""
        self._kept: frozenset[str] = frozenset()
        self._complained = False

    def load(self) -> list[CopyStatus]:
        """The copies of earlier runs, oldest first; all of them are over. Raises :class:`HistoryError`."""
        if self._file is None:
            return []
        try:
            with self._file.open("rb") as opened:
                data = opened.read(_FILE_LIMIT_BYTES + 1)
            if len(data) > _FILE_LIMIT_BYTES:
                raise BadMessage("it is too long")
            rows = json.loads(data)
            if not isinstance(rows, list):
                raise BadMessage("it is no list")
            return [_ended(from_plain(CopyStatus, row, "copy")) for row in rows]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, RecursionError, BadMessage) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise HistoryError(f"cannot read the copies in {self._file}: {reason}; move it away") from error

    def knows(self, copy_id: str) -> bool:
        """Whether the copy is written down, or nothing is ever kept."""
        return self._file is None or copy_id in self._kept

    def save(self, copies: Sequence[CopyStatus]) -> None:
        """Write ``copies``, unless that is what the file has. What cannot be written is said once on stderr."""
        if self._file is None:
            return
        data = json.dumps([to_plain(status) for status in copies], indent=1).encode()
        with self._lock:
            if data == self._written:
                return
            try:
                _replace(self._file, data)
            except OSError as error:
                if not self._complained:
                    sys.stderr.write(f"sancredit: cannot keep the copies in {self._file}: {error.strerror}\n")
                self._complained = True
                return
            self._written, self._complained = data, False
            self._kept = frozenset(status.copy_id for status in copies)


def _ended(status: CopyStatus) -> CopyStatus:
    """A copy of a run that is over: nothing is in flight, and one that had not ended was interrupted."""
    if status.state in {state.value for state in State if state.final}:
        return replace(status, in_flight_bytes=0, reserved_bytes=0)
    return replace(
        status,
        state=State.FAILED.value,
        in_flight_bytes=0,
        reserved_bytes=0,
        error=f"interrupted at {status.acknowledged_bytes} of {status.total_bytes} bytes, when the array stopped; "
        "start the copy again",
    )


def _replace(file: Path, data: bytes) -> None:
    new = file.with_suffix(".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
    new.replace(file)
