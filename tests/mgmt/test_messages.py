"""M1-M17 as JSON: every message comes back as it went, and nothing else comes in."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credits.targets import Target, TargetKind
from mgmt.messages import (
    LIMIT_BYTES,
    BadMessage,
    BufferReserveRequest,
    CopyStatus,
    Envelope,
    InterfaceInfoGetRequest,
    Message,
    VolumeDigest,
    VolumeDigestRequest,
    decode,
    encode,
)

KINDS = get_args(Message)
TEXTS = st.text(max_size=40)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
TARGETS = st.builds(
    Target,
    kind=st.sampled_from(TargetKind),
    local_port=st.none() | TEXTS,
    remote_port=st.none() | TEXTS,
    remote_port_number=st.none() | INTEGERS,
    buffer_id=st.none() | INTEGERS,
    name=st.none() | TEXTS,
)


def messages() -> st.SearchStrategy[Message]:
    st.register_type_strategy(Target, TARGETS)
    st.register_type_strategy(str, TEXTS)
    st.register_type_strategy(int, INTEGERS)
    st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
    return st.one_of([st.from_type(kind) for kind in KINDS])


ENVELOPES = st.builds(Envelope, request_id=st.text(min_size=1, max_size=128), message=messages())


@given(ENVELOPES)
def test_every_message_comes_back_as_it_went(envelope: Envelope) -> None:
    assert decode(encode(envelope)) == envelope


@given(ENVELOPES, st.data())
def test_a_field_of_another_type_is_refused(envelope: Envelope, data: st.DataObject) -> None:
    plain = json.loads(encode(envelope))
    name = data.draw(st.sampled_from(sorted(plain)))
    plain[name] = {"not": ["this"]}
    with pytest.raises(BadMessage):
        decode(json.dumps(plain).encode())


@given(ENVELOPES)
def test_an_unknown_field_is_refused_by_its_name(envelope: Envelope) -> None:
    plain = json.loads(encode(envelope)) | {"surprise": 1}
    with pytest.raises(BadMessage, match="surprise"):
        decode(json.dumps(plain).encode())


@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused_and_nothing_worse(data: bytes) -> None:
    with pytest.raises(BadMessage):
        decode(data)


JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)


@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(["target", "volume", "copy_id"]), JSON))
def test_any_json_in_the_fields_is_a_message_or_refused(kind: type, fields: dict[str, Any]) -> None:
    plain = {"message": kind.__name__, "version": 1, "request_id": "r"} | fields
    try:
        envelope = decode(json.dumps(plain).encode())
    except BadMessage:
        return
    assert type(envelope.message) is kind


def digest(**changes: Any) -> bytes:
    plain = {
        "message": "VolumeDigest",
        "version": 1,
        "request_id": "r",
        "volume": "v",
        "sha256": "00",
        "length_bytes": 3,
    }
    return json.dumps(plain | changes).encode()


def test_the_plain_case_that_the_refusals_below_vary_is_accepted() -> None:
    assert decode(digest()) == Envelope("r", VolumeDigest(volume="v", sha256="00", length_bytes=3))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"x" * (LIMIT_BYTES + 1), "at most 65536 bytes"),
        (b"[]", "JSON object"),
        (b"{", "not JSON"),
        (b"[" * 60_000, "not JSON"),
        (digest(version=2), "version 1"),
        (digest(version=True), "version 1"),
        (digest(message=1), "unknown message"),
        (digest(message="Nonsense"), "unknown message 'Nonsense'"),
        (digest(message="Envelope"), "unknown message"),
        (digest(request_id=""), "request_id"),
        (digest(request_id="x" * 129), "request_id"),
        (digest(request_id=None), "request_id"),
        (digest(length_bytes="3"), "length_bytes is of type int, not str"),
        (digest(length_bytes=True), "length_bytes is of type int, not bool"),
        (digest(length_bytes=3.0), "length_bytes is of type int, not float"),
        (digest(length_bytes=2**63), "length_bytes is out of range"),
        (digest(length_bytes=None), "length_bytes is of type int, not NoneType"),
        (digest().replace(b'"volume"', b'"volumes"'), "no field 'volumes'"),
        (digest().replace(b', "length_bytes": 3', b""), "length_bytes is missing"),
    ],
)
def test_a_malformed_message_is_refused_with_the_field_that_is_wrong(data: bytes, said: str) -> None:
    with pytest.raises(BadMessage, match=said.replace("(", r"\(")):
        decode(data)


@pytest.mark.parametrize("seconds", ["NaN", "Infinity", "1e999", "1" + "0" * 400])
def test_a_number_without_a_value_is_refused(seconds: str) -> None:
    status = CopyStatus(
        copy_id="c",
        local_port="a",
        remote_port="b",
        volume="v",
        mode="m",
        state="s",
        connections=1,
        total_bytes=1,
        copied_bytes=1,
        acknowledged_bytes=1,
        in_flight_bytes=0,
        reserved_bytes=0,
        seconds=1234.5,
        goodput_bps=1,
    )
    data = encode(Envelope("r", status))
    assert decode(data).message == status
    with pytest.raises(BadMessage, match="seconds is out of range"):
        decode(data.replace(b"1234.5", seconds.encode()))


def test_fields_that_are_none_do_not_travel() -> None:
    request = BufferReserveRequest(target=Target(TargetKind.PORT_PAIR, "a", "b"), requested_bytes=1)
    plain = json.loads(encode(Envelope("r", request)))
    assert plain["target"] == {"kind": "port_pair", "local_port": "a", "remote_port": "b"}
    assert "expected_revision" not in plain


def test_a_target_of_an_unknown_kind_is_refused_with_the_kinds_there_are() -> None:
    request = InterfaceInfoGetRequest(target=Target(TargetKind.PORT_PAIR, "a", "b"))
    data = encode(Envelope("r", request)).replace(b"port_pair", b"moon")
    with pytest.raises(BadMessage, match=r"target\.kind is one of connection, .*, port_pair"):
        decode(data)


def test_every_message_name_is_its_class_name() -> None:
    request = VolumeDigestRequest(volume="v")
    assert json.loads(encode(Envelope("r", request)))["message"] == "VolumeDigestRequest"
