"""Filter expressions: ``iscsi.opcode == 0x01 and not scsi_sbc.opcode == 0x28``, in Wireshark's words.

::

    expression = term { ("or" | "||") term }
    term       = factor { ("and" | "&&") factor }
    factor     = ("not" | "!") factor | "(" expression ")" | field [operator value]
    operator   = "==" | "!=" | "<" | "<=" | ">" | ">=" | "contains" | "eq" | "ne" | "lt" | "le" | "gt" | "ge"
    value      = number | time | "text" | aa:bb:cc | 0a.01.00 | 192.0.2.1

A field alone asks whether the row has it. Text is compared with text; bytes are written as Wireshark does. An
expression has at most 4096 characters and 100 levels of brackets.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from tools.capture.fields import FIELDS, Seen, Value

LENGTH_LIMIT = 4096
DEPTH_LIMIT = 100
Filter = Callable[[Seen], bool]

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*")
      |(?P<operator>==|!=|<=|>=|&&|\|\||[<>!()])
      |(?P<word>[^\s()!=<>&|"]+))""",
    re.VERBOSE,
)
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_WORDS = {
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "and": "&&",
    "or": "||",
    "not": "!",
}
_TIMES = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}


class FilterError(ValueError):
    """An expression that cannot be understood; the text says where."""


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str, int]] = []
        self._at = 0
        place = 0
        while text[place:].strip():
            match = _TOKEN.match(text, place)
            if match is None:
                raise FilterError(f"{text[place:].strip():.20} at column {place + 1} is not understood")
            kind = match.lastgroup or ""
            value = match[kind]
            if kind == "word" and value in _WORDS:
                kind, value = "operator", _WORDS[value]
            self._tokens.append((kind, value, match.start(kind) + 1))
            place = match.end()

    def parse(self) -> Filter:
        found = self._either(0)
        if self._at < len(self._tokens):
            _, value, column = self._tokens[self._at]
            raise FilterError(f"{value:.20} at column {column} follows a whole expression: and, or?")
        return found

    def _peek(self) -> str:
        kind, value, _ = self._tokens[self._at] if self._at < len(self._tokens) else ("", "", 0)
        return value if kind in ("operator", "") or value == "contains" else ""

    def _either(self, depth: int) -> Filter:
        if depth > DEPTH_LIMIT:
            raise FilterError(f"more than {DEPTH_LIMIT} levels of brackets")
        sides = [self._both(depth)]
        while self._peek() == "||":
            self._at += 1
            sides.append(self._both(depth))
        return sides[0] if len(sides) == 1 else lambda seen: any(side(seen) for side in sides)

    def _both(self, depth: int) -> Filter:
        sides = [self._factor(depth)]
        while self._peek() == "&&":
            self._at += 1
            sides.append(self._factor(depth))
        return sides[0] if len(sides) == 1 else lambda seen: all(side(seen) for side in sides)

    def _factor(self, depth: int) -> Filter:
        negations = 0
        while self._peek() == "!":
            self._at += 1
            negations += 1
        found = self._primary(depth)
        return (lambda seen: not found(seen)) if negations % 2 else found

    def _primary(self, depth: int) -> Filter:
        if self._at >= len(self._tokens):
            raise FilterError("the expression ends where a field must be")
        kind, value, column = self._tokens[self._at]
        self._at += 1
        if kind == "operator":
            if value != "(":
                raise FilterError(f"{value} at column {column}: a field must be there")
            found = self._either(depth + 1)
            if self._peek() != ")":
                raise FilterError(f"the bracket at column {column} is not closed")
            self._at += 1
            return found
        field = FIELDS.get(value)
        if kind != "word" or field is None:
            near = get_close_matches(value, FIELDS, 3)
            said = f"; did you mean {', '.join(near)}?" if near else ""
            raise FilterError(f"there is no field {value:.40}{said}")
        sign = self._peek()
        if sign not in _COMPARE and sign != "contains":
            return lambda seen: field(seen) is not None
        self._at += 1
        if self._at >= len(self._tokens) or self._tokens[self._at][0] == "operator":
            raise FilterError(f"nothing to compare {value} with")
        literal = self._tokens[self._at]
        self._at += 1
        return _comparison(field, sign, literal[0], literal[1])


def _comparison(field: Callable[[Seen], Value], sign: str, kind: str, text: str) -> Filter:
    if kind == "text":
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    number = None if kind == "text" else _number(text)
    octets = None if kind == "text" else _octets(text)
    compare = _COMPARE.get(sign)

    def passes(seen: Seen) -> bool:
        value = field(seen)
        if value is None:
            return False
        if compare is None:
            if isinstance(value, bytes):
                return (octets if octets is not None else text.encode()) in value
            return text in (value if isinstance(value, str) else str(value))
        if isinstance(value, int):
            if number is not None:
                return bool(compare(value, number))
            return octets is not None and bool(compare(value, int.from_bytes(octets, "big")))
        if isinstance(value, bytes):
            return octets is not None and bool(compare(value, octets))
        return bool(compare(value, text))

    return passes


def _number(text: str) -> int | None:
    """A number, or a time in nanoseconds: ``0x01``, ``17``, ``5ms``, ``0.5s``."""
    try:
        return int(text, 0)
    except ValueError:
        pass
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ns|us|ms|s)", text)
    return round(float(match[1]) * _TIMES[match[2]]) if match else None


def _octets(text: str) -> bytes | None:
    """Bytes as Wireshark writes them: ``aa:bb:cc``, ``0a.01.00``, ``aabbcc``."""
    digits = re.sub(r"[:.-]", "", text)
    if not re.fullmatch(r"(?:[0-9a-fA-F]{2})+", digits):
        return None
    return bytes.fromhex(digits)


def parse_filter(text: str) -> Filter:
    """The function that says whether a row passes. Raises :class:`FilterError`."""
    if len(text) > LENGTH_LIMIT:
        raise FilterError(f"a filter has at most {LENGTH_LIMIT} characters, not {len(text)}")
    if not text.strip():
        return lambda seen: True
    return _Parser(text).parse()
