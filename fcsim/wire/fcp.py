# SPDX-License-Identifier: Apache-2.0
"""FCP information units: CMND, XFER_RDY, DATA, RSP, CONF (FCP-4)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from construct import (
    Array,
    BitsInteger,
    BitStruct,
    Bytes,
    Flag,
    GreedyBytes,
    Int8ub,
    Int16ub,
    Int32ub,
    Padding,
    Rebuild,
    Struct,
    len_,
    this,
)

from fcsim.errors import MalformedFrame
from fcsim.wire.codes import OpenCode, RCtl
from fcsim.wire.derive import Buffer, derive
from fcsim.wire.layout import Coded

__all__ = [
    "FCP_CMND_BYTES",
    "FcpCmnd",
    "FcpConf",
    "FcpData",
    "FcpIu",
    "FcpRsp",
    "FcpRspCode",
    "FcpXferRdy",
    "TaskAttribute",
    "TaskManagementFlags",
    "decode_fcp",
    "encode_fcp",
]

FCP_CMND_BYTES = 32
"""A command unit with a CDB of at most 16 bytes."""
_RSP_BYTES = 24
_SHORT_RSP_BYTES = 12


class TaskAttribute(OpenCode):
    """Task attributes (FCP-4, FCP_CMND)."""

    SIMPLE = 0
    HEAD_OF_QUEUE = 1
    ORDERED = 2
    ACA = 4


class TaskManagementFlags(enum.IntFlag, boundary=enum.KEEP):
    """Task management flags (FCP-4, FCP_CMND)."""

    CLEAR_ACA = 0x40
    TARGET_RESET = 0x20
    LOGICAL_UNIT_RESET = 0x10
    CLEAR_TASK_SET = 0x04
    ABORT_TASK_SET = 0x02


class FcpRspCode(OpenCode):
    """RSP_CODE in the response information (FCP-4, FCP_RSP)."""

    TASK_MANAGEMENT_COMPLETE = 0
    DATA_LENGTH_INVALID = 1
    COMMAND_FIELDS_INVALID = 2
    DATA_PARAMETER_MISMATCH = 3
    TASK_MANAGEMENT_REJECTED = 4
    TASK_MANAGEMENT_FAILED = 5
    INCORRECT_LOGICAL_UNIT = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class FcpCmnd:
    """FCP_CMND (FCP-4). ``lun`` stays bytes; ``additional_cdb`` is what a CDB has beyond 16 bytes, in words.

    ``bidirectional_read_dl`` has one number when both ``rddata`` and ``wrdata`` are set, else none.
    """

    LAYOUT: ClassVar[Struct] = Struct(
        "lun" / Bytes(8),
        "crn" / Int8ub,
        "priority_and_attribute"
        / BitStruct(
            Padding(1), "priority" / BitsInteger(4), "task_attribute" / Coded(BitsInteger(3), TaskAttribute)
        ),
        "task_management" / Coded(Int8ub, TaskManagementFlags),
        "direction"
        / BitStruct(
            "additional_cdb_words" / Rebuild(BitsInteger(6), len_(this._.additional_cdb) // 4),
            "rddata" / Flag,
            "wrdata" / Flag,
        ),
        "cdb" / Bytes(16),
        "additional_cdb" / Bytes(this.direction.additional_cdb_words * 4),
        "fcp_dl" / Int32ub,
        "bidirectional_read_dl" / Array(this.direction.rddata * this.direction.wrdata, Int32ub),
    )
    lun: bytes = bytes(8)
    crn: int = 0
    priority: int = 0
    task_attribute: int = 0
    task_management: int = 0
    rddata: bool = False
    wrdata: bool = False
    cdb: bytes = bytes(16)
    additional_cdb: bytes = b""
    fcp_dl: int = 0
    bidirectional_read_dl: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FcpXferRdy:
    """FCP_XFER_RDY (FCP-4): the target takes ``burst_len`` bytes from ``data_ro`` on."""

    LAYOUT: ClassVar[Struct] = Struct("data_ro" / Int32ub, "burst_len" / Int32ub, Padding(4))
    data_ro: int
    burst_len: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FcpData:
    """FCP_DATA (FCP-4): its relative offset is the parameter field of the frame header."""

    LAYOUT: ClassVar[Struct] = Struct("data" / GreedyBytes)
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FcpRsp:
    """FCP_RSP (FCP-4). ``response_information`` is 0, 4 or 8 bytes, its fourth the RSP_CODE.

    The lengths on the wire follow from ``sense`` and ``response_information``; the two validity bits are fields.
    """

    LAYOUT: ClassVar[Struct] = Struct(
        Padding(8),
        "retry_delay" / Int16ub,
        "flags"
        / BitStruct(
            "bidirectional" / Flag,
            "bidirectional_read_underrun" / Flag,
            "bidirectional_read_overrun" / Flag,
            "confirmation_requested" / Flag,
            "residual_underrun" / Flag,
            "residual_overrun" / Flag,
            "sense_length_valid" / Flag,
            "response_length_valid" / Flag,
        ),
        "scsi_status" / Int8ub,
        "residual" / Int32ub,
        "sense_length" / Rebuild(Int32ub, len_(this.sense)),
        "response_length" / Rebuild(Int32ub, len_(this.response_information)),
        "response_information" / Bytes(this.response_length),
        "sense" / Bytes(this.sense_length),
        "bidirectional_read_residual" / Array(this.flags.bidirectional * 1, Int32ub),
    )
    retry_delay: int = 0
    bidirectional: bool = False
    bidirectional_read_underrun: bool = False
    bidirectional_read_overrun: bool = False
    confirmation_requested: bool = False
    residual_underrun: bool = False
    residual_overrun: bool = False
    sense_length_valid: bool = False
    response_length_valid: bool = False
    scsi_status: int = 0
    residual: int = 0
    response_information: bytes = b""
    sense: bytes = b""
    bidirectional_read_residual: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FcpConf:
    """FCP_CONF (FCP-4): confirmed completion; it has no payload."""

    LAYOUT: ClassVar[Struct] = Struct()


FcpIu = FcpCmnd | FcpXferRdy | FcpData | FcpRsp | FcpConf
_BY_CATEGORY: dict[int, type[FcpIu]] = {
    RCtl.SOLICITED_DATA: FcpData,
    RCtl.UNSOLICITED_DATA: FcpData,
    RCtl.SOLICITED_CONTROL: FcpConf,
    RCtl.DATA_DESCRIPTOR: FcpXferRdy,
    RCtl.UNSOLICITED_COMMAND: FcpCmnd,
    RCtl.COMMAND_STATUS: FcpRsp,
}


def decode_fcp(r_ctl: int, payload: Buffer) -> FcpIu:
    """Decode an information unit by the R_CTL of its frames. Raises :class:`~fcsim.errors.MalformedFrame`.

    A response of 12 bytes that announces nothing more, as early implementations sent it, is read as if zeros followed.
    """
    kind = _BY_CATEGORY.get(r_ctl)
    if kind is None:
        raise MalformedFrame(f"R_CTL {r_ctl:#04x} is no FCP information unit")
    if kind is FcpRsp and _SHORT_RSP_BYTES <= len(payload) < _RSP_BYTES and not payload[10] & 0x8F:
        payload = bytes(payload).ljust(_RSP_BYTES, b"\0")
    return derive(kind).decode(payload)


def encode_fcp(unit: FcpIu) -> bytes:
    """Encode an information unit. Raises ValueError when a field does not fit."""
    return derive(type(unit)).encode(unit)
