# SPDX-License-Identifier: Apache-2.0
"""Reservations of one logical unit: persistent reservations (SPC-4 5.12) and the SPC-2 RESERVE/RELEASE method.

A pure state machine: commands come in as calls, unit attentions go out in an :class:`Outcome`. A call that raises
has changed nothing. How a reservation type treats a command is the table :data:`CONFLICTS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, IntEnum

from iscsi_target.scsi.errors import StatusOnly, check
from iscsi_target.scsi.sense import Condition
from iscsi_target.scsi.status import Status
from iscsi_target.scsi.unit_attention import Nexus

MAX_REGISTRATIONS = 256
"""Bound of one logical unit; more end with INSUFFICIENT REGISTRATION RESOURCES."""


class Access(Enum):
    """What a command does in the eyes of a reservation (SPC-4 table 67, SBC-3 table 15)."""

    ALLOWED = "always allowed"
    READ = "reads the medium or depends on it"
    WRITE = "changes the medium or the unit"
    RESERVATION = "looks after reservations itself"


class ReservationType(IntEnum):
    """Persistent reservation types (SPC-4 table 224)."""

    WRITE_EXCLUSIVE = 0x1
    EXCLUSIVE_ACCESS = 0x3
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 0x5
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 0x6
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 0x7
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 0x8

    @property
    def all_registrants(self) -> bool:
        """Every registrant holds it (SPC-4 5.12.10)."""
        return self in (self.WRITE_EXCLUSIVE_ALL_REGISTRANTS, self.EXCLUSIVE_ACCESS_ALL_REGISTRANTS)

    @property
    def registrants_may(self) -> bool:
        """Registrants have the holder's access, and learn of a release (SPC-4 table 66, 5.12.11.2)."""
        return self >= self.WRITE_EXCLUSIVE_REGISTRANTS_ONLY


_EXCLUSIVE_ACCESS_TYPES = frozenset(
    (
        ReservationType.EXCLUSIVE_ACCESS,
        ReservationType.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY,
        ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
    )
)

CONFLICTS: dict[ReservationType, frozenset[Access]] = {
    kind: frozenset((Access.READ, Access.WRITE) if kind in _EXCLUSIVE_ACCESS_TYPES else (Access.WRITE,))
    for kind in ReservationType
}
"""What each type refuses to a nexus that neither holds it nor may as registrant (SPC-4 table 66, SBC-3 table 15)."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """The persistent reservation; `holder` is None for the all-registrants types."""

    kind: ReservationType
    holder: Nexus | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a PERSISTENT RESERVE OUT brought about: unit attentions to establish, and nexuses whose tasks must end."""

    attentions: tuple[tuple[Condition, tuple[Nexus, ...]], ...] = ()
    aborted: tuple[Nexus, ...] = ()


@dataclass(frozen=True, slots=True)
class ReservationState:
    """All that outlives a power loss with APTPL, and what rolls a failed command back."""

    registrations: tuple[tuple[Nexus, int], ...] = ()
    reservation: Reservation | None = None
    aptpl: bool = False
    generation: int = 0


_NOTHING = Outcome()


def _conflict() -> StatusOnly:
    return StatusOnly(Status.RESERVATION_CONFLICT)


def _attentions(*rows: tuple[Condition, Iterable[Nexus]]) -> tuple[tuple[Condition, tuple[Nexus, ...]], ...]:
    listed = ((condition, tuple(nexuses)) for condition, nexuses in rows)
    return tuple(row for row in listed if row[1])


@dataclass(slots=True)
class Reservations:
    """Registrations, the persistent reservation and the SPC-2 reservation of one logical unit."""

    registrations: dict[Nexus, int] = field(default_factory=dict)
    reservation: Reservation | None = None
    reserved_by: Nexus | None = None
    """Holder of an SPC-2 reservation (RESERVE (6)); at most one kind of reservation exists at a time."""
    generation: int = 0
    aptpl: bool = False

    @property
    def idle(self) -> bool:
        """No reservation of any kind: nothing to check per command."""
        return self.reservation is None and self.reserved_by is None

    def state(self) -> ReservationState:
        """The persistent part, frozen."""
        return ReservationState(
            tuple(self.registrations.items()), self.reservation, self.aptpl, self.generation
        )

    def restore(self, state: ReservationState) -> None:
        """Put a frozen state back."""
        self.registrations = dict(state.registrations)
        self.reservation = state.reservation
        self.aptpl = state.aptpl
        self.generation = state.generation

    def holds(self, nexus: Nexus) -> bool:
        """Whether this nexus is a persistent reservation holder (SPC-4 5.12.10)."""
        if self.reservation is None:
            return False
        if self.reservation.kind.all_registrants:
            return nexus in self.registrations
        return self.reservation.holder == nexus

    def conflicts(self, nexus: Nexus, access: Access, *, despite_reserve: bool) -> bool:
        """Whether a command of this access ends with RESERVATION CONFLICT.

        `despite_reserve`: the command is one of the few that an SPC-2 reservation lets through (SPC-2 table 11).
        """
        if self.reserved_by is not None:
            return self.reserved_by != nexus and not despite_reserve
        reservation = self.reservation
        if reservation is None or self.holds(nexus):
            return False
        if reservation.kind.registrants_may and nexus in self.registrations:
            return False
        return access in CONFLICTS[reservation.kind]

    # -- the SPC-2 method ---------------------------------------------------------------------------------------

    def reserve_unit(self, nexus: Nexus) -> None:
        """RESERVE (6): conflicts with another holder and with any registration (SPC-4 5.12.3, CRH = 0)."""
        if self.registrations or self.reserved_by not in (None, nexus):
            raise _conflict()
        self.reserved_by = nexus

    def release_unit(self, nexus: Nexus) -> None:
        """RELEASE (6): by another nexus than the holder it does nothing, and is no error (SPC-2 7.16)."""
        if self.registrations and self.reserved_by is None:
            raise _conflict()
        if self.reserved_by == nexus:
            self.reserved_by = None

    def lose_nexus(self, nexus: Nexus) -> None:
        """I_T nexus loss ends its SPC-2 reservation; persistent ones stay (SPC-4 5.12.1)."""
        if self.reserved_by == nexus:
            self.reserved_by = None

    def reset(self) -> None:
        """Logical unit reset ends an SPC-2 reservation; persistent ones stay."""
        self.reserved_by = None

    # -- PERSISTENT RESERVE OUT ---------------------------------------------------------------------------------

    def _registered_with(self, nexus: Nexus, key: int) -> None:
        """Every service action but the registering ones needs this nexus registered with this key (SPC-4 6.16.2)."""
        if self.registrations.get(nexus) != key:
            raise _conflict()

    def register(
        self,
        nexus: Nexus,
        key: int,
        new_key: int,
        *,
        aptpl: bool,
        also: tuple[Nexus, ...] = (),
        ignore: bool = False,
    ) -> Outcome:
        """REGISTER, or with `ignore` REGISTER AND IGNORE EXISTING KEY (SPC-4 5.12.7, table 59).

        `also` are further nexuses to register: of ALL_TG_PT and SPEC_I_PT.
        """
        current = self.registrations.get(nexus)
        if not ignore and key != (current or 0):
            raise _conflict()
        every = (nexus, *(other for other in also if other != nexus))
        outcome = _NOTHING
        if new_key:
            fresh = sum(other not in self.registrations for other in every)
            if len(self.registrations) + fresh > MAX_REGISTRATIONS:
                raise check(Condition.INSUFFICIENT_REGISTRATION_RESOURCES)
            for other in every:
                self.registrations[other] = new_key
        elif current is not None:
            outcome = self._unregister(tuple(other for other in every if other in self.registrations))
        self.aptpl = aptpl
        self.generation = self.generation + 1 & 0xFFFFFFFF
        return outcome

    def _unregister(self, nexuses: tuple[Nexus, ...]) -> Outcome:
        """Take registrations away, and the reservation with its last holder (SPC-4 5.12.11.5)."""
        held = self.reservation
        for nexus in nexuses:
            del self.registrations[nexus]
        if held is None:
            return _NOTHING
        gone = not self.registrations if held.kind.all_registrants else held.holder in nexuses
        if not gone:
            return _NOTHING
        self.reservation = None
        if held.kind.registrants_may:
            return Outcome(_attentions((Condition.RESERVATIONS_RELEASED, self.registrations)))
        return _NOTHING

    def reserve(self, nexus: Nexus, key: int, kind: ReservationType) -> Outcome:
        """RESERVE (SPC-4 5.12.9)."""
        self._registered_with(nexus, key)
        if self.reservation is None:
            self.reservation = Reservation(kind, None if kind.all_registrants else nexus)
        elif not self.holds(nexus) or self.reservation.kind is not kind:
            raise _conflict()
        return _NOTHING

    def release(self, nexus: Nexus, key: int, kind: ReservationType) -> Outcome:
        """RELEASE (SPC-4 5.12.11.2)."""
        self._registered_with(nexus, key)
        held = self.reservation
        if held is None or not self.holds(nexus):
            return _NOTHING
        if held.kind is not kind:
            raise check(Condition.INVALID_RELEASE_OF_PERSISTENT_RESERVATION)
        self.reservation = None
        if not kind.registrants_may:
            return _NOTHING
        return Outcome(_attentions((Condition.RESERVATIONS_RELEASED, self._others(nexus))))

    def _others(self, nexus: Nexus) -> tuple[Nexus, ...]:
        return tuple(other for other in self.registrations if other != nexus)

    def clear(self, nexus: Nexus, key: int) -> Outcome:
        """CLEAR (SPC-4 5.12.11.6)."""
        self._registered_with(nexus, key)
        others = self._others(nexus)
        self.registrations.clear()
        self.reservation = None
        self.generation = self.generation + 1 & 0xFFFFFFFF
        return Outcome(_attentions((Condition.RESERVATIONS_PREEMPTED, others)))

    def preempt(
        self, nexus: Nexus, key: int, victim_key: int, kind: ReservationType, *, abort: bool = False
    ) -> Outcome:
        """PREEMPT, and with `abort` PREEMPT AND ABORT (SPC-4 5.12.11.3 to 5.12.11.5)."""
        self._registered_with(nexus, key)
        held = self.reservation
        all_registrants = held is not None and held.kind.all_registrants
        if victim_key == 0 and not all_registrants:
            raise check(Condition.INVALID_FIELD_IN_PARAMETER_LIST)
        takes_over = held is not None and (
            victim_key == 0 if held.holder is None else self.registrations.get(held.holder) == victim_key
        )
        if victim_key == 0:
            removed = self._others(nexus)
        else:
            removed = tuple(other for other, its_key in self.registrations.items() if its_key == victim_key)
            if not removed:
                raise _conflict()
            if takes_over:
                removed = tuple(other for other in removed if other != nexus)
        for other in removed:
            del self.registrations[other]
        released: tuple[Nexus, ...] = ()
        if takes_over and held is not None:
            self.reservation = Reservation(kind, None if kind.all_registrants else nexus)
            if held.kind is not kind:
                released = self._others(nexus)
        elif not self.registrations:
            self.reservation = None
        self.generation = self.generation + 1 & 0xFFFFFFFF
        victims = tuple(other for other in removed if other != nexus)
        return Outcome(
            _attentions(
                (Condition.REGISTRATIONS_PREEMPTED, victims), (Condition.RESERVATIONS_RELEASED, released)
            ),
            aborted=victims if abort else (),
        )

    def move(
        self, nexus: Nexus, key: int, new_key: int, to: Nexus, *, unregister: bool, aptpl: bool
    ) -> Outcome:
        """REGISTER AND MOVE (SPC-4 5.12.8)."""
        self._registered_with(nexus, key)
        held = self.reservation
        if held is None or held.holder != nexus:
            raise _conflict()
        if new_key == 0 or to == nexus:
            raise check(Condition.INVALID_FIELD_IN_PARAMETER_LIST)
        if to not in self.registrations and len(self.registrations) >= MAX_REGISTRATIONS:
            raise check(Condition.INSUFFICIENT_REGISTRATION_RESOURCES)
        self.registrations[to] = new_key
        self.reservation = Reservation(held.kind, to)
        if unregister:
            del self.registrations[nexus]
        self.aptpl = aptpl
        self.generation = self.generation + 1 & 0xFFFFFFFF
        return _NOTHING
