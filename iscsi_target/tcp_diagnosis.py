# SPDX-License-Identifier: Apache-2.0
"""Why a sending TCP connection is not faster, from what the kernel (TCP_INFO) and our own gate counted. Sans-IO.

The kernel's own ``sndbuf_limited`` says nothing of a gate in front of it: the gate never fills the kernel's buffer, so
the time that writers wait for room in reserved memory is counted here instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from iscsi_target.tcp_info import TcpInfo

#: Shares in percent of the time looked at.
_IDLE_BELOW = 50
_LIMITED_FROM = 25
#: A round trip so much longer than the shortest one means that bytes wait in a queue on the way.
_QUEUE_PERCENT = 130


class Limit(StrEnum):
    """What keeps a connection from being faster."""

    APPLICATION = "application-limited"
    RESERVATION = "sndbuf-limited"
    PEER = "rwnd-limited"
    NETWORK = "network-limited"

    @property
    def words(self) -> str:
        """In a sentence."""
        return _WORDS[self]


_WORDS = {
    Limit.APPLICATION: "there is not more to send",
    Limit.RESERVATION: "the reservation is too small for this channel: reserve more",
    Limit.PEER: "the peer's receive buffer is too small for this channel: reserve more at the other end",
    Limit.NETWORK: "the channel carries no more",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment; times are totals since the connection began, in nanoseconds."""

    at_ns: int
    info: TcpInfo
    waited_ns: int
    """How long writers have waited for room in reserved memory."""
    limit_bytes: int
    """What the gate lets be unacknowledged."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What limited a connection in a span of time, and the shares of it in percent."""

    limit: Limit
    span_ns: int
    busy_percent: int
    reservation_percent: int
    peer_percent: int
    retransmitted: int
    """Segments sent again in the span."""
    total_retransmitted: int
    """Segments sent again since the connection began."""
    snd_cwnd_bytes: int
    """The kernel's congestion window at its end."""
    rtt_ns: int
    """The kernel's smoothed round-trip time at its end."""


def diagnose(before: Sample, now: Sample) -> Diagnosis:
    """Judge the span between two samples. Raises ValueError where no time has passed."""
    span_ns = now.at_ns - before.at_ns
    if span_ns <= 0:
        raise ValueError("two samples are of different moments")
    busy = _percent(now.info.busy_time_ns - before.info.busy_time_ns, span_ns)
    waited = _percent(now.waited_ns - before.waited_ns, span_ns)
    peer = _percent(now.info.rwnd_limited_ns - before.info.rwnd_limited_ns, span_ns)
    retransmitted = max(0, now.info.total_retrans - before.info.total_retrans)
    return Diagnosis(
        limit=_limit(now, busy, waited, peer, retransmitted),
        span_ns=span_ns,
        busy_percent=busy,
        reservation_percent=waited,
        peer_percent=peer,
        retransmitted=retransmitted,
        total_retransmitted=now.info.total_retrans,
        snd_cwnd_bytes=now.info.snd_cwnd * now.info.snd_mss,
        rtt_ns=now.info.rtt_ns,
    )


def _limit(now: Sample, busy: int, waited: int, peer: int, retransmitted: int) -> Limit:
    info = now.info
    if peer >= _LIMITED_FROM:
        return Limit.PEER
    congested = info.snd_cwnd * info.snd_mss * 10 < now.limit_bytes * 9
    queued = info.min_rtt_ns > 0 and info.rtt_ns * 100 > info.min_rtt_ns * _QUEUE_PERCENT
    if waited >= _LIMITED_FROM:
        return Limit.NETWORK if congested or queued else Limit.RESERVATION
    if busy < _IDLE_BELOW:
        return Limit.APPLICATION
    return Limit.NETWORK if congested or queued or retransmitted else Limit.APPLICATION


def _percent(part: int, whole: int) -> int:
    return min(100, max(0, part * 100 // whole))
