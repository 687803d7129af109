# SPDX-License-Identifier: Apache-2.0
"""The 8b/10b transmission code: characters, running disparity, transmission words (FC-FS, 8b/10b coding).

A transmission character is ten bits, the first on the line (``a``) the most significant. Running disparity is
`NEGATIVE` or `POSITIVE`; a character changes it exactly when its ones and zeros are not equal in number.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "K28_5",
    "NEGATIVE",
    "POSITIVE",
    "character_name",
    "decode_character",
    "disparity_after",
    "disparity_after_data",
    "encode_character",
    "encode_word",
]

NEGATIVE = -1
POSITIVE = 1
K28_5 = 0xBC
"""The special character that begins every ordered set; the only one Fibre Channel uses."""

# Sub-blocks for negative running disparity. The positive one is the complement where ones and zeros differ in
# number, and for D.7 and D.x.3, whose two balanced forms alternate to limit run length.
_FIVE_SIX = [
    "100111",
    "011101",
    "101101",
    "110001",
    "110101",
    "101001",
    "011001",
    "111000",
    "111001",
    "100101",
    "010101",
    "110100",
    "001101",
    "101100",
    "011100",
    "010111",
    "011011",
    "100011",
    "010011",
    "110010",
    "001011",
    "101010",
    "011010",
    "111010",
    "110011",
    "100110",
    "010110",
    "110110",
    "001110",
    "101110",
    "011110",
    "101011",
]
_THREE_FOUR = ["1011", "1001", "0101", "1100", "1101", "1010", "0110", "1110"]
_ALTERNATE_7 = "0111"
_K28_SIX = "001111"
_K_THREE_FOUR = ["1011", "0110", "1010", "1100", "1101", "0101", "1001", "0111"]
_SPECIAL = {*(value << 5 | 28 for value in range(8)), 0xF7, 0xFB, 0xFD, 0xFE}
"""K28.0 to K28.7, K23.7, K27.7, K29.7, K30.7."""


def _complement(bits: str) -> str:
    return bits.translate({48: "1", 49: "0"})


def _unbalanced(bits: str) -> bool:
    return bits.count("1") * 2 != len(bits)


def _form(bits: str, disparity: int, alternates: bool) -> str:
    if disparity == POSITIVE and (_unbalanced(bits) or alternates):
        return _complement(bits)
    return bits


def _encode(value: int, special: bool, disparity: int) -> int:
    low, high = value & 31, value >> 5
    six = _form(_K28_SIX if special and low == 28 else _FIVE_SIX[low], disparity, low == 7 and not special)
    middle = -disparity if _unbalanced(six) else disparity
    if special:
        # The four-bit sub-blocks of special characters have two forms each, one the complement of the other.
        four = _form(_K_THREE_FOUR[high], middle, True)
    elif high == 7 and (low in (17, 18, 20) if middle == NEGATIVE else low in (11, 13, 14)):
        four = _form(_ALTERNATE_7, middle, True)
    else:
        four = _form(_THREE_FOUR[high], middle, high == 3)
    return int(six + four, 2)


_CODES: Mapping[tuple[int, bool, int], int] = {
    (value, special, disparity): _encode(value, special, disparity)
    for special in (False, True)
    for value in range(256)
    if not special or value in _SPECIAL
    for disparity in (NEGATIVE, POSITIVE)
}
_VALUES: Mapping[tuple[int, int], tuple[int, bool]] = {
    (code, disparity): (value, special) for (value, special, disparity), code in _CODES.items()
}

_FLIPS = bytes(_CODES[value, False, NEGATIVE].bit_count() != 5 for value in range(256))


def disparity_after_data(data: bytes, disparity: int) -> int:
    """Running disparity after a run of data characters: each either flips it or leaves it, whatever it was."""
    return -disparity if data.translate(_FLIPS).count(1) % 2 else disparity


def disparity_after(code: int, disparity: int) -> int:
    """Running disparity after the ten bits `code`."""
    return -disparity if code.bit_count() != 5 else disparity


def encode_character(value: int, disparity: int, special: bool = False) -> tuple[int, int]:
    """The ten bits of D or K character `value`, and the running disparity after them.

    Raises ValueError for a special character that the code does not have.
    """
    code = _CODES.get((value, special, disparity))
    if code is None:
        raise ValueError(f"there is no character {character_name(value, special)} at disparity {disparity}")
    return code, disparity_after(code, disparity)


def decode_character(code: int, disparity: int) -> tuple[int, bool, int]:
    """Value, whether special, and running disparity after. Raises ValueError for a code violation."""
    found = _VALUES.get((code, disparity))
    if found is None:
        raise ValueError(f"{code:010b} is a code violation at disparity {disparity}")
    return (*found, disparity_after(code, disparity))


def character_name(value: int, special: bool = False) -> str:
    """``D21.5`` for 0xB5, ``K28.5`` for the special character 0xBC."""
    return f"{'K' if special else 'D'}{value & 31}.{value >> 5}"


def encode_word(word: bytes, disparity: int = NEGATIVE) -> tuple[int, int]:
    """The 40 bits of a transmission word of four characters, and the running disparity after it.

    A word that begins with 0xBC is taken for an ordered set: its first character is K28.5.
    """
    if len(word) != 4:
        raise ValueError(f"a transmission word has 4 characters, not {len(word)}")
    bits = 0
    for position, value in enumerate(word):
        code, disparity = encode_character(value, disparity, special=position == 0 and value == K28_5)
        bits = bits << 10 | code
    return bits, disparity
