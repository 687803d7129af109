"""The iSCSI target under load and faults for a long time: ``python -m tools.bench.iscsi_soak [--seconds 1200]``.

``sancredit target serve`` with the fault rules of ``soak.toml``; libiscsi at error recovery level 0 on one LUN (which
makes lost sessions anew by itself) and our own initiator at level 2 with digests on the other, both checking every
byte. Ends after ``--seconds`` or ``--commands``, whichever comes first. Exit status 1 where a byte was wrong, a command
lost, memory not flat, or buffers and sessions were left over.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iscsi_target.errors import CommandFailed
from iscsi_target.initiator import Initiator
from tools.bench.iscsi_load import LoadMissing, compile_load
from tools.bench.iscsi_targets import MeasuredTarget, sancredit
from tools.bench.soak_load import VerifiedLoad

CONFIG = Path(__file__).resolve().parent / "soak.toml"
SECONDS, COMMANDS = 1200.0, 100_000_000
_GROWTH_PART, _GROWTH_LEAST_BYTES = 0.03, 3 << 20
_SAMPLES = 400
_FILL_BLOCKS = 512
_LONG_S = 60.0
"""From this time on every rule has to have fired, and memory has to be flat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakReport:
    """What a soak found. ``memory`` are samples of the target's private bytes."""

    seconds: float
    commands: int
    libiscsi: Mapping[str, Any] | None
    own_commands: int
    own_retries: Mapping[str, int]
    faults: Mapping[str, int]
    memory: Sequence[int]
    left_over: Mapping[str, float]
    complaints: Sequence[str] = field(default_factory=tuple)

    @property
    def memory_before(self) -> float:
        """Median of the second quarter of the time, when everything has been used once."""
        quarter = len(self.memory) // 4
        return statistics.median(self.memory[quarter : 2 * quarter])

    @property
    def memory_after(self) -> float:
        """Median of the last quarter."""
        return statistics.median(self.memory[-(len(self.memory) // 4) :])

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that is not as it has to be, one line each."""
        found = list(self.complaints)
        allowed = max(_GROWTH_PART * self.memory_before, _GROWTH_LEAST_BYTES)
        grown = self.memory_after - self.memory_before
        if grown > allowed and self.seconds >= _LONG_S:  # before that it is still warming up
            found.append(f"memory grew by {grown / 2**20:.1f} MiB; {allowed / 2**20:.1f} MiB are allowed")
        idle = [name for name, fired in self.faults.items() if not fired]
        if idle and (self.seconds >= _LONG_S or len(idle) == len(self.faults)):
            found += [f"rule {name} never fired" for name in idle]
        found += [
            f"left over at the end: {name} {value:g}" for name, value in self.left_over.items() if value
        ]
        return tuple(found)

    def as_text(self) -> str:
        """For people."""
        libiscsi = self.libiscsi or {}
        lines = [
            f"{self.commands:,} commands in {self.seconds:.0f} s ({self.commands / self.seconds:,.0f}/s):"
            f" {libiscsi.get('commands', 0):,} by libiscsi, {self.own_commands:,} by our own initiator",
            f"tried again: libiscsi {libiscsi.get('retries', 0)}, own {dict(self.own_retries)}",
            "faults: " + ", ".join(f"{name} {fired}" for name, fired in self.faults.items()),
            f"memory of the target: {self.memory_before / 2**20:.1f} MiB in the second quarter,"
            f" {self.memory_after / 2**20:.1f} MiB in the last one",
            *(f"PROBLEM: {text}" for text in self.problems),
        ]
        return "\n".join(lines) + "\n"


async def soak(seconds: float, commands: int, seed: int, directory: Path) -> SoakReport:
    """Run one; needs ``directory`` for logs and the compiled load."""
    try:
        program: Path | None = compile_load(directory)
    except LoadMissing as missing:
        sys.stderr.write(f"WITHOUT libiscsi: {missing}\n")
        program = None
    core = min(os.sched_getaffinity(0))
    options = ("--seed", str(seed), "--metrics", "127.0.0.1:0")
    with sancredit("soak", directory, core, 0, config=CONFIG, options=options) as target:
        metrics = _metrics_url(directory / "soak.log")
        await _fill(target)
        return await _load(target, metrics, program, seconds, commands, seed)


async def _fill(target: MeasuredTarget) -> None:
    """Write all of both LUNs, so that thin memory does not grow later; what is read after that is still zero."""
    async with await Initiator.login(target.host, target.port, target.iqn) as session:
        for lun in await session.report_luns():
            blocks, _ = await session.read_capacity(lun)
            lba = 0
            while lba < blocks:
                with suppress(CommandFailed):
                    await session.write(lun, lba, bytes(_FILL_BLOCKS * 512))
                    lba += _FILL_BLOCKS


async def _load(
    target: MeasuredTarget, metrics: str, program: Path | None, seconds: float, commands: int, seed: int
) -> SoakReport:
    own = VerifiedLoad(target.host, target.port, target.iqn, 1, sessions=2, depth=8, seed=seed)
    complaints: list[str] = []
    memory: list[int] = []
    start = time.monotonic()
    own_task = asyncio.create_task(own.run())
    libiscsi_task = asyncio.create_task(_libiscsi(program, target, seconds, commands, seed))
    pause = max(0.2, seconds / _SAMPLES)
    counted = 0.0
    while time.monotonic() - start < seconds and counted < commands and not own_task.done():
        await asyncio.sleep(pause)
        memory.append(target.resident_bytes())
        counted = (await asyncio.to_thread(_scrape, metrics)).commands
    own.stop()
    elapsed = time.monotonic() - start
    try:
        async with asyncio.timeout(120):
            await own_task
    except Exception as error:  # noqa: BLE001 - whatever it is, the report says it
        complaints.append(f"our own initiator: {type(error).__name__}: {error}")
    libiscsi, said = await libiscsi_task
    if said:
        complaints.append(f"libiscsi: {said}")
    if own.tally.wrong:
        complaints.append(f"{own.tally.wrong} blocks were wrong; the first: {own.tally.first_wrong}")
    await asyncio.sleep(1)  # the last acknowledgements
    after = await asyncio.to_thread(_scrape, metrics)
    done = (libiscsi or {}).get("commands", 0) + own.tally.commands
    return SoakReport(
        seconds=elapsed,
        commands=done,
        libiscsi=libiscsi,
        own_commands=own.tally.commands,
        own_retries=own.tally.retries,
        faults={name: fired for name, fired in after.faults.items() if program or name != "reset-libiscsi"},
        memory=memory,
        left_over=after.left_over,
        complaints=complaints,
    )


async def _libiscsi(
    program: Path | None, target: MeasuredTarget, seconds: float, commands: int, seed: int
) -> tuple[Mapping[str, Any] | None, str]:
    """Its figures, and what is wrong with them."""
    if program is None:
        return None, ""
    words = ["-s", "2", "-q", "16", "-b", "8192", "-m", "50", "-V", "-R", "-w", "0", "-S", str(seed)]
    words += ["-t", str(seconds), "-n", str(commands), target.url]
    process = await asyncio.create_subprocess_exec(
        program, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(seconds + 60):
            output, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return None, "it did not end"
    said = errors.decode(errors="replace").strip()[-400:]
    try:
        figures: dict[str, Any] = json.loads(output)
    except ValueError:
        return None, f"exit {process.returncode}: {said}"
    bad = process.returncode or figures["errors"] or figures["wrong"]
    return figures, f"{figures['errors']} failed, {figures['wrong']} wrong: {said}" if bad else ""


@dataclass(frozen=True, slots=True)
class _Scraped:
    commands: float
    faults: Mapping[str, int]
    left_over: Mapping[str, float]


def _metrics_url(log: Path) -> str:
    return next(line.split()[1] for line in log.read_text().splitlines() if line.startswith("metrics "))


def _scrape(url: str) -> _Scraped:
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(url, timeout=20) as answer:
        text = answer.read().decode()
    commands, faults, left = 0.0, {}, {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "sancredit_iscsi_target_commands_total":
                commands += sample.value
            elif sample.name == "sancredit_iscsi_faults_fired_total":
                faults[sample.labels["rule"]] = int(sample.value)
            elif sample.name in ("sancredit_iscsi_connections", "sancredit_iscsi_held_buffer_bytes") or (
                sample.name == "sancredit_pool_bytes" and sample.labels["state"] != "free"
            ):
                left[" ".join((sample.name, *sample.labels.values()))] = sample.value
    return _Scraped(commands, faults, left)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 where there is a problem."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.iscsi_soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--commands", type=int, default=COMMANDS)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="iscsi-soak-") as name:
        report = asyncio.run(soak(options.seconds, options.commands, options.seed, Path(name)))
    sys.stdout.write(report.as_text())
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
