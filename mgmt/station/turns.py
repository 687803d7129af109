"""Whose turn it is to change a target: changes that overlap wait for each other, in the order they came.

So the audit trail has the changes of a target in the order in which they took effect, and what the station knows of it
is what the last of them left.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from credits.errors import Code, Refused
from credits.targets import Target, TargetKind

#: How long a change waits for those before it: longer than an array may take to answer one of them.
TURN_S = 15.0
#: Changes that wait for the same thing at most; whoever comes then is told at once.
WAITING_LIMIT = 32

#: What a change takes a turn on → whether others may share it.
Claims = Mapping[str, bool]


@dataclass(frozen=True, slots=True, eq=False)
class _Ticket:
    claims: Claims


class Turns:
    """The lines in which changes wait. Thread-safe.

    A turn on several things is taken in all their lines at the same moment, so nobody waits in a ring.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lines: dict[str, deque[_Ticket]] = {}

    @contextmanager
    def take(self, what: str, claims: Claims, *, wait_s: float = TURN_S) -> Iterator[None]:
        """The caller's turn inside the block. Raises :class:`Refused` (BUSY) where it does not come in time.

        Not to be taken inside another one. ``what`` names in the refusal what the caller wants to change.
        """
        ticket = _Ticket(claims)
        with self._changed:
            if any(len(self._lines.get(name, ())) > WAITING_LIMIT for name in claims):
                raise _busy(what, f"{WAITING_LIMIT} changes of it are waiting already")
            for name in claims:
                self._lines.setdefault(name, deque()).append(ticket)
            if not self._changed.wait_for(lambda: self._is_next(ticket), wait_s):
                self._leave(ticket)
                raise _busy(what, "a change of it that came before has not ended yet")
        try:
            yield
        finally:
            with self._changed:
                self._leave(ticket)

    def _is_next(self, ticket: _Ticket) -> bool:
        for name, shared in ticket.claims.items():
            for ahead in self._lines[name]:
                if ahead is ticket:
                    break
                if not (shared and ahead.claims[name]):
                    return False
        return True

    def _leave(self, ticket: _Ticket) -> None:
        for name in ticket.claims:
            line = self._lines[name]
            line.remove(ticket)
            if not line:
                del self._lines[name]
        self._changed.notify_all()


def on_target(array: str, target: Target, *, makes: bool = False) -> Claims:
    """What a change of a target on an array takes its turn on; ``makes``: it makes a new connection's buffer ID.

    A change of all connections of a pair at once (embodiment 4) waits for those of single ones, and they for it.
    """
    if target.kind is not TargetKind.CONNECTION:
        return {f"{array}/{target.key}": False}
    connections = f"{array}/{TargetKind.CONNECTION}"
    if target.buffer_id is None:
        return {connections: makes}
    return {connections: True, f"{array}/{target.key}": False}


def on_each(targets: Iterable[tuple[str, Target]]) -> Claims:
    """What a change of several targets, each on its array, takes its turn on."""
    claims: dict[str, bool] = {}
    for array, target in targets:
        claims |= on_target(array, target)
    return claims


def on_cache(array: str) -> Claims:
    """What a change of the threshold of an array's cache takes its turn on."""
    return {f"{array}/cache": False}


def _busy(what: str, why: str) -> Refused:
    return Refused(Code.BUSY, f"{what} stays as it is: {why}; try again")
