"""Volumes in real files: created sparse, opened, digested; and what is said of files that cannot be used."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from iscsi_target.scsi.errors import StoreError
from mgmt.array.description import VolumeConfig
from mgmt.array.volumes import VolumeError, open_volumes

MIB = 1 << 20


def test_a_missing_file_with_a_size_is_created_sparse(tmp_path: Path) -> None:
    path = tmp_path / "new.img"
    volumes = open_volumes([VolumeConfig("vol0", path, 64 * MIB)])
    assert path.stat().st_size == 64 * MIB
    assert path.stat().st_blocks == 0
    volumes.close()


def test_volumes_keep_their_order_as_logical_unit_numbers(tmp_path: Path) -> None:
    configs = [VolumeConfig(name, tmp_path / name, MIB) for name in ("b", "a", "c")]
    volumes = open_volumes(configs)
    assert [(volume.name, volume.lun) for volume in volumes] == [("b", 0), ("a", 1), ("c", 2)]
    assert volumes.get("d") is None
    assert volumes.names() == "b, a, c"
    volumes.close()


@pytest.mark.parametrize("size_bytes", [512, MIB, 2 * MIB + 512])
def test_the_digest_is_that_of_the_file(tmp_path: Path, size_bytes: int) -> None:
    path = tmp_path / "a.img"
    path.write_bytes(os.urandom(size_bytes))
    volumes = open_volumes([VolumeConfig("vol0", path)])
    volume = volumes.get("vol0")
    assert volume is not None
    assert volume.digest() == hashlib.sha256(path.read_bytes()).hexdigest()
    volumes.close()


def test_the_digest_of_a_volume_whose_file_shrank_is_an_error_or_zeros_but_never_old_bytes(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.img"
    path.write_bytes(b"x" * MIB)
    volumes = open_volumes([VolumeConfig("vol0", path)])
    os.truncate(path, 0)
    volume = volumes.get("vol0")
    assert volume is not None
    try:
        digest = volume.digest()
    except StoreError:
        digest = ""
    assert digest != hashlib.sha256(b"x" * MIB).hexdigest()
    volumes.close()


@pytest.mark.parametrize(
    ("content", "size_bytes", "line"),
    [
        (None, None, "No such file or directory"),
        (b"", None, "is empty"),
        (b"x" * 700, None, "not a multiple of the 512-byte block"),
        (b"x" * 512, 1024, "has 512 bytes, not 1024"),
    ],
)
def test_a_file_that_cannot_be_used_gets_one_line(
    tmp_path: Path, content: bytes | None, size_bytes: int | None, line: str
) -> None:
    path = tmp_path / "a.img"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VolumeError) as refusal:
        open_volumes([VolumeConfig("vol0", path, size_bytes)])
    assert line in str(refusal.value)
    assert str(refusal.value).startswith("volume vol0: ")
    assert "\n" not in str(refusal.value)


def test_a_directory_is_no_volume(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="directory"):
        open_volumes([VolumeConfig("vol0", tmp_path)])


def test_nothing_stays_open_when_one_of_several_fails(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    good = VolumeConfig("good", tmp_path / "good.img", MIB)
    with pytest.raises(VolumeError):
        open_volumes([good, VolumeConfig("bad", tmp_path / "missing.img")])
    assert len(list(Path("/proc/self/fd").iterdir())) == before
