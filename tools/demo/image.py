"""The disk image that the demo copies: the user's file, or a real file system made on the spot."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

BLOCK_BYTES = 512
_MIB = 1 << 20
_SEED = 20031014  # the application's filing date


class ImageError(Exception):
    """The image cannot be used; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Image:
    """A volume file made from an image.

    ``size_bytes`` is the image's own length; the file at ``path`` is padded with zeros to a whole number of
    blocks. ``sha256`` is over the ``size_bytes``.
    """

    path: Path
    size_bytes: int
    sha256: str
    description: str

    @property
    def volume_bytes(self) -> int:
        """Length of the padded volume."""
        return -(-self.size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def digest(path: Path, size_bytes: int) -> str:
    """SHA-256 (hex) of the first ``size_bytes`` bytes of a file."""
    sha = hashlib.sha256()
    left = size_bytes
    with path.open("rb") as file:
        while left and (chunk := file.read(min(left, _MIB))):
            sha.update(chunk)
            left -= len(chunk)
    return sha.hexdigest()


def check_source(source: Path) -> int:
    """The size in bytes of a usable image; raises :class:`ImageError` before anything is started."""
    try:
        with source.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise ImageError(f"image {source}: {error.strerror}; name a readable file or block device") from error
    if size == 0:
        raise ImageError(f"image {source} is empty; name a file with at least one byte")
    return size


def check_room(directory: Path, size_bytes: int) -> None:
    """Both arrays' volumes must fit; raises :class:`ImageError` naming what is missing."""
    free = shutil.disk_usage(directory).free
    needed = 2 * size_bytes + 16 * _MIB
    if free < needed:
        raise ImageError(
            f"{directory} has {free // _MIB} MiB free, the two volumes need {needed // _MIB} MiB; "
            "set TMPDIR to a larger disk"
        )


def from_file(source: Path, target: Path) -> Image:
    """Copy the user's image to ``target``, so that nothing the demo does can touch the original."""
    size = check_source(source)
    check_room(target.parent, size)
    try:
        with source.open("rb") as reader, target.open("wb") as writer:
            shutil.copyfileobj(reader, writer, _MIB)
        return _finish(target, size, str(source))
    except OSError as error:
        raise ImageError(f"copying image {source} to {target}: {error.strerror}") from error


def make(target: Path, size_bytes: int) -> Image:
    """A real ext4 file system with files in it, or seeded random bytes where mkfs.ext4 is missing."""
    check_room(target.parent, size_bytes)
    mkfs = shutil.which("mkfs.ext4") or shutil.which("mkfs.ext4", path="/usr/sbin:/sbin")
    try:
        if mkfs is not None:
            description = _make_file_system(mkfs, target, size_bytes)
        else:
            description = f"random bytes, seed {_SEED} (mkfs.ext4 is missing: apt-get install e2fsprogs)"
            _fill(target, size_bytes, random.Random(_SEED))
        return _finish(target, size_bytes, description)
    except OSError as error:
        raise ImageError(f"making the image {target}: {error.strerror}") from error


def _make_file_system(mkfs: str, target: Path, size_bytes: int) -> str:
    content = target.with_suffix(".content")
    content.mkdir()
    try:
        rng = random.Random(_SEED)
        file_bytes = size_bytes * 8 // 10 // 16  # 16 files fill four fifths; the rest is metadata and room
        for number in range(16):
            _fill(content / f"volume-{number:02}.dat", file_bytes, rng)
        with target.open("wb") as file:
            file.truncate(size_bytes)
        command = [mkfs, "-q", "-F", "-O", "^has_journal", "-L", "sancredit", "-d", str(content), str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ImageError(f"mkfs.ext4 failed: {done.stderr.strip().splitlines()[-1:]}")
    finally:
        shutil.rmtree(content)
    return "an ext4 file system with 16 files"


def _fill(path: Path, size_bytes: int, rng: random.Random) -> None:
    with path.open("wb") as file:
        left = size_bytes
        while left:
            left -= file.write(rng.randbytes(min(left, _MIB)))


def _finish(path: Path, size_bytes: int, description: str) -> Image:
    image = Image(path, size_bytes, digest(path, size_bytes), description)
    with path.open("r+b") as file:
        file.truncate(image.volume_bytes)
    return image
