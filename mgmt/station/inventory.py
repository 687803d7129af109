"""The lists of everything that the arrays have: asked for at once where they are few, kept and renewed where many.

A station of up to :data:`LIVE_LIMIT` arrays asks them for each list, so that a list is the truth of its moment. With
more arrays a list comes from what each last said: a :class:`Renewer` asks one after the other, all of them in
:func:`round_s`, and an array that this station has just changed is asked again before the next list. ``as_of`` says how
old the oldest part is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mgmt.station.arrays import INFO, Arrays, Down
from mgmt.station.canonical_json import utc_text

Row = dict[str, Any]

#: So many arrays are asked for every list; more are kept.
LIVE_LIMIT = 16
#: Changed arrays that are asked before one list at most; the others come in their turn.
_CHANGED_LIMIT = 8
#: A list that nobody has asked for in so long is not renewed.
_WANTED_S = 120.0
_PATHS: Mapping[str, str] = {
    "arrays": INFO,
    "ports": INFO,
    "pools": "/v1/pools",
    "reservations": "/v1/reservations",
    "allocations": "/v1/allocations",
    "buffer-ids": "/v1/buffer-ids",
    "copies": "/v1/copies",
    "groups": "/v1/pairs",
}
#: What the station itself looks at, whether anybody asks for it or not.
_ALWAYS = (INFO, "/v1/pools", "/v1/reservations")


def round_s(arrays: int) -> float:
    """How long renewing what all arrays said takes: 20 ms for each, which costs a tenth of a core."""
    return max(2.0, 0.02 * arrays)


@dataclass(frozen=True, slots=True)
class Table:
    """One list: its rows (shared: do not change them), the arrays that did not answer, and how old it is.

    ``revision`` changes whenever the rows or the arrays that are down do; it begins anew with the process.
    """

    rows: tuple[Row, ...]
    down: tuple[Down, ...]
    revision: int
    as_of: str


@dataclass(slots=True)
class _Said:
    """What one array last said at one path."""

    answer: Any
    at: datetime


@dataclass(slots=True)
class _Kept:
    """One array: what it said, and since when it answers or does not."""

    said: dict[str, _Said] = field(default_factory=dict)
    changed: bool = False
    up: bool | None = None
    since: str = ""
    detail: str = ""


class Inventory:
    """What the arrays have. Thread-safe."""

    def __init__(self, arrays: Arrays, utc_now: Callable[[], datetime]) -> None:
        self._arrays = arrays
        self._utc_now = utc_now
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}
        self._wanted: dict[str, float] = {}
        self._last: dict[str, Table] = {}
        self._revision = 0

    def table(self, name: str) -> Table:
        """The list ``name``: arrays, ports, pools, reservations, allocations, buffer-ids, copies or groups."""
        path = _PATHS[name]
        self._wanted[path] = time.monotonic()
        names = self._arrays.names()
        if len(names) <= LIVE_LIMIT:
            self._ask(names, path)
        else:
            with self._lock:
                kept = {array: self._kept.get(array) for array in names}
                asked = [array for array, known in kept.items() if known is None or path not in known.said]
                changed = [array for array, known in kept.items() if known is not None and known.changed]
            self._ask(asked + changed[:_CHANGED_LIMIT], path)
            if path in _ALWAYS:
                self._unchanged(changed[:_CHANGED_LIMIT])
        return self._assembled(name, path, names)

    def warm(self) -> None:
        """Ask all arrays for what the station looks at, so that the first list has not to wait for them."""
        for path in _ALWAYS:
            self._ask(self._arrays.names(), path)

    def mark_changed(self, array: str) -> None:
        """This station has changed something there: the next list asks it again."""
        with self._lock:
            if array in self._kept:
                self._kept[array].changed = True

    def renew(self, array: str) -> None:
        """Ask one array for what the station looks at and what lists have been asked for lately."""
        horizon = time.monotonic() - _WANTED_S
        paths = [
            path for path in dict.fromkeys(_PATHS.values()) if path in _ALWAYS or self._recent(path, horizon)
        ]
        for path in paths:
            self._ask([array], path)
            if self.health(array)[0] is False:
                return  # one time-out is enough

    def said(self, array: str, name: str) -> tuple[Any, str] | None:
        """What the array last answered for the list ``name`` (its rows, or :class:`Down`), and when it was asked."""
        with self._lock:
            kept = self._kept.get(array)
            said = None if kept is None else kept.said.get(_PATHS[name])
            return None if said is None else (said.answer, utc_text(said.at))

    def health(self, array: str) -> tuple[bool | None, str, str]:
        """Whether an array answers (``None``: not asked yet), since when, and why not."""
        with self._lock:
            kept = self._kept.get(array) or _Kept()
            return kept.up, kept.since, kept.detail

    def forget(self, array: str) -> None:
        """The array is not the station's any more, or is another one."""
        with self._lock:
            self._kept.pop(array, None)

    def _recent(self, path: str, horizon: float) -> bool:
        return self._wanted.get(path, horizon) > horizon

    def _unchanged(self, arrays: list[str]) -> None:
        with self._lock:
            for array in arrays:
                if array in self._kept:
                    self._kept[array].changed = False

    def _ask(self, names: list[str], path: str) -> None:
        if not names:
            return
        now = self._utc_now()  # before they are asked: what is changed meanwhile is newer than the answer
        answers = self._arrays.ask(names, path)
        with self._lock:
            for name, answer in answers.items():
                kept = self._kept.setdefault(name, _Kept())
                up = not isinstance(answer, Down)
                if kept.up is not up:
                    kept.up, kept.since = up, utc_text(now)
                kept.detail = answer.detail if isinstance(answer, Down) else ""
                before = kept.said.get(path)
                same = before is not None and before.answer == answer
                # The object of before where it says the same: comparing lists is then comparing pointers.
                kept.said[path] = _Said(before.answer if same and before is not None else answer, now)

    def _assembled(self, name: str, path: str, names: list[str]) -> Table:
        rows: list[Row] = []
        down: list[Down] = []
        oldest: datetime | None = None
        with self._lock:
            for array in names:
                kept = self._kept.get(array)
                said = None if kept is None else kept.said.get(path)
                if kept is None or said is None:
                    continue  # added a moment ago
                oldest = said.at if oldest is None else min(oldest, said.at)
                if isinstance(said.answer, Down):
                    down.append(said.answer)
                    if name == "arrays":
                        rows.append(_array_row(said.answer, kept))
                elif name == "arrays":
                    rows.append(_array_row(said.answer, kept) | {"array": array})
                elif name == "ports":
                    rows += [
                        {"array": array} | dict(port) | {"array": array} for port in said.answer["ports"]
                    ]
                else:
                    rows += said.answer
            made = Table(
                tuple(rows), () if name == "arrays" else tuple(down), 0, utc_text(oldest or self._utc_now())
            )
            last = self._last.get(name)
            same = last is not None and (last.rows, last.down) == (made.rows, made.down)
            self._revision += not same
            revision = last.revision if same and last is not None else self._revision
            made = Table(made.rows, made.down, revision, made.as_of)
            self._last[name] = made
            return made


def _array_row(answer: Any, kept: _Kept) -> dict[str, Any]:
    if isinstance(answer, Down):
        row: dict[str, Any] = {"array": answer.array, "address": answer.address, "state": "down"}
        return row | {"ports": [], "volumes": [], "detail": answer.detail, "since": kept.since}
    ports = [str(port.get("address")) for port in answer["ports"]]
    up = {"state": "up", "ports": ports, "volumes": answer["volumes"], "detail": "", "since": kept.since}
    return {"array": "", "address": answer["address"]} | up
