"""Reservations as the station knows them, and the life they go through; the truth is table 101 of their array."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, delete, func, insert, select, update

from credits.targets import Target
from mgmt.plain import to_plain
from mgmt.station.canonical_json import target_key, target_of, target_text, utc_text
from mgmt.station.database import Transaction
from mgmt.station.events import STATION
from mgmt.station.records import Holding, HoldingState
from mgmt.station.schema import HOLDINGS

if TYPE_CHECKING:
    from mgmt.station.context import Station

#: Reservations that are over and still known; the oldest go first.
OVER_LIMIT = 10_000


class Input(Enum):
    """What happens to a reservation."""

    RESERVE = auto()
    UPDATE = auto()
    RELEASE = auto()
    GRANTED = auto()
    DRAINS = auto()
    REFUSED = auto()
    FOUND = auto()
    """It is in table 101."""
    MISSING = auto()
    """It is not in table 101, though nobody asked this station to release it."""


_S, _I = HoldingState, Input
#: (state, input) → state; ``None`` is no reservation. A missing row cannot happen.
TRANSITIONS: Mapping[tuple[HoldingState | None, Input], HoldingState | None] = {
    **{(state, _I.RESERVE): _S.RESERVING for state in (None, _S.RELEASED, _S.LAPSED)},
    **{(state, _I.UPDATE): _S.RESERVING for state in (None, _S.RELEASED, _S.LAPSED)},  # step 1303
    **{(state, _I.RESERVE): _S.UPDATING for state in (_S.RESERVED, _S.DRAINING)},  # INC-8: replaced
    **{(state, _I.UPDATE): _S.UPDATING for state in (_S.RESERVED, _S.DRAINING)},
    **{
        (state, _I.RELEASE): _S.RELEASING
        for state in (None, _S.RESERVED, _S.DRAINING, _S.RELEASED, _S.LAPSED)
    },
    (_S.RESERVING, _I.GRANTED): _S.RESERVED,
    (_S.UPDATING, _I.GRANTED): _S.RESERVED,
    (_S.RELEASING, _I.GRANTED): _S.RELEASED,
    (_S.RELEASING, _I.DRAINS): _S.DRAINING,
    (_S.RESERVING, _I.REFUSED): None,
    (_S.UPDATING, _I.REFUSED): _S.RESERVED,
    (_S.RELEASING, _I.REFUSED): _S.RESERVED,
    **{(state, _I.FOUND): _S.RESERVED for state in (None, *_S) if state is not _S.DRAINING},
    (_S.DRAINING, _I.FOUND): _S.DRAINING,
    **{(state, _I.MISSING): _S.LAPSED for state in (_S.RESERVED, _S.UPDATING)},
    **{(state, _I.MISSING): _S.RELEASED for state in (_S.RELEASING, _S.DRAINING, _S.RELEASED)},
    (_S.RESERVING, _I.MISSING): None,
    (_S.LAPSED, _I.MISSING): _S.LAPSED,
    (None, _I.MISSING): None,
}
#: What there is no reservation in any more.
OVER = (HoldingState.RELEASED, HoldingState.LAPSED)


def find(connection: Any, array: str, target: Target) -> Holding | None:
    """What the station knows of a target on an array."""
    row = connection.execute(_FIND, _key(array, target)).mappings().first()
    return None if row is None else _holding(dict(row))


def known(transaction: Transaction, array: str, target: Target) -> Holding | None:
    """The same within a change, which is the only place where it becomes another."""
    return transaction.known(
        _memory_key(_key(array, target)), lambda: find(transaction.connection, array, target)
    )


def listed(station: Station, *, array: str | None = None, over: bool = False) -> list[Holding]:
    """The reservations as the station knows them; with ``over`` also those that are no more."""
    query = select(HOLDINGS).order_by(HOLDINGS.c.array, HOLDINGS.c.target_key)
    if array is not None:
        query = query.where(HOLDINGS.c.array == array)
    if not over:
        query = query.where(HOLDINGS.c.state.not_in([state.value for state in OVER]))
    with station.store.database.read() as connection:
        return [_holding(dict(row)) for row in connection.execute(query).mappings()]


def put(
    transaction: Transaction,
    station: Station,
    array: str,
    target: Target,
    inputs: Collection[Input],
    values: Mapping[str, Any],
    *,
    by: str = STATION,
) -> HoldingState | None:
    """Take a reservation through ``inputs`` and remember ``values`` of it; the state it is in then."""
    before = known(transaction, array, target)
    state = None if before is None else before.state
    for happened in inputs:
        state = TRANSITIONS[state, happened]
    key = _key(array, target)
    if state is None:
        transaction.execute(_DELETE, key)
        transaction.remember(_memory_key(key), None)
        return None
    now = utc_text(station.utc_now())
    old: dict[str, Any] = dict.fromkeys(_VALUES, 0) | {"lease_s": None}
    if before is not None:
        old = {name: getattr(before, name) for name in (*_VALUES, "since")}
    after = Holding(
        **{
            **old,
            "array": array,
            "target": target,
            "state": state,
            **({"since": now} if before is None or before.state in OVER else {}),
            "changed_at": now,
            "changed_by": by,
            **{name: values[name] for name in _VALUES if name in values},
        }
    )
    written = {name: getattr(after, name) for name in _WRITTEN} | {
        "target": target_text(target),
        "state": state.value,
    }
    if before is None:
        row = {"array": array, "target_key": key["the_target_key"]} | written
        transaction.execute(_INSERT, row)
    else:
        transaction.execute(_UPDATE, key | written)
    transaction.remember(_memory_key(key), after)
    return state


def forget_array(transaction: Transaction, array: str) -> None:
    """The array is not of this station any more."""
    transaction.memory.clear()
    transaction.execute(delete(HOLDINGS).where(HOLDINGS.c.array == array))


def row(holding: Holding) -> dict[str, Any]:
    """The JSON object of one reservation as the station knows it."""
    plain: dict[str, Any] = to_plain(holding)
    return {"lease_s": None} | plain


def thin(transaction: Transaction) -> int:
    """Forget the oldest reservations that are over, beyond the limit; how many."""
    over = HOLDINGS.c.state.in_([state.value for state in OVER])
    count = transaction.execute(select(func.count()).select_from(HOLDINGS).where(over)).scalar_one()
    if count <= OVER_LIMIT:
        return 0
    newest = select(HOLDINGS.c.changed_at).where(over).order_by(HOLDINGS.c.changed_at.desc())
    limit = transaction.execute(newest.limit(1).offset(OVER_LIMIT)).scalar()
    transaction.memory.clear()
    return int(transaction.execute(delete(HOLDINGS).where(over, HOLDINGS.c.changed_at <= limit)).rowcount)


_THE_ONE = and_(
    HOLDINGS.c.array == bindparam("the_array"), HOLDINGS.c.target_key == bindparam("the_target_key")
)
_FIND = select(HOLDINGS).where(_THE_ONE)
_INSERT = insert(HOLDINGS)
_UPDATE = update(HOLDINGS).where(_THE_ONE)
_DELETE = delete(HOLDINGS).where(_THE_ONE)
#: What a transaction remembers them by: this, the array and the target's key.
_MEMORY = "holding"


def _memory_key(key: Mapping[str, Any]) -> tuple[str, str, str]:
    return _MEMORY, key["the_array"], key["the_target_key"]


def _key(array: str, target: Target) -> dict[str, Any]:
    return {"the_array": array, "the_target_key": target_key(target)}


_VALUES = ("requested_bytes", "reserved_units", "reserved_bytes", "epoch", "lease_s")
_WRITTEN = (*_VALUES, "since", "changed_at", "changed_by")


def _holding(values: dict[str, Any]) -> Holding:
    target = target_of(values["target"])
    assert target is not None
    del values["target_key"]
    return Holding(**(values | {"target": target, "state": HoldingState(values["state"])}))


def summary(holding: Holding | None) -> dict[str, Any] | None:
    """The sizes of a reservation as audit records have them."""
    if holding is None or holding.state in OVER:
        return None
    known = asdict(holding)
    return {name: known[name] for name in _VALUES if known[name] is not None}
