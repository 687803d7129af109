"""A real PostgreSQL for tests: started as a user that is not root, on a Unix socket of its own, without syncing."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from mgmt.station.store import Store, open_store

PASSWORD = "for this test run alone"
_USERS = ("postgres", "nobody")
#: A server that has not started or ended by then never does: below the time-out of a test, whose end would hide why.
START_S = 100
_FAST = (
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=off",
    "shared_buffers=16MB",
    "listen_addresses=",
)


def binaries() -> Path:
    """The newest PostgreSQL that Debian has installed; skips with the fix where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if not found:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    return found[-1].parent


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL: make databases in it."""

    directory: Path
    process: subprocess.Popen[bytes]

    def url(self, name: str, *, password: bool = False) -> str:
        secret = f":{PASSWORD.replace(' ', '%20')}" if password else ""
        return f"postgresql://station{secret}@/{name}?host={self.directory}"

    def make_database(self) -> str:
        """The name of a new, empty database."""
        name = f"t{uuid.uuid4().hex[:16]}"
        with psycopg.connect(
            host=str(self.directory), user="station", password=PASSWORD, dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return name


@contextmanager
def server() -> Iterator[Server]:
    """A PostgreSQL until the block ends; nothing of it is left."""
    programs = binaries()
    directory = Path(tempfile.mkdtemp(prefix="sancredit-pg-"))
    try:
        as_user = _as_user(directory)
        (directory / "password").write_text(PASSWORD)
        command: list[str | Path] = [
            programs / "initdb",
            "-D",
            directory / "data",
            "-U",
            "station",
            "--no-sync",
        ]
        command += ["--auth=scram-sha-256", f"--pwfile={directory / 'password'}", "-E", "UTF8", "--locale=C"]
        made = subprocess.run([*as_user, *command], capture_output=True, text=True, check=False, cwd="/")
        assert made.returncode == 0, made.stderr
        options = [word for setting in _FAST for word in ("-c", setting)]
        serve: list[str | Path] = [programs / "postgres", "-D", directory / "data", "-k", directory, *options]
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen([*as_user, *serve], stdout=log, stderr=log, cwd="/")
        try:
            _wait(directory, process)
            yield Server(directory, process)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(START_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
    finally:
        shutil.rmtree(directory)


def _as_user(directory: Path) -> list[str]:
    """What runs a program as somebody who is not root, which PostgreSQL insists on; the directory becomes theirs."""
    if os.geteuid() != 0:
        return []
    for name in _USERS:
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(directory, user.pw_uid, user.pw_gid)
        return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")


def _wait(directory: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            psycopg.connect(host=str(directory), user="station", password=PASSWORD, dbname="postgres").close()
            return
        except psycopg.OperationalError:
            assert process.poll() is None, (directory / "log").read_text()
            time.sleep(0.05)
    pytest.fail(f"PostgreSQL did not start in {START_S} s: " + (directory / "log").read_text())


#: Opens the store of a test, again and again the same.
Opener = Callable[[], Store]


def opener(kind: str, directory: Path, running: Callable[[], Server]) -> Opener:
    """How a test opens its store in SQLite or PostgreSQL."""
    if kind == "sqlite":
        return lambda: open_store(directory / "state")
    at = running()
    name = at.make_database()
    return lambda: open_store(None, at.url(name), password=PASSWORD)
