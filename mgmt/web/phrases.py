"""Whole sentences of the station and the arrays (events, alarms, refusals, ways out), in the reader's language.

They keep such a text as one English line. Each is made from one of the messages below, so its values can be read back
out of it and filled into the translation; a line that none of them fits is shown as it came, and marked as English.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from mgmt.web.language import DEFAULT, Language, mark
from mgmt.web.readable import count, size

#: Said in an event, an alarm or the audit trail (:mod:`mgmt.station`). A message stands before those that fit its text
#: as well, because they have less in them that is fixed.
HAPPENED: tuple[str, ...] = (
    mark("alarm %(number)s (%(alarm)s) is over"),
    mark("alarm %(number)s (%(alarm)s) is acknowledged: %(word)s"),
    mark("alarm %(number)s (%(alarm)s) is acknowledged"),
    mark("alarm %(number)s (%(alarm)s): %(why)s"),
    mark("reserved %(units)s units for %(target)s on array %(array)s"),
    mark(
        "reserved at both ends of %(target)s: units %(units)s on array %(array)s, %(more)s on array %(other)s"
    ),
    mark("released %(units)s units of %(target)s on array %(array)s, %(more)s more follow"),
    mark("released %(units)s units of %(target)s on array %(array)s"),
    mark("%(target)s on array %(array)s has %(units)s units, before %(more)s"),
    mark("%(target)s on array %(array)s has %(units)s units, not %(more)s: changed by somebody else"),
    mark("%(target)s on array %(array)s has %(units)s units: reserved by somebody else, and %(more)s more"),
    mark("%(target)s on array %(array)s has %(units)s units: reserved by somebody else"),
    mark("the last unit of %(target)s on array %(array)s has returned"),
    mark("the lease of %(target)s on array %(array)s has run out"),
    mark("the reservation of %(target)s on array %(array)s (%(units)s units) has gone without a release"),
    mark("the size of %(target)s is %(sizing)s, %(amount)s bytes"),
    mark("the size of %(target)s is %(sizing)s again"),
    mark("the size of %(target)s is %(sizing)s"),
    mark("%(target)s has no policy any more"),
    mark("%(target)s has %(units)s sessions of %(more)s connections"),
    mark("%(target)s is not in table 108 any more"),
    mark("it could not be measured: its values are stale"),
    mark("bandwidth %(units)s bit/s, round trip %(more)s ns"),
    mark("array %(array)s answers again"),
    mark("array %(array)s is not of this station any more"),
    mark("array %(array)s is at %(word)s"),
    mark("the cache of array %(array)s warns at %(amount)s bytes"),
    mark("neither end of %(target)s keeps what was asked for: %(why)s"),
    mark("%(why)s; neither end keeps a reservation"),
    mark("the station ended in between"),
    mark("%(verb)s of %(target)s had no answer: %(why)s"),
    mark("%(verb)s of %(target)s on array %(array)s: %(why)s"),
    # alarms
    mark("it does not answer: %(why)s"),
    mark("%(units)s units of its reservations have no memory: the pool is smaller than it was"),
    mark("it had no credit to send with for more than %(share)s of the time"),
    mark("less than %(share)s of its units are free: hosts may have to wait"),
    mark("its values could not be renewed"),
    mark("its values are too old"),
    mark("its policy asks for %(amount)s bytes, and it stays as it is: %(why)s"),
    mark(
        "it has %(units)s units and its channel calls for %(more)s: short by %(lacking)s on array %(array)s, "
        "which has %(free)s free"
    ),
    mark(
        "array %(array)s may still hold what the other end refused; it is brought back to %(amount)s bytes "
        "as soon as the array answers"
    ),
    mark("the cache of array %(array)s is low, and it cannot enlarge its reservation: %(why)s"),
    mark("%(amount)s bytes are free, the threshold is %(limit)s"),
)

#: Said in an outlook (:mod:`mgmt.station.whatif`).
FORETOLD: tuple[str, ...] = (
    mark(
        "no other channel between the two arrays is registered: the copies over %(pair)s stop, and its reservations "
        "stay idle until it is back"
    ),
    mark("the session of %(pair)s would go over %(other)s"),
    mark("the %(units)s sessions of %(pair)s would go over %(other)s"),
    mark("%(target)s is set by hand: make it automatic, there is room for it"),
    mark("add %(units)s units to the pool of array %(array)s"),
    mark("release %(target)s, whose channel has failed: %(units)s units"),
    mark("shrink %(target)s to what its channel calls for: %(units)s units"),
    mark("release %(target)s, which nobody uses now: %(units)s units"),
)

#: Said by a refusal, of an array (:mod:`credits.refusals` and others) or of the station.
REFUSED: tuple[str, ...] = (
    mark(
        "no memory: %(subject)s needs %(units)s more units; %(free)s are free%(kept)s and %(more)s more could be split "
        "from pages, so it could get at most %(most)s more now; held by %(word)s; ask for less, release a reservation, "
        "or give the pool more"
    ),
    mark(
        "no memory: %(subject)s needs %(units)s more units; %(free)s are free%(kept)s and %(more)s more could be split "
        "from pages, so it could get at most %(most)s more now; ask for less, release a reservation, or give the pool "
        "more"
    ),
    mark(" (%(units)s of them kept for unreserved use)"),
    mark(
        "%(target)s has %(units)s units in use; stop their use first, or release it with drain, which returns each "
        "unit as it is freed"
    ),
    mark("%(target)s has %(units)s units in use"),
    mark("%(target)s has no reservation here"),
    mark("%(target)s is held or being changed by another request; try again"),
    mark("both ends of %(target)s are being reserved by another request; try again"),
    mark("%(target)s is managed under epoch %(units)s now, not %(more)s; another manager has taken it over"),
    mark("the lease of %(target)s has not run out"),
    mark(
        "the reservations have changed: revision %(units)s was expected, it is %(more)s now; read them again"
    ),
    mark("array %(array)s: %(why)s; nothing has changed at either end"),
    mark("the channel %(pair)s has not been measured: measure it, or give bandwidth and rtt"),
    mark("the pair %(pair)s is not in table 108: register it first (`sancredit register`)"),
    mark(
        "array %(array)s has still to bring back its end of %(target)s, which an earlier request has left; try again "
        "when it answers"
    ),
    mark("array %(array)s at %(word)s does not answer: %(why)s"),
    mark("array %(array)s does not answer: %(why)s"),
    mark("connection refused"),
    mark("no such file or directory"),
    mark("no connection in %(word)s s"),
    mark("no whole answer in %(word)s s"),
    mark("its answer is too long"),
)

#: What a text is about: a reservation target, a channel, an array, a part of one.
SUBJECTS: tuple[str, ...] = (
    mark("port pair %(pair)s number %(number)s"),
    mark("port pair %(pair)s"),
    mark("a new connection of %(pair)s"),
    mark("buffer ID %(number)s"),
    mark("application %(word)s"),
    mark("volume pair %(word)s"),
    mark("volume group pair %(word)s"),
    mark("channel %(pair)s number %(number)s"),
    mark("channel %(pair)s"),
    mark("interface %(word)s of array %(array)s"),
    mark("cache of array %(array)s"),
    mark("end of %(pair)s on array %(array)s"),
    mark("array %(array)s"),
)

#: A word within one of them → as it is shown.
WITHIN: Mapping[str, str] = {
    "automatic": mark("automatic"),
    "manual": mark("manual"),
    "reserve": mark("reserving"),
    "update": mark("changing the size"),
    "release": mark("releasing"),
    "enlarge": mark("enlarging"),
    "reserve-both-ends": mark("reserving at both ends"),
    "cache-threshold": mark("setting the threshold"),
}

_PLACE = re.compile(r"%\((\w+)\)s")
_NUMBERS = frozenset({"number", "units", "more", "free", "most", "lacking", "amount", "limit"})
_AMOUNTS = frozenset({"amount", "limit"})
_DEPTH = 4


@dataclass(frozen=True)
class Phrase:
    """One message; :meth:`read` is linear in its text, whatever a peer has written into that."""

    message: str

    @cached_property
    def fixed(self) -> tuple[str, ...]:
        """What stands between the values, one more than they are."""
        return tuple(_PLACE.split(self.message)[::2])

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the values."""
        return tuple(_PLACE.findall(self.message))

    def read(self, text: str) -> dict[str, str] | None:
        """The values that ``text`` has in the places; ``None`` where it was not made from this message."""
        first, *rest = self.fixed
        if not text.startswith(first) or len(text) < len(first):
            return None
        found: dict[str, str] = {}
        at = len(first)
        for place, (name, after) in enumerate(zip(self.names, rest, strict=True), 1):
            if place < len(self.names):
                end = text.find(after, at)
            else:
                end = len(text) - len(after) if text.endswith(after) else -1
            if end < at or (name in _NUMBERS and not _is_number(text[at:end])):
                return None
            found[name] = text[at:end]
            at = end + len(after)
        return found if at == len(text) else None


@dataclass(frozen=True, slots=True)
class Said:
    """A text as it is shown, and the language that it is in: not the reader's where no message fits."""

    text: str
    tag: str


class Phrases:
    """The messages above in one language. ``alarm`` has the words for a kind of alarm."""

    def __init__(self, language: Language, alarm: Callable[[str], str]) -> None:
        self._language, self._alarm = language, alarm

    def said(self, text: str) -> Said:
        """``text`` for the reader; English is shown as it is kept, so that it can be searched for."""
        if self._language.tag == DEFAULT:
            return Said(text, DEFAULT)
        found = self._spoken(text, _SENTENCES, 0)
        return Said(text, DEFAULT) if found is None else Said(found, self._language.tag)

    def _spoken(self, text: str, phrases: tuple[Phrase, ...], depth: int) -> str | None:
        for phrase, values in _fitting(text, phrases) if depth < _DEPTH else ():
            shown = {name: self._value(name, value, depth + 1) for name, value in values.items()}
            if all(value is not None for value in shown.values()):
                return self._language(phrase.message, **shown) if shown else self._language(phrase.message)
        return None

    def _value(self, name: str, value: str, depth: int) -> str | None:
        """One value as it is shown; ``None`` where it is none of what stands in such a place."""
        match name:
            case "target" | "subject":
                return self._spoken(value, _THINGS, depth)
            case "why":
                found = self._spoken(value, _SENTENCES, depth)
                return value if found is None else found
            case "kept":
                return "" if not value else self._spoken(value, _SENTENCES, depth)
            case "alarm":
                return self._alarm(value)
            case "sizing" | "verb":
                return self._language(WITHIN[value]) if value in WITHIN else None
            case "pair":
                return value.replace("->", " → ").replace(",", " → ")
            case _ if name in _AMOUNTS:
                return size(int(value))
            case _ if name in _NUMBERS and name != "number":
                return count(int(value))
            case _:
                return value


def _fitting(text: str, phrases: tuple[Phrase, ...]) -> Iterator[tuple[Phrase, dict[str, str]]]:
    for phrase in phrases:
        values = phrase.read(text)
        if values is not None:
            yield phrase, values


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


_THINGS = tuple(map(Phrase, SUBJECTS))
_SENTENCES = (*map(Phrase, (*HAPPENED, *FORETOLD, *REFUSED)), *_THINGS)
