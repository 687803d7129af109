# SPDX-License-Identifier: GPL-2.0-or-later
"""scapy layers for Fibre Channel, derived from the construct descriptions in :mod:`fcsim.wire`.

>>> from fcsim.layers import *
>>> header = FC(r_ctl=RCtl.ELS_REQUEST, d_id=WellKnownAddress.F_PORT_CONTROLLER, type_=FcType.ELS)
>>> packet = FCDelimited(sof=SOF.SOFI3, eof=EOF.EOFT) / header / FCFlogi(bb_credit=16)

Importing this module binds `FC` to link type 224, `FCDelimited` (delimiters and CRC; a record of eight bytes or fewer
is ordered sets) to link type 225, `FCoE` and `FIP` to their Ethernet types and `FCIP` to TCP port 3225. Fill bytes,
lengths, counts and CRCs that are left open are computed. A lone LS_ACC or SW_ACC does not say what it answers: the
layers look at its shape, `fcsim.wire.els.decode_els` can be told. This module builds on scapy's classes and has
scapy's licence.
"""

from __future__ import annotations

from typing import Any, ClassVar

from scapy.config import conf
from scapy.fields import ByteEnumField, Field, StrField, StrFixedLenField, XStrFixedLenField, _FieldContainer
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw, bind_layers

from fcsim.layer_fields import (
    Message,
    RecordField,
    as_message,
    as_packet,
    descriptor_layers,
    everything,
    fields_of,
    layer_of,
    message_layers,
)
from fcsim.wire import (
    bls,
    ct,
    els,
    els_login,
    els_notices,
    els_services,
    fcip,
    fcoe,
    fcp,
    fip,
    name_server,
    ordered_sets,
    sw_ils,
    switch_services,
)
from fcsim.wire.codes import DfCtl, FCtl, FcType, RCtl, WellKnownAddress
from fcsim.wire.derive import derive
from fcsim.wire.eight_b_ten_b import POSITIVE, disparity_after_data
from fcsim.wire.els_commands import ElsCommand
from fcsim.wire.frame import (
    CRC_BYTES,
    HEADER_BYTES,
    AssociationHeader,
    EncapsulationHeader,
    FrameHeader,
    InterFabricRoutingHeader,
    NetworkHeader,
    VirtualFabricTaggingHeader,
    crc_bytes,
)
from fcsim.wire.ordered_sets import EOF, ORDERED_SET_BYTES, SOF, eof_word, sof_word
from fcsim.wire.sw_ils import SwCommand

__all__ = [
    "EOF",
    "FC",
    "FCIFR",
    "FCIP",
    "FCVFT",
    "IP",
    "LINKTYPE_FC_2",
    "LINKTYPE_FC_2_WITH_FRAME_DELIMS",
    "SOF",
    "TCP",
    "DfCtl",
    "Dot1Q",
    "ElsCommand",
    "Ether",
    "FCAssociationHeader",
    "FCCt",
    "FCDelimited",
    "FCDeviceHeader16",
    "FCDeviceHeader32",
    "FCDeviceHeader64",
    "FCESPHeader",
    "FCEnc",
    "FCIPSpecialFrame",
    "FCNetworkHeader",
    "FCOrderedSet",
    "FCoE",
    "FCtl",
    "FcType",
    "RCtl",
    "Raw",
    "SwCommand",
    "WellKnownAddress",
    "as_message",
    "as_packet",
]

LINKTYPE_FC_2 = 224
LINKTYPE_FC_2_WITH_FRAME_DELIMS = 225
_PRIMITIVES_BYTES = 8
_WORD = 4
Fields = list[Field[Any, Any] | _FieldContainer]


# --- frames ---


def _move_to_end(header: int, count: int, built: bytes, payload: bytes) -> bytes:
    """Put the `count` bytes that scapy built after the header behind the payload."""
    return built[:header] + payload + built[header : header + count]


def _with_defaults(fields: Fields, **defaults: int) -> Fields:
    for field in fields:
        if isinstance(field, Field) and field.name in defaults:
            field.default = defaults[field.name]
    return fields


class FC(Packet):
    """A frame from its header on: no delimiters, no CRC (link type 224). ``fill`` are the fill bytes."""

    name = "FC"
    fields_desc: ClassVar[Fields] = [
        *_with_defaults(fields_of(FrameHeader), r_ctl=int(RCtl.ELS_REQUEST), type_=int(FcType.ELS)),
        StrField("fill", None),
    ]

    @classmethod
    def dispatch_hook(cls, _pkt: bytes | None = None, *_args: Any, **_kargs: Any) -> type[Packet]:
        """An extended header stands before the frame header and begins with an R_CTL of its own."""
        if _pkt is None:
            return cls
        extended = _EXTENDED.get(_pkt[0]) if _pkt else None
        if extended is not None and len(_pkt) >= derive(extended.PDU).minimum_bytes:
            return extended
        return cls if len(_pkt) >= HEADER_BYTES else Raw

    def do_dissect(self, s: bytes) -> bytes:
        """The fill bytes stand at the end, and are a field here."""
        count = s[11] & FCtl.FILL_BYTES_MASK
        end = max(HEADER_BYTES, len(s) - count)
        super().do_dissect(s[:HEADER_BYTES] + s[end:])
        self.raw_packet_cache = None
        return s[HEADER_BYTES:end]

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Fill the data field up to words, and count the fill bytes in F_CTL."""
        fill = pkt[HEADER_BYTES:]
        if self.fill is None:
            fill = bytes(-len(pay) % _WORD)
            pkt = pkt[:11] + bytes((pkt[11] & ~FCtl.FILL_BYTES_MASK | len(fill),)) + pkt[12:]
        return pkt[:HEADER_BYTES] + pay + fill

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """Optional headers first, then what R_CTL and TYPE say."""
        return _optional(self, int(self.df_ctl)) or _payload(self, payload)


class _Extended(Message):
    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """The frame header, or one more extended header."""
        return FC.dispatch_hook(payload)


FCVFT = layer_of(VirtualFabricTaggingHeader, base=_Extended, name="FCVFT")
FCIFR = layer_of(InterFabricRoutingHeader, base=_Extended, name="FCIFR")
FCEnc = layer_of(EncapsulationHeader, base=_Extended, name="FCEnc")
_EXTENDED = {int(RCtl.VFT_HEADER): FCVFT, int(RCtl.IFR_HEADER): FCIFR, int(RCtl.ENC_HEADER): FCEnc}


class _Optional(Message):
    """An optional header; DF_CTL of the frame says which comes next."""

    BIT: ClassVar[int]

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """The next optional header, or what R_CTL and TYPE say."""
        frame: Packet | None = self
        while frame is not None and not isinstance(frame, FC):
            frame = frame.underlayer
        if frame is None:
            return Raw
        return _optional(frame, int(frame.df_ctl) & (self.BIT - 1)) or _payload(frame, payload)


class FCESPHeader(_Optional):
    """ESP_Header: security parameters index and sequence number (FC-FS, optional headers)."""

    BIT = int(DfCtl.ESP_HEADER)
    name = "FC ESP_Header"
    fields_desc: ClassVar[Fields] = [XStrFixedLenField("esp_header", bytes(8), 8)]


class FCNetworkHeader(_Optional):
    """Network_Header, 16 bytes (FC-FS, optional headers)."""

    BIT = int(DfCtl.NETWORK_HEADER)
    name = "FC Network_Header"
    fields_desc: ClassVar[Fields] = fields_of(NetworkHeader)


class FCAssociationHeader(_Optional):
    """Association_Header, 32 bytes (FC-FS, optional headers)."""

    BIT = int(DfCtl.ASSOCIATION_HEADER)
    name = "FC Association_Header"
    fields_desc: ClassVar[Fields] = fields_of(AssociationHeader)


def _device_header(size: int) -> type[Packet]:
    return type(
        f"FCDeviceHeader{size}",
        (_Optional,),
        {
            "BIT": 1,
            "name": "FC Device_Header",
            "fields_desc": [XStrFixedLenField("device_header", bytes(size), size)],
            "__doc__": f"Device_Header of {size} bytes (FC-FS, optional headers).",
            "__module__": __name__,
        },
    )


FCDeviceHeader16, FCDeviceHeader32, FCDeviceHeader64 = map(_device_header, (16, 32, 64))
_DEVICE = (None, FCDeviceHeader16, FCDeviceHeader32, FCDeviceHeader64)


def _optional(frame: Packet, df_ctl: int) -> type[Packet] | None:
    """The optional header that comes next for the bits of DF_CTL that are left."""
    for layer in (FCESPHeader, FCNetworkHeader, FCAssociationHeader):
        if df_ctl & layer.BIT:
            return layer
    return _DEVICE[df_ctl & DfCtl.DEVICE_HEADER_MASK]


class FCOrderedSet(Packet):
    """An ordered set: a primitive signal or sequence in a record of link type 225 (FC-FS, ordered sets)."""

    name = "FC ordered set"
    fields_desc: ClassVar[Fields] = [XStrFixedLenField("word", ordered_sets.IDLE.encode(), _WORD)]

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """The next ordered set of the record."""
        return FCOrderedSet

    def mysummary(self) -> str:
        """Its name, such as R_RDY or VC_RDY 3."""
        return f"FC {self.primitive}"

    @property
    def primitive(self) -> str:
        """Its name, such as R_RDY or VC_RDY 3."""
        return str(ordered_sets.decode_ordered_set(self.word)) if len(self.word) == _WORD else "?"


class _DelimiterField(XStrFixedLenField):
    """A delimiter: four bytes as they came, or a code of `SOF` or `EOF` to be built."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(name, b"", _WORD)
        default: Any = int(code)  # any2i keeps a code: the form of an end of frame is found when built
        self.default = default

    __slots__ = ()

    def i2m(self, pkt: Packet | None, x: Any) -> bytes:
        if isinstance(x, int):
            return eof_word(x) if self.name == "eof" else sof_word(x)
        return bytes(super().i2m(pkt, x))

    def i2repr(self, pkt: Packet | None, x: Any) -> str:
        word = self.i2m(pkt, x)
        return str(ordered_sets.decode_ordered_set(word)) if len(word) == _WORD else repr(word)

    def i2len(self, pkt: Packet | None, x: Any) -> int:
        return _WORD

    def any2i(self, pkt: Packet | None, x: Any) -> Any:
        return int(x) if isinstance(x, int) else super().any2i(pkt, x)


class FCDelimited(Packet):
    """A frame between its delimiters, with CRC (link type 225).

    ``sof`` and ``eof`` are the four bytes, or a code of `SOF` and `EOF` to be built; ``crc`` None is computed.
    """

    name = "FC delimited"
    fields_desc: ClassVar[Fields] = [
        _DelimiterField("sof", SOF.SOFI3),
        XStrFixedLenField("crc", None, CRC_BYTES),
        _DelimiterField("eof", EOF.EOFT),
    ]

    @classmethod
    def dispatch_hook(cls, _pkt: bytes | None = None, *_args: Any, **_kargs: Any) -> type[Packet]:
        """A record of at most eight bytes is ordered sets."""
        if _pkt and len(_pkt) <= _PRIMITIVES_BYTES and len(_pkt) % ORDERED_SET_BYTES == 0:
            return FCOrderedSet
        return cls if _pkt is None or len(_pkt) >= 3 * _WORD + HEADER_BYTES else Raw

    def pre_dissect(self, s: bytes) -> bytes:
        """CRC and EOF stand at the end, and are fields here."""
        return s[:_WORD] + s[-2 * _WORD :] + s[_WORD : -2 * _WORD]

    def post_dissect(self, s: bytes) -> bytes:
        """What scapy keeps as the bytes it read is in another order than the wire's."""
        self.raw_packet_cache = None
        return s

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Compute the CRC, and the form of the end of frame that the running disparity asks for."""
        crc = crc_bytes(pay) if self.crc is None else pkt[_WORD : 2 * _WORD]
        eof = pkt[2 * _WORD :]
        if isinstance(self.eof, int):
            eof = eof_word(self.eof, disparity_after_data(pay + crc, POSITIVE))
        return pkt[:_WORD] + pay + crc + eof

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """The frame, or an extended header."""
        return FC.dispatch_hook(payload)


# --- encapsulations ---


class FCoE(Packet):
    """Fibre Channel over Ethernet (FC-BB-5). ``crc`` None is computed."""

    name = "FCoE"
    fields_desc: ClassVar[Fields] = [
        *_with_defaults(fields_of(fcoe.FcoeHeader), sof=int(SOF.SOFI3)),
        XStrFixedLenField("crc", None, CRC_BYTES),
        ByteEnumField("eof", int(EOF.EOFT), {int(code): code.name for code in EOF}),
        StrFixedLenField("reserved_end", bytes(3), 3),
    ]

    @classmethod
    def dispatch_hook(cls, _pkt: bytes | None = None, *_args: Any, **_kargs: Any) -> type[Packet]:
        """Fewer bytes than a frame without data are no frame."""
        smallest = fcoe.FCOE_HEADER_BYTES + HEADER_BYTES + 2 * _WORD
        return cls if _pkt is None or len(_pkt) >= smallest else Raw

    def pre_dissect(self, s: bytes) -> bytes:
        """CRC and EOF stand at the end, and are fields here."""
        head = fcoe.FCOE_HEADER_BYTES
        return s[:head] + s[-2 * _WORD :] + s[head : -2 * _WORD]

    def post_dissect(self, s: bytes) -> bytes:
        """What scapy keeps as the bytes it read is in another order than the wire's."""
        self.raw_packet_cache = None
        return s

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Compute the CRC and put the trailer where it belongs."""
        head = fcoe.FCOE_HEADER_BYTES
        if self.crc is None:
            pkt = pkt[:head] + crc_bytes(pay) + pkt[head + CRC_BYTES :]
        return _move_to_end(head, 2 * _WORD, pkt, pay)

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """The frame, or an extended header."""
        return FC.dispatch_hook(payload)


FIP = layer_of(fip.Fip, "FIP", name="FIP")


class _FcipBase(Packet):
    """The encapsulation header and what fills it in."""

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes | None]:
        """What follows is the next encapsulation."""
        return b"", s

    @classmethod
    def tcp_reassemble(cls, data: bytes, *_args: Any, **_kwargs: Any) -> Packet | None:
        """The first encapsulation of the stream once it is whole (scapy's TCPSession calls this)."""
        if len(data) < fcip.FCIP_HEADER_BYTES:
            return None
        size = (int.from_bytes(data[12:14], "big") & 0x3FF) * _WORD
        return None if len(data) < size else FCIP(data)


class FCIP(_FcipBase):
    """A frame in FCIP: encapsulation header, delimiters as codes (RFC 3643). Open lengths and CRCs are computed."""

    name = "FCIP"
    fields_desc: ClassVar[Fields] = [
        *fields_of(fcip.FcipHeader),
        ByteEnumField("sof", int(SOF.SOFI3), {int(code): code.name for code in SOF if code < 0x100}),
        ByteEnumField("eof", int(EOF.EOFT), {int(code): code.name for code in EOF}),
        XStrFixedLenField("fc_crc", None, CRC_BYTES),
    ]

    @classmethod
    def dispatch_hook(cls, _pkt: bytes | None = None, *_args: Any, **_kargs: Any) -> type[Packet]:
        """The special frame has a flag of its own; an encapsulation that is not whole is none."""
        if _pkt is None:
            return cls
        size = (int.from_bytes(_pkt[12:14], "big") & 0x3FF) * _WORD
        if len(_pkt) < max(size, fcip.FCIP_HEADER_BYTES):
            return Raw
        if _pkt[8] & fcip.PFLAG_SPECIAL:
            return FCIPSpecialFrame if size == fcip.SPECIAL_FRAME_BYTES else Raw
        return FCIP if size >= fcip.FCIP_HEADER_BYTES + HEADER_BYTES + 3 * _WORD else Raw

    def do_dissect(self, s: bytes) -> bytes:
        """Take one encapsulation apart."""
        size = (int.from_bytes(s[12:14], "big") & 0x3FF) * _WORD
        head = fcip.FCIP_HEADER_BYTES
        whole = s[:size]
        crc = whole[-2 * _WORD : -_WORD]
        super().do_dissect(whole[:head] + whole[head : head + 1] + whole[-_WORD : 1 - _WORD] + crc)
        self.raw_packet_cache = None
        self._next = s[size:]
        return whole[head + _WORD : -2 * _WORD]

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes | None]:
        """What follows is the next encapsulation."""
        return s, getattr(self, "_next", b"") or None

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Put delimiters and CRC where they belong, and fill in the length."""
        head = fcip.FCIP_HEADER_BYTES
        sof, eof, crc = pkt[head], pkt[head + 1], pkt[head + 2 :]
        crc = crc_bytes(pay) if self.fc_crc is None else crc
        body = _delimiter(sof) + pay + crc + _delimiter(eof)
        return _with_length(pkt[:head], len(body), self.frame_length) + body

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """The frame, or an extended header."""
        return FC.dispatch_hook(payload)


def _delimiter(code: int) -> bytes:
    return bytes((code, code, 0xFF - code, 0xFF - code))


def _with_length(header: bytes, body_bytes: int, given: int | None) -> bytes:
    """The header with its length where the crafter left it zero."""
    if given:
        return header
    word = header[12] << 8 | (len(header) + body_bytes) // _WORD
    return header[:12] + word.to_bytes(2, "big") + (0xFFFF - word).to_bytes(2, "big") + header[16:]


class FCIPSpecialFrame(_FcipBase):
    """FCIP Special Frame (RFC 3821, FSF)."""

    name = "FCIP special frame"
    fields_desc: ClassVar[Fields] = [
        *fields_of(fcip.FcipHeader),
        *fields_of(fcip.FcipSpecialFrame, "FCIP", "unused")[1:],
    ]

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Fill in the length and the flag."""
        head = fcip.FCIP_HEADER_BYTES
        if not self.pflags:
            pkt = pkt[:8] + bytes((fcip.PFLAG_SPECIAL, 0, 0xFF - fcip.PFLAG_SPECIAL, 0xFF)) + pkt[12:]
        return _with_length(pkt[:head], len(pkt) - head, self.frame_length) + pkt[head:] + pay


# --- messages ---

_ELS_KINDS = (*els.REQUESTS.values(), *els.ACCEPTS.values(), els_login.NvmePrli, els_login.NvmePrliAccept)
_SW_KINDS = (*switch_services.SW_REQUESTS.values(), *switch_services.SW_ACCEPTS.values())
_OTHERS = (
    els_services.LsAcc,
    els_services.UnknownEls,
    sw_ils.SwAcc,
    sw_ils.UnknownSwIls,
    bls.BaAcc,
    bls.BaRjt,
    fcp.FcpCmnd,
    fcp.FcpXferRdy,
    fcp.FcpData,
    fcp.FcpRsp,
)
_MESSAGES: dict[type[Any], type[Packet]] = {
    kind: layer_of(kind)
    for kind in (*_ELS_KINDS, *_SW_KINDS, *_OTHERS, *name_server.REQUESTS, *name_server.ACCEPTS.values())
}


class FCCt(Message):
    """CT_IU preamble (FC-GS); the body follows as a layer. ``command_code`` zero follows from that layer."""

    PDU = ct.CtPreamble
    name = "FC CT"
    fields_desc: ClassVar[Fields] = fields_of(ct.CtPreamble)

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """The body of a name server request."""
        if (self.gs_type, self.gs_subtype) != (ct.GsType.DIRECTORY_SERVICE, ct.GsSubtype.NAME_SERVER):
            return Raw
        kind = _CT_REQUESTS.get(self.command_code)
        return Raw if kind is None else _MESSAGES[kind]

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Fill in the command code of a request."""
        code = getattr(getattr(self.payload, "PDU", None), "COMMAND", None)
        if not self.command_code and code is not None:
            pkt = pkt[:8] + int(code).to_bytes(2, "big") + pkt[10:]
        return pkt + pay


_CT_REQUESTS = {int(kind.COMMAND): kind for kind in name_server.REQUESTS}
_FCP = {
    RCtl.SOLICITED_DATA: fcp.FcpData,
    RCtl.UNSOLICITED_DATA: fcp.FcpData,
    RCtl.DATA_DESCRIPTOR: fcp.FcpXferRdy,
    RCtl.UNSOLICITED_COMMAND: fcp.FcpCmnd,
    RCtl.COMMAND_STATUS: fcp.FcpRsp,
}
_BLS = {RCtl.BA_ACC: bls.BaAcc, RCtl.BA_RJT: bls.BaRjt}
_ELS_R_CTLS = (RCtl.ELS_REQUEST, RCtl.ELS_REPLY, RCtl.FC4_LINK_REQUEST, RCtl.FC4_LINK_REPLY)
_LOGIN_BYTES = 116
_PRLI_PAGE_BYTES = 16


def _payload(frame: Packet, payload: bytes) -> type[Packet]:
    """The layer of a frame's payload, by R_CTL, TYPE and its first bytes."""
    kind: type[Any] | None = None
    if not payload:
        return Raw
    if frame.r_ctl in _BLS and frame.type_ == FcType.BLS:
        kind = _BLS[frame.r_ctl]
    elif frame.type_ in (FcType.ELS, FcType.FCP) and frame.r_ctl in _ELS_R_CTLS:
        kind = _els_kind(frame, payload)
    elif frame.type_ == FcType.FCP:
        kind = _FCP.get(frame.r_ctl)
    elif frame.type_ == FcType.FC_CT:
        return FCCt
    elif frame.type_ == FcType.SW_ILS:
        kind = _sw_kind(payload)
    return Raw if kind is None else _MESSAGES[kind]


def _els_kind(frame: Packet, payload: bytes) -> type[Any]:
    code, page = payload[0], payload[1] if len(payload) > 1 else 0
    if code != ElsCommand.LS_ACC:
        kind = els.REQUESTS.get(code, els_services.UnknownEls)
        return els_login.NvmePrli if kind is els_login.Prli and page == 20 else kind
    length = int.from_bytes(payload[2:4], "big")
    if page in (_PRLI_PAGE_BYTES, 20) and length <= len(payload):
        return els_login.PrliAccept if page == _PRLI_PAGE_BYTES else els_login.NvmePrliAccept
    if payload[8:12] == b"\0\0\0\1" and len(payload) >= 20:
        if payload[16] == ElsCommand.EDC:
            return els_notices.EdcAccept
        if payload[16] == ElsCommand.RDF:
            return els_notices.RdfAccept
    if len(payload) >= _LOGIN_BYTES:
        fabric = frame.s_id == WellKnownAddress.F_PORT_CONTROLLER
        return els_login.FlogiAccept if fabric else els_login.PlogiAccept
    return els_services.LsAcc


def _sw_kind(payload: bytes) -> type[Any]:
    code = payload[0]
    if code != SwCommand.SW_ACC:
        return switch_services.SW_REQUESTS.get(code, sw_ils.UnknownSwIls)
    if len(payload) >= 88 and 84 + int.from_bytes(payload[82:84], "big") == len(payload):
        return sw_ils.ElpAccept
    if payload[1:2] == b"\x10" and int.from_bytes(payload[2:4], "big") == len(payload):
        return sw_ils.EfpAccept
    return sw_ils.SwAcc


for _kind in (fip.EncapsulatedFlogi, fip.EncapsulatedFdisc, fip.EncapsulatedLogo, fip.EncapsulatedElp):
    descriptor_layers()[_kind, "FIP"].fields_desc[-1] = RecordField("frame", None, FC, everything)

_DERIVED = {layer.__name__: layer for layer in (*message_layers().values(), *descriptor_layers().values())}
"""Every derived layer under its name: messages, their parts and descriptors."""
globals().update(_DERIVED)
__all__ += sorted(set(_DERIVED) - set(__all__))

conf.l2types.register(LINKTYPE_FC_2, FC)
conf.l2types.register(LINKTYPE_FC_2_WITH_FRAME_DELIMS, FCDelimited)
for _lower, _key in ((Ether, "type"), (Dot1Q, "type")):
    bind_layers(_lower, FCoE, **{_key: fcoe.FCOE_ETHERTYPE})
    bind_layers(_lower, FIP, **{_key: fip.FIP_ETHERTYPE})
bind_layers(TCP, FCIP, dport=fcip.FCIP_PORT)
bind_layers(TCP, FCIP, sport=fcip.FCIP_PORT)
