"""What the reservation core says no with.

::

    CreditError            the abstract root
      InvalidRequest       the caller asked for something that has no meaning (a size of 0, an unknown target)
      Refused              the request is sound, but the pool cannot or may not grant it now
      StoreError           the durable journal could not be read or written

:class:`LawBroken` stands apart: it says that this package has a defect, and nobody should catch it.

Two levels, because nobody catches finer: what differs between refusals is their :class:`Code` and the numbers
they carry. A refusal changes nothing (spec E.3 step 1004, claim 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Code(StrEnum):
    """The error codes of spec section I.2, as they travel in messages."""

    NO_MEMORY = "NO_MEMORY"
    INVALID_SIZE = "INVALID_SIZE"
    INVALID_TARGET = "INVALID_TARGET"
    NOT_RESERVED = "NOT_RESERVED"
    OVER_RESERVATION = "OVER_RESERVATION"
    BUSY = "BUSY"
    STALE = "STALE"
    UNREACHABLE = "UNREACHABLE"
    UNAUTHORIZED = "UNAUTHORIZED"
    RELOGIN_REQUIRED = "RELOGIN_REQUIRED"
    BAD_MESSAGE = "BAD_MESSAGE"
    STORE = "STORE"


@dataclass(frozen=True, slots=True)
class Holder:
    """One row of "who holds the rest": a target's reservation, or a holder of free-pool units."""

    name: str
    units: int


@dataclass(frozen=True, slots=True)
class Shortage:
    """The numbers of a refusal, all in units: asked, free now, still expandable, the largest that would pass."""

    asked_units: int
    free_units: int
    expandable_units: int
    grantable_units: int
    holders: tuple[Holder, ...] = ()


class CreditError(Exception):
    """Root of the package's errors; carries the code that travels in messages."""

    code: Code

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


class InvalidRequest(CreditError):
    """The request has no meaning, whatever the state of the pool."""


class Refused(CreditError):
    """The pool cannot or may not grant the request now; nothing has changed.

    ``shortage`` carries the numbers where the refusal is about units.
    """

    def __init__(self, code: Code, text: str, shortage: Shortage | None = None) -> None:
        super().__init__(code, text)
        self.shortage = shortage


class StoreError(CreditError):
    """The journal cannot be read or written; the text says what to do."""

    def __init__(self, text: str) -> None:
        super().__init__(Code.STORE, text)


class LawBroken(AssertionError):
    """Free + reserved idle + in use + draining no longer equals the total: a defect of this package."""
