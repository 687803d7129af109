"""Policies: for each target whether its size is automatic or manual, and the rules of resizing it.

Reserving with the recommended size makes a target automatic, with a size of one's own manual (704, 705); a policy may
also be put before there is a reservation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, delete, func, insert, select, update

from credits.errors import Code, InvalidRequest
from credits.targets import Target, TargetKind
from mgmt.http import ProblemError
from mgmt.plain import from_plain, to_plain
from mgmt.station import events, trail
from mgmt.station.canonical_json import dumps, target_key, utc_text
from mgmt.station.context import canonical, canonical_pair
from mgmt.station.database import StationStoreError, Transaction
from mgmt.station.records import Cause, Policy, Sizing, Stage
from mgmt.station.schema import POLICIES

if TYPE_CHECKING:
    from mgmt.station.context import Station

POLICY_LIMIT = 20_000
#: Field: its smallest and its largest value.
BOUNDS: Mapping[str, tuple[int, int]] = {
    "size_bytes": (1, 2**62),
    "min_bytes": (0, 2**62),
    "max_bytes": (1, 2**62),
    "min_change_percent": (0, 1000),
    "min_interval_s": (0, 86_400),
    "shrink_samples": (1, 1000),
    "shrink_after_s": (0, 7 * 86_400),
    "lease_s": (30, 30 * 86_400),
    "priority": (0, 1000),
}


#: The policy there was before a change, where there was one; ``None``: it was not changed.
Changed = tuple[Policy | None] | None


def changed(policy: Policy, **values: Any) -> Policy:
    """``policy`` with the ``values`` that are not ``None``; a size makes it manual, and automatic drops the size."""
    given = {name: value for name, value in values.items() if value is not None}
    if given.get("sizing") is Sizing.AUTOMATIC and "size_bytes" not in given:
        given["size_bytes"] = None
    if "size_bytes" in given and given["size_bytes"] is not None and "sizing" not in given:
        given["sizing"] = Sizing.MANUAL
    return replace(policy, **given)


def check(policy: Policy) -> Policy:
    """``policy`` with its ports in their usual spelling. Raises :class:`InvalidRequest` for what makes no sense."""
    target = canonical(policy.target)
    if target.kind is TargetKind.CONNECTION and target.buffer_id is None:
        raise InvalidRequest(Code.INVALID_TARGET, "a policy is for a connection that has a buffer ID")
    for name, (low, high) in BOUNDS.items():
        value = getattr(policy, name)
        if value is not None and not low <= value <= high:
            raise InvalidRequest(Code.INVALID_SIZE, f"{name} is from {low} to {high}, not {value}")
    manual = policy.sizing is Sizing.MANUAL
    if manual != (policy.size_bytes is not None):
        need = "needs a size" if manual else "has none: it is computed"
        raise InvalidRequest(Code.INVALID_SIZE, f"{policy.sizing.value} sizing {need}")
    if policy.max_bytes is not None and policy.max_bytes < policy.min_bytes:
        raise InvalidRequest(
            Code.INVALID_SIZE,
            f"the largest size, {policy.max_bytes}, is below the smallest, {policy.min_bytes}",
        )
    via = None if policy.via is None else canonical_pair(*policy.via)
    return replace(policy, target=target, via=via)


def listed(station: Station) -> list[Policy]:
    """All policies, in the order of their targets."""
    with station.store.database.read() as connection:
        rows = connection.execute(select(POLICIES.c.policy).order_by(POLICIES.c.target_key))
        return [_policy(text) for (text,) in rows]


def over_channel(station: Station, local_port: str, remote_port: str) -> list[Policy]:
    """The policies of what goes over a port pair, the first to grow first."""
    wanted = select(POLICIES.c.policy).where(
        POLICIES.c.local_port == local_port, POLICIES.c.remote_port == remote_port
    )
    with station.store.database.read() as connection:
        rows = connection.execute(wanted.order_by(POLICIES.c.target_key))
        return sorted((_policy(text) for (text,) in rows), key=lambda policy: policy.priority)


def channel_of(policy: Policy) -> tuple[str, str] | None:
    """The port pair whose channel the size comes from: ``via``, or the target's own."""
    target = policy.target
    if policy.via is not None or target.local_port is None or target.remote_port is None:
        return policy.via
    return target.local_port, target.remote_port


def find(station: Station, target: Target) -> Policy | None:
    """The policy of ``target``."""
    with station.store.database.read() as connection:
        return _find(connection, target)


def known(transaction: Transaction, target: Target) -> Policy | None:
    """The policy of ``target``, within a change, which is the only place where it becomes another."""
    return transaction.known((_MEMORY, target_key(target)), lambda: _find(transaction.connection, target))


def put(
    station: Station,
    policy: Policy,
    *,
    by: str,
    cause: Cause = Cause.USER,
    inputs: Mapping[str, Any] | None = None,
    expected: str | None = None,
) -> Policy:
    """Let ``policy`` be that of its target; with ``expected`` only while :func:`version` of what there is says so.

    Nothing is resized by it: :func:`mgmt.station.updates.put_policy` does both. Raises :class:`InvalidRequest`, and
    :class:`ProblemError` (STALE).
    """
    wanted = check(policy)

    def change(transaction: Transaction) -> Policy:
        before = known(transaction, wanted.target)
        _check_version(wanted.target, before, expected)
        written = write(transaction, station, wanted, by=by)
        trail.append(
            transaction,
            station,
            "policy",
            Stage.DONE,
            str(wanted.target),
            by=by,
            cause=cause,
            inputs=inputs,
            target=wanted.target,
            before=None if before is None else to_plain(before),
            after=to_plain(written),
        )
        text = f"the size of {wanted.target} is {wanted.sizing.value}"
        if wanted.size_bytes is not None:
            text += f", {wanted.size_bytes} bytes"
        events.note(transaction, station, "policy-changed", str(wanted.target), text, by=by)
        return written

    return station.store.database.write(change)


def write(transaction: Transaction, station: Station, policy: Policy, *, by: str) -> Policy:
    """Put a policy that has been checked, as part of another change."""
    written = replace(policy, changed_at=utc_text(station.utc_now()), changed_by=by)
    key = target_key(policy.target)
    local_port, remote_port = channel_of(policy) or (None, None)
    values = {"policy": dumps(written), "local_port": local_port, "remote_port": remote_port}
    if not transaction.execute(_UPDATE, values | {"the_target_key": key}).rowcount:
        if transaction.execute(select(func.count()).select_from(POLICIES)).scalar_one() >= POLICY_LIMIT:
            raise StationStoreError(
                f"there are {POLICY_LIMIT} policies: remove some (`sancredit policy remove`)"
            )
        transaction.execute(_INSERT, {"target_key": key, **values})
    transaction.remember((_MEMORY, key), written)
    return written


def follow_size(
    transaction: Transaction,
    station: Station,
    target: Target,
    via: tuple[str, str] | None,
    size_bytes: int | None,
    lease_s: int | None,
    *,
    by: str,
) -> Changed:
    """A reservation was made with ``size_bytes``, or automatically: its policy says so, its other rules stay.

    A lease shorter than a policy may have could not be renewed in time, and is meant to lapse: it becomes no rule.
    """
    if lease_s is not None and lease_s < BOUNDS["lease_s"][0]:
        lease_s = None
    before = known(transaction, target)
    sizing = Sizing.AUTOMATIC if size_bytes is None else Sizing.MANUAL
    base = before or Policy(target=target)
    wanted = replace(
        base, sizing=sizing, size_bytes=size_bytes, via=via or base.via, lease_s=lease_s or base.lease_s
    )
    if wanted == before:
        return None
    write(transaction, station, wanted, by=by)
    return (before,)


def remove(
    station: Station,
    target: Target,
    *,
    by: str,
    cause: Cause = Cause.USER,
    inputs: Mapping[str, Any] | None = None,
    expected: str | None = None,
) -> Policy:
    """Take the policy of ``target`` away: its reservation stays as it is. ``expected`` as in :func:`put`.

    Raises :class:`ProblemError` for none.
    """
    wanted = canonical(target)

    def change(transaction: Transaction) -> Policy:
        before = known(transaction, wanted)
        if before is None:
            raise ProblemError(
                "NOT_FOUND",
                f"{wanted} has no policy: see `sancredit policy show`",
                status=404,
                title="No such policy",
            )
        _check_version(wanted, before, expected)
        forget(transaction, wanted)
        trail.append(
            transaction,
            station,
            "policy",
            Stage.DONE,
            str(wanted),
            by=by,
            cause=cause,
            inputs=inputs,
            target=wanted,
            before=to_plain(before),
        )
        text = f"{wanted} has no policy any more"
        events.note(transaction, station, "policy-changed", str(wanted), text, by=by)
        return before

    return station.store.database.write(change)


def forget(transaction: Transaction, target: Target) -> None:
    """Take a policy away as part of another change."""
    key = target_key(target)
    transaction.execute(_DELETE, {"the_target_key": key})
    transaction.remember((_MEMORY, key), None)


def row(policy: Policy) -> dict[str, Any]:
    """The JSON object of one policy; what is not set is null."""
    unset: dict[str, Any] = dict.fromkeys(("via", "size_bytes", "max_bytes", "lease_s"))
    plain: dict[str, Any] = to_plain(policy)
    return unset | plain | {"version": version(policy)}


def version(policy: Policy | None) -> str:
    """16 hex digits that are others after every change: who has read them can change what they have read."""
    plain = None if policy is None else to_plain(policy)
    return hashlib.sha256(dumps(plain).encode()).hexdigest()[:16]


def _check_version(target: Target, found: Policy | None, expected: str | None) -> None:
    if expected is None or version(found) == expected:
        return
    now = "has none" if found is None else f"was changed by {found.changed_by} at {found.changed_at}"
    raise ProblemError(
        Code.STALE,
        f"{target} {now}: read its policy again",
        status=412,
        title="The state has changed since it was read",
    )


def read(plain: Any) -> Policy:
    """A policy from its JSON object. Raises :class:`mgmt.plain.BadMessage`."""
    found: Policy = from_plain(Policy, plain, "policy")
    return found


_THE_ONE = POLICIES.c.target_key == bindparam("the_target_key")
_FIND = select(POLICIES.c.policy).where(_THE_ONE)
_INSERT = insert(POLICIES)
_UPDATE = update(POLICIES).where(_THE_ONE)
_DELETE = delete(POLICIES).where(_THE_ONE)
#: What a transaction remembers them by: this, and the target's key.
_MEMORY = "policy"


def _find(connection: Any, target: Target) -> Policy | None:
    found = connection.execute(_FIND, {"the_target_key": target_key(target)}).scalar()
    return None if found is None else _policy(found)


def _policy(text: str) -> Policy:
    return read(json.loads(text))
