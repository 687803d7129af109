# SPDX-License-Identifier: Apache-2.0
"""What a sanitize operation is to do, and where it is written down while it is not done: a power loss ends the process
and not the operation (SBC-3 4.11.1)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from iscsi_target.scsi.durable_file import read_json, remove_file, replace_file
from iscsi_target.scsi.errors import StoreError

_FORMAT = 1
_MAX_FILE_BYTES = 64 << 10
_MAX_PATTERN_BYTES = 4096
_MAX_PASSES = 31


@dataclass(frozen=True, slots=True)
class SanitizePlan:
    """One sanitize operation: overwriting with a pattern, or without one deallocating.

    `pattern` is repeated within each block, `passes` times over the medium, with `invert` inverted in turn.
    `unrestricted` is the AUSE bit: EXIT FAILURE MODE is allowed when it failed.
    """

    pattern: bytes = b""
    passes: int = 1
    invert: bool = False
    unrestricted: bool = False

    def __post_init__(self) -> None:
        if len(self.pattern) > _MAX_PATTERN_BYTES or not 1 <= self.passes <= _MAX_PASSES:
            raise ValueError(f"no pattern of {len(self.pattern)} bytes is written {self.passes} times")


class SanitizeMemory(Protocol):
    """Remembers the sanitize operation that one logical unit has not finished."""

    def load(self) -> SanitizePlan | None:
        """The operation that was begun and not finished, or None. Raises StoreError."""
        ...

    def save(self, plan: SanitizePlan | None) -> None:
        """An operation begins, or with None is done. Durable when this returns; StoreError when it cannot be."""
        ...


class SanitizeFile:
    """One JSON file, there only while an operation is not finished."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> SanitizePlan | None:
        """Read the file; StoreError when it is damaged or of a newer format, so that no operation is lost unseen."""
        try:
            document = read_json(self.path, _MAX_FILE_BYTES, _FORMAT)
            if document is None:
                return None
            return SanitizePlan(
                pattern=bytes.fromhex(document["pattern"]),
                passes=int(document["passes"]),
                invert=bool(document["invert"]),
                unrestricted=bool(document["unrestricted"]),
            )
        except OSError as error:
            raise StoreError(f"cannot read {self.path}: {error.strerror}") from None
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise StoreError(
                f"{self.path} holds no sanitize operation this version can read: {error}"
            ) from None

    def save(self, plan: SanitizePlan | None) -> None:
        """Replace or remove the file."""
        try:
            if plan is None:
                remove_file(self.path)
                return
            document = {
                "format": _FORMAT,
                "pattern": plan.pattern.hex(),
                "passes": plan.passes,
                "invert": plan.invert,
                "unrestricted": plan.unrestricted,
            }
            replace_file(self.path, json.dumps(document))
        except OSError as error:
            raise StoreError(
                f"cannot write down a sanitize operation in {self.path}: {error.strerror}"
            ) from None
