"""The derived codecs against construct, and the deriver's refusals (RFC 7143 section 11)."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import pytest
from construct import BitsInteger, Bytes, Container, Flag, Float32b, Int8ub, Int16ub, Int32ub, Padding, Struct
from hypothesis import given
from hypothesis import strategies as st

from iscsi_target.wire.codec import CODECS, REQUESTS, RESPONSES, Pdu, decode_pdu, encode_pdu
from iscsi_target.wire.derive import MalformedPdu, UnknownConstruct, derive
from iscsi_target.wire.layout import flags, request
from iscsi_target.wire.opcodes import Opcode
from iscsi_target.wire.requests import NopOut, ScsiCommandPdu

ALL = (*REQUESTS, *RESPONSES)
VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "iscsi_pdus.json").read_text())


def _sizes(pdu: type[Pdu]) -> dict[str, int]:
    return {part.name: part.sizeof() for part in pdu.LAYOUT.subcons[:-3] if part.name}


@st.composite
def pdus(draw: st.DrawFn, kinds: tuple[type[Pdu], ...] = ALL) -> Pdu:
    kind = draw(st.sampled_from(kinds))
    codec, sizes, values = CODECS[kind.OPCODE], _sizes(kind), {}
    for field in fields(kind):
        if field.name == "ahs":
            values[field.name] = draw(st.integers(0, 3).map(lambda words: bytes(range(words * 4))))
        elif field.name == "data":
            values[field.name] = draw(st.binary(max_size=70))
        elif field.type == "bool":
            values[field.name] = draw(st.booleans())
        elif field.name in codec.bits:
            values[field.name] = draw(st.integers(0, (1 << codec.bits[field.name]) - 1))
        else:
            values[field.name] = draw(st.binary(min_size=sizes[field.name], max_size=sizes[field.name]))
    return kind(**values)


def as_container(pdu: Pdu) -> dict[str, Any]:
    """The values in the shape construct wants: bit fields nested as the description nests them."""
    container: dict[str, Any] = {}
    for part in type(pdu).LAYOUT.subcons:
        inner = getattr(part, "subcon", None)
        nested = getattr(getattr(inner, "subcon", None), "subcons", None)
        if nested is not None:
            container[part.name] = {
                bit.name: getattr(pdu, bit.name) for bit in nested if hasattr(pdu, bit.name or "")
            }
        elif part.name and hasattr(pdu, part.name):
            container[part.name] = getattr(pdu, part.name)
    return container


def flatten(container: Container) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in container.items():
        if isinstance(value, Container):
            flat |= flatten(value)
        else:
            flat[name] = value
    return flat


@given(pdus())
def test_the_derived_encoder_and_construct_write_the_same_bytes(pdu: Pdu) -> None:
    assert encode_pdu(pdu) == type(pdu).LAYOUT.build(as_container(pdu))


@given(pdus())
def test_the_derived_decoder_and_construct_read_the_same_values(pdu: Pdu) -> None:
    encoded = encode_pdu(pdu)
    assert decode_pdu(encoded) == pdu
    by_construct = flatten(type(pdu).LAYOUT.parse(encoded))
    assert {field.name: getattr(pdu, field.name) for field in fields(pdu)}.items() <= by_construct.items()


@given(st.binary(min_size=48, max_size=48), st.sampled_from(ALL))
def test_reserved_bits_are_ignored_and_never_sent(raw: bytes, kind: type[Pdu]) -> None:
    header = bytearray(raw)
    header[0] = (header[0] & 0xC0) | kind.OPCODE
    header[4:8] = bytes(4)
    pdu = decode_pdu(bytes(header))
    again = encode_pdu(pdu)
    assert decode_pdu(again) == pdu
    assert all(
        mine & ~theirs == 0 for mine, theirs in zip(again[2:48], header[2:48], strict=True) if mine != 0xFF
    )


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_pdu_from_a_real_capture_reads_as_tshark_reads_it(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["hex"])
    pdu = decode_pdu(raw)
    assert type(pdu).__name__ == vector["type"]
    assert {name: getattr(pdu, name) for name in vector["fields"]} == vector["fields"]
    end = 48 + len(pdu.data)
    assert encode_pdu(pdu)[:end] == raw[:end]  # one target's padding is not zero, as it should be


def test_every_opcode_of_the_standard_has_a_codec() -> None:
    assert set(CODECS) == set(Opcode)


def test_an_unknown_opcode_is_malformed() -> None:
    with pytest.raises(MalformedPdu, match="0x1c"):
        decode_pdu(bytes((0x1C,)).ljust(48, b"\0"))


def test_a_short_header_is_malformed() -> None:
    with pytest.raises(MalformedPdu):
        decode_pdu(bytes(47))


def test_a_data_segment_that_is_cut_short_is_malformed() -> None:
    whole = encode_pdu(NopOut(cmd_sn=1, exp_stat_sn=1, data=b"12345"))
    with pytest.raises(MalformedPdu, match="announces more"):
        decode_pdu(whole[:-1])


@pytest.mark.parametrize(
    ("field", "value"), [("attr", 8), ("cmd_sn", 1 << 32), ("cdb", bytes(15)), ("lun", b"")]
)
def test_a_value_that_does_not_fit_is_refused_by_the_encoder(field: str, value: Any) -> None:
    good: dict[str, Any] = {"initiator_task_tag": 1, "cmd_sn": 1, "exp_stat_sn": 1, "cdb": bytes(16)}
    with pytest.raises(ValueError, match=field):
        encode_pdu(ScsiCommandPdu(**(good | {field: value})))


def _class_with(layout: Struct, *names: str) -> type[Any]:
    @dataclass(frozen=True)
    class Odd:
        LAYOUT: ClassVar[Struct] = layout

    Odd.__dataclass_fields__ = {name: fields(NopOut)[0] for name in names} | dict(Odd.__dataclass_fields__)
    return Odd


@pytest.mark.parametrize(
    "part",
    [
        "x" / Float32b,
        "x" / Struct("a" / Int32ub),
        "x" / Bytes(lambda context: 4),
    ],
)
def test_the_deriver_raises_on_a_construct_it_does_not_know(part: Any) -> None:
    layout = Struct(
        "first" / Int8ub,
        "second" / Int8ub,
        Padding(2),
        part,
        Padding(40),
        "ahs" / Bytes(0),
        "data" / Bytes(0),
    )
    with pytest.raises(UnknownConstruct):
        derive(_class_with(layout, "first"))


def test_the_deriver_raises_when_the_dataclass_has_other_fields_than_the_description() -> None:
    layout = request(Opcode.NOP_OUT, flags("final" / Flag, "odd" / BitsInteger(7)), Int16ub, Padding(40))
    with pytest.raises(UnknownConstruct, match="declares"):
        derive(_class_with(layout, "other"))


def test_a_description_that_is_not_48_bytes_long_is_refused() -> None:
    with pytest.raises(ValueError, match="48"):
        request(Opcode.NOP_OUT, flags(Padding(8)), Padding(2), Padding(39))
