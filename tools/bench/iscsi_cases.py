"""What the iSCSI benchmark measures, and the bars: each case a kind of load, each line of the report a judgement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tools.bench.iscsi_load import Load, Run

KIB, MIB = 1 << 10, 1 << 20
COMPILED, PLAIN, PEER = "sancredit", "plain", "tgtd"
P99_BAR = 1.1
"""Latency at the 99th percentile, at most so many times the peer's."""
PLAIN_BAR = 1.0
"""The uncompiled data path, at least so many times the peer's speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedCase:
    """One load on every target; ``bar``: our speed over the peer's, at least."""

    name: str
    load: Load
    bar: float
    least_rounds: int = 1


SPEED_CASES: Sequence[SpeedCase] = (
    SpeedCase(name="4 KiB random read, QD 32", load=Load(block_bytes=4 * KIB, depth=32), bar=2),
    SpeedCase(
        name="4 KiB random write, QD 32", load=Load(block_bytes=4 * KIB, depth=32, reads_percent=0), bar=2
    ),
    SpeedCase(
        name="4 KiB random read, QD 32, 4 sessions",
        load=Load(block_bytes=4 * KIB, depth=32, sessions=4),
        bar=2,
    ),
    SpeedCase(
        name="4 KiB random write, QD 32, 4 sessions",
        load=Load(block_bytes=4 * KIB, depth=32, reads_percent=0, sessions=4),
        bar=2,
    ),
    SpeedCase(
        name="256 KiB sequential read, QD 8",
        load=Load(block_bytes=256 * KIB, depth=8, sequential=True),
        bar=2,
    ),
    SpeedCase(
        name="256 KiB sequential write, QD 8",
        load=Load(block_bytes=256 * KIB, depth=8, sequential=True, reads_percent=0),
        bar=2,
    ),
    SpeedCase(name="1 MiB random read, QD 4", load=Load(block_bytes=MIB, depth=4), bar=2),
    SpeedCase(
        name="4 KiB random read, QD 1", load=Load(block_bytes=4 * KIB, depth=1), bar=0.95, least_rounds=9
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestCase:
    """The same load without and with digests, on our target; ``bar``: the most they may cost, as a part of 1."""

    name: str
    without: Load
    with_digests: Load
    bar: float
    own_initiator: bool


DIGEST_CASES: Sequence[DigestCase] = (
    DigestCase(
        name="header digest, 4 KiB reads, QD 32 (libiscsi)",
        without=Load(block_bytes=4 * KIB, depth=32),
        with_digests=Load(block_bytes=4 * KIB, depth=32, header_digest=True),
        bar=0.10,
        own_initiator=False,
    ),
    DigestCase(
        name="header and data digest, 4 KiB reads, QD 32 (own initiator)",
        without=Load(block_bytes=4 * KIB, depth=32),
        with_digests=Load(block_bytes=4 * KIB, depth=32, header_digest=True, data_digest=True),
        bar=0.25,
        own_initiator=True,
    ),
    DigestCase(
        name="header and data digest, 256 KiB reads, QD 8 (own initiator)",
        without=Load(block_bytes=256 * KIB, depth=8),
        with_digests=Load(block_bytes=256 * KIB, depth=8, header_digest=True, data_digest=True),
        bar=0.40,
        own_initiator=True,
    ),
)

FAIRNESS_LOAD = Load(block_bytes=4 * KIB, depth=4, sessions=256)
FAIRNESS_BAR = 0.5
"""The slowest session's commands over the mean of all, at least."""
SESSION_MEMORY_BAR_BYTES = 256 * KIB
"""Private memory of the target for each idle session, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedLine:
    """One line of the table of speeds; a ratio is ours over the peer's, ``None`` where one of them is missing."""

    case: str
    rounds: int
    bar: float
    runs: Mapping[str, Run]
    ratio: float | None
    plain_ratio: float | None
    p99_ratio: float | None
    core_ratio: float | None
    """The ratio of commands per second of target CPU: what the ratio would be with a core each and no other load."""

    @property
    def missed(self) -> tuple[str, ...]:
        """Which bars were missed; empty: all were met."""
        wants = (
            ("speed", self.ratio, self.bar, True),
            ("p99", self.p99_ratio, P99_BAR, False),
            ("plain", self.plain_ratio, min(PLAIN_BAR, self.bar), True),
        )
        return tuple(
            name
            for name, value, bar, at_least in wants
            if value is not None and (value < bar if at_least else value > bar)
        )

    @property
    def verdict(self) -> str:
        """In words."""
        if self.ratio is None:
            return "no peer" if COMPILED in self.runs else "not measured"
        return "MISSED: " + ", ".join(self.missed) if self.missed else "met"


def speed_line(case: SpeedCase, rounds: int, runs: Mapping[str, Run]) -> SpeedLine:
    """Judge the medians of one case."""

    def over_peer(name: str, figure: str) -> float | None:
        if name not in runs or PEER not in runs:
            return None
        peer = float(getattr(runs[PEER], figure))
        return float(getattr(runs[name], figure)) / peer if peer else None

    return SpeedLine(
        case=case.name,
        rounds=rounds,
        bar=case.bar,
        runs=runs,
        ratio=over_peer(COMPILED, "iops"),
        plain_ratio=over_peer(PLAIN, "iops"),
        p99_ratio=over_peer(COMPILED, "p99_us"),
        core_ratio=over_peer(COMPILED, "iops_per_core"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BarLine:
    """One line of the second table: a figure against its bar."""

    case: str
    value: float
    unit: str
    bar: float
    at_least: bool
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the figure reaches its bar."""
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    @property
    def verdict(self) -> str:
        """In words."""
        return "met" if self.met else "MISSED"
