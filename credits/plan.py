"""A plan: one mutation of the reservations, prepared and not yet in force.

Preparing sets the needed units aside and refuses if it cannot; confirming cannot fail; voiding leaves the pool
as it was. The journal is written between the two (so a commit that fails changes nothing), and a hold is a
plan that waits for its manager (reserve both ends or neither).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from credits.source import Grant, Reservation
from credits.targets import Target
from credits.units import Runs
from credits.verbs import Result


class Verb(Enum):
    """What a plan does to its targets."""

    RESERVE = "reserve"
    UPDATE = "update"
    RELEASE = "release"


@dataclass(slots=True)
class Change:
    """What one plan does to one reservation.

    ``reservation`` is the existing one or ``None``; ``grant`` is the promise to come, ``None`` for a release.
    ``previous_units`` is the promise before. ``lacking`` is how many units it takes from the free list when
    confirmed; ``taken`` are idle units withdrawn from it meanwhile, ``surplus`` how many should be, ``kept`` the
    number of draining units that will stay with it after all. ``issued_buffer_id`` was issued for it.
    """

    target: Target
    reservation: Reservation | None
    grant: Grant | None
    lacking: int = 0
    surplus: int = 0
    taken: Runs = ()
    kept: int = 0
    issued_buffer_id: int | None = None
    previous_units: int = field(init=False)
    replaces: bool = field(init=False)

    def __post_init__(self) -> None:
        self.replaces = self.reservation is not None
        self.previous_units = self.reservation.grant.units if self.reservation else 0


@dataclass(slots=True)
class Plan:
    """Changes that come into force together, and what is set aside for them.

    ``held`` are units taken from the free list, ``pages`` unsplit pages withdrawn from the supply. ``target`` is
    what the request named (which may have hit several reservations). ``result`` is the answer, known as soon as
    the plan is prepared, so that it can be written to the journal with the plan. ``refused`` are records that
    strict-document mode leaves as they are. ``open`` until confirmed or voided.
    """

    verb: Verb
    target: Target
    requested_bytes: int
    revision: int
    changes: list[Change]
    held: Runs = ()
    pages: int = 0
    open: bool = True
    result: Result | None = None
    refused: list[Reservation] = field(default_factory=list)

    @property
    def held_units(self) -> int:
        """Units in no list until the plan ends."""
        return units_in(self.held) + sum(units_in(change.taken) for change in self.changes)


def units_in(runs: Runs) -> int:
    """How many units the runs have together."""
    return sum(count for _, count in runs)
