# SPDX-License-Identifier: Apache-2.0
"""Requests and answers of the name server (FC-GS, name server): what follows the CT_IU preamble."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from construct import (
    BitStruct,
    Bytes,
    Construct,
    Flag,
    Int8ub,
    Int24ub,
    Int32ub,
    Int64ub,
    Padding,
    Rebuild,
    Struct,
    len_,
    this,
)

from fcsim.wire.codes import FcType, OpenCode
from fcsim.wire.layout import Coded, Many, Record

__all__ = [
    "ACCEPTS",
    "REQUESTS",
    "Fc4Features",
    "NameServerCommand",
    "PortType",
    "fc4_types",
    "registered_types",
]


class NameServerCommand(OpenCode):
    """Command codes of the name server (FC-GS, name server)."""

    GA_NXT = 0x0100
    GID_A = 0x0101
    GPN_ID = 0x0112
    GNN_ID = 0x0113
    GCS_ID = 0x0114
    GFT_ID = 0x0117
    GSPN_ID = 0x0118
    GPT_ID = 0x011A
    GFF_ID = 0x011F
    GID_PN = 0x0121
    GID_NN = 0x0131
    GSNN_NN = 0x0139
    GID_FT = 0x0171
    GPN_FT = 0x0172
    GNN_FT = 0x0173
    GID_PT = 0x01A1
    RPN_ID = 0x0212
    RNN_ID = 0x0213
    RCS_ID = 0x0214
    RFT_ID = 0x0217
    RSPN_ID = 0x0218
    RPT_ID = 0x021A
    RFF_ID = 0x021F
    RSNN_NN = 0x0239
    DA_ID = 0x0300


class PortType(OpenCode):
    """Port types (FC-GS, name server)."""

    UNIDENTIFIED = 0x00
    N_PORT = 0x01
    NL_PORT = 0x02
    F_NL_PORT = 0x03
    NX_PORT = 0x7F
    F_PORT = 0x81
    FL_PORT = 0x82
    E_PORT = 0x84
    B_PORT = 0x85


class Fc4Features(enum.IntFlag, boundary=enum.KEEP):
    """FC-4 features of FCP (FC-GS, name server)."""

    TARGET = 1
    INITIATOR = 2


TYPES_BYTES = 32


def fc4_types(*types: int) -> bytes:
    """The bit map of FC-4 types that registrations carry: TYPE n is bit n mod 32 of word n div 32."""
    bits = bytearray(TYPES_BYTES)
    for value in types:
        bits[value // 32 * 4 + 3 - value % 32 // 8] |= 1 << value % 8
    return bytes(bits)


def registered_types(bits: bytes) -> tuple[int, ...]:
    """The FC-4 types of a bit map."""
    return tuple(
        value for value in range(256) if bits[value // 32 * 4 + 3 - value % 32 // 8] >> value % 8 & 1
    )


def _short_string(name: str, size: int | None = None) -> tuple[Construct, ...]:
    """A length byte and a string; padded to `size` bytes where given."""
    length = f"{name}_length"
    parts = (length / Rebuild(Int8ub, len_(this[name])), name / Bytes(this[length]))
    return parts if size is None else (*parts, Padding(size - this[length]))


_PORT_ID = (Padding(1), "port_id" / Int24ub)
_SYMBOLIC_BYTES = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class _ByPortId:
    LAYOUT: ClassVar[Struct] = Struct(*_PORT_ID)
    port_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GaNxt(_ByPortId):
    """GA_NXT: all of the next port after `port_id` (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.GA_NXT


@dataclass(frozen=True, slots=True, kw_only=True)
class GpnId(_ByPortId):
    """GPN_ID: port name by port ID (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.GPN_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class GnnId(_ByPortId):
    """GNN_ID: node name by port ID (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.GNN_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class GcsId(_ByPortId):
    """GCS_ID: class of service by port ID (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.GCS_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class GftId(_ByPortId):
    """GFT_ID: FC-4 types by port ID (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.GFT_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class GspnId(_ByPortId):
    """GSPN_ID: symbolic port name by port ID (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.GSPN_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class GptId(_ByPortId):
    """GPT_ID: port type by port ID (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.GPT_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class GffId(_ByPortId):
    """GFF_ID: FC-4 features by port ID (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.GFF_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class DaId(_ByPortId):
    """DA_ID: deregister all of a port (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.DA_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class GidPn:
    """GID_PN: port ID by port name (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.GID_PN
    LAYOUT: ClassVar[Struct] = Struct("port_name" / Int64ub)
    port_name: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GidNn:
    """GID_NN: port IDs by node name (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.GID_NN
    LAYOUT: ClassVar[Struct] = Struct("node_name" / Int64ub)
    node_name: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GsnnNn:
    """GSNN_NN: symbolic node name by node name (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.GSNN_NN
    LAYOUT: ClassVar[Struct] = Struct("node_name" / Int64ub)
    node_name: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _ByType:
    LAYOUT: ClassVar[Struct] = Struct(
        Padding(1), "domain_id_scope" / Int8ub, "area_id_scope" / Int8ub, "fc4_type" / Coded(Int8ub, FcType)
    )
    domain_id_scope: int = 0
    area_id_scope: int = 0
    fc4_type: int = FcType.FCP


@dataclass(frozen=True, slots=True, kw_only=True)
class GidFt(_ByType):
    """GID_FT: port IDs by FC-4 type (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.GID_FT


@dataclass(frozen=True, slots=True, kw_only=True)
class GpnFt(_ByType):
    """GPN_FT: port IDs and port names by FC-4 type (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.GPN_FT


@dataclass(frozen=True, slots=True, kw_only=True)
class GnnFt(_ByType):
    """GNN_FT: port IDs and node names by FC-4 type (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.GNN_FT


@dataclass(frozen=True, slots=True, kw_only=True)
class GidPt:
    """GID_PT: port IDs by port type (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.GID_PT
    LAYOUT: ClassVar[Struct] = Struct(
        "port_type" / Coded(Int8ub, PortType),
        "domain_id_scope" / Int8ub,
        "area_id_scope" / Int8ub,
        Padding(1),
    )
    port_type: int = PortType.NX_PORT
    domain_id_scope: int = 0
    area_id_scope: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RpnId:
    """RPN_ID: register the port name of a port (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.RPN_ID
    LAYOUT: ClassVar[Struct] = Struct(*_PORT_ID, "port_name" / Int64ub)
    port_id: int
    port_name: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RnnId:
    """RNN_ID: register the node name of a port (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.RNN_ID
    LAYOUT: ClassVar[Struct] = Struct(*_PORT_ID, "node_name" / Int64ub)
    port_id: int
    node_name: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RcsId:
    """RCS_ID: register the classes of service of a port (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.RCS_ID
    LAYOUT: ClassVar[Struct] = Struct(*_PORT_ID, "class_of_service" / Int32ub)
    port_id: int
    class_of_service: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RftId:
    """RFT_ID: register the FC-4 types of a port (FC-GS); see `fc4_types`."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.RFT_ID
    LAYOUT: ClassVar[Struct] = Struct(*_PORT_ID, "fc4_types" / Bytes(TYPES_BYTES))
    port_id: int
    fc4_types: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RspnId:
    """RSPN_ID: register the symbolic port name of a port (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.RSPN_ID
    LAYOUT: ClassVar[Struct] = Struct(*_PORT_ID, *_short_string("symbolic_port_name"))
    port_id: int
    symbolic_port_name: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RptId:
    """RPT_ID: register the port type of a port (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.RPT_ID
    LAYOUT: ClassVar[Struct] = Struct(*_PORT_ID, "port_type" / Coded(Int8ub, PortType), Padding(3))
    port_id: int
    port_type: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RffId:
    """RFF_ID: register the FC-4 features of a port (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.RFF_ID
    LAYOUT: ClassVar[Struct] = Struct(
        *_PORT_ID, Padding(2), "fc4_features" / Coded(Int8ub, Fc4Features), "fc4_type" / Coded(Int8ub, FcType)
    )
    port_id: int
    fc4_features: int
    fc4_type: int = FcType.FCP


@dataclass(frozen=True, slots=True, kw_only=True)
class RsnnNn:
    """RSNN_NN: register the symbolic node name of a node (FC-GS)."""

    COMMAND: ClassVar[NameServerCommand] = NameServerCommand.RSNN_NN
    LAYOUT: ClassVar[Struct] = Struct("node_name" / Int64ub, *_short_string("symbolic_node_name"))
    node_name: int
    symbolic_node_name: bytes


# --- answers ---

_LAST = "control" / BitStruct("last" / Flag, Padding(7))


@dataclass(frozen=True, slots=True, kw_only=True)
class PortEntry:
    """A port ID in a list; ``last`` marks the end (FC-GS)."""

    LAYOUT: ClassVar[Struct] = Struct(_LAST, "port_id" / Int24ub)
    last: bool = False
    port_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPortEntry:
    """A port ID and a name in a list, 16 bytes; ``last`` marks the end (FC-GS)."""

    LAYOUT: ClassVar[Struct] = Struct(_LAST, "port_id" / Int24ub, Padding(4), "port_or_node_name" / Int64ub)
    last: bool = False
    port_id: int
    port_or_node_name: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PortList:
    """Accept of GID_FT, GID_PT, GID_NN and GID_PN (FC-GS)."""

    LAYOUT: ClassVar[Struct] = Struct("entries" / Many(Record(PortEntry)))
    entries: tuple[PortEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPortList:
    """Accept of GPN_FT and GNN_FT (FC-GS)."""

    LAYOUT: ClassVar[Struct] = Struct("entries" / Many(Record(NamedPortEntry)))
    entries: tuple[NamedPortEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PortNameAccept:
    """Accept of GPN_ID (FC-GS)."""

    LAYOUT: ClassVar[Struct] = Struct("port_name" / Int64ub)
    port_name: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeNameAccept:
    """Accept of GNN_ID (FC-GS)."""

    LAYOUT: ClassVar[Struct] = Struct("node_name" / Int64ub)
    node_name: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassOfServiceAccept:
    """Accept of GCS_ID (FC-GS)."""

    LAYOUT: ClassVar[Struct] = Struct("class_of_service" / Int32ub)
    class_of_service: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TypesAccept:
    """Accept of GFT_ID (FC-GS)."""

    LAYOUT: ClassVar[Struct] = Struct("fc4_types" / Bytes(TYPES_BYTES))
    fc4_types: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesAccept:
    """Accept of GFF_ID: four bits for each of the 256 FC-4 types (FC-GS)."""

    LAYOUT: ClassVar[Struct] = Struct("fc4_features" / Bytes(128))
    fc4_features: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PortTypeAccept:
    """Accept of GPT_ID (FC-GS)."""

    LAYOUT: ClassVar[Struct] = Struct("port_type" / Coded(Int8ub, PortType), Padding(3))
    port_type: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolicNameAccept:
    """Accept of GSPN_ID and GSNN_NN (FC-GS)."""

    LAYOUT: ClassVar[Struct] = Struct(*_short_string("symbolic_name"))
    symbolic_name: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AllOfPort:
    """Accept of GA_NXT: everything that is registered of one port (FC-GS)."""

    LAYOUT: ClassVar[Struct] = Struct(
        "port_type" / Coded(Int8ub, PortType),
        "port_id" / Int24ub,
        "port_name" / Int64ub,
        *_short_string("symbolic_port_name", _SYMBOLIC_BYTES),
        "node_name" / Int64ub,
        *_short_string("symbolic_node_name", _SYMBOLIC_BYTES),
        "initial_process_associator" / Int64ub,
        "node_ip_address" / Bytes(16),
        "class_of_service" / Int32ub,
        "fc4_types" / Bytes(TYPES_BYTES),
        "port_ip_address" / Bytes(16),
        "fabric_port_name" / Int64ub,
        Padding(1),
        "hard_address" / Int24ub,
    )
    port_type: int
    port_id: int
    port_name: int
    symbolic_port_name: bytes = b""
    node_name: int
    symbolic_node_name: bytes = b""
    initial_process_associator: int = 0
    node_ip_address: bytes = bytes(16)
    class_of_service: int = 0
    fc4_types: bytes = bytes(TYPES_BYTES)
    port_ip_address: bytes = bytes(16)
    fabric_port_name: int = 0
    hard_address: int = 0


REQUESTS: tuple[type[Any], ...] = (
    GaNxt,
    GpnId,
    GnnId,
    GcsId,
    GftId,
    GspnId,
    GptId,
    GffId,
    GidPn,
    GidNn,
    GsnnNn,
    GidFt,
    GpnFt,
    GnnFt,
    GidPt,
    RpnId,
    RnnId,
    RcsId,
    RftId,
    RspnId,
    RptId,
    RffId,
    RsnnNn,
    DaId,
)
"""The requests; each names its command code as COMMAND."""

ACCEPTS: Mapping[int, type[Any]] = {
    NameServerCommand.GA_NXT: AllOfPort,
    NameServerCommand.GPN_ID: PortNameAccept,
    NameServerCommand.GNN_ID: NodeNameAccept,
    NameServerCommand.GCS_ID: ClassOfServiceAccept,
    NameServerCommand.GFT_ID: TypesAccept,
    NameServerCommand.GSPN_ID: SymbolicNameAccept,
    NameServerCommand.GPT_ID: PortTypeAccept,
    NameServerCommand.GFF_ID: FeaturesAccept,
    NameServerCommand.GID_PN: PortList,
    NameServerCommand.GID_NN: PortList,
    NameServerCommand.GSNN_NN: SymbolicNameAccept,
    NameServerCommand.GID_FT: PortList,
    NameServerCommand.GPN_FT: NamedPortList,
    NameServerCommand.GNN_FT: NamedPortList,
    NameServerCommand.GID_PT: PortList,
}
"""The accept by the command code of its request, where it says more than yes."""
