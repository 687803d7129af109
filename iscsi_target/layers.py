# SPDX-License-Identifier: GPL-2.0-or-later
"""scapy layers for iSCSI, derived from the construct descriptions in :mod:`iscsi_target.wire`.

>>> from iscsi_target.layers import *
>>> packet = IP() / TCP() / ISCSINopOut(initiator_task_tag=1, cmd_sn=1, data=b"ping")

Importing this module binds the layers to TCP port 3260; several PDUs in one segment dissect one after the other, and
with ``TCPSession`` PDUs are put together over segments. Digests begin after the login, and only the login says whether
there are any: ``TCPSession`` learns it from the Login Responses it sees. Where it has not seen them, or for single
segments, say so: ``conf.contribs["iscsi"]["header_digest"] = True`` (and ``"data_digest"``), or ``digests=Digests(True,
True)`` for one PDU. Digests left open are computed; ``wrong_digests()`` checks those that were dissected.

This module builds on scapy's classes and has scapy's licence.
"""

from __future__ import annotations

import struct
from typing import Any, ClassVar, NamedTuple

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
from scapy.config import conf
from scapy.fields import (
    BitField,
    ByteField,
    ConditionalField,
    Field,
    IntField,
    LongField,
    ShortField,
    StrFixedLenField,
    StrLenField,
    ThreeBytesField,
    XLEIntField,
)
from scapy.layers.inet import IP, TCP
from scapy.packet import Packet, Padding, Raw, bind_layers

from iscsi_target.wire import requests, responses
from iscsi_target.wire.codec import OPCODE_MASK, Pdu, decode_pdu
from iscsi_target.wire.derive import UnknownConstruct, default_of
from iscsi_target.wire.digest import digest
from iscsi_target.wire.layout import TAIL
from iscsi_target.wire.opcodes import BHS_BYTES, ISCSI_PORT, Stage

__all__ = [
    "IP",
    "ISCSI",
    "ISCSIR2T",
    "TCP",
    "Digests",
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
_LOGIN_OPCODES = (requests.LoginRequest.OPCODE, responses.LoginResponse.OPCODE)
_INTEGERS = {1: ByteField, 2: ShortField, 4: IntField, 8: LongField}


conf.contribs.setdefault("iscsi", {"header_digest": False, "data_digest": False})


class Digests(NamedTuple):
    """Which digests the PDUs of a connection carry after its login (RFC 7143 section 13.1)."""

    header: bool = False
    data: bool = False


def _default_digests() -> Digests:
    given = conf.contribs["iscsi"]
    return Digests(bool(given["header_digest"]), bool(given["data_digest"]))


def _in_login(first: int) -> bool:
    return first & OPCODE_MASK in (requests.LoginRequest.OPCODE, responses.LoginResponse.OPCODE)


_NO_DIGESTS = Digests()


def _whole(data: bytes, digests: Digests = _NO_DIGESTS) -> int | None:
    """Length of the PDU at the start of `data`, None when its header is not complete."""
    if len(data) < BHS_BYTES:
        return None
    length = int.from_bytes(data[5:8], "big")
    total = BHS_BYTES + data[4] * 4 + (length + 3 & ~3)
    if _in_login(data[0]):
        return total
    return total + (4 if digests.header else 0) + (4 if digests.data and length else 0)


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
    def tcp_reassemble(
        cls, data: bytes, _metadata: dict[str, Any] | None = None, session: dict[str, Any] | None = None
    ) -> Packet | None:
        """The whole PDUs at the start of `data`, what follows them as padding (scapy's TCPSession calls this).

        `session` belongs to both directions of a connection: here it keeps what the login agreed on.
        """
        session = {} if session is None else session
        digests: Digests = session.setdefault("iscsi_digests", _default_digests())
        end = 0
        while True:
            size = _whole(data[end:], digests)
            if size is None or end + size > len(data):
                break
            if _learn(data[end : end + size], session):
                end += size
                break  # what comes next may carry digests
            end += size
        if not end:
            return None
        layer = _BY_OPCODE.get(data[0] & OPCODE_MASK)
        packet: Packet = Raw(data[:end]) if layer is None else layer(data[:end], digests=digests)
        if end < len(data):
            packet.lastlayer().add_payload(Padding(data[end:]))
        return packet


def _learn(pdu: bytes, session: dict[str, Any]) -> bool:
    """Note the digests that a login agrees on; True for the response that ends it."""
    if not _in_login(pdu[0]):
        return False
    login = decode_pdu(pdu)
    assert isinstance(login, requests.LoginRequest | responses.LoginResponse)
    agreed: dict[str, str] = session.setdefault("iscsi_login", {})
    for pair in bytes(login.data).split(b"\0"):
        key, _, value = pair.decode("utf-8", "replace").partition("=")
        if key in ("HeaderDigest", "DataDigest"):
            agreed[key] = value  # the answer comes after the offer
    if isinstance(login, responses.LoginResponse) and login.transit and login.nsg == Stage.FULL_FEATURE_PHASE:
        session["iscsi_digests"] = Digests(
            agreed.get("HeaderDigest") == "CRC32C", agreed.get("DataDigest") == "CRC32C"
        )
        agreed.clear()
        return True
    return False


class _Pdu(ISCSI):
    """What the derived layers have in common."""

    __slots__ = ("digests",)
    digests: Digests

    def __init__(self, _pkt: bytes = b"", *, digests: Digests | None = None, **options: Any) -> None:
        if digests is None:
            before = options.get("_underlayer")
            digests = before.digests if isinstance(before, _Pdu) else _default_digests()
        self.digests = digests
        super().__init__(_pkt, **options)

    def copy(self) -> _Pdu:
        """A deep copy."""
        clone = super().copy()
        clone.digests = self.digests
        return clone

    def clone_with(self, *args: Any, **kwargs: Any) -> Any:
        """A copy with another payload."""
        clone = super().clone_with(*args, **kwargs)
        clone.digests = self.digests
        return clone

    def has_header_digest(self) -> bool:
        """Whether this PDU carries a header digest."""
        return self.digests.header and self.opcode_of() not in _LOGIN_OPCODES

    def has_data_digest(self) -> bool:
        """Whether this PDU carries a data digest: one with a data segment."""
        size = self.data_segment_length
        size = len(self.data) if size is None else size
        return self.digests.data and bool(size) and self.opcode_of() not in _LOGIN_OPCODES

    @classmethod
    def opcode_of(cls) -> int:
        """The opcode of this layer."""
        return _OPCODES[cls]

    def wrong_digests(self) -> list[str]:
        """The digests of a dissected PDU that do not fit it: ``header``, ``data``."""
        wrong = []
        head = BHS_BYTES + len(self.ahs)
        header = self.self_build()[:head]
        if self.has_header_digest() and digest(header) != struct.pack("<I", self.header_digest):
            wrong.append("header")
        if self.has_data_digest():
            whole = bytes(self.data) + bytes(self.padding)
            if digest(whole) != struct.pack("<I", self.data_digest):
                wrong.append("data")
        return wrong

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Fill in what was left open: the two lengths, the digests, the padding."""
        if self.total_ahs_length is None:
            pkt = pkt[:4] + bytes((len(self.ahs) // 4,)) + pkt[5:]
        if self.data_segment_length is None:
            pkt = pkt[:5] + len(self.data).to_bytes(3, "big") + pkt[8:]
        head = BHS_BYTES + len(self.ahs)
        if self.has_header_digest() and self.header_digest is None:
            pkt = pkt[:head] + digest(pkt[:head]) + pkt[head + 4 :]
        start = head + (4 if self.has_header_digest() else 0)
        padding = bytes(-len(self.data) % 4) if self.padding is None else bytes(self.padding)
        data = pkt[start : start + len(self.data)] + padding
        if self.has_data_digest():
            padding += digest(data) if self.data_digest is None else struct.pack("<I", self.data_digest)
        return pkt[: start + len(self.data)] + padding + pay

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes | None]:
        """What follows is the next PDU."""
        return s, None

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """The next PDU of the segment."""
        return ISCSI.dispatch_hook(payload)


def _fields(pdu: type[Pdu]) -> list[Any]:
    """scapy's fields for a description. Raises UnknownConstruct for a construct it does not know."""
    fields: list[Any] = []
    for number, part in enumerate(pdu.LAYOUT.subcons):
        if part.name in TAIL:
            break
        fields += _field(pdu, part, f"reserved_{number}")
    fields.append(StrLenField("ahs", b"", length_from=lambda pkt: (pkt.total_ahs_length or 0) * 4))
    fields.append(ConditionalField(XLEIntField("header_digest", None), lambda pkt: pkt.has_header_digest()))
    fields.append(StrLenField("data", b"", length_from=lambda pkt: pkt.data_segment_length or 0))
    fields.append(
        StrLenField(
            "padding",
            None,  # type: ignore[arg-type]  # computed
            length_from=lambda pkt: -(pkt.data_segment_length or 0) % 4,
        )
    )
    fields.append(ConditionalField(XLEIntField("data_digest", None), lambda pkt: pkt.has_data_digest()))
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

_OPCODES = {layer: opcode for opcode, layer in _BY_OPCODE.items()}

bind_layers(TCP, ISCSI, dport=ISCSI_PORT)
bind_layers(TCP, ISCSI, sport=ISCSI_PORT)
