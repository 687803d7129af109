# SPDX-License-Identifier: Apache-2.0
"""Fabric performance impact notifications and what registers for them: FPIN, EDC, RDF (FC-LS-5).

Wireshark 4.0 decodes none of them; ``tools/wireshark/sancredit.lua`` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from construct import Array, Int8ub, Int16ub, Int32ub, Int64ub, Padding, Rebuild, Struct, len_, this

from fcsim.wire.codes import OpenCode
from fcsim.wire.els_commands import ElsCommand
from fcsim.wire.layout import Coded, Sized, Tlvs, command

__all__ = [
    "NOTICE_DESCRIPTORS",
    "CongestionNotification",
    "CongestionSeverity",
    "CongestionSignalCapability",
    "CongestionType",
    "DeliveryNotification",
    "DeliveryReason",
    "Edc",
    "EdcAccept",
    "Fpin",
    "FpinRegistration",
    "FrequencyUnit",
    "LinkFaultCapability",
    "LinkIntegrityEvent",
    "LinkIntegrityNotification",
    "LinkServiceRequestInformation",
    "NoticeDescriptor",
    "NoticeTag",
    "PeerCongestionNotification",
    "Rdf",
    "RdfAccept",
    "SignalCapability",
    "UnknownDescriptor",
]


class NoticeTag(OpenCode):
    """Tags of the descriptors (FC-LS-5, ELS TLVs)."""

    LINK_SERVICE_REQUEST_INFORMATION = 0x00000001
    LINK_FAULT_CAPABILITY = 0x0001000D
    CONGESTION_SIGNAL_CAPABILITY = 0x0001000F
    LINK_INTEGRITY = 0x00020001
    DELIVERY = 0x00020002
    PEER_CONGESTION = 0x00020003
    CONGESTION = 0x00020004
    FPIN_REGISTRATION = 0x00030001


class LinkIntegrityEvent(OpenCode):
    """Event types of a link integrity notification (FC-LS-5)."""

    UNKNOWN = 0
    LINK_FAILURE = 1
    LOSS_OF_SYNC = 2
    LOSS_OF_SIGNAL = 3
    PRIMITIVE_SEQUENCE_PROTOCOL_ERROR = 4
    INVALID_TRANSMISSION_WORD = 5
    INVALID_CRC = 6
    DEVICE_SPECIFIC = 15


class DeliveryReason(OpenCode):
    """Reasons of a delivery notification (FC-LS-5)."""

    UNKNOWN = 0
    TIMEOUT = 1
    UNABLE_TO_ROUTE = 2
    DEVICE_SPECIFIC = 15


class CongestionType(OpenCode):
    """Event types of congestion notifications (FC-LS-5)."""

    CLEAR = 0
    LOST_CREDIT = 1
    CREDIT_STALL = 2
    OVERSUBSCRIPTION = 3
    DEVICE_SPECIFIC = 15


class CongestionSeverity(OpenCode):
    """Severity of a congestion notification (FC-LS-5)."""

    WARNING = 0xF1
    ALARM = 0xF7


class SignalCapability(OpenCode):
    """Congestion signals a port sends or takes (FC-LS-5, EDC)."""

    NONE = 0
    WARNING = 1
    WARNING_AND_ALARM = 2


class FrequencyUnit(OpenCode):
    """Unit of a congestion signal frequency (FC-LS-5, EDC)."""

    SECONDS = 1
    MILLISECONDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkServiceRequestInformation:
    """Which request an answer belongs to (FC-LS-5)."""

    LAYOUT: ClassVar[Struct] = Struct("request" / Coded(Int8ub, ElsCommand), Padding(3))
    request: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFaultCapability:
    """Degrade thresholds of a link (FC-LS-5, EDC). ``fec_degrade_interval`` in ms."""

    LAYOUT: ClassVar[Struct] = Struct(
        "degrade_activate_threshold" / Int32ub,
        "degrade_deactivate_threshold" / Int32ub,
        "fec_degrade_interval" / Int32ub,
    )
    degrade_activate_threshold: int = 0
    degrade_deactivate_threshold: int = 0
    fec_degrade_interval: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CongestionSignalCapability:
    """Which congestion signals a port sends and takes, and how often (FC-LS-5, EDC)."""

    LAYOUT: ClassVar[Struct] = Struct(
        "transmit_capability" / Coded(Int32ub, SignalCapability),
        "transmit_frequency_count" / Int16ub,
        "transmit_frequency_unit" / Coded(Int16ub, FrequencyUnit),
        "receive_capability" / Coded(Int32ub, SignalCapability),
        "receive_frequency_count" / Int16ub,
        "receive_frequency_unit" / Coded(Int16ub, FrequencyUnit),
    )
    transmit_capability: int = 0
    transmit_frequency_count: int = 0
    transmit_frequency_unit: int = 0
    receive_capability: int = 0
    receive_frequency_count: int = 0
    receive_frequency_unit: int = 0


_PORT_NAMES = (
    "pname_count" / Rebuild(Int32ub, len_(this.pname_list)),
    "pname_list" / Array(this.pname_count, Int64ub),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkIntegrityNotification:
    """Errors on a link beyond the threshold (FC-LS-5, FPIN). ``event_threshold`` in ms."""

    LAYOUT: ClassVar[Struct] = Struct(
        "detecting_port_name" / Int64ub,
        "attached_port_name" / Int64ub,
        "event_type" / Coded(Int16ub, LinkIntegrityEvent),
        "event_modifier" / Int16ub,
        "event_threshold" / Int32ub,
        "event_count" / Int32ub,
        *_PORT_NAMES,
    )
    detecting_port_name: int
    attached_port_name: int
    event_type: int
    event_modifier: int = 0
    event_threshold: int = 0
    event_count: int = 0
    pname_list: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryNotification:
    """A frame was discarded (FC-LS-5, FPIN)."""

    LAYOUT: ClassVar[Struct] = Struct(
        "detecting_port_name" / Int64ub,
        "attached_port_name" / Int64ub,
        "reason" / Coded(Int32ub, DeliveryReason),
    )
    detecting_port_name: int
    attached_port_name: int
    reason: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCongestionNotification:
    """A port one talks to is congested (FC-LS-5, FPIN). ``event_period`` in ms."""

    LAYOUT: ClassVar[Struct] = Struct(
        "detecting_port_name" / Int64ub,
        "attached_port_name" / Int64ub,
        "event_type" / Coded(Int16ub, CongestionType),
        "event_modifier" / Int16ub,
        "event_period" / Int32ub,
        *_PORT_NAMES,
    )
    detecting_port_name: int
    attached_port_name: int
    event_type: int
    event_modifier: int = 0
    event_period: int = 0
    pname_list: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CongestionNotification:
    """The receiver of the notice is itself the cause (FC-LS-5, FPIN). ``event_period`` in ms."""

    LAYOUT: ClassVar[Struct] = Struct(
        "event_type" / Coded(Int16ub, CongestionType),
        "event_modifier" / Int16ub,
        "event_period" / Int32ub,
        "severity" / Coded(Int8ub, CongestionSeverity),
        Padding(3),
    )
    event_type: int
    event_modifier: int = 0
    event_period: int = 0
    severity: int = CongestionSeverity.WARNING


@dataclass(frozen=True, slots=True, kw_only=True)
class FpinRegistration:
    """Which FPIN descriptors are wanted (FC-LS-5, RDF)."""

    LAYOUT: ClassVar[Struct] = Struct(
        "tag_count" / Rebuild(Int32ub, len_(this.descriptor_tags)),
        "descriptor_tags" / Array(this.tag_count, Coded(Int32ub, NoticeTag)),
    )
    descriptor_tags: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class UnknownDescriptor:
    """A descriptor whose tag has no description here."""

    tag: int
    body: bytes


NoticeDescriptor = (
    LinkServiceRequestInformation
    | LinkFaultCapability
    | CongestionSignalCapability
    | LinkIntegrityNotification
    | DeliveryNotification
    | PeerCongestionNotification
    | CongestionNotification
    | FpinRegistration
    | UnknownDescriptor
)
NOTICE_DESCRIPTORS: Mapping[int, type[Any]] = {
    NoticeTag.LINK_SERVICE_REQUEST_INFORMATION: LinkServiceRequestInformation,
    NoticeTag.LINK_FAULT_CAPABILITY: LinkFaultCapability,
    NoticeTag.CONGESTION_SIGNAL_CAPABILITY: CongestionSignalCapability,
    NoticeTag.LINK_INTEGRITY: LinkIntegrityNotification,
    NoticeTag.DELIVERY: DeliveryNotification,
    NoticeTag.PEER_CONGESTION: PeerCongestionNotification,
    NoticeTag.CONGESTION: CongestionNotification,
    NoticeTag.FPIN_REGISTRATION: FpinRegistration,
}
"""The descriptors by their tag."""


def _notice(code: ElsCommand) -> Struct:
    return Struct(
        command(code, Int8ub),
        Padding(3),
        "descriptors"
        / Sized(Int32ub, Tlvs(Coded(Int32ub, NoticeTag), Int32ub, NOTICE_DESCRIPTORS, UnknownDescriptor)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fpin:
    """FPIN: the fabric tells of errors, discards and congestion (FC-LS-5). Nobody answers it."""

    LAYOUT: ClassVar[Struct] = _notice(ElsCommand.FPIN)
    descriptors: tuple[NoticeDescriptor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edc:
    """EDC: exchange diagnostic capabilities (FC-LS-5)."""

    LAYOUT: ClassVar[Struct] = _notice(ElsCommand.EDC)
    descriptors: tuple[NoticeDescriptor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EdcAccept:
    """LS_ACC of EDC; the first descriptor names the request (FC-LS-5)."""

    LAYOUT: ClassVar[Struct] = _notice(ElsCommand.LS_ACC)
    descriptors: tuple[NoticeDescriptor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rdf:
    """RDF: register diagnostic functions (FC-LS-5)."""

    LAYOUT: ClassVar[Struct] = _notice(ElsCommand.RDF)
    descriptors: tuple[NoticeDescriptor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RdfAccept:
    """LS_ACC of RDF; the first descriptor names the request (FC-LS-5)."""

    LAYOUT: ClassVar[Struct] = _notice(ElsCommand.LS_ACC)
    descriptors: tuple[NoticeDescriptor, ...]
