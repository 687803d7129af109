"""Debian's packages without installing any: resolved as on an empty machine, downloaded into a cache, unpacked."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from tools.lab.errors import LabFailed, LabUnavailable

_TOOLS = {"apt-get": "apt", "apt-cache": "apt", "dpkg-deb": "dpkg"}
_DOWNLOAD_S = 420.0
"""For all that apt is asked. Whoever waits for a test's guest is told before the test's own time is over."""


class Packages:
    """The Debian archive as this machine's apt knows it; needs no root: ``directory`` holds all that apt writes."""

    def __init__(self, directory: Path) -> None:
        """Raises :class:`LabUnavailable` where there is no apt."""
        missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
        if missing:
            raise LabUnavailable(
                f"the lab is built from Debian's packages, and there is no {missing[0]} here",
                "run it on Debian, or copy ~/.cache/sancredit/lab from a machine that has built it",
            )
        self.archive = directory / "debs"
        self._lists = directory / "apt-lists"
        self._empty = directory / "apt-empty"
        for path in (self.archive, self._lists / "partial", self._empty / "partial"):
            path.mkdir(parents=True, exist_ok=True)
        self._private = False
        self._deadline = 0.0

    def _options(self) -> list[str]:
        """apt names only what its cache lacks, so the cache stays empty; an empty status makes it name everything."""
        options = {
            "Dir::State::status": "/dev/null",
            "Dir::Cache::archives": str(self._empty),
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "APT::Sandbox::User": "",
            "Debug::NoLocking": "1",
            "APT::Install-Recommends": "false",
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "Acquire::Retries": "2",
        }
        if self._private:
            options["Dir::State::lists"] = str(self._lists)
        return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]

    def _apt(self, *arguments: str, cwd: Path | None = None) -> str:
        try:
            done = subprocess.run(
                ["apt-get", "-qq", "-y", *self._options(), *arguments],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=max(1.0, self._deadline - time.monotonic()),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LabFailed(f"they have not come within {_DOWNLOAD_S:g} s") from None
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("E:")]
            raise LabFailed(lines[0].removeprefix("E: ") if lines else "apt-get failed")
        return done.stdout

    def download(self, names: Sequence[str], unwanted: Sequence[str], meta: str) -> tuple[list[Path], Path]:
        """The .deb files of ``names`` with all that they need, and the kernel that ``meta`` stands for, alone.

        Lists that are old or not there are fetched anew, into a place of our own. Raises :class:`LabUnavailable`.
        """
        self._deadline = time.monotonic() + _DOWNLOAD_S
        try:
            return self._download(names, unwanted, meta)
        except LabFailed:
            self._private = True
        try:
            self._apt("update")
            return self._download(names, unwanted, meta)
        except LabFailed as error:
            raise LabUnavailable(
                f"Debian's packages cannot be had: {error}",
                "look at the mirror in /etc/apt, and at the network",
            ) from None

    def _download(self, names: Sequence[str], unwanted: Sequence[str], meta: str) -> tuple[list[Path], Path]:
        kernel = self._kernel_of(meta)
        image = [file for file in self._files(kernel) if file.startswith(f"{kernel}_")]
        wanted = [
            file for file in self._files(*names) if not _matches(file.partition("_")[0], unwanted)
        ] + image
        if not image or len(wanted) < len(names):
            raise LabFailed("apt-get does not name the packages")
        lacking = [file.partition("_")[0] for file in wanted if not (self.archive / file).exists()]
        if lacking:
            self._apt("download", *lacking, cwd=self.archive)
        paths = [self.archive / file for file in wanted]
        gone = [path.name for path in paths if not path.exists()]
        if gone:
            raise LabFailed(f"apt-get did not bring {gone[0]}")
        return paths[:-1], paths[-1]

    def _files(self, *names: str) -> list[str]:
        """The files that an installation of ``names`` would fetch, in apt's order."""
        lines = self._apt("--print-uris", "install", *names).splitlines()
        return [line.split()[1] for line in lines if line.startswith("'")]

    def _kernel_of(self, meta: str) -> str:
        """The package that ``meta`` stands for at present, such as linux-image-6.1.0-50-amd64."""
        done = subprocess.run(
            ["apt-cache", *self._options(), "depends", meta], capture_output=True, text=True, check=False
        )
        found = re.search(r"Depends: (linux-image-\S+)", done.stdout)
        if found is None:
            raise LabFailed(f"apt knows no {meta}: the lab needs the packages of Debian 12 or later")
        return found.group(1)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def unpack(package: Path, into: Path, left_out: Sequence[str] = ()) -> None:
    """The files of a .deb, in a tree whose /bin, /lib and /sbin are links into /usr; no maintainer script runs."""
    reader = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
    excludes = [f"--exclude={pattern}" for pattern in left_out]
    written = subprocess.run(
        ["tar", "-x", "-C", str(into), "--keep-directory-symlink", "--no-same-owner", *excludes],
        stdin=reader.stdout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert reader.stdout is not None
    reader.stdout.close()
    if reader.wait() or written.returncode:
        raise LabFailed(f"cannot unpack {package.name}: {written.stderr.strip()[:200]}")
