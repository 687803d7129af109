"""The derived scapy layers write and read the same bytes as the derived codecs and construct."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

layers = pytest.importorskip("iscsi_target.layers", reason="scapy is missing: pip install scapy")

from scapy.config import conf  # noqa: E402
from scapy.layers.inet import TCP  # noqa: E402
from scapy.packet import Raw  # noqa: E402
from scapy.plist import PacketList  # noqa: E402
from scapy.sessions import TCPSession  # noqa: E402
from scapy.utils import rdpcap  # noqa: E402

from iscsi_target.session.parameters import Parameters  # noqa: E402
from iscsi_target.wire.codec import REQUESTS, RESPONSES, Pdu, encode_pdu  # noqa: E402
from iscsi_target.wire.digest import digest  # noqa: E402
from iscsi_target.wire.requests import LoginRequest, NopOut, ScsiCommandPdu  # noqa: E402
from iscsi_target.wire.responses import LoginResponse  # noqa: E402
from tests.iscsi_target.imaginary_wire import Recorded, make_node, read_16, write_16  # noqa: E402
from tests.iscsi_target.test_wire_codec import pdus  # noqa: E402
from tests.iscsi_target.test_wire_tshark import capture  # noqa: E402


def layer_of(pdu: Pdu) -> Any:
    return getattr(layers, "ISCSI" + type(pdu).__name__.removesuffix("Pdu"))


def values(pdu: Pdu) -> dict[str, Any]:
    return {
        field.name: int(value) if isinstance(value := getattr(pdu, field.name), bool) else value
        for field in dataclasses.fields(pdu)
    }


@given(pdus())
def test_a_layer_writes_the_bytes_of_the_codec(pdu: Pdu) -> None:
    assert bytes(layer_of(pdu)(**values(pdu))) == encode_pdu(pdu)


@given(pdus())
def test_a_layer_reads_what_the_codec_wrote(pdu: Pdu) -> None:
    packet = layers.ISCSI(encode_pdu(pdu))
    assert type(packet) is layer_of(pdu)
    assert {name: getattr(packet, name) for name in values(pdu)} == values(pdu)
    assert bytes(packet) == bytes(packet.copy()) == encode_pdu(pdu)


@given(st.lists(pdus(), min_size=2, max_size=4))
def test_several_pdus_in_one_segment_dissect_one_after_the_other(several: list[Pdu]) -> None:
    packet = layers.ISCSI(b"".join(encode_pdu(pdu) for pdu in several))
    for pdu in several:
        assert type(packet) is layer_of(pdu)
        assert packet.data == pdu.data
        packet = packet.payload
    assert not packet


BOTH = layers.Digests(True, True)


def with_digests(pdu: Pdu) -> bytes:
    """The PDU as a connection sends it that has agreed on both digests."""
    plain = encode_pdu(pdu)
    if isinstance(pdu, LoginRequest | LoginResponse):
        return plain
    head = 48 + len(pdu.ahs)
    body = plain[head:]
    return plain[:head] + digest(plain[:head]) + body + (digest(body) if body else b"")


@given(pdus())
def test_with_digests_a_layer_writes_and_reads_what_the_connection_sends(pdu: Pdu) -> None:
    raw = with_digests(pdu)
    assert bytes(layer_of(pdu)(**values(pdu), digests=BOTH)) == raw
    packet = layer_of(pdu)(raw, digests=BOTH)
    assert {name: getattr(packet, name) for name in values(pdu)} == values(pdu)
    assert packet.wrong_digests() == []
    assert bytes(packet.copy()) == raw


@given(st.lists(pdus(), min_size=2, max_size=4))
def test_several_pdus_with_digests_dissect_one_after_the_other(several: list[Pdu]) -> None:
    packet = layer_of(several[0])(b"".join(map(with_digests, several)), digests=BOTH)
    for pdu in several:
        assert type(packet) is layer_of(pdu)
        assert packet.data == pdu.data
        assert packet.wrong_digests() == []
        packet = packet.payload
    assert not packet


def test_wrong_digests_are_found() -> None:
    raw = bytearray(with_digests(NopOut(initiator_task_tag=1, cmd_sn=1, exp_stat_sn=1, data=b"12345")))
    raw[20] ^= 1
    assert layers.ISCSINopOut(bytes(raw), digests=BOTH).wrong_digests() == ["header"]
    raw[54] ^= 1
    assert layers.ISCSINopOut(bytes(raw), digests=BOTH).wrong_digests() == ["header", "data"]


def test_the_configuration_says_what_the_login_would_have_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(conf.contribs, "iscsi", {"header_digest": True, "data_digest": False})
    ping = NopOut(initiator_task_tag=1, cmd_sn=1, exp_stat_sn=1, data=b"12345")
    raw = with_digests(ping)[:-4]
    packet = layers.ISCSI(raw + raw)
    assert (packet.data, packet.payload.data) == (b"12345", b"12345")
    assert packet.wrong_digests() == []
    assert bytes(layers.ISCSINopOut(**values(ping))) == raw


@pytest.mark.parametrize("cut", [11, 53, 4096])
@pytest.mark.parametrize(
    "digests", [("None", "None"), ("CRC32C", "None"), ("None", "CRC32C"), ("CRC32C", "CRC32C")]
)
def test_the_digests_of_a_conversation_are_learnt_from_its_login(
    tmp_path: Path, digests: tuple[str, str], cut: int
) -> None:
    parameters = Parameters(
        header_digest=(digests[0],), data_digest=(digests[1],), max_recv_data_segment_length=1024
    )
    ends = Recorded(make_node(parameters=parameters), parameters=parameters)
    ends.connect()
    ends.submit(write_16(0, 8), data_out=bytes(range(256)) * 16)
    ends.transfer()
    ends.submit(read_16(0, 8), data_in=4096)
    ends.transfer()
    path = tmp_path / "conversation.pcap"
    capture(
        path, [(up, data[at : at + cut]) for up, data in ends.recorded for at in range(0, len(data), cut)]
    )
    session = TCPSession()
    found: dict[type, list[Any]] = {}
    wrong: list[str] = []
    for raw in rdpcap(str(path)):
        packet = session.process(raw)
        layer = packet[TCP].payload if packet is not None else None
        while layer:
            found.setdefault(type(layer), []).append(layer)
            wrong += layer.wrong_digests() if isinstance(layer, layers.ISCSI) else []
            layer = layer.payload
    assert wrong == []
    assert b"".join(packet.data for packet in found[layers.ISCSIDataIn]) == bytes(range(256)) * 16
    assert len(found[layers.ISCSIDataIn]) == 4
    assert Raw not in found
    (command, _) = found[layers.ISCSIScsiCommand]
    assert (command.header_digest is not None) == (digests[0] == "CRC32C")
    assert (command.data_digest is not None) == (digests[1] == "CRC32C")


def test_every_pdu_has_a_layer_that_is_exported() -> None:
    names = {"ISCSI" + kind.__name__.removesuffix("Pdu") for kind in (*REQUESTS, *RESPONSES)}
    assert names <= set(layers.__all__)
    assert all(hasattr(layers, name) for name in layers.__all__)


def test_a_layer_has_the_defaults_of_the_dataclass() -> None:
    packet = layers.ISCSINopOut(cmd_sn=5)
    assert bytes(packet) == encode_pdu(NopOut(cmd_sn=5, exp_stat_sn=0))


def test_bytes_that_are_no_pdu_stay_raw() -> None:
    assert type(layers.ISCSI(bytes((0x1C,)) * 48)) is Raw


def test_pdus_are_put_together_over_segments(tmp_path: Path) -> None:
    command = ScsiCommandPdu(
        initiator_task_tag=1, cmd_sn=1, exp_stat_sn=1, cdb=bytes(16), data=bytes(range(200))
    )
    ping = NopOut(initiator_task_tag=2, cmd_sn=2, exp_stat_sn=1)
    stream = encode_pdu(command) + encode_pdu(ping)
    path = tmp_path / "split.pcap"
    capture(path, [(True, stream[:30]), (True, stream[30:100]), (True, stream[100:])])
    session = TCPSession()
    found = [packet for raw in rdpcap(str(path)) if (packet := session.process(raw)) is not None]
    listed = PacketList(found)
    (last,) = [packet for packet in listed if packet.haslayer(layers.ISCSIScsiCommand)]
    assert last[layers.ISCSIScsiCommand].data == bytes(range(200))
    assert last[layers.ISCSINopOut].initiator_task_tag == 2
