# SPDX-License-Identifier: Apache-2.0
"""Ethernet frames around FIP and FCoE, and the MAC addresses that carry N_Port_IDs (FC-BB-6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from construct import Bytes, Int16ub, Struct

from fcsim.errors import MalformedFrame
from fcsim.wire.codes import FCtl
from fcsim.wire.derive import Buffer, derive
from fcsim.wire.fcoe import FCOE_ETHERTYPE, decode_fcoe, encode_fcoe
from fcsim.wire.fip import FIP_ETHERTYPE, Fip, decode_fip, encode_fip
from fcsim.wire.frame import DelimitedFrame, Frame
from fcsim.wire.ordered_sets import EOF, SOF

__all__ = [
    "ETHERNET_HEADER_BYTES",
    "EthernetHeader",
    "decode_ethernet",
    "ethernet_fcoe",
    "ethernet_fip",
    "fabric_provided_mac",
    "is_for",
]

ETHERNET_HEADER_BYTES = 14
#: Frames that may wait to be sent: with more, a target takes no commands and an endpoint reads nothing.
UNSENT_LIMIT = 16_384
_ETHERNET_MIN_BYTES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class EthernetHeader:
    """An Ethernet II header (IEEE 802.3), without a tag."""

    LAYOUT: ClassVar[Struct] = Struct("destination" / Bytes(6), "source" / Bytes(6), "ethertype" / Int16ub)
    destination: bytes
    source: bytes
    ethertype: int


def decode_ethernet(data: Buffer) -> tuple[EthernetHeader, Fip | DelimitedFrame]:
    """The header and what is inside. Raises MalformedFrame for anything but FIP and FCoE."""
    header, offset = derive(EthernetHeader).decode_prefix(data)
    payload = bytes(data[offset:])
    if header.ethertype == FIP_ETHERTYPE:
        return header, decode_fip(payload)
    if header.ethertype == FCOE_ETHERTYPE:
        return header, decode_fcoe(payload)
    raise MalformedFrame(f"EtherType {header.ethertype:#06x} is neither FCoE nor FIP")


def ethernet_fip(fip: Fip, destination: bytes, source: bytes, *, padded_bytes: int = 0) -> bytes:
    """A FIP frame; ``padded_bytes`` long where the peer shall see that frames of that size come through."""
    header = EthernetHeader(destination=destination, source=source, ethertype=FIP_ETHERTYPE)
    data = derive(EthernetHeader).encode(header) + encode_fip(fip)
    return data.ljust(max(padded_bytes, _ETHERNET_MIN_BYTES), b"\0")


def ethernet_fcoe(frame: Frame, destination: bytes, source: bytes) -> bytes:
    """An FCoE frame of class 3: SOFi3 where a sequence begins, EOFt where it ends."""
    header = EthernetHeader(destination=destination, source=source, ethertype=FCOE_ETHERTYPE)
    sof = SOF.SOFN3 if frame.header.seq_cnt else SOF.SOFI3
    eof = EOF.EOFT if frame.header.f_ctl & FCtl.END_SEQUENCE else EOF.EOFN
    return derive(EthernetHeader).encode(header) + encode_fcoe(DelimitedFrame(sof=sof, frame=frame, eof=eof))


def fabric_provided_mac(fc_map: int, n_port_id: int) -> bytes:
    """The MAC address that carries an N_Port_ID: 24 bits of FC-MAP, 24 of address (FC-BB-6, FPMA)."""
    return (fc_map << 24 | n_port_id).to_bytes(6, "big")


def is_for(header: EthernetHeader, *mac_addresses: bytes) -> bool:
    """Whether a frame is for one of these addresses, or for a group: an interface that listens to all shows others."""
    return bool(header.destination[0] & 1) or header.destination in mac_addresses
