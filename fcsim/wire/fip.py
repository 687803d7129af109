# SPDX-License-Identifier: Apache-2.0
"""FCoE initialization protocol (FC-BB-5, FC-BB-6): discovery, fabric login, keep alive, VLANs, VN2VN."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from construct import (
    BitsInteger,
    BitStruct,
    Bytes,
    FixedSized,
    Flag,
    GreedyBytes,
    Int8ub,
    Int16ub,
    Int24ub,
    Int32ub,
    Int64ub,
    Padding,
    Struct,
    this,
)

from fcsim.errors import MalformedFrame
from fcsim.wire.codes import OpenCode
from fcsim.wire.derive import Buffer, derive
from fcsim.wire.layout import ByteCount, Coded, Tlvs

__all__ = [
    "ALL_ENODE_MACS",
    "ALL_FCF_MACS",
    "ALL_FCOE_MACS",
    "ALL_PT2PT_ENODE_MACS",
    "ALL_VN2VN_ENODE_MACS",
    "DEFAULT_FC_MAP",
    "FIP_DESCRIPTORS",
    "FIP_ETHERTYPE",
    "ControlSubcode",
    "DiscoverySubcode",
    "EncapsulatedElp",
    "EncapsulatedFdisc",
    "EncapsulatedFlogi",
    "EncapsulatedLogo",
    "FabricDescriptor",
    "Fc4Attributes",
    "FcMapDescriptor",
    "Fip",
    "FipDescriptor",
    "FipDescriptorType",
    "FipFlags",
    "FipOperation",
    "FkaAdvPeriod",
    "LinkServiceSubcode",
    "MacAddressDescriptor",
    "MaxFcoeSize",
    "NameIdentifier",
    "PriorityDescriptor",
    "UnknownFipDescriptor",
    "VendorIdDescriptor",
    "VlanDescriptor",
    "VlanSubcode",
    "Vn2vnSubcode",
    "VxPortIdentification",
    "decode_fip",
    "encode_fip",
]

FIP_ETHERTYPE = 0x8914
ALL_FCOE_MACS = bytes.fromhex("011018010000")
ALL_ENODE_MACS = bytes.fromhex("011018010001")
ALL_FCF_MACS = bytes.fromhex("011018010002")
ALL_VN2VN_ENODE_MACS = bytes.fromhex("011018010004")
ALL_PT2PT_ENODE_MACS = bytes.fromhex("011018010003")
DEFAULT_FC_MAP = 0x0EFC00


class FipOperation(OpenCode):
    """FIP protocol codes (FC-BB-6)."""

    DISCOVERY = 1
    LINK_SERVICE = 2
    CONTROL = 3
    VLAN = 4
    VN2VN = 5


class DiscoverySubcode(OpenCode):
    """Subcodes of discovery (FC-BB-6)."""

    SOLICITATION = 1
    ADVERTISEMENT = 2


class LinkServiceSubcode(OpenCode):
    """Subcodes of link services (FC-BB-6)."""

    REQUEST = 1
    REPLY = 2


class ControlSubcode(OpenCode):
    """Subcodes of control (FC-BB-6)."""

    KEEP_ALIVE = 1
    CLEAR_VIRTUAL_LINKS = 2


class VlanSubcode(OpenCode):
    """Subcodes of VLAN discovery (FC-BB-6)."""

    REQUEST = 1
    NOTIFICATION = 2


class Vn2vnSubcode(OpenCode):
    """Subcodes of VN2VN (FC-BB-6)."""

    PROBE_REQUEST = 1
    PROBE_REPLY = 2
    CLAIM_NOTIFICATION = 3
    CLAIM_RESPONSE = 4
    BEACON = 5


class FipFlags(enum.IntFlag, boundary=enum.KEEP):
    """Flags of the FIP header (FC-BB-6)."""

    FPMA = 0x8000
    SPMA = 0x4000
    REC_OR_P2P = 0x0008
    AVAILABLE_FOR_LOGIN = 0x0004
    SOLICITED = 0x0002
    FROM_FCF = 0x0001


class FipDescriptorType(OpenCode):
    """Descriptor types (FC-BB-6)."""

    PRIORITY = 1
    MAC_ADDRESS = 2
    FC_MAP = 3
    NAME_IDENTIFIER = 4
    FABRIC = 5
    MAX_FCOE_SIZE = 6
    FLOGI = 7
    FDISC = 8
    LOGO = 9
    ELP = 10
    VX_PORT_IDENTIFICATION = 11
    FKA_ADV_PERIOD = 12
    VENDOR_ID = 13
    VLAN = 14
    FC4_ATTRIBUTES = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorityDescriptor:
    """Priority of a forwarder; the lowest number wins (FC-BB-6)."""

    LAYOUT: ClassVar[Struct] = Struct(Padding(1), "priority" / Int8ub)
    priority: int = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class MacAddressDescriptor:
    """A MAC address (FC-BB-6)."""

    LAYOUT: ClassVar[Struct] = Struct("mac_address" / Bytes(6))
    mac_address: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FcMapDescriptor:
    """The upper half of fabric-provided MAC addresses (FC-BB-6)."""

    LAYOUT: ClassVar[Struct] = Struct(Padding(3), "fc_map" / Int24ub)
    fc_map: int = DEFAULT_FC_MAP


@dataclass(frozen=True, slots=True, kw_only=True)
class NameIdentifier:
    """A switch or node name (FC-BB-6)."""

    LAYOUT: ClassVar[Struct] = Struct(Padding(2), "name_identifier" / Int64ub)
    name_identifier: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FabricDescriptor:
    """Virtual fabric, FC-MAP and fabric name (FC-BB-6)."""

    LAYOUT: ClassVar[Struct] = Struct(
        "vf_id" / Int16ub, Padding(1), "fc_map" / Int24ub, "fabric_name" / Int64ub
    )
    vf_id: int = 0
    fc_map: int = DEFAULT_FC_MAP
    fabric_name: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxFcoeSize:
    """Largest FCoE frame that can be received, in bytes (FC-BB-6)."""

    LAYOUT: ClassVar[Struct] = Struct("max_fcoe_size_bytes" / Int16ub)
    max_fcoe_size_bytes: int


_ENCAPSULATED = Struct(Padding(2), "frame" / GreedyBytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncapsulatedFlogi:
    """A FLOGI or its answer: a frame without delimiters and CRC (FC-BB-6)."""

    LAYOUT: ClassVar[Struct] = _ENCAPSULATED
    frame: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EncapsulatedFdisc:
    """An FDISC or its answer: a frame without delimiters and CRC (FC-BB-6)."""

    LAYOUT: ClassVar[Struct] = _ENCAPSULATED
    frame: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EncapsulatedLogo:
    """A LOGO or its answer: a frame without delimiters and CRC (FC-BB-6)."""

    LAYOUT: ClassVar[Struct] = _ENCAPSULATED
    frame: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EncapsulatedElp:
    """An ELP or its answer: a frame without delimiters and CRC (FC-BB-6)."""

    LAYOUT: ClassVar[Struct] = _ENCAPSULATED
    frame: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class VxPortIdentification:
    """MAC address, address identifier and name of a virtual port (FC-BB-6)."""

    LAYOUT: ClassVar[Struct] = Struct(
        "mac_address" / Bytes(6), Padding(1), "address_identifier" / Int24ub, "port_name" / Int64ub
    )
    mac_address: bytes
    address_identifier: int
    port_name: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FkaAdvPeriod:
    """Keep-alive and advertisement period in ms; ``no_keep_alive`` is the D bit (FC-BB-6)."""

    LAYOUT: ClassVar[Struct] = Struct(
        Padding(1), "flags" / BitStruct(Padding(7), "no_keep_alive" / Flag), "period" / Int32ub
    )
    no_keep_alive: bool = False
    period: int = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorIdDescriptor:
    """Who defines the vendor specific descriptors (FC-BB-6)."""

    LAYOUT: ClassVar[Struct] = Struct(Padding(2), "vendor_id" / Bytes(8))
    vendor_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class VlanDescriptor:
    """A VLAN on which FCoE runs (FC-BB-6)."""

    LAYOUT: ClassVar[Struct] = Struct("vlan" / BitStruct(Padding(4), "vlan_id" / BitsInteger(12)))
    vlan_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fc4Attributes:
    """FC-4 types and features of a VN2VN port (FC-BB-6)."""

    LAYOUT: ClassVar[Struct] = Struct(Padding(2), "fc4_types" / Bytes(32), "fc4_features" / Bytes(128))
    fc4_types: bytes = bytes(32)
    fc4_features: bytes = bytes(128)


@dataclass(frozen=True, slots=True)
class UnknownFipDescriptor:
    """A descriptor whose type has no description here, vendor specific ones (128 and up) among them."""

    tag: int
    body: bytes


FipDescriptor = (
    PriorityDescriptor
    | MacAddressDescriptor
    | FcMapDescriptor
    | NameIdentifier
    | FabricDescriptor
    | MaxFcoeSize
    | EncapsulatedFlogi
    | EncapsulatedFdisc
    | EncapsulatedLogo
    | EncapsulatedElp
    | VxPortIdentification
    | FkaAdvPeriod
    | VendorIdDescriptor
    | VlanDescriptor
    | Fc4Attributes
    | UnknownFipDescriptor
)
FIP_DESCRIPTORS: Mapping[int, type[Any]] = {
    FipDescriptorType.PRIORITY: PriorityDescriptor,
    FipDescriptorType.MAC_ADDRESS: MacAddressDescriptor,
    FipDescriptorType.FC_MAP: FcMapDescriptor,
    FipDescriptorType.NAME_IDENTIFIER: NameIdentifier,
    FipDescriptorType.FABRIC: FabricDescriptor,
    FipDescriptorType.MAX_FCOE_SIZE: MaxFcoeSize,
    FipDescriptorType.FLOGI: EncapsulatedFlogi,
    FipDescriptorType.FDISC: EncapsulatedFdisc,
    FipDescriptorType.LOGO: EncapsulatedLogo,
    FipDescriptorType.ELP: EncapsulatedElp,
    FipDescriptorType.VX_PORT_IDENTIFICATION: VxPortIdentification,
    FipDescriptorType.FKA_ADV_PERIOD: FkaAdvPeriod,
    FipDescriptorType.VENDOR_ID: VendorIdDescriptor,
    FipDescriptorType.VLAN: VlanDescriptor,
    FipDescriptorType.FC4_ATTRIBUTES: Fc4Attributes,
}
"""The descriptors by their type."""

_DESCRIPTORS = Tlvs(
    Coded(Int8ub, FipDescriptorType),
    Int8ub,
    FIP_DESCRIPTORS,
    UnknownFipDescriptor,
    unit=4,
    covers_header=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fip:
    """A FIP frame, from the version on (FC-BB-6). The descriptor list is counted in words."""

    LAYOUT: ClassVar[Struct] = Struct(
        "first" / BitStruct("version" / BitsInteger(4), Padding(4)),
        Padding(1),
        "operation" / Coded(Int16ub, FipOperation),
        Padding(1),
        "subcode" / Int8ub,
        "descriptor_words" / ByteCount(Int16ub, "descriptors", _DESCRIPTORS, unit=4),
        "flags" / Coded(Int16ub, FipFlags),
        "descriptors" / FixedSized(this.descriptor_words * 4, _DESCRIPTORS),
    )
    version: int = 1
    operation: int
    subcode: int
    flags: int = 0
    descriptors: tuple[FipDescriptor, ...] = ()


def decode_fip(payload: Buffer) -> Fip:
    """Decode the payload of an Ethernet frame of type 8914h; padding after the descriptors is ignored.

    Raises :class:`~fcsim.errors.MalformedFrame`.
    """
    fip = derive(Fip).decode(payload)
    if fip.version != 1:
        raise MalformedFrame(f"FIP version {fip.version} is not known")
    return fip


def encode_fip(fip: Fip) -> bytes:
    """The payload of an Ethernet frame of type 8914h, without padding. Raises ValueError when a field does not fit."""
    return derive(Fip).encode(fip)
