"""Token buckets (one for each client): how many requests it may make at once and in the long run. Sans-IO."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """``burst`` requests at once, ``per_second`` in the long run."""

    per_second: float
    burst: float


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_ns: int


class Buckets:
    """The buckets of at most ``limit`` clients; the one unheard of for longest is forgotten first.

    A forgotten client begins with a full bucket again, so ``limit`` bounds the memory and not the rate of one client.
    """

    def __init__(self, rate: Rate, *, limit: int = 4096) -> None:
        self._rate = rate
        self._limit = limit
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, client: str, now_ns: int, tokens: float = 1.0) -> int:
        """0 where ``client`` may go on; else nanoseconds until it may, and nothing is taken."""
        bucket = self._filled(client, now_ns)
        if bucket.tokens >= tokens:
            bucket.tokens -= tokens
            return 0
        return round((tokens - bucket.tokens) / self._rate.per_second * 1e9)

    def _filled(self, client: str, now_ns: int) -> _Bucket:
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._buckets[client] = _Bucket(self._rate.burst, now_ns)
            if len(self._buckets) > self._limit:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(client)
            elapsed_ns = max(0, now_ns - bucket.at_ns)
            bucket.tokens = min(self._rate.burst, bucket.tokens + elapsed_ns * self._rate.per_second / 1e9)
            bucket.at_ns = max(bucket.at_ns, now_ns)
        return bucket
