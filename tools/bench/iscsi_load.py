"""Running the load: the libiscsi generator (compiled when needed), and our own initiator for data digests."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from tools.bench.iscsi_targets import MeasuredTarget, pin

_SOURCE = Path(__file__).resolve().parent / "load" / "iscsiload.c"
_FIX = "apt-get install gcc libc6-dev libiscsi-dev"


class LoadMissing(Exception):
    """A load generator is not to be had here; the text says why, with the fix."""


class LoadFailed(Exception):
    """A run ended with errors, wrong data, or not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One kind of load. ``reads_percent``: 100 reads only, 0 writes only."""

    block_bytes: int
    depth: int
    reads_percent: int = 100
    sequential: bool = False
    sessions: int = 1
    header_digest: bool = False
    data_digest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The figures of one run. CPU in percent of one core; ``foreign_cpu`` is what everybody else used meanwhile."""

    iops: float
    mbps: float
    p50_us: float
    p99_us: float
    max_us: float
    initiator_cpu: float
    target_cpu: float
    foreign_cpu: float = 0.0
    errors: int = 0
    wrong: int = 0
    retries: int = 0
    commands: int = 0
    least_session: int = 0
    most_session: int = 0
    mean_session: float = 0.0

    @property
    def iops_per_core(self) -> float:
        """Speed scaled to a target that has one core to itself: comparable on a busy machine."""
        return self.iops / max(self.target_cpu, 0.1) * 100


def median(runs: Sequence[Run]) -> Run:
    """The median of each figure by itself; errors are added up."""
    values = {
        field.name: statistics.median(getattr(run, field.name) for run in runs) for field in fields(Run)
    }
    values["errors"], values["wrong"] = sum(run.errors for run in runs), sum(run.wrong for run in runs)
    return Run(**values)


def compile_load(directory: Path) -> Path:
    """The libiscsi load generator, compiled into ``directory``. Raises :class:`LoadMissing`."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise LoadMissing(f"no C compiler for the load generator: {_FIX}")
    program = directory / "iscsiload"
    done = subprocess.run(
        [compiler, "-O2", "-o", str(program), str(_SOURCE), "-liscsi"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        if "iscsi/iscsi.h" in done.stderr or "-liscsi" in done.stderr:
            raise LoadMissing(f"libiscsi's header files are missing: {_FIX}")
        raise LoadMissing(f"the load generator does not compile: {done.stderr.strip().splitlines()[-1:]}")
    return program


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """Runs loads from one core. ``wait_s``: how long to wait for a quiet machine before each run."""

    program: Path | None
    core: int
    seconds: float
    warm_up: float = 0.3
    wait_s: float = 3.0

    def libiscsi(self, target: MeasuredTarget, load: Load, *more: str, seconds: float | None = None) -> Run:
        """One run of the libiscsi generator. Raises :class:`LoadMissing`, :class:`LoadFailed`."""
        if self.program is None:
            raise LoadMissing(f"the libiscsi load generator is not there: {_FIX}")
        mode = {100: "r", 0: "w"}.get(load.reads_percent, str(load.reads_percent))
        words = [
            str(self.program),
            "-s",
            str(load.sessions),
            "-q",
            str(load.depth),
            "-b",
            str(load.block_bytes),
        ]
        words += ["-m", mode, "-p", "seq" if load.sequential else "rand", "-P", str(target.pid)]
        words += ["-D", "hdr" if load.header_digest else "none", *more, target.url]
        return self._run(words, ("-t", "-w"), self.seconds if seconds is None else seconds)

    def own(self, target: MeasuredTarget, load: Load) -> Run:
        """One run of our own initiator. Raises :class:`LoadFailed`."""
        words = [
            sys.executable,
            "-m",
            "tools.bench.iscsi_own_load",
            target.host,
            str(target.port),
            target.iqn,
        ]
        words += [str(target.lun), "--pid", str(target.pid), "--depth", str(load.depth)]
        words += ["--bytes", str(load.block_bytes), "--sessions", str(load.sessions)]
        words += ["--write"] if load.reads_percent == 0 else []
        words += ["--header-digest"] if load.header_digest else []
        words += ["--data-digest"] if load.data_digest else []
        return self._run(words, ("--seconds", "--warm-up"), self.seconds)

    def _run(self, words: Sequence[str], timing: tuple[str, str], seconds: float) -> Run:
        command = [
            *pin(self.core),
            words[0],
            timing[0],
            str(seconds),
            timing[1],
            str(self.warm_up),
            *words[1:],
        ]
        if words[0] == sys.executable:
            command = [*pin(self.core), *words, timing[0], str(seconds), timing[1], str(self.warm_up)]
        self._wait_for_quiet()
        before, start = _busy_s(), time.monotonic()
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=seconds * 4 + 60
            )
        except subprocess.TimeoutExpired as expired:
            raise LoadFailed(f"no end within {expired.timeout:g} s") from None
        busy, elapsed = _busy_s() - before, time.monotonic() - start
        try:
            figures = json.loads(done.stdout)
        except ValueError:
            raise LoadFailed(f"exit {done.returncode}: {done.stderr.strip()[-300:]}") from None
        run = Run(**figures)
        if run.errors or run.wrong:
            raise LoadFailed(f"{run.errors} failed, {run.wrong} wrong: {done.stderr.strip()[-300:]}")
        ours = run.initiator_cpu + run.target_cpu
        return Run(**figures | {"foreign_cpu": max(0.0, busy / elapsed * 100 - ours)})

    def _wait_for_quiet(self) -> None:
        deadline = time.monotonic() + self.wait_s
        while time.monotonic() < deadline:
            before = _busy_s()
            time.sleep(0.2)
            if (_busy_s() - before) / 0.2 < 0.25:
                return


def _busy_s() -> float:
    """Seconds that all cores together have been busy since the start of the machine."""
    with Path("/proc/stat").open() as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / 100
