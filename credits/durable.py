"""The thread-safe, durable pool: a :class:`credits.pool.Pool` behind one lock, with its journal.

A mutation is prepared under the lock, committed by the journal's writer without it, and confirmed under it
again. So the data path never waits for the disk, an answer means it is durable, and a commit that fails leaves
the memory as it was.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from credits.allocation import Allocation
from credits.config import PoolConfig
from credits.errors import Refused, StoreError
from credits.journal import Connect, Entry, Journal, connect_journal
from credits.journal_format import answer_of, answer_text, reservation_of, row_of
from credits.plan import Plan
from credits.pool import Pool
from credits.preview import Preview, preview
from credits.refusals import allocation_refused
from credits.results import HoldResult, Information, PoolStatistics
from credits.source import Grant
from credits.tables import AllocationRow, BufferIdRow, ReservationRow
from credits.targets import Target
from credits.verbs import (
    ConfirmHold,
    Hold,
    Lapse,
    Request,
    ReservationVerbs,
    Result,
    Update,
    UpdateSeveral,
    VoidHold,
)


class DurablePool(ReservationVerbs):
    """The same verbs as :class:`credits.pool.Pool`, blocking, from any thread.

    Mutating verbs raise :class:`credits.errors.StoreError` besides, when they could not be made durable; nothing
    has changed then.
    """

    def __init__(self, pool: Pool, journal: Journal | None) -> None:
        self._pool = pool
        self._journal = journal
        self._lock = threading.Lock()
        #: Notified when a mutation ends; the targets and request IDs of those whose commit is under way.
        self._ended = threading.Condition(self._lock)
        self._committing: set[str] = set()

    @classmethod
    def open(
        cls, path: Path | None, config: PoolConfig, *, connect: Connect = connect_journal
    ) -> DurablePool:
        """Open a pool with its journal at ``path``; ``None`` keeps it in memory only.

        ``path`` is the journal's file, or the state directory (created with mode 0700) it is to stand in.
        Reservations are put back before this returns, so before anything can be allocated (GAP-7). Raises
        :class:`StoreError` where the journal cannot be used. ``connect`` opens the database.
        """
        pool = Pool(config)
        if path is None:
            return cls(pool, None)
        journal = Journal.open(path, config, connect)
        try:
            _restore(pool, journal)
        except ValueError as error:
            journal.close()
            raise StoreError(
                f"{journal.path} holds a row that makes no sense ({error}); restore it from a backup"
            ) from error
        return cls(pool, journal)

    def close(self) -> None:
        """Close the journal; what was acknowledged is on disk."""
        if self._journal is not None:
            self._journal.close()

    def __enter__(self) -> DurablePool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def config(self) -> PoolConfig:
        """What the pool is made of."""
        return self._pool.config

    # -- the data path: same as the pool's, under the lock -------------------------------------------------

    def allocate(
        self, claims: Sequence[Target], units: int, *, holder: str, at_most: bool = False
    ) -> Allocation:
        """See :meth:`credits.area.MemoryArea.allocate`."""
        with self._lock:
            allocation = self._pool.try_allocate(claims, units, holder, at_most)
            if allocation is None:
                raise allocation_refused(self._pool, self._pool.serving(claims), units, holder)
            return allocation

    def try_allocate(
        self, claims: Sequence[Target], units: int, holder: str, at_most: bool = False
    ) -> Allocation | None:
        """See :meth:`credits.area.MemoryArea.try_allocate`."""
        with self._lock:
            return self._pool.try_allocate(claims, units, holder, at_most)

    def grow(self, allocation: Allocation, units: int) -> None:
        """See :meth:`credits.area.MemoryArea.grow`."""
        with self._lock:
            self._pool.grow(allocation, units)

    def free(self, allocation: Allocation, units: int | None = None) -> None:
        """See :meth:`credits.area.MemoryArea.free`."""
        with self._lock:
            self._pool.free(allocation, units)

    # -- reservations --------------------------------------------------------------------------------------

    def _execute(self, request_id: str, request: Request, now_ns: int) -> Result:
        turn = {f"\0{request_id}"}
        with self._lock:
            turn = self._wait_for_turn(turn, request)
            answer = self._pool.answers.recall(request_id, request)
            if answer is not None:
                return answer
            self._committing |= turn
        try:
            answer = self._carry_out(request_id, request, now_ns)
        except Refused as refusal:
            with self._lock:
                self._pool.answers.remember(request_id, repr(request), refusal)
            raise
        finally:
            with self._lock:
                self._committing -= turn
                self._ended.notify_all()
        return answer

    def _wait_for_turn(self, turn: set[str], request: Request) -> set[str]:
        """Wait until no mutation of the same targets, and none with the same ID, is under way."""
        while True:
            wanted = turn | self._touched(request)
            if not wanted & self._committing:
                return wanted
            self._ended.wait()

    def _touched(self, request: Request) -> set[str]:
        match request:
            case UpdateSeveral():
                return {target.key for target, _ in request.sizes}
            case ConfirmHold() | VoidHold():
                hold = self._pool.hold_of(request.hold_id)
                return {f"\0\0{request.hold_id}"} | ({hold.target.key} if hold else set())
            case Update():
                return {request.target.key, *(hit.target.key for hit in self._pool.hits(request.target))}
            case _:
                return {request.target.key}

    def _carry_out(self, request_id: str, request: Request, now_ns: int) -> Result:
        with self._lock:
            if isinstance(request, VoidHold):
                voided = self._pool.change_hold(request, now_ns)
                self._pool.answers.remember(request_id, repr(request), voided)
                return voided
            hold = self._pool.hold_of(request.hold_id) if isinstance(request, ConfirmHold) else None
            plan = self._pool.prepare(request, now_ns)
            entry = _entry_of(plan, request_id, request)
        interruption = None
        try:
            if self._journal is not None and (entry.after or entry.buffer_id is not None):
                interruption = self._journal.commit(entry)
        except StoreError:
            with self._lock:
                if hold is None:
                    self._pool.void(plan)
                else:
                    self._pool.reopen_hold(plan, hold)
            raise
        with self._lock:
            if isinstance(request, Hold):
                answer: Result = self._pool.keep_as_hold(plan, request, now_ns)
            else:
                answer = self._pool.confirm(plan, now_ns)
            self._pool.answers.remember(request_id, repr(request), answer)
        if interruption is not None:
            raise interruption  # the answer is kept: who asks again with the same request ID gets it
        return answer

    def renew(self, target: Target, *, now_ns: int, epoch: int | None = None) -> int:
        """See :meth:`credits.pool.Pool.renew`."""
        with self._lock:
            return self._pool.renew(target, now_ns=now_ns, epoch=epoch)

    def expire(self, now_ns: int) -> tuple[Target, ...]:
        """See :meth:`credits.pool.Pool.expire`; each lapsed lease is durable before it counts."""
        with self._lock:
            ended = [hold.target for hold in self._pool.void_expired_holds(now_ns)]
            due = [
                Lapse(target=reservation.target, epoch=reservation.grant.epoch)
                for reservation in self._pool.leases.due(now_ns)
            ]
        for lapse in due:
            request_id = f"lapse of epoch {lapse.epoch} at {now_ns}"
            try:
                self._execute(request_id, lapse, now_ns)
            except Refused:
                continue  # renewed, released, or taken into use in the meantime
            ended.append(lapse.target)
        return tuple(ended)

    def next_deadline(self) -> int | None:
        """See :meth:`credits.pool.Pool.next_deadline`."""
        with self._lock:
            return self._pool.next_deadline()

    def preview(self, requests: Sequence[Request], *, now_ns: int) -> Preview:
        """See :func:`credits.preview.preview`."""
        with self._lock:
            twin = self._pool.twin()
        return preview(twin, requests, now_ns)

    # -- looking at it -------------------------------------------------------------------------------------

    def statistics(self) -> PoolStatistics:
        """See :meth:`credits.area.MemoryArea.statistics`."""
        with self._lock:
            return self._pool.statistics()

    def information(self, target: Target) -> Information:
        """See :meth:`credits.pool.Pool.information`."""
        with self._lock:
            return self._pool.information(target)

    def reservation_table(self) -> tuple[ReservationRow, ...]:
        """Table 101."""
        with self._lock:
            return self._pool.reservation_table()

    def allocation_table(self) -> tuple[AllocationRow, ...]:
        """Table 109."""
        with self._lock:
            return self._pool.allocation_table()

    def buffer_id_table(self) -> tuple[BufferIdRow, ...]:
        """Table 1500."""
        with self._lock:
            return self._pool.buffer_id_table()

    def unused_buffer_id(self, local_port: str, remote_port: str) -> int | None:
        """See :meth:`credits.pool.Pool.unused_buffer_id`."""
        with self._lock:
            return self._pool.unused_buffer_id(local_port, remote_port)

    def audit(self) -> None:
        """See :meth:`credits.area.MemoryArea.audit`."""
        with self._lock:
            self._pool.audit()


def _entry_of(plan: Plan, request_id: str, request: Request) -> Entry:
    entry = Entry(plan.revision)
    for change in plan.changes:
        if change.issued_buffer_id is not None:
            entry.buffer_id = change.issued_buffer_id
        if isinstance(request, Hold):
            continue  # a hold is not durable; only the ID it may have used up is
        reservation = change.reservation
        key = change.target.key
        entry.before[key] = row_of(reservation.target, reservation.grant) if reservation else None
        entry.after[key] = _row_after(change.target, change.grant, reservation.grant if reservation else None)
    if plan.result is not None and not isinstance(request, Hold):
        entry.answer = request_id, repr(request), answer_text(plan.result)
    return entry


def _row_after(target: Target, grant: Grant | None, before: Grant | None) -> tuple[object, ...] | None:
    if grant is None:
        return None
    if before is not None:
        grant = replace(grant, order=before.order)
    return row_of(target, grant)


def _restore(pool: Pool, journal: Journal) -> None:
    stored = journal.stored
    grants = []
    for row in stored.rows:
        target, grant = reservation_of(row)
        grant.units = pool.config.units_for(grant.requested_bytes)
        grants.append((target, grant))
    pool.restore(
        grants, revision=stored.revision, next_buffer_id=stored.next_buffer_id, seeds=list(stored.seeds)
    )
    for request_id, request_text, text in stored.answers:
        answer = answer_of(text)
        assert not isinstance(answer, HoldResult)  # holds are never written
        pool.answers.remember(request_id, request_text, answer)
