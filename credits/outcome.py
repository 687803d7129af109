"""The answer to a request, worked out from its prepared plan."""

from __future__ import annotations

from credits.config import PoolConfig, UnitKind
from credits.plan import Change, Plan, Verb, units_in
from credits.results import HoldResult, ReleaseResult, ReserveResult, UpdateResult
from credits.source import Reservation
from credits.verbs import Result


def result_of(plan: Plan, config: PoolConfig) -> Result:
    """The answer of a prepared plan."""
    if plan.verb is Verb.RELEASE:
        return ReleaseResult(
            target=plan.target,
            released_units=sum(
                change.reservation.idle.units for change in plan.changes if change.reservation
            ),
            draining_units=sum(change.reservation.in_use for change in plan.changes if change.reservation),
            revision=plan.revision,
        )
    records = tuple(_record(plan, change, config) for change in plan.changes)
    if plan.verb is Verb.RESERVE:
        return _as_reserve(records[0])
    records += tuple(_refused_record(plan, reservation, config) for reservation in plan.refused)
    return records[0] if len(records) == 1 else _summed(plan, records)


def hold_result(plan: Plan, expires_at_ns: int) -> HoldResult:
    """The answer of a plan that becomes a hold."""
    result = plan.result
    assert isinstance(result, ReserveResult)  # holds are prepared as reserves
    return HoldResult(
        hold_id=plan.revision,
        target=result.target,
        reserved_units=result.reserved_units,
        reserved_bytes=result.reserved_bytes,
        requested_bytes=result.requested_bytes,
        previous_units=result.previous_units,
        expires_at_ns=expires_at_ns,
        revision=result.revision,
        buffer_id=result.buffer_id,
    )


def _record(plan: Plan, change: Change, config: PoolConfig) -> UpdateResult:
    grant, reservation = change.grant, change.reservation
    assert grant is not None  # only a release has none
    pending = reservation.pending + change.surplus - units_in(change.taken) if reservation else 0
    expanded = plan.pages * config.units_per_page
    return UpdateResult(
        target=change.target,
        reserved_units=grant.units,
        reserved_bytes=grant.units * config.unit_bytes,
        requested_bytes=grant.requested_bytes,
        previous_units=change.previous_units,
        pending_shrink_units=pending,
        replaced=change.replaces,
        revision=plan.revision,
        buffer_id=change.target.buffer_id,
        expanded_units=expanded,
        relogin_required=expanded > 0 and config.kind is UnitKind.FC,
        epoch=grant.epoch,
    )


def _refused_record(plan: Plan, reservation: Reservation, config: PoolConfig) -> UpdateResult:
    grant = reservation.grant
    return UpdateResult(
        target=reservation.target,
        reserved_units=grant.units,
        reserved_bytes=grant.units * config.unit_bytes,
        requested_bytes=grant.requested_bytes,
        previous_units=grant.units,
        pending_shrink_units=reservation.pending,
        revision=plan.revision,
        buffer_id=reservation.target.buffer_id,
        epoch=grant.epoch,
        refused=True,
    )


def _as_reserve(record: UpdateResult) -> ReserveResult:
    return ReserveResult(
        target=record.target,
        reserved_units=record.reserved_units,
        reserved_bytes=record.reserved_bytes,
        requested_bytes=record.requested_bytes,
        previous_units=record.previous_units,
        pending_shrink_units=record.pending_shrink_units,
        replaced=record.replaced,
        revision=record.revision,
        buffer_id=record.buffer_id,
        expanded_units=record.expanded_units,
        relogin_required=record.relogin_required,
        epoch=record.epoch,
    )


def _summed(plan: Plan, records: tuple[UpdateResult, ...]) -> UpdateResult:
    return UpdateResult(
        target=plan.target,
        reserved_units=sum(record.reserved_units for record in records),
        reserved_bytes=sum(record.reserved_bytes for record in records),
        requested_bytes=plan.requested_bytes,
        previous_units=sum(record.previous_units for record in records),
        pending_shrink_units=sum(record.pending_shrink_units for record in records),
        revision=plan.revision,
        expanded_units=records[0].expanded_units,
        relogin_required=records[0].relogin_required,
        records=records,
    )
