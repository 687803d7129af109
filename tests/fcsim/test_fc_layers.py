"""The derived scapy layers write and read the same bytes as the derived codecs and construct."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

layers = pytest.importorskip("fcsim.layers", reason="scapy is missing: pip install scapy")

from construct import Float32b, Struct  # noqa: E402
from scapy.config import conf  # noqa: E402
from scapy.packet import Packet, Padding, Raw  # noqa: E402
from scapy.sessions import TCPSession  # noqa: E402
from scapy.utils import rdpcap  # noqa: E402

from fcsim.layer_fields import as_message, as_packet, fields_of, layer_of, message_layers  # noqa: E402
from fcsim.wire import els_login, els_notices, els_services, fcip, fip, fspf, name_server, sw_ils  # noqa: E402
from fcsim.wire.codes import FcType, RCtl  # noqa: E402
from fcsim.wire.derive import UnknownConstruct, derive  # noqa: E402
from fcsim.wire.fcip import decode_fcip  # noqa: E402
from fcsim.wire.fcoe import decode_fcoe  # noqa: E402
from fcsim.wire.frame import DelimitedFrame, FrameHeader, decode_delimited, encode_delimited  # noqa: E402
from fcsim.wire.ordered_sets import EOF, R_RDY, SOF, vc_rdy  # noqa: E402
from tests.fcsim.test_fc_frames import frames  # noqa: E402
from tests.fcsim.test_fc_wire_captures import VECTORS  # noqa: E402
from tests.fcsim.test_fc_wire_tshark import segment  # noqa: E402
from tests.fcsim.wire_strategies import KINDS, messages  # noqa: E402

LAYERED = tuple(kind for kind in KINDS if kind in message_layers() and kind is not fip.Fip)
FORMS = {
    "fcoe": lambda raw: layers.FCoE(raw),
    "fcip": lambda raw: layers.FCIP(raw),
    "fip": lambda raw: layers.FIP(raw),
    "frame": lambda raw: layers.FC(raw),
}


def rebuilt(packet: Packet) -> bytes:
    """The bytes built from the fields, not those that scapy keeps from the dissection."""
    again = packet.copy()
    layer = again
    while layer:
        layer.raw_packet_cache = None
        layer = layer.payload
    return bytes(again)


@given(st.sampled_from(LAYERED).flatmap(messages))
def test_a_layer_writes_the_bytes_of_the_codec(message: Any) -> None:
    assert bytes(as_packet(message)) == derive(type(message)).encode(message)


@given(st.sampled_from(LAYERED).flatmap(messages))
def test_a_layer_reads_what_the_codec_wrote(message: Any) -> None:
    encoded = derive(type(message)).encode(message)
    packet = layer_of(type(message))(encoded)
    assert as_message(packet) == message
    assert rebuilt(packet) == encoded


@given(messages(fip.Fip))
def test_a_fip_frame_is_written_and_read_with_all_its_descriptors(message: Any) -> None:
    encoded = derive(fip.Fip).encode(message)
    assert bytes(as_packet(message, "FIP")) == encoded
    assert as_message(layers.FIP(encoded)) == message


@given(frames())
def test_a_delimited_frame_is_dissected_and_built_again(frame: Any) -> None:
    encoded = encode_delimited(DelimitedFrame(sof=SOF.SOFI3, frame=frame, eof=EOF.EOFT))
    packet = layers.FCDelimited(encoded)
    assert packet.sof == encoded[:4]
    assert packet.eof == encoded[-4:]
    header = packet[layers.FC]
    assert (header.d_id, header.ox_id, int(header.f_ctl)) == (
        frame.header.d_id,
        frame.header.ox_id,
        frame.header.f_ctl,
    )
    assert bytes(packet) == rebuilt(packet) == encoded


@pytest.mark.parametrize(
    "vector", [vector for vector in VECTORS if vector["form"] in FORMS], ids=lambda vector: vector["source"]
)
def test_a_captured_frame_is_dissected_to_its_message_and_built_again(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["hex"])
    packet = FORMS[vector["form"]](raw)
    assert bytes(packet) == raw
    assert rebuilt(packet) == raw
    names = {type(layer).__name__ for layer in iter_layers(packet)}
    if vector["form"] == "fip":
        assert Raw not in {type(layer) for layer in iter_layers(packet)}
    elif "answers" not in vector and vector["type"] not in ("bytes", "LsAcc", "BaAcc"):
        assert "FC" + vector["type"] in names, names


def iter_layers(packet: Packet) -> list[Packet]:
    found = []
    while packet:
        found.append(packet)
        packet = packet.payload
    return found


def test_a_login_is_crafted_in_the_words_of_the_standard() -> None:
    packet = (
        layers.FCDelimited(sof=SOF.SOFI3, eof=EOF.EOFT)
        / layers.FC(
            r_ctl=RCtl.ELS_REQUEST, d_id=0xFFFFFE, type_=FcType.ELS, f_ctl="FIRST_SEQUENCE+END_SEQUENCE"
        )
        / layers.FCFlogi(bb_credit=16, bb_receive_data_field_size=2112, port_name=0x10, node_name=0x20)
    )
    delimited = decode_delimited(bytes(packet))
    assert delimited.crc_ok
    assert delimited.frame.header.f_ctl == 0x280000
    flogi = derive(els_login.Flogi).decode(delimited.frame.payload)
    assert (flogi.bb_credit, flogi.port_name, flogi.version_high) == (16, 0x10, 0x20)


def test_lists_counts_and_descriptors_are_crafted_without_counting() -> None:
    fpin = layers.FCFpin(
        descriptors=[
            layers.FCCongestionNotification(event_type=2, event_period=100, severity=0xF7),
            layers.FCPeerCongestionNotification(
                detecting_port_name=1, attached_port_name=2, pname_list=[3, 4]
            ),
        ]
    )
    expected = els_notices.Fpin(
        descriptors=(
            els_notices.CongestionNotification(event_type=2, event_period=100, severity=0xF7),
            els_notices.PeerCongestionNotification(
                detecting_port_name=1, attached_port_name=2, event_type=0, pname_list=(3, 4)
            ),
        )
    )
    assert bytes(fpin) == derive(els_notices.Fpin).encode(expected)


def test_a_name_server_request_is_crafted_with_its_command_code() -> None:
    packet = layers.FC(r_ctl=2, type_=FcType.FC_CT) / layers.FCCt() / layers.FCGidFt(fc4_type=8)
    again = layers.FC(bytes(packet))
    assert again[layers.FCCt].command_code == name_server.NameServerCommand.GID_FT
    assert again[layers.FCGidFt].fc4_type == 8


def test_fill_bytes_and_vft_headers_are_crafted_and_dissected() -> None:
    packet = layers.FCVFT(vf_id=7) / layers.FC(r_ctl=4, type_=8, d_id=1) / Raw(b"12345")
    again = layers.FC(bytes(packet))
    assert type(again) is layers.FCVFT
    assert (again.vf_id, again[layers.FC].fill, bytes(again[layers.FC].payload)) == (7, bytes(3), b"12345")


def test_optional_headers_are_layers_of_their_own() -> None:
    header = layers.FC(r_ctl=4, type_=8, df_ctl=0x71)
    packet = (
        header
        / layers.FCESPHeader(esp_header=b"12345678")
        / layers.FCNetworkHeader(destination_name=1, source_name=2)
        / layers.FCAssociationHeader(validity=3)
        / layers.FCDeviceHeader16(device_header=b"d" * 16)
        / layers.FCFcpData(data=b"abcd")
    )
    again = layers.FC(bytes(packet))
    assert [type(layer).__name__ for layer in iter_layers(again)] == [
        "FC",
        "FCESPHeader",
        "FCNetworkHeader",
        "FCAssociationHeader",
        "FCDeviceHeader16",
        "FCFcpData",
    ]
    assert bytes(again) == bytes(packet)


def pcap(path: Path, link_type: int, records: list[bytes]) -> None:
    out = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, link_type)]
    out += [
        struct.pack("<IIII", number, 0, len(data), len(data)) + data for number, data in enumerate(records)
    ]
    path.write_bytes(b"".join(out))


def test_link_types_224_and_225_open_as_fibre_channel(tmp_path: Path) -> None:
    frame = layers.FC(r_ctl=6, type_=8, d_id=5) / layers.FCFcpCmnd(fcp_dl=512, rddata=1)
    pcap(tmp_path / "224.pcap", 224, [bytes(frame)])
    pcap(
        tmp_path / "225.pcap",
        225,
        [R_RDY.encode(), bytes(layers.FCDelimited() / frame), vc_rdy(3).encode() * 2],
    )
    (plain,) = rdpcap(str(tmp_path / "224.pcap"))
    assert plain[layers.FCFcpCmnd].fcp_dl == 512
    first, second, third = rdpcap(str(tmp_path / "225.pcap"))
    assert (first.primitive, third.primitive, third.payload.primitive) == ("R_RDY", "VC_RDY 3", "VC_RDY 3")
    assert first.summary() == "FC R_RDY"
    assert second[layers.FCFcpCmnd].rddata == 1
    assert conf.l2types.num2layer[224] is layers.FC


def test_fcoe_fip_and_fcip_are_bound_below(tmp_path: Path) -> None:
    frame = layers.FC(r_ctl=RCtl.ABTS, type_=0, d_id=5)
    over_ethernet = layers.Ether(bytes(layers.Ether() / layers.FCoE(sof=SOF.SOFN3) / frame))
    assert over_ethernet.type == 0x8906
    assert decode_fcoe(bytes(over_ethernet[layers.FCoE])).sof == SOF.SOFN3
    tagged = layers.Ether(bytes(layers.Ether() / layers.Dot1Q(vlan=100) / layers.FIP(operation=1, subcode=1)))
    assert tagged[layers.FIP].operation == 1
    stream = bytes(layers.FCIP() / frame) + bytes(layers.FCIP(sof=SOF.SOFF) / frame)
    segment = layers.IP(bytes(layers.IP() / layers.TCP(dport=3225) / Raw(stream)))
    first = segment[layers.FCIP]
    assert isinstance(decode_fcip(bytes(layers.FCIP() / frame)), fcip.FcipFrame)
    assert layers.FCIP(segment[Padding].load).sof == SOF.SOFF
    assert first[layers.FC].r_ctl == RCtl.ABTS


def test_encapsulations_are_put_together_over_segments(tmp_path: Path) -> None:
    frame = layers.FC(r_ctl=4, type_=8) / layers.FCFcpData(data=bytes(range(200)))
    stream = bytes(layers.FCIP(sof=SOF.SOFI3) / frame) + bytes(layers.FCIP(sof=SOF.SOFN3) / frame)
    cuts = [0, 20, 150, 300, len(stream)]
    pieces = [segment(stream[start:end], start) for start, end in pairwise(cuts)]
    pcap(tmp_path / "split.pcap", 101, pieces)
    session = TCPSession()
    found = [
        packet for raw in rdpcap(str(tmp_path / "split.pcap")) if (packet := session.process(raw)) is not None
    ]
    whole = [packet[layers.FCIP] for packet in found if packet.haslayer(layers.FCFcpData)]
    assert [packet.sof for packet in whole] == [SOF.SOFI3, SOF.SOFN3]
    assert all(packet[layers.FCFcpData].data == bytes(range(200)) for packet in whole)


def test_what_scapy_prints_as_a_command_builds_the_same_bytes() -> None:
    login = layers.FCFlogi(bb_credit=16, class_3=layers.FCClassParameters(service_options="VALID"))
    packet = layers.FCoE(sof=SOF.SOFI3) / layers.FC(d_id=0xFFFFFE) / login
    assert bytes(eval(packet.command(), vars(layers))) == bytes(packet)
    assert "bb_credit = 16" in packet.show(dump=True)


def test_a_special_frame_is_crafted_and_dissected() -> None:
    packet = layers.FCIPSpecialFrame(source_fabric_name=5, connection_nonce=b"12345678", k_a_tov=9)
    special = decode_fcip(bytes(packet))
    assert isinstance(special, fcip.FcipSpecialFrame)
    assert (special.source_fabric_name, special.k_a_tov) == (5, 9)
    assert type(layers.FCIP(bytes(packet))) is layers.FCIPSpecialFrame


def test_an_encapsulated_login_opens_as_a_frame() -> None:
    (vector,) = [vector for vector in VECTORS if vector["source"] == "fcoe-linux-fabric.pcap frame 6"]
    message = layers.FIP(bytes.fromhex(vector["hex"]))
    login = message.descriptors[0]
    assert type(login).__name__ == "FIPEncapsulatedFlogi"
    assert login.frame[layers.FCFlogi].bb_credit == 10


@pytest.mark.parametrize(
    "payload", [b"", b"\x02", b"\x02\x10\x00\x14", b"\x04\0\0\0", b"\x16\0\0\0\xff\xff\xff\xff"]
)
def test_a_payload_that_is_cut_short_dissects_without_an_error(payload: bytes) -> None:
    header = derive(FrameHeader).encode(FrameHeader(r_ctl=0x22, d_id=1, s_id=2, type_=1))
    assert bytes(layers.FC(header + payload)) == header + payload


@given(st.sampled_from([0x8906, 0x8914, 3225, 224, 225]), st.binary(max_size=120))
def test_any_bytes_below_their_carrier_dissect_without_an_error(carrier: int, data: bytes) -> None:
    if carrier in (224, 225):
        packet = conf.l2types.num2layer[carrier](data)
    elif carrier == 3225:
        packet = layers.TCP(bytes(layers.TCP(dport=carrier)) + data)
    else:
        packet = layers.Ether(bytes(layers.Ether(type=carrier)) + data)
    assert bytes(packet).endswith(data)


def test_every_name_that_is_exported_exists_and_every_description_has_a_layer() -> None:
    assert all(hasattr(layers, name) for name in layers.__all__)
    assert len(layers.__all__) == len(set(layers.__all__))
    for kind in (els_services.Rscn, els_notices.LinkIntegrityNotification, sw_ils.Elp, fspf.Lsu, fip.Fip):
        name = kind.__name__ if kind is not fip.Fip else "FIP"
        assert f"FC{name}" in layers.__all__ or name in layers.__all__
    assert "FIPMacAddressDescriptor" in layers.__all__


def test_the_deriver_of_layers_raises_on_what_it_does_not_know() -> None:
    @dataclass
    class Odd:
        LAYOUT: ClassVar[Any] = Struct("x" / Float32b)
        x: float

    with pytest.raises(UnknownConstruct):
        fields_of(Odd)
