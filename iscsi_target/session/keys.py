# SPDX-License-Identifier: Apache-2.0
"""The text keys of RFC 7143 section 13 (and RFC 7144) as one table.

Everything the negotiation knows of a key stands in its row: how two values become one, the default, the legal range,
who may send it, when, and whether it means anything in a discovery session.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Rule(enum.Enum):
    """How a result comes about (RFC 7143 section 6.2)."""

    LIST = "the first value of the offer that the acceptor supports"
    MINIMUM = "the lower number"
    MAXIMUM = "the higher number"
    OR = "Yes when one side says Yes"
    AND = "Yes when both sides say Yes"
    DECLARED_NUMBER = "each side states its own"
    DECLARED_TEXT = "stated by one side"
    OBSOLETE = "answered with a fixed refusal"


class When(enum.Flag):
    """Phases in which a key may be sent."""

    SECURITY = enum.auto()
    OPERATIONAL = enum.auto()
    FULL_FEATURE = enum.auto()
    LOGIN = SECURITY | OPERATIONAL
    ANY = SECURITY | OPERATIONAL | FULL_FEATURE


class Sender(enum.Flag):
    """Who may send a key."""

    INITIATOR = enum.auto()
    TARGET = enum.auto()
    BOTH = INITIATOR | TARGET


@dataclass(frozen=True, slots=True)
class Key:
    """One row. `clause` is the section of RFC 7143 unless it says otherwise."""

    name: str
    rule: Rule
    clause: str
    default: int | bool | str | None = None
    lowest: int = 0
    highest: int = 0
    choices: tuple[str, ...] = ()
    when: When = When.OPERATIONAL
    sender: Sender = Sender.BOTH
    leading_only: bool = False
    """Negotiated on the first connection of a session only."""
    discovery: bool = False
    """Has a meaning in a discovery session; other keys are answered Irrelevant there."""


_SEGMENT_MAX = 0xFFFFFF

_ROWS = (
    Key("HeaderDigest", Rule.LIST, "13.1", "None", choices=("None", "CRC32C"), discovery=True),
    Key("DataDigest", Rule.LIST, "13.1", "None", choices=("None", "CRC32C"), discovery=True),
    Key("MaxConnections", Rule.MINIMUM, "13.2", 1, 1, 65535, leading_only=True),
    Key(
        "SendTargets",
        Rule.DECLARED_TEXT,
        "13.3",
        when=When.FULL_FEATURE,
        sender=Sender.INITIATOR,
        discovery=True,
    ),
    Key("TargetName", Rule.DECLARED_TEXT, "13.4", when=When.ANY, discovery=True),
    Key(
        "InitiatorName", Rule.DECLARED_TEXT, "13.5", when=When.LOGIN, sender=Sender.INITIATOR, discovery=True
    ),
    Key("TargetAlias", Rule.DECLARED_TEXT, "13.6", when=When.ANY, sender=Sender.TARGET, discovery=True),
    Key("InitiatorAlias", Rule.DECLARED_TEXT, "13.7", when=When.ANY, sender=Sender.INITIATOR, discovery=True),
    Key("TargetAddress", Rule.DECLARED_TEXT, "13.8", when=When.ANY, sender=Sender.TARGET, discovery=True),
    Key(
        "TargetPortalGroupTag",
        Rule.DECLARED_TEXT,
        "13.9",
        when=When.LOGIN,
        sender=Sender.TARGET,
        discovery=True,
    ),
    Key("InitialR2T", Rule.OR, "13.10", True, leading_only=True),
    Key("ImmediateData", Rule.AND, "13.11", True, leading_only=True),
    Key(
        "MaxRecvDataSegmentLength",
        Rule.DECLARED_NUMBER,
        "13.12",
        8192,
        512,
        _SEGMENT_MAX,
        when=When.ANY,
        discovery=True,
    ),
    Key("MaxBurstLength", Rule.MINIMUM, "13.13", 262144, 512, _SEGMENT_MAX, leading_only=True),
    Key("FirstBurstLength", Rule.MINIMUM, "13.14", 65536, 512, _SEGMENT_MAX, leading_only=True),
    Key("DefaultTime2Wait", Rule.MAXIMUM, "13.15", 2, 0, 3600, leading_only=True, discovery=True),
    Key("DefaultTime2Retain", Rule.MINIMUM, "13.16", 20, 0, 3600, leading_only=True, discovery=True),
    Key("MaxOutstandingR2T", Rule.MINIMUM, "13.17", 1, 1, 65535, leading_only=True),
    Key("DataPDUInOrder", Rule.OR, "13.18", True, leading_only=True),
    Key("DataSequenceInOrder", Rule.OR, "13.19", True, leading_only=True),
    Key("ErrorRecoveryLevel", Rule.MINIMUM, "13.20", 0, 0, 2, leading_only=True, discovery=True),
    Key(
        "SessionType",
        Rule.DECLARED_TEXT,
        "13.21",
        "Normal",
        choices=("Discovery", "Normal"),
        when=When.LOGIN,
        sender=Sender.INITIATOR,
        discovery=True,
    ),
    Key(
        "TaskReporting",
        Rule.LIST,
        "13.23",
        "RFC3720",
        choices=("RFC3720", "ResponseFence", "FastAbort"),
        leading_only=True,
    ),
    Key("iSCSIProtocolLevel", Rule.MINIMUM, "13.24", 1, 0, 31, leading_only=True, discovery=True),
    Key(
        "AuthMethod", Rule.LIST, "12.1", "None", choices=("CHAP", "None"), when=When.SECURITY, discovery=True
    ),
    Key("CHAP_A", Rule.DECLARED_TEXT, "12.1.3", when=When.SECURITY, discovery=True),
    Key("CHAP_I", Rule.DECLARED_TEXT, "12.1.3", when=When.SECURITY, discovery=True),
    Key("CHAP_C", Rule.DECLARED_TEXT, "12.1.3", when=When.SECURITY, discovery=True),
    Key("CHAP_N", Rule.DECLARED_TEXT, "12.1.3", when=When.SECURITY, discovery=True),
    Key("CHAP_R", Rule.DECLARED_TEXT, "12.1.3", when=When.SECURITY, discovery=True),
    Key("OFMarker", Rule.OBSOLETE, "13.25", "No", discovery=True),
    Key("IFMarker", Rule.OBSOLETE, "13.25", "No", discovery=True),
    Key("OFMarkInt", Rule.OBSOLETE, "13.25", "Reject", discovery=True),
    Key("IFMarkInt", Rule.OBSOLETE, "13.25", "Reject", discovery=True),
)

KEYS: Mapping[str, Key] = {row.name: row for row in _ROWS}
"""The table, by key name."""
