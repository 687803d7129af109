"""Buffer control 215: reserving, updating and releasing units of a communication interface (figures 7 and 10)."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Protocol

from credits.config import PoolConfig
from credits.errors import Code, CreditError, InvalidRequest, Refused
from credits.preview import Preview
from credits.results import HoldResult, ReleaseResult, ReserveResult, UpdateResult
from credits.sharing import Sharing
from credits.tables import ReservationRow
from credits.targets import Target
from credits.verbs import Release, Request, Reserve, Update
from mgmt.messages import (
    BufferHoldRequest,
    BufferHoldResponse,
    BufferReserveRequest,
    BufferReserveResponse,
    HoldConfirmRequest,
    HoldVoidRequest,
    HoldVoidResponse,
    ReservationPreview,
    ReservationPreviewRequest,
    ReservationReleaseRequest,
    ReservationReleaseResponse,
    ReservedBufferEnlargeRequest,
    ReservedBufferUpdateRequest,
    ReservedBufferUpdateResponse,
)

#: So many connections are named in an answer; they all fit into a message.
_NAMED_LIMIT = 4096


class ControlledPool(Protocol):
    """What 215 does to the memory area 100; :class:`credits.durable.DurablePool` does it."""

    @property
    def config(self) -> PoolConfig:
        """Unit, size, and what has to stay free."""
        ...

    def reserve(
        self,
        target: Target,
        requested_bytes: int,
        *,
        request_id: str,
        now_ns: int,
        expected_revision: int | None = None,
        lease_ns: int | None = None,
        sharing: Sharing | None = None,
    ) -> ReserveResult:
        """Figure 7."""
        ...

    def update(
        self,
        target: Target,
        requested_bytes: int,
        *,
        request_id: str,
        now_ns: int,
        expected_revision: int | None = None,
        epoch: int | None = None,
    ) -> UpdateResult:
        """Figure 10."""
        ...

    def enlarge(self, target: Target, requested_bytes: int, *, request_id: str, now_ns: int) -> UpdateResult:
        """Claim 8."""
        ...

    def release(
        self,
        target: Target,
        *,
        request_id: str,
        now_ns: int,
        drain: bool = False,
        expected_revision: int | None = None,
        epoch: int | None = None,
    ) -> ReleaseResult:
        """Give up (GAP-4)."""
        ...

    def hold(
        self,
        target: Target,
        requested_bytes: int,
        *,
        ttl_ns: int,
        request_id: str,
        now_ns: int,
        lease_ns: int | None = None,
    ) -> HoldResult:
        """Set aside (GAP-26)."""
        ...

    def confirm_hold(self, hold_id: int, *, request_id: str, now_ns: int) -> ReserveResult:
        """Turn a hold into the reservation."""
        ...

    def void_hold(self, hold_id: int, *, request_id: str, now_ns: int) -> HoldResult:
        """Give a hold up."""
        ...

    def preview(self, requests: Sequence[Request], *, now_ns: int) -> Preview:
        """Carry out on a copy."""
        ...

    def reservation_table(self) -> Sequence[ReservationRow]:
        """Table 101."""
        ...


Check = Callable[[Target, int], None]
"""Asked before a target gets so many units; raises :class:`Refused` for what the protocol cannot grant now."""


def _anything(target: Target, units: int) -> None:
    """TCP has no say in a reservation's size."""


class BufferControl:
    """The answers of 215 about one pool; refusals are :class:`credits.errors.CreditError`.

    ``clock`` is the pool's monotonic clock in nanoseconds; ``run`` tells this run of the array from its earlier ones.
    """

    def __init__(
        self,
        pool: ControlledPool,
        clock: Callable[[], int],
        *,
        run: str | None = None,
        check: Check = _anything,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self.run = run or uuid.uuid4().hex[:16]
        self._check = check
        self._holding = threading.Lock()
        #: When each hold opened in this run ends, by its ID.
        self._held: dict[int, int] = {}

    def reserve(self, request: BufferReserveRequest, request_id: str) -> BufferReserveResponse:
        """M6 (steps 811, 812; figure 7)."""
        if not request.relogin:
            self._look(request.target, request.requested_bytes)
        result = self._pool.reserve(
            request.target,
            request.requested_bytes,
            request_id=request_id,
            now_ns=self._clock(),
            expected_revision=request.expected_revision,
            lease_ns=request.lease_ns,
            sharing=request.sharing,
        )
        return _granted(result)

    def hold(self, request: BufferHoldRequest, request_id: str) -> BufferHoldResponse:
        """Set aside what reserving would take (GAP-26). It lives in memory: a restart voids it.

        A pool without a journal, or with a new one, counts the IDs of its holds from the beginning; so their names
        carry the run, and one of an earlier run never means one of this.
        """
        self._look(request.target, request.requested_bytes)
        now_ns = self._clock()
        with self._holding:
            result = self._pool.hold(
                request.target,
                request.requested_bytes,
                ttl_ns=request.ttl_ns,
                request_id=request_id,
                now_ns=now_ns,
                lease_ns=request.lease_ns,
            )
            self._held = {hold: end_ns for hold, end_ns in self._held.items() if end_ns > now_ns}
            self._held[result.hold_id] = result.expires_at_ns
        before = [row for row in self._pool.reservation_table() if row.target == result.target]
        return BufferHoldResponse(
            hold=f"{self.run}-{result.hold_id}",
            target=result.target,
            reserved_units=result.reserved_units,
            reserved_bytes=result.reserved_bytes,
            previous_units=result.previous_units,
            previous_bytes=sum(row.requested_bytes for row in before),
            revision=result.revision,
            buffer_id=result.buffer_id,
        )

    def confirm(self, request: HoldConfirmRequest, request_id: str) -> BufferReserveResponse:
        """Turn a hold into the reservation. A retry gets the first answer, also after a restart.

        For that the pool is asked about a hold of an earlier run as well: it answers from the journal, or STALE.
        """
        hold_id, of_this_run = self._hold_id(request.hold)
        with self._holding:
            if not of_this_run and self._held.get(hold_id, 0) > self._clock():
                raise Refused(Code.BUSY, f"hold {request.hold!r:.80} is of an earlier run; ask again later")
            result = self._pool.confirm_hold(hold_id, request_id=request_id, now_ns=self._clock())
            self._held.pop(hold_id, None)
        return _granted(result)

    def void(self, request: HoldVoidRequest, request_id: str) -> HoldVoidResponse:
        """Give a hold up."""
        hold_id, of_this_run = self._hold_id(request.hold)
        if not of_this_run:
            raise Refused(Code.STALE, f"hold {request.hold!r:.80} is not open: the array has restarted since")
        with self._holding:
            result = self._pool.void_hold(hold_id, request_id=request_id, now_ns=self._clock())
            self._held.pop(hold_id, None)
        return HoldVoidResponse(hold=request.hold, target=result.target, revision=result.revision)

    def _hold_id(self, hold: str) -> tuple[int, bool]:
        run, _, number = hold.rpartition("-")
        if not run or not (number.isascii() and number.isdigit()) or len(number) > 19:
            raise InvalidRequest(Code.BAD_MESSAGE, f"{hold!r:.80} names no hold")
        return int(number), run == self.run

    def update(self, request: ReservedBufferUpdateRequest, request_id: str) -> ReservedBufferUpdateResponse:
        """M11 (steps 1207, 1208; figure 10)."""
        if not request.relogin:
            self._look(request.target, request.recommended_bytes)
        return _updated(
            self._pool.update(
                request.target,
                request.recommended_bytes,
                request_id=request_id,
                now_ns=self._clock(),
                expected_revision=request.expected_revision,
                epoch=request.epoch,
            )
        )

    def enlarge(self, request: ReservedBufferEnlargeRequest, request_id: str) -> ReservedBufferUpdateResponse:
        """M14 (claims 8, 21): from the free list to the reservation, never back."""
        self._look(request.target, request.size_bytes)
        return _updated(
            self._pool.enlarge(
                request.target, request.size_bytes, request_id=request_id, now_ns=self._clock()
            )
        )

    def preview(self, request: ReservationPreviewRequest) -> ReservationPreview:
        """What a change would do now, by the same code on a copy; raises what it would be refused with."""
        asked: Reserve | Update | Release
        if request.release:
            asked = Release(target=request.target, drain=request.drain)
        else:
            verb = Reserve if request.target.buffer_id is None else Update
            asked = verb(target=request.target, requested_bytes=request.requested_bytes)
        found = self._pool.preview([asked], now_ns=self._clock())
        (outcome,) = found.outcomes
        if isinstance(outcome, CreditError):
            raise outcome
        unit_bytes = self._pool.config.unit_bytes
        if isinstance(outcome, ReleaseResult):
            return ReservationPreview(
                target=outcome.target,
                unit_bytes=unit_bytes,
                previous_units=outcome.released_units + outcome.draining_units,
                reserved_units=0,
                reserved_bytes=0,
                pending_shrink_units=outcome.draining_units,
                expanded_units=0,
                free_units_before=found.before.free_units,
                free_units_after=found.after.free_units,
                revision=found.before.revision,
            )
        assert isinstance(outcome, ReserveResult | UpdateResult)
        return ReservationPreview(
            target=outcome.target,
            unit_bytes=unit_bytes,
            previous_units=outcome.previous_units,
            reserved_units=outcome.reserved_units,
            reserved_bytes=outcome.reserved_bytes,
            pending_shrink_units=outcome.pending_shrink_units,
            expanded_units=outcome.expanded_units,
            free_units_before=found.before.free_units,
            free_units_after=found.after.free_units,
            revision=found.before.revision,
        )

    def release(self, request: ReservationReleaseRequest, request_id: str) -> ReservationReleaseResponse:
        """Give a reservation up (GAP-4)."""
        result = self._pool.release(
            request.target,
            request_id=request_id,
            now_ns=self._clock(),
            drain=request.drain,
            expected_revision=request.expected_revision,
            epoch=request.epoch,
        )
        return ReservationReleaseResponse(
            target=result.target,
            released_units=result.released_units,
            draining_units=result.draining_units,
            revision=result.revision,
        )

    def _look(self, target: Target, requested_bytes: int) -> None:
        if type(requested_bytes) is int and requested_bytes > 0:
            self._check(target, self._pool.config.units_for(requested_bytes))


def _updated(result: UpdateResult | ReserveResult) -> ReservedBufferUpdateResponse:
    """M11; what was not reserved yet is reserved by an update, as figure 7 does (steps 1301 to 1303)."""
    records = result.records if isinstance(result, UpdateResult) else ()
    return ReservedBufferUpdateResponse(
        target=result.target,
        reserved_units=result.reserved_units,
        reserved_bytes=result.reserved_bytes,
        previous_units=result.previous_units,
        pending_shrink_units=result.pending_shrink_units,
        revision=result.revision,
        buffer_ids=tuple(
            record.target.buffer_id for record in records if record.target.buffer_id is not None
        )[:_NAMED_LIMIT],
    )


def _granted(result: ReserveResult) -> BufferReserveResponse:
    return BufferReserveResponse(
        target=result.target,
        reserved_units=result.reserved_units,
        reserved_bytes=result.reserved_bytes,
        previous_units=result.previous_units,
        pending_shrink_units=result.pending_shrink_units,
        replaced=result.replaced,
        revision=result.revision,
        buffer_id=result.buffer_id,
        epoch=result.epoch,
    )
