# SPDX-License-Identifier: Apache-2.0
"""The codecs of all PDUs, derived once, and the two functions that convert any PDU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iscsi_target.wire.derive import Codec, MalformedPdu, derive
from iscsi_target.wire.requests import (
    DataOut,
    LoginRequest,
    LogoutRequest,
    NopOut,
    RequestPdu,
    ScsiCommandPdu,
    SnackRequest,
    TaskManagementRequest,
    TextRequest,
)
from iscsi_target.wire.responses import (
    R2T,
    AsyncMessage,
    DataIn,
    LoginResponse,
    LogoutResponse,
    NopIn,
    Reject,
    ResponsePdu,
    ScsiResponse,
    TaskManagementResponse,
    TextResponse,
)

Pdu = RequestPdu | ResponsePdu

REQUESTS: tuple[type[RequestPdu], ...] = (
    NopOut,
    ScsiCommandPdu,
    TaskManagementRequest,
    LoginRequest,
    TextRequest,
    DataOut,
    LogoutRequest,
    SnackRequest,
)
RESPONSES: tuple[type[ResponsePdu], ...] = (
    NopIn,
    ScsiResponse,
    TaskManagementResponse,
    LoginResponse,
    TextResponse,
    DataIn,
    LogoutResponse,
    R2T,
    AsyncMessage,
    Reject,
)

CODECS: Mapping[int, Codec[Any]] = {pdu.OPCODE: derive(pdu) for pdu in (*REQUESTS, *RESPONSES)}
"""Codec by opcode."""

OPCODE_MASK = 0x3F


def decode_pdu(buffer: bytes | memoryview, offset: int = 0) -> Pdu:
    """Decode any PDU without digests. Raises :class:`~iscsi_target.wire.derive.MalformedPdu`."""
    if len(buffer) <= offset:
        raise MalformedPdu("no bytes")
    codec = CODECS.get(buffer[offset] & OPCODE_MASK)
    if codec is None:
        raise MalformedPdu(f"opcode {buffer[offset] & OPCODE_MASK:#04x} is not defined")
    pdu: Pdu = codec.decode(buffer, offset)
    return pdu


def encode_pdu(pdu: Pdu) -> bytes:
    """Encode any PDU without digests. Raises ValueError when a field does not fit."""
    return CODECS[pdu.OPCODE].encode(pdu)
