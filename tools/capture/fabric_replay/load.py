"""Commands of a capture as arrivals at a simulated host (pure but for reading the capture).

A command keeps its time, its CDB and its LUN, the bytes that it moved and the time that the target itself took. Up to
its first answer that is what was captured, less the captured round trip. After the last byte of a write it is what
:class:`~tools.capture.whatif.predict.WhatIf` takes for all of them, or more where the data came unasked and the rest of
the captured time is too long for the round trip and the data.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fcsim.fabric.scenario import Arrival
from tools.capture.analysis import Analysis, analyse
from tools.capture.exchanges import Exchange
from tools.capture.whatif.setting import CapturedFlow, SettingError, captured_flows

LONGEST_TRANSFER_BYTES = 8 << 20
"""Of one command; a capture that was cut can claim any length."""
MOST_COMMANDS = 1_000_000
MOST_BYTES = 64 << 30
_NS = 1_000_000_000
_NO_LOAD = "the capture has no SCSI commands with an answer"


class LoadError(ValueError):
    """The capture makes no load; one line."""


@dataclass(frozen=True, slots=True)
class LoadConfig:
    """``initiator``: only its commands. ``limit``: the first so many. ``speed``: 2 lets them arrive in half the time.
    ``wait``: a command waits for those that had ended in the capture before it began. ``captured``: what the capture
    cannot tell of its channel, as ``whatif --captured`` has it."""

    initiator: str | None = None
    limit: int | None = None
    speed: float = 1.0
    wait: bool = False
    captured: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if not 0.001 <= self.speed <= 1000:
            raise LoadError(f"a speed of {self.speed:g} is not between 0.001 and 1000")
        if self.limit is not None and self.limit < 1:
            raise LoadError("a load has one command at least")


@dataclass(frozen=True, slots=True)
class Source:
    """Whose command it was, what it did (``read``, ``write``, ``other``), how it ended and how long it took (ns), with
    the way to the initiator that the capture did not see."""

    initiator: str
    target: str
    kind: str
    status: int
    measured_ns: int


@dataclass(frozen=True, slots=True)
class Load:
    """``arrivals`` in the order of their times, and of each where it is from. ``skipped`` counts by reason."""

    arrivals: tuple[Arrival, ...]
    sources: tuple[Source, ...]
    skipped: Mapping[str, int]


def read_load(paths: Sequence[Path | str], config: LoadConfig, *, ports: Sequence[int] = ()) -> Load:
    """The load of captures. Raises :class:`LoadError` and :class:`~tools.capture.scan.CaptureError`."""
    with analyse(paths, ports=ports) as analysis:
        try:
            flows = list(captured_flows(analysis, config.captured or {}))
        except SettingError as error:
            raise LoadError(str(error)) from None
        return _load(analysis, flows, config)


def _load(analysis: Analysis, flows: Sequence[CapturedFlow], config: LoadConfig) -> Load:
    skipped: Counter[str] = Counter()
    if not flows:
        raise LoadError(_NO_LOAD)
    chosen = [flow for flow in flows if config.initiator in (None, flow.initiator)]
    if not chosen:
        names = ", ".join(sorted({flow.initiator for flow in flows})[:8])
        raise LoadError(f"{config.initiator!r:.80} sent no commands; the capture has {names}")
    numbered = [(flow, number) for flow in chosen for number in range(len(flow.exchanges))]
    numbered.sort(key=lambda one: one[0].exchanges[one[1]].start_ns)
    if config.limit is not None and len(numbered) > config.limit:
        skipped["after the limit"] = len(numbered) - config.limit
        del numbered[config.limit :]
    if len(numbered) > MOST_COMMANDS:
        raise LoadError(f"{len(numbered)} commands are more than {MOST_COMMANDS} to simulate: --limit")
    first_ns = numbered[0][0].exchanges[numbered[0][1]].start_ns
    arrivals: list[Arrival] = []
    sources: list[Source] = []
    ends: list[tuple[int, int]] = []
    moved = 0
    for flow, number in numbered:
        exchange = flow.exchanges[number]
        if max(exchange.bytes_in, exchange.bytes_out) > LONGEST_TRANSFER_BYTES:
            skipped[f"move more than {LONGEST_TRANSFER_BYTES >> 20} MiB"] += 1
            continue
        if exchange.bytes_in and exchange.bytes_out:
            skipped["move data both ways"] += 1
            continue
        moved += exchange.bytes_in + exchange.bytes_out
        lun = analysis.matcher.nexuses[exchange.nexus].lun
        at_ns = round((exchange.start_ns - first_ns) / config.speed)
        arrivals.append(_arrival(flow, number, exchange, bytes(lun), at_ns))
        kind = "read" if exchange.bytes_in else "write" if exchange.bytes_out else "other"
        measured_ns = exchange.ect_ns + flow.model.unseen_ns
        sources.append(Source(flow.initiator, flow.target, kind, exchange.status, measured_ns))
        ends.append((exchange.start_ns, exchange.end_ns))
    if not arrivals:
        raise LoadError(f"{_NO_LOAD} that can be simulated: {_said(skipped)}")
    if moved > MOST_BYTES:
        raise LoadError(f"{moved} bytes are more than {MOST_BYTES} to simulate: --limit")
    return Load(tuple(_waiting(arrivals, ends) if config.wait else arrivals), tuple(sources), dict(skipped))


def _waiting(arrivals: Sequence[Arrival], times: Sequence[tuple[int, int]]) -> list[Arrival]:
    """Each after those that had ended before it began. ``times``: starts and ends in the capture."""
    order = sorted(range(len(times)), key=lambda number: times[number][1])
    ranks = [0] * len(order)
    for rank, number in enumerate(order):
        ranks[number] = rank
    ends = [times[number][1] for number in order]
    return [
        replace(arrival, after=bisect_right(ends, start_ns), rank=rank)
        for arrival, rank, (start_ns, _) in zip(arrivals, ranks, times, strict=True)
    ]


def _arrival(flow: CapturedFlow, number: int, exchange: Exchange, lun: bytes, at_ns: int) -> Arrival:
    captured = flow.arrivals[number]
    own_ns = max(0, exchange.ect_ns - flow.seen_rtt_ns)
    served_ns, finished_ns = own_ns, 0
    if exchange.bytes_in or captured.solicited:
        served_ns = max(0, captured.before_data_ns - flow.seen_rtt_ns)
    if exchange.bytes_out:
        finished_ns = flow.model.after_write_ns
        if not captured.solicited:
            served_ns = 0  # nobody asked the target before it had the data
            sent_ns = exchange.bytes_out * _NS // flow.setting.bytes_per_second
            finished_ns = max(finished_ns, own_ns - sent_ns)
    return Arrival(
        at_ns=at_ns,
        lun=lun,
        cdb=exchange.cdb,
        read_bytes=exchange.bytes_in,
        write_bytes=exchange.bytes_out,
        served_ns=served_ns,
        finished_ns=finished_ns,
    )


def _said(skipped: Mapping[str, int]) -> str:
    return "; ".join(f"{count} {reason}" for reason, count in skipped.items())
