"""Fibre Channel captures: carriers, credits against the simulation that made them, inference, filters, fuzz, live."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from fcsim.wire.codes import FCtl, FcType, RCtl
from fcsim.wire.fcip import FcipFrame, encode_fcip
from fcsim.wire.fcoe import encode_fcoe
from fcsim.wire.fcp import FcpCmnd, FcpData, FcpRsp, FcpXferRdy, encode_fcp
from fcsim.wire.frame import (
    DelimitedFrame,
    Frame,
    FrameHeader,
    VirtualFabricTaggingHeader,
    encode_delimited,
    encode_frame,
)
from fcsim.wire.ordered_sets import EOF, R_RDY, SOF, vc_rdy
from mgmt.cli.main import make_cli
from tests.tools import capture_packets as made
from tests.tools.capture_packets import T0, Packet, scan_bytes
from tests.twins import plain
from tools.capture.analysis import analyse
from tools.capture.channel_credits import Channels
from tools.capture.fc_credits import CreditWatch, Inferred
from tools.capture.fields import FIELDS, Seen
from tools.capture.filters import DEPTH_LIMIT, FilterError, parse_filter
from tools.capture.flows import flow_rows
from tools.capture.rows import Carrier, RowKind
from tools.capture.scan import CaptureError, Scan
from tools.capture.series import Peaks
from tools.capture.words import Describer

HOST, DISK = 0x010100, 0x010200
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def frame(r_ctl: int, payload: bytes, *, back: bool = False, f_ctl: int = 0, **more: Any) -> Frame:
    d_id, s_id = (HOST, DISK) if back else (DISK, HOST)
    f_ctl |= FCtl.EXCHANGE_RESPONDER if back else 0
    values: dict[str, Any] = {"ox_id": 7, "rx_id": 0xFFFF} | more
    return Frame(
        header=FrameHeader(r_ctl=r_ctl, d_id=d_id, s_id=s_id, type_=FcType.FCP, f_ctl=f_ctl, **values),
        payload=payload,
    )


def write_exchange() -> list[Frame]:
    """FCP_CMND, XFER_RDY, two frames of data, FCP_RSP."""
    cdb = bytes((0x2A, 0, 0, 0, 0, 8, 0, 0, 2, 0)).ljust(16, b"\0")
    offset = FCtl.RELATIVE_OFFSET_PRESENT
    return [
        frame(
            RCtl.UNSOLICITED_COMMAND,
            encode_fcp(FcpCmnd(lun=bytes((0, 3)) + bytes(6), wrdata=True, cdb=cdb, fcp_dl=1024)),
        ),
        frame(RCtl.DATA_DESCRIPTOR, encode_fcp(FcpXferRdy(data_ro=0, burst_len=1024)), back=True),
        frame(
            RCtl.SOLICITED_DATA, encode_fcp(FcpData(data=bytes(512))), f_ctl=offset, parameter=0, seq_cnt=0
        ),
        frame(
            RCtl.SOLICITED_DATA, encode_fcp(FcpData(data=bytes(512))), f_ctl=offset, parameter=512, seq_cnt=1
        ),
        frame(RCtl.COMMAND_STATUS, encode_fcp(FcpRsp(scsi_status=0)), back=True),
    ]


def delimited(one: Frame) -> DelimitedFrame:
    return DelimitedFrame(sof=SOF.SOFI3, frame=one, eof=EOF.EOFT)


CARRIERS: dict[str, tuple[int, Callable[[Frame], bytes]]] = {
    "224": (224, encode_frame),
    "225": (225, lambda one: encode_delimited(delimited(one))),
    "fcoe": (1, lambda one: made.ethernet(encode_fcoe(delimited(one)), 0x8906)),
    "fcoe in a vlan": (1, lambda one: made.ethernet(encode_fcoe(delimited(one)), 0x8906, (7,))),
    "fcoe with its check sequence": (
        1,
        lambda one: made.ethernet(encode_fcoe(delimited(one)) + b"\1\2\3\4", 0x8906),
    ),
}


@pytest.mark.parametrize("name", CARRIERS)
def test_an_exchange_is_the_same_whatever_carries_it(tmp_path: Path, name: str) -> None:
    link_type, wrap = CARRIERS[name]
    times = (0, 3_000, 10_000, 11_000, 20_000)
    packets = [Packet(T0 + at, wrap(one)) for at, one in zip(times, write_exchange(), strict=True)]
    path = tmp_path / "a"
    path.write_bytes(made.pcap(packets, link_type=link_type))
    with analyse([path]) as analysis:
        (found,) = analysis.store.exchanges()
        (row,) = flow_rows(analysis)
    assert (found.ect_ns, found.bytes_out, found.edtl, found.cdb[0]) == (20_000, 1024, 1024, 0x2A)
    assert (found.ready_ns - found.start_ns, found.data_ns - found.ready_ns) == (3_000, 7_000)
    assert (row["initiator"], row["target"], row["lun"]) == ("01.01.00", "01.02.00", "3")
    assert row["violations"] == []


def test_fcip_streams_are_cut_into_frames_however_tcp_cut_them(tmp_path: Path) -> None:
    stream = b"".join(encode_fcip(FcipFrame(delimited=delimited(one))) for one in write_exchange() * 3)
    packets = [
        Packet(
            T0 + at,
            made.ethernet(
                made.ipv4(made.tcp(stream[at : at + 100], (5000, 3225), 1 + at), "10.0.0.1", "10.0.0.2")
            ),
        )
        for at in range(0, len(stream), 100)
    ]
    rows, _, _ = scan_bytes(tmp_path / "a", made.pcap(packets))
    frames = [row for row in rows if row.kind == RowKind.FC]
    assert [row.header[0] for row in frames] == [6, 5, 1, 1, 7] * 3
    assert {row.carrier for row in frames} == {Carrier.FCIP}
    assert frames[0].sof == SOF.SOFI3


def test_extended_and_optional_headers_are_stepped_over(tmp_path: Path) -> None:
    (command, *_) = write_exchange()
    tagged = Frame(
        header=FrameHeader(
            **{name: getattr(command.header, name) for name in command.header.__slots__} | {"df_ctl": 0x40}
        ),
        payload=command.payload,
        extended=(VirtualFabricTaggingHeader(vf_id=42),),
        esp_header=bytes(8),
    )
    path = tmp_path / "a"
    path.write_bytes(made.pcap([Packet(T0, encode_frame(tagged))], link_type=224))
    rows = [row for part in Scan([path]).parts() for row in part.rows()]
    assert rows[0].header[24:26] == bytes((0, 3))  # the LUN
    with analyse([path]) as analysis:
        assert next(iter(analysis.groups)).vsan == 42


def test_ordered_sets_are_rows_of_their_own(tmp_path: Path) -> None:
    records = [R_RDY.encode(), vc_rdy(3).encode() * 2]
    data = made.section() + made.interface(225, name="p")
    data += b"".join(made.enhanced(Packet(T0, one), flags=2) for one in records)
    rows, _, _ = scan_bytes(tmp_path / "a", data)
    assert [row.header[:4] for row in rows] == [R_RDY.encode(), vc_rdy(3).encode(), vc_rdy(3).encode()]
    assert {row.way for row in rows} == {2}
    assert Describer().line(Seen(rows[1], 0, None, "", "")) == "VC_RDY 3"


# --- credits ---


@pytest.mark.parametrize("bb_credit", [4, 16])
def test_credits_in_use_are_those_that_the_simulation_had(tmp_path: Path, bb_credit: int) -> None:
    scenario = (
        (EXAMPLES / "fabric-distance.toml").read_text().replace("bb_credit = 16", f"bb_credit = {bb_credit}")
    )
    (tmp_path / "s.toml").write_text(scenario)
    path = tmp_path / "link.pcapng"
    words = [
        "fc",
        "simulate",
        str(tmp_path / "s.toml"),
        "--pcap",
        str(path),
        "--link",
        "dark-fibre",
        "--primitives",
    ]
    simulated = json.loads(CliRunner().invoke(make_cli(), [*words, "-o", "json"]).stdout)
    port = next(one for one in simulated["ports"] if one["name"] == "main/1")
    (row,) = json.loads(
        CliRunner().invoke(make_cli(), ["capture", "credits", str(path), "-o", "json"]).stdout
    )["fc"]
    assert row["frames"] == port["tx_frames"]
    assert row["outstanding_max"] == row["inferred_credit"] == bb_credit
    assert row["supporting_bursts"] >= 1
    assert 248_000 < row["return_ns"] < 252_000  # recorded at the far end: 50 km back
    assert row["zero_share"] > 0.9
    # 196 for the distance, one more for the frame under way, one for storing it.
    assert row["recommended_credits"] == 198
    assert row["terms"]["credits"]["value"] == 198


def test_credits_are_inferred_from_the_first_hole_of_a_burst() -> None:
    watch = CreditWatch(["a", "b"])
    chance = random.Random(5)
    for credits in (2, 7, 31, 100):
        times, now, loop = [], 0, 400_000
        for _ in range(12):
            now += 3_000_000
            back: list[int] = []
            for number in range(400):
                if number >= credits:
                    now = max(now, back[number - credits])
                times.append(now + chance.randrange(10))
                back.append(now + loop)
                now += 2_500
        side = watch._side(0)
        side.spacing = [(np.array(times, dtype=np.int64), np.full(len(times), 2100, dtype=np.int64))]
        side.spaced = len(times)
        found: Inferred = watch.infer(side)
        assert found.credits == credits
        assert found.bursts >= 8


def test_without_primitives_credits_are_bounded_and_it_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "a"
    packets = [Packet(T0 + n * 1000, encode_frame(one)) for n, one in enumerate(write_exchange())]
    path.write_bytes(made.pcap(packets, link_type=224))
    rows = json.loads(CliRunner().invoke(make_cli(), ["capture", "credits", str(path), "-o", "json"]).stdout)[
        "fc"
    ]
    host = next(row for row in rows if row["port"] == "01.01.00")
    assert (host["outstanding_max"], host["exact"], host["recommended_credits"]) == (2, False, None)
    assert "upper bound" in host["basis"]


def test_peaks_stay_bounded_and_hide_no_peak() -> None:
    peaks = Peaks(8)
    for at in range(0, 10**9, 10**7):
        peaks.add(np.array([at]), np.array([at // 10**7]))
    points = peaks.points()
    assert len(points) <= 8
    assert max(value for _, value in points) == 99


# --- filters ---


def seen_of(tmp_path: Path) -> list[Seen]:
    request, answer = made.login({"HeaderDigest": "None"})
    packets = [
        Packet(T0, made.segment(request + made.read_command(5), 1000)),
        Packet(T0 + 7_000_000, made.segment(answer + made.read_answer(5, bytes(512)), 7000, back=True)),
    ]
    rows, _, parts = scan_bytes(tmp_path / "a", made.pcap(packets))
    return [Seen(row, T0, parts[0].whole(row), "10.0.0.1:51000", "10.0.0.2:3260") for row in rows]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", [0, 1, 2, 3]),
        ("iscsi", [0, 1, 2, 3]),
        ("iscsi.opcode == 0x01", [1]),
        ("iscsi.opcode != 1 && !(iscsi.opcode >= 0x23)", [0]),
        ("iscsi.cmdsn", [0, 1]),
        ("not iscsi.cmdsn and iscsi.datasegmentlength gt 100", [3]),
        ("scsi.lba == 5 or scsi_sbc.opcode == 0x99", [1]),
        ('iscsi.keyvalue contains "HeaderDigest=None"', [0, 2]),
        ("iscsi.keyvalue contains iqn.2026-11.example:host", [0]),
        ("frame.time_relative >= 5ms", [2, 3]),
        ("iscsi.isid == 40:00:01:37:00:00", [0, 2]),
        ("tcp.dstport == 3260 and ip.src == 10.0.0.1", [0, 1, 2, 3]),
        ("scsi.cdb contains 28:00", [1]),
        ("fc.type == 8", []),
        ("((iscsi.scsidata.S))", [3]),
    ],
)
def test_a_filter_passes_what_it_says(tmp_path: Path, text: str, wanted: list[int]) -> None:
    passes = parse_filter(text)
    assert [number for number, seen in enumerate(seen_of(tmp_path)) if passes(seen)] == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("iscsi.opcod == 1", "did you mean iscsi.opcode"),
        ("iscsi.opcode ==", "nothing to compare"),
        ("(iscsi", "is not closed"),
        ("iscsi iscsi", "follows a whole expression"),
        ("and", "a field must be there"),
        ("'", "no field"),
        ("(" * (DEPTH_LIMIT + 5) + "iscsi", "levels of brackets"),
        ("x" * 5000, "at most 4096"),
        ('iscsi == "', "not understood"),
    ],
)
def test_a_filter_that_cannot_be_is_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(FilterError, match=words.replace("(", r"\(")):
        parse_filter(text)


# --- fuzz: nothing that a file holds may crash, hang or fill the memory ---

SECONDS = 20.0
"""Of each fuzz test, or so many rounds, whichever comes first: the same damage in every run. `make soak` takes ten
minutes and other damage each time."""
ROUNDS, FILTERS = 2_000, 1_000_000
KERNELS = ("header", "row", "stream", "frame", "peaks", "packet")


def seeds() -> list[bytes]:
    """Captures of every kind, to be damaged."""
    request, answer = made.login({"HeaderDigest": "None", "MaxBurstLength": "16384"})
    stream = request + b"".join(made.read_command(n) for n in range(1, 9))
    back = answer + b"".join(made.read_answer(n, bytes(300)) for n in range(1, 9))
    tcp = [Packet(T0 + at, made.segment(stream[at : at + 90], 1000 + at)) for at in range(0, len(stream), 90)]
    tcp += [
        Packet(T0 + at, made.segment(back[at : at + 333], 7000 + at, back=True))
        for at in range(0, len(back), 333)
    ]
    fcip = b"".join(encode_fcip(FcipFrame(delimited=delimited(one))) for one in write_exchange())
    ip = made.ethernet(made.ipv4(made.tcp(fcip, (5000, 3225), 1), "10.0.0.1", "10.0.0.2"))
    ng = made.section() + made.interface() + made.interface(225, resolution=6, name="x")
    ng += b"".join(made.enhanced(packet) for packet in tcp)
    ng += b"".join(
        made.enhanced(Packet(T0 // 1000, encode_delimited(delimited(one))), number=1, flags=1)
        for one in write_exchange()
    )
    ng += made.enhanced(Packet(T0 // 1000, R_RDY.encode()), number=1)
    fcoe = [Packet(T0, made.ethernet(encode_fcoe(delimited(one)), 0x8906)) for one in write_exchange()]
    piece = made.tcp(stream, (51000, 3260), 1)
    fragments = [
        Packet(
            T0, made.ethernet(made.ipv4(piece[at : at + 80], "1.2.3.4", "4.3.2.1", fragment=at // 8 | 0x2000))
        )
        for at in range(0, len(piece), 80)
    ]
    return [made.pcap([*tcp, Packet(T0, ip), *fcoe, *fragments]), ng, made.pcap(tcp, order=">", nano=False)]


def damaged(data: bytes, chance: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 3, 10, 100))):
        at = chance.randrange(len(out))
        match chance.randrange(6):
            case 0:
                out[at] ^= 1 << chance.randrange(8)
            case 1:
                out[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                out[at : at + 4] = struct.pack(
                    chance.choice("<>") + "I", chance.choice((0, 2**31 - 1, 2**32 - 1, 2**20))
                )
            case 3:
                del out[at : at + chance.randrange(64)]
            case 4:
                out[at:at] = chance.randbytes(chance.randrange(64))
            case _:
                other = chance.randrange(len(out))
                out[at : at + 40] = out[other : other + 40]
        if not out:
            return data
    return bytes(out)


def read_everything(path: Path) -> None:
    """All that reads: the scan, the matching, the words, the credits."""
    watches: list[CreditWatch] = []

    def watch(scanner: Any) -> CreditWatch:
        watches.append(CreditWatch(scanner.names))
        return watches[0]

    try:
        with analyse([path], watch=watch) as analysis:
            flow_rows(analysis)
            watches[0].rows()
            describer = Describer()
            for part in Scan([path], keep_all=True).parts():
                for row in part.rows():
                    one = Seen(row, 0, part.whole(row), "a:1", "b:2")
                    describer.line(one)
                    list(describer.full(one, 1))
                    for fetch in FIELDS.values():
                        fetch(one)
    except CaptureError:
        return


@pytest.mark.slow
@pytest.mark.parametrize("kind", range(3))
def test_damaged_captures_crash_nothing_and_both_forms_of_the_kernels_agree(
    tmp_path: Path, kind: int
) -> None:
    fuzz_files(tmp_path, kind, seed=1, seconds=SECONDS, limit=ROUNDS)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", range(3))
def test_captures_damaged_for_ten_minutes_crash_nothing(tmp_path: Path, kind: int) -> None:
    fuzz_files(tmp_path, kind, seed=time.time_ns() % 1_000_000_000, seconds=600)


def fuzz_files(tmp_path: Path, kind: int, *, seed: int, seconds: float, limit: float = math.inf) -> None:
    """A failure says the seed and the round, and leaves the damaged capture behind."""
    chance, base, path = random.Random(seed), seeds()[kind], tmp_path / "a"
    end, rounds = time.monotonic() + seconds, 0
    while (time.monotonic() < end or rounds < 20) and rounds < limit:
        rounds += 1
        path.write_bytes(damaged(base, chance))
        try:
            read_everything(path)
            if rounds % 5 == 0:
                both_forms_agree(path.read_bytes())
        except Exception as error:
            error.add_note(f"capture {kind}, seed {seed}, round {rounds}: {path}")
            raise


def both_forms_agree(data: bytes) -> None:
    """The compiled kernels and the plain ones make the same of `data`."""
    names = [f"tools.capture.{name}_kernel" for name in KERNELS]
    twin = plain("tools.capture.scan_kernel", *names)
    found = []
    for kernel in (sys.modules["tools.capture.scan_kernel"], twin):
        scanner = kernel.Scanner((), False)
        scanner.ports = frozenset((3260,))
        scanner.begin()
        at, parts = 0, []
        while at < len(data):
            before = at
            at = scanner.feed(data, at, len(data), 0, True)
            ready = scanner.take()
            parts += ready
            if at == before and not ready:
                break
        scanner.end()
        parts += scanner.take()
        found.append(
            ([bytes(part.octets()) for part in parts], [part.kept for part in parts], scanner.remarks)
        )
    assert found[0] == found[1]


@pytest.mark.slow
def test_arbitrary_filters_are_understood_or_refused(tmp_path: Path) -> None:
    fuzz_filters(tmp_path, seed=1, seconds=SECONDS, limit=FILTERS)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_arbitrary_filters_for_ten_minutes_are_understood_or_refused(tmp_path: Path) -> None:
    fuzz_filters(tmp_path, seed=time.time_ns() % 1_000_000_000, seconds=600)


def fuzz_filters(tmp_path: Path, *, seed: int, seconds: float, limit: float = math.inf) -> None:
    chance = random.Random(seed)
    words = [
        *FIELDS,
        "==",
        "!=",
        "<",
        "contains",
        "and",
        "or",
        "not",
        "(",
        ")",
        "0x1",
        "5ms",
        '"x"',
        "aa:bb",
        "&&",
        "'",
        "=",
        "\\",
    ]
    rows = seen_of(tmp_path)
    end = time.monotonic() + seconds
    refused = understood = 0
    while (time.monotonic() < end and refused + understood < limit) or not (refused and understood):
        text = " ".join(chance.choice(words) for _ in range(chance.randrange(1, 12)))
        try:
            passes = parse_filter(text)
        except FilterError:
            refused += 1
            continue
        understood += 1
        for seen in rows:
            try:
                passes(seen)
            except Exception as error:
                error.add_note(f"filter {text!r}")
                raise


# --- live ---


@pytest.mark.slow
def test_a_live_capture_lists_pdus_writes_files_and_has_no_privileges_left(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("capturing needs root")
    from iscsi_target.running import serve

    tmp_path.chmod(0o777)
    path = tmp_path / "live.pcapng"
    words = ["capture", "summary", "-i", "lo", "--write", str(path), "-o", "json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mgmt.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("sancredit: capturing from lo as ")
        status = Path(f"/proc/{process.pid}/status").read_text()
        capabilities = {
            line.split()[0]: int(line.split()[1], 16)
            for line in status.splitlines()
            if line.startswith("Cap")
        }
        assert capabilities["CapEff:"] == capabilities["CapPrm:"] == 0
        with serve("4MiB") as target:
            target.initiator().read(0) if hasattr(target, "initiator") else _io(target)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    found = json.loads(out)
    assert found["protocols"]["iscsi"]["pdus"]["0x01"] >= 1
    scan = Scan([path])
    scan.run()
    assert scan.scanner.counts()[0][1] >= 1


def _io(target: Any) -> None:
    import asyncio

    from tests.tools.test_capture_exchanges import some_io

    asyncio.run(some_io(target.host, target.port, target.iqn))


def test_both_forms_refuse_a_header_whose_lengths_are_all_ones() -> None:
    """A four-byte number with its highest bit set is no negative one."""
    header = bytes.fromhex("01c10000ffffffff").ljust(48, b"\0")
    twin = plain("tools.capture.header_kernel")
    for kernel in (sys.modules["tools.capture.header_kernel"], twin):
        assert kernel.plausible(header, 0, 1) == 0
    assert twin.plausible(header[:4] + bytes(44), 0, 1) == 2


# --- virtual channels ---


def test_credits_of_virtual_channels_are_those_that_the_simulation_had(tmp_path: Path) -> None:
    """Two flows to two hosts, each on a channel of its own with 5 credits; one of the hosts gets slow."""
    path = tmp_path / "isl.pcapng"
    words = ["fc", "simulate", str(EXAMPLES / "fabric-slow-drain-vc.toml"), "--pcap", str(path)]
    words += ["--link", "west/2", "--primitives", "-o", "json"]
    simulated = json.loads(CliRunner().invoke(make_cli(), words).stdout)
    port = next(one for one in simulated["ports"] if one["name"] == "west/2")
    found = CliRunner().invoke(make_cli(), ["capture", "credits", str(path), "-o", "json"])
    row = next(one for one in json.loads(found.stdout)["fc"] if one["frames"] == port["tx_frames"])
    channels = {str(one["channel"]): one for one in row["virtual_channels"]}
    assert channels.keys() == port["virtual_channels"].keys()
    assert all(one["outstanding_max"] <= port["virtual_channels"][n] for n, one in channels.items())
    assert sum(one["frames"] for one in channels.values()) == row["frames"]
    assert sum(one["readies"] for one in channels.values()) == row["readies"]
    assert [len(one["destinations"]) for one in channels.values()] == [1, 1]
    # The slow host's channel has no credit left nearly all of the time; the other's has.
    ordered = sorted(channels.values(), key=lambda one: one["frames"])
    assert ordered[0]["outstanding_max"] == port["virtual_channels"][str(ordered[0]["channel"])]
    assert ordered[0]["at_max_ns"] > 10_000_000


@pytest.mark.parametrize(
    ("frames", "readies", "known"),
    [
        ([7, 8, -1, -1], [-1, -1, 2, 3], False),  # either way round
        ([7, 8, 7, -1, -1, -1], [-1, -1, -1, 2, 2, 3], True),  # two of one, one of the other
        ([7, -1, 8, -1], [-1, 2, -1, 3], True),  # 3 cannot have been first
        ([7, 8, -1, -1, 9], [-1, -1, 2, 2, -1], True),  # one channel for all
        ([-1, 7], [2, -1], False),  # from before the capture
    ],
)
def test_whose_channel_is_whose_is_said_where_only_one_way_fits(
    frames: list[int], readies: list[int], known: bool
) -> None:
    channels = Channels()
    times = np.arange(len(frames), dtype=np.int64)
    channels.show(times, np.array(frames), np.array(readies))
    rows = channels.rows()
    assert [bool(row["destinations"]) for row in rows] == [known] * len(rows)
    if known:
        assert sum(row["frames"] for row in rows) == sum(one >= 0 for one in frames)
