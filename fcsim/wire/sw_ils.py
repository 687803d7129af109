# SPDX-License-Identifier: Apache-2.0
"""Switch fabric internal link services that bring up an inter-switch link (FC-SW): ELP, ESC, EFP, DIA, RDI, BF, RCF.

Path selection is in :mod:`fcsim.wire.fspf`, zoning in :mod:`fcsim.wire.sw_zoning`, the whole in
:mod:`fcsim.wire.switch_services`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from construct import (
    Array,
    BitsInteger,
    BitStruct,
    Bytes,
    Const,
    GreedyBytes,
    Int8ub,
    Int16ub,
    Int24ub,
    Int32ub,
    Int64ub,
    Padding,
    Rebuild,
    Struct,
    len_,
    this,
)

from fcsim.wire.codes import OpenCode
from fcsim.wire.els_login import ClassParameters
from fcsim.wire.layout import Coded, Record, Sized, command

__all__ = [
    "BuildFabric",
    "Dia",
    "DiaAccept",
    "DomainRecord",
    "Efp",
    "EfpAccept",
    "Elp",
    "ElpAccept",
    "Esc",
    "EscAccept",
    "FlowControlMode",
    "FlowControlParameters",
    "ProtocolDescriptor",
    "Rdi",
    "RdiAccept",
    "ReconfigureFabric",
    "RequestedDomain",
    "SwAcc",
    "SwCommand",
    "SwReason",
    "SwRjt",
    "SwRscn",
    "SwRscnEntry",
    "UnknownSwIls",
]


class SwCommand(OpenCode):
    """SW_ILS command codes (FC-SW)."""

    SW_RJT = 0x01
    SW_ACC = 0x02
    ELP = 0x10
    EFP = 0x11
    DIA = 0x12
    RDI = 0x13
    HLO = 0x14
    LSU = 0x15
    LSA = 0x16
    BF = 0x17
    RCF = 0x18
    SW_RSCN = 0x1B
    DRLIR = 0x1E
    DSCN = 0x20
    LOOPD = 0x21
    MR = 0x22
    ACA = 0x23
    RCA = 0x24
    SFC = 0x25
    UFC = 0x26
    ESC = 0x30
    ESS = 0x31
    MRRA = 0x34


class SwReason(OpenCode):
    """Reason codes of SW_RJT (FC-SW)."""

    INVALID_COMMAND = 0x01
    INVALID_REVISION = 0x02
    LOGICAL_ERROR = 0x03
    INVALID_PAYLOAD_SIZE = 0x04
    LOGICAL_BUSY = 0x05
    PROTOCOL_ERROR = 0x07
    UNABLE_TO_PERFORM = 0x09
    COMMAND_NOT_SUPPORTED = 0x0B
    INVALID_ATTACHMENT = 0x0C
    VENDOR_SPECIFIC = 0xFF


class FlowControlMode(OpenCode):
    """ISL flow control modes (FC-SW, ELP)."""

    VENDOR_UNIQUE = 0x0001
    R_RDY = 0x0002


def _bare(code: SwCommand) -> tuple[object, ...]:
    return command(code, Int8ub), Padding(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class SwAcc:
    """SW_ACC whose request is not known, or that says nothing more (FC-SW)."""

    LAYOUT: ClassVar[Struct] = Struct(
        command(SwCommand.SW_ACC, Int8ub), "parameters" / Bytes(3), "body" / GreedyBytes
    )
    parameters: bytes = bytes(3)
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwRjt:
    """SW_RJT: the request is refused, and why (FC-SW)."""

    LAYOUT: ClassVar[Struct] = Struct(
        *_bare(SwCommand.SW_RJT),
        Padding(1),
        "reason" / Coded(Int8ub, SwReason),
        "explanation" / Int8ub,
        "vendor_specific" / Int8ub,
    )
    reason: int
    explanation: int = 0
    vendor_specific: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownSwIls:
    """A switch link service that has no description here (FC-SW)."""

    LAYOUT: ClassVar[Struct] = Struct("code" / Coded(Int8ub, SwCommand), "body" / GreedyBytes)
    code: int
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowControlParameters:
    """Flow control parameters of an ELP (FC-SW, ELP): BB_Credit, then what the mode adds."""

    LAYOUT: ClassVar[Struct] = Struct("bb_credit" / Int32ub, "compatibility" / GreedyBytes)
    bb_credit: int
    compatibility: bytes = bytes(16)


def _elp(code: SwCommand) -> Struct:
    return Struct(
        *_bare(code),
        "revision" / Int8ub,
        "flags" / Int16ub,
        "bb_sc_n" / Int8ub,
        "r_a_tov" / Int32ub,
        "e_d_tov" / Int32ub,
        "port_name" / Int64ub,
        "switch_name" / Int64ub,
        "class_f" / Record(ClassParameters),
        "class_1_options" / Int16ub,
        "class_1_receive_data_field_size" / Int16ub,
        "class_2_options" / Int16ub,
        "class_2_receive_data_field_size" / Int16ub,
        "class_3_options" / Int16ub,
        "class_3_receive_data_field_size" / Int16ub,
        Padding(20),
        "flow_control_mode" / Coded(Int16ub, FlowControlMode),
        "flow_control" / Sized(Int16ub, Record(FlowControlParameters)),
    )


_CLASS_F = ClassParameters(
    service_options=0x8000,
    receive_data_field_size=2112,
    concurrent_sequences=1,
    ee_credit=1,
    open_sequences_per_exchange=1,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _LinkParameters:
    revision: int = 2
    flags: int = 0
    bb_sc_n: int = 0
    r_a_tov: int = 10_000
    e_d_tov: int = 2_000
    port_name: int
    switch_name: int
    class_f: ClassParameters = _CLASS_F
    class_1_options: int = 0
    class_1_receive_data_field_size: int = 0
    class_2_options: int = 0
    class_2_receive_data_field_size: int = 0
    class_3_options: int = 0x8800
    class_3_receive_data_field_size: int = 2112
    flow_control_mode: int = FlowControlMode.R_RDY
    flow_control: FlowControlParameters

    @property
    def bb_credit(self) -> int:
        """BB_Credit offered to the peer."""
        return self.flow_control.bb_credit


@dataclass(frozen=True, slots=True, kw_only=True)
class Elp(_LinkParameters):
    """ELP: exchange link parameters (FC-SW, ELP). Wireshark shows it four bytes off."""

    LAYOUT: ClassVar[Struct] = _elp(SwCommand.ELP)


@dataclass(frozen=True, slots=True, kw_only=True)
class ElpAccept(_LinkParameters):
    """SW_ACC of ELP (FC-SW, ELP)."""

    LAYOUT: ClassVar[Struct] = _elp(SwCommand.SW_ACC)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolDescriptor:
    """One protocol of an ESC (FC-SW, ESC); FSPF is 2."""

    LAYOUT: ClassVar[Struct] = Struct("vendor_id" / Bytes(8), Padding(2), "protocol_id" / Int16ub)
    vendor_id: bytes = bytes(8)
    protocol_id: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Esc:
    """ESC: exchange switch capabilities (FC-SW, ESC)."""

    LAYOUT: ClassVar[Struct] = Struct(
        command(SwCommand.ESC, Int8ub),
        Padding(1),
        "payload_length" / Rebuild(Int16ub, 12 + len_(this.protocols) * 12),
        "vendor_id" / Bytes(8),
        "protocols" / Array((this.payload_length - 12) // 12, Record(ProtocolDescriptor)),
    )
    vendor_id: bytes
    protocols: tuple[ProtocolDescriptor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EscAccept:
    """SW_ACC of ESC: the protocol that was chosen (FC-SW, ESC)."""

    LAYOUT: ClassVar[Struct] = Struct(
        *_bare(SwCommand.SW_ACC), "vendor_id" / Bytes(8), "protocol" / Record(ProtocolDescriptor)
    )
    vendor_id: bytes
    protocol: ProtocolDescriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainRecord:
    """One record of an EFP, 16 bytes (FC-SW, EFP): type 1 a domain, 2 a multicast group."""

    LAYOUT: ClassVar[Struct] = Struct(
        "record_type" / Int8ub, "domain_id" / Int8ub, Padding(6), "switch_name" / Int64ub
    )
    record_type: int = 1
    domain_id: int
    switch_name: int


def _efp(code: SwCommand) -> Struct:
    return Struct(
        command(code, Int8ub),
        "record_length" / Const(16, Int8ub),
        "payload_length" / Rebuild(Int16ub, 16 + len_(this.records) * 16),
        Padding(3),
        "principal_switch_priority" / Int8ub,
        "principal_switch_name" / Int64ub,
        "records" / Array((this.payload_length - 16) // 16, Record(DomainRecord)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Efp:
    """EFP: exchange fabric parameters, the choice of the principal switch (FC-SW, EFP)."""

    LAYOUT: ClassVar[Struct] = _efp(SwCommand.EFP)
    principal_switch_priority: int
    principal_switch_name: int
    records: tuple[DomainRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EfpAccept:
    """SW_ACC of EFP (FC-SW, EFP)."""

    LAYOUT: ClassVar[Struct] = _efp(SwCommand.SW_ACC)
    principal_switch_priority: int
    principal_switch_name: int
    records: tuple[DomainRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dia:
    """DIA: domain identifier assigned (FC-SW, DIA). Its last word is not meaningful."""

    LAYOUT: ClassVar[Struct] = Struct(
        *_bare(SwCommand.DIA), "switch_name" / Int64ub, "not_meaningful" / Int32ub
    )
    switch_name: int
    not_meaningful: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DiaAccept:
    """SW_ACC of DIA (FC-SW, DIA)."""

    LAYOUT: ClassVar[Struct] = Struct(
        *_bare(SwCommand.SW_ACC), "switch_name" / Int64ub, "not_meaningful" / Int32ub
    )
    switch_name: int
    not_meaningful: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedDomain:
    """One domain ID of an RDI (FC-SW, RDI)."""

    LAYOUT: ClassVar[Struct] = Struct(Padding(3), "domain_id" / Int8ub)
    domain_id: int


def _rdi(code: SwCommand) -> Struct:
    return Struct(
        command(code, Int8ub),
        Padding(1),
        "payload_length" / Rebuild(Int16ub, 12 + len_(this.domains) * 4),
        "switch_name" / Int64ub,
        "domains" / Array((this.payload_length - 12) // 4, Record(RequestedDomain)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rdi:
    """RDI: request domain identifiers (FC-SW, RDI)."""

    LAYOUT: ClassVar[Struct] = _rdi(SwCommand.RDI)
    switch_name: int
    domains: tuple[RequestedDomain, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RdiAccept:
    """SW_ACC of RDI: the domain IDs that are granted (FC-SW, RDI)."""

    LAYOUT: ClassVar[Struct] = _rdi(SwCommand.SW_ACC)
    switch_name: int
    domains: tuple[RequestedDomain, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildFabric:
    """BF: build fabric (FC-SW, BF)."""

    LAYOUT: ClassVar[Struct] = Struct(*_bare(SwCommand.BF))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconfigureFabric:
    """RCF: reconfigure fabric (FC-SW, RCF)."""

    LAYOUT: ClassVar[Struct] = Struct(*_bare(SwCommand.RCF))


@dataclass(frozen=True, slots=True, kw_only=True)
class SwRscnEntry:
    """One device of an SW_RSCN, 20 bytes (FC-SW, SW_RSCN)."""

    LAYOUT: ClassVar[Struct] = Struct(
        "port_state" / Int8ub, "port_id" / Int24ub, "port_name" / Int64ub, "node_name" / Int64ub
    )
    port_state: int
    port_id: int
    port_name: int
    node_name: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SwRscn:
    """SW_RSCN: inter-switch state change notification (FC-SW, SW_RSCN)."""

    LAYOUT: ClassVar[Struct] = Struct(
        *_bare(SwCommand.SW_RSCN),
        "flags" / BitStruct("event_type" / BitsInteger(4), "address_format" / BitsInteger(4)),
        "affected_port" / Int24ub,
        "detection_function" / Int32ub,
        "entry_count" / Rebuild(Int32ub, len_(this.entries)),
        "entries" / Array(this.entry_count, Record(SwRscnEntry)),
    )
    event_type: int
    address_format: int = 0
    affected_port: int
    detection_function: int = 1
    entries: tuple[SwRscnEntry, ...] = ()
