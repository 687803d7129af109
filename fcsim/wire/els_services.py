# SPDX-License-Identifier: Apache-2.0
"""Extended link services other than logins and congestion notices (FC-LS)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from construct import (
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
    Struct,
)

from fcsim.wire.codes import UNASSIGNED_X_ID, OpenCode, RCtl
from fcsim.wire.els_commands import ElsCommand, RejectExplanation, RejectReason
from fcsim.wire.layout import Coded, Many, Record, Sized, command

__all__ = [
    "Adisc",
    "AdiscAccept",
    "AffectedPortPage",
    "Echo",
    "EchoAccept",
    "ExchangeStatus",
    "Fan",
    "LinkKeepAlive",
    "LsAcc",
    "LsRjt",
    "Rec",
    "RecAccept",
    "RegistrationFunction",
    "Rls",
    "RlsAccept",
    "Rrq",
    "Rscn",
    "RscnAddressFormat",
    "Rtv",
    "RtvAccept",
    "Scr",
    "Srr",
    "TestEls",
    "TimeoutQualifier",
    "UnknownEls",
]


def _bare(code: ElsCommand) -> tuple[object, ...]:
    """The command byte and the three zero bytes after it."""
    return command(code, Int8ub), Padding(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class LsAcc:
    """LS_ACC whose request is not known, or that says nothing more (FC-LS, LS_ACC)."""

    LAYOUT: ClassVar[Struct] = Struct(
        command(ElsCommand.LS_ACC, Int8ub), "parameters" / Bytes(3), "body" / GreedyBytes
    )
    parameters: bytes = bytes(3)
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class LsRjt:
    """LS_RJT: the request is refused, and why (FC-LS, LS_RJT)."""

    LAYOUT: ClassVar[Struct] = Struct(
        *_bare(ElsCommand.LS_RJT),
        Padding(1),
        "reason" / Coded(Int8ub, RejectReason),
        "explanation" / Coded(Int8ub, RejectExplanation),
        "vendor_specific" / Int8ub,
    )
    reason: int
    explanation: int = 0
    vendor_specific: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEls:
    """An extended link service that has no description here (FC-LS)."""

    LAYOUT: ClassVar[Struct] = Struct("code" / Coded(Int8ub, ElsCommand), "body" / GreedyBytes)
    code: int
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rtv:
    """RTV: read timeout values (FC-LS, RTV)."""

    LAYOUT: ClassVar[Struct] = Struct(*_bare(ElsCommand.RTV))


class TimeoutQualifier(enum.IntFlag, boundary=enum.KEEP):
    """Timeout qualifier of the answer to RTV (FC-LS, RTV)."""

    E_D_TOV_NANOSECONDS = 1 << 26
    R_T_TOV_100_US = 1 << 19


@dataclass(frozen=True, slots=True, kw_only=True)
class RtvAccept:
    """LS_ACC of RTV: the timeout values, in milliseconds unless the qualifier says otherwise (FC-LS, RTV)."""

    LAYOUT: ClassVar[Struct] = Struct(
        *_bare(ElsCommand.LS_ACC),
        "r_a_tov" / Int32ub,
        "e_d_tov" / Int32ub,
        "qualifier" / Coded(Int32ub, TimeoutQualifier),
    )
    r_a_tov: int
    e_d_tov: int
    qualifier: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rls:
    """RLS: read the link error status block of a port (FC-LS, RLS)."""

    LAYOUT: ClassVar[Struct] = Struct(*_bare(ElsCommand.RLS), Padding(1), "port_id" / Int24ub)
    port_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RlsAccept:
    """LS_ACC of RLS: the link error status block (FC-LS, RLS)."""

    LAYOUT: ClassVar[Struct] = Struct(
        *_bare(ElsCommand.LS_ACC),
        "link_failures" / Int32ub,
        "sync_losses" / Int32ub,
        "signal_losses" / Int32ub,
        "primitive_sequence_errors" / Int32ub,
        "invalid_words" / Int32ub,
        "invalid_crcs" / Int32ub,
    )
    link_failures: int = 0
    sync_losses: int = 0
    signal_losses: int = 0
    primitive_sequence_errors: int = 0
    invalid_words: int = 0
    invalid_crcs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """ECHO: the peer sends ``data`` back (FC-LS, ECHO)."""

    LAYOUT: ClassVar[Struct] = Struct(*_bare(ElsCommand.ECHO), "data" / GreedyBytes)
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoAccept:
    """LS_ACC of ECHO (FC-LS, ECHO)."""

    LAYOUT: ClassVar[Struct] = Struct(*_bare(ElsCommand.LS_ACC), "data" / GreedyBytes)
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestEls:
    """TEST: bytes that nobody answers (FC-LS, TEST)."""

    LAYOUT: ClassVar[Struct] = Struct(*_bare(ElsCommand.TEST), "data" / GreedyBytes)
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rrq:
    """RRQ: the recovery qualifier of an aborted exchange may be used again (FC-LS, RRQ)."""

    LAYOUT: ClassVar[Struct] = Struct(
        *_bare(ElsCommand.RRQ),
        Padding(1),
        "originator_s_id" / Int24ub,
        "exchange_ox_id" / Int16ub,
        "exchange_rx_id" / Int16ub,
    )
    originator_s_id: int
    exchange_ox_id: int
    exchange_rx_id: int = UNASSIGNED_X_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class Rec:
    """REC: read exchange concise (FC-LS, REC)."""

    LAYOUT: ClassVar[Struct] = Struct(
        *_bare(ElsCommand.REC),
        Padding(1),
        "originator_s_id" / Int24ub,
        "exchange_ox_id" / Int16ub,
        "exchange_rx_id" / Int16ub,
    )
    originator_s_id: int
    exchange_ox_id: int
    exchange_rx_id: int = UNASSIGNED_X_ID


class ExchangeStatus(enum.IntFlag, boundary=enum.KEEP):
    """E_STAT of an exchange (FC-FS, exchange status block)."""

    RESPONDER = 1 << 31
    SEQUENCE_INITIATIVE_HELD = 1 << 30
    COMPLETE = 1 << 29
    ENDED_ABNORMALLY = 1 << 28
    RECOVERY_QUALIFIER_ACTIVE = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class RecAccept:
    """LS_ACC of REC (FC-LS, REC): how far the exchange has come. ``fc4_value`` is the bytes moved for FCP."""

    LAYOUT: ClassVar[Struct] = Struct(
        *_bare(ElsCommand.LS_ACC),
        "exchange_ox_id" / Int16ub,
        "exchange_rx_id" / Int16ub,
        Padding(1),
        "originator_id" / Int24ub,
        Padding(1),
        "responder_id" / Int24ub,
        "fc4_value" / Int32ub,
        "e_stat" / Coded(Int32ub, ExchangeStatus),
    )
    exchange_ox_id: int
    exchange_rx_id: int
    originator_id: int
    responder_id: int
    fc4_value: int = 0
    e_stat: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Srr:
    """SRR: ask for a sequence again (FCP-4, SRR); sent with R_CTL 32h, not 22h."""

    LAYOUT: ClassVar[Struct] = Struct(
        *_bare(ElsCommand.SRR),
        "exchange_ox_id" / Int16ub,
        "exchange_rx_id" / Int16ub,
        "relative_offset" / Int32ub,
        "information_unit_r_ctl" / Coded(Int8ub, RCtl),
        Padding(3),
    )
    exchange_ox_id: int
    exchange_rx_id: int
    relative_offset: int
    information_unit_r_ctl: int


def _adisc(code: ElsCommand) -> Struct:
    return Struct(
        *_bare(code),
        Padding(1),
        "hard_address" / Int24ub,
        "port_name" / Int64ub,
        "node_name" / Int64ub,
        Padding(1),
        "n_port_id" / Int24ub,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Adisc:
    """ADISC: discover address (FC-LS, ADISC)."""

    LAYOUT: ClassVar[Struct] = _adisc(ElsCommand.ADISC)
    hard_address: int = 0
    port_name: int
    node_name: int
    n_port_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdiscAccept:
    """LS_ACC of ADISC (FC-LS, ADISC)."""

    LAYOUT: ClassVar[Struct] = _adisc(ElsCommand.LS_ACC)
    hard_address: int = 0
    port_name: int
    node_name: int
    n_port_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fan:
    """FAN: fabric address notification (FC-LS, FAN)."""

    LAYOUT: ClassVar[Struct] = Struct(
        *_bare(ElsCommand.FAN),
        Padding(1),
        "loop_fabric_address" / Int24ub,
        "fabric_port_name" / Int64ub,
        "fabric_name" / Int64ub,
    )
    loop_fabric_address: int
    fabric_port_name: int
    fabric_name: int


class RscnAddressFormat(enum.IntEnum):
    """How much an affected-port page speaks of (FC-LS, RSCN)."""

    PORT = 0
    AREA = 1
    DOMAIN = 2
    FABRIC = 3


class RscnEvent(OpenCode):
    """Event qualifier of an affected-port page (FC-LS, RSCN)."""

    UNSPECIFIED = 0
    CHANGED_NAME_SERVER_OBJECT = 1
    CHANGED_PORT_ATTRIBUTE = 2
    CHANGED_SERVICE_OBJECT = 3
    CHANGED_SWITCH_CONFIGURATION = 4
    REMOVED_OBJECT = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class AffectedPortPage:
    """One page of an RSCN, 4 bytes (FC-LS, RSCN)."""

    LAYOUT: ClassVar[Struct] = Struct(
        "flags"
        / BitStruct(
            Padding(2),
            "event_qualifier" / Coded(BitsInteger(4), RscnEvent),
            "address_format" / Coded(BitsInteger(2), RscnAddressFormat),
        ),
        "address" / Int24ub,
    )
    event_qualifier: int = 0
    address_format: int = 0
    address: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rscn:
    """RSCN: registered state change notification (FC-LS, RSCN)."""

    LAYOUT: ClassVar[Struct] = Struct(
        command(ElsCommand.RSCN, Int8ub),
        "page_length" / Const(4, Int8ub),
        "pages" / Sized(Int16ub, Many(Record(AffectedPortPage)), plus=4),
    )
    pages: tuple[AffectedPortPage, ...]


class RegistrationFunction(OpenCode):
    """What an SCR registers for (FC-LS, SCR)."""

    FABRIC_DETECTED = 1
    N_PORT_DETECTED = 2
    FULL = 3
    CLEAR = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Scr:
    """SCR: register for state change notifications (FC-LS, SCR)."""

    LAYOUT: ClassVar[Struct] = Struct(
        *_bare(ElsCommand.SCR), Padding(3), "function" / Coded(Int8ub, RegistrationFunction)
    )
    function: int = RegistrationFunction.FULL


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkKeepAlive:
    """LKA: link keep alive, sent over FCIP links (FC-BB)."""

    LAYOUT: ClassVar[Struct] = Struct(*_bare(ElsCommand.LKA))
