"""The newc form of a cpio archive, which the kernel unpacks as its initramfs."""

from __future__ import annotations

from pathlib import Path

_MAGIC = "070701"
_DIRECTORY, _FILE = 0o40000, 0o100000
_TRAILER = "TRAILER!!!"


def newc(top: Path) -> bytes:
    """All directories and plain files below ``top``, owned by root, with the modes they have."""
    out = bytearray()
    for number, path in enumerate(sorted(top.rglob("*")), start=1):
        name = path.relative_to(top).as_posix()
        if path.is_dir():
            _add(out, number, name, _DIRECTORY | 0o755, b"")
        else:
            _add(out, number, name, _FILE | (path.stat().st_mode & 0o777), path.read_bytes())
    _add(out, 0, _TRAILER, 0, b"")
    return bytes(out)


def _add(out: bytearray, number: int, name: str, mode: int, data: bytes) -> None:
    encoded = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    out += (_MAGIC + "".join(f"{field:08x}" for field in fields)).encode() + encoded
    out += b"\0" * (-len(out) % 4)
    out += data
    out += b"\0" * (-len(out) % 4)
