# SPDX-License-Identifier: Apache-2.0
"""Fibre Channel frames: extended headers, frame header, optional headers, data field, CRC, delimiters (FC-FS).

Three forms of the same frame are read and written here: without delimiters and CRC (link type 224, also inside FIP),
with four-byte delimiters and CRC (link type 225), and the frame content, header to CRC, that FCoE and FCIP carry.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from construct import (
    BitsInteger,
    BitStruct,
    Bytes,
    Const,
    Int8ub,
    Int16ub,
    Int24ub,
    Int32ub,
    Int64ub,
    Padding,
    Struct,
)

from fcsim.errors import MalformedFrame
from fcsim.wire.codes import UNASSIGNED_X_ID, DfCtl, FCtl, FcType, RCtl
from fcsim.wire.derive import Buffer, derive
from fcsim.wire.eight_b_ten_b import POSITIVE, disparity_after_data
from fcsim.wire.layout import Coded, command
from fcsim.wire.ordered_sets import EOF, SOF, eof_from_word, eof_word, sof_from_word, sof_word

__all__ = [
    "CRC_BYTES",
    "HEADER_BYTES",
    "MAX_DATA_FIELD_BYTES",
    "AssociationHeader",
    "DelimitedFrame",
    "EncapsulationHeader",
    "ExtendedHeader",
    "Frame",
    "FrameHeader",
    "InterFabricRoutingHeader",
    "NetworkHeader",
    "VirtualFabricTaggingHeader",
    "crc_bytes",
    "crc_is_right",
    "decode_content",
    "decode_delimited",
    "decode_frame",
    "encode_content",
    "encode_delimited",
    "encode_frame",
]

HEADER_BYTES = 24
CRC_BYTES = 4
MAX_DATA_FIELD_BYTES = 2112
_MAX_EXTENDED_HEADERS = 4
"""More than one of each kind never stands in a frame."""
_DELIMITER_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameHeader:
    """Frame_Header, 24 bytes (FC-FS, frame header). ``parameter`` is the relative offset where F_CTL says so."""

    LAYOUT: ClassVar[Struct] = Struct(
        "r_ctl" / Coded(Int8ub, RCtl),
        "d_id" / Int24ub,
        "cs_ctl" / Int8ub,
        "s_id" / Int24ub,
        "type_" / Coded(Int8ub, FcType),
        "f_ctl" / Coded(Int24ub, FCtl),
        "seq_id" / Int8ub,
        "df_ctl" / Coded(Int8ub, DfCtl),
        "seq_cnt" / Int16ub,
        "ox_id" / Int16ub,
        "rx_id" / Int16ub,
        "parameter" / Int32ub,
    )
    r_ctl: int
    d_id: int
    cs_ctl: int = 0
    s_id: int
    type_: int
    f_ctl: int = 0
    seq_id: int = 0
    df_ctl: int = 0
    seq_cnt: int = 0
    ox_id: int = UNASSIGNED_X_ID
    rx_id: int = UNASSIGNED_X_ID
    parameter: int = 0

    @property
    def from_originator(self) -> bool:
        """True when the sender is the originator of the exchange."""
        return not self.f_ctl & FCtl.EXCHANGE_RESPONDER

    @property
    def fill_bytes(self) -> int:
        """How many bytes at the end of the data field are fill."""
        return self.f_ctl & FCtl.FILL_BYTES_MASK


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualFabricTaggingHeader:
    """VFT_Header, 8 bytes: which virtual fabric (VSAN) the frame belongs to (FC-FS, extended headers)."""

    R_CTL: ClassVar[RCtl] = RCtl.VFT_HEADER
    LAYOUT: ClassVar[Struct] = Struct(
        command(RCtl.VFT_HEADER, Int8ub),
        "word_0"
        / BitStruct(
            "version" / BitsInteger(2),
            "type_" / BitsInteger(4),
            Padding(2),
            "priority" / BitsInteger(3),
            "vf_id" / BitsInteger(12),
            Padding(1),
        ),
        "hop_ct" / Int8ub,
        Padding(3),
    )
    version: int = 0
    type_: int = 0
    priority: int = 0
    vf_id: int
    hop_ct: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InterFabricRoutingHeader:
    """IFR_Header, 8 bytes (FC-IFR). Its fields stay bytes: their positions are not confirmed."""

    R_CTL: ClassVar[RCtl] = RCtl.IFR_HEADER
    LAYOUT: ClassVar[Struct] = Struct(command(RCtl.IFR_HEADER, Int8ub), "routing" / Bytes(7))
    routing: bytes = bytes(7)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncapsulationHeader:
    """Enc_Header, 24 bytes with the fields of a frame header (FC-FS, extended headers)."""

    R_CTL: ClassVar[RCtl] = RCtl.ENC_HEADER
    LAYOUT: ClassVar[Struct] = Struct(
        "r_ctl" / Const(int(RCtl.ENC_HEADER), Int8ub), *FrameHeader.LAYOUT.subcons[1:]
    )
    d_id: int
    cs_ctl: int = 0
    s_id: int
    type_: int = 0
    f_ctl: int = 0
    seq_id: int = 0
    df_ctl: int = 0
    seq_cnt: int = 0
    ox_id: int = UNASSIGNED_X_ID
    rx_id: int = UNASSIGNED_X_ID
    parameter: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkHeader:
    """Network_Header, 16 bytes, for traffic between networks (FC-FS, optional headers)."""

    LAYOUT: ClassVar[Struct] = Struct("destination_name" / Int64ub, "source_name" / Int64ub)
    destination_name: int
    source_name: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationHeader:
    """Association_Header, 32 bytes: validity bits and process associators (FC-FS, optional headers)."""

    LAYOUT: ClassVar[Struct] = Struct(
        "validity" / Int8ub,
        "originator_associator" / Bytes(7),
        Padding(1),
        "responder_associator" / Bytes(7),
        "obsolete" / Bytes(16),
    )
    validity: int = 0
    originator_associator: bytes = bytes(7)
    responder_associator: bytes = bytes(7)
    obsolete: bytes = bytes(16)


ExtendedHeader = VirtualFabricTaggingHeader | InterFabricRoutingHeader | EncapsulationHeader
_EXTENDED: Mapping[int, type[ExtendedHeader]] = {
    RCtl.VFT_HEADER: VirtualFabricTaggingHeader,
    RCtl.IFR_HEADER: InterFabricRoutingHeader,
    RCtl.ENC_HEADER: EncapsulationHeader,
}
_ESP_BYTES = 8
_DEVICE_BYTES = (0, 16, 32, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame without delimiters and CRC.

    ``payload`` has neither optional headers nor fill bytes. ``esp_header`` is SPI and sequence number (8 bytes),
    ``device_header`` 16, 32 or 64 bytes; None or empty where DF_CTL announces none. ``fill`` holds fill bytes that
    are not zero: the standard leaves their value open.
    """

    header: FrameHeader
    payload: bytes = b""
    extended: tuple[ExtendedHeader, ...] = ()
    esp_header: bytes = b""
    network_header: NetworkHeader | None = None
    association_header: AssociationHeader | None = None
    device_header: bytes = b""
    fill: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class DelimitedFrame:
    """A frame between its delimiters. ``crc`` is the four bytes as they came, None to have them computed."""

    sof: int
    frame: Frame
    crc: bytes | None = None
    eof: int
    crc_ok: bool = True


def crc_bytes(content: Buffer) -> bytes:
    """The CRC of headers and data field, in the byte order of FCoE, FCIP and link type 225 (FC-FS, CRC-32)."""
    return zlib.crc32(content).to_bytes(CRC_BYTES, "little")


def encode_frame(frame: Frame) -> bytes:
    """Headers, data field and fill bytes. The fill count and DF_CTL follow from the frame's parts.

    Raises ValueError when a field does not fit or the data field is longer than 2112 bytes.
    """
    df_ctl = 0
    optional: list[bytes] = []
    if frame.esp_header:
        if len(frame.esp_header) != _ESP_BYTES:
            raise ValueError(f"an ESP header is {_ESP_BYTES} bytes, not {len(frame.esp_header)}")
        df_ctl |= DfCtl.ESP_HEADER
        optional.append(frame.esp_header)
    if frame.network_header is not None:
        df_ctl |= DfCtl.NETWORK_HEADER
        optional.append(derive(NetworkHeader).encode(frame.network_header))
    if frame.association_header is not None:
        df_ctl |= DfCtl.ASSOCIATION_HEADER
        optional.append(derive(AssociationHeader).encode(frame.association_header))
    if len(frame.device_header) not in _DEVICE_BYTES:
        raise ValueError(f"a device header is 16, 32 or 64 bytes, not {len(frame.device_header)}")
    df_ctl |= _DEVICE_BYTES.index(len(frame.device_header))
    fill = -len(frame.payload) % 4
    header = frame.header
    f_ctl = header.f_ctl & ~FCtl.FILL_BYTES_MASK | fill
    if f_ctl != header.f_ctl or df_ctl != header.df_ctl:
        header = replace(header, f_ctl=f_ctl, df_ctl=df_ctl)
    data = b"".join(
        (
            *optional,
            frame.device_header,
            frame.payload,
            frame.fill if len(frame.fill) == fill else bytes(fill),
        )
    )
    if len(data) > MAX_DATA_FIELD_BYTES:
        raise ValueError(f"a data field is at most {MAX_DATA_FIELD_BYTES} bytes, not {len(data)}")
    extended = b"".join(derive(type(extra)).encode(extra) for extra in frame.extended)
    return extended + derive(FrameHeader).encode(header) + data


def decode_frame(data: Buffer) -> Frame:
    """Decode headers and data field without delimiters and CRC. Raises :class:`~fcsim.errors.MalformedFrame`."""
    extended: list[ExtendedHeader] = []
    offset, end = 0, len(data)
    while offset < end and (kind := _EXTENDED.get(data[offset])) is not None:
        if len(extended) == _MAX_EXTENDED_HEADERS:
            raise MalformedFrame(f"more than {_MAX_EXTENDED_HEADERS} extended headers")
        extra, offset = derive(kind).decode_prefix(data, offset, end)
        extended.append(extra)
    header, offset = derive(FrameHeader).decode_prefix(data, offset, end)
    if end - offset > MAX_DATA_FIELD_BYTES:
        raise MalformedFrame(f"a data field of {end - offset} bytes, more than {MAX_DATA_FIELD_BYTES}")
    esp, device, network, association = b"", b"", None, None
    if header.df_ctl:
        if header.df_ctl & DfCtl.ESP_HEADER:
            esp, offset = bytes(data[offset : offset + _ESP_BYTES]), offset + _ESP_BYTES
        if header.df_ctl & DfCtl.NETWORK_HEADER:
            network, offset = derive(NetworkHeader).decode_prefix(data, offset, end)
        if header.df_ctl & DfCtl.ASSOCIATION_HEADER:
            association, offset = derive(AssociationHeader).decode_prefix(data, offset, end)
        size = _DEVICE_BYTES[header.df_ctl & DfCtl.DEVICE_HEADER_MASK]
        device, offset = bytes(data[offset : offset + size]), offset + size
    stop = end - header.fill_bytes
    fill = bytes(data[stop:end])
    if stop < offset:
        raise MalformedFrame("the data field is shorter than its optional headers and fill bytes")
    return Frame(
        header=header,
        payload=bytes(data[offset:stop]),
        extended=tuple(extended),
        esp_header=esp,
        network_header=network,
        association_header=association,
        device_header=device,
        fill=fill if any(fill) else b"",
    )


def encode_content(frame: Frame, crc: bytes | None = None) -> bytes:
    """Headers, data field and CRC: what stands between the delimiters. `crc` replaces the computed one."""
    content = encode_frame(frame)
    return content + (crc_bytes(content) if crc is None else crc)


def decode_content(data: Buffer) -> tuple[Frame, bytes, bool]:
    """Frame, the CRC bytes and whether they are right. Raises :class:`~fcsim.errors.MalformedFrame`."""
    split = len(data) - CRC_BYTES
    if split < HEADER_BYTES:
        raise MalformedFrame(f"{len(data)} bytes are no frame with CRC")
    crc = bytes(data[split:])
    content = data[:split]
    return decode_frame(content), crc, crc_bytes(content) == crc


def encode_delimited(delimited: DelimitedFrame) -> bytes:
    """SOF, frame, CRC and EOF with four-byte delimiters: a record of link type 225.

    The form of the end of frame follows from the running disparity that the frame leaves on the line.
    """
    content = encode_content(delimited.frame, delimited.crc)
    # Every start of frame leaves the line at positive disparity.
    disparity = disparity_after_data(content, POSITIVE)
    return sof_word(delimited.sof) + content + eof_word(delimited.eof, disparity)


def crc_is_right(record: Buffer) -> bool:
    """Whether the CRC of a record that :func:`decode_delimited` would take is that of its frame; False for others."""
    end = len(record) - _DELIMITER_BYTES - CRC_BYTES
    if end < _DELIMITER_BYTES + HEADER_BYTES:
        return False
    told = bytes(record[end : end + CRC_BYTES])
    return told == crc_bytes(record[_DELIMITER_BYTES:end])


def decode_delimited(data: Buffer) -> DelimitedFrame:
    """Decode a record of link type 225 that holds a frame. Raises :class:`~fcsim.errors.MalformedFrame`."""
    if len(data) < 2 * _DELIMITER_BYTES + HEADER_BYTES + CRC_BYTES:
        raise MalformedFrame(f"{len(data)} bytes are no frame with delimiters")
    sof = sof_from_word(bytes(data[:_DELIMITER_BYTES]))
    eof = eof_from_word(bytes(data[-_DELIMITER_BYTES:]))
    frame, crc, good = decode_content(data[_DELIMITER_BYTES:-_DELIMITER_BYTES])
    return DelimitedFrame(sof=SOF(sof), frame=frame, crc=crc, eof=EOF(eof), crc_ok=good)
