# SPDX-License-Identifier: Apache-2.0
"""A TOML file whose errors name the line: tables read key by key, each key once, unknown ones refused.

:mod:`tomllib` gives values without lines, so the line of a wrong key is searched in the text again.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcsim.errors import InvalidScenario

LARGEST_FILE_BYTES = 1 << 20
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,60}")
"""What stands in an error as it is; other keys, which may hold anything, are quoted."""
_HEADER = re.compile(r"\s*(\[\[?)\s*([A-Za-z0-9_.\"-]+?)\s*\]\]?\s*(#.*)?$")


@dataclass(frozen=True, slots=True)
class Document:
    """A file as it was read: ``values`` may be changed by a sweep, the lines stay those of the file."""

    path: str
    text: str
    values: Mapping[str, Any]

    def line(self, table: str, number: int, key: str | None = None) -> int:
        """The line of a key in the ``number``-th table of this name, or of the table's heading; 1 where none is."""
        seen, heading = -1, 1
        for at, text in enumerate(self.text.splitlines(), 1):
            found = _HEADER.match(text)
            if found:
                if seen == number and heading > 1:
                    return heading
                if found[2] == table:
                    seen += 1
                    if seen == number:
                        heading = at
                        if key is None:
                            return at
            elif (
                seen == number
                and key is not None
                and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", text)
            ):
                return at
        return heading


def load_document(path: Path) -> Document:
    """Read a file. Raises :class:`~fcsim.errors.InvalidScenario` for what is no TOML, or cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidScenario(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    if len(data) > LARGEST_FILE_BYTES:
        raise InvalidScenario(f"{path} is longer than {LARGEST_FILE_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InvalidScenario(f"{path} is not UTF-8 at byte {error.start}") from None
    return parse_document(text, str(path))


def parse_document(text: str, path: str = "scenario") -> Document:
    """A document of a text. Raises :class:`~fcsim.errors.InvalidScenario`."""
    try:
        return Document(path, text, tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidScenario(f"{path} is not TOML: {error}") from None


class TableReader:
    """One table of a document. Every getter raises :class:`~fcsim.errors.InvalidScenario` with file and line."""

    def __init__(self, document: Document, table: str, number: int, values: object) -> None:
        self._document, self._table, self._number = document, table, number
        self._asked: list[str] = []
        if not isinstance(values, Mapping):
            raise self.error(None, f"a table is expected: [{table}]")
        self._values: Mapping[str, Any] = values

    def error(self, key: str | None, text: str) -> InvalidScenario:
        """An error about a key, or about the whole table."""
        line = self._document.line(self._table, self._number, key)
        plain = key is not None and _PLAIN_KEY.fullmatch(key)
        what = self._table if key is None else f"{self._table}: {key if plain else f'{key!r:.60}'}"
        return InvalidScenario(f"{self._document.path}:{line}: {what}: {text}")

    def has(self, key: str) -> bool:
        """Whether the key is there; it then still has to be asked for."""
        return key in self._values

    def done(self) -> None:
        """Refuse keys that nothing has asked for."""
        for key in self._values:
            if key not in self._asked:
                known = ", ".join(self._asked)
                near = difflib.get_close_matches(key, self._asked, 1)
                hint = f"did you mean {near[0]}? " if near else ""
                raise self.error(key, f"there is no such setting; {hint}there are {known}")

    def raw(self, key: str) -> Any:
        """The value as it stands; None: it is not there."""
        if key not in self._asked:
            self._asked.append(key)
        return self._values.get(key)

    def text(self, key: str, default: str | None = None) -> str:
        """Text; an error where there is none and no default."""
        value = self.raw(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not value:
            raise self.error(key, self._wanted("text", value))
        return value

    def integer(self, key: str, default: int | None, low: int, high: int) -> int:
        """A whole number in a range."""
        value = self.raw(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or not low <= value <= high:
            raise self.error(key, self._wanted(f"a whole number from {low} to {high}", value))
        return value

    def share(self, key: str, default: float | None = None) -> float:
        """A number from 0 to 1."""
        value = self.raw(key)
        if value is None and default is not None:
            return default
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise self.error(key, self._wanted("a number from 0 to 1", value))
        return float(value)

    def truth(self, key: str) -> bool:
        """true or false; false where it is not there."""
        value = self.raw(key)
        if value is not None and type(value) is not bool:
            raise self.error(key, self._wanted("true or false", value))
        return bool(value)

    def quantity(
        self, key: str, parse: Callable[[str], int], example: str, default: int | None = None, low: int = 0
    ) -> int:
        """A number with a unit, as text."""
        value = self.raw(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.error(key, self._wanted(f'text such as "{example}"', value))
        try:
            number = parse(value)
        except ValueError as error:
            raise self.error(key, str(error)) from None
        if number < low:
            raise self.error(key, f"{value!r:.60} is too little; at least {low} of the base unit")
        return number

    def integers(self, key: str, low: int, high: int, least: int, most: int) -> tuple[int, ...]:
        """A list of whole numbers."""
        value = self.raw(key)
        good = isinstance(value, list) and least <= len(value) <= most
        if not good or not all(type(item) is int and low <= item <= high for item in value):
            wanted = f"a list of {least} to {most} whole numbers from {low} to {high}"
            raise self.error(key, self._wanted(wanted, value))
        return tuple(value)

    def texts(self, key: str) -> tuple[str, ...]:
        """A text, or a list of texts."""
        value = self.raw(key)
        if isinstance(value, str) and value:
            return (value,)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise self.error(key, self._wanted("a name, or a list of names", value))
        return tuple(value)

    def one_of(self, key: str, name: str, known: Iterable[str], what: str) -> str:
        """``name`` if it is known; else an error that lists what is."""
        names = list(known)
        if name in names:
            return name
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names[:20]) or 'none'}"
        raise self.error(key, f"there is no {what} {name!r:.60}; {hint}")

    @staticmethod
    def _wanted(wanted: str, value: object) -> str:
        return f"{wanted} is expected, " + ("and nothing is there" if value is None else f"not {value!r:.60}")


def tables(document: Document, *names: str) -> Sequence[TableReader]:
    """The tables ``[[name]]`` of a document, of several names one after the other."""
    found: list[TableReader] = []
    for name in names:
        values = document.values.get(name, [])
        if not isinstance(values, list):
            line = document.line(name, 0)
            raise InvalidScenario(f"{document.path}:{line}: tables are expected: [[{name}]], not [{name}]")
        found += [TableReader(document, name, number, value) for number, value in enumerate(values)]
    return found
