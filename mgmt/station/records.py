"""The station's read models: what its lists show and its store keeps. Times are UTC as ISO 8601 writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from credits.targets import Target


class Severity(StrEnum):
    """How much an alarm or an event matters."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class AlarmKind(StrEnum):
    """What an alarm is about."""

    SHORTAGE = "shortage"
    """A reservation is smaller than its channel calls for, and there is no room for it to grow (GAP-13)."""
    LOW_POOL = "low-pool"
    """Hardly any unit of a pool is free: hosts may have to wait (GAP-14)."""
    DEGRADED = "degraded"
    """An array's pool has fewer units than its reservations (GAP-7)."""
    STALE_CHANNEL = "stale-channel"
    """The values of a channel are too old, or could not be renewed (GAP-11)."""
    CACHE_LOW = "cache-low"
    """The free cache of an array is at its threshold (embodiment 5)."""
    CREDIT_STARVATION = "credit-starvation"
    """A Fibre Channel port has waited for credits for a good part of the time."""
    OPEN_END = "open-end"
    """One end of a pair could not be brought back yet after the other failed (GAP-26)."""
    ARRAY_DOWN = "array-down"
    """An array does not answer."""
    LOST = "lost"
    """A reservation that an array should have is gone or smaller, and nobody asked this station for it."""


class AlarmState(StrEnum):
    """The life of an alarm: ``active``, perhaps ``acknowledged``, and ``cleared`` once its cause has gone."""

    ACTIVE = "active"
    ACKNOWLEDGED = "acknowledged"
    CLEARED = "cleared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """One alarm. There is one that is not cleared for each kind and subject; ``count`` says how often it was raised."""

    number: int
    kind: AlarmKind
    severity: Severity
    subject: str
    """What it is about, in words: ``array M``, ``channel A,B``, ``port pair A->B``."""
    array: str | None
    target: Target | None
    text: str
    raised_at: str
    changed_at: str
    count: int
    cleared_at: str | None
    acknowledged_at: str | None
    acknowledged_by: str | None
    note: str

    @property
    def state(self) -> AlarmState:
        """Where it is in its life."""
        if self.cleared_at is not None:
            return AlarmState.CLEARED
        return AlarmState.ACTIVE if self.acknowledged_at is None else AlarmState.ACKNOWLEDGED


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of what happened; ``number`` grows and is never used again."""

    number: int
    at: str
    kind: str
    severity: Severity
    subject: str
    array: str | None
    text: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Channel values over ``span_s`` seconds from ``at`` on: their means, extremes, and how many samples."""

    local_port: str
    remote_port: str
    at: str
    span_s: int
    samples: int
    bandwidth_bps: int
    bandwidth_min_bps: int
    bandwidth_max_bps: int
    rtt_ns: int
    rtt_min_ns: int
    rtt_max_ns: int
    method: str


class Sizing(StrEnum):
    """Radio buttons 704 and 705: who decides a target's size."""

    AUTOMATIC = "automatic"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How the size of one target's reservation is kept right (section I of the specification, GAP-10 to GAP-14)."""

    target: Target
    via: tuple[str, str] | None = None
    """The port pair whose channel the size comes from, where it is not the target's own."""
    sizing: Sizing = Sizing.AUTOMATIC
    size_bytes: int | None = None
    """The size where it is manual."""
    min_bytes: int = 0
    """The floor of an automatic size."""
    max_bytes: int | None = None
    """The ceiling of an automatic size."""
    min_change_percent: int = 10
    """Smaller changes are not made (GAP-12)."""
    min_interval_s: int = 5
    """Between two changes; growth is not held back (GAP-12)."""
    shrink_samples: int = 3
    """So many samples in a row want a shrink before it is made (GAP-12)."""
    shrink_after_s: int = 60
    """Or the wish has stood for so long: a channel that has settled sends no more samples."""
    lease_s: int | None = None
    """The reservation lapses without this station; it renews it three times in this time (GAP-10)."""
    allow_partial: bool = False
    """Grow as far as there is room where there is not enough (GAP-13)."""
    priority: int = 100
    """Lower goes first when several targets want to grow."""
    changed_at: str = ""
    changed_by: str = ""


class Stage(StrEnum):
    """How far a change in the audit trail has come; ``asked`` is followed by one of the others."""

    ASKED = "asked"
    DONE = "done"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    """The array did not answer: it may have done it. Reconciliation finds out, as ``settled``."""
    SETTLED = "settled"


class Cause(StrEnum):
    """Why a change was made."""

    USER = "user"
    CHANNEL = "channel"
    CACHE = "cache"
    LEASE = "lease"
    POLICY = "policy"
    """Its policy was changed, and its size follows."""
    UNDO = "undo"
    RECONCILIATION = "reconciliation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One link of the audit trail: ``hash`` covers everything in it and ``previous_hash`` (SHA-256, hex)."""

    number: int
    at: str
    by: str
    verb: str
    """reserve, update, release, reserve-both-ends, enlarge, register, unregister, policy, array-add, …"""
    stage: Stage
    of: int | None
    """Number of the ``asked`` record that this one ends."""
    cause: Cause
    subject: str
    array: str | None
    target: Target | None
    request_id: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """What the size came from: bandwidth_bps, rtt_ns, sessions, connections, unit_bytes, policy, requested_bytes."""
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    detail: str = ""
    previous_hash: str = ""
    hash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What verifying the audit trail found; ``broken_at`` is the first record that is not what was written."""

    records: int
    first: int | None
    last: int | None
    head: str
    broken_at: int | None
    detail: str

    @property
    def sound(self) -> bool:
        """Whether every record is as it was written, and none is missing."""
        return self.broken_at is None and not self.detail


class HoldingState(StrEnum):
    """Life of a reservation as the station knows it; the transitions are in :mod:`mgmt.station.lifecycle`."""

    RESERVING = "reserving"
    RESERVED = "reserved"
    UPDATING = "updating"
    RELEASING = "releasing"
    DRAINING = "draining"
    RELEASED = "released"
    LAPSED = "lapsed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A reservation as this station knows it, beside the array's table 101 which is the truth."""

    array: str
    target: Target
    state: HoldingState
    requested_bytes: int
    reserved_units: int
    reserved_bytes: int
    epoch: int
    """The array's fencing number of who made it (GAP-10)."""
    lease_s: int | None
    since: str
    changed_at: str
    changed_by: str
