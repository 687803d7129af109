# SPDX-License-Identifier: Apache-2.0
"""From what a user types for a LUN to a store: a size is thin memory, a path is a file or block device."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

from iscsi_target.scsi.errors import InvalidConfiguration, StoreError
from iscsi_target.scsi.stores.file import BlockDeviceStore, FileStore
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.stores.null import NullStore
from iscsi_target.scsi.stores.snapshot import GRANULE_BYTES, SnapshotStore
from iscsi_target.scsi.stores.snapshot_record import SnapshotRecord
from iscsi_target.scsi.stores.store import BackingStore

_UNITS = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_SIZE = re.compile(r"(\d{1,19})\s*([A-Za-z]*)\Z", re.ASCII)
MAX_SIZE_BYTES = 1 << 62


def parse_size(text: str) -> int | None:
    """Bytes for "64MiB", "1 GB" or "4096"; None when the text is no size; InvalidConfiguration for 0 or too much."""
    match = _SIZE.match(text)
    if match is None or match[2] not in _UNITS:
        return None
    size = int(match[1]) * _UNITS[match[2]]
    if not 0 < size <= MAX_SIZE_BYTES:
        raise InvalidConfiguration(f"size {text!r} is not 1 byte to {MAX_SIZE_BYTES} bytes")
    return size


def open_store(description: str, *, read_only: bool = False, direct: bool = False) -> BackingStore:
    """Open what `description` names: a size, "null:SIZE", "snapshot:PATH", "snapshot:PATH,overlay=FILE", the path of a
    file or block device, or "direct:PATH" to go past the page cache (O_DIRECT), as with `direct`.

    A snapshot leaves the file as it is, and keeps its changes in thin memory, or in the overlay FILE, which is made
    where it is missing (FILE.record says what it holds; remove both to roll back while nobody serves it). A name that
    looks like a size is a path when written with a slash ("./64MiB").
    """
    kind, _, rest = description.partition(":")
    if kind == "null" and rest:
        size = parse_size(rest)
        if size is None:
            raise InvalidConfiguration(f"{description!r}: after null: comes a size such as 64MiB")
        return NullStore(size)
    if kind == "direct" and rest:
        return open_store(rest, read_only=read_only, direct=True)
    if kind == "snapshot" and rest:
        source, _, overlay = rest.rpartition(",overlay=")
        if source and overlay:
            return _snapshot_in_files(source, Path(overlay), direct=direct)
        origin = open_store(rest, read_only=True, direct=direct)
        return SnapshotStore(origin, MemoryStore(origin.size_bytes))
    size = parse_size(description)
    if size is not None:
        return MemoryStore(size)
    path = Path(description)
    try:
        if path.is_block_device():
            return BlockDeviceStore(path, read_only=read_only, direct=direct)
        if path.is_file():
            return FileStore(path, read_only=read_only, direct=direct)
        missing = not path.exists()
    except OSError as error:
        raise StoreError(f"cannot look at {path}: {error.strerror}") from None
    if missing:
        raise StoreError(f"{path} does not exist, and is no size such as 64MiB")
    raise InvalidConfiguration(f"{path} is neither a regular file nor a block device")


def _snapshot_in_files(description: str, overlay_path: Path, *, direct: bool) -> BackingStore:
    """A snapshot whose overlay lives in a file, and its record beside that."""
    with ExitStack() as opened:
        origin = open_store(description, read_only=True, direct=direct)
        opened.callback(origin.close)
        path = Path(description)
        record = SnapshotRecord(
            overlay_path.with_name(overlay_path.name + ".record"),
            size_bytes=origin.size_bytes,
            granule_bytes=GRANULE_BYTES,
            origin_mtime_ns=path.stat().st_mtime_ns if path.is_file() else 0,
        )
        opened.callback(record.close)
        overlay = FileStore(overlay_path, origin.size_bytes, direct=direct)
        opened.callback(overlay.close)
        snapshot = SnapshotStore(origin, overlay, record)
        opened.pop_all()
    return snapshot
