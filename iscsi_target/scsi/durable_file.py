# SPDX-License-Identifier: Apache-2.0
"""Small files that a power loss finds whole: old or new, never half."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


def replace_file(path: Path, text: str) -> None:
    """Make `text` the content of a file: written beside, synced, renamed, and the directory synced. Raises OSError."""
    beside = path.with_name(path.name + ".new")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    _sync_directory(path.parent)


def read_json(path: Path, most_bytes: int, format_: int) -> dict[str, Any] | None:
    """The object in a JSON file, whose ``format`` is `format_`; None: there is no file.

    Raises OSError, and ValueError, LookupError or RecursionError for what is no such object.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(most_bytes + 1)
    except FileNotFoundError:
        return None
    if len(raw) > most_bytes:
        raise ValueError("too long")
    document = json.loads(raw)
    if not isinstance(document, dict) or document["format"] != format_:
        raise ValueError("its format is not known")
    return document


def remove_file(path: Path) -> None:
    """Remove a file for good, if it is there. Raises OSError."""
    with suppress(FileNotFoundError):
        path.unlink()
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
