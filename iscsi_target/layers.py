# SPDX-License-Identifier: GPL-2.0-or-later
"""scapy layers for iSCSI, derived from the construct descriptions in :mod:`iscsi_target.wire`.

>>> from iscsi_target.layers import *
>>> packet = IP() / TCP() / ISCSINopOut(initiator_task_tag=1, cmd_sn=1, data=b"ping")

Importing this module binds the layers to TCP port 3260; several PDUs in one segment dissect one after the other, and
with ``TCPSession`` PDUs are put together over segments. The layers carry no digests: they begin after the login, and
only the login says whether there are any. This module builds on scapy's classes and has scapy's licence.
"""

from __future__ import annotations

from typing import Any, ClassVar

from construct import (
    BitsInteger,
    Bytes,
    BytesInteger,
    Const,
    Construct,
    Flag,
    FormatField,
    Padded,
    Rebuild,
    Struct,
)
from construct.core import Renamed, Restreamed, Transformed
from scapy.fields import (
    BitField,
    ByteField,
    Field,
    IntField,
    LongField,
    ShortField,
    StrFixedLenField,
    StrLenField,
    ThreeBytesField,
)
from scapy.layers.inet import IP, TCP
from scapy.packet import Packet, Raw, bind_layers

from iscsi_target.wire import requests, responses
from iscsi_target.wire.codec import OPCODE_MASK, Pdu
from iscsi_target.wire.derive import UnknownConstruct, default_of
from iscsi_target.wire.layout import TAIL
from iscsi_target.wire.opcodes import BHS_BYTES, ISCSI_PORT

__all__ = [
    "IP",
    "ISCSI",
    "ISCSIR2T",
    "TCP",
    "ISCSIAsyncMessage",
    "ISCSIDataIn",
    "ISCSIDataOut",
    "ISCSILoginRequest",
    "ISCSILoginResponse",
    "ISCSILogoutRequest",
    "ISCSILogoutResponse",
    "ISCSINopIn",
    "ISCSINopOut",
    "ISCSIReject",
    "ISCSIScsiCommand",
    "ISCSIScsiResponse",
    "ISCSISnackRequest",
    "ISCSITaskManagementRequest",
    "ISCSITaskManagementResponse",
    "ISCSITextRequest",
    "ISCSITextResponse",
]

_LENGTHS = ("total_ahs_length", "data_segment_length")
_INTEGERS = {1: ByteField, 2: ShortField, 4: IntField, 8: LongField}


def _whole(data: bytes) -> int | None:
    """Length of the PDU at the start of `data`, None when its header is not complete."""
    if len(data) < BHS_BYTES:
        return None
    return BHS_BYTES + data[4] * 4 + (int.from_bytes(data[5:8], "big") + 3 & ~3)


class ISCSI(Packet):
    """Any iSCSI PDU: dissection chooses the layer of the opcode."""

    name = "iSCSI"
    fields_desc: ClassVar[list[Any]] = [StrFixedLenField("header", b"", BHS_BYTES)]

    @classmethod
    def dispatch_hook(cls, _pkt: bytes | None = None, *_args: Any, **_kargs: Any) -> type[Packet]:
        """The layer for the first byte of the bytes."""
        if not _pkt:
            return cls
        layer = _BY_OPCODE.get(_pkt[0] & OPCODE_MASK)
        if layer is None or len(_pkt) < (_whole(_pkt) or BHS_BYTES):
            return Raw
        return layer

    @classmethod
    def tcp_reassemble(cls, data: bytes, *_args: Any, **_kwargs: Any) -> Packet | None:
        """The PDUs of `data`, once the last of them is whole (scapy's TCPSession calls this)."""
        end = 0
        while end < len(data):
            size = _whole(data[end:])
            if size is None or end + size > len(data):
                return None
            end += size
        return cls(data)


class _Pdu(ISCSI):
    """What the derived layers have in common."""

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Fill in the two lengths where they were left open, and the padding."""
        if self.total_ahs_length is None:
            pkt = pkt[:4] + bytes((len(self.ahs) // 4,)) + pkt[5:]
        if self.data_segment_length is None:
            pkt = pkt[:5] + len(self.data).to_bytes(3, "big") + pkt[8:]
        return pkt + bytes(-len(pkt) % 4) + pay

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes | None]:
        """What follows is the next PDU."""
        skip = -len(self.data) % 4
        return s[skip:], None

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """The next PDU of the segment."""
        return ISCSI.dispatch_hook(payload)


def _fields(pdu: type[Pdu]) -> list[Field[Any, Any]]:
    """scapy's fields for a description. Raises UnknownConstruct for a construct it does not know."""
    fields: list[Field[Any, Any]] = []
    for number, part in enumerate(pdu.LAYOUT.subcons):
        if part.name in TAIL:
            break
        fields += _field(pdu, part, f"reserved_{number}")
    fields.append(StrLenField("ahs", b"", length_from=lambda pkt: (pkt.total_ahs_length or 0) * 4))
    fields.append(StrLenField("data", b"", length_from=lambda pkt: pkt.data_segment_length or 0))
    return fields


def _field(pdu: type[Pdu], part: Construct, reserved: str) -> list[Field[Any, Any]]:
    name, inner, constant = part.name, part, None
    while isinstance(inner, Renamed):
        inner = inner.subcon
    if isinstance(inner, Const):
        constant, inner = inner.value, inner.subcon
    if isinstance(inner, Rebuild):
        inner = inner.subcon
    default = default_of(pdu, name) if constant is None else constant
    if name in _LENGTHS:
        default = None
    if isinstance(inner, Padded):
        return [StrFixedLenField(reserved, bytes(inner.sizeof()), inner.sizeof())]
    if isinstance(inner, Transformed | Restreamed) and isinstance(inner.subcon, Struct):
        return [_bits(pdu, bit, f"{reserved}_{number}") for number, bit in enumerate(inner.subcon.subcons)]
    if isinstance(inner, Bytes) and isinstance(inner.length, int):
        return [StrFixedLenField(name, default or bytes(inner.length), inner.length)]
    if isinstance(inner, BytesInteger) and inner.length == 3:
        return [ThreeBytesField(name, default)]
    if isinstance(inner, FormatField) and inner.sizeof() in _INTEGERS:
        return [_INTEGERS[inner.sizeof()](name, default if default is not None or name in _LENGTHS else 0)]
    raise UnknownConstruct(f"{pdu.__name__}.{part.name}: cannot derive {inner!r}")


def _bits(pdu: type[Pdu], part: Construct, reserved: str) -> Field[Any, Any]:
    name, inner, constant = part.name, part, None
    while isinstance(inner, Renamed):
        inner = inner.subcon
    if isinstance(inner, Const):
        constant, inner, name = inner.value, inner.subcon, name or reserved.replace("reserved", "fixed")
    if isinstance(inner, Padded):
        return BitField(reserved, 0, inner.sizeof())
    if type(inner) is type(Flag):
        return BitField(name, int(default_of(pdu, name) or 0), 1)
    if isinstance(inner, BitsInteger) and isinstance(inner.length, int):
        default = default_of(pdu, name) if constant is None else constant
        return BitField(name, default or 0, inner.length)
    raise UnknownConstruct(f"{pdu.__name__}.{part.name}: cannot derive {inner!r}")


def _layer(pdu: type[Pdu]) -> type[Packet]:
    short = pdu.__name__.removesuffix("Pdu")
    doc = pdu.__doc__ or ""
    return type(
        f"ISCSI{short}",
        (_Pdu,),
        {"name": f"iSCSI {short}", "fields_desc": _fields(pdu), "__doc__": doc, "__module__": __name__},
    )


ISCSINopOut = _layer(requests.NopOut)
ISCSIScsiCommand = _layer(requests.ScsiCommandPdu)
ISCSITaskManagementRequest = _layer(requests.TaskManagementRequest)
ISCSILoginRequest = _layer(requests.LoginRequest)
ISCSITextRequest = _layer(requests.TextRequest)
ISCSIDataOut = _layer(requests.DataOut)
ISCSILogoutRequest = _layer(requests.LogoutRequest)
ISCSISnackRequest = _layer(requests.SnackRequest)
ISCSINopIn = _layer(responses.NopIn)
ISCSIScsiResponse = _layer(responses.ScsiResponse)
ISCSITaskManagementResponse = _layer(responses.TaskManagementResponse)
ISCSILoginResponse = _layer(responses.LoginResponse)
ISCSITextResponse = _layer(responses.TextResponse)
ISCSIDataIn = _layer(responses.DataIn)
ISCSILogoutResponse = _layer(responses.LogoutResponse)
ISCSIR2T = _layer(responses.R2T)
ISCSIAsyncMessage = _layer(responses.AsyncMessage)
ISCSIReject = _layer(responses.Reject)

_BY_OPCODE: dict[int, type[Packet]] = {
    requests.NopOut.OPCODE: ISCSINopOut,
    requests.ScsiCommandPdu.OPCODE: ISCSIScsiCommand,
    requests.TaskManagementRequest.OPCODE: ISCSITaskManagementRequest,
    requests.LoginRequest.OPCODE: ISCSILoginRequest,
    requests.TextRequest.OPCODE: ISCSITextRequest,
    requests.DataOut.OPCODE: ISCSIDataOut,
    requests.LogoutRequest.OPCODE: ISCSILogoutRequest,
    requests.SnackRequest.OPCODE: ISCSISnackRequest,
    responses.NopIn.OPCODE: ISCSINopIn,
    responses.ScsiResponse.OPCODE: ISCSIScsiResponse,
    responses.TaskManagementResponse.OPCODE: ISCSITaskManagementResponse,
    responses.LoginResponse.OPCODE: ISCSILoginResponse,
    responses.TextResponse.OPCODE: ISCSITextResponse,
    responses.DataIn.OPCODE: ISCSIDataIn,
    responses.LogoutResponse.OPCODE: ISCSILogoutResponse,
    responses.R2T.OPCODE: ISCSIR2T,
    responses.AsyncMessage.OPCODE: ISCSIAsyncMessage,
    responses.Reject.OPCODE: ISCSIReject,
}

bind_layers(TCP, ISCSI, dport=ISCSI_PORT)
bind_layers(TCP, ISCSI, sport=ISCSI_PORT)
