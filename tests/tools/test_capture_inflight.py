"""Bytes in flight: by hand, against a model, and against tshark."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iscsi_target.trace.pcapng import LINKTYPE_ETHERNET, LINKTYPE_RAW, PcapngWriter
from tools.capture.inflight import FlowKey, InFlightAnalysis, analyse, downsample, main
from tools.capture.pcapng import CapturedPacket, read_file
from tools.capture.tcp import ACK, FIN, RST, SYN, decode_segment

A, B = ("10.0.0.1", 40_000), ("10.0.0.2", 3260)
FORWARD = FlowKey(*A, *B)
MSS_OPTION = struct.pack("!BBH", 2, 4, 1460)


def tcp(
    time_ns, source, destination, sequence, acknowledgement, flags, payload=0, options=b"", link=LINKTYPE_RAW
):
    """A packet of a capture that kept the headers only."""
    header_words = 5 + len(options) // 4
    segment = struct.pack(
        "!HHIIBBHHH",
        source[1],
        destination[1],
        sequence % 2**32,
        acknowledgement % 2**32,
        header_words << 4,
        flags,
        65_535,
        0,
        0,
    )
    total = 20 + 4 * header_words + payload
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(destination[0])
    header = struct.pack("!BBHHHBBH", 0x45, 0, total, 0, 0, 64, 6, 0) + addresses
    ethernet = bytes(12) + b"\x08\x00" if link == LINKTYPE_ETHERNET else b""
    data = ethernet + header + segment + options
    return CapturedPacket(time_ns, link, len(ethernet) + total, data)


def handshake(isn_a: int, isn_b: int) -> list[CapturedPacket]:
    return [
        tcp(0, A, B, isn_a, 0, SYN, options=MSS_OPTION),
        tcp(1, B, A, isn_b, isn_a + 1, SYN | ACK, options=MSS_OPTION),
        tcp(2, A, B, isn_a + 1, isn_b + 1, ACK),
    ]


def send(time_ns, isn_a, offset, payload, flags=ACK):
    return tcp(time_ns, A, B, isn_a + 1 + offset, 1, flags, payload)


def acknowledge(time_ns, isn_a, offset, flags=ACK):
    return tcp(time_ns, B, A, 1, isn_a + 1 + offset, flags)


def test_in_flight_is_sent_minus_acknowledged():
    packets = [
        *handshake(1000, 0),
        send(10, 1000, 0, 1448),
        send(11, 1000, 1448, 1448),
        acknowledge(20, 1000, 1448),
        send(21, 1000, 2896, 500),
        acknowledge(2_000_000_010, 1000, 3396),
    ]
    report = analyse(packets)
    (flow,) = report.flows
    assert flow.flow == FORWARD
    assert (flow.max_in_flight_bytes, flow.max_in_flight_ns) == (2896, 11)
    assert (flow.payload_bytes, flow.acknowledged_bytes, flow.retransmitted_bytes) == (3396, 3396, 0)
    assert (flow.mss_bytes, flow.packets) == (1460, 3)
    assert (flow.first_data_ns, flow.last_acknowledgement_ns) == (10, 2_000_000_010)
    assert flow.goodput_bps == 3396 * 8 / 2
    assert report.series[0] == (0, 2896)
    assert report.series[-1][1] == 0


@pytest.mark.parametrize("isn", [0, 2**32 - 2000, 2**32 - 1, 2**31 - 1500])
def test_sequence_numbers_wrap(isn):
    packets = handshake(isn, 2**32 - 1)
    for number in range(100):
        packets.append(send(10 + number, isn, number * 1000, 1000))
        if number >= 4:
            packets.append(acknowledge(10 + number, isn, (number - 4) * 1000))
    (flow,) = analyse(packets).flows
    assert (
        flow.max_in_flight_bytes == 6000
    )  # the fifth unacknowledged, then one more before its acknowledgement
    assert (flow.payload_bytes, flow.retransmitted_bytes) == (100_000, 0)


def test_many_gigabytes_on_one_connection_unroll():
    packets = handshake(7, 0)
    step = 1 << 30
    for number in range(12):
        packets.append(send(number, 7, number * step + step - 1000, 1000))
        packets.append(acknowledge(number, 7, (number + 1) * step))
    (flow,) = analyse(packets).flows
    assert flow.payload_bytes == 12 * step
    assert flow.acknowledged_bytes == 12 * step


def test_a_retransmission_adds_nothing_in_flight_but_is_counted():
    packets = [
        *handshake(5, 0),
        send(10, 5, 0, 1000),
        send(11, 5, 1000, 1000),
        send(12, 5, 0, 1000),
        send(13, 5, 1500, 1000),  # half old, half new
    ]
    (flow,) = analyse(packets).flows
    assert flow.max_in_flight_bytes == 2500
    assert flow.retransmitted_bytes == 1500
    assert flow.payload_bytes == 2500


def test_a_capture_that_begins_in_mid_connection_counts_from_there():
    (flow,) = analyse([send(1, 9, 5000, 700), send(2, 9, 5700, 700), acknowledge(3, 9, 6400)]).flows
    assert (flow.max_in_flight_bytes, flow.payload_bytes, flow.mss_bytes) == (1400, 1400, None)
    (flow,) = analyse([acknowledge(1, 9, 5000), send(2, 9, 5500, 700)]).flows
    assert flow.max_in_flight_bytes == 1200


def test_fin_and_syn_are_not_bytes():
    packets = [*handshake(1, 0), send(3, 1, 0, 10, FIN | ACK), acknowledge(4, 1, 11)]
    (flow,) = analyse(packets).flows
    assert (flow.max_in_flight_bytes, flow.payload_bytes, flow.acknowledged_bytes) == (10, 10, 10)


def test_a_reset_ends_what_is_in_flight():
    other = tcp(30, ("10.0.0.1", 40_001), B, 1, 1, ACK, 400)
    report = analyse([*handshake(1, 0), send(10, 1, 0, 1000), acknowledge(20, 1, 0, RST | ACK), other])
    assert report.max_in_flight_bytes == 1000
    assert report.series[-1][1] == 400


def test_a_new_connection_between_the_same_ports_starts_afresh():
    again = [
        tcp(100, A, B, 900_000_000, 0, SYN),
        tcp(101, B, A, 77, 900_000_001, SYN | ACK),
        tcp(102, A, B, 900_000_001, 78, ACK, 300),
    ]
    report = analyse([*handshake(1, 0), send(10, 1, 0, 1000), *again])
    assert [flow.max_in_flight_bytes for flow in report.flows] == [1000, 300]
    assert report.series[-1][1] == 300


def test_the_sum_is_over_the_chosen_flows_only():
    packets = []
    for port in (1, 2, 3):
        source = ("10.0.0.1", port)
        packets.append(tcp(port, source, B, 0, 0, ACK, 1000))
    report = analyse(packets, lambda flow: flow.source_port != 2)
    assert report.max_in_flight_bytes == 2000
    assert [flow.flow.source_port for flow in report.flows] == [1, 3]


def test_both_directions_are_flows():
    packets = [*handshake(1, 500), send(5, 1, 0, 100), tcp(6, B, A, 501, 102, ACK, 900)]
    assert {str(flow.flow): flow.max_in_flight_bytes for flow in analyse(packets).flows} == {
        "10.0.0.1:40000 > 10.0.0.2:3260": 100,
        "10.0.0.2:3260 > 10.0.0.1:40000": 900,
    }


steps = st.lists(
    st.tuples(
        st.sampled_from(["new", "old", "ack"]),
        st.integers(0, 1),
        st.integers(1, 60_000),
        st.integers(0, 10**6),
    ),
    max_size=60,
)


@given(steps, st.integers(0, 2**32 - 1))
def test_any_run_agrees_with_plain_integers(run, isn):
    sources = [("10.0.0.1", 1), ("10.0.0.1", 2)]
    sent, acknowledged = [0, 0], [0, 0]
    peak, peaks = 0, [0, 0]
    analysis = InFlightAnalysis(lambda flow: flow.destination_port == B[1])
    for number in (0, 1):
        analysis.receive(tcp(0, sources[number], B, isn, 0, SYN))
    for now, (what, number, length, place) in enumerate(run, 1):
        if what == "ack":
            acknowledged[number] = max(acknowledged[number], min(sent[number], place))
            packet = tcp(now, B, sources[number], 0, isn + 1 + min(sent[number], place), ACK)
        else:
            start = sent[number] if what == "new" else place % (sent[number] + 1)
            sent[number] = max(sent[number], start + length)
            packet = tcp(now, sources[number], B, isn + 1 + start, 0, ACK, length)
        analysis.receive(packet)
        flight = [sent[one] - acknowledged[one] for one in (0, 1)]
        peak = max(peak, sum(flight))
        peaks = [max(pair) for pair in zip(peaks, flight, strict=True)]
    report = analysis.report()
    assert report.max_in_flight_bytes == peak
    assert max((point[1] for point in report.series), default=0) == peak
    found = {flow.flow.source_port: flow.max_in_flight_bytes for flow in report.flows}
    assert found == {number + 1: peaks[number] for number in (0, 1) if sent[number]}


@given(st.binary(max_size=120), st.sampled_from([0, 1, 101, 113, 228, 229, 147]))
def test_no_packet_can_upset_the_decoder(data, link_type):
    packet = CapturedPacket(0, link_type, len(data), data)
    segment = decode_segment(packet)
    assert segment is None or segment.payload_bytes >= 0


def test_vlan_ipv6_and_packets_too_long_for_their_length_field_are_understood():
    plain = tcp(0, A, B, 1, 1, ACK, 100, link=LINKTYPE_ETHERNET)
    tagged = plain._replace(data=plain.data[:12] + b"\x81\x00\x00\x05" + plain.data[12:])
    assert decode_segment(tagged) == decode_segment(plain)
    assert decode_segment(plain).payload_bytes == 100
    header = struct.pack("!IHBB", 6 << 28, 20 + 77, 6, 64) + bytes(15) + b"\x01" + bytes(15) + b"\x02"
    segment = struct.pack("!HHIIBBHHH", 1, 2, 3, 4, 5 << 4, ACK, 0, 0, 0)
    six = decode_segment(CapturedPacket(0, LINKTYPE_RAW, 137, header + segment))
    assert (six.payload_bytes, six.sequence) == (77, 3)
    big = tcp(0, A, B, 1, 1, ACK)
    big = big._replace(data=big.data[:2] + b"\0\0" + big.data[4:], original_bytes=100_040)
    assert decode_segment(big).payload_bytes == 100_000


def test_downsampling_keeps_the_peaks_and_the_limit():
    times, values = list(range(0, 10_000, 3)), [number % 97 for number in range(3334)]
    series = downsample(times, values, 50)
    assert len(series) <= 50
    assert max(value for _time, value in series) == 96
    assert downsample([], [], 5) == ()
    assert downsample([5], [7], 1) == ((0, 7),)
    with pytest.raises(ValueError, match="at least 1"):
        downsample(times, values, 0)


def tshark_ports(path: Path, display_filter: str, *more: str) -> list[list[str]]:
    """Source port, destination port and more fields of the frames that match."""
    if shutil.which("tshark") is None:
        pytest.skip("tshark is missing; to fix it: apt-get install tshark")
    command = ["tshark", "-n", "-r", str(path), "-Y", display_filter, "-T", "fields"]
    command += [word for field in ("tcp.srcport", "tcp.dstport", *more) for word in ("-e", field)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


def tshark_in_flight(path: Path) -> dict[tuple[str, str], int]:
    """tshark's largest tcp.analysis.bytes_in_flight per (source port, destination port)."""
    largest: dict[tuple[str, str], int] = {}
    field = "tcp.analysis.bytes_in_flight"
    for source, destination, flight in tshark_ports(path, field, field):
        largest[source, destination] = max(int(flight), largest.get((source, destination), 0))
    return largest


def ours_in_flight(path: Path) -> dict[tuple[str, str], int]:
    return {
        (str(flow.flow.source_port), str(flow.flow.destination_port)): flow.max_in_flight_bytes
        for flow in analyse(read_file(path)).flows
    }


@pytest.mark.parametrize("isn", [1, 2**32 - 5000])
def test_tshark_agrees_on_a_run_with_losses(tmp_path, isn):
    path = tmp_path / "losses.pcapng"
    packets = handshake(isn, 0)
    now, sent, acknowledged = 10_000, 0, 0
    for number in range(300):
        now += 1_000_000
        if number % 37 == 36:
            packets.append(send(now, isn, acknowledged, 1448))  # the oldest again
        elif number % 3 == 2:
            acknowledged = min(sent, acknowledged + 2 * 1448 - (700 if number % 5 == 0 else 0))
            packets.append(acknowledge(now, isn, acknowledged))
        else:
            packets.append(send(now, isn, sent, 1448))
            sent += 1448
    with path.open("wb") as stream:
        writer = PcapngWriter(stream)
        writer.add_interface(LINKTYPE_RAW)
        for packet in packets:
            writer.write(packet.time_ns, packet.data, packet.original_bytes)
    assert ours_in_flight(path) == tshark_in_flight(path)


CAPTURES = Path(os.environ.get("SANCREDIT_CAPTURES", "/nonexistent"))


@pytest.mark.skipif(
    not CAPTURES.is_dir(), reason="SANCREDIT_CAPTURES names no directory with captures; set it to one"
)
@pytest.mark.parametrize("name", ["iscsi-scsi-data-cdrom.pcap", "fcip_trace.cap"])
def test_tshark_agrees_on_real_captures(name):
    path = CAPTURES / name
    if not path.exists():
        pytest.skip(f"{name} is not in SANCREDIT_CAPTURES")
    # Some of these were thinned out before they were published; tshark forgets what was in flight before a gap.
    gaps = "tcp.analysis.lost_segment or tcp.analysis.ack_lost_segment"
    thinned = {(source, destination) for source, destination in tshark_ports(path, gaps)}
    theirs = {flow: flight for flow, flight in tshark_in_flight(path).items() if flow not in thinned}
    assert theirs
    assert {flow: flight for flow, flight in ours_in_flight(path).items() if flow not in thinned} == theirs


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    path = tmp_path / "x.pcapng"
    assert main([str(path)]) == 2
    assert "No such file" in capsys.readouterr().err
    path.write_bytes(b"not a capture")
    assert main([str(path)]) == 2
    assert "neither a pcapng nor a pcap" in capsys.readouterr().err
    with path.open("wb") as stream:
        PcapngWriter(stream).add_interface(LINKTYPE_RAW)
    assert main([str(path), "-o", "json"]) == 1
    assert capsys.readouterr().out.startswith('{"flows": []')
