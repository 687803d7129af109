"""The audit trail: who changed what, when, why, from what to what; each record is chained to the one before.

The hash of a record is SHA-256 over its canonical JSON, with the hash of the record before in it: a record that was
changed, taken out or put in between shows. Whoever can write to the database can write a new chain; so note the head
that ``audit verify`` says somewhere else, and give it back to a later ``audit verify --head``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select, update

from credits.errors import Code, InvalidRequest
from credits.targets import Target
from mgmt.plain import to_plain
from mgmt.station.canonical_json import dumps, target_of, target_text, utc_text
from mgmt.station.database import Transaction
from mgmt.station.events import STATION, one_line
from mgmt.station.records import Cause, Record, Stage, Verified
from mgmt.station.schema import META, TRAIL

if TYPE_CHECKING:
    from mgmt.station.context import Station

#: Records that are kept; of older ones the hash of the last stays, to which the rest is chained.
RECORD_LIMIT = 1_000_000
LIST_LIMIT = 10_000
#: Where the chain begins.
ORIGIN = "0" * 64
_ANCHOR = "trail-anchor"
_CHUNK = 5000
_HEAD = "trail-head"
_INSERT = insert(TRAIL)
_NAMES = tuple(column.name for column in TRAIL.columns)


def append(
    transaction: Transaction,
    station: Station,
    verb: str,
    stage: Stage,
    subject: str,
    *,
    by: str = STATION,
    cause: Cause = Cause.USER,
    of: int | None = None,
    array: str | None = None,
    target: Target | None = None,
    request_id: str = "",
    inputs: Mapping[str, Any] | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    detail: str = "",
) -> Record:
    """Add a record to a change: it is durable with what it tells of."""
    number, previous = _head(transaction)
    record = Record(
        number=number + 1,
        at=utc_text(station.utc_now()),
        by=by,
        verb=verb,
        stage=stage,
        of=of,
        cause=cause,
        subject=one_line(subject),
        array=array,
        target=target,
        request_id=request_id,
        inputs=dict(inputs or {}),
        before=before,
        after=after,
        detail=one_line(detail),
        previous_hash=previous,
    )
    record = replace(record, hash=hash_of(record))
    transaction.execute(_INSERT, _values(record))
    transaction.remember(_HEAD, (record.number, record.hash))
    return record


def listed(
    station: Station,
    *,
    after: int = 0,
    subject: str | None = None,
    limit: int = 1000,
) -> list[Record]:
    """Records with a number above ``after``, oldest first, at most ``limit`` (10,000)."""
    query = select(TRAIL).where(TRAIL.c.number > after)
    if subject is not None:
        query = query.where(TRAIL.c.subject == subject)
    with station.store.database.read() as connection:
        rows = connection.execute(query.order_by(TRAIL.c.number).limit(max(1, min(limit, LIST_LIMIT))))
        return [_record(dict(row)) for row in rows.mappings()]


def newest(station: Station, limit: int = 100) -> list[Record]:
    """The newest records, oldest of them first."""
    query = select(TRAIL).order_by(TRAIL.c.number.desc()).limit(max(1, min(limit, LIST_LIMIT)))
    with station.store.database.read() as connection:
        return [_record(dict(row)) for row in connection.execute(query).mappings()][::-1]


def last_number(station: Station) -> int:
    """The number of the newest record; 0 where there is none."""
    with station.store.database.read() as connection:
        return connection.execute(select(func.max(TRAIL.c.number))).scalar() or 0


def find(station: Station, number: int) -> Record | None:
    """The record of that number."""
    with station.store.database.read() as connection:
        row = connection.execute(select(TRAIL).where(TRAIL.c.number == number)).mappings().first()
        return None if row is None else _record(dict(row))


def asked_number(transaction: Transaction, request_id: str) -> int | None:
    """The number of the newest ``asked`` record of a request."""
    found: int | None = transaction.execute(
        select(TRAIL.c.number)
        .where(TRAIL.c.request_id == request_id, TRAIL.c.stage == Stage.ASKED.value)
        .order_by(TRAIL.c.number.desc())
        .limit(1)
    ).scalar()
    return found


def has_end(transaction: Transaction, number: int) -> bool:
    """Whether an ``asked`` record has been followed by what came of it."""
    ended = select(TRAIL.c.number).where(TRAIL.c.of == number, TRAIL.c.stage != Stage.UNKNOWN.value).limit(1)
    return transaction.execute(ended).first() is not None


def unsettled(station: Station, *, after: int = 0) -> list[Record]:
    """What was asked (numbers above ``after``), and what no array is known to have answered: oldest first."""
    ended = select(TRAIL.c.of).where(
        TRAIL.c.of.is_not(None), TRAIL.c.number > after, TRAIL.c.stage != Stage.UNKNOWN.value
    )
    query = (
        select(TRAIL)
        .where(TRAIL.c.number > after, TRAIL.c.stage == Stage.ASKED.value, TRAIL.c.number.not_in(ended))
        .order_by(TRAIL.c.number)
    )
    with station.store.database.read() as connection:
        return [_record(dict(row)) for row in connection.execute(query).mappings()]


def verify(station: Station, *, head: str | None = None) -> Verified:
    """Whether the trail is as it was written; with ``head`` (``NUMBER:HASH``, noted earlier) also that it goes on from
    there. Raises :class:`credits.errors.InvalidRequest` where ``head`` is none.
    """
    expected = _parse_head(head)
    with station.store.database.read() as connection:
        number, previous = _anchor(connection)
        first, records, found = None, 0, None
        while True:
            rows = connection.execute(
                select(TRAIL).where(TRAIL.c.number > number).order_by(TRAIL.c.number).limit(_CHUNK)
            ).mappings()
            chunk = [dict(row) for row in rows]
            for values in chunk:
                flaw = _flaw(values, number + 1, previous)
                if flaw:
                    return Verified(
                        records=records,
                        first=first,
                        last=number or None,
                        head=f"{number}:{previous}",
                        broken_at=number + 1,
                        detail=flaw,
                    )
                number, previous = values["number"], values["hash"]
                first, records = first or number, records + 1
                if expected is not None and number == expected[0]:
                    found = values["hash"]
            if len(chunk) < _CHUNK:
                break
    detail = ""
    if expected is not None and found != expected[1]:
        detail = (
            f"the trail has no record {expected[0]}: it has been cut off, or the record is too old to be kept"
            if found is None
            else f"record {expected[0]} is not the one that was noted: the trail has been written anew"
        )
    return Verified(
        records=records,
        first=first,
        last=number or None,
        head=f"{number}:{previous}",
        broken_at=None,
        detail=detail,
    )


def row(record: Record) -> dict[str, Any]:
    """The JSON object of one record."""
    plain: dict[str, Any] = to_plain(record)
    return plain


def verdict(verified: Verified) -> dict[str, Any]:
    """The JSON object of a verification."""
    return asdict(verified) | {"sound": verified.sound}


def hash_of(record: Record) -> str:
    """SHA-256 (hex) over everything in the record but its own hash."""
    plain = to_plain(replace(record, hash=""))
    return hashlib.sha256(dumps(plain).encode()).hexdigest()


def thin(transaction: Transaction) -> int:
    """Forget the oldest records beyond the limit, and remember what the rest is chained to; how many went."""
    last = transaction.execute(select(func.max(TRAIL.c.number))).scalar() or 0
    cut = transaction.execute(select(TRAIL.c.hash).where(TRAIL.c.number == last - RECORD_LIMIT)).scalar()
    if cut is None:
        return 0
    value = f"{last - RECORD_LIMIT}:{cut}"
    if not transaction.execute(update(META).where(META.c.key == _ANCHOR).values(value=value)).rowcount:
        transaction.execute(insert(META).values(key=_ANCHOR, value=value))
    gone = transaction.execute(delete(TRAIL).where(TRAIL.c.number <= last - RECORD_LIMIT))
    return int(gone.rowcount)


def _head(transaction: Transaction) -> tuple[int, str]:
    known: tuple[int, str] | None = transaction.memory.get(_HEAD)
    if known is not None:
        return known
    newest = select(TRAIL.c.number, TRAIL.c.hash).order_by(TRAIL.c.number.desc()).limit(1)
    found = transaction.execute(newest).first()
    return _anchor(transaction.connection) if found is None else (found[0], found[1])


def _anchor(connection: Any) -> tuple[int, str]:
    found = connection.execute(select(META.c.value).where(META.c.key == _ANCHOR)).scalar()
    if found is None:
        return 0, ORIGIN
    number, _, digest = str(found).partition(":")
    return int(number), digest


def _flaw(values: Mapping[str, Any], number: int, previous: str) -> str:
    """What is wrong with a stored record, or nothing."""
    if values["number"] != number:
        return f"record {number} is missing"
    if values["previous_hash"] != previous:
        return f"record {number} is not chained to the one before"
    try:
        record = _record(values)
    except (ValueError, TypeError):
        return f"record {number} cannot be read"
    return "" if hash_of(record) == values["hash"] else f"record {number} has been changed"


def _parse_head(head: str | None) -> tuple[int, str] | None:
    if head is None:
        return None
    number, sign, digest = head.partition(":")
    sound = number.isascii() and number.isdigit() and len(number) < 19 and len(digest) == len(ORIGIN)
    if not sign or not sound:
        raise InvalidRequest(
            Code.BAD_MESSAGE, f"a head is NUMBER:HASH as `audit verify` says it, not {head!r:.100}"
        )
    return int(number), digest


def _values(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _NAMES} | {
        "stage": record.stage.value,
        "cause": record.cause.value,
        "target": target_text(record.target),
        "inputs": dumps(record.inputs),
        "before": None if record.before is None else dumps(record.before),
        "after": None if record.after is None else dumps(record.after),
    }


def _record(values: Mapping[str, Any]) -> Record:
    read = dict(values) | {
        "stage": Stage(values["stage"]),
        "cause": Cause(values["cause"]),
        "target": target_of(values["target"]),
        "inputs": json.loads(values["inputs"]),
        "before": None if values["before"] is None else json.loads(values["before"]),
        "after": None if values["after"] is None else json.loads(values["after"]),
    }
    return Record(**read)
