"""Alarms: what somebody should do something about, until its cause has gone; and who has seen it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, func, insert, or_, select, update

from credits.errors import Code, InvalidRequest
from credits.targets import Target
from mgmt.http import ProblemError
from mgmt.plain import to_plain
from mgmt.station import events
from mgmt.station.canonical_json import target_of, target_text, utc_text
from mgmt.station.database import Transaction
from mgmt.station.events import one_line
from mgmt.station.records import Alarm, AlarmKind, AlarmState, Severity
from mgmt.station.schema import ALARMS

if TYPE_CHECKING:
    from mgmt.station.context import Station

#: Cleared alarms that are kept; the oldest go first.
CLEARED_LIMIT = 10_000
#: Alarms that are not cleared; nobody can fill the disk by raising more.
OPEN_LIMIT = 10_000
LIST_LIMIT = 10_000
NOTE_LIMIT = 500
OPEN = (AlarmState.ACTIVE.value, AlarmState.ACKNOWLEDGED.value)
_NOT_CLEARED = ALARMS.c.cleared_at.is_(None)
_STATES = {
    AlarmState.ACTIVE: and_(_NOT_CLEARED, ALARMS.c.acknowledged_at.is_(None)),
    AlarmState.ACKNOWLEDGED: and_(_NOT_CLEARED, ALARMS.c.acknowledged_at.is_not(None)),
    AlarmState.CLEARED: ALARMS.c.cleared_at.is_not(None),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """What is wrong now: one alarm for each kind and subject."""

    kind: AlarmKind
    subject: str
    text: str
    severity: Severity = Severity.WARNING
    array: str | None = None
    target: Target | None = None

    @property
    def key(self) -> tuple[str, str]:
        """By what it is known again."""
        return self.kind.value, one_line(self.subject)


def raise_alarm(transaction: Transaction, station: Station, cause: Cause) -> Alarm | None:
    """Raise an alarm, or bring the one that there is to its newest words; ``None`` where there are too many."""
    found = transaction.execute(
        select(ALARMS).where(
            ALARMS.c.kind == cause.kind.value,
            ALARMS.c.subject == one_line(cause.subject),
            ALARMS.c.cleared_at.is_(None),
        )
    )
    known = found.mappings().first()
    now = utc_text(station.utc_now())
    text = one_line(cause.text)
    if known is not None:
        if (known["text"], known["severity"]) == (text, cause.severity.value):
            return _alarm(dict(known))
        changed = {
            "text": text,
            "severity": cause.severity.value,
            "changed_at": now,
            "count": known["count"] + 1,
        }
        transaction.execute(update(ALARMS).where(ALARMS.c.number == known["number"]).values(changed))
        return _alarm(dict(known) | changed)
    still_open = select(func.count()).select_from(ALARMS).where(ALARMS.c.cleared_at.is_(None))
    if transaction.execute(still_open).scalar_one() >= OPEN_LIMIT:
        return None
    values: dict[str, Any] = {
        "kind": cause.kind.value,
        "severity": cause.severity.value,
        "subject": one_line(cause.subject),
        "array": cause.array,
        "target": target_text(cause.target),
        "text": text,
        "raised_at": now,
        "changed_at": now,
        "count": 1,
        "cleared_at": None,
        "acknowledged_at": None,
        "acknowledged_by": None,
        "note": "",
    }
    number = transaction.execute(insert(ALARMS).values(values)).inserted_primary_key[0]
    events.note(
        transaction,
        station,
        "alarm-raised",
        cause.subject,
        f"alarm {number} ({cause.kind.value}): {text}",
        severity=cause.severity,
        array=cause.array,
    )
    return _alarm(values | {"number": number})


def clear_alarm(transaction: Transaction, station: Station, kind: AlarmKind, subject: str) -> bool:
    """The cause has gone; whether there was an alarm."""
    found = transaction.execute(
        select(ALARMS).where(
            ALARMS.c.kind == kind.value,
            ALARMS.c.subject == one_line(subject),
            ALARMS.c.cleared_at.is_(None),
        )
    )
    known = found.mappings().first()
    if known is None:
        return False
    now = utc_text(station.utc_now())
    transaction.execute(
        update(ALARMS).where(ALARMS.c.number == known["number"]).values(cleared_at=now, changed_at=now)
    )
    events.note(
        transaction,
        station,
        "alarm-cleared",
        known["subject"],
        f"alarm {known['number']} ({kind.value}) is over",
        array=known["array"],
    )
    return True


def find(station: Station, kind: AlarmKind, subject: str) -> Alarm | None:
    """The open alarm of a kind about something."""
    query = select(ALARMS).where(
        ALARMS.c.kind == kind.value, ALARMS.c.subject == one_line(subject), _NOT_CLEARED
    )
    with station.store.database.read() as connection:
        row = connection.execute(query).mappings().first()
        return None if row is None else _alarm(dict(row))


def bring_to(station: Station, kinds: Collection[AlarmKind], causes: Iterable[Cause]) -> None:
    """Let the open alarms of ``kinds`` be exactly those of ``causes``; nothing is written where they are already."""
    wanted = {cause.key: cause for cause in causes}
    known = {
        (alarm.kind.value, alarm.subject): alarm
        for alarm in listed(station, limit=LIST_LIMIT)
        if alarm.kind in kinds
    }
    gone = [alarm for key, alarm in known.items() if key not in wanted]
    new = [cause for key, cause in wanted.items() if _differs(known.get(key), cause)]
    if not gone and not new:
        return

    def change(transaction: Transaction) -> None:
        for alarm in gone:
            clear_alarm(transaction, station, alarm.kind, alarm.subject)
        for cause in new:
            raise_alarm(transaction, station, cause)

    station.store.database.write(change)


def _differs(alarm: Alarm | None, cause: Cause) -> bool:
    return alarm is None or (alarm.text, alarm.severity) != (one_line(cause.text), cause.severity)


def listed(
    station: Station,
    *,
    states: Collection[str] = OPEN,
    kind: AlarmKind | None = None,
    array: str | None = None,
    limit: int = 1000,
) -> list[Alarm]:
    """Alarms in one of ``states`` (there must be one), newest first, at most ``limit`` (10,000)."""
    query = select(ALARMS).order_by(ALARMS.c.number.desc()).limit(max(1, min(limit, LIST_LIMIT)))
    query = query.where(or_(*(_STATES[AlarmState(state)] for state in states)))
    if kind is not None:
        query = query.where(ALARMS.c.kind == kind.value)
    if array is not None:
        query = query.where(ALARMS.c.array == array)
    with station.store.database.read() as connection:
        return [_alarm(dict(row)) for row in connection.execute(query).mappings()]


def count(station: Station) -> int:
    """How many alarms are open that nobody has acknowledged."""
    query = select(func.count()).select_from(ALARMS).where(_STATES[AlarmState.ACTIVE])
    with station.store.database.read() as connection:
        return connection.execute(query).scalar() or 0


def acknowledge(station: Station, number: int, *, by: str, note: str = "") -> Alarm:
    """Somebody has seen the alarm, and perhaps says something about it; again to change the note.

    Raises :class:`mgmt.http.ProblemError` where there is no such alarm or it is over, and
    :class:`credits.errors.InvalidRequest` for a note that is too long.
    """
    if len(note) > NOTE_LIMIT:
        raise InvalidRequest(
            Code.INVALID_SIZE, f"a note has at most {NOTE_LIMIT} characters, not {len(note)}"
        )

    def change(transaction: Transaction) -> Alarm:
        known = transaction.execute(select(ALARMS).where(ALARMS.c.number == number)).mappings().first()
        if known is None:
            raise ProblemError(
                "NOT_FOUND",
                f"there is no alarm {number}: see `sancredit get alarms`",
                status=404,
                title="No such alarm",
            )
        if known["cleared_at"] is not None:
            raise ProblemError(
                "CLEARED",
                f"alarm {number} is over since {known['cleared_at']}",
                status=409,
                title="The alarm is over",
            )
        now = utc_text(station.utc_now())
        changed = {
            "acknowledged_at": now,
            "acknowledged_by": by,
            "changed_at": now,
            "note": one_line(note),
        }
        transaction.execute(update(ALARMS).where(ALARMS.c.number == number).values(changed))
        said = f": {note}" if note else ""
        events.note(
            transaction,
            station,
            "alarm-acknowledged",
            known["subject"],
            f"alarm {number} ({known['kind']}) is acknowledged{said}",
            array=known["array"],
            by=by,
        )
        return _alarm(dict(known) | changed)

    return station.store.database.write(change)


def row(alarm: Alarm) -> dict[str, Any]:
    """The JSON object of one alarm; what is not known is null."""
    names = ("array", "target", "cleared_at", "acknowledged_at", "acknowledged_by")
    unset: dict[str, Any] = dict.fromkeys(names)
    plain: dict[str, Any] = to_plain(alarm)
    return unset | {"state": alarm.state.value} | plain


def thin(transaction: Transaction) -> int:
    """Forget the oldest cleared alarms beyond the limit; how many."""
    cleared = ALARMS.c.cleared_at.is_not(None)
    newest = select(ALARMS.c.number).where(cleared).order_by(ALARMS.c.number.desc()).limit(CLEARED_LIMIT)
    oldest_kept = transaction.execute(select(func.min(newest.subquery().c.number))).scalar() or 0
    gone = transaction.execute(delete(ALARMS).where(cleared, ALARMS.c.number < oldest_kept))
    return int(gone.rowcount)


def _alarm(values: Mapping[str, Any]) -> Alarm:
    read = dict(values) | {
        "kind": AlarmKind(values["kind"]),
        "severity": Severity(values["severity"]),
        "target": target_of(values["target"]),
    }
    return Alarm(**read)
