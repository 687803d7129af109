"""After a restart on either side: the arrays are right about table 101, the station about table 108 (GAP-8).

:func:`settle_trail` ends what was asked and never answered, by looking; :func:`compare` takes over what an array has
and the station does not know, and raises an alarm for what has gone without being released.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from credits.errors import Refused
from credits.targets import Target
from mgmt.http import PeerError
from mgmt.station import alarms, cache, events, lifecycle, trail
from mgmt.station.arrays import Down
from mgmt.station.canonical_json import target_in, target_key, utc_text
from mgmt.station.changes import under_way
from mgmt.station.database import Transaction
from mgmt.station.lifecycle import Input
from mgmt.station.open_ends import VERB as BOTH_ENDS
from mgmt.station.open_ends import void_holds
from mgmt.station.records import AlarmKind, Cause, Holding, HoldingState, Record, Severity, Stage
from mgmt.station.turns import on_cache, on_target

if TYPE_CHECKING:
    from mgmt.station.context import Station

_PATH = "/v1/reservations"
#: Lines that one comparison writes at most; what is beyond comes with the next.
_LINES = 500
#: How long settling waits for the changes of a target that are under way; it is tried again.
_TURN_S = 1.0


def settle_trail(station: Station) -> int:
    """End every change that was asked and has no end, as far as the arrays answer; how many have none yet.

    What an array has is what counts: the record says what was found there.
    """
    newest = trail.last_number(station)
    left = [
        record.number
        for record in trail.unsettled(station, after=station.settled.number)
        if not _settle(station, record)
    ]
    # What is asked and not yet in the trail will have a number above the newest.
    station.settled.number = left[0] - 1 if left else newest
    return len(left)


def _settle(station: Station, record: Record) -> bool:
    if record.verb == BOTH_ENDS or record.array is None:
        with station.attempts.work_on(record.request_id) as mine:
            if not mine or record.request_id in {end.attempt for end in station.store.open_ends()}:
                return False  # the settler brings its ends back, and ends the record with the last
            if not void_holds(station, record):
                return False
            _end(station, record, None, "it had not come to a confirmation: nothing is reserved for it")
            return True
    with station.attempts.work_on(under_way(record.array, record.request_id)) as mine:
        if not mine:
            return False
        claims = on_cache(record.array) if record.target is None else on_target(record.array, record.target)
        try:
            with station.turns.take(record.subject, claims, wait_s=_TURN_S):
                return _look(station, record, record.array)
        except Refused:
            return False  # a later change of it has not ended yet


def _look(station: Station, record: Record, array: str) -> bool:
    """End a change by what its array has now; nobody changes that meanwhile."""
    if array not in station.arrays.names():
        _end(station, record, None, "the array is not of this station any more")
        return True
    if record.target is None:
        try:
            now = cache.free(station, array).threshold_bytes
        except PeerError:
            return False
        _end(station, record, None, f"the cache of the array warns at {now} bytes")
        return True
    answer = station.arrays.ask([array], _PATH).get(array)
    if answer is None or isinstance(answer, Down):
        return False
    found = _rows(answer).get(target_key(record.target))
    detail = (
        "the array has no reservation for it"
        if found is None
        else f"the array has {_units(found)} units reserved for it"
    )
    _end(station, record, found, detail)
    return True


def _end(station: Station, record: Record, found: Mapping[str, Any] | None, detail: str) -> None:
    def change(transaction: Transaction) -> None:
        if trail.has_end(transaction, record.number):
            return
        trail.append(
            transaction,
            station,
            record.verb,
            Stage.SETTLED,
            record.subject,
            cause=Cause.RECONCILIATION,
            of=record.number,
            array=record.array,
            target=record.target,
            request_id=record.request_id,
            before=record.before,
            after=None if found is None else _values(found),
            detail=detail,
        )
        if record.array is not None and record.target is not None:
            happened = Input.MISSING if found is None else Input.FOUND
            known = lifecycle.find(transaction.connection, record.array, record.target)
            released = found is None and record.verb == "release" and known is not None
            inputs = (Input.RELEASE, Input.GRANTED) if released else (happened,)
            values = {} if found is None else _values(found)
            lifecycle.put(transaction, station, record.array, record.target, inputs, values)
        text = f"{record.verb} of {record.subject} had no answer: {detail}"
        events.note(
            transaction,
            station,
            "settled",
            record.subject,
            text,
            severity=Severity.WARNING,
            array=record.array,
        )

    station.store.database.write(change)


def compare(station: Station, array: str, answer: Any, at: str) -> None:
    """Bring what the station knows of an array to what the array said at the time ``at``.

    What this station changes meanwhile is left alone; the next comparison sees it.
    """
    if isinstance(answer, Down) or any(
        attempt.startswith(under_way(array, "")) for attempt in station.attempts.under_way()
    ):
        return
    rows = _rows(answer)
    known = {
        target_key(holding.target): holding for holding in lifecycle.listed(station, array=array, over=True)
    }
    busy = {end.array for end in station.store.open_ends()}
    if array in busy:
        return
    lines: list[tuple[Holding | None, Target, Mapping[str, Any] | None]] = []
    for key, row in rows.items():
        holding = known.get(key)
        if holding is not None and holding.changed_at >= at:
            continue
        if holding is None or _differs(holding, row):
            target = target_in(row["target"])
            assert target is not None
            lines.append((holding, target, row))
    for key, holding in known.items():
        gone = key not in rows and holding.state not in lifecycle.OVER
        if gone and holding.changed_at < at:
            lines.append((holding, holding.target, None))
    if lines:
        station.store.database.write(lambda t: _take_over(t, station, array, lines[:_LINES], at))


def _take_over(
    transaction: Transaction,
    station: Station,
    array: str,
    lines: Iterable[tuple[Holding | None, Target, Mapping[str, Any] | None]],
    at: str,
) -> None:
    appeared: list[str] = []
    for seen, target, row in lines:
        now = lifecycle.find(transaction.connection, array, target)
        if now != seen and now is not None and now.changed_at >= at:
            continue  # changed by this station since
        before = lifecycle.summary(seen)
        state = lifecycle.put(
            transaction,
            station,
            array,
            target,
            (Input.MISSING if row is None else Input.FOUND,),
            {} if row is None else _values(row),
        )
        after = None if row is None else _values(row)
        kind, text, severity = _words(array, target, seen, row, state)
        if kind == "drained":
            events.note(transaction, station, kind, str(target), text, array=array)
            continue
        if kind == "appeared":
            appeared.append(text)
            if seen is not None:
                alarms.clear_alarm(transaction, station, AlarmKind.LOST, str(target))
            continue
        trail.append(
            transaction,
            station,
            "found",
            Stage.SETTLED,
            str(target),
            cause=Cause.RECONCILIATION,
            array=array,
            target=target,
            before=before,
            after=after,
            detail=text,
        )
        events.note(transaction, station, kind, str(target), text, severity=severity, array=array)
        if kind == "lost":
            cause = alarms.Cause(
                kind=AlarmKind.LOST,
                subject=str(target),
                text=text,
                severity=severity,
                array=array,
                target=target,
            )
            alarms.raise_alarm(transaction, station, cause)
        elif row is not None:
            alarms.clear_alarm(transaction, station, AlarmKind.LOST, str(target))
    if appeared:  # one line for all: an array that is new to the station may have thousands
        more = f", and {len(appeared) - 1} more" if len(appeared) > 1 else ""
        subject, text = f"array {array}", f"{appeared[0]}{more}"
        trail.append(
            transaction,
            station,
            "found",
            Stage.SETTLED,
            subject,
            cause=Cause.RECONCILIATION,
            array=array,
            inputs={"reservations": len(appeared)},
            detail=text,
        )
        events.note(transaction, station, "appeared", subject, text, array=array)


def _words(
    array: str,
    target: Target,
    seen: Holding | None,
    row: Mapping[str, Any] | None,
    state: HoldingState | None,
) -> tuple[str, str, Severity]:
    """Kind, text and severity of the event."""
    where = f"{target} on array {array}"
    if row is None:
        if state is HoldingState.RELEASED:
            return "drained", f"the last unit of {where} has returned", Severity.INFO
        if seen is not None and seen.lease_s is not None:
            return "lapsed", f"the lease of {where} has run out", Severity.WARNING
        had = 0 if seen is None else seen.reserved_units
        return (
            "lost",
            f"the reservation of {where} ({had} units) has gone without a release",
            Severity.CRITICAL,
        )
    if seen is None or seen.state in lifecycle.OVER:
        return "appeared", f"{where} has {_units(row)} units: reserved by somebody else", Severity.INFO
    return (
        "resized",
        f"{where} has {_units(row)} units, not {seen.reserved_units}: changed by somebody else",
        Severity.INFO,
    )


def _rows(answer: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Table 101 by target; what is released and still draining is no reservation."""
    found = {}
    for row in answer:
        target = target_in(row.get("target"))
        sizes = [row.get(name) for name in ("reserved_units", "reserved_bytes", "requested_bytes")]
        if target is not None and row.get("state") != "released" and all(type(size) is int for size in sizes):
            found[target_key(target)] = row
    return found


def _differs(holding: Holding, row: Mapping[str, Any]) -> bool:
    return holding.state in lifecycle.OVER or (
        holding.state is not HoldingState.DRAINING
        and (holding.reserved_units, holding.requested_bytes)
        != (row["reserved_units"], row["requested_bytes"])
    )


def _units(row: Mapping[str, Any]) -> int:
    return int(row["reserved_units"])


def _values(row: Mapping[str, Any]) -> dict[str, Any]:
    lease_ns = row.get("lease_ns")
    epoch = row.get("epoch")
    return {
        "requested_bytes": row["requested_bytes"],
        "reserved_units": row["reserved_units"],
        "reserved_bytes": row["reserved_bytes"],
        "epoch": epoch if type(epoch) is int else 0,
        "lease_s": max(1, lease_ns // 10**9) if type(lease_ns) is int else None,
    }


def compare_all(station: Station) -> None:
    """Compare every array, asking it now: after a start, and on request."""
    for array in station.arrays.names():
        at = utc_text(station.utc_now())
        answer = station.arrays.ask([array], _PATH).get(array)
        if answer is not None:
            compare(station, array, answer, at)
