"""Captures read into the table: every file format, link layer and mishap of TCP that there is a rule for."""

from __future__ import annotations

import gzip
import random
import struct
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from iscsi_target.wire.digest import digest
from tests.tools import capture_packets as made
from tests.tools.capture_packets import T0, Packet, scan_bytes
from tools.capture.rows import Note, Row, RowKind
from tools.capture.scan import CaptureError, Scan

CLIENT, SERVER = 1000, 7000


def conversation(count: int = 6, length: int = 512) -> tuple[bytes, bytes]:
    """Both streams of a session: a login and so many reads."""
    request, answer = made.login()
    out, back = request, answer
    for number in range(1, count + 1):
        out += made.read_command(number, length)
        back += made.read_answer(number, bytes((number & 0xFF,)) * length)
    return out, back


def opcodes(rows: list[Row]) -> list[int]:
    return [row.header[0] & 0x3F for row in rows if row.kind == RowKind.ISCSI]


def handshake() -> list[Packet]:
    return [
        Packet(T0, made.segment(b"", CLIENT - 1, flags=0x02, options=bytes.fromhex("020405b403030700"))),
        Packet(T0 + 1000, made.segment(b"", SERVER - 1, back=True, flags=0x12, ack=CLIENT)),
        Packet(T0 + 3000, made.segment(b"", CLIENT, flags=0x10, ack=SERVER)),
    ]


def packets(out: bytes, back: bytes, size: int = 1460, seed: int | None = None) -> list[Packet]:
    """The streams cut into segments, the target's after the initiator's; sizes by chance with a ``seed``."""
    chance = random.Random(seed)
    made_packets, now = [], T0 + 10_000
    for stream, first, is_back in ((out, CLIENT, False), (back, SERVER, True)):
        at = 0
        while at < len(stream):
            step = size if seed is None else chance.randint(1, size)
            now += 1000
            piece = stream[at : at + step]
            made_packets.append(Packet(now, made.segment(piece, first + at, back=is_back)))
            at += step
    return made_packets


EXPECTED = [0x03] + [0x01] * 6 + [0x23] + [0x25] * 6


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("nano", [True, False])
def test_a_pcap_in_either_byte_order_and_resolution_gives_every_pdu(
    tmp_path: Path, order: str, nano: bool
) -> None:
    data = made.pcap(handshake() + packets(*conversation()), order=order, nano=nano)
    rows, scan, _ = scan_bytes(tmp_path / "a.pcap", data)
    assert opcodes(rows) == EXPECTED
    assert rows[0].time_ns == T0 + 11_000
    assert scan.scanner.remarks == []


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("resolution", "units_per_s"),
    [(3, 10**3), (6, 10**6), (9, 10**9), (10, 10**10), (0x80 | 20, 2**20), (0x80 | 30, 2**30)],
)
def test_a_pcapng_has_times_of_any_resolution(
    tmp_path: Path, order: str, resolution: int, units_per_s: int
) -> None:
    whole = handshake() + packets(*conversation())
    data = made.section(order) + made.interface(resolution=resolution, order=order)
    data += b"".join(made.enhanced(p, units=p.time_ns * units_per_s // 10**9, order=order) for p in whole)
    rows, _, _ = scan_bytes(tmp_path / "a.pcapng", data)
    assert opcodes(rows) == EXPECTED
    exact = (T0 + 11_000) * units_per_s // 10**9
    assert rows[0].time_ns == exact * 10**9 // units_per_s


def test_an_interface_may_have_a_time_offset(tmp_path: Path) -> None:
    one = Packet(T0, made.segment(conversation()[0], CLIENT))
    data = made.section() + made.interface(offset_s=100) + made.enhanced(one, units=T0 - 100 * 10**9)
    rows, _, _ = scan_bytes(tmp_path / "a.pcapng", data)
    assert rows[0].time_ns == T0


def test_several_sections_and_interfaces_are_one_capture(tmp_path: Path) -> None:
    out, back = conversation()
    whole = handshake() + packets(out, back, 400)
    half = len(whole) // 2
    data = made.section("<") + made.interface(name="a") + made.interface(101, name="raw")
    for number, packet in enumerate(whole[:half]):
        raw = number % 2
        data += made.enhanced(Packet(packet.time_ns, packet.data[14 * raw :]), number=raw)
    data += made.section(">") + made.interface(name="b", resolution=6, order=">")
    for packet in whole[half:]:
        data += made.enhanced(packet, units=packet.time_ns // 1000, order=">")
    rows, scan, _ = scan_bytes(tmp_path / "a.pcapng", data)
    assert opcodes(rows) == EXPECTED
    assert scan.scanner.names == ["a", "raw", "b"]


def test_simple_and_old_packet_blocks_and_unknown_blocks_are_read_over_and_through(tmp_path: Path) -> None:
    out, back = conversation(2)
    first, second = made.segment(out, CLIENT), made.segment(back, SERVER, back=True)
    data = made.section() + made.interface()
    data += made.block(0x0BAD, b"whatever") + made.block(3, struct.pack("<I", len(first)) + first)
    old = struct.pack("<HHIIII", 0, 0, T0 >> 32, T0 & 0xFFFFFFFF, len(second), len(second)) + second
    data += made.block(2, old)
    rows, _, _ = scan_bytes(tmp_path / "a.pcapng", data)
    assert opcodes(rows) == [3, 1, 1, 0x23, 0x25, 0x25]
    assert rows[-1].time_ns == T0


@pytest.mark.parametrize("link_type", [0, 1, 12, 101, 108, 113, 228, 276])
@pytest.mark.parametrize("version", [4, 6])
def test_every_link_layer_is_known(tmp_path: Path, link_type: int, version: int) -> None:
    out, _ = conversation()
    body = made.tcp(out, (51000, 3260), CLIENT)
    packet = (
        made.ipv4(body, "10.0.0.1", "10.0.0.2") if version == 4 else made.ipv6(body, "fe80::1", "fe80::2")
    )
    data = made.pcap([Packet(T0, made.link(packet, link_type, version=version))], link_type=link_type)
    rows, _, _ = scan_bytes(tmp_path / "a.pcap", data)
    assert opcodes(rows) == [3, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("tags", [(5,), (100, 5), (1, 2, 3, 4)])
def test_vlan_tags_are_passed_through(tmp_path: Path, tags: tuple[int, ...]) -> None:
    packet = made.ipv4(made.tcp(conversation()[0], (51000, 3260), CLIENT), "10.0.0.1", "10.0.0.2")
    data = made.pcap([Packet(T0, made.ethernet(packet, tags=tags))])
    assert opcodes(scan_bytes(tmp_path / "a.pcap", data)[0]) == [3, 1, 1, 1, 1, 1, 1]


def test_ethernet_padding_is_no_data(tmp_path: Path) -> None:
    out, _ = conversation(2)
    whole = [*handshake()]
    whole.append(Packet(T0, made.segment(out[:3], CLIENT) + bytes(3)))
    whole.append(Packet(T0, made.segment(out[3:], CLIENT + 3)))
    rows, _, _ = scan_bytes(tmp_path / "a.pcap", made.pcap(whole))
    assert opcodes(rows) == [3, 1, 1]


def test_a_super_packet_whose_ip_header_cannot_say_its_length_is_whole(tmp_path: Path) -> None:
    out, _ = conversation(2)
    packet = made.ipv4(made.tcp(out, (51000, 3260), CLIENT), "10.0.0.1", "10.0.0.2", total=0)
    rows, _, _ = scan_bytes(tmp_path / "a.pcap", made.pcap([Packet(T0, made.ethernet(packet))]))
    assert opcodes(rows) == [3, 1, 1]


@pytest.mark.parametrize("shuffled", [False, True])
def test_fragments_of_ipv4_are_put_together(tmp_path: Path, shuffled: bool) -> None:
    body = made.tcp(conversation(3)[0], (51000, 3260), CLIENT)
    pieces = []
    for at in range(0, len(body), 64):
        more = 0x2000 if at + 64 < len(body) else 0
        pieces.append(
            made.ethernet(
                made.ipv4(
                    body[at : at + 64], "10.0.0.1", "10.0.0.2", identification=9, fragment=more | at // 8
                )
            )
        )
    if shuffled:
        random.Random(1).shuffle(pieces)
    rows, _, _ = scan_bytes(tmp_path / "a.pcap", made.pcap([Packet(T0, piece) for piece in pieces]))
    assert opcodes(rows) == [3, 1, 1, 1]


def test_fragments_and_extension_headers_of_ipv6_are_understood(tmp_path: Path) -> None:
    body = made.tcp(conversation(3)[0], (51000, 3260), CLIENT)
    pieces = []
    for at in range(0, len(body), 64):
        more = 1 if at + 64 < len(body) else 0
        hop = (0, bytes(7))
        fragment = (44, b"\0" + struct.pack("!HI", at | more, 77))
        pieces.append(
            made.ethernet(
                made.ipv6(body[at : at + 64], "fe80::1", "fe80::2", extensions=[hop, fragment]), 0x86DD
            )
        )
    rows, _, _ = scan_bytes(tmp_path / "a.pcap", made.pcap([Packet(T0, piece) for piece in pieces]))
    assert opcodes(rows) == [3, 1, 1, 1]


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 700))
def test_however_a_stream_is_cut_repeated_and_shuffled_its_pdus_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, seed: int, size: int
) -> None:
    chance = random.Random(seed)
    out, back = conversation(4, 300 // 4 * 4)
    whole = packets(out, back, size, seed)
    mishaps = []
    for packet in whole:
        mishaps.append(packet)
        if chance.random() < 0.2:
            mishaps.append(chance.choice(mishaps))  # a retransmission
    for _ in range(len(mishaps) // 4):
        at = chance.randrange(len(mishaps) - 1)
        mishaps[at], mishaps[at + 1] = mishaps[at + 1], mishaps[at]
    path = tmp_path_factory.mktemp("streams") / "a.pcap"
    rows, scan, _ = scan_bytes(path, made.pcap(handshake() + mishaps))
    by_way = [[row.header[:48] for row in rows if row.flow & 1 == way] for way in (0, 1)]
    assert by_way == [headers(out), headers(back)]
    assert scan.scanner.incomplete == 0
    path.unlink()


def headers(stream: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(stream):
        found.append(stream[at : at + 48])
        at += 48 + (int.from_bytes(stream[at + 5 : at + 8], "big") + 3 & ~3)
    return found


def test_an_overlap_brings_only_what_is_new(tmp_path: Path) -> None:
    out, _ = conversation()
    whole = [
        *handshake(),
        Packet(T0, made.segment(out[:300], CLIENT)),
        Packet(T0, made.segment(b"\xff" * 100 + out[300:], CLIENT + 200)),
    ]
    rows, scan, _ = scan_bytes(tmp_path / "a.pcap", made.pcap(whole))
    assert opcodes(rows) == [3, 1, 1, 1, 1, 1, 1]
    assert scan.scanner.flows[0][0].retransmitted == 100


def test_bytes_that_the_capture_lost_are_remarked_and_the_rest_goes_on(tmp_path: Path) -> None:
    _, back = conversation(60)
    whole = handshake()
    whole += [
        Packet(T0 + n, made.segment(back[n : n + 560], SERVER + n, back=True))
        for n in range(0, len(back), 560)
    ]
    del whole[13]
    whole.append(Packet(T0 + 10**9, made.segment(b"", CLIENT, ack=SERVER + len(back), flags=0x10)))
    rows, scan, _ = scan_bytes(tmp_path / "a.pcap", made.pcap(whole))
    (remark,) = scan.scanner.remarks
    assert remark[2] == "bytes of a connection are missing in the capture"
    assert opcodes(rows).count(0x25) == 59
    cut = [row for row in rows if row.notes & (Note.CUT | Note.AFTER_GAP)]
    assert cut


def test_a_capture_that_begins_in_mid_stream_finds_the_next_header(tmp_path: Path) -> None:
    _out, back = conversation(10)
    whole = [
        Packet(T0 + at, made.segment(back[at : at + 700], SERVER + at, back=True))
        for at in range(100, len(back), 700)
    ]
    rows, _, _ = scan_bytes(tmp_path / "a.pcap", made.pcap(whole))
    assert opcodes(rows) == [0x25] * 9
    assert rows[0].notes & Note.AFTER_GAP


@pytest.mark.parametrize(("header", "data"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("from_login", [True, False])
def test_digests_are_known_from_the_login_or_found_out(
    tmp_path: Path, header: bool, data: bool, from_login: bool
) -> None:
    keys = {"HeaderDigest": "CRC32C" if header else "None", "DataDigest": "CRC32C" if data else "None"}
    request, answer = made.login(keys)

    def wrap(pdu: bytes) -> bytes:
        head, rest = pdu[:48], pdu[48:]
        return head + (digest(head) if header else b"") + rest + (digest(rest) if data and rest else b"")

    out = b"".join(wrap(made.read_command(n)) for n in range(1, 20))
    back = b"".join(
        wrap(made.response(n) if n % 3 == 0 else made.read_answer(n, bytes(512))) for n in range(1, 20)
    )
    if from_login:
        first = [
            Packet(T0, made.segment(request, CLIENT)),
            Packet(T0, made.segment(answer, SERVER, back=True)),
        ]
        start = (CLIENT + len(request), SERVER + len(answer))
    else:
        first, start = [], (CLIENT, SERVER)
    whole = [
        *first,
        Packet(T0 + 1, made.segment(out, start[0])),
        Packet(T0 + 2, made.segment(back, start[1], back=True)),
    ]
    rows, _, _ = scan_bytes(tmp_path / "a.pcap", made.pcap(whole))
    assert opcodes(rows)[2 if from_login else 0 :] == [0x01] * 19 + [
        0x21 if n % 3 == 0 else 0x25 for n in range(1, 20)
    ]


def test_iscsi_is_recognised_on_any_port_and_only_where_it_is_said_to_be(tmp_path: Path) -> None:
    out, _ = conversation()
    packet = made.ethernet(made.ipv4(made.tcp(out, (51000, 9999), CLIENT), "10.0.0.1", "10.0.0.2"))
    data = made.pcap([Packet(T0, packet)])
    assert opcodes(scan_bytes(tmp_path / "a.pcap", data)[0]) == [3, 1, 1, 1, 1, 1, 1]
    assert opcodes(scan_bytes(tmp_path / "a.pcap", data, ports=[3260])[0]) == []
    assert opcodes(scan_bytes(tmp_path / "a.pcap", data, ports=[9999])[0]) == [3, 1, 1, 1, 1, 1, 1]


def test_other_traffic_is_not_taken_for_iscsi(tmp_path: Path) -> None:
    chance = random.Random(3)
    whole = [
        Packet(
            T0 + n,
            made.ethernet(
                made.ipv4(made.tcp(chance.randbytes(1400), (443, 50000), n * 1400), "10.0.0.1", "10.0.0.2")
            ),
        )
        for n in range(200)
    ]
    assert scan_bytes(tmp_path / "a.pcap", made.pcap(whole))[0] == []


def test_a_snap_length_costs_the_headers_beyond_it_and_no_more(tmp_path: Path) -> None:
    out, back = conversation(8)
    whole = handshake() + packets(out, back[:136])
    at = 136
    for pdu in headers(back)[1:]:
        full = made.segment(pdu + bytes(512), SERVER + at, back=True)
        whole.append(Packet(T0 + at, full[:128], len(full)))
        at += 560
    rows, scan, _ = scan_bytes(tmp_path / "a.pcap", made.pcap(whole))
    assert opcodes(rows).count(0x25) == 8
    assert all(row.notes & Note.CUT for row in rows if row.header[0] == 0x25)
    assert scan.scanner.cut_packets == 8


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_compressed_captures_are_streamed(
    tmp_path: Path, compress: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.capture.scan.BLOCK_BYTES", 777)
    data = made.section() + made.interface()
    data += b"".join(made.enhanced(p) for p in handshake() + packets(*conversation()))
    rows, scan, _ = scan_bytes(tmp_path / "a.pcapng", compress(data))  # type: ignore[operator]
    assert opcodes(rows) == EXPECTED
    assert scan.scanner.remarks == []
    rows, scan, _ = scan_bytes(tmp_path / "a.pcapng", compress(data)[:-40])  # type: ignore[operator]
    assert scan.scanner.remarks
    assert set(opcodes(rows)) <= set(EXPECTED)


def test_files_of_one_capture_are_read_on(tmp_path: Path) -> None:
    whole = handshake() + packets(*conversation(), 333)
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.pcap")
        third = len(whole) // 3 + 1
        paths[-1].write_bytes(made.pcap(whole[number * third : (number + 1) * third]))
    scan = Scan(paths)
    assert opcodes([row for part in scan.parts() for row in part.rows()]) == EXPECTED
    assert scan.scanner.packet == len(whole)


def test_what_is_no_capture_is_said_to_be_none(tmp_path: Path) -> None:
    for data, words in ((b"", "is empty"), (b"x" * 100, "neither a pcapng nor a pcap")):
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(CaptureError, match=words):
            Scan([tmp_path / "a"]).run()
    with pytest.raises(CaptureError, match="no such file"):
        Scan([tmp_path / "none"]).run()


@pytest.mark.parametrize("kind", ["pcap", "pcapng"])
def test_a_damaged_place_is_remarked_with_packet_and_offset_and_passed_over(
    tmp_path: Path, kind: str
) -> None:
    whole = handshake() + packets(*conversation(), 200)
    if kind == "pcap":
        records = [made.pcap([packet])[24:] for packet in whole]
        head = made.pcap([])
        bad = b"\xff" * 40
    else:
        records = [made.enhanced(packet) for packet in whole]
        head = made.section() + made.interface()
        bad = b"\xff" * 40
    data = head + b"".join(records[:8]) + bad + b"".join(records[8:])
    rows, scan, _ = scan_bytes(tmp_path / "a", data)
    assert opcodes(rows) == EXPECTED
    (remark,) = scan.scanner.remarks
    assert remark[:2] == (8, len(head) + sum(map(len, records[:8])))


def test_a_file_that_ends_inside_a_record_is_read_up_to_there(tmp_path: Path) -> None:
    data = made.pcap(handshake() + packets(*conversation(), 200))
    rows, scan, _ = scan_bytes(tmp_path / "a", data[:-10])
    assert opcodes(rows) == EXPECTED[:-1]
    assert scan.scanner.remarks[0][2] == "the file ends inside a record"


def test_a_table_is_given_in_parts_of_bounded_size(tmp_path: Path) -> None:
    out, _ = conversation(9000, 512)
    whole = packets(out, b"", 60_000)
    rows, _, parts = scan_bytes(tmp_path / "a", made.pcap(whole))
    assert [part.count for part in parts] == [8192, 809]
    assert [part.first for part in parts] == [0, 8192]
    assert len(rows) == 9001


def test_ports_that_are_used_again_are_another_connection(tmp_path: Path) -> None:
    out, back = conversation(2)
    again = [
        Packet(T0 + 10**9, made.segment(b"", 99_000 - 1, flags=0x02)),
        Packet(T0 + 10**9, made.segment(b"", 55_000 - 1, back=True, flags=0x12, ack=99_000)),
        Packet(T0 + 10**9, made.segment(out, 99_000)),
    ]
    rows, scan, _ = scan_bytes(tmp_path / "a", made.pcap(handshake() + packets(out, back) + again))
    assert opcodes(rows) == [3, 1, 1, 0x23, 0x25, 0x25, 3, 1, 1]
    assert [row.flow >> 1 for row in rows] == [0] * 6 + [1] * 3
    assert scan.scanner.flows[0][0].handshake_ns == 3000
