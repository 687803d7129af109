"""Frames that other people's ports and switches sent: they parse, and rebuild to the same bytes."""

from __future__ import annotations

import json
import os
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fcsim.wire.ct import CtMessage
from fcsim.wire.els import decode_els
from fcsim.wire.els_login import FlogiAccept, Plogi
from fcsim.wire.fcip import FcipFrame, FcipFramer, decode_fcip, encode_fcip
from fcsim.wire.fcoe import decode_fcoe, encode_fcoe
from fcsim.wire.fip import decode_fip, encode_fip
from fcsim.wire.frame import DelimitedFrame, Frame, decode_frame, encode_frame
from fcsim.wire.fspf import Lsu, link_state_checksum
from fcsim.wire.payload import ExchangeMemory, decode_payload, encode_payload
from fcsim.wire.switch_services import decode_sw_ils

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "fc" / "captured.json").read_text()
)


def without_crc(delimited: DelimitedFrame) -> DelimitedFrame:
    """The same frame with a CRC that we have to compute."""
    assert delimited.crc_ok
    return DelimitedFrame(sof=delimited.sof, frame=delimited.frame, eof=delimited.eof)


def frame_of(vector: dict[str, Any]) -> Frame | None:
    raw = bytes.fromhex(vector["hex"])
    if vector["form"] == "fcoe":
        return decode_fcoe(raw).frame
    if vector["form"] == "fcip":
        message = decode_fcip(raw)
        assert isinstance(message, FcipFrame)
        return message.delimited.frame
    return decode_frame(raw) if vector["form"] == "frame" else None


def message_of(vector: dict[str, Any]) -> Any:
    raw, frame = bytes.fromhex(vector["hex"]), frame_of(vector)
    if frame is not None:
        return decode_payload(frame, vector.get("answers"))
    return {"els": decode_els, "sw_ils": decode_sw_ils, "fip": decode_fip}[vector["form"]](raw)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["source"])
def test_a_captured_message_is_what_it_is_and_rebuilds_to_the_same_bytes(vector: dict[str, Any]) -> None:
    raw, frame, message = bytes.fromhex(vector["hex"]), frame_of(vector), message_of(vector)
    body = message.body if isinstance(message, CtMessage) else message
    assert type(body).__name__ == vector["type"]
    for name, value in vector.get("fields", {}).items():
        assert getattr(message, name) == value, name
    if vector["form"] == "fip":
        assert encode_fip(message) == raw
        return
    encoded = encode_payload(message)
    assert encoded == (raw if frame is None else frame.payload)[: len(encoded)]
    assert not any((raw if frame is None else frame.payload)[len(encoded) :])


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["source"])
def test_a_captured_frame_has_a_good_crc_and_rebuilds_to_the_same_bytes(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["hex"])
    if vector["form"] == "fcoe":
        assert encode_fcoe(without_crc(decode_fcoe(raw))) == raw
    elif vector["form"] == "fcip":
        message = decode_fcip(raw)
        assert isinstance(message, FcipFrame)
        rebuilt = FcipFrame(header=message.header, delimited=without_crc(message.delimited))
        assert encode_fcip(rebuilt) == raw
    elif vector["form"] == "frame":
        assert encode_frame(decode_frame(raw)) == raw
    else:
        assert frame_of(vector) is None


def test_the_vectors_show_every_form_and_the_credit_they_are_about() -> None:
    assert Counter(vector["form"] for vector in VECTORS).keys() == {
        "fcoe",
        "fcip",
        "fip",
        "frame",
        "els",
        "sw_ils",
    }
    assert sum("bb_credit" in vector.get("fields", {}) for vector in VECTORS) == 8


def test_the_answer_to_a_captured_fabric_login_has_its_timeouts_where_they_are() -> None:
    """Wireshark shows the R_A_TOV of this frame as two numbers of an N_Port login."""
    (vector,) = [vector for vector in VECTORS if vector["source"] == "fcoe-t11.pcap frame 2"]
    accept = message_of(vector)
    assert isinstance(accept, FlogiAccept)
    assert (accept.e_d_tov, accept.e_d_tov_ns) == (2000, 2_000_000_000)
    assert accept.r_a_tov == 10_000
    assert not accept.alternate_bb_credit
    alternate = message_of(next(v for v in VECTORS if v["source"] == "fcoe-t11.pcap frame 4"))
    assert isinstance(alternate, Plogi)
    assert alternate.alternate_bb_credit


def test_captured_link_state_records_have_the_checksum_we_compute() -> None:
    records = [
        record
        for vector in VECTORS
        if vector["type"] == "Lsu" and isinstance(update := message_of(vector), Lsu)
        for record in update.records
    ]
    assert len(records) == 5
    for record in records:
        assert link_state_checksum(record) == record.checksum


# --- whole files ---


def capture(name: str) -> Path:
    folder = os.environ.get("SANCREDIT_CAPTURES")
    if not folder:
        pytest.skip(f"SANCREDIT_CAPTURES does not name the folder with {name}")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"{path} is missing: where it is from stands in docs")
    return path


def packets(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    order = "<" if data[:4] == b"\xd4\xc3\xb2\xa1" else ">"
    offset = 24
    while offset < len(data):
        (size,) = struct.unpack_from(order + "I", data, offset + 8)
        yield data[offset + 16 : offset + 16 + size]
        offset += 16 + size


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "frames"),
    [("fcoe-t11.pcap", 69), ("fcoe-linux-vn2vn.pcap", 170), ("fcoe-linux-fabric.pcap", 113)],
)
def test_every_frame_of_a_capture_over_ethernet_rebuilds_to_the_same_bytes(name: str, frames: int) -> None:
    memory, seen = ExchangeMemory(), 0
    for packet in packets(capture(name)):
        ethertype, payload = int.from_bytes(packet[12:14], "big"), packet[14:]
        inside: list[Frame] = []
        if ethertype == 0x8906:
            delimited = decode_fcoe(payload)
            assert encode_fcoe(without_crc(delimited)) == payload
            inside.append(delimited.frame)
        else:
            assert ethertype == 0x8914
            message = decode_fip(payload)
            encoded = encode_fip(message)
            assert payload.startswith(encoded)
            assert not any(payload[len(encoded) :])
            inside += [decode_frame(one.frame) for one in message.descriptors if hasattr(one, "frame")]
        for frame in inside:
            assert encode_payload(memory.decode(frame)) == frame.payload
        seen += 1
    assert seen == frames


@pytest.mark.slow
def test_every_frame_of_a_capture_over_tcp_rebuilds_to_the_same_bytes() -> None:
    """Frames are cut from each direction's stream; the recorder lost the rest of one packet."""
    memory, framers, seen = ExchangeMemory(), dict[bytes, FcipFramer](), Counter[str]()
    for packet in packets(capture("fcip_trace.cap")):
        if packet[12:14] != b"\x08\x00" or packet[23] != 6:
            continue
        start = 14 + (packet[14] & 15) * 4
        end = 14 + int.from_bytes(packet[16:18], "big")
        data = packet[start + (packet[start + 12] >> 4) * 4 : end]
        framer = framers.setdefault(packet[26:30] + packet[start : start + 4], FcipFramer())
        for whole in framer.receive(data):
            message = decode_fcip(whole)
            assert isinstance(message, FcipFrame)
            rebuilt = FcipFrame(header=message.header, delimited=without_crc(message.delimited))
            assert encode_fcip(rebuilt) == whole
            body = memory.decode(message.delimited.frame)
            assert encode_payload(body) == message.delimited.frame.payload
            seen[type(body).__name__] += 1
    assert sum(seen.values()) >= 116
    assert seen["Elp"] == seen["ElpAccept"] == 1
