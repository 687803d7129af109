"""A pool in memory: buffer control 215 over one communication memory area 100 (figures 7, 8 and 10)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from credits.answers import Answers
from credits.checks import (
    check_epoch,
    check_lease,
    check_size,
    check_ttl,
    connection_id_given,
    not_reserved,
    stale_hold,
)
from credits.config import PoolConfig
from credits.errors import Code, InvalidRequest, Refused
from credits.leases import LeaseBook
from credits.outcome import hold_result, result_of
from credits.plan import Plan, Verb
from credits.planning import PlanningArea
from credits.preview import Preview, preview
from credits.results import HoldResult, Information
from credits.sharing import Sharing, check_minima_fit, check_sharing
from credits.source import Grant, Reservation
from credits.tables import (
    AllocationRow,
    BufferIdRow,
    ReservationRow,
    allocation_table,
    buffer_id_table,
    reservation_table,
)
from credits.targets import BUFFER_ID_LIMIT, Target, TargetKind, check_target
from credits.verbs import (
    ConfirmHold,
    Hold,
    Lapse,
    Release,
    Request,
    ReservationVerbs,
    Reserve,
    Result,
    Update,
    UpdateSeveral,
    VoidHold,
)

#: So many holds may be open at once.
HOLDS_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class OpenHold:
    """A plan that waits for its manager."""

    plan: Plan
    result: HoldResult


class Pool(PlanningArea, ReservationVerbs):
    """Reservations over a memory area; not thread-safe, not durable (see :class:`credits.durable.DurablePool`).

    Each mutating verb prepares a plan and confirms it; :meth:`prepare` and :meth:`confirm` are the same in two
    steps, for whoever must do something in between.
    """

    def __init__(self, config: PoolConfig) -> None:
        super().__init__(config)
        self.answers = Answers()
        self.leases = LeaseBook(self._by_key)
        self._planned: set[str] = set()
        self._holds: dict[int, OpenHold] = {}
        self._seeds = list(config.buffer_id_seeds)
        self._next_buffer_id = max((config.first_buffer_id, *(seed + 1 for seed in self._seeds)))

    # -- verbs ---------------------------------------------------------------------------------------------

    def _execute(self, request_id: str, request: Request, now_ns: int) -> Result:
        answer = self.answers.recall(request_id, request)
        if answer is None:
            answer = self.answers.keep(request_id, request, lambda: self.carry_out_now(request, now_ns))
        return answer

    def carry_out_now(self, request: Request, now_ns: int) -> Result:
        """Prepare and confirm in one step."""
        if isinstance(request, Hold | VoidHold):
            return self.change_hold(request, now_ns)
        return self.confirm(self.prepare(request, now_ns), now_ns)

    def prepare(self, request: Request, now_ns: int) -> Plan:
        """Check a request and set aside what it needs; raises, with nothing changed, where it cannot be.

        Holds whose time has run out stand in nobody's way: they are voided first.
        """
        self.void_expired_holds(now_ns)
        match request:
            case Reserve():
                plan = self._prepare_reserve(request)
            case Update():
                plan = self._prepare_update(request)
            case UpdateSeveral():
                plan = self._prepare_several(request)
            case Release():
                plan = self._prepare_release(request)
            case Lapse():
                plan = self._prepare_lapse(request, now_ns)
            case Hold():
                check_ttl(request.ttl_ns)
                if len(self._holds) >= HOLDS_LIMIT:
                    raise Refused(Code.BUSY, f"{HOLDS_LIMIT} holds are open; confirm or void some")
                plan = self._prepare_reserve(_as_reserve(request))
            case ConfirmHold():
                return self._prepare_confirmation(request, now_ns)
            case VoidHold():
                raise InvalidRequest(Code.BAD_MESSAGE, "voiding a hold needs no preparation")
        self._planned.update(change.target.key for change in plan.changes)
        plan.result = result_of(plan, self.config)
        return plan

    def confirm(self, plan: Plan, now_ns: int) -> Result:
        """Bring a prepared plan into force; it cannot fail."""
        self.carry_out(plan)
        for change in plan.changes:
            self._planned.discard(change.target.key)
            if plan.verb is Verb.RESERVE:
                self.leases.start(self._by_key[change.target.key], now_ns)
        assert plan.result is not None  # prepare() has filled it in
        return plan.result

    def void(self, plan: Plan) -> None:
        """Undo a prepared plan."""
        super().void(plan)
        self._planned.difference_update(change.target.key for change in plan.changes)

    # -- preparing -----------------------------------------------------------------------------------------

    def _prepare_reserve(self, request: Reserve) -> Plan:
        self._check_revision(request.expected_revision)
        check_size(request.requested_bytes)
        check_target(request.target)
        check_lease(request.lease_ns)
        check_sharing(request.target, request.sharing)
        target, issued = request.target, None
        if target.kind is TargetKind.CONNECTION:
            if target.buffer_id is not None:
                raise connection_id_given(target)
            issued = self._peek_buffer_id()
            target = Target(TargetKind.CONNECTION, target.local_port, target.remote_port, buffer_id=issued)
        self._check_not_planned(target)
        units = self.config.units_for(request.requested_bytes)
        self._check_minima(request.sharing, units)
        epoch = self.revision + 1
        grant = Grant(units, request.requested_bytes, epoch, request.lease_ns, epoch, request.sharing)
        plan = self.prepare_changes(
            Verb.RESERVE,
            target,
            request.requested_bytes,
            [(target, self._by_key.get(target.key), grant)],
            may_split=request.allow_expansion,
        )
        if issued is not None:
            plan.changes[0].issued_buffer_id = issued
            self._burn_buffer_id(issued)
        return plan

    def _prepare_update(self, request: Update) -> Plan:
        self._check_revision(request.expected_revision)
        check_size(request.requested_bytes)
        check_target(request.target)
        hits = self.hits(request.target)
        if not hits:
            if request.enlarge_only or request.target.kind is TargetKind.CONNECTION:
                raise not_reserved(request.target)
            return self._prepare_reserve(
                Reserve(target=request.target, requested_bytes=request.requested_bytes)
            )
        units = self.config.units_for(request.requested_bytes)
        for hit in hits:
            self._check_not_planned(hit.target)
            check_epoch(hit, request.epoch)
            if request.enlarge_only and units < hit.grant.units:
                raise InvalidRequest(
                    Code.INVALID_SIZE,
                    f"{hit.target} has {hit.grant.units} units; enlarging it to {units} would shrink it",
                )
        if self.config.strict_document and len(hits) > 1:
            return self._prepare_record_by_record(request, hits)
        sizes = [(hit, request.requested_bytes) for hit in hits]
        return self._prepare_sizes(request.target, sizes, partial=request.partial)

    def _prepare_record_by_record(self, request: Update, hits: Sequence[Reservation]) -> Plan:
        """Steps 1304 to 1311 for each record in turn, as paragraph 93 has it: some may fail (INC-17)."""
        granted: list[Reservation] = []
        revision, refusal = self.revision, None
        for hit in hits:
            sizes = [(reservation, request.requested_bytes) for reservation in (*granted, hit)]
            try:
                super().void(self._prepare_sizes(request.target, sizes))
            except Refused as error:
                refusal = error
            else:
                granted.append(hit)
            self.revision = revision
        if refusal is not None and not granted:
            raise refusal
        plan = self._prepare_sizes(request.target, [(hit, request.requested_bytes) for hit in granted])
        plan.refused = [hit for hit in hits if hit not in granted]
        return plan

    def _prepare_several(self, request: UpdateSeveral) -> Plan:
        self._check_revision(request.expected_revision)
        if not request.sizes:
            raise InvalidRequest(Code.BAD_MESSAGE, "no targets are named")
        wanted: dict[str, tuple[Reservation, int]] = {}
        for target, requested_bytes in request.sizes:
            check_size(requested_bytes)
            reservation = self._reservation(target)
            if target.key in wanted:
                raise InvalidRequest(Code.INVALID_TARGET, f"{target} is named twice")
            wanted[target.key] = reservation, requested_bytes
        return self._prepare_sizes(request.sizes[0][0], list(wanted.values()))

    def _prepare_sizes(
        self, target: Target, sizes: Sequence[tuple[Reservation, int]], *, partial: bool = False
    ) -> Plan:
        strict = self.config.strict_document
        wanted = []
        for reservation, requested_bytes in sizes:
            old = reservation.grant
            units = self.config.units_for(requested_bytes)
            self._check_minima(old.sharing, units)
            grant = Grant(units, requested_bytes, old.order, old.lease_ns, old.epoch, old.sharing)
            wanted.append((reservation.target, reservation, grant))
        requested = sum(requested_bytes for _, requested_bytes in sizes)
        return self.prepare_changes(
            Verb.UPDATE,
            target,
            requested,
            wanted,
            may_split=not strict,
            equality_passes=not strict,
            partial=partial,
        )

    def _prepare_release(self, request: Release) -> Plan:
        self._check_revision(request.expected_revision)
        reservation = self._reservation(request.target)
        check_epoch(reservation, request.epoch)
        if reservation.in_use and not request.drain:
            raise Refused(
                Code.BUSY,
                f"{request.target} has {reservation.in_use} units in use; stop their use first, or release it "
                "with drain, which returns each unit as it is freed",
            )
        return self.prepare_removal(request.target, [reservation])

    def _prepare_lapse(self, request: Lapse, now_ns: int) -> Plan:
        reservation = self._reservation(request.target)
        check_epoch(reservation, request.epoch)
        if reservation.expires_at_ns is None or reservation.expires_at_ns > now_ns:
            raise Refused(Code.STALE, f"the lease of {request.target} has not run out")
        if reservation.in_use:
            raise Refused(Code.BUSY, f"{request.target} has {reservation.in_use} units in use")
        return self.prepare_removal(request.target, [reservation])

    # -- holds and leases ----------------------------------------------------------------------------------

    def change_hold(self, request: Hold | VoidHold, now_ns: int) -> HoldResult:
        """Open or void a hold; neither touches what is durable."""
        if isinstance(request, VoidHold):
            hold = self._open_hold(request.hold_id, now_ns)
            del self._holds[request.hold_id]
            self.void(hold.plan)
            return hold.result
        return self.keep_as_hold(self.prepare(request, now_ns), request, now_ns)

    def keep_as_hold(self, plan: Plan, request: Hold, now_ns: int) -> HoldResult:
        """Let a prepared plan wait for its manager."""
        result = hold_result(plan, now_ns + request.ttl_ns)
        self._holds[result.hold_id] = OpenHold(plan, result)
        return result

    def reopen_hold(self, plan: Plan, result: HoldResult) -> None:
        """A confirmation could not be made durable: the hold stands as before."""
        self._holds[result.hold_id] = OpenHold(plan, result)

    def hold_of(self, hold_id: int) -> HoldResult | None:
        """The open hold with this ID."""
        hold = self._holds.get(hold_id)
        return hold.result if hold else None

    def _prepare_confirmation(self, request: ConfirmHold, now_ns: int) -> Plan:
        plan = self._open_hold(request.hold_id, now_ns).plan
        del self._holds[request.hold_id]
        return plan

    def _open_hold(self, hold_id: int, now_ns: int) -> OpenHold:
        hold = self._holds.get(hold_id)
        if hold is None or hold.result.expires_at_ns <= now_ns:
            raise stale_hold(hold_id)
        return hold

    def void_expired_holds(self, now_ns: int) -> tuple[HoldResult, ...]:
        """Void the holds whose time has run out."""
        expired = [hold for hold in self._holds.values() if hold.result.expires_at_ns <= now_ns]
        for hold in expired:
            del self._holds[hold.result.hold_id]
            self.void(hold.plan)
        return tuple(hold.result for hold in expired)

    def renew(self, target: Target, *, now_ns: int, epoch: int | None = None) -> int:
        """Renew a lease from now; returns when it ends. Raises :class:`Refused` (NOT_RESERVED, STALE) and
        :class:`InvalidRequest` where the reservation has no lease.
        """
        reservation = self._by_key.get(target.key)
        if reservation is None:
            raise not_reserved(target)
        check_epoch(reservation, epoch)
        expires_at_ns = self.leases.start(reservation, now_ns)
        if expires_at_ns is None:
            raise InvalidRequest(Code.INVALID_TARGET, f"{target} has no lease to renew")
        return expires_at_ns

    def expire(self, now_ns: int) -> tuple[Target, ...]:
        """Void the holds and end the leases whose time has run out; returns the targets of both.

        A lease with units in use stays until they are freed and this is called again (GAP-10).
        """
        ended = [hold.target for hold in self.void_expired_holds(now_ns)]
        for reservation in self.leases.due(now_ns):
            if reservation.target.key not in self._planned:
                request = Lapse(target=reservation.target, epoch=reservation.grant.epoch)
                self.confirm(self.prepare(request, now_ns), now_ns)
                ended.append(reservation.target)
        return tuple(ended)

    def next_deadline(self) -> int | None:
        """When :meth:`expire` has something to do next."""
        deadlines = [hold.result.expires_at_ns for hold in self._holds.values()]
        lease = self.leases.next_deadline()
        if lease is not None:
            deadlines.append(lease)
        return min(deadlines, default=None)

    # -- checks --------------------------------------------------------------------------------------------

    def _reservation(self, target: Target) -> Reservation:
        """The reservation of exactly this target, which nobody else is changing."""
        check_target(target)
        reservation = self._by_key.get(target.key)
        self._check_not_planned(target)
        if reservation is None:
            raise not_reserved(target)
        return reservation

    def _check_revision(self, expected: int | None) -> None:
        if expected is not None and expected != self.revision:
            raise Refused(
                Code.STALE,
                f"the reservations have changed: revision {expected} was expected, it is {self.revision} now; "
                "read them again",
            )

    def _check_minima(self, sharing: Sharing | None, units: int) -> None:
        if sharing is not None:
            check_minima_fit(sharing, self.config.units_for(sharing.minimum_bytes), units)

    def _check_not_planned(self, target: Target) -> None:
        if target.key in self._planned:
            raise Refused(Code.BUSY, f"{target} is held or being changed by another request; try again")

    def hits(self, target: Target) -> list[Reservation]:
        """The reservations an update of ``target`` means (steps 1301, 1302; embodiment 4 hits several)."""
        own = self._by_key.get(target.key)
        if own is not None:
            return [own]
        if target.kind is not TargetKind.PORT_PAIR:
            return []
        return list(self._connections.get((target.local_port, target.remote_port), {}).values())

    def _peek_buffer_id(self) -> int:
        issued = self._seeds[0] if self._seeds else self._next_buffer_id
        if issued > BUFFER_ID_LIMIT:
            raise Refused(Code.NO_MEMORY, "every buffer ID has been issued once; IDs are never reused")
        return issued

    def _burn_buffer_id(self, issued: int) -> None:
        if self._seeds:
            self._seeds.pop(0)
        else:
            self._next_buffer_id = issued + 1

    # -- looking at it ---------------------------------------------------------------------------------------------

    def information(self, target: Target) -> Information:
        """What step 806 answers to M3: the sizes of the area as ``target`` sees it (GAP-6: advisory)."""
        hits = self.hits(target)
        return Information(
            unit_bytes=self.config.unit_bytes,
            available_units=self.free_units,
            expandable_units=self.expandable_units,
            reserved_units=sum(hit.grant.units for hit in hits),
            allocated_units=sum(hit.in_use for hit in hits),
            revision=self.revision,
        )

    def reservation_table(self) -> tuple[ReservationRow, ...]:
        """Table 101 (C.2)."""
        return reservation_table(self)

    def allocation_table(self) -> tuple[AllocationRow, ...]:
        """Table 109 (C.4)."""
        return allocation_table(self)

    def buffer_id_table(self) -> tuple[BufferIdRow, ...]:
        """Table 1500 (C.5)."""
        return buffer_id_table(self)

    def unused_buffer_id(self, local_port: str, remote_port: str) -> int | None:
        """The lowest buffer ID of the pair with nothing in use, for a start that names none (INC-15)."""
        unused = (
            reservation.target.buffer_id
            for reservation in self._connections.get((local_port, remote_port), {}).values()
            if not reservation.in_use and reservation.target.buffer_id is not None
        )
        return min(unused, default=None)

    # -- what if --------------------------------------------------------------------------------------------

    def preview(self, requests: Sequence[Request], *, now_ns: int) -> Preview:
        """What would happen if: see :func:`credits.preview.preview`."""
        return preview(self.twin(), requests, now_ns)

    def twin(self) -> Pool:
        """A copy to try things on: same units, reservations and holds, without the allocations themselves."""
        twin = Pool(self.config)
        self.copy_into(twin)
        twin._seeds = list(self._seeds)
        twin._next_buffer_id = self._next_buffer_id
        twin._planned = set(self._planned)
        return twin

    # -- coming back after a restart -----------------------------------------------------------------------

    def restore(
        self, grants: Iterable[tuple[Target, Grant]], *, revision: int, next_buffer_id: int, seeds: list[int]
    ) -> None:
        """Put back what the journal holds, before anything is allocated (GAP-7).

        Each promise takes its units, oldest first, splitting pages as needed. Where the pool has become too
        small the promise stands and is reported as degraded; it is never cut. ``seeds`` are the
        buffer IDs still to issue first.
        """
        self.revision = max(self.revision, revision)
        self._next_buffer_id = max(self._next_buffer_id, next_buffer_id)
        self._seeds = list(seeds)
        for target, grant in sorted(grants, key=lambda entry: entry[1].order):
            self.leases.restored(self.restore_reservation(target, grant))


def _as_reserve(request: Hold) -> Reserve:
    return Reserve(
        target=request.target,
        requested_bytes=request.requested_bytes,
        expected_revision=request.expected_revision,
        lease_ns=request.lease_ns,
        sharing=request.sharing,
    )
