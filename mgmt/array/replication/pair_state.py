"""The states of a pair, under the names that users of TrueCopy know, as one table (sans-IO).

Both arrays of a pair keep a state of their own: the primary (P-VOL) knows more, the secondary (S-VOL) is told in the
metadata record that travels with the data, and acts on its own only in a takeover.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, StrEnum
from types import MappingProxyType


class Role(StrEnum):
    """Which end of the pair this array has."""

    PRIMARY = "P-VOL"
    SECONDARY = "S-VOL"


class PairState(StrEnum):
    """Where a pair is."""

    SMPL = "SMPL"
    """Simplex: there is no pair."""
    COPY = "COPY"
    """The secondary is being brought up to date; what it holds is no point in time unless the record says so."""
    PAIR = "PAIR"
    """Every write is replicated: before its answer (synchronous) or in order after it (asynchronous)."""
    PSUS = "PSUS"
    """Suspended because somebody asked: split or paused. Changes are noted."""
    PSUE = "PSUE"
    """Suspended by an error; the reason is one line. Changes are noted."""
    SSWS = "SSWS"
    """The secondary was taken over: its hosts write, the old primary is kept out."""


class PairInput(Enum):
    """What may happen to a pair."""

    CREATE = "the pair is made"
    COPIED = "the secondary has everything"
    SPLIT = "somebody asked to split or to pause"
    ERROR = "the channel, the remote array or a disk failed"
    RESYNC = "bring the secondary up to date again"
    RECOVERED = "the channel is back, and the journal has every write since"
    TAKEOVER = "the secondary is to be written by its hosts"
    DEMOTE = "the primary gives its role away"
    PROMOTE = "the secondary becomes the primary"
    DELETE = "the pair is dissolved"


Place = tuple[Role, PairState]

_P, _S = Role.PRIMARY, Role.SECONDARY
_COPY, _PAIR, _PSUS, _PSUE, _SSWS, _SMPL = (
    PairState.COPY,
    PairState.PAIR,
    PairState.PSUS,
    PairState.PSUE,
    PairState.SSWS,
    PairState.SMPL,
)


def _table() -> dict[tuple[Place, PairInput], Place]:
    rows: dict[tuple[Place, PairInput], Place] = {}
    for role in (_P, _S):
        rows |= {
            ((role, _SMPL), PairInput.CREATE): (role, _COPY),
            ((role, _COPY), PairInput.COPIED): (role, _PAIR),
            ((role, _COPY), PairInput.SPLIT): (role, _PSUS),
            ((role, _PAIR), PairInput.SPLIT): (role, _PSUS),
            ((role, _PSUE), PairInput.SPLIT): (role, _PSUS),
            ((role, _COPY), PairInput.ERROR): (role, _PSUE),
            ((role, _PAIR), PairInput.ERROR): (role, _PSUE),
            ((role, _PSUS), PairInput.RESYNC): (role, _COPY),
            ((role, _PSUE), PairInput.RESYNC): (role, _COPY),
            ((role, _PSUE), PairInput.RECOVERED): (role, _PAIR),
        }
        for state in PairState:
            if state is not _SMPL:
                rows[(role, state), PairInput.DELETE] = (role, _SMPL)
    # A secondary that hears nothing else follows the primary's word, also from PAIR back to COPY.
    rows[(_S, _PAIR), PairInput.RESYNC] = (_S, _COPY)
    for state in (_COPY, _PAIR, _PSUS, _PSUE):
        rows[(_S, state), PairInput.TAKEOVER] = (_S, _SSWS)
    for state in (_COPY, _PSUS, _PSUE):
        rows[(_P, state), PairInput.DEMOTE] = (_S, _COPY)
    rows[(_P, _PAIR), PairInput.DEMOTE] = (_S, _PAIR)
    rows[(_S, _SSWS), PairInput.PROMOTE] = (_P, _COPY)
    rows[(_S, _PAIR), PairInput.PROMOTE] = (_P, _COPY)
    return rows


#: The whole state machine; a missing row is a wrong state for that wish, and changes nothing.
TRANSITIONS: Mapping[tuple[Place, PairInput], Place] = MappingProxyType(_table())


class WrongState(ValueError):
    """A wish does not fit the pair's state; one line, with the states in which it does."""


def after(place: Place, what: PairInput) -> Place:
    """Where ``what`` leads from ``place``. :class:`WrongState`."""
    found = TRANSITIONS.get((place, what))
    if found is not None:
        return found
    role, state = place
    fitting = sorted(before[1] for (before, wish) in TRANSITIONS if wish is what and before[0] is role)
    where = f"it takes {', '.join(fitting)}" if fitting else f"a {role} never does"
    raise WrongState(f"the pair is {state} ({role}), which does not fit {what.name.lower()}: {where}")


#: How a secondary gets to the state that the primary's record tells.
FOLLOWING: Mapping[PairState, tuple[PairInput, ...]] = MappingProxyType(
    {
        _COPY: (PairInput.RESYNC,),
        _PAIR: (PairInput.COPIED, PairInput.RECOVERED),
        _PSUS: (PairInput.SPLIT,),
        _PSUE: (PairInput.ERROR,),
    }
)


def follow(place: Place, told: PairState) -> Place:
    """The secondary's place when the primary says ``told``; unchanged where no row leads there."""
    for what in FOLLOWING.get(told, ()):
        found = TRANSITIONS.get((place, what))
        if found is not None:
            return found
    if told is _PAIR and place[1] is _PSUS:
        return place[0], _PAIR
    return place
