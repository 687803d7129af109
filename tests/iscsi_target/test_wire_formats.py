"""Digests, LUNs, names, text and additional headers against the words and vectors of the standards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iscsi_target.errors import NegotiationError, ProtocolError
from iscsi_target.wire.ahs import AdditionalHeaders, decode_ahs, encode_ahs
from iscsi_target.wire.digest import digest
from iscsi_target.wire.lun import MAX_LUN, lun_from_bytes, lun_to_bytes
from iscsi_target.wire.names import initiator_port, name_problem, target_port
from iscsi_target.wire.text import decode_text, encode_text

# RFC 7143 appendix A.4 (CRC examples): data and the digest bytes in wire order.
READ_10_PDU = bytes.fromhex("01c00000" + "0" * 24 + "14000000" + "00000400" + "00000014" + "00000018")
READ_10_PDU += bytes.fromhex("28000000" + "00000000" + "02000000" + "00000000")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (bytes(32), "aa36918a"),
        (b"\xff" * 32, "43aba862"),
        (bytes(range(32)), "4e79dd46"),
        (bytes(reversed(range(32))), "5cdb3f11"),
        (READ_10_PDU, "563a96d9"),
    ],
    ids=["zeros", "ones", "incrementing", "decrementing", "a SCSI Read(10) PDU"],
)
def test_the_digest_matches_the_examples_of_the_standard(data: bytes, expected: str) -> None:
    assert digest(data).hex() == expected


@given(st.binary(max_size=300), st.integers(0, 300))
def test_the_digest_of_pieces_is_that_of_the_whole(data: bytes, cut: int) -> None:
    assert digest(data[:cut], memoryview(data)[cut:]) == digest(data)


@pytest.mark.parametrize(
    ("lun", "field"),
    [(0, "0000"), (1, "0001"), (255, "00ff"), (256, "4100"), (MAX_LUN, "7fff")],
)
def test_a_lun_has_its_peripheral_or_flat_form(lun: int, field: str) -> None:
    assert lun_to_bytes(lun).hex() == field + "0" * 12
    assert lun_from_bytes(lun_to_bytes(lun)) == lun


def test_a_flat_lun_below_256_is_read_too() -> None:
    assert lun_from_bytes(bytes.fromhex("4005000000000000")) == 5


@pytest.mark.parametrize(
    "field", ["0000000100000000", "0000000000000005", "c101000000000000", "0105000000000000"]
)
def test_a_lun_in_another_form_is_no_lun_of_ours(field: str) -> None:
    assert lun_from_bytes(bytes.fromhex(field)) > MAX_LUN


@pytest.mark.parametrize("lun", [-1, MAX_LUN + 1])
def test_a_lun_that_has_no_form_is_refused(lun: int) -> None:
    with pytest.raises(ValueError, match="LUN"):
        lun_to_bytes(lun)


@pytest.mark.parametrize(
    "name", ["iqn.2026-11.example", "iqn.2026-11.example:a:b", "eui.02004567A425678D", "naa.52004567BA64678D"]
)
def test_names_of_the_three_forms_are_accepted(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.parametrize(
    "name", ["", "disk", "iqn.26-11.example", "iqn.2026-11.exam ple", "eui.123", "iqn.2026-11." + "x" * 220]
)
def test_other_names_have_a_problem(name: str) -> None:
    assert name_problem(name)


def test_scsi_port_names_follow_the_standard() -> None:
    assert initiator_port("iqn.2026-11.example:h", bytes.fromhex("80000102030a")) == (
        "iqn.2026-11.example:h,i,0x80000102030a"
    )
    assert target_port("iqn.2026-11.example:t", 1) == "iqn.2026-11.example:t,t,0x0001"


def test_text_is_read_in_order_and_null_padding_is_tolerated() -> None:
    assert decode_text(b"A=1\0B=\0\0\0C==x\0") == [("A", "1"), ("B", ""), ("C", "=x")]


@pytest.mark.parametrize(
    "data", [b"A=1", b"A\0", b"=1\0", b"K" * 64 + b"=1\0", b"A=\xff\0", b"A=" + b"x" * 8193 + b"\0"]
)
def test_text_that_is_no_text_is_refused(data: bytes) -> None:
    with pytest.raises(NegotiationError):
        decode_text(data)


_names = st.text("ABCabc-_.", min_size=1, max_size=63)
_values = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=80)


@given(st.lists(st.tuples(_names, _values), max_size=8))
def test_text_survives_the_wire(pairs: list[tuple[str, str]]) -> None:
    assert decode_text(encode_text(pairs)) == pairs


@given(st.binary(max_size=2000))
def test_any_bytes_are_text_or_a_negotiation_error(data: bytes) -> None:
    try:
        pairs = decode_text(data)
    except NegotiationError:
        return
    assert all(0 < len(key) <= 63 for key, _ in pairs)


@given(st.binary(max_size=244), st.none() | st.integers(0, 0xFFFFFFFF))
def test_additional_headers_survive_the_wire(cdb: bytes, length: int | None) -> None:
    headers = AdditionalHeaders(cdb, length)
    encoded = encode_ahs(headers)
    assert len(encoded) % 4 == 0
    assert decode_ahs(encoded) == headers


def test_an_extended_cdb_has_the_bytes_of_the_standard() -> None:
    # AHSLength counts the reserved byte and the CDB bytes beyond the 16 in the header (section 11.2.2.3).
    assert encode_ahs(AdditionalHeaders(b"\x11\x22")).hex() == "00030100" + "1122" + "0000"


@given(st.binary(max_size=120))
def test_any_bytes_are_additional_headers_or_a_protocol_error(data: bytes) -> None:
    try:
        decode_ahs(data)
    except ProtocolError as error:
        assert error.reason == 9
