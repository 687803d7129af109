"""What a port's numbers mean: one verdict per interval, and the FPIN notice that goes with it.

"Time at zero credit" alone says little: a port can count it at 3 % load and harm nobody. So the verdict pairs it with
the load, with what was lost, and with the credits that the distance needs (the reference's sections 1.11 and 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum


class Verdict(Enum):
    """Worst first."""

    LOST_CREDIT = "lost credit"
    CREDIT_STALL = "credit-stall"
    DISTANCE_SHORT = "distance-short"
    OVERSUBSCRIBED = "oversubscribed"
    OK = "ok"


class CongestionType(IntEnum):
    """FPIN congestion event types (FC-LS-5; fc_els.h)."""

    CLEAR = 0x0
    LOST_CREDIT = 0x1
    CREDIT_STALL = 0x2
    OVERSUBSCRIPTION = 0x3
    DEVICE_SPECIFIC = 0xF


class Severity(IntEnum):
    """FPIN and congestion signal severity."""

    WARNING = 0xF1
    ALARM = 0xF7


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Shares of an interval. The defaults are bottleneckmon's: 0.8 of the bandwidth, 0.1 of the time waiting;
    ``alarm_wait`` is where MAPS speaks of a performance impact in one second."""

    load: float = 0.8
    wait: float = 0.1
    alarm_wait: float = 0.7


@dataclass(frozen=True, slots=True)
class Interval:
    """One port over one interval. ``load`` and ``wait`` are shares of it: bytes sent against the line's, and time
    in which a frame waited for credit. ``credits`` were granted; ``needed_credits`` the distance takes, None where
    it is not known. ``credits_lost``: what recovery or a credit-loss reset found."""

    load: float
    wait: float
    credits: int
    needed_credits: int | None = None
    credits_lost: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict in words: what, why, and what it costs."""

    verdict: Verdict
    text: str
    severity: Severity | None = None
    missing_credits: int = 0


def judge(interval: Interval, thresholds: Thresholds | None = None) -> Finding:
    """One verdict. Waiting on a link that is too long for its credits is the distance's doing, not the peer's."""
    limits = thresholds or Thresholds()
    severity = Severity.ALARM if interval.wait >= limits.alarm_wait else Severity.WARNING
    waited = f"frames waited for credit {interval.wait:.0%} of the time at {interval.load:.0%} load"
    if interval.credits_lost:
        return Finding(Verdict.LOST_CREDIT, f"{interval.credits_lost} credits were lost; {waited}", severity)
    if interval.wait >= limits.wait:
        needed = interval.needed_credits
        if needed is not None and needed > interval.credits:
            missing = needed - interval.credits
            share = interval.credits / needed
            text = (
                f"{missing} credits short: the distance takes {needed}, {interval.credits} are granted, "
                f"which leaves {share:.0%} of the bandwidth"
            )
            return Finding(Verdict.DISTANCE_SHORT, text, severity, missing)
        return Finding(Verdict.CREDIT_STALL, f"the other side gives R_RDY too slowly: {waited}", severity)
    if interval.load >= limits.load:
        return Finding(
            Verdict.OVERSUBSCRIBED, f"{interval.load:.0%} load, credit is not the limit", Severity.WARNING
        )
    return Finding(Verdict.OK, waited)


_TYPES = {
    Verdict.LOST_CREDIT: CongestionType.LOST_CREDIT,
    Verdict.CREDIT_STALL: CongestionType.CREDIT_STALL,
    Verdict.DISTANCE_SHORT: CongestionType.CREDIT_STALL,
    Verdict.OVERSUBSCRIBED: CongestionType.OVERSUBSCRIPTION,
    Verdict.OK: CongestionType.CLEAR,
}


@dataclass(frozen=True, slots=True)
class CongestionNotice:
    """What goes into an FPIN congestion descriptor (tag 0x00020004), or, with a severity, a congestion signal."""

    event_type: CongestionType
    severity: Severity
    period_ms: int


class CongestionMonitor:
    """Turns findings into notices: one when a condition begins or changes, one when it clears.

    ``registered`` says whether the peer registered for congestion notices (RDF); ``period_ms`` is the interval.
    """

    __slots__ = ("_last", "period_ms", "registered")

    def __init__(self, period_ms: int, *, registered: bool = False) -> None:
        self.period_ms = period_ms
        self.registered = registered
        self._last: tuple[CongestionType, Severity] | None = None

    def see(self, finding: Finding) -> CongestionNotice | None:
        """The notice that is due after a finding; None: nothing changed, or nobody registered."""
        kind = _TYPES[finding.verdict]
        severity = finding.severity or Severity.WARNING
        if kind is CongestionType.CLEAR:
            before, self._last = self._last, None
            due = before is not None
        else:
            due = self._last != (kind, severity)
            self._last = kind, severity
        if not due or not self.registered:
            return None
        return CongestionNotice(kind, severity, self.period_ms)
