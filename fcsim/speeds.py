"""Fibre Channel speeds, codings and frame overhead as exact integers, and how many credits a distance needs.

Rates follow from the line: symbols per second, bits per symbol, and the coding's ratio; nothing is rounded
(FC-PI, FC-FS). Vendor rules use nominal speeds and tables of their own and are reproduced as published,
including where they are too small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from credits.sizing import ceil_div, recommend

SOF_BYTES = 4
HEADER_BYTES = 24
CRC_BYTES = 4
EOF_BYTES = 4
#: Everything around the data field of a frame.
FRAME_OVERHEAD_BYTES = SOF_BYTES + HEADER_BYTES + CRC_BYTES + EOF_BYTES
#: At least six primitive signals stand between two frames at the transmitter.
IDLE_BYTES = 6 * 4
MAX_PAYLOAD_BYTES = 2112
MAX_FRAME_BYTES = MAX_PAYLOAD_BYTES + FRAME_OVERHEAD_BYTES
#: Light in fibre: 5 µs per km, one way.
PROPAGATION_PS_PER_METRE = 5_000
MAX_DISTANCE_M = 20_000_000
PS_PER_SECOND = 10**12


class Coding(Enum):
    """Line codings: decoded bits and coded bits of one block, forward error correction included."""

    C8B10B = (8, 10)
    C64B66B = (64, 66)
    C256B257B_RS528 = (256 * 514, 257 * 528)
    C256B257B_RS544 = (256 * 514, 257 * 544)


@dataclass(frozen=True, slots=True)
class Speed:
    """One Fibre Channel speed.

    ``nominal_gbit`` is the number in its name; ``symbols_per_second`` and ``bits_per_symbol`` (2 for PAM4) are
    the line; ``nominal_mbyte_per_second`` is what brochures say, one way. ``fos_data_rate_bps`` is the rate in
    Brocade's formula by average frame size, ``None`` where it has none.
    """

    name: str
    nominal_gbit: int
    symbols_per_second: int
    bits_per_symbol: int
    coding: Coding
    nominal_mbyte_per_second: int
    fos_data_rate_bps: int | None

    @property
    def bytes_per_second(self) -> int:
        """Decoded bytes per second, one way; exact for every speed of the table."""
        decoded, coded = self.coding.value
        return self.symbols_per_second * self.bits_per_symbol * decoded // (coded * 8)

    def frame_ps(self, payload_bytes: int, *, idle_bytes: int = IDLE_BYTES) -> int:
        """Picoseconds to send a frame of this payload and the idles after it, rounded up."""
        size = payload_bytes + FRAME_OVERHEAD_BYTES + idle_bytes
        return ceil_div(size * PS_PER_SECOND, self.bytes_per_second)


_TABLE = (
    Speed("1G", 1, 1_062_500_000, 1, Coding.C8B10B, 100, 1_062_500_000),
    Speed("2G", 2, 2_125_000_000, 1, Coding.C8B10B, 200, 2_125_000_000),
    Speed("4G", 4, 4_250_000_000, 1, Coding.C8B10B, 400, 4_250_000_000),
    Speed("8G", 8, 8_500_000_000, 1, Coding.C8B10B, 800, 8_500_000_000),
    Speed("10G", 10, 10_518_750_000, 1, Coding.C64B66B, 1200, 10_625_000_000),
    Speed("16G", 16, 14_025_000_000, 1, Coding.C64B66B, 1600, 17_000_000_000),
    Speed("32G", 32, 28_050_000_000, 1, Coding.C256B257B_RS528, 3200, 28_050_000_000),
    Speed("64G", 64, 28_900_000_000, 2, Coding.C256B257B_RS544, 6400, None),
    Speed("128G", 128, 56_100_000_000, 2, Coding.C256B257B_RS544, 12425, None),
)

#: Every speed by name, slowest first.
SPEEDS: Mapping[str, Speed] = {speed.name: speed for speed in _TABLE}

#: QLogic's and McDATA's credits per km, in tenths.
_QLOGIC_TENTHS_PER_KM: Mapping[str, int] = {"1G": 6, "2G": 12, "4G": 24, "8G": 48}


def parse_speed(text: str) -> Speed:
    """The speed called ``text`` (``8G``, ``8GFC``). Raises :class:`ValueError` with one clear line."""
    speed = SPEEDS.get(text.strip().upper().removesuffix("FC"))
    if speed is None:
        raise ValueError(f"{text[:40]!r} is not a Fibre Channel speed; there are {', '.join(SPEEDS)}")
    return speed


@dataclass(frozen=True, slots=True)
class CreditNeed:
    """Credits that keep a link of some length busy.

    ``credits`` is the published formula: frames that fit into the round trip. ``credits_gapless`` counts the
    frame being sent as well: with one credit fewer the sender pauses once per round trip. ``rules`` has what
    vendors' rules say, by name.
    """

    speed: Speed
    distance_m: int
    payload_bytes: int
    frame_bytes: int
    credits: int
    credits_gapless: int
    rules: Mapping[str, int]


def credits_needed(speed: Speed, distance_m: int, payload_bytes: int = MAX_PAYLOAD_BYTES) -> CreditNeed:
    """``ceil(RTT × decoded byte rate / (payload + 36 + 24))``, and the rules beside it.

    Raises :class:`ValueError` where the distance or the payload (0 to 2112 bytes) is out of range.
    """
    _check(distance_m, payload_bytes)
    size = recommend(
        "fc-exact",
        unit_bytes=MAX_FRAME_BYTES,
        distance_m=distance_m,
        bytes_per_second=speed.bytes_per_second,
        payload_bytes=payload_bytes,
        overhead_bytes=FRAME_OVERHEAD_BYTES + IDLE_BYTES,
    )
    return CreditNeed(
        speed=speed,
        distance_m=distance_m,
        payload_bytes=payload_bytes,
        frame_bytes=payload_bytes + FRAME_OVERHEAD_BYTES,
        credits=size.units,
        credits_gapless=size.units + 1,
        rules=_vendor_rules(speed, distance_m, payload_bytes),
    )


def throughput_bytes_per_second(
    speed: Speed, bb_credit: int, distance_m: int, payload_bytes: int = MAX_PAYLOAD_BYTES
) -> int:
    """Payload bytes per second that ``bb_credit`` credits allow, rounded down; the link's own limit at most.

    A credit comes back one round trip after its frame has been sent. Raises :class:`ValueError` as
    :func:`credits_needed`.
    """
    _check(distance_m, payload_bytes)
    if bb_credit < 0:
        raise ValueError(f"a credit count is 0 or more, not {bb_credit}")
    size = payload_bytes + FRAME_OVERHEAD_BYTES + IDLE_BYTES
    limit = speed.bytes_per_second * payload_bytes // size
    # credits × payload / (RTT + frame time), with both times multiplied by the byte rate to stay in integers.
    rtt_bytes_times_ps = 2 * PROPAGATION_PS_PER_METRE * distance_m * speed.bytes_per_second
    by_credits = (
        bb_credit
        * payload_bytes
        * speed.bytes_per_second
        * PS_PER_SECOND
        // (rtt_bytes_times_ps + size * PS_PER_SECOND)
    )
    return min(limit, by_credits)


def _vendor_rules(speed: Speed, distance_m: int, payload_bytes: int) -> dict[str, int]:
    fos = recommend(
        "fos", unit_bytes=MAX_FRAME_BYTES, distance_m=distance_m, speed_gbit=speed.nominal_gbit
    ).units
    rules = {"fos": fos, "fos_le": ceil_div(distance_m * speed.nominal_gbit, 2000)}
    if speed.fos_data_rate_bps is not None and payload_bytes:
        rules["fos_average_frame"] = recommend(
            "fos-average-frame",
            unit_bytes=MAX_FRAME_BYTES,
            distance_m=distance_m,
            data_rate_bps=speed.fos_data_rate_bps,
            payload_bytes=payload_bytes,
        ).units
    tenths = _QLOGIC_TENTHS_PER_KM.get(speed.name)
    if tenths is not None:
        rules["qlogic"] = ceil_div(distance_m * tenths, 10_000)
    return rules


def _check(distance_m: int, payload_bytes: int) -> None:
    if not 0 <= distance_m <= MAX_DISTANCE_M:
        raise ValueError(f"a distance is from 0 to {MAX_DISTANCE_M} m, not {distance_m}")
    if not 0 <= payload_bytes <= MAX_PAYLOAD_BYTES:
        raise ValueError(f"a payload is from 0 to {MAX_PAYLOAD_BYTES} bytes, not {payload_bytes}")
