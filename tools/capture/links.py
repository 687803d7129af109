"""Delimiters of Fibre Channel frames by their words, for the kernel: a lookup that never fails."""

from __future__ import annotations

from functools import lru_cache

from fcsim.errors import MalformedFrame
from fcsim.wire.ordered_sets import EOF, SOF, eof_from_word, sof_from_word

_CLASS_1 = {SOF.SOFC1: 0x17, SOF.SOFI1: 0x57, SOF.SOFN1: 0x37}
"""Class 1 delimiters have no one-byte code; a row has the third character of theirs, which no code is equal to."""


@lru_cache(maxsize=256)
def sof_of(word: bytes) -> int:
    """The one-byte code of a start of frame, 0 for what is none."""
    try:
        code = sof_from_word(word)
    except MalformedFrame:
        return 0
    return _CLASS_1.get(code, int(code))


@lru_cache(maxsize=256)
def eof_of(word: bytes) -> int:
    """The one-byte code of an end of frame, 0 for what is none."""
    try:
        return int(eof_from_word(word))
    except MalformedFrame:
        return 0


def sof_codes() -> bytes:
    """256 bytes: 1 at each code of a start of frame."""
    codes = {int(code) for code in SOF}
    return bytes(value in codes for value in range(256))


def eof_codes() -> bytes:
    """256 bytes: 1 at each code of an end of frame."""
    codes = {int(code) for code in EOF}
    return bytes(value in codes for value in range(256))


def sof_name(code: int) -> str:
    """``SOFi3``, or the code in hex."""
    names = {value: key for key, value in _CLASS_1.items()}
    known = names.get(code)
    if known is None:
        try:
            known = SOF(code)
        except ValueError:
            return f"{code:#04x}"
    name = getattr(known, "name", "") or f"{code:#04x}"
    return f"SOF{name[3:].lower()}" if name.startswith("SOF") else name


def eof_name(code: int) -> str:
    """``EOFt``, or the code in hex."""
    name = EOF(code).name or ""
    return f"EOF{name[3:].lower()}" if name.startswith("EOF") else f"{code:#04x}"
