"""A buffer ID shared by several connections (paragraph 95), and what each of them is sure of (GAP-18)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice

from credits.errors import Code, InvalidRequest
from credits.targets import Target, TargetKind

#: So many connections may be promised a minimum of one reservation.
CONNECTIONS_LIMIT = 1024
_BYTES_LIMIT = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """How many connections share a reservation, and the size in bytes each of them is sure of.

    The first ``connections`` holders with units in use are the sharers; while fewer have, the rest of their
    minima is kept for those still to come. A later holder may only take what nobody is sure of.
    """

    connections: int
    minimum_bytes: int


class SharedUse:
    """Who of those that share a reservation has how many units in use, in the order they came.

    Where the reservation has less than it was promised (degraded, or another unit size since), each sharer is
    sure of an equal part of what there is, so that it never stands idle with everybody refused.
    """

    __slots__ = ("_minimum_units", "_sharing", "_used")

    def __init__(self, sharing: Sharing, minimum_units: int) -> None:
        self._sharing = sharing
        self._minimum_units = minimum_units
        self._used: dict[str, int] = {}

    def copy(self) -> SharedUse:
        """The same for another pool."""
        twin = SharedUse(self._sharing, self._minimum_units)
        twin._used = dict(self._used)
        return twin

    def spare_units(self, holder: str, idle_units: int, backed_units: int) -> int:
        """How many of the idle units ``holder`` may take; takes time by the number of connections."""
        connections = self._sharing.connections
        minimum = min(self._minimum_units, backed_units // connections)
        seated = dict(islice(self._used.items(), connections))
        empty = connections - len(seated)
        if holder not in self._used and empty:
            empty -= 1
        kept = empty * minimum + sum(
            max(0, minimum - used) for other, used in seated.items() if other != holder
        )
        return max(0, idle_units - kept)

    def took(self, holder: str, units: int) -> None:
        """``holder`` has ``units`` more in use."""
        self._used[holder] = self._used.get(holder, 0) + units

    def gave(self, holder: str, units: int) -> None:
        """``holder`` has freed ``units``; who has none left makes room for the next."""
        left = self._used[holder] - units
        if left:
            self._used[holder] = left
        else:
            del self._used[holder]

    def agrees(self, used: Counter[str]) -> bool:
        """Is that what the holders have?"""
        return self._used == dict(used)


def check_sharing(target: Target, sharing: Sharing | None) -> None:
    """Only a buffer ID is shared, by 2 to 1024 connections, with a minimum above 0."""
    if sharing is None:
        return
    if target.kind is not TargetKind.CONNECTION:
        raise InvalidRequest(
            Code.INVALID_TARGET, f"only a connection's buffer ID is shared with a minimum, not {target}"
        )
    connections, minimum_bytes = sharing.connections, sharing.minimum_bytes
    if type(connections) is not int or not 2 <= connections <= CONNECTIONS_LIMIT:
        raise InvalidRequest(
            Code.INVALID_SIZE, f"2 to {CONNECTIONS_LIMIT} connections share, not {connections!r:.40}"
        )
    if type(minimum_bytes) is not int or not 0 < minimum_bytes <= _BYTES_LIMIT:
        raise InvalidRequest(
            Code.INVALID_SIZE, f"a minimum is a whole number of bytes above 0, not {minimum_bytes!r:.40}"
        )


def check_minima_fit(sharing: Sharing, minimum_units: int, units: int) -> None:
    """The minima together are within the reservation (INVALID_SIZE)."""
    if sharing.connections * minimum_units > units:
        raise InvalidRequest(
            Code.INVALID_SIZE,
            f"{sharing.connections} connections with at least {minimum_units} units each do not fit into "
            f"{units} units; reserve {sharing.connections * minimum_units}, or lower the minimum",
        )
