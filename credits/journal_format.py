"""What the journal's file looks like: tables, rows, and how answers are written; one description of each.

A SQLite database in WAL mode. ``reservations`` is table 101 with table 1500 in it, ``answers`` the recent answers
by request ID, ``seeds`` the buffer IDs still to issue first, ``numbers`` the counters that must never run
backwards.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from credits.errors import InvalidRequest
from credits.results import HoldResult, ReleaseResult, ReserveResult, UpdateResult
from credits.sharing import Sharing, check_sharing
from credits.source import Grant
from credits.targets import Target, TargetKind
from credits.verbs import Result

FORMAT = 2
#: "sanc", so that the journal is not taken for some other program's database, nor the other way round.
APPLICATION_ID = 0x73616E63

SCHEMA = (
    "CREATE TABLE numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE pool (name TEXT NOT NULL, kind TEXT NOT NULL) STRICT",
    "CREATE TABLE seeds (buffer_id INTEGER NOT NULL, position INTEGER PRIMARY KEY) STRICT",
    "CREATE TABLE answers (position INTEGER PRIMARY KEY, request_id TEXT NOT NULL UNIQUE, "
    "request TEXT NOT NULL, answer TEXT NOT NULL) STRICT",
    "CREATE TABLE reservations (key TEXT PRIMARY KEY, kind TEXT NOT NULL, local_port TEXT, remote_port TEXT, "
    "remote_port_number INTEGER, buffer_id INTEGER, name TEXT, units INTEGER NOT NULL, "
    "requested_bytes INTEGER NOT NULL, grant_order INTEGER NOT NULL, lease_ns INTEGER, epoch INTEGER NOT NULL, "
    "connections INTEGER, minimum_bytes INTEGER) STRICT, WITHOUT ROWID",
)

#: What turns a file of the key's format into one of the next.
MIGRATIONS: Mapping[int, tuple[str, ...]] = {
    1: (
        "ALTER TABLE reservations ADD COLUMN connections INTEGER",
        "ALTER TABLE reservations ADD COLUMN minimum_bytes INTEGER",
    ),
}

#: A row of ``reservations``, its key first.
Row = tuple[Any, ...]
ROW_COLUMNS = (
    "key, kind, local_port, remote_port, remote_port_number, buffer_id, name, "
    "units, requested_bytes, grant_order, lease_ns, epoch, connections, minimum_bytes"
)
UPSERT = f"INSERT OR REPLACE INTO reservations ({ROW_COLUMNS}) VALUES ({', '.join('?' * 14)})"
DELETE = "DELETE FROM reservations WHERE key = ?"
RAISE_NUMBER = (
    "INSERT INTO numbers (name, value) VALUES (?, ?) "
    "ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)"
)


def row_of(target: Target, grant: Grant) -> Row:
    """A reservation as a row."""
    return (
        target.key,
        target.kind.value,
        target.local_port,
        target.remote_port,
        target.remote_port_number,
        target.buffer_id,
        target.name,
        grant.units,
        grant.requested_bytes,
        grant.order,
        grant.lease_ns,
        grant.epoch,
        grant.sharing.connections if grant.sharing else None,
        grant.sharing.minimum_bytes if grant.sharing else None,
    )


def reservation_of(row: Row) -> tuple[Target, Grant]:
    """The reservation of a row. Raises :class:`ValueError` where the row makes none."""
    _, kind, local_port, remote_port, number, buffer_id, name, *granted, connections, minimum_bytes = row
    units, requested, order, lease_ns, epoch = granted
    target = Target(TargetKind(kind), local_port, remote_port, number, buffer_id, name)
    sharing = None
    if connections is not None:
        sharing = Sharing(connections=connections, minimum_bytes=minimum_bytes)
        try:
            check_sharing(target, sharing)
        except InvalidRequest as error:
            raise ValueError(str(error)) from error
    return target, Grant(units, requested, order, lease_ns, epoch, sharing)


_RESULTS: Mapping[str, type[Any]] = {
    kind.__name__: kind for kind in (ReserveResult, UpdateResult, ReleaseResult, HoldResult)
}


def answer_text(result: Result) -> str:
    """An answer as JSON text."""
    return json.dumps({"answer": type(result).__name__, **dataclasses.asdict(result)}, separators=(",", ":"))


def answer_of(text: str) -> Result:
    """The answer of a JSON text. Raises :class:`ValueError` where it is none of ours."""
    try:
        return _result_of(json.loads(text))
    except (KeyError, TypeError) as error:
        raise ValueError(f"not an answer: {error}") from error


def _result_of(plain: dict[str, Any]) -> Result:
    kind = _RESULTS[plain.pop("answer", UpdateResult.__name__)]
    target = plain["target"]
    plain["target"] = Target(**{**target, "kind": TargetKind(target["kind"])})
    if "records" in plain:
        plain["records"] = tuple(_result_of(record) for record in plain["records"])
    result: Result = kind(**plain)
    return result
