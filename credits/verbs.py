"""The verbs that change reservations, as requests; the same for the pool in memory and the durable one.

A request is a frozen value: two with the same ``request_id`` must be equal, and the second gets the answer of
the first (GAP-5). What carries a request out differs, so :class:`ReservationVerbs` leaves that to one method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from credits.results import HoldResult, ReleaseResult, ReserveResult, UpdateResult
from credits.sharing import Sharing
from credits.targets import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """M5: reserve for a target; a second one replaces the first (INC-8)."""

    target: Target
    requested_bytes: int
    expected_revision: int | None = None
    allow_expansion: bool = True
    lease_ns: int | None = None
    sharing: Sharing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """M10: bring a reservation to a new total; ``enlarge_only`` is M14, which never shrinks (claim 8).

    ``partial`` takes as much growth as there is (GAP-13).
    """

    target: Target
    requested_bytes: int
    expected_revision: int | None = None
    epoch: int | None = None
    enlarge_only: bool = False
    partial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSeveral:
    """Several targets at once, each to its own total, all or nothing (INC-17)."""

    sizes: tuple[tuple[Target, int], ...]
    expected_revision: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Give a reservation up (GAP-4)."""

    target: Target
    drain: bool = False
    expected_revision: int | None = None
    epoch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Set units aside for a target, to be confirmed or voided later (reserve both ends or neither)."""

    target: Target
    requested_bytes: int
    ttl_ns: int
    expected_revision: int | None = None
    lease_ns: int | None = None
    sharing: Sharing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmHold:
    """Turn a hold into the reservation."""

    hold_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VoidHold:
    """Give a hold up."""

    hold_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lapse:
    """End a reservation whose lease has run out (GAP-10); only :meth:`ReservationVerbs.expire` asks for it."""

    target: Target
    epoch: int


Request = Reserve | Update | UpdateSeveral | Release | Hold | ConfirmHold | VoidHold | Lapse
Result = ReserveResult | UpdateResult | ReleaseResult | HoldResult


class ReservationVerbs(ABC):
    """Reserve, update, enlarge, release: each takes a ``request_id`` and answers a retry as the first time.

    ``now_ns`` is the pool's monotonic clock. All raise :class:`credits.errors.InvalidRequest` for what has no
    meaning, :class:`credits.errors.Refused` where the pool cannot or may not, and after either nothing has
    changed. A refusal is an answer too, so trying again later (after BUSY, say) takes a new ``request_id``.
    ``expected_revision`` is a compare-and-set on the revision that results and statistics carry
    (STALE when it has moved on); ``epoch`` fences off whoever has lost the reservation to a newer manager, and
    duplicates so late that their first answer has been forgotten.
    """

    @abstractmethod
    def _execute(self, request_id: str, request: Request, now_ns: int) -> Result:
        """Carry out ``request``, or return the answer it had before."""

    def reserve(
        self,
        target: Target,
        requested_bytes: int,
        *,
        request_id: str,
        now_ns: int,
        expected_revision: int | None = None,
        allow_expansion: bool = True,
        lease_ns: int | None = None,
        sharing: Sharing | None = None,
    ) -> ReserveResult:
        """Reserve (figure 7): units move from the free list, and from unsplit pages, to the target's list 33.

        For a connection without an ID (:func:`credits.targets.new_connection`) a buffer ID is issued; any other
        target that is already reserved is brought to the new total (``replaced``). ``lease_ns`` makes it
        lapse unless renewed (GAP-10). ``sharing`` says how many connections share the new buffer ID and what each
        of them, by its allocations' holder, is sure of; the reservation keeps it for its life, and no update
        takes it below the sum of the minima (INVALID_SIZE). No unit in use is revoked for a
        minimum: after a shrink below what others use, it waits until they free some (GAP-18).
        """
        request = Reserve(
            target=target,
            requested_bytes=requested_bytes,
            expected_revision=expected_revision,
            allow_expansion=allow_expansion,
            lease_ns=lease_ns,
            sharing=sharing,
        )
        return cast(ReserveResult, self._execute(request_id, request, now_ns))

    def update(
        self,
        target: Target,
        requested_bytes: int,
        *,
        request_id: str,
        now_ns: int,
        expected_revision: int | None = None,
        epoch: int | None = None,
        partial: bool = False,
    ) -> UpdateResult:
        """Bring the target's reservation to a new total (figure 10); reserves it where there is none (1303).

        Growth comes from the free list, then from unsplit pages (INC-6). A shrink returns idle units at once
        and drains the rest. A port pair without a reservation of its own stands for every connection reserved
        on it (embodiment 4): all are brought to the size, or none. With ``partial`` a single reservation grows
        as far as it can where the whole growth is not to be had (GAP-13).
        """
        request = Update(
            target=target,
            requested_bytes=requested_bytes,
            expected_revision=expected_revision,
            epoch=epoch,
            partial=partial,
        )
        return cast(UpdateResult, self._execute(request_id, request, now_ns))

    def enlarge(
        self,
        target: Target,
        requested_bytes: int,
        *,
        request_id: str,
        now_ns: int,
        expected_revision: int | None = None,
        epoch: int | None = None,
    ) -> UpdateResult:
        """Enlarge a reservation (claims 8 and 21, M14); a size below the present one is INVALID_SIZE."""
        request = Update(
            target=target,
            requested_bytes=requested_bytes,
            expected_revision=expected_revision,
            epoch=epoch,
            enlarge_only=True,
        )
        return cast(UpdateResult, self._execute(request_id, request, now_ns))

    def update_several(
        self,
        sizes: Sequence[tuple[Target, int]],
        *,
        request_id: str,
        now_ns: int,
        expected_revision: int | None = None,
    ) -> UpdateResult:
        """Bring several reservations to their new totals (bytes), shrinks first, all or nothing (INC-17)."""
        request = UpdateSeveral(sizes=tuple(sizes), expected_revision=expected_revision)
        return cast(UpdateResult, self._execute(request_id, request, now_ns))

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
        """Give the reservation up: BUSY while units are in use, unless they may ``drain`` (GAP-4)."""
        request = Release(target=target, drain=drain, expected_revision=expected_revision, epoch=epoch)
        return cast(ReleaseResult, self._execute(request_id, request, now_ns))

    def hold(
        self,
        target: Target,
        requested_bytes: int,
        *,
        ttl_ns: int,
        request_id: str,
        now_ns: int,
        expected_revision: int | None = None,
        lease_ns: int | None = None,
        sharing: Sharing | None = None,
    ) -> HoldResult:
        """Set aside what a reserve of this size needs, for ``ttl_ns`` at most.

        Confirming it then cannot be refused for want of units. Until it ends, other changes of the target are
        BUSY. A hold lives in memory: a restart voids it.
        """
        request = Hold(
            target=target,
            requested_bytes=requested_bytes,
            ttl_ns=ttl_ns,
            expected_revision=expected_revision,
            lease_ns=lease_ns,
            sharing=sharing,
        )
        return cast(HoldResult, self._execute(request_id, request, now_ns))

    def confirm_hold(self, hold_id: int, *, request_id: str, now_ns: int) -> ReserveResult:
        """Turn a hold into the reservation; STALE when it has expired, was voided, or was confirmed before."""
        return cast(ReserveResult, self._execute(request_id, ConfirmHold(hold_id=hold_id), now_ns))

    def void_hold(self, hold_id: int, *, request_id: str, now_ns: int) -> HoldResult:
        """Give a hold up: what it had set aside goes back. STALE as for :meth:`confirm_hold`."""
        return cast(HoldResult, self._execute(request_id, VoidHold(hold_id=hold_id), now_ns))
