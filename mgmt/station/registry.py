"""Which arrays the station has: those named at its start, and those added while it runs, which it remembers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select

from credits.errors import Code, InvalidRequest, Refused
from mgmt.http import Address, parse_address
from mgmt.station import events, lifecycle, trail
from mgmt.station.canonical_json import utc_text
from mgmt.station.context import LOCAL_USER
from mgmt.station.database import Transaction
from mgmt.station.records import Stage
from mgmt.station.schema import ARRAYS

if TYPE_CHECKING:
    from mgmt.station.context import Station
    from mgmt.station.store import Store

NAME_LIMIT = 64
ADDRESS_LIMIT = 1024


def check_name(name: str) -> str:
    """``name``, where it is one for an array. Raises :class:`InvalidRequest`."""
    if not 1 <= len(name) <= NAME_LIMIT or not name.isprintable() or "/" in name or name != name.strip():
        raise InvalidRequest(
            Code.INVALID_TARGET,
            f"an array's name has 1 to {NAME_LIMIT} characters that can be printed, without a slash, not {name!r:.80}",
        )
    return name


def remembered(store: Store) -> Mapping[str, Address]:
    """The arrays that were added while a station ran. Raises :class:`mgmt.station.database.StationStoreError`."""
    with store.database.read() as connection:
        rows = connection.execute(select(ARRAYS.c.name, ARRAYS.c.address).order_by(ARRAYS.c.name))
        return {name: parse_address(address) for name, address in rows}


def add(station: Station, name: str, address: str, *, by: str = LOCAL_USER) -> dict[str, Any]:
    """Have the array ``name`` at ``address`` from now on, also after a restart; its row of ``get arrays``.

    A name that there is already gets the new address. Raises :class:`InvalidRequest` and
    :class:`mgmt.http.AddressError`. The array need not answer.
    """
    check_name(name)
    if len(address) > ADDRESS_LIMIT:
        raise InvalidRequest(Code.INVALID_TARGET, f"an address has at most {ADDRESS_LIMIT} characters")
    where = parse_address(address)
    before = station.arrays.add(name, station.connect(name, where))
    old = None if before is None else {"address": str(before.address)}

    def change(transaction: Transaction) -> None:
        now = utc_text(station.utc_now())
        transaction.execute(delete(ARRAYS).where(ARRAYS.c.name == name))
        transaction.execute(insert(ARRAYS).values(name=name, address=address, added_at=now, added_by=by))
        _note(transaction, station, "array-add", name, old, {"address": str(where)}, by)

    try:
        station.store.database.write(change)
    finally:
        if before is not None:
            before.close()
    station.inventory.forget(name)
    station.inventory.renew(name)
    return next(row for row in station.inventory.table("arrays").rows if row["array"] == name)


def remove(station: Station, name: str, *, by: str = LOCAL_USER) -> dict[str, Any]:
    """Have the array no more; its reservations stay with it. ``{array, address}``.

    Raises :class:`InvalidRequest` for an unknown one, and :class:`Refused` (BUSY) while an end of an unfinished attempt
    has to be brought back there.
    """
    address = str(station.arrays[name].address)
    if any(end.array == name for end in station.store.open_ends()):
        raise Refused(Code.BUSY, f"array {name} stays: one end of a pair has still to be brought back there")
    peer = station.arrays.remove(name)

    def change(transaction: Transaction) -> None:
        transaction.execute(delete(ARRAYS).where(ARRAYS.c.name == name))
        lifecycle.forget_array(transaction, name)
        _note(transaction, station, "array-remove", name, {"address": address}, None, by)

    try:
        station.store.database.write(change)
    finally:
        peer.close()
    station.inventory.forget(name)
    return {"array": name, "address": address}


def _note(
    transaction: Transaction,
    station: Station,
    verb: str,
    name: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    by: str,
) -> None:
    subject = f"array {name}"
    trail.append(
        transaction, station, verb, Stage.DONE, subject, by=by, array=name, before=before, after=after
    )
    said = "is not of this station any more" if after is None else f"is at {after['address']}"
    kind = "array-removed" if after is None else "array-added"
    events.note(transaction, station, kind, subject, f"array {name} {said}", array=name, by=by)
