"""Events: what happened, one line each, bounded, and announced to who listens once they are durable."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select

from mgmt.station.canonical_json import utc_text
from mgmt.station.database import Transaction
from mgmt.station.records import Event, Severity
from mgmt.station.schema import EVENTS

if TYPE_CHECKING:
    from mgmt.station.context import Station

#: Events that are kept; the oldest go first.
EVENT_LIMIT = 100_000
#: Events in one answer.
LIST_LIMIT = 10_000
#: A line that a peer's words are in is cut.
TEXT_LIMIT = 1000
#: Who did what no user asked for.
STATION = "station"

_INSERT = insert(EVENTS)

Listener = Callable[[Event], None]


class Feed:
    """Who wants to hear of events. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: tuple[Listener, ...] = ()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with each event from now on, in order, on a thread of the store; returns how to stop.

        It must neither block nor raise: hand the event over to a thread or loop of your own.
        """
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def stop() -> None:
            with self._lock:
                self._listeners = tuple(other for other in self._listeners if other is not listener)

        return stop

    def announce(self, event: Event) -> None:
        """Tell the listeners."""
        for listener in self._listeners:
            listener(event)


def note(
    transaction: Transaction,
    station: Station,
    kind: str,
    subject: str,
    text: str,
    *,
    severity: Severity = Severity.INFO,
    array: str | None = None,
    by: str = STATION,
) -> Event:
    """Add an event to a change; it is announced when the change is durable."""
    values = {
        "at": utc_text(station.utc_now()),
        "kind": kind,
        "severity": severity.value,
        "subject": one_line(subject),
        "array": array,
        "text": one_line(text),
        "by": by,
    }
    number = transaction.execute(_INSERT, values).inserted_primary_key[0]
    event = Event(**(values | {"number": number, "severity": severity}))
    transaction.afterwards.append(lambda: station.feed.announce(event))
    return event


def listed(
    station: Station,
    *,
    after: int = 0,
    kind: str | None = None,
    array: str | None = None,
    subject: str | None = None,
    limit: int = 1000,
) -> list[Event]:
    """Events with a number above ``after``, oldest first, at most ``limit`` (10,000)."""
    query = select(EVENTS).where(EVENTS.c.number > after)
    for column, value in ((EVENTS.c.kind, kind), (EVENTS.c.array, array), (EVENTS.c.subject, subject)):
        if value is not None:
            query = query.where(column == value)
    return _events(station, query.order_by(EVENTS.c.number).limit(_bounded(limit)))


def newest(station: Station, limit: int = 100) -> list[Event]:
    """The newest events, oldest of them first."""
    return _events(station, select(EVENTS).order_by(EVENTS.c.number.desc()).limit(_bounded(limit)))[::-1]


def row(event: Event) -> dict[str, Any]:
    """The JSON object of one event."""
    return asdict(event) | {"severity": event.severity.value}


def thin(transaction: Transaction) -> int:
    """Forget the oldest events beyond the limit; how many."""
    last = transaction.execute(select(func.max(EVENTS.c.number))).scalar() or 0
    return int(transaction.execute(delete(EVENTS).where(EVENTS.c.number <= last - EVENT_LIMIT)).rowcount)


def one_line(text: str) -> str:
    """``text`` without control signs and not too long, whatever a peer or a user put into it."""
    line = text if text.isprintable() else "".join(sign if sign.isprintable() else " " for sign in text)
    return line if len(line) <= TEXT_LIMIT else line[: TEXT_LIMIT - 1] + "…"


def _bounded(limit: int) -> int:
    return max(1, min(limit, LIST_LIMIT))


def _events(station: Station, query: Any) -> list[Event]:
    with station.store.database.read() as connection:
        return [
            Event(**(dict(found) | {"severity": Severity(found["severity"])}))
            for found in connection.execute(query).mappings()
        ]
