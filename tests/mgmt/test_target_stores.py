"""The stores that a target's configuration file names."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgmt.target.configuration import load


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("64MiB", "64MiB"),
        ("null:1GiB", "null:1GiB"),
        ("disk", "{here}/disk"),
        ("/abs/disk", "/abs/disk"),
        ("snapshot:disk", "snapshot:{here}/disk"),
        ("snapshot:disk,overlay=changes", "snapshot:{here}/disk,overlay={here}/changes"),
        ("snapshot:/abs/disk,overlay=/abs/changes", "snapshot:/abs/disk,overlay=/abs/changes"),
        ("direct:disk", "direct:{here}/disk"),
    ],
)
def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path, written: str, meant: str) -> None:
    file = tmp_path / "target.toml"
    file.write_text(f'[[target]]\n[[target.lun]]\nstore = "{written}"\nsanitize_bytes_per_s = "8MiB"\n')
    config = load(file, Path.read_bytes)
    (lun,) = config.targets[0].luns
    assert lun.store == meant.format(here=tmp_path)
    assert lun.config is not None
    assert lun.config.sanitize_bytes_per_s == 8 << 20
