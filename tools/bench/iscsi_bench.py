"""The iSCSI target beside tgtd: ``python -m tools.bench iscsi [--quick] [--json]``.

The same initiator, the same moment: all targets run side by side on one core, the initiator on the other; rounds go
over all cases and all targets in turns, figures are medians. Each LUN is 256 MiB of memory (tgtd: ``bstype rdwr`` on
/dev/shm), filled and checked through iSCSI before and after. Ours is ``sancredit target serve`` as in service, with
the full SCSI stack, the command window, buffers charged and counters on; *plain* is the same without compiled kernels.

Exit status 0 also when a bar is missed: the table says so. 1: a target ended, or gave wrong data; 2: wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from tabulate import tabulate

import iscsi_target
from iscsi_target.initiator import Initiator
from tools.bench.iscsi_cases import (
    COMPILED,
    DIGEST_CASES,
    FAIRNESS_BAR,
    FAIRNESS_LOAD,
    KIB,
    MIB,
    P99_BAR,
    PEER,
    PLAIN,
    SESSION_MEMORY_BAR_BYTES,
    SPEED_CASES,
    BarLine,
    DigestCase,
    SpeedLine,
    speed_line,
)
from tools.bench.iscsi_load import Load, Loader, LoadFailed, LoadMissing, Run, compile_load, median
from tools.bench.iscsi_targets import MeasuredTarget, TargetMissing, sancredit, tgtd

_LUN_BYTES = 256 * MIB
_STAMPS = Load(block_bytes=256 * KIB, depth=8, sequential=True)
_IDLE_SESSIONS = 256
_NOISY = 25.0
"""Per cent of a core that other programs may use for the figures to be taken at their word."""

Targets = Mapping[str, MeasuredTarget]


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _cores() -> tuple[int, int]:
    """One core for the targets, one for the initiator."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        _say("one core only: the initiator takes its time from the target, and ratios are too small")
    return cores[0], cores[-1]


def _uncompiled() -> list[str]:
    """Names of the target's kernels that have no compiled form beside them."""
    root = Path(iscsi_target.__file__).parent
    return [
        source.stem
        for source in sorted(root.rglob("*_kernel.py"))
        if not any(source.with_suffix(suffix).exists() for suffix in EXTENSION_SUFFIXES)
    ]


def _start(undo: ExitStack, directory: Path, core: int, wanted: Sequence[str]) -> dict[str, MeasuredTarget]:
    """Every target that is wanted and can be had; those that cannot are said."""
    makers: dict[str, Callable[[], MeasuredTarget]] = {
        COMPILED: lambda: undo.enter_context(sancredit(COMPILED, directory, core, _LUN_BYTES)),
        PLAIN: lambda: undo.enter_context(sancredit(PLAIN, directory, core, _LUN_BYTES, plain=True)),
        PEER: lambda: undo.enter_context(tgtd(directory, core, _LUN_BYTES)),
    }
    running = {}
    for name in wanted:
        try:
            running[name] = makers[name]()
        except TargetMissing as missing:
            _say(f"NOT MEASURED: {name}: {missing}")
    return running


def _check_data(loader: Loader, targets: Targets) -> None:
    """Every block of every LUN written with stamps and read again: what is measured also works."""
    for target in targets.values():
        count = str(_LUN_BYTES // _STAMPS.block_bytes + _STAMPS.depth)
        for reads in (0, 100):
            load = Load(block_bytes=_STAMPS.block_bytes, depth=8, sequential=True, reads_percent=reads)
            loader.libiscsi(target, load, "-V", "-n", count, seconds=30)


def measure_speed(loader: Loader, targets: Targets, rounds: int, only: str) -> list[SpeedLine]:
    """All speed cases over all targets, in turns."""
    cases = [case for case in SPEED_CASES if only in case.name]
    wanted = {case.name: max(rounds, case.least_rounds if rounds > 1 else 1) for case in cases}
    runs: dict[str, dict[str, list[Run]]] = {case.name: {name: [] for name in targets} for case in cases}
    for turn in range(max(wanted.values(), default=0)):
        for case in cases:
            if turn >= wanted[case.name]:
                continue
            names = list(targets)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                try:
                    runs[case.name][name].append(loader.libiscsi(targets[name], case.load))
                except LoadFailed as failed:
                    _say(f"FAILED: {case.name}, {name}, round {turn + 1}: {failed}")
        _say(f"round {turn + 1} of {max(wanted.values())} is done")
    return [
        speed_line(
            case,
            wanted[case.name],
            {name: median(found) for name, found in runs[case.name].items() if found},
        )
        for case in cases
    ]


def measure_digests(loader: Loader, target: MeasuredTarget, rounds: int, only: str) -> list[BarLine]:
    """What digests cost on our target, with and without in turns."""
    lines = []
    for case in DIGEST_CASES:
        if only not in case.name:
            continue
        try:
            lines.append(_digest(loader, target, case, rounds))
        except (LoadFailed, LoadMissing) as failed:
            _say(f"NOT MEASURED: {case.name}: {failed}")
    return lines


def _digest(loader: Loader, target: MeasuredTarget, case: DigestCase, rounds: int) -> BarLine:
    run = loader.own if case.own_initiator else loader.libiscsi
    bare, digested = [], []
    for _ in range(rounds):
        bare.append(run(target, case.without))
        digested.append(run(target, case.with_digests))
    before, after = median(bare), median(digested)
    note = f"{before.iops:,.0f} → {after.iops:,.0f} IOPS; target CPU {before.target_cpu:.0f} → {after.target_cpu:.0f} %"
    return BarLine(
        case=case.name,
        value=(1 - after.iops / before.iops) * 100,
        unit="%",
        bar=case.bar * 100,
        at_least=False,
        note=note,
    )


def measure_fairness(loader: Loader, targets: Targets, rounds: int) -> list[BarLine]:
    """256 sessions with 4 commands each: the slowest session against the mean."""
    lines = []
    for name, target in targets.items():
        try:
            runs = [loader.libiscsi(target, FAIRNESS_LOAD) for _ in range(rounds)]
        except (LoadFailed, LoadMissing) as failed:
            _say(f"NOT MEASURED: 256 sessions, {name}: {failed}")
            continue
        lines.append(
            BarLine(
                case=f"256 sessions x 4 commands, slowest over mean ({name})",
                value=statistics.median(run.least_session / max(run.mean_session, 1e-9) for run in runs),
                unit="x",
                bar=FAIRNESS_BAR if name != PEER else 0.0,
                at_least=True,
                note=f"{median(runs).iops:,.0f} IOPS, p99 {median(runs).p99_us / 1e3:.1f} ms",
            )
        )
    return lines


def measure_memory(target: MeasuredTarget) -> BarLine:
    """Private memory of the target for each of 256 sessions that have worked and are idle now."""
    held = asyncio.run(_held_by_idle_sessions(target))
    return BarLine(
        case=f"memory for each of {_IDLE_SESSIONS} idle sessions ({target.name})",
        value=held / _IDLE_SESSIONS / KIB,
        unit="KiB",
        bar=SESSION_MEMORY_BAR_BYTES / KIB if target.name != PEER else 0.0,
        at_least=False,
    )


async def _held_by_idle_sessions(target: MeasuredTarget) -> int:
    async def open_one() -> Initiator:
        session = await Initiator.login(target.host, target.port, target.iqn)
        for lba in range(4):
            await session.write(target.lun, lba, bytes(512))
            await session.read(target.lun, lba, 1)
        return session

    sessions = [await open_one()]  # whatever the first session brings for good is not the sessions' memory
    before = target.resident_bytes()
    try:
        for _ in range(_IDLE_SESSIONS):
            sessions.append(await open_one())
        await asyncio.sleep(1)
        return target.resident_bytes() - before
    finally:
        for session in sessions:
            await session.logout()


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _speed_table(lines: Sequence[SpeedLine]) -> str:
    def speed(line: SpeedLine, name: str) -> str:
        run = line.runs.get(name)
        if run is None:
            return "-"
        return f"{run.iops:,.0f}" if "4 KiB" in line.case else f"{run.mbps:,.0f} MB/s"

    rows = [
        [
            line.case,
            *(speed(line, name) for name in (COMPILED, PLAIN, PEER)),
            _ratio(line.ratio),
            f"≥ {line.bar:g}",
            _ratio(line.core_ratio),
            _ratio(line.plain_ratio),
            line.verdict,
        ]
        for line in lines
    ]
    headers = ["IOPS or MB/s", COMPILED, PLAIN, PEER, "ratio", "bar", "per core", "plain", "verdict"]
    align = ["left", *["right"] * 7, "left"]
    return tabulate(rows, headers, tablefmt="simple", disable_numparse=True, colalign=align)


def _latency_table(lines: Sequence[SpeedLine]) -> str:
    def figures(line: SpeedLine, form: Callable[[Run], str]) -> list[str]:
        runs = [line.runs.get(name) for name in (COMPILED, PLAIN, PEER)]
        return ["-" if run is None else form(run) for run in runs]

    rows = [
        [
            line.case,
            *figures(line, lambda run: f"{run.p50_us:,.0f}/{run.p99_us:,.0f}"),
            _ratio(line.p99_ratio),
            f"≤ {P99_BAR:g}",
            *figures(line, lambda run: f"{run.target_cpu:.0f}/{run.initiator_cpu:.0f}"),
        ]
        for line in lines
    ]
    headers = ["p50/p99 µs", COMPILED, PLAIN, PEER, "p99 ratio", "bar", "CPU %", PLAIN, PEER]
    align = ["left", *["right"] * 8]
    return tabulate(rows, headers, tablefmt="simple", disable_numparse=True, colalign=align)


def _bar_table(lines: Sequence[BarLine]) -> str:
    rows = [
        [
            line.case,
            f"{line.value:.2f} {line.unit}",
            f"{'≥' if line.at_least else '≤'} {line.bar:g} {line.unit}" if line.bar else "",
            line.note,
            line.verdict if line.bar else "",
        ]
        for line in lines
    ]
    align = ["left", "right", "right", "left", "left"]
    return tabulate(
        rows,
        ["case", "value", "bar", "", "verdict"],
        tablefmt="simple",
        disable_numparse=True,
        colalign=align,
    )


def _as_json(speeds: Sequence[SpeedLine], bars: Sequence[BarLine]) -> str:
    value = {
        "speed": [asdict(line) | {"missed": line.missed, "verdict": line.verdict} for line in speeds],
        "bars": [asdict(line) | {"met": line.met} for line in bars],
    }
    return json.dumps(value, indent=2)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench iscsi",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each case; at queue depth 1 at least 9")
    parser.add_argument("--seconds", type=float, default=1.5, help="measured in each run")
    parser.add_argument(
        "--wait", type=float, default=3.0, help="seconds to wait for a quiet machine, each run"
    )
    parser.add_argument("--quick", action="store_true", help="one short round: figures to work by")
    parser.add_argument(
        "--only",
        default="",
        metavar="TEXT",
        help="speed and digest cases with TEXT in their name, nothing else",
    )
    parser.add_argument("--targets", default=f"{COMPILED},{PLAIN},{PEER}", help="which to run")
    parser.add_argument("--json", action="store_true", help="all figures as JSON")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds, options.wait = 1, 0.7, 0.5
    unknown = set(options.targets.split(",")) - {COMPILED, PLAIN, PEER}
    if unknown:
        parser.error(f"no target {sorted(unknown)[0]!r}; there are {COMPILED}, {PLAIN}, {PEER}")
    return options


def measure(options: argparse.Namespace, directory: Path) -> tuple[list[SpeedLine], list[BarLine], bool]:
    """Everything that is asked for: the speeds, the other figures, and whether all of it went well.

    What was measured before a target ended or gave wrong data is not lost; it is said.
    """
    speeds: list[SpeedLine] = []
    bars: list[BarLine] = []
    try:
        with ExitStack() as undo:
            program = _program(directory)
            target_core, initiator_core = _cores()
            loader = Loader(
                program=program, core=initiator_core, seconds=options.seconds, wait_s=options.wait
            )
            targets = _start(undo, directory, target_core, options.targets.split(","))
            memory: list[BarLine] = []
            if not options.only:  # first, before anything else has made the processes grow
                memory = [measure_memory(target) for target in targets.values()]
            if program is not None:
                _check_data(loader, targets)
                speeds = measure_speed(loader, targets, options.rounds, options.only)
            if COMPILED in targets:
                bars += measure_digests(loader, targets[COMPILED], options.rounds, options.only)
            if not options.only:
                bars += measure_fairness(loader, targets, 1 if options.quick else 3) if program else []
                bars += memory
            if program is not None:
                _check_data(loader, targets)
    except (LoadFailed, TargetMissing) as failed:
        _say(f"FAILED: {failed}")
        return speeds, bars, False
    return speeds, bars, bool(targets)


def _program(directory: Path) -> Path | None:
    """The compiled load generator; what is missing, and for our own target's kernels too, is said."""
    uncompiled = _uncompiled()
    if uncompiled:
        names = ", ".join(uncompiled)
        _say(f"NOT COMPILED: {names}: {COMPILED} is plain too; pip install again with a C compiler")
    try:
        return compile_load(directory)
    except LoadMissing as missing:
        _say(f"NOT MEASURED: all that needs libiscsi: {missing}")
        return None


def _as_text(speeds: Sequence[SpeedLine], bars: Sequence[BarLine]) -> str:
    parts = []
    if speeds:
        foreign = [run.foreign_cpu for line in speeds for run in line.runs.values()]
        others = statistics.median(foreign) if foreign else 0
        parts += [_speed_table(speeds), _latency_table(speeds)]
        if others > _NOISY:
            parts.append(
                "NOT QUIET: each target has as many threads as it has to ask the core for its time with, so a busy"
                " machine favours tgtd; go by the column per core, or repeat it."
            )
        parts.append(
            f"CPU: target/initiator, % of one core; other programs used {others:.0f} % meanwhile.\n"
            "per core: the ratio of commands per second of the target's CPU, which other programs disturb less."
        )
    if bars:
        parts.append(_bar_table(bars))
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; exit status 1 where something could not be measured to its end."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory(prefix="iscsi-bench-") as name:
        speeds, bars, whole = measure(options, Path(name))
    sys.stdout.write(_as_json(speeds, bars) + "\n" if options.json else _as_text(speeds, bars))
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
