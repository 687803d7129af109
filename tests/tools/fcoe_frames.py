"""Every frame of a capture of FIP and FCoE as we decode it and as tshark does: the same columns, the same spelling."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fcsim.fcoe.ethernet import EthernetHeader, decode_ethernet
from fcsim.wire import fip as f
from fcsim.wire.codes import FcType, RCtl
from fcsim.wire.ct import CtPreamble
from fcsim.wire.derive import derive
from fcsim.wire.fcp import FcpCmnd, FcpRsp, FcpXferRdy, decode_fcp
from fcsim.wire.frame import DelimitedFrame, Frame, decode_frame

#: Our words → tshark's fields; where there are several, the one that it has for this frame.
FIELDS: dict[str, tuple[str, ...]] = {
    "destination": ("eth.dst",),
    "source": ("eth.src",),
    "ethertype": ("eth.type",),
    "version": ("fip.ver",),
    "operation": ("fip.opcode",),
    "subcode": (
        "fip.disc_subcode",
        "fip.ls.subcode",
        "fip.ctrl_subcode",
        "fip.vn2vn_subcode",
        "fip.subcode",
    ),
    "flags": ("fip.flags",),
    "descriptors": ("fip.desc_type",),
    "mac": ("fip.mac",),
    "name": ("fip.name",),
    "fcoe_size": ("fip.fcoe_size",),
    "vn_mac": ("fip.vn.mac",),
    "vn_id": ("fip.vn.fc_id",),
    "vn_name": ("fip.vn.pwwn",),
    "period": ("fip.fka",),
    "priority": ("fip.pri",),
    "fc_map": ("fip.fab.map",),
    "fabric_name": ("fip.fab.name",),
    "sof": ("fcoe.sof",),
    "eof": ("fcoe.eof",),
    "crc_ok": ("fcoe.crc.status",),
    "r_ctl": ("fc.r_ctl",),
    "d_id": ("fc.d_id",),
    "cs_ctl": ("fc.cs_ctl",),
    "s_id": ("fc.s_id",),
    "type": ("fc.type",),
    "f_ctl": ("fc.f_ctl",),
    "seq_id": ("fc.seq_id",),
    "df_ctl": ("fc.df_ctl",),
    "seq_cnt": ("fc.seq_cnt",),
    "ox_id": ("fc.ox_id",),
    "rx_id": ("fc.rx_id",),
    "parameter": ("fc.parameter", "fc.relative_offset"),
    "els": ("fcels.opcode",),
    "ct": ("fcdns.opcode",),
    "task_attribute": ("fcp.taskattr",),
    "task_management": ("fcp.taskmgmt",),
    "rddata": ("fcp.rddata",),
    "wrdata": ("fcp.wrdata",),
    "dl": ("fcp.dl",),
    "cdb": ("scsi_sbc.opcode", "scsi.spc.opcode"),
    "data_ro": ("fcp.data_ro",),
    "burst": ("fcp.burstlen",),
    "status": ("fcp.status",),
    "residual": ("fcp.resid",),
    "sense_bytes": ("fcp.snslen",),
}
Row = dict[str, int | tuple[int, ...]]


def ours(data: bytes) -> Row:
    """What we say of an Ethernet frame."""
    header, inside = decode_ethernet(data)
    row = _ethernet(header)
    if isinstance(inside, DelimitedFrame):
        row |= {"sof": int(inside.sof), "eof": int(inside.eof), "crc_ok": int(inside.crc_ok)}
        return row | _frame(inside.frame)
    return row | _fip(inside)


def _ethernet(header: EthernetHeader) -> Row:
    ends = {"destination": header.destination, "source": header.source}
    return {name: int.from_bytes(mac, "big") for name, mac in ends.items()} | {"ethertype": header.ethertype}


def _fip(fip: f.Fip) -> Row:
    row: Row = {
        "version": fip.version,
        "operation": int(fip.operation),
        "subcode": int(fip.subcode),
        "flags": int(fip.flags),
    }
    kinds = []
    tags: dict[Any, int] = {kind: int(tag) for tag, kind in f.FIP_DESCRIPTORS.items()}
    for one in fip.descriptors:
        kinds.append(one.tag if isinstance(one, f.UnknownFipDescriptor) else tags[type(one)])
        match one:
            case f.MacAddressDescriptor():
                row["mac"] = int.from_bytes(one.mac_address, "big")
            case f.NameIdentifier():
                row["name"] = one.name_identifier
            case f.MaxFcoeSize():
                row["fcoe_size"] = one.max_fcoe_size_bytes
            case f.VxPortIdentification():
                row["vn_mac"] = int.from_bytes(one.mac_address, "big")
                row |= {"vn_id": one.address_identifier, "vn_name": one.port_name}
            case f.FkaAdvPeriod():
                row["period"] = one.period
            case f.PriorityDescriptor():
                row["priority"] = one.priority
            case f.FabricDescriptor():
                row |= {"fc_map": one.fc_map, "fabric_name": one.fabric_name}
            case f.EncapsulatedFlogi() | f.EncapsulatedLogo():
                row |= _frame(decode_frame(one.frame))
    row["descriptors"] = tuple(kinds)
    return row


def _frame(frame: Frame) -> Row:
    header = frame.header
    row: Row = {
        name: int(getattr(header, name))
        for name in (
            *("r_ctl", "d_id", "cs_ctl", "s_id", "f_ctl", "seq_id", "df_ctl", "seq_cnt", "ox_id", "rx_id"),
            "parameter",
        )
    }
    row["type"] = int(header.type_)
    if header.type_ == FcType.ELS:
        row["els"] = frame.payload[0]
    elif header.type_ == FcType.FC_CT:
        row["ct"] = derive(CtPreamble).decode_prefix(frame.payload)[0].command_code
    elif header.type_ == FcType.FCP and header.r_ctl != RCtl.SOLICITED_DATA:
        row |= _unit(decode_fcp(header.r_ctl, frame.payload))
    return row


def _unit(unit: Any) -> Row:
    match unit:
        case FcpCmnd():
            return {
                "task_attribute": unit.task_attribute,
                "task_management": int(unit.task_management),
                "rddata": int(unit.rddata),
                "wrdata": int(unit.wrdata),
                "dl": unit.fcp_dl,
                "cdb": unit.cdb[0],
            }
        case FcpXferRdy():
            return {"data_ro": unit.data_ro, "burst": unit.burst_len}
        case FcpRsp():
            row: Row = {"status": unit.scsi_status}
            residual = unit.residual_overrun or unit.residual_underrun
            # tshark shows the field, whatever it says, unless the response is the shortest there is
            if residual or unit.sense_length_valid or unit.response_length_valid:
                row["residual"] = unit.residual
            if unit.sense_length_valid:
                row["sense_bytes"] = len(unit.sense)
            return row
    return {}


def tsharks(path: Path) -> Iterator[tuple[Row, str]]:
    """What tshark says of each frame of a capture, and of what is malformed in it."""
    names = [name for several in FIELDS.values() for name in several]
    owners = [name for name, several in FIELDS.items() for _ in several]
    words = [word for name in (*names, "_ws.malformed") for word in ("-e", name)]
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "aggregator=;", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            *values, malformed = line.rstrip("\n").split("\t")
            row: Row = {}
            for ours_name, text in zip(owners, values, strict=True):
                if text and ours_name not in row:
                    numbers = _numbers(text)
                    row[ours_name] = numbers if ours_name == "descriptors" else numbers[-1]
            yield row, malformed
    assert process.returncode == 0


@functools.lru_cache(maxsize=1 << 16)
def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_number(one) for one in text.split(";"))


def _number(text: str) -> int:
    if ":" in text or text.count(".") == 2:
        return int(text.replace(":", "").replace(".", ""), 16)
    return int(text, 0)


def differences(mine: Row, theirs: Row) -> dict[str, tuple[Any, Any]]:
    """Where the two do not say the same: ours, tshark's. Of the command of a link service only where tshark has one:
    of RTV, REC and RRQ and their answers it says the name alone."""
    if mine == theirs:
        return {}
    names = mine.keys() | theirs.keys()
    if "els" not in theirs:
        names -= {"els"}
    return {name: (mine.get(name), theirs.get(name)) for name in names if mine.get(name) != theirs.get(name)}
