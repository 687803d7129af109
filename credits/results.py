"""What the verbs of a pool answer: frozen values that outlive the moment, and travel in messages."""

from __future__ import annotations

from dataclasses import dataclass

from credits.config import UnitKind
from credits.targets import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveResult:
    """M6 (step 812): granted.

    ``reserved_units`` is the promise now and ``previous_units`` what it was; ``replaced`` says that the target
    already had a reservation, which was brought to the new total (INC-8). ``pending_shrink_units`` are still in
    use and go to the free list as they are freed (GAP-3). ``expanded_units`` were split from pages, or lent by
    the port group for it; for FC that raises the login value: ``relogin_required``. ``epoch`` is the fencing
    number to show when the reservation is changed, renewed or released by who made it.
    """

    target: Target
    reserved_units: int
    reserved_bytes: int
    requested_bytes: int
    previous_units: int
    pending_shrink_units: int
    replaced: bool
    revision: int
    buffer_id: int | None = None
    expanded_units: int = 0
    relogin_required: bool = False
    epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateResult:
    """M11 (step 1208): done; the fields are those of :class:`ReserveResult`.

    When one request hit the reservations of several connections of a port pair (embodiment 4), ``records`` has
    a result for each and the sums stand here. ``refused`` marks a record that strict-document mode could not
    grant while others were (INC-17).
    """

    target: Target
    reserved_units: int
    reserved_bytes: int
    requested_bytes: int
    previous_units: int
    pending_shrink_units: int
    revision: int
    replaced: bool = True
    buffer_id: int | None = None
    expanded_units: int = 0
    relogin_required: bool = False
    epoch: int = 0
    refused: bool = False
    records: tuple[UpdateResult, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseResult:
    """The reservation is gone: what went back at once, and what follows as its units are freed (GAP-4)."""

    target: Target
    released_units: int
    draining_units: int
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldResult:
    """Units set aside for ``target`` until the hold is confirmed, voided, or ``expires_at_ns`` passes."""

    hold_id: int
    target: Target
    reserved_units: int
    reserved_bytes: int
    requested_bytes: int
    previous_units: int
    expires_at_ns: int
    revision: int
    buffer_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Information:
    """M4 (after steps 806 and 1204), from the interface information acquisition unit 210: sizes in units."""

    unit_bytes: int
    available_units: int
    expandable_units: int
    reserved_units: int
    allocated_units: int
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics:
    """One consistent look at a pool, in units.

    The law: ``free + reserved_idle + in_use + draining = total``. ``expandable_units`` could still be split
    from pages; ``held_units`` are those of ``reserved_idle`` that stand in holds; ``degraded_units`` were
    promised before a restart but are missing now.
    """

    name: str
    kind: UnitKind
    unit_bytes: int
    total_units: int
    free_units: int
    reserved_idle_units: int
    in_use_units: int
    draining_units: int
    expandable_units: int
    revision: int
    held_units: int = 0
    degraded_units: int = 0
    reservations: int = 0

    @property
    def conserved(self) -> bool:
        """Does the law hold?"""
        parts = self.free_units + self.reserved_idle_units + self.in_use_units + self.draining_units
        return parts == self.total_units
