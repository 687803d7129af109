# SPDX-License-Identifier: Apache-2.0
"""What is counted of the commands a target serves, and how it is read. Sans-IO.

There is one :class:`Traffic` for each session and LUN, so a command pays for one set of counters; per session, per LUN
and per target are sums made when somebody asks. Counters only rise; those of a session that ended live on in the sums
of its target.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

LATENCY_BUCKETS = 24
"""Bucket n counts latencies below 2**n µs that no smaller bucket counts; the last one counts all longer ones too."""


@dataclass(frozen=True, slots=True)
class TrafficStatistics:
    """Counters of SCSI commands. Latency runs from the read that brought the command to the moment its answer was
    made; commands that were aborted are counted, and have no latency."""

    read_commands: int = 0
    """Commands with the R bit (Data-In), RFC 7143 section 11.3.1."""
    write_commands: int = 0
    """Commands with the W bit (Data-Out); bidirectional ones are counted here."""
    other_commands: int = 0
    """Commands that move no data."""
    read_bytes: int = 0
    written_bytes: int = 0
    errors: int = 0
    """Answers with a status other than GOOD."""
    latency_buckets: tuple[int, ...] = (0,) * LATENCY_BUCKETS
    """Answers by latency: see LATENCY_BUCKETS."""
    latency_sum_ns: int = 0

    @property
    def commands(self) -> int:
        """All commands received."""
        return self.read_commands + self.write_commands + self.other_commands

    @property
    def answered(self) -> int:
        """Commands that were answered."""
        return sum(self.latency_buckets)

    def __add__(self, other: TrafficStatistics) -> TrafficStatistics:
        return TrafficStatistics(
            self.read_commands + other.read_commands,
            self.write_commands + other.write_commands,
            self.other_commands + other.other_commands,
            self.read_bytes + other.read_bytes,
            self.written_bytes + other.written_bytes,
            self.errors + other.errors,
            tuple(a + b for a, b in zip(self.latency_buckets, other.latency_buckets, strict=True)),
            self.latency_sum_ns + other.latency_sum_ns,
        )


@dataclass(frozen=True, slots=True)
class LunStatistics:
    """The traffic of one LUN. `lun` None: commands for LUNs that the initiator does not have."""

    lun: int | None
    traffic: TrafficStatistics


@dataclass(frozen=True, slots=True)
class SessionStatistics:
    """One session as it is now."""

    tsih: int
    initiator_name: str
    target_name: str
    """Empty for a discovery session."""
    connections: int
    traffic: TrafficStatistics
    luns: tuple[LunStatistics, ...]
    """The same traffic by LUN."""
    outstanding: int
    """Commands received and not answered yet."""
    window: int
    """CmdSNs the initiator may still use: MaxCmdSN - ExpCmdSN + 1 (section 4.2.2.1)."""
    window_limit: int
    """What the window is when nothing is outstanding; `window_limit - window` are in use."""
    ignored_pdus: int
    """PDUs outside the window, silently ignored as section 4.2.2.1 demands."""
    unsent_data_in_bytes: int
    """Data-In that waits to be made into PDUs: for buffers, or for a slow reader."""
    held_buffer_bytes: int = 0
    """Data-In handed to the kernel, charged to the buffers and not acknowledged yet."""


@dataclass(frozen=True, slots=True)
class TargetStatistics:
    """One target: the sums of its sessions, ended ones included."""

    name: str
    sessions: int
    """Sessions there are now."""
    traffic: TrafficStatistics
    luns: tuple[LunStatistics, ...]


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """Everything a target server counts."""

    targets: tuple[TargetStatistics, ...]
    sessions: tuple[SessionStatistics, ...]
    connections: int
    connections_waiting_for_buffers: int
    connections_holding_buffers: int
    held_buffer_bytes: int
    """Data-In handed to the kernel, charged to the buffers and not acknowledged yet."""


class Traffic:
    """Counters of one session and LUN, as they run. `answered` takes latencies in nanoseconds."""

    __slots__ = (
        "_buckets",
        "errors",
        "latency_sum_ns",
        "others",
        "read_bytes",
        "reads",
        "writes",
        "written_bytes",
    )

    def __init__(self) -> None:
        self.reads = 0
        self.writes = 0
        self.others = 0
        self.read_bytes = 0
        self.written_bytes = 0
        self.errors = 0
        self.latency_sum_ns = 0
        self._buckets = [0] * LATENCY_BUCKETS

    def answered(self, latency_ns: int, count: int = 1) -> None:
        """`count` commands were answered after this long."""
        bucket = (latency_ns // 1000).bit_length()
        self._buckets[bucket if bucket < LATENCY_BUCKETS else LATENCY_BUCKETS - 1] += count
        self.latency_sum_ns += latency_ns * count

    def statistics(self) -> TrafficStatistics:
        """A snapshot."""
        return TrafficStatistics(
            self.reads,
            self.writes,
            self.others,
            self.read_bytes,
            self.written_bytes,
            self.errors,
            tuple(self._buckets),
            self.latency_sum_ns,
        )


class TrafficTable:
    """The counters of one session, or the sums of the ended sessions of one target, by LUN.

    The LUN of a command is the peer's word: only LUNs that exist have counters of their own, all others share None.
    """

    def __init__(self) -> None:
        self.by_lun: dict[int | None, Traffic] = {}
        self._past: dict[int | None, TrafficStatistics] = {}

    def of(self, lun: int, known: Iterable[int]) -> Traffic:
        """The counters for a LUN; `known` are those that exist for this initiator."""
        key = lun if lun in known else None
        traffic = self.by_lun.get(key)
        if traffic is None:
            traffic = self.by_lun[key] = Traffic()
        return traffic

    def take_over(self, ended: TrafficTable) -> None:
        """Keep the sums of a table whose session ended."""
        for lun, traffic in ended.snapshot().items():
            self._past[lun] = self._past.get(lun, TrafficStatistics()) + traffic

    def snapshot(self) -> dict[int | None, TrafficStatistics]:
        """By LUN, as they are now."""
        found = dict(self._past)
        for lun, traffic in self.by_lun.items():
            _add(found, lun, traffic.statistics())
        return found


def by_lun(tables: Iterable[TrafficTable]) -> tuple[LunStatistics, ...]:
    """The sums of several tables, LUNs ascending, None last."""
    found: dict[int | None, TrafficStatistics] = {}
    for table in tables:
        for lun, traffic in table.snapshot().items():
            _add(found, lun, traffic)
    ordered = sorted(found.items(), key=lambda entry: (entry[0] is None, entry[0] or 0))
    return tuple(LunStatistics(lun, traffic) for lun, traffic in ordered)


def total(luns: Iterable[LunStatistics]) -> TrafficStatistics:
    """The sum over LUNs."""
    entries = list(luns)
    if len(entries) == 1:
        return entries[0].traffic
    return sum((entry.traffic for entry in entries), TrafficStatistics())


def _add(found: dict[int | None, TrafficStatistics], lun: int | None, traffic: TrafficStatistics) -> None:
    """Hundreds of sessions are summed at one time, on the data loop: what is there alone is not added to nothing."""
    before = found.get(lun)
    found[lun] = traffic if before is None else before + traffic
