"""Conversations of one connection for the tests of what is read out of captures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from iscsi_target.wire.codec import encode_pdu
from iscsi_target.wire.requests import DataOut, ScsiCommandPdu
from iscsi_target.wire.responses import R2T
from tests.tools import capture_packets as made
from tests.tools.capture_packets import T0, Packet
from tools.capture.analysis import Analysis, analyse
from tools.capture.rules import Rule

KEYS = {
    "MaxRecvDataSegmentLength": "8192",
    "MaxBurstLength": "16384",
    "FirstBurstLength": "4096",
    "InitialR2T": "Yes",
    "ImmediateData": "No",
    "MaxOutstandingR2T": "1",
}


class Talk:
    """Both directions of one connection, PDU by PDU, one microsecond apart."""

    def __init__(self, keys: dict[str, str] | None = None) -> None:
        self.packets: list[Packet] = []
        self._at = [1000, 7000]
        self._now = T0
        request, answer = made.login(KEYS if keys is None else keys)
        self.out(request)
        self.back(answer)

    def _add(self, pdu: bytes, way: int, after_ns: int) -> None:
        self._now += after_ns
        self.packets.append(Packet(self._now, made.segment(pdu, self._at[way], back=bool(way))))
        self._at[way] += len(pdu)

    def out(self, pdu: bytes, after_ns: int = 1000) -> None:
        self._add(pdu, 0, after_ns)

    def back(self, pdu: bytes, after_ns: int = 1000) -> None:
        self._add(pdu, 1, after_ns)

    def analysis(self, path: Path) -> Analysis:
        path.write_bytes(made.pcap(self.packets))
        return analyse([path])


def write_command(number: int, length: int, data: bytes = b"", **more: Any) -> bytes:
    cdb = bytes((0x2A, 0)) + number.to_bytes(4, "big") + b"\0" + (length // 512).to_bytes(2, "big") + bytes(7)
    values: dict[str, Any] = {
        "write": True,
        "initiator_task_tag": number,
        "expected_data_transfer_length": length,
        "cmd_sn": number,
        "exp_stat_sn": number,
        "cdb": cdb,
        "data": data,
    }
    return encode_pdu(ScsiCommandPdu(**values | more))


def r2t(number: int, offset: int, length: int, r2t_sn: int = 0) -> bytes:
    return encode_pdu(
        R2T(
            initiator_task_tag=number,
            target_transfer_tag=number << 8 | r2t_sn,
            stat_sn=number + 1,
            exp_cmd_sn=number + 1,
            max_cmd_sn=number + 32,
            r2t_sn=r2t_sn,
            buffer_offset=offset,
            desired_data_transfer_length=length,
        )
    )


def data_out(
    number: int, offset: int, data: bytes, data_sn: int = 0, final: bool = True, r2t_sn: int = 0
) -> bytes:
    return encode_pdu(
        DataOut(
            final=final,
            initiator_task_tag=number,
            target_transfer_tag=number << 8 | r2t_sn,
            exp_stat_sn=number,
            data_sn=data_sn,
            buffer_offset=offset,
            data=data,
        )
    )


def broken(analysis: Analysis) -> set[Rule]:
    """The rules that somebody broke."""
    return {one.rule for one in analysis.violations()}
