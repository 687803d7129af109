"""``sancredit lio`` for a user without rights: a real one, whom the system itself refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

DESCRIPTION = '[[target]]\niqn = "iqn.2003-10.example.test:one"\n[[target.lun]]\nstore = "8MiB"\n'

#: Whatever is imported late is imported by root, who may read this tree wherever it lies; then root is given up.
AS_NOBODY = """
import contextlib, io, json, os, sys
from mgmt.cli.main import main
runs = json.loads(sys.argv[1])
def run(words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(words)
        except SystemExit as end:
            status = end.code
    return status, out.getvalue(), err.getvalue()
for words in runs:
    run([word.replace("/theirs/", "/warm/").replace("/open/", "/warm/") for word in words])
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(json.dumps([run(words) for words in runs]))
"""


@pytest.fixture
def place():
    """A directory that everybody may enter, with one in it that nobody but its owner, or root, may."""
    with tempfile.TemporaryDirectory() as text:
        top = Path(text)
        top.chmod(0o755)
        (top / "target.toml").write_text(DESCRIPTION)
        (top / "target.toml").chmod(0o644)
        (top / "theirs").mkdir(mode=0o700)
        (top / "theirs/lio.json").write_text("{}")
        (top / "open").mkdir()
        (top / "open").chmod(0o777)
        if os.geteuid() != 0:
            (top / "theirs").chmod(0)
        yield top
        (top / "theirs").chmod(0o700)


def test_who_is_not_root_is_told_so_in_one_line_and_nothing_is_touched(place):
    state = ("--state", str(place / "theirs/lio.json"), "--configfs", str(place / "none/target"))
    file = str(place / "target.toml")
    mine = ("--state", str(place / "open/lio.json"), "--configfs", str(place / "none/target"))
    runs = {
        ("plan", file, *state): "only its owner may read it; run it as root",
        ("apply", file, *state): "only root may configure the kernel's target; run it as root",
        ("clear", *state): "only root may configure the kernel's target; run it as root",
        ("status", *state): "only its owner may read it; run it as root",
        ("apply", file, *mine): "only root may configure the kernel's target; run it as root",
    }
    words = json.dumps([["lio", *words] for words in runs])
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, words], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    for (status, _out, said), complaint in zip(json.loads(done.stdout), runs.values(), strict=True):
        assert (status, said.count("\n")) == (1, 1), said
        assert complaint in said
    assert [path.name for path in (place / "open").iterdir()] == ["lio.json.lock"]
    (place / "theirs").chmod(0o700)
    assert [path.name for path in (place / "theirs").iterdir()] == ["lio.json"]
