"""Asking an array for a change: written down before, written down after, and found out later if it does not answer.

The order makes SIGKILL harmless. Before the message leaves, the audit trail says durably what is asked; the array makes
its part durable before it answers; after that the trail, the reservation as the station knows it, its policy and an
event are written together. Whatever is asked and has no end in the trail is settled by :mod:`mgmt.station.reconcile`.
Changes of one target take turns (:mod:`mgmt.station.turns`), from the first writing down to the last.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from credits.errors import Code, Refused
from credits.targets import Target
from mgmt.http import PeerRefused, PeerUnreachable
from mgmt.plain import to_plain
from mgmt.station import events, lifecycle, policies, trail
from mgmt.station.context import Station
from mgmt.station.database import Transaction
from mgmt.station.lifecycle import Input
from mgmt.station.records import Cause, Record, Severity, Stage
from mgmt.station.turns import on_target

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A change that an array is asked for: ``verb`` is what the trail calls it, ``wish`` what it does to the life."""

    verb: str
    wish: Input
    array: str
    target: Target
    by: str
    cause: Cause = Cause.USER
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    resizes: bool = False
    """Only while there is a reservation: what was decided for one that has been released since is not made anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What an answer means: which target has what now."""

    target: Target
    happened: Input
    after: Mapping[str, Any]
    """reserved_units, reserved_bytes, requested_bytes, epoch, lease_s as far as they are known; empty: nothing."""
    text: str
    kind: str
    previous_units: int | None = None
    remembered: bool = True
    """Whether it is one reservation: a change of several at once is found in table 101 (embodiment 4)."""
    also: Callable[[Transaction], policies.Changed] = lambda transaction: None
    """What else is written with it: the target's policy, and then what it was."""


def carry_out(station: Station, asked: Asked, send: Callable[[], T], read: Callable[[T], Done]) -> T:
    """Write down, send, write down. Raises what ``send`` does; the trail then says refused, or unknown.

    Raises :class:`Refused` where nothing is asked: BUSY as the changes before it take too long, NOT_RESERVED for what
    ``resizes`` and has been released meanwhile.
    """
    claims = on_target(asked.array, asked.target, makes=asked.wish is Input.RESERVE)
    with (
        station.turns.take(f"{asked.target} on array {asked.array}", claims),
        station.attempts.work_on(under_way(asked.array, asked.request_id)),
    ):
        record, before = station.store.database.write(lambda transaction: _ask(transaction, station, asked))
        try:
            answer = send()
        except PeerRefused as refusal:
            _end(station, asked, record, Stage.REFUSED, before, f"{refusal.code}: {refusal}")
            raise
        except PeerUnreachable as error:
            _end(station, asked, record, Stage.UNKNOWN, before, str(error))
            raise
        done = read(answer)
        station.store.database.write(
            lambda transaction: _conclude(transaction, station, asked, record, before, done)
        )
        station.inventory.mark_changed(asked.array)
    return answer


def under_way(array: str, request_id: str) -> str:
    """The name under which a change is being worked on."""
    return f"{array}/{request_id}"


def state_of(values: Mapping[str, Any] | None, units: int | None) -> Mapping[str, Any] | None:
    """The state before a change: what the station knew, where that is what the array says it was."""
    if units is None or (values is not None and values.get("reserved_units") == units):
        return values
    return {"reserved_units": units} if units else None


def _ask(transaction: Transaction, station: Station, asked: Asked) -> tuple[Record, Mapping[str, Any] | None]:
    known = lifecycle.known(transaction, asked.array, asked.target)
    before = lifecycle.summary(known)
    if asked.resizes and known is not None and known.state in lifecycle.OVER:
        raise Refused(Code.NOT_RESERVED, f"{asked.target} on array {asked.array} has been released meanwhile")
    record = trail.append(
        transaction,
        station,
        asked.verb,
        Stage.ASKED,
        str(asked.target),
        by=asked.by,
        cause=asked.cause,
        array=asked.array,
        target=asked.target,
        request_id=asked.request_id,
        inputs=asked.inputs,
        before=before,
    )
    return record, before


def _conclude(
    transaction: Transaction,
    station: Station,
    asked: Asked,
    record: Record,
    before: Mapping[str, Any] | None,
    done: Done,
) -> None:
    inputs: Collection[Input] = (asked.wish, done.happened)
    changed = done.also(transaction)
    inputs_kept = dict(asked.inputs)
    if changed is not None:
        inputs_kept["policy_before"] = None if changed[0] is None else to_plain(changed[0])
    trail.append(
        transaction,
        station,
        asked.verb,
        Stage.DONE,
        str(done.target),
        by=asked.by,
        cause=asked.cause,
        of=record.number,
        array=asked.array,
        target=done.target,
        request_id=asked.request_id,
        inputs=inputs_kept,
        before=state_of(before, done.previous_units),
        after=done.after or None,
    )
    if done.remembered:
        lifecycle.put(transaction, station, asked.array, done.target, inputs, done.after, by=asked.by)
    events.note(transaction, station, done.kind, str(done.target), done.text, array=asked.array, by=asked.by)


def _end(
    station: Station,
    asked: Asked,
    record: Record,
    stage: Stage,
    before: Mapping[str, Any] | None,
    detail: str,
) -> None:
    def change(transaction: Transaction) -> None:
        trail.append(
            transaction,
            station,
            asked.verb,
            stage,
            str(asked.target),
            by=asked.by,
            cause=asked.cause,
            of=record.number,
            array=asked.array,
            target=asked.target,
            request_id=asked.request_id,
            before=before,
            detail=detail,
        )
        events.note(
            transaction,
            station,
            stage.value,
            str(asked.target),
            f"{asked.verb} of {asked.target} on array {asked.array}: {detail}",
            severity=Severity.WARNING,
            array=asked.array,
            by=asked.by,
        )

    station.store.database.write(change)
