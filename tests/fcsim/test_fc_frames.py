"""Frames with extended and optional headers, fill bytes, CRC and delimiters, in all their forms."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcsim.errors import MalformedFrame
from fcsim.wire.bls import LinkReject
from fcsim.wire.codes import AckForm, FCtl, FcType, RCtl, WellKnownAddress, domain_controller
from fcsim.wire.derive import derive
from fcsim.wire.eight_b_ten_b import NEGATIVE, POSITIVE, encode_word
from fcsim.wire.els import decode_els, encode_els
from fcsim.wire.els_login import NvmePrli, NvmeServiceParameterPage, Prli, PrliAccept, ServiceParameterPage
from fcsim.wire.els_services import EchoAccept, LsAcc, UnknownEls
from fcsim.wire.fcip import FcipFrame, FcipFramer, FcipHeader, FcipSpecialFrame, decode_fcip, encode_fcip
from fcsim.wire.fcoe import decode_fcoe, encode_fcoe
from fcsim.wire.fcp import FcpCmnd, FcpRsp, decode_fcp, encode_fcp
from fcsim.wire.fip import Fip, MacAddressDescriptor, UnknownFipDescriptor, decode_fip, encode_fip
from fcsim.wire.frame import (
    AssociationHeader,
    DelimitedFrame,
    EncapsulationHeader,
    Frame,
    FrameHeader,
    InterFabricRoutingHeader,
    NetworkHeader,
    VirtualFabricTaggingHeader,
    crc_bytes,
    decode_content,
    decode_delimited,
    decode_frame,
    encode_delimited,
    encode_frame,
)
from fcsim.wire.name_server import fc4_types, registered_types
from fcsim.wire.ordered_sets import EOF, SOF
from fcsim.wire.payload import ExchangeMemory
from fcsim.wire.switch_services import decode_sw_ils
from tests.fcsim.wire_strategies import messages

HEADER = FrameHeader(r_ctl=RCtl.UNSOLICITED_DATA, d_id=0x010203, s_id=0x040506, type_=FcType.FCP, ox_id=7)
EXTENDED = st.one_of(
    messages(VirtualFabricTaggingHeader), messages(InterFabricRoutingHeader), messages(EncapsulationHeader)
)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    header = draw(messages(FrameHeader))
    frame = Frame(
        header=replace(header, r_ctl=draw(st.sampled_from([0, 1, 6, 0x22, 0x81, 0xC0, 0xFF]))),
        payload=draw(st.binary(max_size=200)),
        extended=tuple(draw(st.lists(EXTENDED, max_size=4))),
        esp_header=draw(st.sampled_from([b"", b"12345678"])),
        network_header=draw(st.none() | messages(NetworkHeader)),
        association_header=draw(st.none() | messages(AssociationHeader)),
        device_header=bytes(draw(st.sampled_from([0, 16, 32, 64]))),
    )
    return decode_frame(encode_frame(frame))  # with the fill count and DF_CTL that follow from the parts


@given(frames())
def test_a_frame_survives_all_its_forms(frame: Frame) -> None:
    assert decode_frame(encode_frame(frame)) == frame
    for sof, eof in ((SOF.SOFI3, EOF.EOFT), (SOF.SOFF, EOF.EOFNI)):
        delimited = DelimitedFrame(sof=sof, frame=frame, eof=eof)
        for encode, decode in ((encode_delimited, decode_delimited), (encode_fcoe, decode_fcoe)):
            encoded = encode(delimited)
            again = decode(encoded)
            assert (again.sof, again.frame, again.eof, again.crc_ok) == (sof, frame, eof, True)
            assert encode(again) == encoded
        message = decode_fcip(encode_fcip(FcipFrame(delimited=delimited)))
        assert isinstance(message, FcipFrame)
        assert message.delimited.frame == frame
        assert message.delimited.crc_ok


@given(frames())
def test_the_form_of_the_end_of_frame_follows_the_line(frame: Frame) -> None:
    encoded = encode_delimited(DelimitedFrame(sof=SOF.SOFI3, frame=frame, eof=EOF.EOFT))
    assert len(encoded) % 4 == 0
    disparity = NEGATIVE
    for start in range(0, len(encoded), 4):
        word = encoded[start : start + 4]
        if 4 <= start < len(encoded) - 4 and word[0] == 0xBC:
            return  # data that looks like an ordered set here; the line tells them apart
        disparity = encode_word(word, disparity)[1]
    assert disparity == NEGATIVE


def test_the_crc_is_the_one_of_ethernet_in_its_bytes() -> None:
    assert crc_bytes(b"123456789").hex() == "2639f4cb"  # CRC-32 check value CBF43926h, last byte first
    content = encode_frame(Frame(header=HEADER, payload=b"1234"))
    # What a receiver sees over content and CRC is the constant residue of the polynomial.
    assert zlib.crc32(content + crc_bytes(content)) == 0x2144DF1C


def test_one_wrong_bit_is_seen_and_the_wrong_crc_is_kept() -> None:
    encoded = bytearray(
        encode_delimited(DelimitedFrame(sof=SOF.SOFI3, frame=Frame(header=HEADER), eof=EOF.EOFT))
    )
    encoded[10] ^= 1
    broken = decode_delimited(bytes(encoded))
    assert not broken.crc_ok
    assert encode_delimited(broken)[:-4] == bytes(encoded[:-4])


@pytest.mark.parametrize(("size", "fill"), [(0, 0), (1, 3), (2, 2), (3, 1), (4, 0)])
def test_fill_bytes_make_words_and_are_counted_in_f_ctl(size: int, fill: int) -> None:
    frame = Frame(header=replace(HEADER, f_ctl=FCtl.END_SEQUENCE | 3), payload=bytes(range(1, size + 1)))
    again = decode_frame(encode_frame(frame))
    assert again.header.fill_bytes == fill
    assert again.header.f_ctl == FCtl.END_SEQUENCE | fill
    assert again.payload == frame.payload


def test_a_vft_header_has_its_bits_where_the_standard_puts_them() -> None:
    tag = VirtualFabricTaggingHeader(type_=0, priority=5, vf_id=0x123, hop_ct=9)
    assert derive(VirtualFabricTaggingHeader).encode(tag).hex() == "5000a24609000000"


def test_an_extended_header_is_covered_by_the_crc() -> None:
    tagged = Frame(header=HEADER, extended=(VirtualFabricTaggingHeader(vf_id=3),))
    content = encode_frame(tagged)
    assert decode_content(content + crc_bytes(content))[2]
    assert not decode_content(content + crc_bytes(content[8:]))[2]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cut short"),
        (bytes(23), "cut short"),
        (b"\x50" + bytes(7), "cut short"),
        ((b"\x50" + bytes(7)) * 5 + bytes(24), "more than 4 extended headers"),
        (bytes(24) + bytes(2116), "a data field of 2116 bytes"),
        (bytes(11) + b"\x03" + bytes(12), "shorter than its optional headers"),
        (bytes(13) + b"\x03" + bytes(10), "shorter than its optional headers"),
        (bytes(13) + b"\x20" + bytes(10), "cut short"),
    ],
)
def test_what_is_no_frame_is_malformed_in_one_line(data: bytes, words: str) -> None:
    with pytest.raises(MalformedFrame, match=words) as caught:
        decode_frame(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"payload": bytes(2113)}, "at most 2112"),
        ({"device_header": bytes(5)}, "16, 32 or 64"),
        ({"esp_header": b"x"}, "8 bytes"),
        ({"header": replace(HEADER, ox_id=1 << 16)}, "ox_id = 65536"),
    ],
)
def test_a_frame_that_has_no_form_is_refused(part: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        encode_frame(replace(Frame(header=HEADER), **part))


@given(st.binary(max_size=120))
def test_any_bytes_are_a_frame_or_malformed_in_every_form(data: bytes) -> None:
    decoders = (
        decode_frame,
        decode_delimited,
        decode_fcoe,
        decode_fip,
        decode_fcip,
        decode_els,
        decode_sw_ils,
    )
    for decode in decoders:
        try:
            decode(data)
        except MalformedFrame:
            continue


def test_codes_that_no_table_names_stay_what_they_are() -> None:
    assert RCtl(0x99) == 0x99
    assert RCtl(0x99).name == "0x99"
    assert RCtl(0x22) is RCtl.ELS_REQUEST
    with pytest.raises(ValueError, match="-1"):
        RCtl(-1)
    assert FCtl(0x400) == 0x400
    assert AckForm((FCtl.ACK_FORM_MASK & 0x1000) >> 12) is AckForm.ACK_1_REQUIRED
    assert WellKnownAddress(0xFFFFFC).name == "DIRECTORY_SERVER"
    assert domain_controller(0xAD) == 0xFFFCAD
    with pytest.raises(ValueError, match="1 to 239"):
        domain_controller(240)
    assert HEADER.from_originator
    assert not replace(HEADER, f_ctl=FCtl.EXCHANGE_RESPONDER).from_originator


def test_an_accept_is_read_by_what_it_answers() -> None:
    prli = Prli(pages=(ServiceParameterPage(service_parameters=0x22),))
    accept = b"\x02" + encode_els(prli)[1:]
    assert decode_els(accept, 0x20) == PrliAccept(pages=prli.pages)
    assert decode_els(b"\x02\0\0\0abc", 0x10) == EchoAccept(data=b"abc")
    assert decode_els(b"\x02\0\0\0abc") == LsAcc(body=b"abc")
    assert decode_els(b"\xee\0\0\0") == UnknownEls(code=0xEE, body=bytes(3))
    nvme = NvmePrli(pages=(NvmeServiceParameterPage(first_burst_size=3),))
    assert decode_els(encode_els(nvme)) == nvme


def test_the_memory_of_exchanges_is_bounded() -> None:
    memory = ExchangeMemory(limit=2)
    ask = [
        Frame(header=FrameHeader(r_ctl=0x22, type_=1, d_id=1, s_id=2, ox_id=n), payload=b"\x10\0\0\0")
        for n in range(3)
    ]
    for frame in ask:
        memory.decode(frame)
    answers = [
        replace(frame, header=replace(frame.header, r_ctl=0x23, d_id=2, s_id=1), payload=b"\x02\0\0\0")
        for frame in ask
    ]
    assert [type(memory.decode(frame)) for frame in answers] == [LsAcc, EchoAccept, EchoAccept]


def test_a_long_cdb_and_a_bidirectional_command_have_their_lengths() -> None:
    command = FcpCmnd(
        cdb=bytes(range(16)),
        additional_cdb=bytes(16),
        rddata=True,
        wrdata=True,
        fcp_dl=512,
        bidirectional_read_dl=(1024,),
    )
    encoded = encode_fcp(command)
    assert encoded[11] == 4 << 2 | 3
    assert len(encoded) == 52
    assert decode_fcp(RCtl.UNSOLICITED_COMMAND, encoded) == command
    with pytest.raises(ValueError, match="bidirectional_read_dl"):
        encode_fcp(replace(command, bidirectional_read_dl=()))


def test_a_short_response_of_an_early_implementation_is_read() -> None:
    short = bytes(11) + b"\x08"
    assert decode_fcp(RCtl.COMMAND_STATUS, short) == FcpRsp(scsi_status=8)
    with pytest.raises(MalformedFrame):
        decode_fcp(RCtl.COMMAND_STATUS, bytes(10) + b"\x02\x08")  # it announces sense data
    with pytest.raises(MalformedFrame, match="0x99"):
        decode_fcp(0x99, short)


def test_types_stand_in_the_bit_map_where_linux_puts_them() -> None:
    """The Linux initiator of the captures registers FCP (8) and FC-CT (32)."""
    assert fc4_types(8, 0x20).hex() == "0000010000000001" + "00" * 24
    assert registered_types(fc4_types(8, 0x20, 0xFF)) == (8, 0x20, 0xFF)


def test_a_reject_is_carried_in_the_parameter_field() -> None:
    reject = LinkReject(action=1, reason=0x16, vendor_specific=3)
    assert reject.to_parameter() == 0x01160003
    assert LinkReject.from_parameter(0x01160003) == reject


# --- FIP and FCIP ---


def test_a_fip_list_is_counted_in_words_and_unknown_descriptors_are_kept() -> None:
    message = Fip(
        operation=1,
        subcode=2,
        descriptors=(MacAddressDescriptor(mac_address=b"abcdef"), UnknownFipDescriptor(200, b"123456")),
    )
    encoded = encode_fip(message)
    assert encoded[6:8].hex() == "0004"
    assert decode_fip(encoded + bytes(30)) == message
    with pytest.raises(ValueError, match="multiple of 4"):
        encode_fip(replace(message, descriptors=(UnknownFipDescriptor(200, b"1"),)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((0, 0x20), "FIP version 2"),
        ((7, 9), "cut short"),
        ((11, 0), "a length of 0"),
        ((11, 9), "a length of 9"),
        ((10, 7), "cut short|left over|length"),
    ],
)
def test_a_fip_frame_that_lies_is_malformed(change: tuple[int, int], words: str) -> None:
    encoded = bytearray(
        encode_fip(Fip(operation=1, subcode=1, descriptors=(MacAddressDescriptor(mac_address=b"abcdef"),)))
    )
    encoded[change[0]] = change[1]
    if change == (10, 7):
        encoded[11] = 0
    with pytest.raises(MalformedFrame, match=words):
        decode_fip(bytes(encoded))


SPECIAL = FcipSpecialFrame(
    source_fabric_name=1,
    source_entity_id=2,
    connection_nonce=b"nonce678",
    destination_fabric_name=3,
    k_a_tov=4,
)


@given(st.lists(frames(), min_size=1, max_size=4), st.data())
def test_a_stream_is_cut_into_encapsulations_however_it_arrives(
    several: list[Frame], data: st.DataObject
) -> None:
    sent = [
        encode_fcip(FcipFrame(delimited=DelimitedFrame(sof=SOF.SOFF, frame=frame, eof=EOF.EOFT)))
        for frame in several
    ]
    sent.insert(0, encode_fcip(SPECIAL))
    stream, found, framer = b"".join(sent), [], FcipFramer()
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += list(framer.receive(stream[:size]))
        stream = stream[size:]
    assert found == sent
    assert decode_fcip(found[0]) == SPECIAL


def test_a_flagged_header_has_a_crc_that_is_checked() -> None:
    delimited = DelimitedFrame(sof=SOF.SOFI3, frame=Frame(header=HEADER), eof=EOF.EOFT)
    encoded = encode_fcip(FcipFrame(header=FcipHeader(flags=1), delimited=delimited))
    assert isinstance(decode_fcip(encoded), FcipFrame)
    broken = bytearray(encoded)
    broken[17] ^= 1  # the time stamp, which has no complement
    with pytest.raises(MalformedFrame, match="CRC of the FCIP header"):
        decode_fcip(bytes(broken))


@pytest.mark.parametrize(
    ("position", "words"),
    [
        (0, "complements"),
        (5, "complements"),
        (8, "complements"),
        (13, "complements"),
        (29, "delimiter"),
        (-1, "delimiter"),
    ],
)
def test_an_encapsulation_that_contradicts_itself_is_malformed(position: int, words: str) -> None:
    delimited = DelimitedFrame(sof=SOF.SOFI3, frame=Frame(header=HEADER), eof=EOF.EOFT)
    broken = bytearray(encode_fcip(FcipFrame(delimited=delimited)))
    broken[position] ^= 4
    with pytest.raises(MalformedFrame, match=words):
        decode_fcip(bytes(broken))
    if words == "complements":
        with pytest.raises(MalformedFrame, match=words):
            list(FcipFramer().receive(bytes(broken)))


@pytest.mark.parametrize(
    ("header", "words"), [({"protocol": 2}, "is not FCIP"), ({"pflags": 1}, "special frame")]
)
def test_an_encapsulation_of_another_kind_is_malformed(header: dict[str, int], words: str) -> None:
    delimited = DelimitedFrame(sof=SOF.SOFI3, frame=Frame(header=HEADER), eof=EOF.EOFT)
    with pytest.raises(MalformedFrame, match=words):
        decode_fcip(encode_fcip(FcipFrame(header=FcipHeader(**header), delimited=delimited)))


def test_the_line_starts_at_positive_disparity_after_every_start_of_frame() -> None:
    assert all(
        encode_word(b"\xbc\xb5" + bytes((third, third)), NEGATIVE)[1] == POSITIVE for third in (0x56, 0x58)
    )
