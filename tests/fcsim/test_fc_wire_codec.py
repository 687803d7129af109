"""construct, the derived codecs and the scapy layers say the same of every Fibre Channel description."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import pytest
from construct import (
    Byte,
    Bytes,
    ConstructError,
    Float32b,
    GreedyBytes,
    GreedyRange,
    Int8ub,
    Int16ub,
    Int24sb,
    Padding,
    Prefixed,
    Rebuild,
    Struct,
    this,
)
from hypothesis import given
from hypothesis import strategies as st

from fcsim.errors import FibreChannelError, MalformedFrame
from fcsim.wire.derive import UnknownConstruct, derive
from fcsim.wire.els_login import Flogi, Plogi, Prli
from fcsim.wire.els_notices import Fpin, Rdf
from fcsim.wire.frame import FrameHeader
from fcsim.wire.fspf import Lsu
from fcsim.wire.layout import Many, Record
from fcsim.wire.sw_ils import Esc, SwRscn
from fcsim.wire.sw_zoning import Mr
from tests.fcsim.wire_strategies import KINDS, messages

ANY = st.sampled_from(KINDS).flatmap(messages)
OPEN_ENDED = st.sampled_from(KINDS)


@given(ANY)
def test_the_derived_encoder_and_construct_write_the_same_bytes(message: Any) -> None:
    assert derive(type(message)).encode(message) == Record(type(message)).build(message)


@given(ANY)
def test_a_message_survives_the_wire_and_construct_reads_the_same(message: Any) -> None:
    encoded = derive(type(message)).encode(message)
    assert derive(type(message)).decode_prefix(encoded) == (message, len(encoded))
    assert Record(type(message)).parse(encoded) == message


@given(OPEN_ENDED, st.binary(max_size=300))
def test_any_bytes_are_a_message_or_malformed_for_both(kind: type[Any], data: bytes) -> None:
    try:
        by_construct = Record(kind).parse(data)
    except ConstructError:
        with pytest.raises(MalformedFrame):
            derive(kind).decode(data)
        return
    assert derive(kind).decode(data) == by_construct


@given(ANY, st.data())
def test_a_message_that_is_cut_short_is_malformed_or_a_shorter_message(
    message: Any, data: st.DataObject
) -> None:
    codec = derive(type(message))
    encoded = codec.encode(message)
    cut = data.draw(st.integers(0, max(0, len(encoded) - 1)))
    try:
        shorter, end = codec.decode_prefix(encoded[:cut])
    except FibreChannelError:
        return
    assert end <= cut
    assert codec.decode(codec.encode(shorter)) == shorter


@given(ANY, st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=3))
def test_a_message_with_changed_bytes_is_the_same_for_both_or_malformed_for_both(
    message: Any, changes: list[tuple[int, int]]
) -> None:
    kind = type(message)
    data = bytearray(derive(kind).encode(message))
    for position, change in changes if data else ():
        data[position % len(data)] ^= change
    try:
        by_construct = Record(kind).parse(bytes(data))
    except ConstructError:
        with pytest.raises(MalformedFrame) as caught:
            derive(kind).decode(data)
        assert "\n" not in str(caught.value)
        return
    assert derive(kind).decode(data) == by_construct


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (Fpin, "16000000 00000018 00020003 00000010" + "00" * 16),
        (Fpin, "16000000 00000024 00020003 0000001c" + "00" * 24 + "ffffffff"),
        (Rdf, "19000000 0000000c 00030001 00000004 ffffffff"),
        (Lsu, "15000000" + "00" * 20 + "ffffffff"),
        (SwRscn, "1b000000 00000000 00000000 ffffffff"),
        (Mr, "2200ffff"),
        (Prli, "2010ffff"),
        (Prli, "20100003"),
        (Esc, "3000000b" + "00" * 8),
    ],
)
def test_a_count_that_lies_costs_nothing_and_is_malformed(kind: type[Any], data: str) -> None:
    with pytest.raises(MalformedFrame):
        derive(kind).decode(bytes.fromhex(data))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_description_names_its_clause(kind: type[Any]) -> None:
    assert "(FC-" in kind.__doc__ or "(RFC " in kind.__doc__ or "(FCP" in kind.__doc__


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_read_only_buffer_at_an_offset_reads_the_same(kind: type[Any]) -> None:
    codec = derive(kind)
    data = bytes(range(1, 200)) * 2
    try:
        expected = codec.decode(data)
    except MalformedFrame:
        expected = None
    padded = memoryview(b"xyz" + data + b"tail")
    if expected is None:
        with pytest.raises(MalformedFrame):
            codec.decode(padded, 3, 3 + len(data))
    else:
        assert codec.decode(padded, 3, 3 + len(data)) == expected


def test_the_bare_values_of_a_header_are_in_the_order_of_its_names() -> None:
    codec = derive(FrameHeader)
    assert codec.unpack is not None
    header = FrameHeader(r_ctl=6, d_id=0x010203, s_id=0x040506, type_=8, f_ctl=0x290000, parameter=9)
    values = codec.unpack(codec.encode(header), 0)
    assert values == tuple(getattr(header, name) for name in codec.names)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("bb_credit", 1 << 16, "bb_credit = 65536 does not fit 16 bits"),
        ("bb_sc_n", 16, "bb_sc_n = 16 does not fit 4 bits"),
        ("vendor_version", b"short", "vendor_version has to be 16 bytes"),
        ("port_name", -1, "port_name = -1"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(field: str, value: Any, words: str) -> None:
    values: dict[str, Any] = {
        "bb_credit": 1,
        "bb_receive_data_field_size": 2112,
        "port_name": 1,
        "node_name": 2,
    }
    with pytest.raises(ValueError, match=words):
        derive(Flogi).encode(Flogi(**values | {field: value}))


def test_a_wrong_fixed_value_is_malformed() -> None:
    plogi = Plogi(bb_credit=1, bb_receive_data_field_size=2112, port_name=1, node_name=2)
    with pytest.raises(MalformedFrame, match="0x3 in place of 0x4"):
        derive(Flogi).decode(derive(Plogi).encode(plogi))


def _class_with(layout: Any, *names: str) -> type[Any]:
    @dataclass(frozen=True)
    class Odd:
        LAYOUT: ClassVar[Any] = layout

    Odd.__dataclass_fields__ = {name: fields(FrameHeader)[0] for name in names} | dict(
        Odd.__dataclass_fields__
    )
    return Odd


@pytest.mark.parametrize(
    "part",
    [
        "x" / Float32b,
        "x" / Int24sb,
        "x" / GreedyRange(Byte),
        "x" / Prefixed(Int8ub, Bytes(2)),
        "x" / Bytes(lambda context: 4),
        "x" / Many(Float32b),
        "end" / Int8ub,
        "x" / Rebuild(Int8ub, lambda context: 3),
        "x" / Rebuild(Float32b, this.y + 1),
    ],
    ids=str,
)
def test_the_deriver_raises_on_what_it_does_not_know(part: Any) -> None:
    with pytest.raises(UnknownConstruct):
        derive(_class_with(Struct("y" / Int8ub, part, Padding(1)), "y", "x"))


def test_the_deriver_raises_when_the_dataclass_has_other_fields_than_the_description() -> None:
    with pytest.raises(UnknownConstruct, match="declares"):
        derive(_class_with(Struct("x" / Int16ub), "other"))


def test_the_deriver_refuses_a_list_that_could_never_end() -> None:
    @dataclass(frozen=True)
    class Nothing:
        LAYOUT: ClassVar[Any] = Struct("rest" / GreedyBytes)
        rest: bytes = b""

    with pytest.raises(UnknownConstruct, match="never end"):
        derive(_class_with(Struct("x" / Many(Record(Nothing))), "x"))


def test_the_deriver_raises_when_the_description_is_no_struct() -> None:
    with pytest.raises(UnknownConstruct, match="not a Struct"):
        derive(_class_with(Int8ub))
