# SPDX-License-Identifier: Apache-2.0
"""PDUs sent by the target: one dataclass and one construct description each (RFC 7143 section 11).

The conventions are those of :mod:`iscsi_target.wire.requests`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from construct import BitsInteger, Bytes, Const, Flag, Int8ub, Int16ub, Int32ub, Padding, Struct

from iscsi_target.wire.layout import flags, response
from iscsi_target.wire.opcodes import RESERVED_TAG, Opcode

_NO_LUN = bytes(8)
_FINAL_ONLY = flags(Const(1, BitsInteger(1)), Padding(7))


@dataclass(frozen=True, slots=True, kw_only=True)
class NopIn:
    """NOP-In, section 11.19: the answer to a ping, or a ping of the target."""

    OPCODE: ClassVar[Opcode] = Opcode.NOP_IN
    LAYOUT: ClassVar[Struct] = response(
        Opcode.NOP_IN,
        _FINAL_ONLY,
        Padding(2),
        "lun" / Bytes(8),
        "initiator_task_tag" / Int32ub,
        "target_transfer_tag" / Int32ub,
        "stat_sn" / Int32ub,
        "exp_cmd_sn" / Int32ub,
        "max_cmd_sn" / Int32ub,
        Padding(12),
    )
    lun: bytes = _NO_LUN
    initiator_task_tag: int = RESERVED_TAG
    target_transfer_tag: int = RESERVED_TAG
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    ahs: bytes = b""
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScsiResponse:
    """SCSI Response, section 11.4. Residual flags: o and u for the read part of a bidirectional command, O and U."""

    OPCODE: ClassVar[Opcode] = Opcode.SCSI_RESPONSE
    LAYOUT: ClassVar[Struct] = response(
        Opcode.SCSI_RESPONSE,
        flags(
            Const(1, BitsInteger(1)),
            Padding(2),
            "bidirectional_read_overflow" / Flag,
            "bidirectional_read_underflow" / Flag,
            "overflow" / Flag,
            "underflow" / Flag,
            Padding(1),
        ),
        "response" / Int8ub,
        "status" / Int8ub,
        Padding(8),
        "initiator_task_tag" / Int32ub,
        "snack_tag" / Int32ub,
        "stat_sn" / Int32ub,
        "exp_cmd_sn" / Int32ub,
        "max_cmd_sn" / Int32ub,
        "exp_data_sn" / Int32ub,
        "bidirectional_read_residual_count" / Int32ub,
        "residual_count" / Int32ub,
    )
    bidirectional_read_overflow: bool = False
    bidirectional_read_underflow: bool = False
    overflow: bool = False
    underflow: bool = False
    response: int = 0
    status: int = 0
    initiator_task_tag: int
    snack_tag: int = 0
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    exp_data_sn: int = 0
    bidirectional_read_residual_count: int = 0
    residual_count: int = 0
    ahs: bytes = b""
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskManagementResponse:
    """Task Management Function Response, section 11.6; RFC 7144 section 5.2."""

    OPCODE: ClassVar[Opcode] = Opcode.TASK_MANAGEMENT_RESPONSE
    LAYOUT: ClassVar[Struct] = response(
        Opcode.TASK_MANAGEMENT_RESPONSE,
        _FINAL_ONLY,
        "response" / Int8ub,
        Padding(1),
        "additional_response_information" / Bytes(3),
        Padding(5),
        "initiator_task_tag" / Int32ub,
        Padding(4),
        "stat_sn" / Int32ub,
        "exp_cmd_sn" / Int32ub,
        "max_cmd_sn" / Int32ub,
        Padding(12),
    )
    response: int
    additional_response_information: bytes = bytes(3)
    initiator_task_tag: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    ahs: bytes = b""
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginResponse:
    """Login Response, section 11.13."""

    OPCODE: ClassVar[Opcode] = Opcode.LOGIN_RESPONSE
    LAYOUT: ClassVar[Struct] = response(
        Opcode.LOGIN_RESPONSE,
        flags(
            "transit" / Flag, "continue_" / Flag, Padding(2), "csg" / BitsInteger(2), "nsg" / BitsInteger(2)
        ),
        "version_max" / Int8ub,
        "version_active" / Int8ub,
        "isid" / Bytes(6),
        "tsih" / Int16ub,
        "initiator_task_tag" / Int32ub,
        Padding(4),
        "stat_sn" / Int32ub,
        "exp_cmd_sn" / Int32ub,
        "max_cmd_sn" / Int32ub,
        "status_class" / Int8ub,
        "status_detail" / Int8ub,
        Padding(10),
    )
    transit: bool = False
    continue_: bool = False
    csg: int = 0
    nsg: int = 0
    version_max: int = 0
    version_active: int = 0
    isid: bytes
    tsih: int = 0
    initiator_task_tag: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    status_class: int = 0
    status_detail: int = 0
    ahs: bytes = b""
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextResponse:
    """Text Response, section 11.11."""

    OPCODE: ClassVar[Opcode] = Opcode.TEXT_RESPONSE
    LAYOUT: ClassVar[Struct] = response(
        Opcode.TEXT_RESPONSE,
        flags("final" / Flag, "continue_" / Flag, Padding(6)),
        Padding(2),
        "lun" / Bytes(8),
        "initiator_task_tag" / Int32ub,
        "target_transfer_tag" / Int32ub,
        "stat_sn" / Int32ub,
        "exp_cmd_sn" / Int32ub,
        "max_cmd_sn" / Int32ub,
        Padding(12),
    )
    final: bool = True
    continue_: bool = False
    lun: bytes = _NO_LUN
    initiator_task_tag: int
    target_transfer_tag: int = RESERVED_TAG
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    ahs: bytes = b""
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataIn:
    """SCSI Data-In, section 11.7. ``stat_sn``, ``status`` and the residual count are valid with ``status_present``
    (the S bit)."""

    OPCODE: ClassVar[Opcode] = Opcode.DATA_IN
    LAYOUT: ClassVar[Struct] = response(
        Opcode.DATA_IN,
        flags(
            "final" / Flag,
            "acknowledge" / Flag,
            Padding(3),
            "overflow" / Flag,
            "underflow" / Flag,
            "status_present" / Flag,
        ),
        Padding(1),
        "status" / Int8ub,
        "lun" / Bytes(8),
        "initiator_task_tag" / Int32ub,
        "target_transfer_tag" / Int32ub,
        "stat_sn" / Int32ub,
        "exp_cmd_sn" / Int32ub,
        "max_cmd_sn" / Int32ub,
        "data_sn" / Int32ub,
        "buffer_offset" / Int32ub,
        "residual_count" / Int32ub,
    )
    final: bool
    acknowledge: bool = False
    overflow: bool = False
    underflow: bool = False
    status_present: bool = False
    status: int = 0
    lun: bytes = _NO_LUN
    initiator_task_tag: int
    target_transfer_tag: int = RESERVED_TAG
    stat_sn: int = 0
    exp_cmd_sn: int
    max_cmd_sn: int
    data_sn: int
    buffer_offset: int
    residual_count: int = 0
    ahs: bytes = b""
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoutResponse:
    """Logout Response, section 11.15. Times in seconds."""

    OPCODE: ClassVar[Opcode] = Opcode.LOGOUT_RESPONSE
    LAYOUT: ClassVar[Struct] = response(
        Opcode.LOGOUT_RESPONSE,
        _FINAL_ONLY,
        "response" / Int8ub,
        Padding(1),
        Padding(8),
        "initiator_task_tag" / Int32ub,
        Padding(4),
        "stat_sn" / Int32ub,
        "exp_cmd_sn" / Int32ub,
        "max_cmd_sn" / Int32ub,
        Padding(4),
        "time2wait" / Int16ub,
        "time2retain" / Int16ub,
        Padding(4),
    )
    response: int
    initiator_task_tag: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    time2wait: int = 0
    time2retain: int = 0
    ahs: bytes = b""
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class R2T:
    """Ready To Transfer, section 11.8; ``stat_sn`` is the next one and is not advanced."""

    OPCODE: ClassVar[Opcode] = Opcode.R2T
    LAYOUT: ClassVar[Struct] = response(
        Opcode.R2T,
        _FINAL_ONLY,
        Padding(2),
        "lun" / Bytes(8),
        "initiator_task_tag" / Int32ub,
        "target_transfer_tag" / Int32ub,
        "stat_sn" / Int32ub,
        "exp_cmd_sn" / Int32ub,
        "max_cmd_sn" / Int32ub,
        "r2t_sn" / Int32ub,
        "buffer_offset" / Int32ub,
        "desired_data_transfer_length" / Int32ub,
    )
    lun: bytes = _NO_LUN
    initiator_task_tag: int
    target_transfer_tag: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    r2t_sn: int
    buffer_offset: int
    desired_data_transfer_length: int
    ahs: bytes = b""
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncMessage:
    """Asynchronous Message, section 11.9."""

    OPCODE: ClassVar[Opcode] = Opcode.ASYNC_MESSAGE
    LAYOUT: ClassVar[Struct] = response(
        Opcode.ASYNC_MESSAGE,
        _FINAL_ONLY,
        Padding(2),
        "lun" / Bytes(8),
        "initiator_task_tag" / Const(RESERVED_TAG, Int32ub),
        Padding(4),
        "stat_sn" / Int32ub,
        "exp_cmd_sn" / Int32ub,
        "max_cmd_sn" / Int32ub,
        "async_event" / Int8ub,
        "async_vcode" / Int8ub,
        "parameter_1" / Int16ub,
        "parameter_2" / Int16ub,
        "parameter_3" / Int16ub,
        Padding(4),
    )
    lun: bytes = _NO_LUN
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    async_event: int
    async_vcode: int = 0
    parameter_1: int = 0
    parameter_2: int = 0
    parameter_3: int = 0
    ahs: bytes = b""
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """Reject, section 11.17; ``data`` is the header of the rejected PDU."""

    OPCODE: ClassVar[Opcode] = Opcode.REJECT
    LAYOUT: ClassVar[Struct] = response(
        Opcode.REJECT,
        _FINAL_ONLY,
        "reason" / Int8ub,
        Padding(1),
        Padding(8),
        "initiator_task_tag" / Const(RESERVED_TAG, Int32ub),
        Padding(4),
        "stat_sn" / Int32ub,
        "exp_cmd_sn" / Int32ub,
        "max_cmd_sn" / Int32ub,
        "data_sn_or_r2t_sn" / Int32ub,
        Padding(8),
    )
    reason: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    data_sn_or_r2t_sn: int = 0
    ahs: bytes = b""
    data: bytes = b""


ResponsePdu = (
    NopIn
    | ScsiResponse
    | TaskManagementResponse
    | LoginResponse
    | TextResponse
    | DataIn
    | LogoutResponse
    | R2T
    | AsyncMessage
    | Reject
)
