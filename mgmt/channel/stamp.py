"""The packets of the Simple Two-Way Active Measurement Protocol, STAMP (RFC 8762), in both modes.

One construct layout for each packet. The Session-Sender's packets carry when they were sent; the Session-Reflector
sends them back with when they came and when they left again, so that the sender knows the delay of each direction
up to the offset of the two clocks, and the round trip without it. The authenticated mode (clause 4.4) covers the first
96 octets with HMAC-SHA-256, cut to 128 bits; a packet whose code is wrong is nobody's.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import construct as cs

#: Octets of a packet without padding and extensions, in the unauthenticated mode and in the authenticated one.
PLAIN_BYTES = 44
AUTHENTICATED_BYTES = 112
_COVERED_BYTES = 96
_CODE_BYTES = 16
_NTP_EPOCH_S = 2_208_988_800
_NS = 1_000_000_000
_ERA = 1 << 32

# RFC 8762 clause 4.2.1 and RFC 4656 clause 4.1.2: S 1 bit, Z 1 bit (0: NTP format), Scale 6 bits, Multiplier 8 bits.
_ERROR_ESTIMATE = cs.BitStruct(
    "synchronized" / cs.Flag,
    "ptp" / cs.Flag,
    "scale" / cs.BitsInteger(6),
    "multiplier" / cs.BitsInteger(8),
)
_TIMESTAMP = cs.Struct("seconds" / cs.Int32ub, "fraction" / cs.Int32ub)

#: Clause 4.2.1, figure 3; the SSID stands where RFC 8972 clause 3 put it.
SENDER = cs.Struct(
    "sequence" / cs.Int32ub,
    "sent" / _TIMESTAMP,
    "error_estimate" / _ERROR_ESTIMATE,
    "ssid" / cs.Int16ub,
    cs.Padding(28),
)
#: Clause 4.2.2, figure 4.
SENDER_AUTHENTICATED = cs.Struct(
    "sequence" / cs.Int32ub,
    cs.Padding(12),
    "sent" / _TIMESTAMP,
    "error_estimate" / _ERROR_ESTIMATE,
    "ssid" / cs.Int16ub,
    cs.Padding(68),
)
#: Clause 4.3.1, figure 5.
REFLECTOR = cs.Struct(
    "sequence" / cs.Int32ub,
    "sent" / _TIMESTAMP,
    "error_estimate" / _ERROR_ESTIMATE,
    "ssid" / cs.Int16ub,
    "received" / _TIMESTAMP,
    "sender_sequence" / cs.Int32ub,
    "sender_sent" / _TIMESTAMP,
    "sender_error_estimate" / _ERROR_ESTIMATE,
    cs.Padding(2),
    "sender_ttl" / cs.Int8ub,
    cs.Padding(3),
)
#: Clause 4.3.2, figure 6.
REFLECTOR_AUTHENTICATED = cs.Struct(
    "sequence" / cs.Int32ub,
    cs.Padding(12),
    "sent" / _TIMESTAMP,
    "error_estimate" / _ERROR_ESTIMATE,
    "ssid" / cs.Int16ub,
    cs.Padding(4),
    "received" / _TIMESTAMP,
    cs.Padding(8),
    "sender_sequence" / cs.Int32ub,
    cs.Padding(12),
    "sender_sent" / _TIMESTAMP,
    "sender_error_estimate" / _ERROR_ESTIMATE,
    cs.Padding(6),
    "sender_ttl" / cs.Int8ub,
    cs.Padding(15),
)

#: A clock that nobody vouches for: not synchronized, NTP format, an error of up to a second (RFC 4656 clause 4.1.2).
_UNKNOWN_ERROR = {"synchronized": False, "ptp": False, "scale": 32, "multiplier": 1}


@dataclass(frozen=True, slots=True)
class SenderPacket:
    """What a Session-Sender sends: its number, counted from 0, when it left (UTC, ns), and the session's ID."""

    sequence: int
    sent_utc_ns: int
    ssid: int = 0


@dataclass(frozen=True, slots=True)
class ReflectorPacket:
    """What a Session-Reflector sends back.

    ``sequence`` counts what it reflected in this session; ``received_utc_ns`` and ``sent_utc_ns`` are its own clock's.
    What begins with ``sender_`` is the packet that it answers; ``sender_ttl`` is the TTL with which that came.
    """

    sequence: int
    sent_utc_ns: int
    received_utc_ns: int
    sender_sequence: int
    sender_sent_utc_ns: int
    sender_ttl: int
    ssid: int = 0


def encode_sender(packet: SenderPacket, key: bytes | None = None) -> bytes:
    """The packet of a Session-Sender; in the authenticated mode with a ``key``."""
    layout = SENDER if key is None else SENDER_AUTHENTICATED
    return _sealed(
        layout.build(
            {
                "sequence": packet.sequence,
                "sent": _to_ntp(packet.sent_utc_ns),
                "error_estimate": _UNKNOWN_ERROR,
                "ssid": packet.ssid,
            }
        ),
        key,
    )


def decode_sender(data: bytes, near_utc_ns: int, key: bytes | None = None) -> SenderPacket | None:
    """A Session-Sender's packet; None for anything else. ``near_utc_ns``: about now, to tell the era of NTP's time."""
    fields = _opened(data, SENDER if key is None else SENDER_AUTHENTICATED, key)
    if fields is None:
        return None
    return SenderPacket(fields.sequence, _from_ntp(fields.sent, near_utc_ns), fields.ssid)


def encode_reflector(packet: ReflectorPacket, key: bytes | None = None, *, length: int = 0) -> bytes:
    """The packet of a Session-Reflector, padded with zeros to ``length``: as long as what it answers (clause 4.3)."""
    layout = REFLECTOR if key is None else REFLECTOR_AUTHENTICATED
    return _sealed(
        layout.build(
            {
                "sequence": packet.sequence,
                "sent": _to_ntp(packet.sent_utc_ns),
                "error_estimate": _UNKNOWN_ERROR,
                "ssid": packet.ssid,
                "received": _to_ntp(packet.received_utc_ns),
                "sender_sequence": packet.sender_sequence,
                "sender_sent": _to_ntp(packet.sender_sent_utc_ns),
                "sender_error_estimate": _UNKNOWN_ERROR,
                "sender_ttl": packet.sender_ttl,
            }
        ),
        key,
    ).ljust(length, b"\0")


def decode_reflector(data: bytes, near_utc_ns: int, key: bytes | None = None) -> ReflectorPacket | None:
    """A Session-Reflector's packet; None for anything else."""
    fields = _opened(data, REFLECTOR if key is None else REFLECTOR_AUTHENTICATED, key)
    if fields is None:
        return None
    return ReflectorPacket(
        sequence=fields.sequence,
        sent_utc_ns=_from_ntp(fields.sent, near_utc_ns),
        received_utc_ns=_from_ntp(fields.received, near_utc_ns),
        sender_sequence=fields.sender_sequence,
        sender_sent_utc_ns=_from_ntp(fields.sender_sent, near_utc_ns),
        sender_ttl=fields.sender_ttl,
        ssid=fields.ssid,
    )


def code(data: bytes, key: bytes) -> bytes:
    """HMAC-SHA-256 cut to 128 bits (clause 4.4; RFC 4868)."""
    return hmac.digest(key, data, sha256)[:_CODE_BYTES]


def _sealed(data: bytes, key: bytes | None) -> bytes:
    return data if key is None else data + code(data, key)


def _opened(data: bytes, layout: Any, key: bytes | None) -> Any:
    if key is None:
        return layout.parse(data) if len(data) >= PLAIN_BYTES else None
    if len(data) < AUTHENTICATED_BYTES:
        return None
    covered = data[:_COVERED_BYTES]
    if not hmac.compare_digest(code(covered, key), data[_COVERED_BYTES:AUTHENTICATED_BYTES]):
        return None
    return layout.parse(covered)


def _to_ntp(utc_ns: int) -> dict[str, int]:
    """NTP's 64-bit format (RFC 5905 clause 6); the nearest fraction, so that going there and back changes nothing."""
    seconds, rest_ns = divmod(utc_ns, _NS)
    fraction = ((rest_ns << 32) + _NS // 2) // _NS
    return {"seconds": (seconds + _NTP_EPOCH_S) % _ERA, "fraction": min(fraction, _ERA - 1)}


def _from_ntp(stamp: Any, near_utc_ns: int) -> int:
    near_s = near_utc_ns // _NS + _NTP_EPOCH_S
    seconds: int = near_s + (stamp.seconds - near_s + _ERA // 2) % _ERA - _ERA // 2
    fraction: int = stamp.fraction
    return (seconds - _NTP_EPOCH_S) * _NS + ((fraction * _NS + (1 << 31)) >> 32)
