# SPDX-License-Identifier: Apache-2.0
"""What we have made in the kernel, written down before it is made; and the one lock around a run.

The file lives where a reboot clears it, as it does configfs. It has the last description too, secrets and all, and so
only its owner may read it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from iscsi_target.lio.errors import KernelUnavailable, LioError
from iscsi_target.lio.nodes import Key, Kind

DEFAULT = Path("/run/sancredit/lio.json")
_FORMAT = 1
_LARGEST_BYTES = 256 << 20


class Record:
    """The file at `path`, as it was when the record was opened and as this run changes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made: dict[Key, None] = {}
        self.originals: dict[tuple[Key, str], str] = {}
        """Settings of things that are not ours, as they were before the first run changed them."""
        self.description: dict[str, Any] | None = None
        """The last one applied, in the form of a saveconfig file."""
        self._load()

    def _load(self) -> None:
        try:
            with self.path.open("rb") as file:
                document = json.loads(file.read(_LARGEST_BYTES))
            if document["format"] != _FORMAT:
                raise ValueError("its format is not known")
            self.made = {Key(Kind[kind], tuple(path)): None for kind, *path in document["made"]}
            self.originals = {
                (Key(Kind[kind], tuple(path)), name): value
                for (kind, *path), name, value in document["originals"]
            }
            self.description = document["description"]
        except FileNotFoundError:
            return
        except PermissionError:
            raise KernelUnavailable(
                f"{self.path} says what sancredit has made here, and only its owner may read it",
                "run it as root",
            ) from None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise LioError(
                f"{self.path} does not say what was made here ({error}): remove it, and what it was for stays in the"
                " kernel"
            ) from None

    def save(self) -> None:
        """Write it down, whole or not at all. Raises :class:`KernelUnavailable` where that cannot be."""
        document = {
            "format": _FORMAT,
            "made": [[key.kind.name, *key.path] for key in self.made],
            "originals": [
                [[key.kind.name, *key.path], name, value] for (key, name), value in self.originals.items()
            ],
            "description": self.description,
        }
        beside = self.path.with_name(f"{self.path.name}.new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            beside.unlink(missing_ok=True)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(document, file)
            beside.replace(self.path)
        except OSError as error:
            raise _unwritable(self.path, error) from None

    def add(self, keys: Iterable[Key]) -> None:
        """These are ours, or about to be."""
        self.made.update(dict.fromkeys(keys))

    def drop(self, keys: Iterable[Key]) -> None:
        """These are no longer there."""
        for key in keys:
            self.made.pop(key, None)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One run at a time: configfs has no transactions, and rtslib no lock. Raises KernelUnavailable."""
    lock = path.with_name(f"{path.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Who may open it may hold it, and with that every run up: it is its owner's alone.
        file = os.fdopen(os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "w")
    except OSError as error:
        raise _unwritable(lock, error) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _unwritable(path: Path, error: OSError) -> KernelUnavailable:
    if isinstance(error, PermissionError) and os.geteuid() != 0:
        return KernelUnavailable(f"{path}: only root may configure the kernel's target", "run it as root")
    return KernelUnavailable(f"{path}: {(error.strerror or '').lower()}", "say where with --state")
