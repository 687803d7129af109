# SPDX-License-Identifier: Apache-2.0
"""FC-CT, the common transport of the generic services (FC-GS): preamble, accept and reject."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from construct import Int8ub, Int16ub, Int24ub, Padding, Struct

from fcsim.wire import name_server
from fcsim.wire.codes import OpenCode
from fcsim.wire.derive import Buffer, derive
from fcsim.wire.layout import Coded

__all__ = [
    "CT_ACCEPT",
    "CT_PREAMBLE_BYTES",
    "CT_REJECT",
    "CtExplanation",
    "CtMessage",
    "CtPreamble",
    "CtReason",
    "GsSubtype",
    "GsType",
    "decode_ct",
    "encode_ct",
    "request_ct",
]

CT_PREAMBLE_BYTES = 16
CT_REJECT = 0x8001
CT_ACCEPT = 0x8002


class GsType(OpenCode):
    """GS_Type: which service (FC-GS, CT_IU preamble)."""

    EVENT_SERVICE = 0xF4
    KEY_DISTRIBUTION_SERVICE = 0xF7
    ALIAS_SERVICE = 0xF8
    MANAGEMENT_SERVICE = 0xFA
    TIME_SERVICE = 0xFB
    DIRECTORY_SERVICE = 0xFC


class GsSubtype(OpenCode):
    """GS_Subtype of the directory and the management service (FC-GS)."""

    FABRIC_CONFIGURATION_SERVER = 0x01
    NAME_SERVER = 0x02
    FABRIC_ZONE_SERVER = 0x03
    HBA_MANAGEMENT_SERVER = 0x10


class CtReason(OpenCode):
    """Reason codes of a CT reject (FC-GS, CT reject)."""

    INVALID_COMMAND = 0x01
    INVALID_VERSION = 0x02
    LOGICAL_ERROR = 0x03
    INVALID_SIZE = 0x04
    LOGICAL_BUSY = 0x05
    PROTOCOL_ERROR = 0x07
    UNABLE_TO_PERFORM = 0x09
    COMMAND_NOT_SUPPORTED = 0x0B
    SERVER_NOT_AVAILABLE = 0x0D
    VENDOR_SPECIFIC = 0xFF


class CtExplanation(OpenCode):
    """Reason explanations of the name server (FC-GS, name server reject)."""

    NONE = 0x00
    PORT_ID_NOT_REGISTERED = 0x01
    PORT_NAME_NOT_REGISTERED = 0x02
    NODE_NAME_NOT_REGISTERED = 0x03
    CLASS_NOT_REGISTERED = 0x04
    FC4_TYPES_NOT_REGISTERED = 0x07
    SYMBOLIC_PORT_NAME_NOT_REGISTERED = 0x08
    SYMBOLIC_NODE_NAME_NOT_REGISTERED = 0x09
    PORT_TYPE_NOT_REGISTERED = 0x0A
    ACCESS_DENIED = 0x10
    UNACCEPTABLE_PORT_ID = 0x11
    DATABASE_EMPTY = 0x12


@dataclass(frozen=True, slots=True, kw_only=True)
class CtPreamble:
    """CT_IU preamble, 16 bytes (FC-GS). ``max_residual`` in words: the room for the answer, or what is left of it."""

    LAYOUT: ClassVar[Struct] = Struct(
        "revision" / Int8ub,
        "in_id" / Int24ub,
        "gs_type" / Coded(Int8ub, GsType),
        "gs_subtype" / Int8ub,
        "options" / Int8ub,
        Padding(1),
        "command_code" / Int16ub,
        "max_residual" / Int16ub,
        "fragment_id" / Int8ub,
        "reason" / Coded(Int8ub, CtReason),
        "explanation" / Coded(Int8ub, CtExplanation),
        "vendor_specific" / Int8ub,
    )
    revision: int = 1
    in_id: int = 0
    gs_type: int = GsType.DIRECTORY_SERVICE
    gs_subtype: int = GsSubtype.NAME_SERVER
    options: int = 0
    command_code: int
    max_residual: int = 0
    fragment_id: int = 0
    reason: int = 0
    explanation: int = 0
    vendor_specific: int = 0


@dataclass(frozen=True, slots=True)
class CtMessage:
    """A CT_IU: its preamble and its body, a dataclass of :mod:`fcsim.wire.name_server` or plain bytes.

    ``trailing`` is what follows the body: some ports send strings in fields of fixed size.
    """

    preamble: CtPreamble
    body: Any = b""
    trailing: bytes = b""


_REQUESTS: Mapping[int, type[Any]] = {int(kind.COMMAND): kind for kind in name_server.REQUESTS}


def decode_ct(payload: Buffer, answers: int | None = None) -> CtMessage:
    """Decode a CT_IU. `answers` is the command code of the request that a CT accept answers.

    A body of another service than the name server, or of an unknown command, stays bytes.
    Raises :class:`~fcsim.errors.MalformedFrame`.
    """
    preamble, offset = derive(CtPreamble).decode_prefix(payload)
    kind: type[Any] | None = None
    if preamble.gs_type == GsType.DIRECTORY_SERVICE and preamble.gs_subtype == GsSubtype.NAME_SERVER:
        if preamble.command_code == CT_ACCEPT:
            kind = name_server.ACCEPTS.get(answers) if answers is not None else None
        else:
            kind = _REQUESTS.get(preamble.command_code)
    if kind is None:
        return CtMessage(preamble, bytes(payload[offset:]))
    body, offset = derive(kind).decode_prefix(payload, offset)
    return CtMessage(preamble, body, bytes(payload[offset:]))


def encode_ct(message: CtMessage) -> bytes:
    """Encode a CT_IU. Raises ValueError when a field does not fit."""
    body = message.body
    if not isinstance(body, bytes):
        body = derive(type(body)).encode(body)
    return derive(CtPreamble).encode(message.preamble) + body + message.trailing


def request_ct(body: Any, preamble: CtPreamble | None = None) -> CtMessage:
    """A name server request: the command code follows from the class of `body`."""
    if preamble is None:
        return CtMessage(CtPreamble(command_code=body.COMMAND), body)
    return CtMessage(replace(preamble, command_code=body.COMMAND), body)
