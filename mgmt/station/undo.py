"""Undoing a change: what was reserved is released, what was resized or released gets its old size, policies come back.

A change is undone only while nothing else has changed the same reservation since: its size is what it left, and the
array's fencing number (GAP-10) is still that of who made it. What is undone is itself in the audit trail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credits.errors import Code, InvalidRequest, Refused
from credits.targets import Target, TargetKind, port_pair
from mgmt.http import PeerUnreachable, ProblemError
from mgmt.station import channels, policies, trail, updates
from mgmt.station.canonical_json import target_in, target_key
from mgmt.station.context import LOCAL_USER
from mgmt.station.database import Transaction
from mgmt.station.open_ends import VERB as BOTH_ENDS
from mgmt.station.records import Cause, Record, Stage
from mgmt.station.reservations import Also, bring_to, release, reserve_on

if TYPE_CHECKING:
    from mgmt.station.context import Station

#: How far back the last change of a user is looked for.
_LOOK_BACK = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Undone:
    """What was undone, and in words what is now."""

    record: Record
    texts: tuple[str, ...]


def candidate(station: Station) -> Record | None:
    """The last change that a user made and that is not undone yet, where it can be undone."""
    newest = trail.newest(station, _LOOK_BACK)
    undone = {record.inputs.get("undoes") for record in newest if record.stage is Stage.DONE}
    for record in reversed(newest):
        by_user = record.stage is Stage.DONE and record.cause is Cause.USER
        if by_user and record.verb in _WAYS and record.number not in undone:
            return record
    return None


def undo(station: Station, *, number: int | None = None, by: str = LOCAL_USER) -> Undone:
    """Undo the change with that number in the audit trail, or the last one that a user made.

    Raises :class:`ProblemError` where there is none, :class:`Refused` (STALE) where something has changed since,
    :class:`InvalidRequest` for what cannot be undone, and what the arrays refuse with.
    """
    record = candidate(station) if number is None else trail.find(station, number)
    if record is None:
        what = "no change of a user to undo" if number is None else f"no change {number} in the audit trail"
        raise ProblemError("NOT_FOUND", f"there is {what}", status=404, title="Nothing to undo")
    way = _WAYS.get(record.verb)
    if way is None or record.stage is not Stage.DONE:
        raise InvalidRequest(
            Code.INVALID_TARGET,
            f"change {record.number} ({record.verb}, {record.stage.value}) is none that can be undone",
        )
    return Undone(record=record, texts=tuple(way(station, record, by)))


def row(undone: Undone) -> dict[str, Any]:
    """The JSON object: the record that was undone, and what is now."""
    return {"undone": trail.row(undone.record), "texts": list(undone.texts)}


# -- the ways --------------------------------------------------------------------------------------------------


def _size(station: Station, record: Record, by: str) -> list[str]:
    assert record.array is not None and record.target is not None
    if "buffer_ids" in (record.after or {}):
        raise InvalidRequest(
            Code.INVALID_TARGET,
            f"change {record.number} was of several connections at once: bring each to its size (`sancredit update`)",
        )
    restore = _restore_policy(station, record.target, record.inputs.get("policy_before", _UNCHANGED), by)
    return [
        _bring_back(station, record, record.array, record.target, record.before, record.after, by, restore)
    ]


def _both(station: Station, record: Record, by: str) -> list[str]:
    target = record.target
    assert target is not None and target.local_port is not None and target.remote_port is not None
    mirrored = port_pair(target.remote_port, target.local_port)
    earlier = record.inputs.get("policies_before", {})
    texts = []
    for end in (mirrored, target):
        after = (record.after or {})[str(end)]
        before = (record.before or {}).get(str(end))
        restore = _restore_policy(station, end, earlier.get(str(end), _UNCHANGED), by)
        texts.append(_bring_back(station, record, after["array"], end, before, after, by, restore))
    return texts[::-1]


def _bring_back(
    station: Station,
    record: Record,
    array: str,
    target: Target,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    by: str,
    restore: Also,
) -> str:
    """Bring one reservation to what it was; one that is so already is left alone."""
    found = _row_of(station, array, target)
    had, has = _units(before), _units(found)
    if has == had:
        return f"{target} on array {array} has {had} units, as before"
    if has != _units(after):
        raise Refused(
            Code.STALE,
            f"change {record.number} left {target} on array {array} with {_units(after)} units, and it has {has} now: "
            "somebody has changed it since",
        )
    epoch = None if found is None else found.get("epoch")
    fence = epoch if type(epoch) is int else None
    inputs = {"undoes": record.number}
    if had == 0:
        release(station, target, on=array, epoch=fence, by=by, cause=Cause.UNDO, inputs=inputs, also=restore)
        return f"{target} on array {array} is released"
    assert before is not None
    size = before.get("requested_bytes") or had * _unit_bytes(found, after)
    if has == 0:
        if target.kind is TargetKind.CONNECTION:
            raise InvalidRequest(
                Code.INVALID_TARGET, f"a released {target} is not given again: reserve a new one"
            )
        reserve_on(
            station, target, array, size, by=by, cause=Cause.UNDO, inputs=inputs, also=lambda t, _: restore(t)
        )
    else:
        bring_to(
            station,
            target,
            array,
            station.arrays[array],
            size,
            inputs=inputs,
            by=by,
            cause=Cause.UNDO,
            epoch=fence,
            also=restore,
        )
    return f"{target} on array {array} has {had} units again"


def _policy(station: Station, record: Record, by: str) -> list[str]:
    assert record.target is not None
    inputs = {"undoes": record.number}
    if record.before is None:
        policies.remove(station, record.target, by=by, cause=Cause.UNDO, inputs=inputs)
        return [f"{record.target} has no policy, as before"]
    before = policies.read(record.before)
    now = policies.find(station, record.target)
    if now is not None and record.after is not None and now != policies.read(record.after):
        raise Refused(
            Code.STALE, f"the policy of {record.target} has been changed since change {record.number}"
        )
    updates.put_policy(station, before, by=by, cause=Cause.UNDO, inputs=inputs)
    return [f"the size of {record.target} is {before.sizing.value} again"]


def _register(station: Station, record: Record, by: str) -> list[str]:
    target = channels.target_named(record.subject)
    inputs = {"undoes": record.number}
    if record.before is None:
        channels.unregister(station, target, by=by, cause=Cause.UNDO, inputs=inputs)
        return [f"{record.subject} is not in table 108 any more"]
    row = channels.register(station, target, **record.before, by=by, cause=Cause.UNDO, inputs=inputs)
    return [
        f"{record.subject} has {row.sessions} sessions of {row.connections_per_session} connections again"
    ]


_WAYS: Mapping[str, Callable[[Station, Record, str], list[str]]] = {
    "reserve": _size,
    "update": _size,
    "enlarge": _size,
    "release": _size,
    BOTH_ENDS: _both,
    "policy": _policy,
    "register": _register,
    "unregister": _register,
}
_UNCHANGED: Any = object()


def _restore_policy(station: Station, target: Target, before: Any, by: str) -> Also:
    """Part of the change that undoes: the policy as it was, where the change touched it."""

    def restore(transaction: Transaction) -> policies.Changed:
        if before is None:
            policies.forget(transaction, target)
        elif before is not _UNCHANGED:
            policies.write(transaction, station, policies.read(before), by=by)
        return None

    return restore


def _row_of(station: Station, array: str, target: Target) -> Mapping[str, Any] | None:
    """The reservation in the array's table 101 now. Raises :class:`PeerUnreachable`."""
    peer = station.arrays[array]
    rows = peer.get("/v1/reservations")
    if not isinstance(rows, list):
        raise PeerUnreachable(peer.who, "its answer is no table 101")
    for found in rows:
        if isinstance(found, dict) and found.get("state") != "released":
            named = target_in(found.get("target"))
            if named is not None and target_key(named) == target_key(target):
                return found
    return None


def _units(values: Mapping[str, Any] | None) -> int:
    units = 0 if values is None else values.get("reserved_units", 0)
    return units if type(units) is int else 0


def _unit_bytes(*rows: Mapping[str, Any] | None) -> int:
    for values in rows:
        if values is not None and _units(values) and type(values.get("reserved_bytes")) is int:
            return int(values["reserved_bytes"]) // _units(values)
    raise Refused(
        Code.STALE, "what it had in bytes is not known any more: bring it to a size (`sancredit reserve`)"
    )
