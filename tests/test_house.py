"""The house itself: it can be built, carried elsewhere and run there, and it names nobody's machine."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("credits", "fcsim", "iscsi_target", "mgmt", "tools")


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout, so there is no list of the project's own files")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def test_no_file_names_a_path_of_one_machine() -> None:
    forbidden = re.compile(r"(^|[^.\w])/" + r"(work|farm|root|home/\w+)/", re.MULTILINE)
    guilty = []
    for path in tracked_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        if forbidden.search(text):
            guilty.append(str(path.relative_to(ROOT)))
    assert guilty == []


def test_no_module_has_outgrown_its_house() -> None:
    long = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in tracked_files()
        if path.suffix == ".py" and path.parts[len(ROOT.parts)] in PACKAGES
    }
    assert {name: lines for name, lines in long.items() if lines > 600} == {}


def test_every_package_says_what_it_is() -> None:
    for path in tracked_files():
        if path.name == "__init__.py" and path.parts[len(ROOT.parts)] in PACKAGES:
            assert ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_wheel_and_an_sdist_build_install_in_a_clean_environment_and_run(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in tracked_files():
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        copy.chmod(path.stat().st_mode)
    dist = tmp_path / "dist"
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(source)], cwd=tmp_path)
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    assert {f"{package}/py.typed" for package in PACKAGES} <= inside
    assert not any(name.startswith("tests/") for name in inside)
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("/setup.cfg") for name in archive.getnames())

    clean = tmp_path / "clean"
    run([sys.executable, "-m", "venv", str(clean)], cwd=tmp_path)
    constraints = ["-c", str(ROOT / "constraints.txt")]
    run([str(clean / "bin/pip"), "install", "-q", *constraints, str(wheel)], cwd=tmp_path)
    sancredit = str(clean / "bin/sancredit")
    assert "sancredit" in run([sancredit, "--version"], cwd=tmp_path)
    channel = ["--bandwidth", "100Mbit", "--rtt", "20ms", "--sessions", "2", "--connections", "3"]
    answer = run([sancredit, "recommend", *channel, "-o", "json"], cwd=tmp_path)
    assert json.loads(answer)["bytes"] == 1_500_000


def run(command: list[str], cwd: Path) -> str:
    """The command's standard output; the test fails with its standard error."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    return done.stdout


def test_the_generated_pages_are_what_would_be_generated_now() -> None:
    # A process of its own: what other tests set up in this one must not show in the help texts.
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-m", "tools.pages", "--check"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
