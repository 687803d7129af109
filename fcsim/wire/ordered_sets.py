# SPDX-License-Identifier: Apache-2.0
"""Ordered sets: primitive signals, primitive sequences and frame delimiters (FC-FS, ordered sets)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from construct import Const, Int8ub, Struct

from fcsim.errors import MalformedFrame
from fcsim.wire.codes import OpenCode
from fcsim.wire.derive import derive
from fcsim.wire.eight_b_ten_b import K28_5, NEGATIVE, character_name, encode_word

__all__ = [
    "BB_SCR",
    "BB_SCS",
    "EOF",
    "IDLE",
    "LR",
    "LRR",
    "NOS",
    "OLS",
    "ORDERED_SET_BYTES",
    "R_RDY",
    "SEQUENCE_RECOGNITION_WORDS",
    "SOF",
    "OrderedSet",
    "OrderedSetKind",
    "arb",
    "decode_ordered_set",
    "eof_from_word",
    "eof_word",
    "sof_from_word",
    "sof_word",
    "vc_rdy",
]

ORDERED_SET_BYTES = 4
SEQUENCE_RECOGNITION_WORDS = 3
"""A primitive sequence is recognised when its ordered set came this many times in a row."""


class SOF(OpenCode):
    """Start-of-frame delimiters by their one-byte code in FCoE, FCIP and iFCP (RFC 3643, SOF and EOF).

    Class 1 delimiters have no such code; they carry the code 0x100 + the third character.
    """

    SOFF = 0x28
    SOFI4 = 0x29
    SOFI2 = 0x2D
    SOFI3 = 0x2E
    SOFN4 = 0x31
    SOFN2 = 0x35
    SOFN3 = 0x36
    SOFC4 = 0x39
    SOFC1 = 0x117
    SOFI1 = 0x157
    SOFN1 = 0x137


class EOF(OpenCode):
    """End-of-frame delimiters by their one-byte code in FCoE, FCIP and iFCP (RFC 3643, SOF and EOF)."""

    EOFN = 0x41
    EOFT = 0x42
    EOFRT = 0x44
    EOFDT = 0x46
    EOFNI = 0x49
    EOFDTI = 0x4E
    EOFRTI = 0x4F
    EOFA = 0x50


class OrderedSetKind(enum.Enum):
    """What an ordered set is. Signals act once; sequences (NOS, OLS, LR, LRR) after three in a row."""

    IDLE = "IDLE"
    R_RDY = "R_RDY"
    VC_RDY = "VC_RDY"
    BB_SCS = "BB_SCs"
    BB_SCR = "BB_SCr"
    ARB = "ARB"
    NOS = "NOS"
    OLS = "OLS"
    LR = "LR"
    LRR = "LRR"
    SOF = "SOF"
    EOF = "EOF"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class OrderedSet:
    """Four transmission characters, the first K28.5 (FC-FS, ordered sets)."""

    LAYOUT: ClassVar[Struct] = Struct(
        "character_1" / Const(K28_5, Int8ub),
        "character_2" / Int8ub,
        "character_3" / Int8ub,
        "character_4" / Int8ub,
    )
    character_2: int
    character_3: int
    character_4: int

    def encode(self) -> bytes:
        """The four bytes before 8b/10b encoding."""
        return bytes((K28_5, self.character_2, self.character_3, self.character_4))

    def encode_8b10b(self, disparity: int = NEGATIVE) -> tuple[int, int]:
        """The 40 bits on the line, and the running disparity after them."""
        return encode_word(self.encode(), disparity)

    @property
    def kind(self) -> OrderedSetKind:
        """What this ordered set is."""
        known = _KINDS.get(self)
        if known is not None:
            return known
        if self.character_3 == self.character_4:
            if self.character_2 == _VC_RDY:
                return OrderedSetKind.VC_RDY
            if self.character_2 == _ARB:
                return OrderedSetKind.ARB
        return OrderedSetKind.UNKNOWN

    @property
    def virtual_channel(self) -> int | None:
        """The virtual channel of a VC_RDY, None for every other ordered set."""
        return self.character_3 if self.kind is OrderedSetKind.VC_RDY else None

    def __str__(self) -> str:
        kind = self.kind
        if kind is OrderedSetKind.VC_RDY:
            return f"VC_RDY {self.character_3}"
        if kind is OrderedSetKind.ARB:
            return f"ARB({self.character_3:02X})"
        if kind is OrderedSetKind.SOF:
            return f"SOF{sof_from_word(self.encode()).name[3:].lower()}"
        if kind is OrderedSetKind.EOF:
            return f"EOF{eof_from_word(self.encode()).name[3:].lower()}"
        if kind is OrderedSetKind.UNKNOWN:
            rest = (self.character_2, self.character_3, self.character_4)
            return " ".join(("K28.5", *map(character_name, rest)))
        return str(kind.value)


_VC_RDY = 0xF5
_ARB = 0x94
IDLE = OrderedSet(0x95, 0xB5, 0xB5)
R_RDY = OrderedSet(0x95, 0x4A, 0x4A)
BB_SCS = OrderedSet(0x95, 0x96, 0x96)
BB_SCR = OrderedSet(0x95, 0xD6, 0xD6)
OLS = OrderedSet(0x35, 0x8A, 0x55)
NOS = OrderedSet(0x55, 0xBF, 0x45)
LR = OrderedSet(0x49, 0xBF, 0x49)
LRR = OrderedSet(0x35, 0xBF, 0x49)

_SOF_CHARACTERS = {
    SOF.SOFC1: 0x17,
    SOF.SOFI1: 0x57,
    SOF.SOFN1: 0x37,
    SOF.SOFI2: 0x55,
    SOF.SOFN2: 0x35,
    SOF.SOFI3: 0x56,
    SOF.SOFN3: 0x36,
    SOF.SOFC4: 0x19,
    SOF.SOFI4: 0x59,
    SOF.SOFN4: 0x39,
    SOF.SOFF: 0x58,
}
_SOF_WORDS = {code: OrderedSet(0xB5, third, third) for code, third in _SOF_CHARACTERS.items()}

# Second character where the running disparity before it is negative, where it is positive; then the third. The choice
# makes every end of frame leave the line at negative disparity.
_EOF_CHARACTERS = {
    EOF.EOFN: (0x95, 0xB5, 0xD5),
    EOF.EOFT: (0x95, 0xB5, 0x75),
    EOF.EOFA: (0x95, 0xB5, 0xF5),
    EOF.EOFDT: (0x95, 0xB5, 0x95),
    EOF.EOFRT: (0x95, 0xB5, 0x99),
    EOF.EOFNI: (0x8A, 0xAA, 0xD5),
    EOF.EOFDTI: (0x8A, 0xAA, 0x95),
    EOF.EOFRTI: (0x8A, 0xAA, 0x99),
}
_EOF_WORDS = {
    (code, disparity): OrderedSet(second, third, third)
    for code, (negative, positive, third) in _EOF_CHARACTERS.items()
    for disparity, second in ((NEGATIVE, negative), (-NEGATIVE, positive))
}
_SOF_CODES = {word: code for code, word in _SOF_WORDS.items()}
_EOF_CODES = {word: code for (code, _), word in _EOF_WORDS.items()}

_KINDS: Mapping[OrderedSet, OrderedSetKind] = {
    IDLE: OrderedSetKind.IDLE,
    R_RDY: OrderedSetKind.R_RDY,
    BB_SCS: OrderedSetKind.BB_SCS,
    BB_SCR: OrderedSetKind.BB_SCR,
    OLS: OrderedSetKind.OLS,
    NOS: OrderedSetKind.NOS,
    LR: OrderedSetKind.LR,
    LRR: OrderedSetKind.LRR,
    **dict.fromkeys(_SOF_CODES, OrderedSetKind.SOF),
    **dict.fromkeys(_EOF_CODES, OrderedSetKind.EOF),
}


def vc_rdy(virtual_channel: int) -> OrderedSet:
    """VC_RDY for a virtual channel, 0 to 255. Raises ValueError for any other number."""
    if not 0 <= virtual_channel <= 0xFF:
        raise ValueError(f"a virtual channel is 0 to 255, not {virtual_channel}")
    return OrderedSet(_VC_RDY, virtual_channel, virtual_channel)


def arb(value: int = 0xFF) -> OrderedSet:
    """ARB(x); ARB(FF) is the fill word of 8G links. Raises ValueError for no byte."""
    if not 0 <= value <= 0xFF:
        raise ValueError(f"the value of ARB is one byte, not {value}")
    return OrderedSet(_ARB, value, value)


def decode_ordered_set(data: bytes) -> OrderedSet:
    """The ordered set of exactly four bytes. Raises :class:`~fcsim.errors.MalformedFrame`."""
    if len(data) != ORDERED_SET_BYTES:
        raise MalformedFrame(f"an ordered set is 4 bytes, not {len(data)}")
    return derive(OrderedSet).decode(data)


def sof_word(code: int) -> bytes:
    """The four bytes of a start-of-frame delimiter. Raises ValueError for a code without one."""
    word = _SOF_WORDS.get(SOF(code))
    if word is None:
        raise ValueError(f"{code:#04x} is no start of frame")
    return word.encode()


def eof_word(code: int, disparity: int = NEGATIVE) -> bytes:
    """The four bytes of an end-of-frame delimiter for the running disparity before it.

    Raises ValueError for a code without one.
    """
    word = _EOF_WORDS.get((EOF(code), disparity))
    if word is None:
        raise ValueError(f"{code:#04x} is no end of frame")
    return word.encode()


def sof_from_word(data: bytes) -> SOF:
    """The start of frame of four bytes. Raises :class:`~fcsim.errors.MalformedFrame`."""
    code = _SOF_CODES.get(decode_ordered_set(data))
    if code is None:
        raise MalformedFrame(f"{data.hex()} is no start of frame")
    return code


def eof_from_word(data: bytes) -> EOF:
    """The end of frame of four bytes, whatever the disparity. Raises :class:`~fcsim.errors.MalformedFrame`."""
    code = _EOF_CODES.get(decode_ordered_set(data))
    if code is None:
        raise MalformedFrame(f"{data.hex()} is no end of frame")
    return code
