"""Cutting a stream into PDUs, whatever the reads look like; and the edits of one PDU."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from iscsi_target.faults.bad_blocks import BadBlocks
from iscsi_target.faults.lane import Item, Lane
from iscsi_target.faults.pdu_stream import PduStream
from iscsi_target.faults.wire_pdu import WirePdu, flipped
from iscsi_target.wire.codec import decode_pdu, encode_pdu
from iscsi_target.wire.digest import digest
from iscsi_target.wire.framing import Framer
from iscsi_target.wire.requests import NopOut

LIMIT = 1 << 20


def wire(data: bytes, *, header_digest: bool, data_digest: bool) -> bytes:
    raw = encode_pdu(NopOut(initiator_task_tag=9, cmd_sn=1, exp_stat_sn=2, data=data))
    head, body = raw[:48], raw[48:]
    if header_digest:
        head += digest(head)
    if data_digest and body:
        body += digest(body)
    return head + body


sizes = st.lists(st.integers(0, 300), max_size=12)


@given(sizes, st.booleans(), st.booleans(), st.lists(st.integers(1, 200)), st.booleans())
def test_pieces_are_the_pdus_however_the_stream_is_cut(
    data_sizes: list[int], header_digest: bool, data_digest: bool, cuts: list[int], views: bool
) -> None:
    pdus = [wire(bytes(size), header_digest=header_digest, data_digest=data_digest) for size in data_sizes]
    stream = PduStream(LIMIT)
    stream.header_digest, stream.data_digest = header_digest, data_digest
    rest, found = b"".join(pdus), []
    for cut in (*cuts, len(rest)):
        chunk, rest = rest[:cut], rest[cut:]
        stream.feed([memoryview(chunk) if views else chunk])
        while (piece := stream.next_piece()) is not None:
            assert piece[1]
            found.append(piece[0])
    assert found == pdus
    assert stream.between_pdus


@given(sizes, st.integers(0, 2000), st.lists(st.integers(1, 200)))
def test_cutting_may_begin_at_any_byte_that_has_passed(
    data_sizes: list[int], passed: int, cuts: list[int]
) -> None:
    pdus = [wire(bytes(size), header_digest=True, data_digest=True) for size in data_sizes]
    stream = PduStream(LIMIT)
    stream.header_digest = stream.data_digest = True
    whole = b"".join(pdus)
    skipped, rest = whole[:passed], whole[passed:]
    for cut in (*cuts, len(skipped)):
        stream.skip([skipped[:cut]])
        skipped = skipped[cut:]
    stream.feed([rest])
    uncut, found = b"", []
    while (piece := stream.next_piece()) is not None:
        if piece[1]:
            found.append(piece[0])
        else:
            assert not found
            uncut += piece[0]
    assert whole[:passed] + uncut + b"".join(found) == whole
    assert found == pdus[len(pdus) - len(found) :]
    assert all(len(pdu) <= len(whole) - passed - len(uncut) for pdu in found)


def test_a_pdu_beyond_the_limit_passes_uncut_and_the_next_one_is_cut() -> None:
    stream = PduStream(1000)
    long, short = (wire(bytes(size), header_digest=False, data_digest=False) for size in (5000, 8))
    got, whole = b"", []
    for at in range(0, len(long + short), 700):
        stream.feed([(long + short)[at : at + 700]])
        assert stream.held_bytes <= 1400
        while (piece := stream.next_piece()) is not None:
            got += piece[0]
            whole.append(piece[1])
    assert got == long + short
    assert whole[-1]
    assert not any(whole[:-1])


@given(st.binary(max_size=100), st.binary(max_size=100), st.booleans(), st.booleans(), st.data())
def test_edits_leave_a_pdu_that_the_framer_accepts(
    data: bytes, other: bytes, header_digest: bool, data_digest: bool, draw: st.DataObject
) -> None:
    def framed(pdu: WirePdu) -> object:
        framer = Framer(LIMIT)
        framer.header_digest, framer.data_digest = header_digest, data_digest
        (frame,) = framer.receive(pdu.raw)
        assert frame.data_digest_ok
        return decode_pdu(frame.whole())

    raw = wire(data, header_digest=header_digest, data_digest=data_digest)
    pdu = WirePdu(raw, header_digest=header_digest, data_digest=data_digest)
    assert pdu.data == data
    original = framed(pdu)
    assert framed(pdu.with_data(other)).data == other  # type: ignore[attr-defined]
    changed = framed(pdu.with_number("cmd_sn", -1))
    assert changed.cmd_sn == 0xFFFFFFFF  # type: ignore[attr-defined]
    assert framed(pdu.with_number("cmd_sn", 1)) == original
    named = framed(pdu.with_fields(data=other, exp_stat_sn=7))
    assert (named.data, named.exp_stat_sn) == (other, 7)  # type: ignore[attr-defined]
    if data:
        bit = draw.draw(st.integers(0, len(data) * 8 - 1))
        assert framed(pdu.with_data_bits_flipped((bit,), recompute=True)).data == flipped(data, (bit,))  # type: ignore[attr-defined]


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans(), st.integers(0, 3)), max_size=30))
def test_a_lane_loses_and_invents_nothing_and_keeps_the_order_of_what_is_not_overtaken(plan) -> None:
    lane = Lane()
    out: list[bytes] = []
    for number, (delay, overtaken, behind) in enumerate(plan):
        item = Item(bytes([number]) * 3)
        if behind:
            lane.push_behind(item, behind, number + 1000)
        else:
            lane.push(item, number + delay, overtaken=overtaken)
        out += [item.raw for item in lane.take(number)]
    while not lane.empty:
        due = lane.next_deadline()
        assert due is not None
        out += [item.raw for item in lane.take(due)]
    assert sorted(out) == [bytes([number]) * 3 for number in range(len(plan))]
    assert lane.held_bytes == 0
    in_order = [number for number, (_, overtaken, behind) in enumerate(plan) if not overtaken and not behind]
    assert [raw[0] for raw in out if raw[0] in in_order] == in_order


def test_a_lane_holds_no_more_than_its_limit() -> None:
    lane = Lane(limit_bytes=1000)
    out = 0
    for _ in range(100):
        lane.push(Item(bytes(100)), 1 << 62)
        out += len(lane.take(0))
        assert lane.held_bytes <= 1000
    assert out == 90
    assert lane.released_early == 90
    lane = Lane(limit_bytes=1000)
    for _ in range(100):
        lane.push_behind(Item(bytes(100)), 1000, 1 << 62)
        lane.take(0)
        assert lane.held_bytes <= 1000


@given(
    st.integers(0, 30),
    st.integers(1, 30),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=8),
)
def test_bad_blocks_are_those_that_were_bad_and_not_rewritten(lba: int, blocks: int, writes) -> None:
    bad, model = BadBlocks(lba, blocks), set(range(lba, lba + blocks))
    for at, count in writes:
        bad.rewritten(at, count)
        model -= set(range(at, at + count))
        for start in range(60):
            inside = model & set(range(start, start + 5))
            assert bad.first_in(start, 5) == (min(inside) if inside else None)


def test_random_bits_are_as_many_as_asked_for() -> None:
    from iscsi_target.faults import Corrupt
    from iscsi_target.faults.edits import edited

    pdu = WirePdu(wire(bytes(64), header_digest=False, data_digest=False))
    changed = edited(Corrupt(random_bits=5), pdu, Random(1))
    assert sum(byte.bit_count() for byte in changed.data) == 5
