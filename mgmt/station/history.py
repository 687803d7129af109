"""Channel history: every sample for an hour, then means and extremes of ever longer spans; bounded.

A row covers ``span_s`` seconds from ``at`` on; the finest rows are of one second, so that a device that floods the
station with notifications fills no disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, func, insert, select

from mgmt.station.canonical_json import utc_text
from mgmt.station.context import canonical_pair
from mgmt.station.database import Transaction
from mgmt.station.records import Sample
from mgmt.station.schema import SAMPLES

if TYPE_CHECKING:
    from mgmt.station.context import Station
    from mgmt.station.store import Channel

_HOUR_S, _DAY_S = 3600, 86_400
#: How long rows of a span stay, and the span of the rows they become; the last are forgotten.
SPANS: tuple[tuple[int, int, int | None], ...] = (
    (1, _HOUR_S, 60),
    (60, 2 * _DAY_S, 900),
    (900, 60 * _DAY_S, 6 * _HOUR_S),
    (6 * _HOUR_S, 3 * 365 * _DAY_S, None),
)
#: Rows that are kept over all channels; the oldest of the finest go first.
ROW_LIMIT = 5_000_000
LIST_LIMIT = 10_000
#: Rows that one pass of thinning takes up at most.
_PASS_LIMIT = 20_000
_KEY = (SAMPLES.c.local_port, SAMPLES.c.remote_port, SAMPLES.c.span_s, SAMPLES.c.at_ms)
_MEANS = ("bandwidth_bps", "rtt_ns")
#: The columns of a sample beside its ports and its time.
_VALUES = tuple(
    field.name for field in fields(Sample) if field.name not in ("local_port", "remote_port", "at")
)
_SAMPLES = select(SAMPLES.c.at_ms, *(SAMPLES.c[name] for name in _VALUES))


def note(transaction: Transaction, station: Station, channel: Channel) -> None:
    """Add the values that a channel has now."""
    assert channel.bandwidth_bps is not None and channel.rtt_ns is not None
    now_ms = int(station.utc_now().timestamp() * 1000)
    _merge(
        transaction,
        {
            "local_port": channel.local_port,
            "remote_port": channel.remote_port,
            "span_s": 1,
            "at_ms": now_ms - now_ms % 1000,
            "samples": 1,
            "bandwidth_bps": channel.bandwidth_bps,
            "bandwidth_min_bps": channel.bandwidth_bps,
            "bandwidth_max_bps": channel.bandwidth_bps,
            "rtt_ns": channel.rtt_ns,
            "rtt_min_ns": channel.rtt_ns,
            "rtt_max_ns": channel.rtt_ns,
            "method": channel.method,
        },
    )


def samples(
    station: Station,
    local_port: str,
    remote_port: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 2000,
) -> list[Sample]:
    """The history of a port pair, oldest first; the newest ``limit`` (10,000) rows of the time asked for."""
    found = rows(station, local_port, remote_port, since=since, until=until, limit=limit)
    return [Sample(**values) for values in found]


def rows(
    station: Station,
    local_port: str,
    remote_port: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 2000,
) -> list[dict[str, Any]]:
    """The same as JSON objects: a day has 1440 of them, and they are read for every chart."""
    local_port, remote_port = canonical_pair(local_port, remote_port)
    query = _SAMPLES.where(SAMPLES.c.local_port == local_port, SAMPLES.c.remote_port == remote_port)
    if since is not None:
        query = query.where(SAMPLES.c.at_ms + SAMPLES.c.span_s * 1000 > _ms(since))
    if until is not None:
        query = query.where(SAMPLES.c.at_ms <= _ms(until))
    query = query.order_by(SAMPLES.c.at_ms.desc()).limit(max(1, min(limit, LIST_LIMIT)))
    with station.store.database.read() as connection:
        found = connection.execute(query).all()
    ports = {"local_port": local_port, "remote_port": remote_port}
    return [
        {
            **ports,
            "at": utc_text(datetime.fromtimestamp(at_ms / 1000, UTC)),
            **dict(zip(_VALUES, values, strict=True)),
        }
        for at_ms, *values in reversed(found)
    ]


def thin(transaction: Transaction, station: Station) -> int:
    """Bring old rows together, and forget the oldest; how many rows there are fewer."""
    now_ms = int(station.utc_now().timestamp() * 1000)
    fewer = 0
    for span_s, keep_s, into_s in SPANS:
        old = and_(SAMPLES.c.span_s == span_s, SAMPLES.c.at_ms < now_ms - keep_s * 1000)
        found = transaction.execute(select(SAMPLES).where(old).order_by(SAMPLES.c.at_ms).limit(_PASS_LIMIT))
        rows = [dict(row) for row in found.mappings()]
        if not rows:
            continue
        end_ms = rows[-1]["at_ms"]
        if (
            len(rows) == _PASS_LIMIT
        ):  # leave the rows of the last moment for the next pass: none is counted twice
            rows = [row for row in rows if row["at_ms"] < end_ms]
            old = and_(SAMPLES.c.span_s == span_s, SAMPLES.c.at_ms < end_ms)
        transaction.execute(delete(SAMPLES).where(old))
        merged = {} if into_s is None else _gathered(rows, into_s)
        for values in merged.values():
            _merge(transaction, values)
        fewer += len(rows) - len(merged)
    return fewer + _forget_beyond(transaction)


def _forget_beyond(transaction: Transaction) -> int:
    count = transaction.execute(select(func.count()).select_from(SAMPLES)).scalar_one()
    if count <= ROW_LIMIT:
        return 0
    oldest = (
        select(*_KEY).order_by(SAMPLES.c.span_s, SAMPLES.c.at_ms).limit(min(count - ROW_LIMIT, _PASS_LIMIT))
    )
    keys = transaction.execute(oldest).all()
    for key in keys:
        transaction.execute(delete(SAMPLES).where(_at(key)))
    return len(keys)


def _gathered(rows: Iterable[Mapping[str, Any]], into_s: int) -> dict[tuple[str, str, int], dict[str, Any]]:
    """``rows`` as rows of ``into_s`` seconds."""
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for row in rows:
        at_ms = row["at_ms"] - row["at_ms"] % (into_s * 1000)
        key = row["local_port"], row["remote_port"], at_ms
        values = dict(row) | {"span_s": into_s, "at_ms": at_ms}
        found[key] = values if key not in found else _together(found[key], values)
    return found


def _merge(transaction: Transaction, values: dict[str, Any]) -> None:
    key = _at([values[column.name] for column in _KEY])
    known = transaction.execute(select(SAMPLES).where(key)).mappings().first()
    if known is not None:
        values = _together(dict(known), values)
        transaction.execute(delete(SAMPLES).where(key))
    transaction.execute(insert(SAMPLES).values(values))


def _together(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two rows of the same span as one; ``other`` is the newer."""
    count = one["samples"] + other["samples"]
    merged = dict(other) | {"samples": count}
    for name in _MEANS:
        merged[name] = (one[name] * one["samples"] + other[name] * other["samples"]) // count
    for name in ("bandwidth_min_bps", "rtt_min_ns"):
        merged[name] = min(one[name], other[name])
    for name in ("bandwidth_max_bps", "rtt_max_ns"):
        merged[name] = max(one[name], other[name])
    return merged


def _at(key: Iterable[Any]) -> Any:
    return and_(*(column == value for column, value in zip(_KEY, key, strict=True)))


def _ms(at: datetime) -> int:
    aware = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return int(aware.timestamp() * 1000)
