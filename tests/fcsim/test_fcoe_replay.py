"""The Linux kernel's initiator, as it was recorded with another endpoint: our cores answer it the same way.

The vectors are the logins, registrations and logouts of the two recorded conversations (libfc of Linux 6.1 over a
tap); the whole files, with their SCSI commands, are read where SANCREDIT_CAPTURES names their folder.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fcsim.fcoe.ethernet import decode_ethernet
from fcsim.fcoe.fcf import Fcf, FcfConfig
from fcsim.fcoe.vn2vn import Vn2vnConfig, Vn2vnPort
from fcsim.fcp.target import FcpTargetLimits
from fcsim.live.n_port import NPortConfig
from fcsim.port.login import Offer
from fcsim.wire import fip as f
from fcsim.wire.codes import FcType, WellKnownAddress
from fcsim.wire.frame import DelimitedFrame, Frame, decode_frame
from tests.fcsim.test_fcp_exchanges import Disk

ENDPOINT = bytes.fromhex("02fc00000001")
NAMES = NPortConfig(0x2000_02FC_0000_0001, 0x1000_02FC_0000_0001, Offer(16))
FABRIC_NAMES = 0x1000_02FC_00FF_FF01, 0x1000_02FC_00FF_FF02
OUR_MACS = (ENDPOINT, bytes.fromhex("0efd00000101"))
PS_PER_US = 10**6

Row = tuple[int, bool, bytes]
"""Time in microseconds, whether the kernel sent it, and the Ethernet frame."""


def quoted(name: str) -> list[Row]:
    path = Path(__file__).parent.parent / "vectors" / "fc" / "fcoe_conversations.json"
    return [
        (row["time_us"], row["from"] == "kernel", bytes.fromhex(row["hex"]).ljust(row["size"], b"\0"))
        for row in json.loads(path.read_text())[name]
    ]


def whole(name: str) -> list[Row]:
    folder = os.environ.get("SANCREDIT_CAPTURES")
    path = Path(folder or ".") / f"fcoe-linux-{name}.pcap"
    if not folder or not path.exists():
        pytest.skip(f"SANCREDIT_CAPTURES does not name the folder with {path.name}")
    data, rows, offset, began = path.read_bytes(), [], 24, None
    while offset < len(data):
        seconds, micros, size = struct.unpack_from("<III", data, offset)
        packet = data[offset + 16 : offset + 16 + size]
        moment = seconds * 10**6 + micros
        began = moment if began is None else began
        rows.append((moment - began, packet[6:12] not in OUR_MACS, packet))
        offset += 16 + size
    return rows


def core(name: str) -> Fcf | Vn2vnPort:
    if name == "fabric":
        ids = range(0x010101, 0x010200)
        return Fcf(FcfConfig(ENDPOINT, *FABRIC_NAMES, NAMES.port_name, NAMES, n_port_ids=ids), Disk())
    # The recorded endpoint asked for all Data-Out at once, so the kernel's frames hold no pauses.
    whole_bursts = FcpTargetLimits(burst_bytes=16 << 20)
    return Vn2vnPort(Vn2vnConfig(ENDPOINT, NAMES, 0x101, quiet=True), Disk(), limits=whole_bursts)


def replay(rows: list[Row], ours: Fcf | Vn2vnPort) -> tuple[list[bytes], list[bytes]]:
    """What the recorded endpoint sent, and what ours sends when the kernel's frames come at their recorded times."""
    recorded: list[bytes] = []
    sent: list[bytes] = []
    for time_us, from_kernel, data in rows:
        now_ps = time_us * PS_PER_US
        while (deadline := ours.next_deadline()) is not None and deadline <= now_ps:
            ours.handle_timer(deadline)
            sent += ours.frames()
        if from_kernel:
            ours.receive(data, now_ps)
            sent += ours.frames()
        else:
            recorded.append(data)
    return recorded, sent


def bare(frame: Frame) -> Frame:
    """A frame without what each endpoint chooses for itself: SEQ_ID, RX_ID, and in logins the names of its servers."""
    servers = (WellKnownAddress.DIRECTORY_SERVER, WellKnownAddress.F_PORT_CONTROLLER)
    if frame.header.s_id in servers and frame.header.type_ == FcType.ELS and len(frame.payload) > 36:
        frame = replace(frame, payload=frame.payload[:20] + bytes(16) + frame.payload[36:])
    return replace(frame, header=replace(frame.header, seq_id=0, rx_id=0))


def comparable(data: bytes) -> Any:
    """An Ethernet frame as it has to be, whoever answers."""
    header, inside = decode_ethernet(data)
    if isinstance(inside, DelimitedFrame):
        return header, inside.sof, inside.eof, bare(inside.frame), len(data)
    descriptors = tuple(
        bare(decode_frame(one.frame)) if hasattr(one, "frame") else one for one in inside.descriptors
    )
    return header, replace(inside, descriptors=()), descriptors, len(data)


@pytest.mark.parametrize("name", ["fabric", "vn2vn"])
def test_the_kernels_logins_and_logouts_are_answered_as_the_recorded_endpoint_did(name: str) -> None:
    ours = core(name)
    recorded, sent = replay(quoted(name), ours)
    assert len(recorded) >= 8
    # Beacons come by each endpoint's own clock; their kind is compared, their number is not.
    expected, found = ([comparable(data) for data in side] for side in (recorded, sent))
    if name == "vn2vn":
        expected, found = without_later_beacons(expected), without_later_beacons(found)
    assert found == expected
    assert ours.ignored == 0


def without_later_beacons(side: list[Any]) -> list[Any]:
    kept, seen = [], False
    for one in side:
        beacon = (
            isinstance(one[1], f.Fip) and one[1].subcode == f.Vn2vnSubcode.BEACON and one[1].operation == 5
        )
        if not (beacon and seen):
            kept.append(one)
        seen = seen or beacon
    return kept


@pytest.mark.parametrize("name", ["fabric", "vn2vn"])
def test_the_order_of_our_answers_matters_to_this_test(name: str) -> None:
    """The comparison sees a missing answer: without the kernel's PRLI ours is not sent."""
    rows = quoted(name)
    prli = b"\x20\x10"
    numbers = [number for number, row in enumerate(rows) if row[1] and row[2][52:54] == prli]
    assert len(numbers) == 1
    recorded, sent = replay(rows[: numbers[0]] + rows[numbers[0] + 1 :], core(name))
    assert [comparable(data) for data in sent] != [comparable(data) for data in recorded]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "commands"), [("fabric", 26), ("vn2vn", 29)])
def test_the_kernels_whole_conversation_is_answered_exchange_by_exchange(name: str, commands: int) -> None:
    """Another disk answers, so data differ; the kinds of frames per exchange do not: the last frame of every exchange
    is the response, and every command has one."""
    rows = whole(name)
    ours = core(name)
    target = (ours.target if isinstance(ours, Fcf) else ours.n_port).target
    assert target is not None
    target._next_rx_id = 1  # as the recorded endpoint counted: the kernel's Data-Out carries its RX_IDs
    recorded, sent = replay(rows, ours)
    responses = [
        [
            inside.frame.header.ox_id
            for data in side
            if isinstance(inside := decode_ethernet(data)[1], DelimitedFrame)
            and inside.frame.header.r_ctl == 7
        ]
        for side in (recorded, sent)
    ]
    assert responses[0] == responses[1]
    assert len(responses[0]) == commands
    assert ours.ignored == 0
    assert not (ours.target if isinstance(ours, Fcf) else ours.n_port).logged_in, (
        "the kernel logged out in the end"
    )
