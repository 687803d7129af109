"""A communication interface 208: its pool 100, information acquisition 210 and buffer control 215 (spec B).

The pool is thread-safe: reserving, which waits for the journal, is done on control threads; the data loop
allocates and frees.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence

from credits.allocation import Allocation
from credits.durable import DurablePool
from credits.errors import Code, CreditError, InvalidRequest, Refused
from credits.results import ReserveResult, UpdateResult
from credits.targets import RANK, Target, check_target
from credits.verbs import Reserve, Update
from mgmt.messages import (
    BufferHoldRequest,
    BufferHoldResponse,
    BufferReserveRequest,
    BufferReserveResponse,
    HoldConfirmRequest,
    HoldVoidRequest,
    HoldVoidResponse,
    InterfaceInfoGetRequest,
    InterfaceInfoGetResponse,
    ReservationPreview,
    ReservationPreviewRequest,
    ReservationReleaseRequest,
    ReservationReleaseResponse,
    ReservedBufferUpdateRequest,
    ReservedBufferUpdateResponse,
)

#: So many connections are named in an answer; they all fit into a message.
_NAMED_LIMIT = 4096


class CommunicationInterface:
    """One interface's buffers, and the answers to the messages about them.

    ``clock`` is the pool's monotonic clock in nanoseconds; ``run`` tells this run of the array from its earlier ones.
    Refusals are :class:`credits.errors.CreditError`.
    """

    def __init__(
        self, name: str, pool: DurablePool, clock: Callable[[], int], *, run: str | None = None
    ) -> None:
        self.name = name
        self.pool = pool
        self._clock = clock
        self._run = run or uuid.uuid4().hex[:16]
        self._holding = threading.Lock()
        #: When each hold opened in this run ends, by its ID.
        self._held: dict[int, int] = {}

    @property
    def unit_bytes(self) -> int:
        """Size of a memory buffer."""
        return self.pool.config.unit_bytes

    # -- information acquisition 210 -------------------------------------------------------------------------

    def information(self, request: InterfaceInfoGetRequest) -> InterfaceInfoGetResponse:
        """M4 (steps 806, 1203): what is available to the target, reserved for it and in use by it (GAP-6)."""
        check_target(request.target)
        statistics = self.pool.statistics()
        available = max(0, statistics.free_units - self.pool.config.min_free_units)
        reservation = self._reservation((request.target,))
        allocated = sum(
            row.allocated_units for row in self.pool.allocation_table() if row.target == request.target
        )
        return InterfaceInfoGetResponse(
            unit_bytes=self.unit_bytes,
            available_bytes=available * self.unit_bytes,
            available_units=available,
            expandable_units=statistics.expandable_units,
            allocated_units=allocated,
            reserved_units=reservation,
            revision=statistics.revision,
        )

    # -- buffer control 215 ----------------------------------------------------------------------------------

    def reserve(self, request: BufferReserveRequest, request_id: str) -> BufferReserveResponse:
        """M6 (steps 811, 812; figure 7)."""
        result = self.pool.reserve(
            request.target,
            request.requested_bytes,
            request_id=request_id,
            now_ns=self._clock(),
            expected_revision=request.expected_revision,
            lease_ns=request.lease_ns,
        )
        return _granted(result)

    def hold(self, request: BufferHoldRequest, request_id: str) -> BufferHoldResponse:
        """Set aside what reserving would take (GAP-26). It lives in memory: a restart voids it.

        A pool without a journal, or with a new one, counts the IDs of its holds from the beginning; so their names
        carry the run, and one of an earlier run never means one of this.
        """
        now_ns = self._clock()
        with self._holding:
            result = self.pool.hold(
                request.target,
                request.requested_bytes,
                ttl_ns=request.ttl_ns,
                request_id=request_id,
                now_ns=now_ns,
                lease_ns=request.lease_ns,
            )
            self._held = {hold: end_ns for hold, end_ns in self._held.items() if end_ns > now_ns}
            self._held[result.hold_id] = result.expires_at_ns
        before = [row for row in self.pool.reservation_table() if row.target == result.target]
        return BufferHoldResponse(
            hold=f"{self._run}-{result.hold_id}",
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
            result = self.pool.confirm_hold(hold_id, request_id=request_id, now_ns=self._clock())
            self._held.pop(hold_id, None)
        return _granted(result)

    def void(self, request: HoldVoidRequest, request_id: str) -> HoldVoidResponse:
        """Give a hold up."""
        hold_id, of_this_run = self._hold_id(request.hold)
        if not of_this_run:
            raise Refused(Code.STALE, f"hold {request.hold!r:.80} is not open: the array has restarted since")
        with self._holding:
            result = self.pool.void_hold(hold_id, request_id=request_id, now_ns=self._clock())
            self._held.pop(hold_id, None)
        return HoldVoidResponse(hold=request.hold, target=result.target, revision=result.revision)

    def _hold_id(self, hold: str) -> tuple[int, bool]:
        run, _, number = hold.rpartition("-")
        if not run or not (number.isascii() and number.isdigit()) or len(number) > 19:
            raise InvalidRequest(Code.BAD_MESSAGE, f"{hold!r:.80} names no hold")
        return int(number), run == self._run

    def update(self, request: ReservedBufferUpdateRequest, request_id: str) -> ReservedBufferUpdateResponse:
        """M11 (steps 1207, 1208; figure 10)."""
        result = self.pool.update(
            request.target,
            request.recommended_bytes,
            request_id=request_id,
            now_ns=self._clock(),
            expected_revision=request.expected_revision,
            epoch=request.epoch,
        )
        return ReservedBufferUpdateResponse(
            target=result.target,
            reserved_units=result.reserved_units,
            reserved_bytes=result.reserved_bytes,
            previous_units=result.previous_units,
            pending_shrink_units=result.pending_shrink_units,
            revision=result.revision,
            buffer_ids=tuple(
                record.target.buffer_id for record in result.records if record.target.buffer_id is not None
            )[:_NAMED_LIMIT],
        )

    def preview(self, request: ReservationPreviewRequest) -> ReservationPreview:
        """What reserving or updating would do now, by the same code on a copy; raises what it would be refused with."""
        verb = Reserve if request.target.buffer_id is None else Update
        asked = verb(target=request.target, requested_bytes=request.requested_bytes)
        found = self.pool.preview([asked], now_ns=self._clock())
        (outcome,) = found.outcomes
        if isinstance(outcome, CreditError):
            raise outcome
        assert isinstance(outcome, ReserveResult | UpdateResult)
        return ReservationPreview(
            target=outcome.target,
            unit_bytes=self.unit_bytes,
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
        result = self.pool.release(
            request.target,
            request_id=request_id,
            now_ns=self._clock(),
            drain=request.drain,
            epoch=request.epoch,
        )
        return ReservationReleaseResponse(
            target=result.target,
            released_units=result.released_units,
            draining_units=result.draining_units,
            revision=result.revision,
        )

    # -- what remote copy asks for ---------------------------------------------------------------------------

    def allocate(self, claims: Sequence[Target], units: int, *, holder: str, at_most: bool) -> Allocation:
        """M8 (step 814; figure 8)."""
        return self.pool.allocate(claims, units, holder=holder, at_most=at_most)

    def reserved_units(self, claims: Sequence[Target]) -> int:
        """Units of the reservation that would serve ``claims``; 0 when there is none."""
        return self._reservation(claims)

    def idle_buffer_id(self, local_port: str, remote_port: str) -> int | None:
        """The lowest buffer ID of the port pair without a live allocation, for who names none (INC-15)."""
        used = {row.target.buffer_id for row in self.pool.allocation_table() if row.target is not None}
        of_the_pair = (
            row.buffer_id
            for row in self.pool.buffer_id_table()
            if (row.local_port, row.remote_port) == (local_port, remote_port)
        )
        return min((buffer_id for buffer_id in of_the_pair if buffer_id not in used), default=None)

    def _reservation(self, claims: Sequence[Target]) -> int:
        reserved = {row.target.key: row.reserved_units for row in self.pool.reservation_table()}
        for claim in sorted(claims, key=lambda claim: RANK[claim.kind]):
            if units := reserved.get(claim.key, 0):
                return units
        return 0


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
