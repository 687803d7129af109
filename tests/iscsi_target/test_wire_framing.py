"""Cutting the byte stream into PDUs, in whatever pieces TCP brings it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iscsi_target.errors import LimitExceeded
from iscsi_target.wire.codec import Pdu, decode_pdu, encode_pdu
from iscsi_target.wire.digest import digest
from iscsi_target.wire.framing import Framer, HeaderDigestError
from iscsi_target.wire.requests import NopOut


def ping(number: int, size: int) -> NopOut:
    return NopOut(initiator_task_tag=number, cmd_sn=number, exp_stat_sn=0, data=bytes((number,)) * size)


def with_digests(pdu: NopOut, *, header: bool, data: bool) -> bytes:
    encoded = encode_pdu(pdu)
    head, body = encoded[:48], encoded[48:]
    if header:
        head += digest(head)
    if data and body:
        body += digest(body)
    return head + body


@given(
    sizes=st.lists(st.integers(0, 200), min_size=1, max_size=8),
    cuts=st.lists(st.integers(1, 90), max_size=40),
    header=st.booleans(),
    data=st.booleans(),
)
def test_pdus_come_out_whole_however_the_stream_is_cut(
    sizes: list[int], cuts: list[int], header: bool, data: bool
) -> None:
    pings: list[Pdu] = [ping(number, size) for number, size in enumerate(sizes)]
    stream = b"".join(with_digests(pdu, header=header, data=data) for pdu in pings)  # type: ignore[arg-type]
    framer = Framer(1000)
    framer.header_digest, framer.data_digest = header, data
    received: list[Pdu] = []
    for cut in [*cuts, len(stream)]:
        received += [decode_pdu(frame.whole()) for frame in framer.receive(stream[:cut])]
        stream = stream[cut:]
    assert received == pings
    assert not framer.partial


def test_a_whole_pdu_is_not_copied() -> None:
    stream = encode_pdu(ping(1, 64)) * 2
    first, second = Framer().receive(stream)
    assert first.data.obj is stream
    assert second.data.obj is stream


def test_digests_switched_on_between_two_pdus_of_one_read_count_from_the_second_on() -> None:
    framer = Framer()
    frames = framer.receive(encode_pdu(ping(1, 4)) + with_digests(ping(2, 4), header=True, data=True))
    next(frames)
    framer.header_digest = framer.data_digest = True
    assert decode_pdu(next(frames).whole()) == ping(2, 4)


@given(st.integers(0, 51), st.integers(0, 7))
def test_a_flipped_bit_in_the_header_or_its_digest_ends_the_connection(byte: int, bit: int) -> None:
    stream = bytearray(with_digests(ping(1, 0), header=True, data=False))
    stream[byte] ^= 1 << bit
    framer = Framer()
    framer.header_digest = True
    try:
        frames = list(framer.receive(bytes(stream) + bytes(400)))
    except (HeaderDigestError, LimitExceeded):
        return
    assert byte in range(4, 8), "only a longer announced length may put the check off"
    assert frames == []


def test_a_wrong_data_digest_marks_the_frame_and_the_stream_goes_on() -> None:
    bad = bytearray(with_digests(ping(1, 10), header=False, data=True))
    bad[50] ^= 1
    framer = Framer()
    framer.data_digest = True
    frames = list(framer.receive(bytes(bad) + with_digests(ping(2, 10), header=False, data=True)))
    assert [frame.data_digest_ok for frame in frames] == [False, True]


def test_the_data_digest_covers_the_padding() -> None:
    stream = bytearray(with_digests(ping(1, 5), header=False, data=True))
    stream[48 + 6] ^= 1  # a pad byte
    framer = Framer()
    framer.data_digest = True
    assert [frame.data_digest_ok for frame in framer.receive(bytes(stream))] == [False]


def test_a_data_segment_longer_than_declared_is_refused_before_it_is_held() -> None:
    header = encode_pdu(ping(1, 513))[:48]
    framer = Framer(512)
    with pytest.raises(LimitExceeded, match="513"):
        list(framer.receive(header))
    assert not framer.partial


def test_long_additional_headers_are_refused() -> None:
    header = bytearray(48)
    header[4] = 255
    with pytest.raises(LimitExceeded):
        list(Framer().receive(bytes(header)))


@given(st.lists(st.binary(max_size=200), max_size=10), st.booleans())
def test_any_bytes_are_frames_or_a_refusal(chunks: list[bytes], digests: bool) -> None:
    framer = Framer(4096)
    framer.header_digest = framer.data_digest = digests
    try:
        for chunk in chunks:
            for frame in framer.receive(chunk):
                assert len(frame.data) <= 4096
    except (LimitExceeded, HeaderDigestError):
        pass
