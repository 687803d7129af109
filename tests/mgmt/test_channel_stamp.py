"""STAMP packets: as scapy and tshark understand them, and what authentication keeps out."""

from __future__ import annotations

import hashlib
import hmac
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgmt.channel.stamp import (
    ReflectorPacket,
    SenderPacket,
    decode_reflector,
    decode_sender,
    encode_reflector,
    encode_sender,
)

NOON = 1_795_348_800_000_000_000
NTP_NOON = NOON // 10**9 + 2_208_988_800
KEY = b"a key of thirty-two octets......"
REFLECTED = ReflectorPacket(
    sequence=7,
    sent_utc_ns=NOON + 1_500_000_000,
    received_utc_ns=NOON + 1_250_000_000,
    sender_sequence=9,
    sender_sent_utc_ns=NOON + 1_000_000_000,
    sender_ttl=254,
    ssid=77,
)
times = st.integers(NOON, NOON + 10**18)
numbers = st.integers(0, 2**32 - 1)


@given(numbers, times, st.integers(0, 65535), st.sampled_from((None, KEY)))
def test_what_a_sender_sends_is_what_was_read(sequence: int, at: int, ssid: int, key: bytes | None) -> None:
    packet = SenderPacket(sequence, at, ssid)
    data = encode_sender(packet, key)
    assert len(data) == (44 if key is None else 112)
    assert decode_sender(data, at, key) == packet


@given(numbers, times, times, numbers, times, st.integers(0, 255), st.sampled_from((None, KEY)))
def test_what_a_reflector_sends_is_what_was_read(
    sequence: int,
    sent: int,
    received: int,
    sender_sequence: int,
    sender_sent: int,
    ttl: int,
    key: bytes | None,
) -> None:
    packet = ReflectorPacket(sequence, sent, received, sender_sequence, sender_sent, ttl, 5)
    assert decode_reflector(encode_reflector(packet, key), sent, key) == packet


def test_a_reflection_is_as_long_as_what_it_answers() -> None:
    assert len(encode_reflector(REFLECTED, length=1472)) == 1472


def test_time_goes_on_after_ntps_seconds_have_run_over_in_2036() -> None:
    later = 2_090_000_000 * 1_000_000_000 + 5
    assert decode_sender(encode_sender(SenderPacket(1, later)), later) == SenderPacket(1, later)


def test_scapy_reads_the_same() -> None:
    from scapy.contrib.stamp import (
        STAMPSessionReflectorTestUnauthenticated,
        STAMPSessionSenderTestUnauthenticated,
    )

    sender = STAMPSessionSenderTestUnauthenticated(encode_sender(SenderPacket(3, NOON + 250_000_000, 12)))
    assert (sender.seq, sender.ssid) == (3, 12)
    assert float(sender.ts) == NTP_NOON + 0.25
    assert (sender.err_estimate.Z, sender.err_estimate.multiplier) == (0, 1)
    reflected = STAMPSessionReflectorTestUnauthenticated(encode_reflector(REFLECTED))
    assert (reflected.seq, reflected.ssid, reflected.seq_sender, reflected.ttl_sender) == (7, 77, 9, 254)
    assert [float(stamp) - NTP_NOON for stamp in (reflected.ts, reflected.ts_rx, reflected.ts_sender)] == [
        1.5,
        1.25,
        1.0,
    ]


def test_scapys_packets_are_read() -> None:
    from scapy.contrib.stamp import STAMPSessionSenderTestUnauthenticated

    made = bytes(STAMPSessionSenderTestUnauthenticated(seq=21, ssid=3, ts=NTP_NOON + 0.5))
    assert decode_sender(made, NOON) == SenderPacket(21, NOON + 500_000_000, 3)


@pytest.mark.slow
def test_tshark_reads_the_same(tmp_path: Path) -> None:
    """Its dissector for TWAMP-Test, whose unauthenticated packets have these fields in these places (RFC 5357)."""
    if shutil.which("tshark") is None:
        pytest.skip("no tshark: install the package tshark")
    from scapy.layers.inet import IP, UDP
    from scapy.utils import wrpcap

    wrpcap(
        str(tmp_path / "stamp.pcap"),
        [IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=862, dport=862) / encode_reflector(REFLECTED)],
    )
    fields = (
        "seq_number",
        "timestamp",
        "receive_timestamp",
        "sender_seq_number",
        "sender_timestamp",
        "sender_ttl",
    )
    command = ["tshark", "-r", str(tmp_path / "stamp.pcap"), "-d", "udp.port==862,twamp.test", "-T", "fields"]
    for name in fields:
        command += ["-e", f"twamp.test.{name}"]
    found = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"TZ": "UTC", "PATH": "/usr/bin"}
    )
    values = found.stdout.rstrip("\n").split("\t")
    assert (values[0], values[3], values[5]) == ("7", "9", "254")
    assert [value.split(".")[1][:3] for value in (values[1], values[2], values[4])] == ["500", "250", "000"]


@given(st.integers(0, 111), st.integers(1, 255))
def test_an_authenticated_packet_with_one_wrong_octet_is_nobodys(at: int, flip: int) -> None:
    data = bytearray(encode_sender(SenderPacket(1, NOON), KEY))
    data[at] ^= flip
    assert decode_sender(bytes(data), NOON, KEY) is None


def test_the_code_covers_the_first_ninety_six_octets() -> None:
    data = encode_reflector(REFLECTED, KEY)
    assert data[96:] == hmac.new(KEY, data[:96], hashlib.sha256).digest()[:16]


@pytest.mark.parametrize("data", [b"", b"x" * 43, encode_sender(SenderPacket(1, NOON))])
def test_with_a_key_a_plain_packet_is_nobodys(data: bytes) -> None:
    assert decode_sender(data, NOON, KEY) is None
    assert decode_reflector(data, NOON, KEY) is None


@given(st.binary(max_size=200), st.sampled_from((None, KEY)))
def test_no_bytes_of_a_stranger_raise(data: bytes, key: bytes | None) -> None:
    decode_sender(data, NOON, key)
    decode_reflector(data, NOON, key)
