"""The demo's image: a real file system, or the user's file, never touched and never guessed at."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tools.demo import image as images

MIB = 1 << 20


@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="mkfs.ext4 missing: apt-get install e2fsprogs")
def test_the_default_image_is_a_file_system_that_fsck_accepts(tmp_path: Path) -> None:
    image = images.make(tmp_path / "volume.img", 8 * MIB)
    fsck = subprocess.run(["e2fsck", "-fn", str(image.path)], capture_output=True, text=True, check=False)
    assert fsck.returncode == 0, fsck.stdout
    assert "16 files" in image.description
    assert not (tmp_path / "volume.content").exists()


def test_without_mkfs_the_image_is_seeded_bytes_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images.shutil, "which", lambda *_args, **_kwargs: None)
    first = images.make(tmp_path / "a.img", MIB)
    second = images.make(tmp_path / "b.img", MIB)
    assert first.sha256 == second.sha256
    assert "apt-get install e2fsprogs" in first.description


@pytest.mark.parametrize("size", [1, 511, 512, 513, 100_000])
def test_a_users_image_is_copied_whole_and_padded_to_blocks(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    source = tmp_path / "mine.bin"
    source.write_bytes(content[:size])
    image = images.from_file(source, tmp_path / "volume.img")
    assert image.sha256 == hashlib.sha256(content[:size]).hexdigest()
    assert image.volume_bytes % images.BLOCK_BYTES == 0
    copied = image.path.read_bytes()
    assert copied[:size] == content[:size]
    assert copied[size:] == bytes(image.volume_bytes - size)
    assert source.read_bytes() == content[:size]


def test_an_image_that_is_missing_empty_or_a_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("missing", "empty", "."):
        with pytest.raises(images.ImageError) as caught:
            images.check_source(tmp_path / name)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_disk_without_room_for_both_volumes_is_refused_beforehand(tmp_path: Path) -> None:
    with pytest.raises(images.ImageError, match="set TMPDIR to a larger disk"):
        images.check_room(tmp_path, 1 << 60)


def test_the_digest_covers_exactly_the_bytes_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 3 * MIB)
    assert images.digest(path, 2 * MIB + 1) == hashlib.sha256(b"a" * (2 * MIB + 1)).hexdigest()
