# SPDX-License-Identifier: Apache-2.0
"""Zoning between switches: merge request and the change protocol (FC-SW, MR, ACA, SFC, UFC, RCA)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from construct import Array, Bytes, Int8ub, Int16ub, Int32ub, Padding, Rebuild, Struct, len_, this

from fcsim.wire.codes import OpenCode
from fcsim.wire.layout import Coded, Many, Record, Sized, command
from fcsim.wire.sw_ils import SwCommand

__all__ = [
    "Aca",
    "ActiveZoneSet",
    "FullZoneSet",
    "Mr",
    "MrAccept",
    "Rca",
    "Sfc",
    "Ufc",
    "ZoneMember",
    "ZoneMemberType",
    "ZoneName",
    "ZoneObject",
    "ZoneObjectType",
]


class ZoneObjectType(OpenCode):
    """What a zoning object is (FC-SW, zoning objects)."""

    ZONE_SET = 1
    ZONE = 2
    ZONE_ALIAS = 3


class ZoneMemberType(OpenCode):
    """How a zone member is named (FC-SW, zone members)."""

    PORT_NAME = 1
    DOMAIN_AND_PORT = 2
    ADDRESS = 3
    NODE_NAME = 4
    ALIAS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneName:
    """A name of zoning, padded to four bytes (FC-SW, name entry)."""

    LAYOUT: ClassVar[Struct] = Struct(
        "name_length" / Rebuild(Int8ub, len_(this.text)),
        Padding(3),
        "text" / Bytes(this.name_length),
        Padding(-this.name_length % 4),
    )
    text: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneMember:
    """A member of a zone (FC-SW, zone member)."""

    LAYOUT: ClassVar[Struct] = Struct(
        "member_type" / Coded(Int8ub, ZoneMemberType),
        Padding(1),
        "flags" / Int8ub,
        "identifier_length" / Rebuild(Int8ub, len_(this.identifier)),
        "identifier" / Bytes(this.identifier_length),
        Padding(-this.identifier_length % 4),
    )
    member_type: int
    flags: int = 0
    identifier: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneObject:
    """A zone, zone set or alias (FC-SW, zoning object)."""

    LAYOUT: ClassVar[Struct] = Struct(
        "object_type" / Coded(Int8ub, ZoneObjectType),
        "protocol" / Int8ub,
        Padding(2),
        "zone_name" / Record(ZoneName),
        "member_count" / Rebuild(Int32ub, len_(this.members)),
        "members" / Array(this.member_count, Record(ZoneMember)),
    )
    object_type: int = ZoneObjectType.ZONE
    protocol: int = 0
    zone_name: ZoneName
    members: tuple[ZoneMember, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveZoneSet:
    """The zone set in force (FC-SW, active zone set object)."""

    LAYOUT: ClassVar[Struct] = Struct(
        "zone_name" / Record(ZoneName),
        "object_count" / Rebuild(Int32ub, len_(this.objects)),
        "objects" / Array(this.object_count, Record(ZoneObject)),
    )
    zone_name: ZoneName
    objects: tuple[ZoneObject, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FullZoneSet:
    """All zoning objects of a switch (FC-SW, full zone set object)."""

    LAYOUT: ClassVar[Struct] = Struct(
        "object_count" / Rebuild(Int32ub, len_(this.objects)),
        "objects" / Array(this.object_count, Record(ZoneObject)),
    )
    objects: tuple[ZoneObject, ...] = ()


_ACTIVE = Many(Record(ActiveZoneSet))
"""None or one: an active zone set of length zero is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mr:
    """MR: merge request between two switches' zoning (FC-SW, MR)."""

    LAYOUT: ClassVar[Struct] = Struct(
        command(SwCommand.MR, Int8ub),
        Padding(1),
        "active" / Sized(Int16ub, _ACTIVE),
        "full" / Sized(Int32ub, Many(Record(FullZoneSet))),
    )
    active: tuple[ActiveZoneSet, ...] = ()
    full: tuple[FullZoneSet, ...] = (FullZoneSet(),)


@dataclass(frozen=True, slots=True, kw_only=True)
class MrAccept:
    """SW_ACC of MR and of the change protocol (FC-SW, MR)."""

    LAYOUT: ClassVar[Struct] = Struct(
        command(SwCommand.SW_ACC, Int8ub),
        Padding(3),
        Padding(1),
        "status" / Int8ub,
        "reason" / Int8ub,
        "vendor_specific" / Int8ub,
    )
    status: int = 0
    reason: int = 0
    vendor_specific: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Aca:
    """ACA: acquire change authorization from the switches of the fabric (FC-SW, ACA)."""

    LAYOUT: ClassVar[Struct] = Struct(
        command(SwCommand.ACA, Int8ub), Padding(1), "domain_ids" / Sized(Int16ub, Many(Int32ub))
    )
    domain_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rca:
    """RCA: release change authorization (FC-SW, RCA)."""

    LAYOUT: ClassVar[Struct] = Struct(command(SwCommand.RCA, Int8ub), Padding(3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sfc:
    """SFC: stage fabric configuration (FC-SW, SFC). ``operation`` 3 activates, 4 deactivates, 5 deletes, ..."""

    LAYOUT: ClassVar[Struct] = Struct(
        command(SwCommand.SFC, Int8ub),
        "operation" / Int8ub,
        "zone_set" / Sized(Int16ub, _ACTIVE),
        "full" / Sized(Int32ub, Many(Record(FullZoneSet))),
    )
    operation: int
    zone_set: tuple[ActiveZoneSet, ...] = ()
    full: tuple[FullZoneSet, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ufc:
    """UFC: update fabric configuration, the commit of the change (FC-SW, UFC)."""

    LAYOUT: ClassVar[Struct] = Struct(command(SwCommand.UFC, Int8ub), Padding(3))
