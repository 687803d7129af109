"""The derived scapy layers write and read the same bytes as the derived codecs and construct."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

layers = pytest.importorskip("iscsi_target.layers", reason="scapy is missing: pip install scapy")

from scapy.packet import Raw  # noqa: E402
from scapy.plist import PacketList  # noqa: E402
from scapy.sessions import TCPSession  # noqa: E402
from scapy.utils import rdpcap  # noqa: E402

from iscsi_target.wire.codec import REQUESTS, RESPONSES, Pdu, encode_pdu  # noqa: E402
from iscsi_target.wire.requests import NopOut, ScsiCommandPdu  # noqa: E402
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


@given(st.lists(pdus(), min_size=2, max_size=4))
def test_several_pdus_in_one_segment_dissect_one_after_the_other(several: list[Pdu]) -> None:
    packet = layers.ISCSI(b"".join(encode_pdu(pdu) for pdu in several))
    for pdu in several:
        assert type(packet) is layer_of(pdu)
        assert packet.data == pdu.data
        packet = packet.payload
    assert not packet


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
