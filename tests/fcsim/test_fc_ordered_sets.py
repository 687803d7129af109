"""Ordered sets and 8b/10b against published characters, and against the properties the code was made for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcsim.errors import MalformedFrame
from fcsim.wire.eight_b_ten_b import (
    NEGATIVE,
    POSITIVE,
    character_name,
    decode_character,
    disparity_after,
    disparity_after_data,
    encode_character,
    encode_word,
)
from fcsim.wire.ordered_sets import (
    BB_SCR,
    BB_SCS,
    EOF,
    IDLE,
    LR,
    LRR,
    NOS,
    OLS,
    R_RDY,
    SOF,
    OrderedSet,
    OrderedSetKind,
    arb,
    decode_ordered_set,
    eof_from_word,
    eof_word,
    sof_from_word,
    sof_word,
    vc_rdy,
)

# The words of the reference (fejkon table 8, Seagate's Fibre Channel Interface Manual).
WORDS = [
    (IDLE, "bc95b5b5", "IDLE"),
    (R_RDY, "bc954a4a", "R_RDY"),
    (vc_rdy(3), "bcf50303", "VC_RDY 3"),
    (BB_SCS, "bc959696", "BB_SCs"),
    (BB_SCR, "bc95d6d6", "BB_SCr"),
    (arb(0xFF), "bc94ffff", "ARB(FF)"),
    (OLS, "bc358a55", "OLS"),
    (NOS, "bc55bf45", "NOS"),
    (LR, "bc49bf49", "LR"),
    (LRR, "bc35bf49", "LRR"),
]
SOFS = {
    "SOFC1": "1717",
    "SOFI1": "5757",
    "SOFN1": "3737",
    "SOFI2": "5555",
    "SOFN2": "3535",
    "SOFI3": "5656",
    "SOFN3": "3636",
    "SOFC4": "1919",
    "SOFI4": "5959",
    "SOFN4": "3939",
    "SOFF": "5858",
}
# Ten-bit characters as the tables of the 8b/10b patent and FC-FS print them: at negative, at positive disparity.
PUBLISHED = [
    ("K28.5", "0011111010", "1100000101"),
    ("K28.0", "0011110100", "1100001011"),
    ("K28.1", "0011111001", "1100000110"),
    ("K28.7", "0011111000", "1100000111"),
    ("K23.7", "1110101000", "0001010111"),
    ("K27.7", "1101101000", "0010010111"),
    ("K29.7", "1011101000", "0100010111"),
    ("K30.7", "0111101000", "1000010111"),
    ("D0.0", "1001110100", "0110001011"),
    ("D1.0", "0111010100", "1000101011"),
    ("D3.0", "1100011011", "1100010100"),
    ("D7.0", "1110001011", "0001110100"),
    ("D10.2", "0101010101", "0101010101"),
    ("D21.5", "1010101010", "1010101010"),
    ("D21.4", "1010101101", "1010100010"),
    ("D21.3", "1010101100", "1010100011"),
    ("D17.7", "1000110111", "1000110001"),
    ("D11.7", "1101001110", "1101001000"),
    ("D31.7", "1010110001", "0101001110"),
]


def character(name: str) -> tuple[int, bool]:
    low, high = name[1:].split(".")
    return int(high) << 5 | int(low), name[0] == "K"


@pytest.mark.parametrize(("name", "negative", "positive"), PUBLISHED)
def test_a_character_has_its_published_bits(name: str, negative: str, positive: str) -> None:
    value, special = character(name)
    assert character_name(value, special) == name
    for disparity, bits in ((NEGATIVE, negative), (POSITIVE, positive)):
        code, after = encode_character(value, disparity, special)
        assert f"{code:010b}" == bits
        assert decode_character(code, disparity) == (value, special, after)


def test_every_character_is_balanced_within_one_step_and_flips_the_disparity_when_it_is_not_even() -> None:
    for disparity in (NEGATIVE, POSITIVE):
        codes = [encode_character(value, disparity) for value in range(256)]
        assert len({code for code, _ in codes}) == 256
        for code, after in codes:
            ones = code.bit_count()
            assert ones in ((5, 6) if disparity == NEGATIVE else (4, 5))
            assert after == (disparity if ones == 5 else -disparity) == disparity_after(code, disparity)


@given(st.binary(min_size=1, max_size=400), st.sampled_from([NEGATIVE, POSITIVE]))
def test_the_line_never_runs_longer_than_five_bits_and_decodes_to_what_was_sent(
    data: bytes, start: int
) -> None:
    disparity, line, back = start, "", []
    for value in data:
        code, disparity = encode_character(value, disparity)
        line += f"{code:010b}"
    assert "000000" not in line
    assert "111111" not in line
    # A comma is seven bits that only special characters contain: a receiver finds the word by it.
    assert "0011111" not in line
    assert "1100000" not in line
    assert disparity == disparity_after_data(data, start)
    now = start
    for index in range(0, len(line), 10):
        value, special, now = decode_character(int(line[index : index + 10], 2), now)
        assert not special
        back.append(value)
    assert bytes(back) == data


@pytest.mark.parametrize(("ordered_set", "word", "name"), WORDS, ids=[name for _, _, name in WORDS])
def test_a_primitive_has_the_word_of_the_reference_and_ends_at_negative_disparity(
    ordered_set: OrderedSet, word: str, name: str
) -> None:
    assert ordered_set.encode().hex() == word
    assert str(ordered_set) == name
    assert decode_ordered_set(bytes.fromhex(word)) == ordered_set
    bits, after = ordered_set.encode_8b10b(NEGATIVE)
    assert after == NEGATIVE
    assert f"{bits:040b}"[:10] == "0011111010"


def test_an_idle_word_has_its_forty_bits() -> None:
    assert f"{IDLE.encode_8b10b()[0]:040b}" == "0011111010" + "1010100010" + "1010101010" + "1010101010"


@pytest.mark.parametrize("name", SOFS)
def test_a_start_of_frame_has_its_word_and_leaves_positive_disparity(name: str) -> None:
    word = sof_word(SOF[name])
    assert word.hex() == "bcb5" + SOFS[name]
    assert sof_from_word(word) is SOF[name]
    assert encode_word(word, NEGATIVE)[1] == POSITIVE
    assert decode_ordered_set(word).kind is OrderedSetKind.SOF


@pytest.mark.parametrize("code", list(EOF))
@pytest.mark.parametrize("before", [NEGATIVE, POSITIVE])
def test_an_end_of_frame_leaves_negative_disparity_from_either(code: EOF, before: int) -> None:
    word = eof_word(code, before)
    assert encode_word(word, before)[1] == NEGATIVE
    assert eof_from_word(word) is code
    assert decode_ordered_set(word).kind is OrderedSetKind.EOF


@pytest.mark.parametrize(
    ("code", "negative", "positive"),
    [
        (EOF.EOFT, "bc957575", "bcb57575"),
        (EOF.EOFA, "bc95f5f5", "bcb5f5f5"),
        (EOF.EOFN, "bc95d5d5", "bcb5d5d5"),
        (EOF.EOFNI, "bc8ad5d5", "bcaad5d5"),
    ],
)
def test_an_end_of_frame_has_the_words_of_the_reference(code: EOF, negative: str, positive: str) -> None:
    assert eof_word(code, NEGATIVE).hex() == negative
    assert eof_word(code, POSITIVE).hex() == positive


def test_every_other_word_is_unknown_and_says_its_characters() -> None:
    odd = decode_ordered_set(bytes.fromhex("bc010203"))
    assert odd.kind is OrderedSetKind.UNKNOWN
    assert str(odd) == "K28.5 D1.0 D2.0 D3.0"
    assert odd.virtual_channel is None
    assert vc_rdy(7).virtual_channel == 7


@pytest.mark.parametrize("data", ["", "bc95b5", "bc95b5b5b5", "bd95b5b5"])
def test_what_is_no_ordered_set_is_malformed(data: str) -> None:
    with pytest.raises(MalformedFrame):
        decode_ordered_set(bytes.fromhex(data))


def test_a_delimiter_that_is_none_is_malformed_and_a_code_without_a_word_is_refused() -> None:
    with pytest.raises(MalformedFrame, match="no start of frame"):
        sof_from_word(IDLE.encode())
    with pytest.raises(MalformedFrame, match="no end of frame"):
        eof_from_word(IDLE.encode())
    with pytest.raises(ValueError, match="no start of frame"):
        sof_word(0x99)
    with pytest.raises(ValueError, match="no end of frame"):
        eof_word(0x99)


@pytest.mark.parametrize("number", [-1, 256])
def test_a_virtual_channel_or_arb_value_that_is_no_byte_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=str(number)):
        vc_rdy(number)
    with pytest.raises(ValueError, match=str(number)):
        arb(number)


def test_a_code_violation_and_a_character_that_does_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="code violation"):
        decode_character(0, NEGATIVE)
    with pytest.raises(ValueError, match="code violation"):
        decode_character(0b0011111010, POSITIVE)  # K28.5 at the wrong disparity
    with pytest.raises(ValueError, match=r"no character K0\.0"):
        encode_character(0, NEGATIVE, special=True)
    with pytest.raises(ValueError, match="4 characters"):
        encode_word(b"abc")
