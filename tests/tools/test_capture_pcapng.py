"""Capture files: what we write others read, what others write we read, damage is named."""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iscsi_target.trace.pcapng import LINKTYPE_ETHERNET, LINKTYPE_RAW, PcapngWriter
from tools.capture.pcapng import CapturedPacket, CaptureFormatError, read_file, read_stream

TIME = 1_700_000_000_123_456_789


def tshark_fields(path: Path, *fields: str) -> list[list[str]]:
    """tshark's view: one list of fields per frame."""
    if shutil.which("tshark") is None:
        pytest.skip("tshark is missing; to fix it: apt-get install tshark")
    wanted = [word for field in fields for word in ("-e", field)]
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


def written(packets: list[tuple[int, bytes, int | None]], snap_bytes: int = 0, **more) -> bytes:
    stream = io.BytesIO()
    writer = PcapngWriter(stream, **more)
    writer.add_interface(LINKTYPE_RAW, snap_bytes=snap_bytes, name="wan0")
    for time_ns, data, original in packets:
        writer.write(time_ns, data, original)
    return stream.getvalue()


packet_lists = st.lists(
    st.tuples(st.integers(0, 2**64 - 1), st.binary(max_size=70), st.none() | st.integers(70, 10**6)),
    max_size=8,
)


@given(packet_lists, st.sampled_from([0, 1, 14, 33]))
def test_what_is_written_is_read_back_cut_to_the_snap_length(packets, snap_bytes):
    found = list(read_stream(io.BytesIO(written(packets, snap_bytes))))
    assert found == [
        CapturedPacket(
            time_ns, LINKTYPE_RAW, len(data) if original is None else original, data[: snap_bytes or None]
        )
        for time_ns, data, original in packets
    ]


@given(packet_lists, st.integers(0, 600), st.binary(min_size=1, max_size=4))
def test_damage_is_named_and_nothing_else_is_raised(packets, at, junk):
    data = bytearray(written(packets))
    at %= len(data)
    data[at : at + len(junk)] = junk
    try:
        for packet in read_stream(io.BytesIO(bytes(data))):
            assert isinstance(packet.data, bytes)
    except CaptureFormatError as error:
        assert str(error)


@given(packet_lists, st.integers(0, 10_000))
def test_a_file_that_was_cut_off_gives_its_whole_packets(packets, cut):
    data = written(packets)
    cut = 28 + cut % max(1, len(data) - 28)
    whole = list(read_stream(io.BytesIO(data)))
    found = list(read_stream(io.BytesIO(data[:cut]), allow_truncated=True))
    assert found == whole[: len(found)]
    strict: list[CapturedPacket] = []
    try:
        strict.extend(read_stream(io.BytesIO(data[:cut])))
    except CaptureFormatError as error:
        assert "ends inside" in str(error)
    assert strict == [] or strict == found[: len(strict)]


@pytest.mark.parametrize("content", [b"", b"\x0a", b"GIF89a", bytes(100)])
def test_what_is_no_capture_is_refused(content):
    with pytest.raises(CaptureFormatError, match="neither a pcapng nor a pcap"):
        list(read_stream(io.BytesIO(content)))


def test_comments_and_several_interfaces():
    stream = io.BytesIO()
    writer = PcapngWriter(stream, comment="the copy")
    assert writer.add_interface(LINKTYPE_RAW) == 0
    assert writer.add_interface(LINKTYPE_ETHERNET, name="san0") == 1
    writer.write(TIME, b"a", comment="größer")
    writer.write(TIME + 1, b"bcd", interface=1)
    writer.write_statistics(TIME + 2, received=2, dropped=0)
    first, second = read_stream(io.BytesIO(stream.getvalue()))
    assert (first.comment, first.link_type, first.interface) == ("größer", LINKTYPE_RAW, 0)
    assert (second.comment, second.link_type, second.interface) == (None, LINKTYPE_ETHERNET, 1)


def test_an_option_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        PcapngWriter(io.BytesIO(), comment="x" * 65_536)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("magic", "unit_ns"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)])
def test_classic_pcap_in_either_byte_order_and_resolution(order, magic, unit_ns):
    header = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65_535, LINKTYPE_ETHERNET)
    record = struct.pack(order + "IIII", 1_700_000_000, 123_456, 3, 1500) + b"abc"
    (packet,) = read_stream(io.BytesIO(header + record))
    time_ns = 1_700_000_000 * 10**9 + 123_456 * unit_ns
    assert packet == CapturedPacket(time_ns, LINKTYPE_ETHERNET, 1500, b"abc")
    with pytest.raises(CaptureFormatError, match="ends inside a packet"):
        list(read_stream(io.BytesIO(header + record[:-1])))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("resolution", "units", "expected_ns"),
    [(6, 1_700_000_000_123_456, 1_700_000_000_123_456_000), (0x80 | 10, 1024 * 5 + 512, 5_500_000_000)],
)
def test_pcapng_of_others_in_either_byte_order_and_resolution(order, resolution, units, expected_ns):
    def block(kind: int, body: bytes) -> bytes:
        return (
            struct.pack(order + "II", kind, 12 + len(body)) + body + struct.pack(order + "I", 12 + len(body))
        )

    options = struct.pack(order + "HHB3xHH", 9, 1, resolution, 0, 0)
    packet = struct.pack(order + "IIIII", 0, units >> 32, units & 0xFFFFFFFF, 2, 9) + b"hi\0\0"
    data = (
        block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
        + block(1, struct.pack(order + "HHI", LINKTYPE_RAW, 0, 2) + options)
        + block(0x0BAD, b"unknown.")
        + block(6, packet)
        + block(3, struct.pack(order + "I", 9) + b"hi\0\0")
    )
    enhanced, simple = read_stream(io.BytesIO(data))
    assert enhanced == CapturedPacket(expected_ns, LINKTYPE_RAW, 9, b"hi")
    assert simple == CapturedPacket(0, LINKTYPE_RAW, 9, b"hi")


def test_tshark_and_scapy_read_what_we_write(tmp_path):
    path = tmp_path / "ours.pcapng"
    packets = [(TIME + number * 1001, bytes([0x45]) + bytes(number), 60 + number) for number in range(50)]
    path.write_bytes(written(packets, comment="for others"))
    fields = tshark_fields(path, "frame.len", "frame.cap_len", "frame.time_epoch", "frame.interface_name")
    assert fields == [
        [str(original), str(len(data)), f"{time_ns // 10**9}.{time_ns % 10**9:09d}", "wan0"]
        for time_ns, data, original in packets
    ]
    from scapy.utils import RawPcapNgReader

    with RawPcapNgReader(str(path)) as reader:
        theirs = [(data, metadata.wirelen, metadata.linktype) for data, metadata in reader]
    assert theirs == [(data, original, LINKTYPE_RAW) for _time, data, original in packets]


def captures() -> list[Path]:
    directory = Path(os.environ.get("SANCREDIT_CAPTURES", "/nonexistent"))
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if path.suffix in (".pcap", ".cap", ".pcapng"))


@pytest.mark.skipif(
    not captures(), reason="SANCREDIT_CAPTURES names no directory with captures; set it to one"
)
@pytest.mark.parametrize("path", captures(), ids=lambda path: path.name)
def test_real_captures_are_read_as_tshark_reads_them(path, tmp_path):
    ours = list(read_file(path))
    fields = tshark_fields(path, "frame.len", "frame.cap_len", "frame.time_epoch")
    assert [
        [str(one.original_bytes), str(len(one.data)), f"{one.time_ns // 10**9}.{one.time_ns % 10**9:09d}"]
        for one in ours
    ] == fields
    copy = tmp_path / "copy.pcapng"
    with copy.open("wb") as stream:
        writer = PcapngWriter(stream)
        writer.add_interface(ours[0].link_type)
        for packet in ours:
            writer.write(packet.time_ns, packet.data, packet.original_bytes)
    assert tshark_fields(copy, "frame.len", "frame.protocols") == tshark_fields(
        path, "frame.len", "frame.protocols"
    )
