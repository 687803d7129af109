"""Packets and capture files built by hand for the tests of the readers: every layer as its standard has it."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from iscsi_target.wire.codec import encode_pdu
from iscsi_target.wire.requests import LoginRequest, ScsiCommandPdu
from iscsi_target.wire.responses import DataIn, LoginResponse, ScsiResponse
from iscsi_target.wire.text import encode_text
from tools.capture.rows import Part, Row
from tools.capture.scan import Scan

INITIATOR, TARGET = ("10.0.0.1", 51000), ("10.0.0.2", 3260)
T0 = 1_700_000_000_000_000_000


@dataclass(frozen=True)
class Packet:
    time_ns: int
    data: bytes
    original: int | None = None


def ipv4(
    payload: bytes,
    source: str,
    destination: str,
    *,
    identification: int = 1,
    fragment: int = 0,
    total: int | None = None,
) -> bytes:
    length = 20 + len(payload) if total is None else total
    return (
        struct.pack("!BBHHHBBH", 0x45, 0, length, identification, fragment, 64, 6, 0)
        + ipaddress.IPv4Address(source).packed
        + ipaddress.IPv4Address(destination).packed
        + payload
    )


def ipv6(
    payload: bytes, source: str, destination: str, *, extensions: Sequence[tuple[int, bytes]] = ()
) -> bytes:
    """``extensions``: type of each header and its bytes behind the first (next header)."""
    kinds = [kind for kind, _ in extensions] + [6]
    body = b"".join(bytes((kinds[n + 1],)) + rest for n, (_, rest) in enumerate(extensions)) + payload
    return (
        struct.pack("!IHBB", 6 << 28, len(body), kinds[0], 64)
        + ipaddress.IPv6Address(source).packed
        + ipaddress.IPv6Address(destination).packed
        + body
    )


def tcp(
    payload: bytes,
    ports: tuple[int, int],
    seq: int,
    ack: int = 0,
    flags: int = 0x10,
    options: bytes = b"",
    window: int = 8192,
) -> bytes:
    options += bytes(-len(options) % 4)
    offset = (20 + len(options)) // 4 << 4
    return (
        struct.pack("!HHIIBBHHH", *ports, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, offset, flags, window, 0, 0)
        + options
        + payload
    )


def ethernet(payload: bytes, ethertype: int = 0x0800, tags: Sequence[int] = ()) -> bytes:
    head = bytes.fromhex("020000000002020000000001")
    kinds = [0x88A8 if n + 1 < len(tags) else 0x8100 for n in range(len(tags))]
    head += b"".join(struct.pack("!HH", kind, tag) for kind, tag in zip(kinds, tags, strict=True))
    return head + struct.pack("!H", ethertype) + payload


def link(payload: bytes, link_type: int, *, version: int = 4, tags: Sequence[int] = ()) -> bytes:
    """An IP packet on a link layer."""
    ethertype = 0x0800 if version == 4 else 0x86DD
    match link_type:
        case 1:
            return ethernet(payload, ethertype, tags)
        case 0:
            return struct.pack("<I", 2 if version == 4 else 10) + payload
        case 108:
            return struct.pack(">I", 2 if version == 4 else 24) + payload
        case 113:
            return struct.pack("!HHH8sH", 0, 1, 6, bytes(8), ethertype) + payload
        case 276:
            return struct.pack("!HHIHBB8s", ethertype, 0, 1, 1, 0, 6, bytes(8)) + payload
        case _:
            return payload


def segment(
    payload: bytes, seq: int, *, back: bool = False, flags: int = 0x18, ack: int = 0, **more: int
) -> bytes:
    """An Ethernet frame with a segment from initiator to target, or ``back``."""
    (a, a_port), (b, b_port) = (TARGET, INITIATOR) if back else (INITIATOR, TARGET)
    return ethernet(ipv4(tcp(payload, (a_port, b_port), seq, ack, flags, **more), a, b))  # type: ignore[arg-type]


def pcap(
    packets: Iterable[Packet], *, link_type: int = 1, order: str = "<", nano: bool = True, snap: int = 262144
) -> bytes:
    magic = 0xA1B23C4D if nano else 0xA1B2C3D4
    out = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snap, link_type)]
    for packet in packets:
        seconds, fraction = divmod(packet.time_ns, 10**9)
        fraction //= 1 if nano else 1000
        original = len(packet.data) if packet.original is None else packet.original
        out.append(struct.pack(order + "IIII", seconds, fraction, len(packet.data), original) + packet.data)
    return b"".join(out)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", 12 + len(body))
    return struct.pack(order + "I", kind) + length + body + length


def option(code: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(
    link_type: int = 1, *, resolution: int = 9, offset_s: int = 0, name: str = "", order: str = "<"
) -> bytes:
    options = option(9, bytes((resolution,)), order)
    if offset_s:
        options += option(14, struct.pack(order + "q", offset_s), order)
    if name:
        options += option(2, name.encode(), order)
    return block(1, struct.pack(order + "HHI", link_type, 0, 0) + options + option(0, b"", order), order)


def enhanced(
    packet: Packet, *, number: int = 0, units: int | None = None, order: str = "<", flags: int | None = None
) -> bytes:
    """``units``: the timestamp in the interface's units; else nanoseconds."""
    stamp = packet.time_ns if units is None else units
    original = len(packet.data) if packet.original is None else packet.original
    body = struct.pack(order + "IIIII", number, stamp >> 32, stamp & 0xFFFFFFFF, len(packet.data), original)
    body += packet.data + bytes(-len(packet.data) % 4)
    if flags is not None:
        body += option(2, struct.pack(order + "I", flags), order) + option(0, b"", order)
    return block(6, body, order)


# --- a conversation ---


def login(keys: dict[str, str] | None = None) -> tuple[bytes, bytes]:
    """Login request and response of one step, with keys of the answer."""
    said = {"InitiatorName": "iqn.2026-11.example:host", "TargetName": "iqn.2026-11.example:disk"} | (
        keys or {}
    )
    request = LoginRequest(
        transit=True,
        csg=1,
        nsg=3,
        isid=bytes.fromhex("400001370000"),
        initiator_task_tag=0,
        cmd_sn=1,
        exp_stat_sn=0,
        data=encode_text(said.items()),
    )
    response = LoginResponse(
        transit=True,
        csg=1,
        nsg=3,
        isid=bytes.fromhex("400001370000"),
        tsih=1,
        initiator_task_tag=0,
        stat_sn=1,
        exp_cmd_sn=1,
        max_cmd_sn=32,
        data=encode_text((keys or {}).items()),
    )
    return encode_pdu(request), encode_pdu(response)


def read_command(number: int, length: int = 512) -> bytes:
    cdb = bytes((0x28, 0)) + struct.pack("!I", number) + b"\0" + struct.pack("!H", length // 512) + bytes(7)
    return encode_pdu(
        ScsiCommandPdu(
            read=True,
            initiator_task_tag=number,
            expected_data_transfer_length=length,
            cmd_sn=number,
            exp_stat_sn=number,
            cdb=cdb,
        )
    )


def read_answer(number: int, data: bytes, max_cmd_sn: int | None = None) -> bytes:
    return encode_pdu(
        DataIn(
            final=True,
            status_present=True,
            initiator_task_tag=number,
            stat_sn=number + 1,
            exp_cmd_sn=number + 1,
            max_cmd_sn=number + 32 if max_cmd_sn is None else max_cmd_sn,
            data_sn=0,
            buffer_offset=0,
            data=data,
        )
    )


def response(number: int, status: int = 0, data: bytes = b"") -> bytes:
    return encode_pdu(
        ScsiResponse(
            initiator_task_tag=number,
            stat_sn=number + 1,
            exp_cmd_sn=number + 1,
            max_cmd_sn=number + 32,
            status=status,
            data=data,
        )
    )


def scan_bytes(path: object, data: bytes, **options: object) -> tuple[list[Row], Scan, list[Part]]:
    """Rows of a capture that is written to ``path`` first."""
    path.write_bytes(data)  # type: ignore[attr-defined]
    scan = Scan([path], **options)  # type: ignore[list-item, arg-type]
    parts = list(scan.parts())
    return [row for part in parts for row in part.rows()], scan, parts
