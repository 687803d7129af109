"""What is in a capture, at a glance: packets, protocols, PDUs by opcode, frames by type, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from iscsi_target.wire.opcodes import Opcode
from tools.capture.scan import Scan
from tools.capture.stream_kernel import Direction

_ISCSI, _FCIP = 1, 2
_NS_PER_S = 1_000_000_000
_TYPES = {
    0x00: "BLS",
    0x01: "ELS",
    0x05: "IP",
    0x08: "FCP",
    0x1B: "FICON",
    0x1C: "FICON",
    0x20: "CT",
    0x22: "SW_ILS",
    0x28: "NVMe",
}


def opcode_name(opcode: int) -> str:
    """``SCSI_COMMAND``, or the number in hex."""
    try:
        return Opcode(opcode).name
    except ValueError:
        return f"{opcode:#04x}"


def type_name(code: int) -> str:
    """The TYPE of a Fibre Channel frame as people say it."""
    known = _TYPES.get(code)
    if known is None:
        from fcsim.wire.codes import FcType

        known = FcType(code).name or f"{code:#04x}"
    return known


def summary_of(scan: Scan) -> dict[str, Any]:
    """The report on a scan that is over."""
    scanner = scan.scanner
    opcodes, types, r_ctls = scanner.counts()
    pairs: Sequence[tuple[Direction, Direction]] = scanner.flows
    iscsi = [pair for pair in pairs if pair[0].protocol == _ISCSI and pair[0].pdus + pair[1].pdus]
    fcip = [pair for pair in pairs if pair[0].protocol == _FCIP]
    fibre = [pair for pair in pairs if pair[0].frames + pair[1].frames]
    protocols: dict[str, Any] = {}
    if iscsi:
        sides = [side for pair in iscsi for side in pair]
        protocols["iscsi"] = {
            "pdus": {f"{opcode:#04x}": count for opcode, count in enumerate(opcodes) if count},
            "names": {f"{opcode:#04x}": opcode_name(opcode) for opcode, count in enumerate(opcodes) if count},
            "connections": len(iscsi),
            "incomplete_pdus": scanner.incomplete,
            "stream_bytes": sum(side.payload for side in sides),
            "retransmitted_bytes": sum(side.retransmitted for side in sides),
            "out_of_order_packets": sum(side.out_of_order for side in sides),
            "lost_by_capture_bytes": sum(side.gap_bytes for side in sides),
        }
    if scanner.frames or scanner.ordered_sets:
        named: dict[str, int] = {}
        for code, count in enumerate(types):
            if count:
                named[type_name(code)] = named.get(type_name(code), 0) + count
        protocols["fc"] = {
            "frames": scanner.frames,
            "frame_bytes": scanner.frame_bytes,
            "types": named,
            "r_ctl": {f"{code:#04x}": count for code, count in enumerate(r_ctls) if count},
            "ordered_sets": scanner.ordered_sets,
            "pairs": len(fibre),
        }
    if fcip:
        protocols["fcip"] = {"connections": len(fcip), "frames": sum(a.pdus + b.pdus for a, b in fcip)}
    if scanner.fips:
        protocols["fip"] = {"pdus": scanner.fips}
    if scanner.tcp_packets:
        protocols["tcp"] = {"packets": scanner.tcp_packets, "ip_fragments": scanner.fragmented}
    duration = max(0, scanner.last_ns - scanner.first_ns)
    return {
        "files": [{"file": name, "first_packet": first} for name, first in scan.sources],
        "packets": scanner.packet,
        "bytes": scanner.bytes,
        "flows": len(iscsi) + len(fibre),
        "protocols": protocols,
        "first_ns": scanner.first_ns or None,
        "duration_ns": duration,
        "throughput_bps": scanner.bytes * 8 * _NS_PER_S // duration if duration else None,
        "cut_packets": scanner.cut_packets,
        "cut_headers": scanner.cut_headers,
        "other_packets": scanner.others,
        "unknown_link_packets": scanner.unknown_links,
        "dropped_by_capture": sum(scanner.reported_drops.values()),
        "remarks": dict(sorted(scanner.remarked.items())),
        "first_remarks": [
            {"packet": packet, "offset": offset, "what": what}
            for packet, offset, what in scanner.remarks[:20]
        ],
    }
