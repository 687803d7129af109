# SPDX-License-Identifier: Apache-2.0
"""PDUs sent by the initiator: one dataclass and one construct description each (RFC 7143 section 11).

Fields carry the standard's names. Integers are unsigned and big-endian on the wire; ``lun`` and ``isid`` stay bytes.
Reserved bits are sent as zero and ignored on receipt (section 11.1). ``ahs`` is the raw additional header
segments, ``data`` the data segment without padding; digests belong to the framing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from construct import BitsInteger, Bytes, Const, Flag, Int8ub, Int16ub, Int32ub, Padding, Struct

from iscsi_target.wire.layout import flags, request
from iscsi_target.wire.opcodes import RESERVED_TAG, Opcode

_NO_LUN = bytes(8)
_FINAL_ONLY = flags(Const(1, BitsInteger(1)), Padding(7))


@dataclass(frozen=True, slots=True, kw_only=True)
class NopOut:
    """NOP-Out, section 11.18: a ping, or the answer to a NOP-In."""

    OPCODE: ClassVar[Opcode] = Opcode.NOP_OUT
    LAYOUT: ClassVar[Struct] = request(
        Opcode.NOP_OUT,
        _FINAL_ONLY,
        Padding(2),
        "lun" / Bytes(8),
        "initiator_task_tag" / Int32ub,
        "target_transfer_tag" / Int32ub,
        "cmd_sn" / Int32ub,
        "exp_stat_sn" / Int32ub,
        Padding(16),
    )
    immediate: bool = False
    lun: bytes = _NO_LUN
    initiator_task_tag: int = RESERVED_TAG
    target_transfer_tag: int = RESERVED_TAG
    cmd_sn: int
    exp_stat_sn: int
    ahs: bytes = b""
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScsiCommandPdu:
    """SCSI Command, section 11.3. ``final``: no unsolicited Data-Out follows. ``attr``: task attribute."""

    OPCODE: ClassVar[Opcode] = Opcode.SCSI_COMMAND
    LAYOUT: ClassVar[Struct] = request(
        Opcode.SCSI_COMMAND,
        flags("final" / Flag, "read" / Flag, "write" / Flag, Padding(2), "attr" / BitsInteger(3)),
        Padding(2),
        "lun" / Bytes(8),
        "initiator_task_tag" / Int32ub,
        "expected_data_transfer_length" / Int32ub,
        "cmd_sn" / Int32ub,
        "exp_stat_sn" / Int32ub,
        "cdb" / Bytes(16),
    )
    immediate: bool = False
    final: bool = True
    read: bool = False
    write: bool = False
    attr: int = 1
    lun: bytes = _NO_LUN
    initiator_task_tag: int
    expected_data_transfer_length: int = 0
    cmd_sn: int
    exp_stat_sn: int
    cdb: bytes
    ahs: bytes = b""
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskManagementRequest:
    """Task Management Function Request, section 11.5; functions 9-12 from RFC 7144 section 5.1."""

    OPCODE: ClassVar[Opcode] = Opcode.TASK_MANAGEMENT_REQUEST
    LAYOUT: ClassVar[Struct] = request(
        Opcode.TASK_MANAGEMENT_REQUEST,
        flags(Const(1, BitsInteger(1)), "function" / BitsInteger(7)),
        Padding(2),
        "lun" / Bytes(8),
        "initiator_task_tag" / Int32ub,
        "referenced_task_tag" / Int32ub,
        "cmd_sn" / Int32ub,
        "exp_stat_sn" / Int32ub,
        "ref_cmd_sn" / Int32ub,
        "exp_data_sn" / Int32ub,
        Padding(8),
    )
    immediate: bool = False
    function: int
    lun: bytes = _NO_LUN
    initiator_task_tag: int
    referenced_task_tag: int = RESERVED_TAG
    cmd_sn: int
    exp_stat_sn: int
    ref_cmd_sn: int = 0
    exp_data_sn: int = 0
    ahs: bytes = b""
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRequest:
    """Login Request, section 11.12. Always immediate."""

    OPCODE: ClassVar[Opcode] = Opcode.LOGIN_REQUEST
    LAYOUT: ClassVar[Struct] = request(
        Opcode.LOGIN_REQUEST,
        flags(
            "transit" / Flag, "continue_" / Flag, Padding(2), "csg" / BitsInteger(2), "nsg" / BitsInteger(2)
        ),
        "version_max" / Int8ub,
        "version_min" / Int8ub,
        "isid" / Bytes(6),
        "tsih" / Int16ub,
        "initiator_task_tag" / Int32ub,
        "cid" / Int16ub,
        Padding(2),
        "cmd_sn" / Int32ub,
        "exp_stat_sn" / Int32ub,
        Padding(16),
    )
    immediate: bool = True
    transit: bool
    continue_: bool = False
    csg: int
    nsg: int = 0
    version_max: int = 0
    version_min: int = 0
    isid: bytes
    tsih: int = 0
    initiator_task_tag: int
    cid: int = 0
    cmd_sn: int
    exp_stat_sn: int = 0
    ahs: bytes = b""
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """Text Request, section 11.10."""

    OPCODE: ClassVar[Opcode] = Opcode.TEXT_REQUEST
    LAYOUT: ClassVar[Struct] = request(
        Opcode.TEXT_REQUEST,
        flags("final" / Flag, "continue_" / Flag, Padding(6)),
        Padding(2),
        "lun" / Bytes(8),
        "initiator_task_tag" / Int32ub,
        "target_transfer_tag" / Int32ub,
        "cmd_sn" / Int32ub,
        "exp_stat_sn" / Int32ub,
        Padding(16),
    )
    immediate: bool = False
    final: bool = True
    continue_: bool = False
    lun: bytes = _NO_LUN
    initiator_task_tag: int
    target_transfer_tag: int = RESERVED_TAG
    cmd_sn: int
    exp_stat_sn: int
    ahs: bytes = b""
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOut:
    """SCSI Data-Out, section 11.7; carries no CmdSN."""

    OPCODE: ClassVar[Opcode] = Opcode.DATA_OUT
    LAYOUT: ClassVar[Struct] = request(
        Opcode.DATA_OUT,
        flags("final" / Flag, Padding(7)),
        Padding(2),
        "lun" / Bytes(8),
        "initiator_task_tag" / Int32ub,
        "target_transfer_tag" / Int32ub,
        Padding(4),
        "exp_stat_sn" / Int32ub,
        Padding(4),
        "data_sn" / Int32ub,
        "buffer_offset" / Int32ub,
        Padding(4),
    )
    immediate: bool = False
    final: bool
    lun: bytes = _NO_LUN
    initiator_task_tag: int
    target_transfer_tag: int = RESERVED_TAG
    exp_stat_sn: int
    data_sn: int
    buffer_offset: int
    ahs: bytes = b""
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoutRequest:
    """Logout Request, section 11.14."""

    OPCODE: ClassVar[Opcode] = Opcode.LOGOUT_REQUEST
    LAYOUT: ClassVar[Struct] = request(
        Opcode.LOGOUT_REQUEST,
        flags(Const(1, BitsInteger(1)), "reason" / BitsInteger(7)),
        Padding(2),
        Padding(8),
        "initiator_task_tag" / Int32ub,
        "cid" / Int16ub,
        Padding(2),
        "cmd_sn" / Int32ub,
        "exp_stat_sn" / Int32ub,
        Padding(16),
    )
    immediate: bool = False
    reason: int
    initiator_task_tag: int
    cid: int = 0
    cmd_sn: int
    exp_stat_sn: int
    ahs: bytes = b""
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnackRequest:
    """SNACK Request, section 11.16."""

    OPCODE: ClassVar[Opcode] = Opcode.SNACK_REQUEST
    LAYOUT: ClassVar[Struct] = request(
        Opcode.SNACK_REQUEST,
        flags(Const(1, BitsInteger(1)), Padding(3), "type_" / BitsInteger(4)),
        Padding(2),
        "lun" / Bytes(8),
        "initiator_task_tag" / Int32ub,
        "target_transfer_tag" / Int32ub,
        Padding(4),
        "exp_stat_sn" / Int32ub,
        Padding(8),
        "beg_run" / Int32ub,
        "run_length" / Int32ub,
    )
    immediate: bool = False
    type_: int
    lun: bytes = _NO_LUN
    initiator_task_tag: int
    target_transfer_tag: int = RESERVED_TAG
    exp_stat_sn: int
    beg_run: int
    run_length: int
    ahs: bytes = b""
    data: bytes = b""


RequestPdu = (
    NopOut
    | ScsiCommandPdu
    | TaskManagementRequest
    | LoginRequest
    | TextRequest
    | DataOut
    | LogoutRequest
    | SnackRequest
)
