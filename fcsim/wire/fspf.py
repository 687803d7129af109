# SPDX-License-Identifier: Apache-2.0
"""Fabric shortest path first: hello, link state update and acknowledgement (FC-SW, FSPF)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, ClassVar

from construct import Array, Bytes, Int8ub, Int16ub, Int24ub, Int32ub, Padding, Rebuild, Struct, len_, this

from fcsim.wire.derive import derive
from fcsim.wire.layout import Coded, Record, command
from fcsim.wire.sw_ils import SwCommand

__all__ = [
    "UNKNOWN_DOMAIN",
    "Hlo",
    "LinkDescriptor",
    "LinkStateHeader",
    "LinkStateRecord",
    "Lsa",
    "Lsu",
    "LsuFlags",
    "link_state_checksum",
]

UNKNOWN_DOMAIN = 0xFFFFFFFF
"""The recipient of a hello before the neighbour's domain ID is known."""


class LsuFlags(enum.IntFlag, boundary=enum.KEEP):
    """Flags of LSU and LSA (FC-SW, FSPF): database exchange at start, and its end."""

    DATABASE_EXCHANGE = 0x01
    DATABASE_COMPLETE = 0x02


def _fspf(code: SwCommand) -> tuple[object, ...]:
    """The header that all FSPF payloads share, 20 bytes."""
    return (
        command(code, Int8ub),
        Padding(3),
        "version" / Int8ub,
        "ar_number" / Int8ub,
        "authentication_type" / Int8ub,
        Padding(1),
        "originating_domain_id" / Int32ub,
        "authentication" / Bytes(8),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Hlo:
    """HLO: hello between neighbours (FC-SW, HLO). Intervals in seconds."""

    LAYOUT: ClassVar[Struct] = Struct(
        *_fspf(SwCommand.HLO),
        "options" / Int32ub,
        "hello_interval" / Int32ub,
        "dead_interval" / Int32ub,
        "recipient_domain_id" / Int32ub,
        Padding(1),
        "originating_port_index" / Int24ub,
    )
    version: int = 2
    ar_number: int = 0
    authentication_type: int = 0
    originating_domain_id: int
    authentication: bytes = bytes(8)
    options: int = 0
    hello_interval: int = 20
    dead_interval: int = 80
    recipient_domain_id: int = UNKNOWN_DOMAIN
    originating_port_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkDescriptor:
    """One link of a switch, 16 bytes (FC-SW, link descriptor). ``link_id`` is the neighbour's domain."""

    LAYOUT: ClassVar[Struct] = Struct(
        "link_id" / Int32ub,
        Padding(1),
        "output_port_index" / Int24ub,
        Padding(1),
        "neighbor_port_index" / Int24ub,
        "link_type" / Int8ub,
        Padding(1),
        "link_cost" / Int16ub,
    )
    link_id: int
    output_port_index: int
    neighbor_port_index: int
    link_type: int = 1
    link_cost: int


_RECORD_HEADER = (
    "lsr_type" / Int8ub,
    Padding(1),
    "lsr_age" / Int16ub,
    "options" / Int32ub,
    "link_state_id" / Int32ub,
    "advertising_domain_id" / Int32ub,
    "incarnation" / Int32ub,
    "checksum" / Int16ub,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStateHeader:
    """Header of a link state record, 24 bytes (FC-SW, LSR header)."""

    LAYOUT: ClassVar[Struct] = Struct(*_RECORD_HEADER, "lsr_length" / Int16ub)
    lsr_type: int = 1
    lsr_age: int = 0
    options: int = 0
    link_state_id: int
    advertising_domain_id: int
    incarnation: int
    checksum: int
    lsr_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStateRecord:
    """A link state record with its links (FC-SW, LSR)."""

    LAYOUT: ClassVar[Struct] = Struct(
        *_RECORD_HEADER,
        "lsr_length" / Rebuild(Int16ub, 28 + len_(this.links) * 16),
        Padding(2),
        "link_count" / Rebuild(Int16ub, len_(this.links)),
        "links" / Array(this.link_count, Record(LinkDescriptor)),
    )
    lsr_type: int = 1
    lsr_age: int = 0
    options: int = 0
    link_state_id: int
    advertising_domain_id: int
    incarnation: int
    checksum: int = 0
    links: tuple[LinkDescriptor, ...] = ()


def _records(code: SwCommand, record: type[Any]) -> Struct:
    return Struct(
        *_fspf(code),
        Padding(3),
        "flags" / Coded(Int8ub, LsuFlags),
        "record_count" / Rebuild(Int32ub, len_(this.records)),
        "records" / Array(this.record_count, Record(record)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lsu:
    """LSU: link state update (FC-SW, LSU)."""

    LAYOUT: ClassVar[Struct] = _records(SwCommand.LSU, LinkStateRecord)
    version: int = 2
    ar_number: int = 0
    authentication_type: int = 0
    originating_domain_id: int
    authentication: bytes = bytes(8)
    flags: int = 0
    records: tuple[LinkStateRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lsa:
    """LSA: link state acknowledgement (FC-SW, LSA)."""

    LAYOUT: ClassVar[Struct] = _records(SwCommand.LSA, LinkStateHeader)
    version: int = 2
    ar_number: int = 0
    authentication_type: int = 0
    originating_domain_id: int
    authentication: bytes = bytes(8)
    flags: int = 0
    records: tuple[LinkStateHeader, ...] = ()


def link_state_checksum(record: LinkStateRecord) -> int:
    """The checksum of a link state record (FC-SW, LSR checksum): Fletcher's, over all but the age.

    The bytes of every word are taken from the last to the first, as switches do (found from captured records): then
    both sums over the record are zero modulo 255.
    """
    octets = bytearray(derive(LinkStateRecord).encode(record))
    octets[2:4] = octets[20:22] = bytes(2)
    size = len(octets)
    first = second = 0
    for word in range(0, size, 4):
        for octet in octets[word : word + 4][::-1]:
            first = (first + octet) % 255
            second = (second + first) % 255
    high = (second - (size - 22) * first) % 255
    low = (-first - high) % 255
    return high << 8 | low
